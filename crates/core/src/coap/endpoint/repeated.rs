//! Sends requests again that an earlier process has sent.

use std::time::Instant;

use lwm2m_base::{Peer, Shard};

use crate::coap::exchange::RequestIds;
use crate::coap::transfers::Stage;
use crate::coap::{ExchangeId, Request};

use super::Endpoint;

impl Endpoint {
    /// Returns the message ID and the token of a request; `None` once it was answered, or if it is sent in blocks, each
    /// of which has its own.
    pub(crate) fn request_ids(&self, id: ExchangeId) -> Option<RequestIds> {
        let transfer = self.transfers.get(id)?;
        let is_whole = matches!(transfer.stage, Stage::Whole(_)) && transfer.step == id;
        if is_whole { self.exchanges.request_ids(id) } else { None }
    }

    /// Sends a confirmable request as an earlier process has sent it. A request with a large body, which is sent block
    /// by block, starts over.
    pub(crate) fn send_request_again(
        &mut self,
        now: Instant,
        (peer, shard): (Peer, Shard),
        request: Request,
        ids: RequestIds,
    ) -> ExchangeId {
        if request.payload.len() > self.block_size.bytes() {
            return self.send_in_blocks(now, (peer, Some(shard)), request);
        }
        let id = self.exchanges.send_request_again(now, (peer, Some(shard)), &request, ids);
        self.begin_whole(id, peer, request);
        id
    }
}
