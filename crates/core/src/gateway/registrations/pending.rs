//! Registers that wait until the broker has connected, authenticated and subscribed the device.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::coap::RequestId;
use crate::lwm2m::register::Registration;
use crate::registry::{ByteReservation, QueueFull, QueueLimits, RegistrationId, Topics};
use lwm2m_base::Peer;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::identity::Identity;
use lwm2m_base::total::Contribution;

use crate::gateway::broker::{ClientInfo, CloseReason, MessageProperties};

/// A Register that waits for the broker.
#[derive(Debug)]
pub(in crate::gateway) struct PendingRegistration {
    pub id: RegistrationId,
    pub request: RequestId,
    /// The maximum length of the reason in its answer, in bytes.
    pub room: usize,
    pub registration: Registration,
    pub peer: Peer,
    /// The identity that the DTLS handshake authenticated; `None` over plain UDP.
    pub identity: Option<Arc<Identity>>,
    pub topics: Topics,
    /// Commands that came before the answer to Register: retained ones come at once.
    pub early: VecDeque<EarlyCommand>,
    /// The reason if the broker has already ended the session of the earlier registration of the endpoint.
    pub predecessor_closed: Option<CloseReason>,
    /// The client for the broker, until it is known that no other gateway has the endpoint name.
    pub unclaimed: Option<ClientInfo>,
    /// Whether the earlier registration came from another gateway, and has no session of its own.
    pub predecessor_adopted: bool,
}

/// A command for a device whose Register is not answered yet.
#[derive(Debug)]
pub(in crate::gateway) struct EarlyCommand {
    pub payload: Vec<u8>,
    pub properties: MessageProperties,
    pub room: ByteReservation,
    /// The contribution of the command to the number of early commands.
    pub counted: Contribution,
}

impl PendingRegistration {
    /// Adds a command, unless too many wait: then it comes back, boxed for its size.
    pub(crate) fn push_early(
        &mut self,
        early: EarlyCommand,
        limits: QueueLimits,
    ) -> Result<(), Box<(EarlyCommand, QueueFull)>> {
        let bytes = self.early.iter().map(|early| early.room.bytes()).sum();
        match limits.check(self.early.len(), bytes, &early.room) {
            Ok(()) => {
                self.early.push_back(early);
                Ok(())
            }
            Err(full) => Err(Box::new((early, full))),
        }
    }
}

/// Owns the pending registrations: at most one for each endpoint.
#[derive(Debug, Default)]
pub(in crate::gateway) struct PendingRegistrations {
    by_id: IdMap<RegistrationId, PendingRegistration>,
    by_endpoint: HashMap<String, RegistrationId>,
}

impl PendingRegistrations {
    /// Adds a pending registration. The earlier one of the same endpoint is returned; the new one inherits its early
    /// commands, and the session of their predecessor if the broker has ended that.
    pub(super) fn insert(&mut self, mut pending: PendingRegistration) -> Option<PendingRegistration> {
        let earlier = self.by_endpoint.insert(pending.registration.endpoint.clone(), pending.id);
        let mut superseded = earlier.and_then(|earlier| self.by_id.remove(&earlier));
        if let Some(superseded) = &mut superseded {
            pending.predecessor_closed = superseded.predecessor_closed;
            pending.predecessor_adopted = superseded.predecessor_adopted;
            pending.early = std::mem::take(&mut superseded.early);
        }
        self.by_id.insert(pending.id, pending);
        superseded
    }

    pub(super) fn remove(&mut self, id: RegistrationId) -> Option<PendingRegistration> {
        let pending = self.by_id.remove(&id)?;
        self.by_endpoint.remove(&pending.registration.endpoint);
        Some(pending)
    }

