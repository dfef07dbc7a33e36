//! Finds out which of the published accounts the broker still retains.
//!
//! 1. The client subscribes, at the start and after each lost connection. The broker then sends every account that it
//!    retains (MQTT 5 section 3.8.3.1). It sends nothing for an account that was removed while the client was away.
//! 2. MQTT does not tell which retained message is the last one. Brokers send them beside other messages, so that an
//!    echo of a message of the client's own may overtake them. The client therefore waits until no retained message has
//!    come for some seconds.
//! 3. It then publishes a message. The acknowledgement proves that the connection was there all the time: a connection
//!    that was lost meanwhile is followed by another subscription before the message is published.
//! 4. The accounts that did not come again are removed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::gateway::broker::Ticket;

/// The time without a retained message after which all have come. Brokers send them in batches, a second apart at most.
const QUIET: Duration = Duration::from_secs(5);

/// The accounts that have come since the last subscription.
#[derive(Debug)]
pub(super) struct AccountArrival {
    /// Whether all accounts have come once since the start.
    is_complete: bool,
    phase: ArrivalPhase,
    /// Whether the message was published since the last subscription.
    has_asked: bool,
    arrived: HashSet<String>,
    last_ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArrivalPhase {
    /// All accounts have come.
    Settled,
    /// Accounts are arriving. If none arrives until this time, all have come.
    Arriving(Instant),
    /// The acknowledgement of the publication with this ticket is awaited.
    Confirming(Ticket),
}

impl AccountArrival {
    /// Creates the state before the first subscription; `awaits` is false if no account is ever published.
    pub(super) fn new(awaits: bool) -> Self {
        Self {
            is_complete: !awaits,
            phase: ArrivalPhase::Settled,
            has_asked: false,
            arrived: HashSet::new(),
            last_ticket: 0,
        }
    }

    /// Notes that the client has subscribed.
    pub(super) fn subscribed(&mut self, now: Instant) {
        self.arrived.clear();
        self.has_asked = false;
        self.phase = ArrivalPhase::Arriving(now + QUIET);
    }

    /// Notes that the broker has ended the session of the client. There will be another subscription.
    pub(super) fn ended(&mut self) {
        self.phase = ArrivalPhase::Settled;
    }

    /// Notes that a message about an account has come. `exists` tells whether the endpoint name has an account now.
    pub(super) fn heard(&mut self, now: Instant, endpoint: &str, is_retained: bool, exists: bool) {
        if self.phase == ArrivalPhase::Settled {
            return;
        }
        if is_retained {
            self.phase = ArrivalPhase::Arriving(now + QUIET);
        }
        match exists {
            true => drop(self.arrived.insert(endpoint.to_owned())),
            false => drop(self.arrived.remove(endpoint)),
        }
    }

    /// Returns the ticket of a message that is to be published, if no account has come for some time.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Ticket> {
        let ArrivalPhase::Arriving(quiet_at) = self.phase else { return None };
        if quiet_at > now {
            return None;
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.phase = ArrivalPhase::Confirming(ticket);
        self.has_asked = true;
        Some(ticket)
    }

    /// Takes the acknowledgement of the message. Returns the endpoint names whose account has come.
    pub(super) fn confirmed(&mut self, ticket: Ticket) -> Option<HashSet<String>> {
        if self.phase == ArrivalPhase::Confirming(ticket) { self.complete() } else { None }
    }

    /// Takes the refusal of the message, which proves the same as an acknowledgement. Returns the endpoint names whose
    /// account has come.
    pub(super) fn refused(&mut self) -> Option<HashSet<String>> {
        if self.has_asked && self.phase != ArrivalPhase::Settled { self.complete() } else { None }
    }

    /// Takes the event that the message was not published, and waits once more.
    pub(super) fn unpublished(&mut self, now: Instant, ticket: Ticket) {
        if self.phase == ArrivalPhase::Confirming(ticket) {
            self.phase = ArrivalPhase::Arriving(now + QUIET);
        }
    }

    /// Returns whether all accounts have come once since the start. Before that, an account that exists may be unknown.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            ArrivalPhase::Arriving(quiet_at) => Some(quiet_at),
            ArrivalPhase::Settled | ArrivalPhase::Confirming(_) => None,
        }
    }

    fn complete(&mut self) -> Option<HashSet<String>> {
        self.phase = ArrivalPhase::Settled;
        self.is_complete = true;
        Some(std::mem::take(&mut self.arrived))
    }
}
