//! Requests of peers that come in blocks, and the responses that are cut into blocks for them (RFC 7959).
//!
//! 1. A block of a body that is not complete yet is answered at once: 2.31, or the reason of its refusal.
//! 2. The last block completes the request, which the owner answers.
//! 3. A last block that comes again in another message gets the same answer, and nothing is done twice. If the first
//!    message will get no answer any more, the other one is an orphan, which is answered 5.03.

use std::collections::VecDeque;
use std::time::Instant;

use lwm2m_base::Peer;
use lwm2m_base::id_map::IdMap;

use crate::coap::block::{Assembled, Assemblies, Block, BlockError, BlockSize, Concluded, LastBlock, Repeated, slice};
use crate::coap::options::number;
use crate::coap::{Code, Parameters, PeerClass, Request, RequestId, Response};

#[derive(Debug)]
pub(crate) struct ReceivedBodies {
    assemblies: Assemblies,
    concluded: Concluded,
    /// The Block options of requests that are not answered yet.
    requested: IdMap<RequestId, RequestedBlocks>,
    /// Limits the blocks of responses.
    block_size: BlockSize,
    refused: VecDeque<(Peer, BlockError)>,
}

/// The Block options of a peer's request.
#[derive(Clone, Copy, Debug)]
struct RequestedBlocks {
    block1: Option<Block>,
    block2: Option<Block>,
    /// The largest block of the response, if it has to be smaller than usual.
    largest: Option<BlockSize>,
}

/// The treatment of a message that has a request, or a block of one.
#[derive(Debug)]
pub(crate) enum Received {
    /// The request is complete. The owner answers it.
    Whole(Request),
    /// The message gets this response, which needs no cutting.
    Answered(Response),
    /// The message repeats a last block whose answer is not there yet. It is answered when that one is.
    Waits,
}

impl ReceivedBodies {
    pub(super) fn new(parameters: &Parameters, block_size: BlockSize) -> Self {
        Self {
            assemblies: Assemblies::new(parameters, block_size),
            concluded: Concluded::new(parameters.block_uploads, parameters.exchange_lifetime()),
            requested: IdMap::default(),
            block_size,
            refused: VecDeque::new(),
        }
    }

    /// Takes a request, or a block of one. `room` is how many bytes the bodies of all peers may have together.
    pub(super) fn received(
        &mut self,
        now: Instant,
        id: RequestId,
        (peer, class): (Peer, PeerClass),
        request: Request,
        room: usize,
    ) -> Received {
        let blocks = Block::of(&request.options, number::BLOCK1)
            .and_then(|block1| Ok((block1, Block::of(&request.options, number::BLOCK2)?)));
        let Ok((block1, block2)) = blocks else {
            self.refused.push_back((peer, BlockError::Malformed));
            return Received::Answered(Response::new(Code::BAD_OPTION));
        };
        if block1.is_some() || block2.is_some() {
            self.requested.insert(id, RequestedBlocks { block1, block2, largest: None });
        }
        let Some(block1) = block1 else { return Received::Whole(request) };
        let last = LastBlock::of(&request, block1);
        if let Some(repetition) = last.as_ref().and_then(|last| self.repeated(id, peer, last)) {
            return repetition;
        }
        match self.assembled(now, (peer, class), &request, block1, room) {
            Assembled::Complete(request, _) => {
                if let Some(last) = last {
                    self.concluded.begin(now, peer, last, id);
                }
                Received::Whole(request)
            }
            Assembled::Answer(response, error) => {
                self.requested.remove(&id);
                self.refused.extend(error.map(|error| (peer, error)));
                Received::Answered(response)
            }
        }
    }

    /// Notes the owner's answer to a complete request. Returns the message that repeated its last block meanwhile,
    /// which gets the same answer.
    pub(super) fn answered(&mut self, id: RequestId, response: &Response) -> Option<RequestId> {
        self.concluded.answered(id, response)
    }

    /// Forgets a request that gets no answer.
    pub(crate) fn drop_request(&mut self, id: RequestId) {
        self.requested.remove(&id);
    }

    /// Limits the blocks of the response to a request.
    pub(crate) fn limit_blocks(&mut self, id: RequestId, bytes: usize) {
        let none = RequestedBlocks { block1: None, block2: None, largest: None };
        self.requested.entry(id).or_insert(none).largest = Some(BlockSize::at_most(bytes));
    }

    /// Returns the block of the response that the request asked for. A response with the Block2 option is one already.
    pub(super) fn cut(&mut self, id: RequestId, response: Response) -> Response {
        let requested = self.requested.remove(&id);
        let mut response = match response.options.contains(number::BLOCK2) {
            true => response,
            false => {
                let largest = requested.and_then(|requested| requested.largest).unwrap_or(self.block_size);
                slice(response, requested.and_then(|requested| requested.block2), largest)
            }
        };
        if let Some(block) = requested.and_then(|requested| requested.block1) {
            block.add_to(&mut response.options, number::BLOCK1);
        }
        response
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.assemblies.handle_timeout(now);
        self.concluded.handle_timeout(now);
    }

    /// Gives up bodies of unregistered peers until all bodies have so many bytes at the most.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.assemblies.shrink_to(bytes);
        self.note_evicted();
    }

    /// Returns the next orphan, with its answer.
    pub(crate) fn poll_orphan(&mut self) -> Option<(RequestId, Response)> {
        let orphan = self.concluded.poll_orphan()?;
        Some((orphan, self.cut(orphan, Response::new(Code::SERVICE_UNAVAILABLE))))
    }

    /// Returns the next peer whose body was refused or evicted.
    pub(crate) fn poll_refused(&mut self) -> Option<(Peer, BlockError)> {
        self.refused.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.assemblies.next_deadline(), self.concluded.next_deadline()].into_iter().flatten().min()
    }

    /// Returns the bytes of the bodies that are not complete.
    pub(super) fn held(&self) -> usize {
        self.assemblies.held()
    }

    /// Returns the number of bodies that are not complete.
    pub(crate) fn incomplete(&self) -> usize {
        self.assemblies.len()
    }

    /// Returns the number of complete bodies whose last block is remembered.
    pub(super) fn concluded(&self) -> usize {
        self.concluded.len()
    }

    /// Returns the number of requests with a Block option that are not answered yet.
    pub(super) fn requested(&self) -> usize {
        self.requested.len()
    }

    fn assembled(
        &mut self,
        now: Instant,
        peer: (Peer, PeerClass),
        request: &Request,
        block: Block,
        room: usize,
    ) -> Assembled {
        let assembled = self.assemblies.take(now, peer, request, block, room);
        self.note_evicted();
        assembled
    }

    /// Returns the treatment of a last block that has arrived before in another message, unless its body is being sent
    /// again.
    fn repeated(&mut self, id: RequestId, peer: Peer, last: &LastBlock) -> Option<Received> {
        if self.assemblies.has(peer) {
            return None;
        }
        Some(match self.concluded.repeated(peer, last, id)? {
            Repeated::Answered(response) => Received::Answered(self.cut(id, response)),
            Repeated::Waits => Received::Waits,
        })
    }

    fn note_evicted(&mut self) {
        while let Some(peer) = self.assemblies.poll_evicted() {
            self.refused.push_back((peer, BlockError::Evicted));
        }
    }
}
