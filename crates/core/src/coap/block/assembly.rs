//! Bodies that peers send by Block1 (RFC 7959 section 2.3): put together, bounded in size, number and age.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::coap::options::number;
use crate::coap::{Code, Parameters, PeerClass, Request, Response};
use lwm2m_base::Peer;

use super::classes::{Class, ClassId};
use super::{Block, BlockError, BlockSize, without_blocks};

/// The longest body of a peer that the layer above does not know.
const LONGEST_UNREGISTERED_BODY: usize = 64 * 1024;
/// Limits how long an unregistered peer may take for its next block: longer than all repetitions of it with the default
/// parameters.
const UNREGISTERED_LIFETIME: Duration = Duration::from_secs(30);
/// Limits each class of unregistered peers to one part of so many of the bytes of all bodies.
const UNREGISTERED_SHARE: usize = 8;

/// Owns the incomplete bodies: at most one for each peer. Its request tells whether the next block belongs to it.
#[derive(Debug)]
pub(crate) struct Assemblies {
    by_peer: HashMap<Peer, Assembly>,
    classes: [Class; ClassId::COUNT],
    /// The bytes of all bodies, and of those of each class.
    held: usize,
    held_by_class: [usize; ClassId::COUNT],
    body_limit: usize,
    unregistered_bytes: usize,
    largest: BlockSize,
    evicted: Vec<Peer>,
}

#[derive(Debug)]
struct Assembly {
    /// The request with the part of its body that has arrived.
    request: Request,
    blocks: usize,
    class: ClassId,
}

/// The result of a request with a Block1 option.
#[derive(Debug, PartialEq)]
pub(crate) enum Assembled {
    /// The request is complete. The response to it carries this block.
    Complete(Request, Block),
    /// The caller answers the request with this response.
    Answer(Response, Option<BlockError>),
}

impl Assemblies {
    /// Creates an empty assembly. Registered peers have room for `parameters.block_uploads` bodies over DTLS, and for
    /// as many over plain UDP. Each of the two classes of unregistered peers has room for half as many.
    pub(crate) fn new(parameters: &Parameters, largest: BlockSize) -> Self {
        let limit = parameters.block_uploads;
        let of_known = || Class::new(true, limit, parameters.exchange_lifetime());
        let lifetime = UNREGISTERED_LIFETIME.min(parameters.exchange_lifetime());
        let of_unregistered = || Class::new(false, limit.div_ceil(2), lifetime);
        Self {
            by_peer: HashMap::new(),
            classes: [of_unregistered(), of_unregistered(), of_known(), of_known()],
            held: 0,
            held_by_class: [0; ClassId::COUNT],
            body_limit: parameters.received_body_size,
            unregistered_bytes: parameters.block_transfer_bytes / UNREGISTERED_SHARE,
            largest,
            evicted: Vec::new(),
        }
    }

