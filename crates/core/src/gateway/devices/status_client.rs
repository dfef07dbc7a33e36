//! The gateway's own client at the broker for presence: it publishes `offline` for a device whose session the broker
//! has ended for good. The device itself cannot: its connection is gone, and a broker that bans a client suppresses its
//! will (EMQX, Mosquitto).
//!
//! No `offline` overwrites a later `online` of this program. The two are published by different connections, so their
//! order at the broker is not that of the commands. Therefore:
//!
//! - A device that is registered again gets no `offline`.
//! - If a device registers while its `offline` is on its way, its presence is published once more when the broker has
//!   acknowledged the `offline`.
//! - Meanwhile no other gateway of this program takes up the device ([`StatusClient::awaits`]).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::mqtt::uplink;
use crate::registry::{Device, Presence, RegistrationId};

use crate::gateway::broker::{BrokerEvent, CloseReason, Publication, Ticket, UplinkClass};
use crate::gateway::context::Context;
use crate::gateway::own_client::OwnClient;
use crate::gateway::report::Report;

pub(in crate::gateway) const SESSION: RegistrationId = RegistrationId::PRESENCE;

const PREFIX: &str = "lwm2m-status";
/// Publications that the broker has not acknowledged. It is less than the queue of a client may hold.
const WINDOW: usize = 16;

/// The client that withdraws the presence of devices, and the presences to be withdrawn.
#[derive(Debug)]
pub(in crate::gateway) struct StatusClient {
    connection: OwnClient,
    /// Keeps what to publish of each endpoint. There are no more than `limits.devices`.
    withdrawals: HashMap<String, PresenceWithdrawal>,
    /// The endpoints whose turn has not come.
    waiting: VecDeque<String>,
    in_flight: HashMap<Ticket, String>,
    last_ticket: u64,
    /// Whether the broker did not allow the last publication.
    is_refused: bool,
}

#[derive(Debug)]
struct PresenceWithdrawal {
    topic: String,
    /// The time since 1970 at which the device left.
    since: Duration,
    /// Whether the device has left once more since the publication in flight was made.
    is_due_again: bool,
}

/// The connection.
impl StatusClient {
    /// Creates a client that connects at this time; with `None` it never connects.
    pub(super) fn new(connects_at: Option<Instant>) -> Self {
        Self {
            connection: OwnClient::new(SESSION, connects_at),
            withdrawals: HashMap::new(),
            waiting: VecDeque::new(),
            in_flight: HashMap::new(),
            last_ticket: 0,
            is_refused: false,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.connection.next_deadline()
    }

    /// Connects, if it is time. The client subscribes to nothing.
    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        let login = context.config.status_login.clone();
        self.connection.handle_timeout(context, login, PREFIX, String::new());
    }

    /// Returns the number of presences to be withdrawn.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.withdrawals.len()
    }

    /// Returns whether the presence of this endpoint is still to be withdrawn, so that no other gateway may publish it
    /// yet.
    pub(in crate::gateway) fn awaits(&self, endpoint: &str) -> bool {
        self.withdrawals.contains_key(endpoint)
    }
}

/// Presence.
impl StatusClient {
    /// Withdraws the presence of a device that leaves because the broker ended its session. If another client took over
    /// the session, its presence is kept.
    pub(super) fn withdraw(&mut self, context: &mut Context, device: &Device, reason: CloseReason) {
        let Some(topic) = device.topics.status().map(|topic| topic.name) else { return };
        if context.config.status_login.is_none() || reason == CloseReason::Discarded {
            return;
        }
        let endpoint = device.registration.endpoint.clone();
        let since = context.wall_clock.unix_time(context.now);
        if let Some(known) = self.withdrawals.get_mut(&endpoint) {
            *known = PresenceWithdrawal { topic, since, is_due_again: true };
            return;
        }
        if self.withdrawals.len() >= context.config.limits.devices
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.withdrawals.remove(&oldest);
            context.claims.mark_unclaimed(&oldest);
        }
        self.withdrawals.insert(endpoint.clone(), PresenceWithdrawal { topic, since, is_due_again: false });
        self.waiting.push_back(endpoint);
    }

    /// Publishes the next presences, as far as the broker has acknowledged earlier ones. A device that is registered
    /// again keeps its presence.
    pub(super) fn publish_next(&mut self, context: &mut Context, is_registered: impl Fn(&str) -> bool) {
        while self.connection.is_connected() && self.in_flight.len() < WINDOW {
            let Some(endpoint) = self.waiting.pop_front() else { break };
            if is_registered(&endpoint) {
                self.withdrawals.remove(&endpoint);
                continue;
            }
            let Some(withdrawal) = self.withdrawals.get_mut(&endpoint) else { continue };
            withdrawal.is_due_again = false;
            self.last_ticket += 1;
            let ticket = Ticket(self.last_ticket);
            let payload = uplink::status(Presence::Offline, Some(withdrawal.since));
            // With QoS 0 the gateway would not know when the broker has it.
            let publication = Publication {
                topic: withdrawal.topic.clone(),
                qos: 1,
                payload,
                class: UplinkClass::Registration,
                retain: true,
                expiry: None,
                correlation: None,
                ticket: Some(ticket),
            };
            self.in_flight.insert(ticket, endpoint);
            context.publish(SESSION, publication);
        }
    }

    /// Takes an event of the session. Returns the endpoints whose `offline` is not on its way any more: if one of them
    /// is registered, its presence has to be published once more.
    pub(super) fn handle_broker(&mut self, context: &mut Context, event: BrokerEvent) -> Vec<String> {
        match event {
            BrokerEvent::Published { ticket, .. } => {
                self.is_refused = false;
                self.concluded(ticket).into_iter().collect()
            }
            BrokerEvent::Unpublished { ticket, .. } => self.concluded(ticket).into_iter().collect(),
            BrokerEvent::PublishRefused { topic, .. } => {
                let first = !std::mem::replace(&mut self.is_refused, true);
                context.report(Report::PublishRefused { endpoint: PREFIX.to_owned(), topic, first });
                Vec::new()
            }
            // A publication in flight may have arrived or not: it is published again after the next connection.
            BrokerEvent::Closed { .. } | BrokerEvent::ConnectFailed { .. } => {
                self.connection.closed(context.now);
                let endpoints: Vec<String> = self.in_flight.drain().map(|(_, endpoint)| endpoint).collect();
                self.waiting.extend(endpoints.iter().cloned());
                endpoints
            }
            BrokerEvent::Connected { .. }
            | BrokerEvent::Reconnected { .. }
            | BrokerEvent::Message { .. }
            | BrokerEvent::Queued { .. } => Vec::new(),
        }
    }

    /// Removes the publication with this ticket, which the broker has accepted or never will. Returns its endpoint.
    fn concluded(&mut self, ticket: Ticket) -> Option<String> {
        let endpoint = self.in_flight.remove(&ticket)?;
        let is_due_again = self.withdrawals.get(&endpoint).is_some_and(|withdrawal| withdrawal.is_due_again);
        if is_due_again {
            self.waiting.push_back(endpoint.clone());
        } else {
            self.withdrawals.remove(&endpoint);
        }
        Some(endpoint)
    }
}

impl Default for StatusClient {
    fn default() -> Self {
        Self::new(None)
    }
}
