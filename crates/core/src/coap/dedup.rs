//! Recently received messages per peer, for duplicate detection (RFC 7252 section 4.5).
//!
//! A message is remembered for EXCHANGE_LIFETIME if it is confirmable and for NON_LIFETIME otherwise. The number of
//! messages is bounded for each peer and in total; unregistered peers have a share of their own, so that they cannot
//! evict messages of registered devices. A datagram is hashed only when a message with its id is known, and when it is
//! remembered.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use lwm2m_base::Peer;
use lwm2m_base::sparse::ShrinkSparse;

use super::{Kind, Message, MessageId, Parameters, PeerClass};

/// The divisor for the share of unregistered peers in the limit.
const UNREGISTERED_SHARE: usize = 4;

/// The reply to a received message, which a duplicate of the message gets again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RememberedReply {
    /// No reply was sent yet, or none ever is: a duplicate is dropped.
    None,
    Datagram(ReplyBytes),
}

/// The bytes of a reply. Most are acknowledgements of few bytes, which need no memory of their own.
pub(crate) type ReplyBytes = SmallVec<[u8; 16]>;

/// Detects duplicates among the messages of all peers.
#[derive(Debug)]
pub(crate) struct Deduplicator {
    registered: ReceivedMessages,
    unregistered: ReceivedMessages,
}

impl Deduplicator {
    pub(super) fn new(parameters: &Parameters) -> Self {
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
    pub(super) fn duplicate(
        &self,
        now: Instant,
        peer: Peer,
        id: MessageId,
        datagram: &[u8],
    ) -> Option<&RememberedReply> {
        // The peer may have registered after its message was remembered.
        let unregistered = self.unregistered.with_id(now, peer, id);
        let mut earlier = self.registered.with_id(now, peer, id).chain(unregistered).peekable();
        earlier.peek()?;
        let fingerprint = fingerprint(datagram);
        earlier.find(|received| received.fingerprint == fingerprint).map(|received| &received.reply)
    }

    /// Remembers a message, unless its class keeps no state. Returns the peer whose oldest message was evicted to make
    /// room.
    pub(super) fn remember(
        &mut self,
        now: Instant,
        (peer, class): (Peer, PeerClass),
        (id, kind): (MessageId, Kind),
        datagram: &[u8],
    ) -> Option<Peer> {
        let messages = match class {
            PeerClass::Registered => &mut self.registered,
            PeerClass::Unregistered => &mut self.unregistered,
            PeerClass::Idempotent => return None,
        };
        messages.remember(now, peer, (id, kind), fingerprint(datagram))
    }

    /// Returns the number of remembered messages with this id that were accepted as a notification, or have no reply
    /// yet. A reset for another message with the id would be taken as the answer to them.
    pub(super) fn resettable(&self, now: Instant, peer: Peer, id: MessageId) -> usize {
        let received = self.registered.with_id(now, peer, id).chain(self.unregistered.with_id(now, peer, id));
        let empty_acknowledgement =
            RememberedReply::Datagram(Message::empty(Kind::Acknowledgement, id).encode().into());
        received.filter(|one| one.reply == RememberedReply::None || one.reply == empty_acknowledgement).count()
    }

    /// Sets the reply that duplicates of the newest message with this id get from now on.
    pub(crate) fn set_reply(&mut self, peer: Peer, id: MessageId, reply: &[u8]) {
        let newest = self.registered.newest(peer, id).or_else(|| self.unregistered.newest(peer, id));
        if let Some(received) = newest {
            received.reply = RememberedReply::Datagram(reply.into());
        }
    }

    /// Moves the messages of a peer to its other address, from which it repeats those that it has no answer to.
    pub(crate) fn readdress(&mut self, from: Peer, to: Peer) {
        self.registered.readdress(from, to);
        self.unregistered.readdress(from, to);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.registered.handle_timeout(now);
        self.unregistered.handle_timeout(now);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [&self.registered, &self.unregistered]
            .iter()
            .filter_map(|messages| messages.looks.first())
            .map(|(at, _)| *at)
            .min()
    }

    /// Returns the number of remembered messages.
    pub(super) fn len(&self) -> usize {
        self.registered.total + self.unregistered.total
    }
}

/// The remembered messages of one class of peers.
#[derive(Debug)]
struct ReceivedMessages {
    by_peer: HashMap<Peer, PeerMessages>,
    /// The peers in the order in which their messages are checked: [`PeerMessages::deadline`].
    looks: BTreeSet<(Instant, Peer)>,
    total: usize,
    exchange_lifetime: Duration,
    non_lifetime: Duration,
    per_peer: usize,
    limit: usize,
}

/// The remembered messages of one peer, the oldest first.
#[derive(Debug, Default)]
struct PeerMessages {
    received: VecDeque<RememberedMessage>,
    /// The time at which the messages are checked: that of the message that expires first, or earlier.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct RememberedMessage {
    id: MessageId,
    fingerprint: u64,
    expires: Instant,
    reply: RememberedReply,
}

impl ReceivedMessages {
    fn new(parameters: &Parameters, limit: usize) -> Self {
        Self {
            by_peer: HashMap::new(),
            looks: BTreeSet::new(),
            total: 0,
            exchange_lifetime: parameters.exchange_lifetime(),
            non_lifetime: parameters.non_lifetime(),
            per_peer: parameters.deduplication_entries_per_peer,
            limit,
        }
    }

