//! Registers that wait until the broker has connected, authenticated and subscribed the device.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::coap::RequestId;
use crate::lwm2m::register::Registration;
use crate::registry::{ByteReservation, QueueFull, QueueLimits, RegistrationId, Topics};
use lwm2m_base::Peer;
use lwm2m_dtls::credentials::Identity;

use super::broker::{CloseReason, MessageProperties};

/// A Register that waits for the broker.
#[derive(Debug)]
pub(super) struct PendingRegistration {
    pub id: RegistrationId,
    pub request: RequestId,
    /// Bytes of a reason that its answer may have.
    pub room: usize,
    pub registration: Registration,
    pub peer: Peer,
    /// What the device proved to be; `None` over plain UDP.
    pub identity: Option<Arc<Identity>>,
    pub topics: Topics,
    /// Commands that came before the answer to Register: retained ones come at once.
    pub early: VecDeque<EarlyCommand>,
    /// The broker has ended the session of the registration before this one already.
    pub predecessor_closed: Option<CloseReason>,
}

/// A command for a device whose Register is not answered yet.
#[derive(Debug)]
pub(super) struct EarlyCommand {
    pub payload: Vec<u8>,
    pub properties: MessageProperties,
    pub room: ByteReservation,
}

impl PendingRegistration {
    /// Adds a command, unless too many wait: then it comes back.
    pub fn push_early(&mut self, early: EarlyCommand, limits: QueueLimits) -> Result<(), (EarlyCommand, QueueFull)> {
        let bytes = self.early.iter().map(|early| early.room.bytes()).sum();
        match limits.check(self.early.len(), bytes, &early.room) {
            Ok(()) => {
                self.early.push_back(early);
                Ok(())
            }
            Err(full) => Err((early, full)),
        }
    }
}

/// Owns the pending registrations: at most one for each endpoint.
#[derive(Debug, Default)]
pub(super) struct PendingRegistrations {
    by_id: HashMap<RegistrationId, PendingRegistration>,
    by_endpoint: HashMap<String, RegistrationId>,
}

impl PendingRegistrations {
    /// Adds a pending registration. The earlier one of the same endpoint is returned; the new one inherits its early
    /// commands, and the session of their predecessor if the broker has ended that.
    pub fn insert(&mut self, mut pending: PendingRegistration) -> Option<PendingRegistration> {
        let earlier = self.by_endpoint.insert(pending.registration.endpoint.clone(), pending.id);
        let mut superseded = earlier.and_then(|earlier| self.by_id.remove(&earlier));
        if let Some(superseded) = &mut superseded {
            pending.predecessor_closed = superseded.predecessor_closed;
            pending.early = std::mem::take(&mut superseded.early);
        }
        self.by_id.insert(pending.id, pending);
        superseded
    }

    pub fn remove(&mut self, id: RegistrationId) -> Option<PendingRegistration> {
        let pending = self.by_id.remove(&id)?;
        self.by_endpoint.remove(&pending.registration.endpoint);
        Some(pending)
    }

    pub fn get(&self, id: RegistrationId) -> Option<&PendingRegistration> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: RegistrationId) -> Option<&mut PendingRegistration> {
        self.by_id.get_mut(&id)
    }

    pub fn by_endpoint(&self, endpoint: &str) -> Option<&PendingRegistration> {
        self.by_endpoint.get(endpoint).and_then(|id| self.by_id.get(id))
    }

    pub fn by_endpoint_mut(&mut self, endpoint: &str) -> Option<&mut PendingRegistration> {
        self.by_endpoint.get(endpoint).and_then(|id| self.by_id.get_mut(id))
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn early_commands(&self) -> usize {
        self.by_id.values().map(|pending| pending.early.len()).sum()
    }

    /// Returns the ids of all of them, the oldest first.
    pub fn ids(&self) -> Vec<RegistrationId> {
        let mut ids: Vec<RegistrationId> = self.by_id.keys().copied().collect();
        ids.sort();
        ids
    }
}
