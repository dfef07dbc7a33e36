//! The bootstrap server's own client at the broker: it receives accounts of single endpoint names, and publishes how their
//! sessions end.
//!
//! 1. The client connects, and subscribes to `lwm2m-bootstrap/+/account`. The link reconnects it.
//! 2. A message is the account of its endpoint name, before the accounts of patterns. An empty one removes it.
//! 3. The end of each session is published to `lwm2m-bootstrap/{endpoint}/status`. It has no secret.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rand::RngExt;
use serde_json::json;

use crate::bootstrap::account::Accounts;
use crate::bootstrap::file::{AccountReading, EndpointAccount};
use crate::coap::Code;
use crate::mqtt::topics::is_allowed;
use crate::registry::RegistrationId;

use super::super::broker::{BrokerCommand, BrokerEvent, ClientInfo, Publication, UplinkClass};
use super::super::config::BootstrapClient;
use super::super::context::Context;
use super::super::report::{BootstrapReport, BootstrapStep, Report};

/// The session of the client. Those of devices count from 1.
pub(in super::super) const SESSION: RegistrationId = RegistrationId(0);

const PREFIX: &str = "lwm2m-bootstrap";
/// The time after which the client connects again if the broker has closed its session.
const RETRY: Duration = Duration::from_secs(30);
/// How long the broker keeps messages for the client while it is not connected.
const LIFETIME: Duration = Duration::from_secs(3600);
/// The largest account, in bytes.
const LARGEST: usize = 64 * 1024;

/// The client, which is connected or is to be connected at a time.
#[derive(Debug, Default)]
pub(super) struct BrokerClient {
    connects_at: Option<Instant>,
    is_connected: bool,
}

impl BrokerClient {
    pub fn starting_at(now: Instant) -> Self {
        Self { connects_at: Some(now), is_connected: false }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.connects_at
    }

    /// Connects, if it is time.
    pub fn handle_timeout(&mut self, context: &mut Context) {
        if self.connects_at.is_none_or(|at| at > context.now) {
            return;
        }
        self.connects_at = None;
        let settings = context.settings.bootstrap.as_ref().and_then(|settings| settings.client.clone());
        let Some(BootstrapClient { username, password }) = settings else { return };
        self.is_connected = true;
        // Each process is another client: a former one may still be connected.
        let number: u64 = context.rng.random();
        let client = ClientInfo {
            endpoint: PREFIX.to_owned(),
            clientid: format!("{PREFIX}-{number:016x}"),
            username,
            password,
            proto_ver: "1.1".to_owned(),
            peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
            command_filter: format!("{PREFIX}/+/account"),
            command_qos: 1,
            lifetime: LIFETIME,
            will: None,
        };
        context.command_broker(BrokerCommand::Resume { registration: SESSION, client });
    }

    /// Takes an event of the session.
    pub fn handle_broker(&mut self, context: &mut Context, accounts: &mut Accounts, event: BrokerEvent) {
        match event {
            BrokerEvent::Message { topic, payload, .. } => {
                if let Some(endpoint) = endpoint_of(&topic) {
                    receive(context, accounts, endpoint, &payload);
                }
            }
            BrokerEvent::Closed { .. } | BrokerEvent::ConnectFailed { .. } => {
                self.is_connected = false;
                self.connects_at = Some(context.now + RETRY);
            }
            BrokerEvent::Connected { .. }
            | BrokerEvent::Reconnected { .. }
            | BrokerEvent::Published { .. }
            | BrokerEvent::Queued { .. }
            | BrokerEvent::Unpublished { .. }
            | BrokerEvent::PublishRefused { .. } => {}
        }
    }

    pub fn publish_finished(&self, context: &mut Context, endpoint: &str) {
        self.publish(context, endpoint, json!({ "ep": endpoint, "result": "finished" }));
    }

    pub fn publish_failed(
        &self,
        context: &mut Context,
        endpoint: &str,
        (step, code, reason): (BootstrapStep, Option<Code>, &str),
    ) {
        let mut data = json!({ "ep": endpoint, "result": "failed", "step": step.to_string() });
        if let Some(code) = code {
            data["code"] = json!(code.to_string());
        }
        data["reason"] = json!(reason);
        self.publish(context, endpoint, data);
    }

    fn publish(&self, context: &mut Context, endpoint: &str, data: serde_json::Value) {
        let topic = format!("{PREFIX}/{endpoint}/status");
        // The name of a device may be no level of a topic.
        let is_level = !endpoint.contains(['/', '+', '#']) && is_allowed(&topic);
        if !self.is_connected || !is_level {
            return;
        }
        let payload = json!({ "msgType": "bootstrap", "data": data }).to_string().into_bytes();
        let (retain, expiry, correlation, ticket) = (false, None, None, None);
        let class = UplinkClass::Report;
        context.publish(SESSION, Publication { topic, qos: 1, payload, class, retain, expiry, correlation, ticket });
    }
}

fn endpoint_of(topic: &str) -> Option<&str> {
    let endpoint = topic.strip_prefix(PREFIX)?.strip_prefix('/')?.strip_suffix("/account")?;
    (!endpoint.is_empty() && !endpoint.contains('/')).then_some(endpoint)
}

/// Takes an account. One that cannot be used leaves the former in force.
fn receive(context: &mut Context, accounts: &mut Accounts, endpoint: &str, payload: &[u8]) {
    let name = endpoint.to_owned();
    let report = match read(context, accounts, endpoint, payload) {
        Ok(account) => {
            let report = match account {
                Some(_) => BootstrapReport::AccountSet { endpoint: name },
                None => BootstrapReport::AccountRemoved { endpoint: name },
            };
            accounts.set_endpoint(endpoint, account);
            report
        }
        Err(reason) => BootstrapReport::AccountRejected { endpoint: name, reason },
    };
    context.report(Report::Bootstrap(report));
}

/// Reads an account; `None` for an empty message. The reason of an error has no part of the message.
fn read(
    context: &Context,
    accounts: &Accounts,
    endpoint: &str,
    payload: &[u8],
) -> Result<Option<crate::bootstrap::account::Account>, String> {
    if payload.is_empty() {
        return Ok(None);
    }
    if payload.len() > LARGEST {
        return Err(format!("more than {LARGEST} bytes"));
    }
    if !accounts.has_endpoint(endpoint) && accounts.endpoints() >= context.settings.limits.devices {
        return Err("the limit of accounts is reached (limits.devices)".to_owned());
    }
    let written: EndpointAccount = serde_json::from_slice(payload)
        .map_err(|error| format!("not the JSON of an account: line {}, column {}", error.line(), error.column()))?;
    let account = written.read(endpoint, AccountReading { model: &context.model, read_file: None });
    account.map(Some).map_err(|error| error.to_string())
}
