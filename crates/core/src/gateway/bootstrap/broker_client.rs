//! The bootstrap server's own client at the broker: it receives accounts of single endpoint names, and publishes how
//! their sessions end.
//!
//! 1. The client connects, and subscribes to `lwm2m-bootstrap/+/account`. The link reconnects it.
//! 2. A message is the account of its endpoint name, before the accounts of patterns. An empty one removes it. An
//!    account that the broker does not retain any more is removed after the next subscription
//!    ([`super::account_arrival`]).
//! 3. The end of each session is published to `lwm2m-bootstrap/{endpoint}/status`. It has no secret. Ends of sessions
//!    without DTLS have a rate limit.

use std::collections::HashSet;
use std::time::Instant;

use serde_json::json;

use crate::bootstrap::account::Accounts;
use crate::bootstrap::file::{AccountReading, EndpointAccount};
use crate::coap::Code;
use crate::mqtt::topics::is_allowed;
use crate::registry::RegistrationId;
use lwm2m_base::Peer;
use lwm2m_base::identity::PskIdentity;
use lwm2m_base::rate::{Limiter, Rate, RateLimit, SourceNetwork};

use super::AccountsChange;
use super::account_arrival::AccountArrival;
use crate::gateway::broker::BrokerEvent;
use crate::gateway::context::Context;
use crate::gateway::own_client::OwnClient;
use crate::gateway::report::{BootstrapReport, BootstrapStep, Report};

pub(in crate::gateway) const SESSION: RegistrationId = RegistrationId::BOOTSTRAP;

const PREFIX: &str = "lwm2m-bootstrap";
/// The topic of the message that asks the broker whether it has sent all accounts.
const OWN_STATUS: &str = "lwm2m-bootstrap/gateway/status";
/// The largest account, in bytes.
const LARGEST: usize = 64 * 1024;

/// The rate limit of published results of sessions without DTLS: any peer can begin such sessions, under any name.
const PLAIN_STATUSES: RateLimit =
    RateLimit { total: Rate { per_second: 100, burst: 1_000 }, address: Rate { per_second: 50, burst: 500 } };

/// The client that receives accounts and publishes the results of sessions.
#[derive(Debug)]
pub(super) struct BrokerClient {
    connection: OwnClient,
    arrival: AccountArrival,
    plain_statuses: Limiter,
}

impl BrokerClient {
    /// Creates a client that connects at this time; with `None` it never connects.
    pub(super) fn new(connects_at: Option<Instant>) -> Self {
        let arrival = AccountArrival::new(connects_at.is_some());
        let connection = OwnClient::new(SESSION, connects_at);
        Self { connection, arrival, plain_statuses: Limiter::new(PLAIN_STATUSES) }
    }

