//! A request of a device, between the endpoint and its answer.

use crate::coap::{Request, RequestId};
use lwm2m_base::Peer;

/// A request that a peer has sent, and that waits for its answer.
#[derive(Clone, Copy)]
pub(in crate::gateway) struct ReceivedRequest<'r> {
    pub id: RequestId,
    pub peer: Peer,
    pub request: &'r Request,
}
