//! Recently received messages per peer, for duplicate detection (RFC 7252 section 4.5).
//!
//! A message is remembered for EXCHANGE_LIFETIME if it is confirmable and for NON_LIFETIME otherwise. The number of
//! messages is bounded for each peer and in total; unregistered peers have a share of their own, so that they cannot
//! evict messages of registered devices. A datagram is hashed only when a message with its id is known, and when it is
//! remembered.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_base::deadlines::Deadlines;

use super::{Kind, Message, MessageId, Parameters, PeerClass};

/// Unregistered peers get one of this many parts of the limit.
const UNREGISTERED_SHARE: usize = 4;

/// The reply to a received message, which a duplicate of the message gets again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RememberedReply {
    /// No reply was sent yet, or none ever is: a duplicate is dropped.
    None,
    Datagram(Vec<u8>),
}

/// Detects duplicates among the messages of all peers.
#[derive(Debug)]
pub struct Deduplicator {
    registered: ReceivedMessages,
    unregistered: ReceivedMessages,
}

impl Deduplicator {
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            registered: ReceivedMessages::new(parameters, parameters.deduplication_entries),
            unregistered: ReceivedMessages::new(
                parameters,
                parameters.deduplication_entries.div_ceil(UNREGISTERED_SHARE),
            ),
        }
    }

    /// Returns the reply to an earlier message with this id and the same bytes.
    ///
    /// A device that restarts may begin its message ids anew: a retransmission has the same bytes, a new message has
    /// not.
    pub fn duplicate(&self, now: Instant, peer: Peer, id: MessageId, datagram: &[u8]) -> Option<&RememberedReply> {
        // The peer may have registered after its message was remembered.
        let unregistered = self.unregistered.with_id(now, peer, id);
        let mut earlier = self.registered.with_id(now, peer, id).chain(unregistered).peekable();
        earlier.peek()?;
        let fingerprint = fingerprint(datagram);
        earlier.find(|received| received.fingerprint == fingerprint).map(|received| &received.reply)
    }

    /// Remembers a message, unless its class keeps no state. Returns the peer whose oldest message was evicted to make
    /// room.
    pub fn remember(
        &mut self,
        now: Instant,
        (peer, class): (Peer, PeerClass),
        (id, kind): (MessageId, Kind),
        datagram: &[u8],
    ) -> Option<Peer> {
        let messages = match class {
            PeerClass::Registered => &mut self.registered,
            PeerClass::Unregistered => &mut self.unregistered,
            PeerClass::UnregisteredIdempotent => return None,
        };
        messages.remember(now, peer, (id, kind), fingerprint(datagram))
    }

    /// Returns the number of remembered messages with this id that were accepted as a notification, or have no reply
    /// yet. A reset for another message with the id would be taken as the answer to them.
    pub fn resettable(&self, now: Instant, peer: Peer, id: MessageId) -> usize {
        let received = self.registered.with_id(now, peer, id).chain(self.unregistered.with_id(now, peer, id));
        let empty_acknowledgement = RememberedReply::Datagram(Message::empty(Kind::Acknowledgement, id).encode());
        received.filter(|one| one.reply == RememberedReply::None || one.reply == empty_acknowledgement).count()
    }

    /// Sets the reply that duplicates of the newest message with this id get from now on.
    pub fn set_reply(&mut self, peer: Peer, id: MessageId, reply: &[u8]) {
        let newest = self.registered.newest(peer, id).or_else(|| self.unregistered.newest(peer, id));
        if let Some(received) = newest {
            received.reply = RememberedReply::Datagram(reply.to_vec());
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.registered.handle_timeout(now);
        self.unregistered.handle_timeout(now);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        [self.registered.deadlines.next(), self.unregistered.deadlines.next()].into_iter().flatten().min()
    }

    /// Returns the number of remembered messages.
    pub fn len(&self) -> usize {
        self.registered.total + self.unregistered.total
    }
}

/// The remembered messages of one class of peers.
#[derive(Debug)]
struct ReceivedMessages {
    by_peer: HashMap<Peer, VecDeque<Received>>,
    /// The time at which the first message of a peer expires.
    deadlines: Deadlines<Peer>,
    total: usize,
    exchange_lifetime: Duration,
    non_lifetime: Duration,
    per_peer: usize,
    limit: usize,
}

#[derive(Debug)]
struct Received {
    id: MessageId,
    fingerprint: u64,
    expires: Instant,
    reply: RememberedReply,
}

impl ReceivedMessages {
    fn new(parameters: &Parameters, limit: usize) -> Self {
        Self {
            by_peer: HashMap::new(),
            deadlines: Deadlines::default(),
            total: 0,
            exchange_lifetime: parameters.exchange_lifetime(),
            non_lifetime: parameters.non_lifetime(),
            per_peer: parameters.deduplication_entries_per_peer,
            limit,
        }
    }

    /// Returns the messages of a peer with this id that have not expired, newest first.
    fn with_id(&self, now: Instant, peer: Peer, id: MessageId) -> impl Iterator<Item = &Received> {
        let received = self.by_peer.get(&peer).into_iter().flatten().rev();
        received.filter(move |received| received.id == id && received.expires > now)
    }

    fn newest(&mut self, peer: Peer, id: MessageId) -> Option<&mut Received> {
        self.by_peer.get_mut(&peer)?.iter_mut().rev().find(|received| received.id == id)
    }

    /// Evicts the oldest message of the peer, or the one that expires first of all, when the bound is reached.
    fn remember(&mut self, now: Instant, peer: Peer, (id, kind): (MessageId, Kind), fingerprint: u64) -> Option<Peer> {
        let evicted = if self.by_peer.get(&peer).is_some_and(|received| received.len() >= self.per_peer) {
            Some(peer)
        } else {
            self.deadlines.first().filter(|_| self.total >= self.limit).map(|(_, oldest)| oldest)
        };
        if let Some(peer) = evicted {
            self.evict_oldest_of(peer);
        }
        let lifetime = match kind {
            Kind::Confirmable => self.exchange_lifetime,
            Kind::NonConfirmable | Kind::Acknowledgement | Kind::Reset => self.non_lifetime,
        };
        let received = Received { id, fingerprint, expires: now + lifetime, reply: RememberedReply::None };
        self.by_peer.entry(peer).or_default().push_back(received);
        self.total += 1;
        self.set_deadline(peer);
        evicted
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(peer) = self.deadlines.pop_expired(now) {
            let Some(received) = self.by_peer.get_mut(&peer) else { continue };
            let before = received.len();
            received.retain(|received| received.expires > now);
            self.total -= before - received.len();
            self.set_deadline(peer);
        }
    }

    fn evict_oldest_of(&mut self, peer: Peer) {
        let Some(received) = self.by_peer.get_mut(&peer) else { return };
        if received.pop_front().is_some() {
            self.total -= 1;
        }
        self.set_deadline(peer);
    }

    /// Moves the deadline to the first message that expires, and removes a peer without messages.
    fn set_deadline(&mut self, peer: Peer) {
        let first = self.by_peer.get(&peer).and_then(|received| received.iter().map(|received| received.expires).min());
        match first {
            Some(at) => self.deadlines.set(peer, at),
            None => {
                self.by_peer.remove(&peer);
                self.deadlines.cancel(peer);
            }
        }
    }
}

fn fingerprint(datagram: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    datagram.hash(&mut hasher);
    hasher.finish()
}
