//! The last blocks of bodies that peers have sent by Block1, and the answers to them. A peer that did not get the
//! answer may send its last block again in another message: it gets the same answer, and the request is not executed
//! twice.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::coap::{Code, Options, Request, RequestId, Response};
use lwm2m_base::Peer;
use lwm2m_base::expiring_map::ExpiringMap;
use lwm2m_base::id_map::IdMap;

use super::{Block, without_blocks};

/// The maximum length of an answer that is remembered, in bytes.
const LONGEST_ANSWER: usize = 1024;

/// Remembers the newest complete body of each peer. The number of bodies is bounded; the oldest one is evicted.
#[derive(Debug)]
pub(crate) struct Concluded {
    by_peer: ExpiringMap<Peer, Conclusion>,
    by_request: IdMap<RequestId, Peer>,
    lifetime: Duration,
    orphans: Vec<RequestId>,
}

#[derive(Debug)]
struct Conclusion {
    last: LastBlock,
    answer: ConclusionAnswer,
}

#[derive(Debug)]
enum ConclusionAnswer {
    /// The request is not answered yet. Its answer goes to the first message with this block, and to the newest
    /// repetition of it.
    Pending {
        first: RequestId,
        again: Option<RequestId>,
    },
    Given(Response),
}

/// The last block of a body: its request without the message, and the digest of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastBlock {
    method: Code,
    options: Options,
    block: (u32, usize),
    payload: u64,
}

/// The treatment of a last block that has arrived before.
#[derive(Debug, PartialEq)]
pub(crate) enum Repeated {
    /// The caller answers with this response.
    Answered(Response),
    /// The repetition is answered when the first message is answered.
    Waits,
}

impl LastBlock {
    /// Returns `None` for a block that is not the last one of several.
    pub(crate) fn of(request: &Request, block: Block) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        request.payload.hash(&mut hasher);
        (block.number > 0 && !block.more).then(|| Self {
            method: request.method,
            options: without_blocks(&request.options),
            block: (block.number, block.size.bytes()),
            payload: hasher.finish(),
        })
    }
}

impl Concluded {
    pub(crate) fn new(limit: usize, lifetime: Duration) -> Self {
        Self { by_peer: ExpiringMap::new(limit), by_request: IdMap::default(), lifetime, orphans: Vec::new() }
    }

    /// Remembers the last block of this peer's body, which is complete and waits for its answer.
    pub(crate) fn begin(&mut self, now: Instant, peer: Peer, last: LastBlock, first: RequestId) {
        self.forget(peer);
        self.by_request.insert(first, peer);
        let conclusion = Conclusion { last, answer: ConclusionAnswer::Pending { first, again: None } };
        if let Some((_, evicted)) = self.by_peer.insert(peer, now + self.lifetime, conclusion) {
            self.drop_pending(evicted);
        }
    }

    /// Returns how to treat a last block that came before in another message.
    pub(crate) fn repeated(&mut self, peer: Peer, last: &LastBlock, request: RequestId) -> Option<Repeated> {
        let conclusion = self.by_peer.get_mut(&peer).filter(|conclusion| conclusion.last == *last)?;
        Some(match &mut conclusion.answer {
            ConclusionAnswer::Given(response) => Repeated::Answered(response.clone()),
            ConclusionAnswer::Pending { again, .. } => {
                self.orphans.extend(again.replace(request));
                Repeated::Waits
            }
        })
    }

    /// Remembers the answer to a body. Returns the request that repeated its last block meanwhile, which gets the same.
    pub(crate) fn answered(&mut self, request: RequestId, response: &Response) -> Option<RequestId> {
        let peer = self.by_request.remove(&request)?;
        let conclusion = self.by_peer.get_mut(&peer)?;
        let ConclusionAnswer::Pending { again, .. } = conclusion.answer else { return None };
        if response.payload.len() <= LONGEST_ANSWER {
            conclusion.answer = ConclusionAnswer::Given(response.clone());
        } else {
            self.forget(peer);
        }
        again
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, expired)) = self.by_peer.pop_expired(now) {
            self.drop_pending(expired);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_peer.next_expiry()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_peer.len().max(self.by_request.len())
    }

    /// Returns a repetition whose first message will get no answer.
    pub(crate) fn poll_orphan(&mut self) -> Option<RequestId> {
        self.orphans.pop()
    }

    fn forget(&mut self, peer: Peer) {
        if let Some(conclusion) = self.by_peer.remove(&peer) {
            self.drop_pending(conclusion);
        }
    }

    fn drop_pending(&mut self, conclusion: Conclusion) {
        if let ConclusionAnswer::Pending { first, again } = conclusion.answer {
            self.by_request.remove(&first);
            self.orphans.extend(again);
        }
    }
}
