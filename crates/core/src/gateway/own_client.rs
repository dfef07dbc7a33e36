//! A client of the gateway's own at the broker, beside those of the devices: it receives the messages of one topic
//! filter and publishes. The bootstrap server has one, and so have firmware campaigns.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;

use crate::registry::RegistrationId;

use super::broker::{BrokerCommand, BrokerLogin, ClientInfo, Publication, Ticket, UplinkClass};
use super::context::Context;

/// The time after which the client connects again if the broker has closed its session. The link reconnects it after
/// all other interruptions.
const RETRY: Duration = Duration::from_secs(30);
/// Time for which the broker keeps messages for the client while it is not connected.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The client, which is connected, or connects at a given time.
#[derive(Debug)]
pub(in crate::gateway) struct OwnClient {
    registration: RegistrationId,
    connects_at: Option<Instant>,
    is_connected: bool,
}

impl OwnClient {
    /// Creates a client that connects at this time; with `None` it never connects.
    pub(super) fn new(registration: RegistrationId, connects_at: Option<Instant>) -> Self {
        Self { registration, connects_at, is_connected: false }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.connects_at
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Connects, if it is time. The client ID begins with the prefix.
    pub(super) fn handle_timeout(
        &mut self,
        context: &mut Context,
        login: Option<BrokerLogin>,
        prefix: &str,
        filter: String,
    ) {
        if self.connects_at.is_none_or(|at| at > context.now) {
            return;
        }
        self.connects_at = None;
        let Some(BrokerLogin { username, password }) = login else { return };
        self.is_connected = true;
        // Each process is another client: a former one may still be connected.
        let number: u64 = context.rng.random();
        let client = ClientInfo {
            endpoint: prefix.to_owned(),
            clientid: format!("{prefix}-{number:016x}"),
            username,
            password,
            proto_ver: "1.1".to_owned(),
            peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
            command_filter: filter,
            command_qos: 1,
            lifetime: LIFETIME,
            will: None,
        };
        context.command_broker(BrokerCommand::Resume { registration: self.registration, client });
    }

    /// Takes the event that the broker has closed the session, or refused it.
    pub(super) fn closed(&mut self, now: Instant) {
        self.is_connected = false;
        self.connects_at = Some(now + RETRY);
    }

    /// Publishes a message if the client is connected. With a ticket, an event reports whether the broker accepted it.
    pub(super) fn publish(&self, context: &mut Context, topic: String, payload: Bytes, ticket: Option<Ticket>) {
        if !self.is_connected {
            return;
        }
        let (retain, expiry, correlation) = (false, None, None);
        let class = UplinkClass::Registration;
        let publication = Publication { topic, qos: 1, payload, class, retain, expiry, correlation, ticket };
        context.publish(self.registration, publication);
    }
}
