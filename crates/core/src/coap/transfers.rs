//! The requests of the gateway that are in transfer, and the memory that their bodies take.

use std::collections::HashMap;

use super::block::{Download, Upload};
use super::exchange::{ExchangeId, PendingAck};
use lwm2m_base::Peer;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::sparse::ShrinkSparse;

use super::{Code, Parameters, Request};

/// The transfer of one request of the gateway, or of one notification whose body is fetched.
#[derive(Debug)]
pub(super) struct Transfer {
    pub peer: Peer,
    /// The request without its payload, which is in the stage.
    pub request: Request,
    pub stage: Stage,
    pub step: ExchangeId,
    pub purpose: Purpose,
    pub acknowledged: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The body, which fits into one message.
    Whole(Vec<u8>),
    Upload(Upload),
    Download(Download),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A request of the gateway. `observing` is the number of the first answer, while the rest of its body is fetched.
    Request {
        observing: Option<u32>,
    },
    Notification {
        observation: ExchangeId,
        number: Option<u32>,
        pending_ack: Option<PendingAck>,
    },
}

/// All transfers. The bytes that one peer holds, and those of all, are bounded.
#[derive(Debug)]
pub(crate) struct Transfers {
    by_id: IdMap<ExchangeId, Transfer>,
    held: usize,
    held_by_peer: HashMap<Peer, usize>,
    share: usize,
}

/// Divisor for the share of one peer: it may hold one in this many of the bytes of all bodies, and one body in any
/// case.
const PEER_SHARE: usize = 8;

impl Transfer {
    /// Returns the number of bytes that have arrived of its body.
    pub(super) fn held(&self) -> usize {
        match &self.stage {
            Stage::Whole(_) | Stage::Upload(_) => 0,
            Stage::Download(download) => download.held(),
        }
    }

    /// Returns the request with the payload that a request of a further block of the answer repeats: that of a FETCH
    /// which went in one message.
    pub(crate) fn repeated_request(&self) -> Request {
        let payload = match &self.stage {
            Stage::Whole(payload) if self.request.method == Code::FETCH => payload.clone(),
            Stage::Whole(_) | Stage::Upload(_) => Vec::new(),
            Stage::Download(download) => download.repeated_payload().to_vec(),
        };
        Request { payload, ..self.request.clone() }
    }

    /// Returns whether blocks of another state of the resource could be taken for blocks of this body.
    pub(crate) fn may_mix(&self) -> bool {
        match &self.stage {
            Stage::Whole(_) | Stage::Upload(_) => false,
            Stage::Download(download) => !download.has_etag(),
        }
    }
}

impl Transfers {
    pub(super) fn new(parameters: &Parameters) -> Self {
        let share = (parameters.block_transfer_bytes / PEER_SHARE).max(parameters.received_body_size);
        Self { by_id: IdMap::default(), held: 0, held_by_peer: HashMap::new(), share }
    }

    /// Returns whether the peer of this transfer, which is not in the table now, may hold the received part of its
    /// body.
    pub(crate) fn has_room_for(&self, transfer: &Transfer) -> bool {
        let others = self.held_by_peer.get(&transfer.peer).copied().unwrap_or_default();
        transfer.held() == 0 || others + transfer.held() <= self.share
    }

    pub(super) fn insert(&mut self, id: ExchangeId, transfer: Transfer) {
        self.hold(transfer.peer, transfer.held());
        self.by_id.insert(id, transfer);
    }

    pub(super) fn remove(&mut self, id: ExchangeId) -> Option<Transfer> {
        let transfer = self.by_id.remove(&id)?;
        self.by_id.shrink_sparse();
        self.release(transfer.peer, transfer.held());
        Some(transfer)
    }

    pub(super) fn get(&self, id: ExchangeId) -> Option<&Transfer> {
        self.by_id.get(&id)
    }

    /// Notes that the peer has acknowledged the request. Returns whether it is the first time, of a request of ours.
    pub(super) fn acknowledged(&mut self, id: ExchangeId) -> bool {
        let Some(transfer) = self.by_id.get_mut(&id) else { return false };
        let news = !std::mem::replace(&mut transfer.acknowledged, true);
        news && matches!(transfer.purpose, Purpose::Request { .. })
    }

    /// Moves a transfer to another address of its peer. Returns the step that is under way.
    pub(super) fn readdress(&mut self, id: ExchangeId, to: Peer) -> Option<ExchangeId> {
        let mut transfer = self.remove(id)?;
        let step = transfer.step;
        transfer.peer = to;
        self.insert(id, transfer);
        Some(step)
    }

    /// Returns the number of bytes that have arrived of all bodies.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn hold(&mut self, peer: Peer, bytes: usize) {
        if bytes > 0 {
            self.held += bytes;
            *self.held_by_peer.entry(peer).or_default() += bytes;
        }
    }

    fn release(&mut self, peer: Peer, bytes: usize) {
        self.held -= bytes;
        if let Some(held) = self.held_by_peer.get_mut(&peer) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held_by_peer.remove(&peer);
            }
        }
    }
}
