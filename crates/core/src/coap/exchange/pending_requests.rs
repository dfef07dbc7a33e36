//! The requests of peers that wait for their answer. A confirmable one is acknowledged early if the answer takes long
//! (RFC 7252 section 5.2.2).

use std::time::Instant;

use lwm2m_base::Peer;
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;

use crate::coap::{Kind, Message, MessageId, PeerClass, RequestId, Token};

#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    by_id: IdMap<RequestId, PendingRequest>,
    /// The times at which confirmable requests have to be acknowledged, answered or not.
    acknowledge_at: IdDeadlines<RequestId>,
}

#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub peer: Peer,
    pub token: Token,
    pub message_id: MessageId,
    pub class: PeerClass,
    pub answer_as: AnswerAs,
}

/// Identifies the message of a request: another request with the same values is its duplicate (RFC 7252 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestMessage {
    peer: Peer,
    message_id: MessageId,
    token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerAs {
    Piggybacked,
    Separate,
    NonConfirmable,
}

impl PendingRequests {
    /// Adds a request. If it is confirmable, it has to be acknowledged at this time.
    pub(super) fn insert(&mut self, id: RequestId, request: PendingRequest, acknowledge_at: Instant) {
        if request.answer_as == AnswerAs::Piggybacked {
            self.acknowledge_at.set(id, acknowledge_at);
        }
        self.by_id.insert(id, request);
    }

    /// Removes a request that is answered now.
    pub(super) fn take(&mut self, id: RequestId) -> Option<PendingRequest> {
        self.acknowledge_at.cancel(id);
        self.by_id.remove(&id)
    }

    /// Returns the next request that has to be acknowledged now. Its answer will be a separate response.
    pub(crate) fn pop_unacknowledged(&mut self, now: Instant) -> Option<(Peer, MessageId)> {
        let id = self.acknowledge_at.pop_expired(now)?;
        let request = self.by_id.get_mut(&id)?;
        request.answer_as = AnswerAs::Separate;
        Some((request.peer, request.message_id))
    }

    /// Returns the message that a request has come in.
    pub(crate) fn message_of(&self, id: RequestId) -> Option<RequestMessage> {
        let PendingRequest { peer, message_id, token, .. } = *self.by_id.get(&id)?;
        Some(RequestMessage { peer, message_id, token })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.acknowledge_at.next()
    }

    /// Returns the number of requests that have to be acknowledged.
    pub(super) fn deadlines(&self) -> usize {
        self.acknowledge_at.len()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl PendingRequest {
    /// Describes a request that has just come in this message.
    pub(super) fn new(peer: Peer, class: PeerClass, message: &Message) -> Self {
        let answer_as = match message.kind {
            Kind::Confirmable => AnswerAs::Piggybacked,
            Kind::NonConfirmable | Kind::Acknowledgement | Kind::Reset => AnswerAs::NonConfirmable,
        };
        Self { peer, token: message.token, message_id: message.id, class, answer_as }
    }
}
