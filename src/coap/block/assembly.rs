//! Bodies that peers send by Block1 (RFC 7959 section 2.3): put together, bounded in size, number and age.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::coap::options::number;
use crate::coap::{Code, Peer, Request, Response, Standing};
use crate::deadlines::Deadlines;

use super::{Block, BlockError, BlockSize, without_blocks};

/// A peer has one body under way at the most; what it is for tells whether the next block belongs to it.
#[derive(Debug)]
pub struct Assemblies {
    by_peer: HashMap<Peer, Assembly>,
    /// Those of strangers among them.
    of_strangers: usize,
    deadlines: Deadlines<Peer>,
    body_limit: usize,
    limit: usize,
    lifetime: Duration,
    largest: BlockSize,
}

#[derive(Debug)]
struct Assembly {
    /// The request with what has come of its body.
    request: Request,
    standing: Standing,
}

/// What a request with a Block1 option is.
#[derive(Debug, PartialEq)]
pub enum Assembled {
    /// Whole now: the response to it carries this block.
    Complete(Request, Block),
    /// To be answered so.
    Answer(Response, Option<BlockError>),
}

impl Assemblies {
    /// `body_limit` bytes each, `limit` of them, half of that for strangers, each for `lifetime` after its last block.
    pub fn new(body_limit: usize, limit: usize, lifetime: Duration, largest: BlockSize) -> Self {
        let (by_peer, deadlines) = (HashMap::new(), Deadlines::default());
        Self { by_peer, of_strangers: 0, deadlines, body_limit, limit, lifetime, largest }
    }

    pub fn take(&mut self, now: Instant, peer: Peer, standing: Standing, request: &Request, block: Block) -> Assembled {
        let begun = self.remove(peer).filter(|begun| block.number != 0 && begun.is_of(request));
        let mut assembly = match begun {
            Some(begun) => begun,
            None if block.number == 0 => Assembly::new(request, standing),
            None => return failed(Code::REQUEST_ENTITY_INCOMPLETE, BlockError::OutOfOrder),
        };
        if block.offset() != assembly.request.payload.len() {
            return failed(Code::REQUEST_ENTITY_INCOMPLETE, BlockError::OutOfOrder);
        }
        if block.more && request.payload.len() != block.size.bytes() || request.payload.len() > block.size.bytes() {
            return failed(Code::BAD_REQUEST, BlockError::OutOfOrder);
        }
        if assembly.request.payload.len() + request.payload.len() > self.body_limit {
            return self.too_large();
        }
        assembly.request.payload.extend(&request.payload);
        if !block.more {
            return Assembled::Complete(assembly.request, block);
        }
        if !self.has_room(standing) {
            return failed(Code::SERVICE_UNAVAILABLE, BlockError::TooMany);
        }
        self.of_strangers += usize::from(standing != Standing::Known);
        self.by_peer.insert(peer, Assembly { standing, ..assembly });
        self.deadlines.set(peer, now + self.lifetime);
        Assembled::Answer(self.go_on(block), None)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(peer) = self.deadlines.pop_expired(now) {
            self.remove(peer);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub fn len(&self) -> usize {
        self.by_peer.len()
    }

    /// Strangers leave the other half to those that are known.
    fn has_room(&self, standing: Standing) -> bool {
        let strangers = standing == Standing::Known || self.of_strangers < self.limit.div_ceil(2);
        self.by_peer.len() < self.limit && strangers
    }

    fn remove(&mut self, peer: Peer) -> Option<Assembly> {
        self.deadlines.cancel(peer);
        let assembly = self.by_peer.remove(&peer)?;
        self.of_strangers -= usize::from(assembly.standing != Standing::Known);
        Some(assembly)
    }

    /// 2.31; a first block that is larger than ours tells our size, and the peer goes on with that.
    fn go_on(&self, block: Block) -> Response {
        let mut response = Response::new(Code::CONTINUE);
        let size = if block.number == 0 { block.size.min(self.largest) } else { block.size };
        Block { size, ..block }.add_to(&mut response.options, number::BLOCK1);
        response
    }

    /// With the limit as Size1, so that the peer knows (RFC 7959 section 2.9.3).
    fn too_large(&self) -> Assembled {
        let mut response = Response::new(Code::REQUEST_ENTITY_TOO_LARGE);
        response.options.add_uint(number::SIZE1, u32::try_from(self.body_limit).unwrap_or(u32::MAX));
        Assembled::Answer(response, Some(BlockError::TooLarge))
    }
}

impl Assembly {
    fn new(request: &Request, standing: Standing) -> Self {
        let options = without_blocks(&request.options);
        Self { request: Request { method: request.method, options, payload: Vec::new() }, standing }
    }

    fn is_of(&self, request: &Request) -> bool {
        self.request.method == request.method && self.request.options == without_blocks(&request.options)
    }
}

fn failed(code: Code, error: BlockError) -> Assembled {
    Assembled::Answer(Response::new(code), Some(error))
}
