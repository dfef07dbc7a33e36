//! Sends requests again that an earlier process has sent.

use std::time::Instant;

use lwm2m_base::{Peer, Shard};

use super::open_exchanges::Expected;
use super::{ExchangeId, Exchanges, MessageId, Persistence, Request, Token};

/// The message ID and the token of a request: a peer that gets it twice recognizes the second one by its message ID and
/// answers as before (RFC 7252 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIds {
    pub token: Token,
    pub message_id: MessageId,
}

impl Exchanges {
    /// Returns the message ID and the token of the request of an exchange that waits for its response.
    pub(crate) fn request_ids(&self, id: ExchangeId) -> Option<RequestIds> {
        let exchange = self.open.exchange(id)?;
        Some(RequestIds { token: exchange.token, message_id: exchange.message_id })
    }

    /// Sends a request as an earlier process has sent it. It gets new ids if one of them is in use with the peer, or if
    /// a response over plain UDP would not come to this gateway by the shard of the token.
    pub(crate) fn send_request_again(
        &mut self,
        now: Instant,
        (peer, shard): (Peer, Option<Shard>),
        request: &Request,
        ids: RequestIds,
    ) -> ExchangeId {
        let RequestIds { token, message_id } = ids;
        // The datagrams of an association are routed by its shard, not by the token.
        let comes_here =
            peer.association.is_some() || token.shard().is_some_and(|shard| self.parameters.shards.contains(shard));
        let is_free = comes_here
            && self.open.expected(peer, token) == Expected::default()
            && !self.transmissions.contains((peer, message_id));
        if is_free {
            self.send_as(now, peer, request, ids, Persistence::Ordinary)
        } else {
            self.send_request(now, (peer, shard), request)
        }
    }
}