    /// Returns whether all published accounts are known. Before that, only those that have come may be given.
    pub(crate) fn knows_all_accounts(&self) -> bool {
        self.arrival.is_complete()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.connection.next_deadline(), self.arrival.next_deadline()].into_iter().flatten().min()
    }

    /// Connects, if it is time, and asks the broker whether it has sent all accounts.
    pub(super) fn handle_timeout(&mut self, context: &mut Context, accounts: &Accounts) {
        let login = context.config.bootstrap.as_ref().and_then(|config| config.login.clone());
        self.connection.handle_timeout(context, login, PREFIX, format!("{PREFIX}/+/account"));
        if let Some(ticket) = self.arrival.handle_timeout(context.now) {
            let data = json!({ "accounts": accounts.endpoints() });
            let payload = json!({ "msgType": "accounts", "data": data }).to_string().into();
            self.connection.publish(context, OWN_STATUS.to_owned(), payload, Some(ticket));
        }
    }

    /// Takes an event of the session. Returns what has changed of the accounts.
    pub(super) fn handle_broker(
        &mut self,
        context: &mut Context,
        accounts: &mut Accounts,
        event: BrokerEvent,
    ) -> AccountsChange {
        match event {
            BrokerEvent::Message { topic, payload, properties, .. } => {
                let Some(endpoint) = endpoint_of(&topic) else { return AccountsChange::None };
                let before = generated_identities(accounts, endpoint);
                receive(context, accounts, endpoint, &payload);
                let exists = accounts.has_endpoint(endpoint);
                self.arrival.heard(context.now, endpoint, properties.retained, exists);
                let after = generated_identities(accounts, endpoint);
                AccountsChange::Of(before.into_iter().chain(after).collect())
            }
            BrokerEvent::Closed { .. } | BrokerEvent::ConnectFailed { .. } => {
                self.connection.closed(context.now);
                self.arrival.ended();
                AccountsChange::None
            }
            // The link subscribes at each connection.
            BrokerEvent::Connected { .. } | BrokerEvent::Reconnected { .. } => {
                self.arrival.subscribed(context.now);
                AccountsChange::None
            }
            BrokerEvent::Published { ticket, .. } => {
                let arrived = self.arrival.confirmed(ticket);
                keep_arrived(context, accounts, arrived)
            }
            BrokerEvent::PublishRefused { topic, .. } if topic == OWN_STATUS => {
                let arrived = self.arrival.refused();
                keep_arrived(context, accounts, arrived)
            }
            BrokerEvent::Unpublished { ticket, .. } => {
                self.arrival.unpublished(context.now, ticket);
                AccountsChange::None
            }
            BrokerEvent::PublishRefused { .. } | BrokerEvent::Queued { .. } => AccountsChange::None,
        }
    }

    pub(crate) fn publish_finished(&mut self, context: &mut Context, (endpoint, peer): (&str, Peer)) {
        self.publish(context, (endpoint, peer), json!({ "ep": endpoint, "result": "finished" }));
    }

    pub(crate) fn publish_failed(
        &mut self,
        context: &mut Context,
        (endpoint, peer): (&str, Peer),
        (step, code, reason): (BootstrapStep, Option<Code>, &str),
    ) {
        let mut data = json!({ "ep": endpoint, "result": "failed", "step": step.to_string() });
        if let Some(code) = code {
            data["code"] = json!(code.to_string());
        }
        data["reason"] = json!(reason);
        self.publish(context, (endpoint, peer), data);
    }

    fn publish(&mut self, context: &mut Context, (endpoint, peer): (&str, Peer), data: serde_json::Value) {
        let topic = format!("{PREFIX}/{endpoint}/status");
        // Not every name of a device can be a level of a topic.
        let is_level = !endpoint.contains(['/', '+', '#']) && is_allowed(&topic);
        if !is_level || !self.connection.is_connected() {
            return;
        }
        if peer.association.is_none() && self.plain_statuses.take(context.now, SourceNetwork::of(peer.address)).is_err()
        {
            let endpoint = endpoint.to_owned();
            return context.report(Report::Bootstrap(BootstrapReport::StatusDropped { endpoint, peer }));
        }
        let payload = json!({ "msgType": "bootstrap", "data": data }).to_string().into();
        self.connection.publish(context, topic, payload, None);
    }
}

/// Removes the accounts that the broker does not retain any more: all but these.
fn keep_arrived(context: &mut Context, accounts: &mut Accounts, arrived: Option<HashSet<String>>) -> AccountsChange {
    let Some(arrived) = arrived else { return AccountsChange::None };
    for endpoint in accounts.retain_endpoints(|endpoint| arrived.contains(endpoint)) {
        context.report(Report::Bootstrap(BootstrapReport::AccountRemoved { endpoint }));
    }
    AccountsChange::Any
}

/// Returns the identities of the keys that the account of an endpoint name generates.
fn generated_identities(accounts: &Accounts, endpoint: &str) -> Vec<PskIdentity> {
    accounts.of(endpoint).map(|account| account.generated_identities(endpoint)).unwrap_or_default()
}

fn endpoint_of(topic: &str) -> Option<&str> {
    let endpoint = topic.strip_prefix(PREFIX)?.strip_prefix('/')?.strip_suffix("/account")?;
    (!endpoint.is_empty() && !endpoint.contains('/')).then_some(endpoint)
}

/// Takes an account. If it is invalid, the old one stays in force.
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
    if !accounts.has_endpoint(endpoint) && accounts.endpoints() >= context.config.limits.devices {
        return Err("the limit of accounts is reached (limits.devices)".to_owned());
    }
    let written: EndpointAccount = serde_json::from_slice(payload)
        .map_err(|error| format!("not the JSON of an account: line {}, column {}", error.line(), error.column()))?;
    let account = written.read(endpoint, AccountReading { model: &context.model, read_file: None });
    account.map(Some).map_err(|error| error.to_string())
}