    /// Takes a block; `room` is how many bytes all bodies of peers may have now.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        (peer, class): (Peer, PeerClass),
        request: &Request,
        block: Block,
        room: usize,
    ) -> Assembled {
        let begun = self.remove(peer).filter(|begun| block.number != 0 && begun.is_of(request));
        let class = ClassId::of(peer, class);
        let mut assembly = match begun {
            Some(begun) => Assembly { class, ..begun },
            None if block.number == 0 => Assembly::new(request, class),
            None => return failed(Code::REQUEST_ENTITY_INCOMPLETE, BlockError::OutOfOrder),
        };
        if assembly.has(request, block) {
            self.insert(now, peer, assembly);
            return Assembled::Answer(self.go_on(block), None);
        }
        if block.offset() != assembly.request.payload.len() {
            return failed(Code::REQUEST_ENTITY_INCOMPLETE, BlockError::OutOfOrder);
        }
        if block.more && request.payload.len() != block.size.bytes() || request.payload.len() > block.size.bytes() {
            return failed(Code::BAD_REQUEST, BlockError::OutOfOrder);
        }
        let length = assembly.request.payload.len() + request.payload.len();
        if length > self.longest(class) {
            return self.too_large(class);
        }
        assembly.request.payload.extend(&request.payload);
        assembly.blocks += 1;
        if !block.more {
            return Assembled::Complete(assembly.request, block);
        }
        if let Err(error) = self.make_room(peer, class, length, room) {
            return failed(Code::SERVICE_UNAVAILABLE, error);
        }
        self.insert(now, peer, assembly);
        Assembled::Answer(self.go_on(block), None)
    }

    /// Returns a peer whose body was evicted for another one.
    pub(crate) fn poll_evicted(&mut self) -> Option<Peer> {
        self.evicted.pop()
    }

    /// Drops bodies of unregistered peers, the oldest first, until all bodies have at most this many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        while self.held > bytes
            && let Some(oldest) = self.oldest_of_unregistered()
        {
            self.evict(oldest);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(peer) = self.classes.iter().find_map(|class| class.expired(now)) {
            self.remove(peer);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.classes.iter().filter_map(Class::next_deadline).min()
    }

    /// Returns whether a body of this peer is incomplete.
    pub(crate) fn has(&self, peer: Peer) -> bool {
        self.by_peer.contains_key(&peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_peer.len()
    }

    /// Returns the bytes of all bodies.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn longest(&self, class: ClassId) -> usize {
        if class.is_known() { self.body_limit } else { self.body_limit.min(LONGEST_UNREGISTERED_BODY) }
    }

    /// Makes room for one more body of this class, of this many bytes.
    fn make_room(&mut self, peer: Peer, class: ClassId, bytes: usize, room: usize) -> Result<(), BlockError> {
        let index = class.index();
        if !self.classes[index].has_room(peer) {
            let victim = self.classes[index].victim(peer).ok_or(BlockError::TooMany)?;
            self.evict(victim);
        }
        while !class.is_known()
            && self.held_by_class[index] + bytes > self.unregistered_bytes
            && let Some(oldest) = self.classes[index].oldest()
        {
            self.evict(oldest);
        }
        self.shrink_to(room.saturating_sub(bytes));
        if self.held + bytes > room { Err(BlockError::NoRoom) } else { Ok(()) }
    }

    fn oldest_of_unregistered(&self) -> Option<Peer> {
        let unregistered =
            self.classes.iter().zip(self.held_by_class).filter(|(class, held)| !class.is_known() && *held > 0);
        unregistered.max_by_key(|(_, held)| *held).and_then(|(class, _)| class.oldest())
    }

    fn evict(&mut self, peer: Peer) {
        self.remove(peer);
        self.evicted.push(peer);
    }

    fn insert(&mut self, now: Instant, peer: Peer, assembly: Assembly) {
        let (index, length) = (assembly.class.index(), assembly.request.payload.len());
        self.classes[index].insert(now, peer, assembly.blocks);
        self.held += length;
        self.held_by_class[index] += length;
        self.by_peer.insert(peer, assembly);
    }

    fn remove(&mut self, peer: Peer) -> Option<Assembly> {
        let assembly = self.by_peer.remove(&peer)?;
        let (index, length) = (assembly.class.index(), assembly.request.payload.len());
        self.classes[index].remove(peer);
        self.held -= length;
        self.held_by_class[index] -= length;
        Some(assembly)
    }

    /// Returns the answer 2.31 to a block. If a first block is larger than ours, the answer has our size, and the peer
    /// continues with that one.
    fn go_on(&self, block: Block) -> Response {
        let mut response = Response::new(Code::CONTINUE);
        let size = if block.number == 0 { block.size.min(self.largest) } else { block.size };
        Block { size, ..block }.add_to(&mut response.options, number::BLOCK1);
        response
    }

    /// Answers 4.13 with the limit as Size1, so that the peer knows it (RFC 7959 section 2.9.3).
    fn too_large(&self, class: ClassId) -> Assembled {
        let mut response = Response::new(Code::REQUEST_ENTITY_TOO_LARGE);
        response.options.add_uint(number::SIZE1, u32::try_from(self.longest(class)).unwrap_or(u32::MAX));
        Assembled::Answer(response, Some(BlockError::TooLarge))
    }
}

impl Assembly {
    fn new(request: &Request, class: ClassId) -> Self {
        let options = without_blocks(&request.options);
        let request = Request { method: request.method, options, payload: Vec::new() };
        Self { request, blocks: 0, class }
    }

    fn is_of(&self, request: &Request) -> bool {
        self.request.method == request.method && self.request.options == without_blocks(&request.options)
    }

    /// Returns whether this block came before: its answer was lost, and the peer sends it again in a new message.
    fn has(&self, request: &Request, block: Block) -> bool {
        let end = block.offset() + request.payload.len();
        let there = self.request.payload.get(block.offset()..end);
        block.more && !request.payload.is_empty() && there == Some(&request.payload[..])
    }
}

fn failed(code: Code, error: BlockError) -> Assembled {
    Assembled::Answer(Response::new(code), Some(error))
}
