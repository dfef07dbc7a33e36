//! What came lately from each peer, so that a message that comes twice is acted on once (RFC 7252 section 4.5).

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use lwm2m_base::deadlines::Deadlines;

use lwm2m_base::Peer;

use super::{Kind, MessageId, Parameters};

/// What was said to a message of the peer: sent again when the message comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing yet, or nothing at all: a duplicate is dropped.
    None,
    Datagram(Vec<u8>),
}

/// Remembers messages for EXCHANGE_LIFETIME or NON_LIFETIME, a bounded number of them for each peer and for all.
#[derive(Debug)]
pub struct History {
    peers: HashMap<Peer, VecDeque<Received>>,
    /// When the first message of a peer may be forgotten.
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
    reply: Reply,
}

impl History {
    /// Remembers `limit` messages at the most.
    pub fn new(parameters: &Parameters, limit: usize) -> Self {
        Self {
            peers: HashMap::new(),
            deadlines: Deadlines::default(),
            total: 0,
            exchange_lifetime: parameters.exchange_lifetime(),
            non_lifetime: parameters.non_lifetime(),
            per_peer: parameters.exchanges_per_peer,
            limit,
        }
    }

    /// The reply to an earlier message with this id, when these are its bytes again.
    ///
    /// A device that restarts may begin its message ids anew; a retransmission is the same bytes, its new message is not.
    pub fn duplicate(&self, now: Instant, peer: Peer, id: MessageId, datagram: &[u8]) -> Option<&Reply> {
        let fingerprint = fingerprint(datagram);
        self.peers
            .get(&peer)?
            .iter()
            .rev()
            .find(|received| received.id == id && received.fingerprint == fingerprint && received.expires > now)
            .map(|received| &received.reply)
    }

    /// Remembers a message. The oldest of the peer, and the oldest of all, are forgotten when their bound is reached: then
    /// whose it was.
    pub fn remember(&mut self, now: Instant, peer: Peer, id: MessageId, kind: Kind, datagram: &[u8]) -> Option<Peer> {
        let forgotten = if self.peers.get(&peer).is_some_and(|received| received.len() >= self.per_peer) {
            Some(peer)
        } else {
            self.deadlines.first().filter(|_| self.total >= self.limit).map(|(_, oldest)| oldest)
        };
        if let Some(peer) = forgotten {
            self.forget_oldest_of(peer);
        }
        let lifetime = match kind {
            Kind::Confirmable => self.exchange_lifetime,
            Kind::NonConfirmable | Kind::Acknowledgement | Kind::Reset => self.non_lifetime,
        };
        let received = Received { id, fingerprint: fingerprint(datagram), expires: now + lifetime, reply: Reply::None };
        self.peers.entry(peer).or_default().push_back(received);
        self.total += 1;
        self.set_deadline(peer);
        forgotten
    }

    /// Sets what the newest message with this id is answered with from now on; whether there is one.
    pub fn replied(&mut self, peer: Peer, id: MessageId, reply: &[u8]) -> bool {
        let newest = self.peers.get_mut(&peer).and_then(|all| all.iter_mut().rev().find(|received| received.id == id));
        newest.map(|received| received.reply = Reply::Datagram(reply.to_vec())).is_some()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(peer) = self.deadlines.pop_expired(now) {
            let Some(received) = self.peers.get_mut(&peer) else { continue };
            let before = received.len();
            received.retain(|received| received.expires > now);
            self.total -= before - received.len();
            self.set_deadline(peer);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// The messages that are remembered.
    pub fn len(&self) -> usize {
        self.total
    }

    fn forget_oldest_of(&mut self, peer: Peer) {
        let Some(received) = self.peers.get_mut(&peer) else { return };
        if received.pop_front().is_some() {
            self.total -= 1;
        }
        self.set_deadline(peer);
    }

    /// The deadline follows the first message that expires; a peer without messages is forgotten.
    fn set_deadline(&mut self, peer: Peer) {
        let first = self.peers.get(&peer).and_then(|received| received.iter().map(|received| received.expires).min());
        match first {
            Some(at) => self.deadlines.set(peer, at),
            None => {
                self.peers.remove(&peer);
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