    /// Returns the messages of a peer with this id that have not expired, newest first.
    fn with_id(&self, now: Instant, peer: Peer, id: MessageId) -> impl Iterator<Item = &RememberedMessage> {
        let received = self.by_peer.get(&peer).into_iter().flat_map(|messages| messages.received.iter().rev());
        received.filter(move |received| received.id == id && received.expires > now)
    }

    fn newest(&mut self, peer: Peer, id: MessageId) -> Option<&mut RememberedMessage> {
        self.by_peer.get_mut(&peer)?.received.iter_mut().rev().find(|received| received.id == id)
    }

    /// Evicts the oldest message of the peer, or the one that expires first of all, when the bound is reached.
    fn remember(&mut self, now: Instant, peer: Peer, (id, kind): (MessageId, Kind), fingerprint: u64) -> Option<Peer> {
        let lifetime = match kind {
            Kind::Confirmable => self.exchange_lifetime,
            Kind::NonConfirmable | Kind::Acknowledgement | Kind::Reset => self.non_lifetime,
        };
        let expires = now + lifetime;
        let makes_room_itself = |messages: &PeerMessages| messages.received.len() >= self.per_peer;
        let mut evicted = None;
        if self.total >= self.limit && !self.by_peer.get(&peer).is_some_and(makes_room_itself) {
            evicted = self.evict_first();
        }
        let messages = self.by_peer.entry(peer).or_default();
        if messages.received.len() >= self.per_peer && messages.received.pop_front().is_some() {
            evicted = Some(peer);
            self.total -= 1;
        }
        if messages.received.is_empty() {
            // Most devices send one message at a time; without this the memory is that of four.
            messages.received.reserve_exact(1);
        }
        messages.received.push_back(RememberedMessage { id, fingerprint, expires, reply: RememberedReply::None });
        self.total += 1;
        if messages.deadline.is_none_or(|deadline| expires < deadline) {
            if let Some(former) = messages.deadline.replace(expires) {
                self.looks.remove(&(former, peer));
            }
            self.looks.insert((expires, peer));
        }
        evicted
    }

