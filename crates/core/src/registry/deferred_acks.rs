//! Deferred acknowledgements: those of notifications, and answers to Sends, that wait until the broker has the
//! publication.

use crate::coap::{PendingAck, RequestId};
use lwm2m_base::small_map::SmallMap;
use lwm2m_base::total::{Contribution, Total};

/// An acknowledgement or answer that a device waits for until the broker has the publication of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeferredAck {
    /// The acknowledgement of a confirmable notification.
    Notification(PendingAck),
    /// The response to a Send.
    Send(RequestId),
}

/// The deferred acknowledgements of one device, by the number of the ticket of the publication.
#[derive(Debug, Default)]
pub struct DeferredAcks {
    by_ticket: SmallMap<u64, DeferredAck>,
    counted: Contribution,
}

impl DeferredAcks {
    pub fn insert(&mut self, ticket: u64, deferred: DeferredAck) {
        self.by_ticket.insert(ticket, deferred);
        self.counted.set(self.by_ticket.len());
    }

    pub fn remove(&mut self, ticket: u64) -> Option<DeferredAck> {
        let removed = self.by_ticket.remove(&ticket);
        self.counted.set(self.by_ticket.len());
        removed
    }

    /// Removes the one with the oldest ticket.
    pub(crate) fn remove_oldest(&mut self) -> Option<DeferredAck> {
        let (_, oldest) = self.by_ticket.pop_first()?;
        self.counted.set(self.by_ticket.len());
        Some(oldest)
    }

    /// Removes all of them, the oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = DeferredAck> + use<> {
        self.counted.set(0);
        std::mem::take(&mut self.by_ticket).into_values()
    }

    pub fn len(&self) -> usize {
        self.by_ticket.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    pub(super) fn count_in(&mut self, total: &Total) {
        self.counted.count_in(total);
    }
}