    pub(in crate::gateway) fn get(&self, id: RegistrationId) -> Option<&PendingRegistration> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: RegistrationId) -> Option<&mut PendingRegistration> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn by_endpoint(&self, endpoint: &str) -> Option<&PendingRegistration> {
        self.by_endpoint.get(endpoint).and_then(|id| self.by_id.get(id))
    }

    pub(crate) fn by_endpoint_mut(&mut self, endpoint: &str) -> Option<&mut PendingRegistration> {
        self.by_endpoint.get(endpoint).and_then(|id| self.by_id.get_mut(id))
    }

    pub(in crate::gateway) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns the ids of all pending registrations, the oldest first.
    pub(in crate::gateway) fn ids(&self) -> Vec<RegistrationId> {
        let mut ids: Vec<RegistrationId> = self.by_id.keys().copied().collect();
        ids.sort();
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::coap::options::number;
    use crate::coap::{Code, Request};
    use crate::registry::{CommandBytes, TopicEnds};

    const LIMITS: QueueLimits = QueueLimits { commands: 2, bytes: 100, bytes_of_all: 1_000 };

    fn pending(id: u64, endpoint: &str) -> PendingRegistration {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, &format!("ep={endpoint}"));
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        PendingRegistration {
            id: RegistrationId(id),
            request: RequestId(id),
            room: 0,
            registration: Registration::from_register(&request, &lifetimes, None).unwrap(),
            peer: Peer::udp(0, ([192, 0, 2, 1], 5683).into()),
            identity: None,
            topics: Topics::new("t".to_owned(), TopicEnds::default()),
            early: VecDeque::new(),
            predecessor_closed: None,
            unclaimed: None,
            predecessor_adopted: false,
        }
    }

    fn early(bytes: &CommandBytes, size: usize) -> EarlyCommand {
        EarlyCommand {
            payload: vec![b'x'; size],
            properties: MessageProperties::default(),
            room: bytes.take(size),
            counted: Contribution::default(),
        }
    }

    #[test]
    fn a_newer_register_of_an_endpoint_supersedes_the_pending_one_and_inherits_its_commands() {
        let (bytes, mut all) = (CommandBytes::default(), PendingRegistrations::default());
        assert!(all.insert(pending(1, "a")).is_none());
        assert!(all.insert(pending(2, "b")).is_none());
        let first = all.by_endpoint_mut("a").unwrap();
        first.push_early(early(&bytes, 1), LIMITS).unwrap();
        first.predecessor_closed = Some(CloseReason::Kicked);

        let superseded = all.insert(pending(3, "a")).unwrap();
        assert_eq!((superseded.id, superseded.early.len()), (RegistrationId(1), 0));
        let newer = all.by_endpoint("a").unwrap();
        assert_eq!((newer.id, newer.early.len()), (RegistrationId(3), 1));
        assert_eq!(newer.predecessor_closed, Some(CloseReason::Kicked));
        assert_eq!(all.ids(), [RegistrationId(2), RegistrationId(3)]);
        assert!(all.get(RegistrationId(2)).unwrap().early.is_empty());
        assert!(all.remove(RegistrationId(1)).is_none());
        assert!(all.remove(RegistrationId(3)).is_some() && all.by_endpoint("a").is_none());
    }

    #[test]
    fn early_commands_are_bounded_and_one_always_has_room() {
        let bytes = CommandBytes::default();
        let mut pending = pending(1, "a");
        let full = |result: Result<(), Box<(EarlyCommand, QueueFull)>>| result.err().map(|refused| refused.1);
        assert_eq!(full(pending.push_early(early(&bytes, 101), LIMITS)), None);
        assert_eq!(full(pending.push_early(early(&bytes, 1), LIMITS)), Some(QueueFull::Bytes));
        pending.early.clear();
        assert_eq!(full(pending.push_early(early(&bytes, 10), LIMITS)), None);
        assert_eq!(full(pending.push_early(early(&bytes, 10), LIMITS)), None);
        assert_eq!(full(pending.push_early(early(&bytes, 10), LIMITS)), Some(QueueFull::Commands));
        pending.early.clear();
        let _others = bytes.take(1_000);
        assert_eq!(full(pending.push_early(early(&bytes, 1), LIMITS)), Some(QueueFull::BytesOfAll));
        assert_eq!(bytes.taken(), 1_000, "what is refused is not counted");
    }
}