    fn readdress(&mut self, from: Peer, to: Peer) {
        let Some(mut moved) = self.by_peer.remove(&from) else { return };
        if let Some(deadline) = moved.deadline {
            self.looks.remove(&(deadline, from));
        }
        let messages = self.by_peer.entry(to).or_default();
        // The messages from the new address are newer.
        moved.received.append(&mut messages.received);
        let too_many = moved.received.len().saturating_sub(self.per_peer);
        moved.received.drain(..too_many);
        messages.received = moved.received;
        self.total -= too_many;
        self.set_deadline(to);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while self.looks.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, peer)) = self.looks.pop_first()
        {
            let Some(messages) = self.by_peer.get_mut(&peer) else { continue };
            let before = messages.received.len();
            messages.received.retain(|received| received.expires > now);
            self.total -= before - messages.received.len();
            if messages.received.len() < messages.received.capacity() / 4 {
                messages.received.shrink_to_fit();
            }
            self.set_deadline(peer);
        }
    }

    /// Evicts the oldest message of the peer with the message that expires first. Returns that peer.
    fn evict_first(&mut self) -> Option<Peer> {
        loop {
            let (at, peer) = *self.looks.first()?;
            let messages = self.by_peer.get_mut(&peer)?;
            // Messages of the peer may have been evicted since its deadline was set.
            if messages.first_expiry().is_some_and(|first| first > at) {
                self.set_deadline(peer);
                continue;
            }
            if messages.received.pop_front().is_some() {
                self.total -= 1;
            }
            self.set_deadline(peer);
            return Some(peer);
        }
    }

    /// Moves the deadline to the first message that expires, and removes a peer without messages.
    fn set_deadline(&mut self, peer: Peer) {
        let Some(messages) = self.by_peer.get_mut(&peer) else { return };
        let first = messages.first_expiry();
        if let Some(former) = std::mem::replace(&mut messages.deadline, first) {
            self.looks.remove(&(former, peer));
        }
        match first {
            Some(at) => {
                self.looks.insert((at, peer));
            }
            None => {
                self.by_peer.remove(&peer);
                self.by_peer.shrink_sparse();
            }
        }
    }
}

impl PeerMessages {
    fn first_expiry(&self) -> Option<Instant> {
        self.received.iter().map(|received| received.expires).min()
    }
}

fn fingerprint(datagram: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    datagram.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_evicts_what_expires_first_and_not_of_a_peer_that_has_evicted_that_itself() {
        let start = Instant::now();
        let parameters =
            Parameters { deduplication_entries_per_peer: 2, deduplication_entries: 4, ..Parameters::default() };
        let mut dedup = Deduplicator::new(&parameters);
        let mut remember = |second: u16, port: u16| {
            let (now, peer) = (start + Duration::from_secs(second.into()), peer(port));
            dedup.remember(now, (peer, PeerClass::Registered), (MessageId(second), Kind::NonConfirmable), b"")
        };
        let (busy, quiet, third, fourth) = (1, 2, 3, 4);
        assert_eq!([0, 2].map(|second| remember(second, busy)), [None, None]);
        assert_eq!(remember(1, quiet), None);
        assert_eq!([3, 4].map(|second| remember(second, busy)), [Some(peer(busy)), Some(peer(busy))]);
        assert_eq!(remember(5, third), None);
        assert_eq!(remember(6, fourth), Some(peer(quiet)));
        assert_eq!((dedup.len(), dedup.registered.looks.len()), (4, 3));
    }

    #[test]
    fn a_device_that_has_moved_repeats_its_messages_from_its_new_address() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let parameters = Parameters { deduplication_entries_per_peer: 2, ..Parameters::default() };
        let mut dedup = Deduplicator::new(&parameters);
        let (from, to) = (peer(1), peer(2));
        for (number, at) in [(1, from), (2, from), (3, to)] {
            let message = (MessageId(number), Kind::NonConfirmable);
            dedup.remember(after(number.into()), (at, PeerClass::Registered), message, b"same");
        }
        dedup.readdress(from, to);
        let known = |at, number| dedup.duplicate(after(4), at, MessageId(number), b"same").is_some();
        assert_eq!([1, 2, 3].map(|number| known(to, number)), [false, true, true]);
        assert_eq!([1, 2, 3].map(|number| known(from, number)), [false; 3]);
        assert_eq!((dedup.len(), dedup.registered.looks.len()), (2, 1));
        dedup.handle_timeout(after(1_000));
        assert_eq!((dedup.len(), dedup.next_deadline()), (0, None));
    }

    fn peer(port: u16) -> Peer {
        Peer::udp(0, ([192, 0, 2, 1], port).into())
    }
}
