//! The handshakes in progress: their number in total and by address, and the retransmission of their flights.
//!
//! While less than half of the places are taken, one address may have all that are free: behind a carrier's NAT a whole
//! fleet comes back from a power cut. Beyond that an address has a small share, unless devices have proved their keys
//! at it: then it may have half of all places, and an eighth of all is for such addresses only. A handshake whose
//! client does not answer makes room for others long before its deadline: see [`super::sources`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::rate::{Exceeded, SourceNetwork};
use lwm2m_base::{AssociationId, Peer, Shard};

use super::associations::PeerAddress;
use super::config::DtlsConfig;
use super::credentials::{FoundKey, KeyKind, KeyRealm, KeyUse, PskKey, UsedKey};
use super::handshake::Handshake;
use super::handshake_rate::HandshakeRate;
use super::key_turns::KeyTurn;
use super::record::OwnCid;
use super::report::DtlsDropReason;
use super::sources::{HandshakeNumber, HandshakeSources};
use lwm2m_base::identity::PskIdentity;

/// The wait for the answer to a flight, the first time and at most (RFC 6347 section 4.2.4.1).
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A handshake is overdue if its client does not answer the first flight for so long, or does not finish the handshake
/// so long after that. The flight was sent twice by then. Places for as many handshakes as begin meanwhile are enough
/// for everybody: a thousand of an attacker in a second leave room for a device in a table of two thousand.
const OVERDUE_AFTER: Duration = Duration::from_secs(2);

/// A handshake whose client has not answered for so long may make room for an address that has fewer handshakes.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// A handshake with its address, its times and its retransmissions.
pub(crate) struct PendingHandshake {
    pub handshake: Handshake,
    pub place: PeerAddress,
    /// The random of the hello. A hello with another one begins another handshake.
    pub random: [u8; 32],
    /// The client named it.
    pub identity: Option<PskIdentity>,
    /// The key of that identity with its kind, once it is known.
    pub key: Option<(PskKey, KeyKind)>,
    /// The key of that identity is being looked up: the client waits for us, and is not to be asked again.
    pub asking: bool,
    number: HandshakeNumber,
    answered: bool,
    /// The handshake is given up at this time.
    ends: Instant,
    /// The time of the next retransmission, and the interval before it.
    repeats: Instant,
    wait: Duration,
}

impl PendingHandshake {
    pub(crate) fn new(handshake: Handshake, place: PeerAddress, random: [u8; 32], ends: Instant) -> Self {
        Self {
            handshake,
            place,
            random,
            identity: None,
            key: None,
            asking: false,
            number: 0,
            answered: false,
            ends,
            repeats: ends,
            wait: FIRST_WAIT,
        }
    }

    /// Continues the handshake with the key of its identity. Of two keys it takes the one of the ticket that the client
    /// resumes with, or in a full handshake the one whose turn it is.
    pub(crate) fn give_key(&mut self, found: &FoundKey, turn: impl FnOnce() -> KeyTurn) {
        let key = match &found.former {
            None => &found.key,
            Some(former) if self.handshake.is_resuming() => {
                if self.handshake.resumes_with(former) {
                    former
                } else {
                    &found.key
                }
            }
            Some(former) => match turn() {
                KeyTurn::New => &found.key,
                KeyTurn::Former => former,
            },
        };
        self.key = Some((key.clone(), found.kind));
        self.handshake.handle_key(Some(key));
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::udp(self.place.0, self.place.1)
    }

    pub(crate) fn source(&self) -> SourceNetwork {
        SourceNetwork::of(self.place.1)
    }

    /// Starts the retransmission timer after a flight that answers the client.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.wait = FIRST_WAIT;
        self.repeats = now + self.wait;
    }

    /// Returns whether the flight has to be sent again, and doubles the interval.
    pub(crate) fn repeats(&mut self, now: Instant) -> bool {
        if self.repeats > now {
            return false;
        }
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        self.repeats = now + self.wait;
        !self.asking
    }

    /// Returns whether the client has owed an answer to the last flight for longer than most networks take.
    fn is_late(&self, now: Instant) -> bool {
        !self.asking && self.repeats - self.wait + LATE_AFTER <= now
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.ends <= now
    }

    fn deadline(&self) -> Instant {
        self.ends.min(self.repeats)
    }
}

pub(crate) struct Handshakes {
    most: usize,
    /// Places of one address, once half of all are taken.
    share: usize,
    rate: HandshakeRate,
    /// The handshakes by the id of their future association, which is the gateway's connection id.
    by_id: HashMap<AssociationId, Box<PendingHandshake>>,
    by_place: HashMap<PeerAddress, AssociationId>,
    sources: HandshakeSources,
    /// The time at which each handshake is overdue.
    overdue_deadlines: IdDeadlines<AssociationId>,
    /// The number of handshakes that ever began.
    begun_ever: HandshakeNumber,
    deadlines: IdDeadlines<AssociationId>,
}

impl Handshakes {
    pub(crate) fn new(config: &DtlsConfig) -> Self {
        Self {
            most: config.handshakes,
            share: config.handshakes_per_address,
            rate: HandshakeRate::new(config.begun),
            by_id: HashMap::new(),
            by_place: HashMap::new(),
            sources: HandshakeSources::default(),
            overdue_deadlines: IdDeadlines::default(),
            begun_ever: 0,
            deadlines: IdDeadlines::default(),
        }
    }

    /// Admits one more handshake from this address; it then counts as begun. `is_known` tells whether devices have
    /// proved their keys at this address. Returns the handshake that has to be evicted for the new one, if there is
    /// one.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        (_, address): PeerAddress,
        is_known: bool,
    ) -> Result<Option<AssociationId>, DtlsDropReason> {
        let source = SourceNetwork::of(address);
        self.find_overdue(now);
        let evicted = self.place_for(now, source, is_known)?;
        self.rate.take(now, source, is_known).map_err(|exceeded| match exceeded {
            Exceeded::Address => DtlsDropReason::TooManyHandshakesFromAddress,
            Exceeded::Total => DtlsDropReason::TooManyHandshakes,
        })?;
        Ok(evicted)
    }

    fn find_overdue(&mut self, now: Instant) {
        while let Some(id) = self.overdue_deadlines.pop_expired(now) {
            match self.by_id.get(&id) {
                // The client waits for us.
                Some(underway) if underway.asking => self.overdue_deadlines.set(id, now + OVERDUE_AFTER),
                Some(underway) => self.sources.overdue(underway.source(), underway.number, id),
                None => {}
            }
        }
    }

    fn place_for(
        &self,
        now: Instant,
        source: SourceNetwork,
        is_known: bool,
    ) -> Result<Option<AssociationId>, DtlsDropReason> {
        let taken = self.by_id.len();
        if 2 * taken < self.most {
            return Ok(None);
        }
        let (share, places) = match is_known {
            true => (self.share.max(self.most / 2), self.most),
            false => (self.share, self.most - self.most / 8),
        };
        let own = self.sources.count(source);
        if own >= share {
            let own = self.sources.victim_of(source);
            return own.map(Some).ok_or(DtlsDropReason::TooManyHandshakesFromAddress);
        }
        if taken < places {
            return Ok(None);
        }
        let victim = self.sources.victim().or_else(|| self.late_of_more_than(now, own + 1));
        victim.map(Some).ok_or(DtlsDropReason::TooManyHandshakes)
    }

    /// Returns the oldest handshake of the unknown address with the most of them, if these are more than so many, and
    /// its client is late.
    fn late_of_more_than(&self, now: Instant, count: usize) -> Option<AssociationId> {
        let oldest = self.sources.oldest_of_more_than(count)?;
        self.by_id.get(&oldest).is_some_and(|underway| underway.is_late(now)).then_some(oldest)
    }

    pub(crate) fn insert(&mut self, now: Instant, id: AssociationId, mut underway: PendingHandshake, is_known: bool) {
        self.begun_ever += 1;
        underway.number = self.begun_ever;
        self.by_place.insert(underway.place, id);
        self.sources.begun(underway.source(), underway.number, (!is_known).then_some(id));
        self.overdue_deadlines.set(id, now + OVERDUE_AFTER);
        self.deadlines.set(id, underway.deadline());
        self.by_id.insert(id, Box::new(underway));
    }

    /// Notes it when the client has answered for the first time.
    pub(crate) fn heard(&mut self, now: Instant, id: AssociationId) {
        let Some(underway) = self.by_id.get_mut(&id) else { return };
        if underway.handshake.is_answered() && !underway.answered {
            underway.answered = true;
            self.sources.answered(underway.source(), underway.number);
            self.overdue_deadlines.set(id, now + OVERDUE_AFTER);
        }
    }

    pub(crate) fn remove(&mut self, id: AssociationId) -> Option<Box<PendingHandshake>> {
        let underway = self.by_id.remove(&id)?;
        self.deadlines.cancel(id);
        if self.by_place.get(&underway.place) == Some(&id) {
            self.by_place.remove(&underway.place);
        }
        self.overdue_deadlines.cancel(id);
        self.sources.ended(underway.source(), underway.number);
        Some(underway)
    }

    /// Returns a handshake whose deadline has passed. [`Handshakes::set_deadline`] sets the next one.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<AssociationId> {
        self.deadlines.pop_expired(now)
    }

    pub(crate) fn set_deadline(&mut self, id: AssociationId) {
        if let Some(underway) = self.by_id.get(&id) {
            self.deadlines.set(id, underway.deadline());
        }
    }

    pub(crate) fn get_mut(&mut self, id: AssociationId) -> Option<&mut PendingHandshake> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    pub(crate) fn by_place(&self, place: PeerAddress) -> Option<AssociationId> {
        self.by_place.get(&place).copied()
    }

    /// Returns the handshake whose records carry this connection id of ours. A handshake does not move to another
    /// address.
    pub(crate) fn by_cid(&self, cid: OwnCid, place: PeerAddress) -> Option<AssociationId> {
        let id = AssociationId(u64::from_be_bytes(cid.0));
        self.by_id.get(&id).filter(|underway| underway.place == place).map(|_| id)
    }

    /// Returns the handshakes that use a matching key.
    pub(crate) fn with_keys(
        &self,
        realm_of: impl Fn(u16) -> KeyRealm,
        wanted: impl Fn(KeyUse<'_>) -> bool,
    ) -> Vec<AssociationId> {
        let is_wanted = |underway: &PendingHandshake| match (&underway.identity, &underway.key) {
            (Some(identity), Some((key, kind))) => {
                let realm = realm_of(underway.place.0);
                wanted(KeyUse { identity, kind: *kind, realm, key: UsedKey::Key(key) })
            }
            (Some(_) | None, _) => false,
        };
        self.by_id.iter().filter(|(_, underway)| is_wanted(underway)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Returns the handshakes whose association would be of this shard.
    pub(crate) fn of_shard(&self, shard: Shard) -> Vec<AssociationId> {
        self.by_id.keys().filter(|id| id.shard() == shard).copied().collect()
    }

    pub(crate) fn contains(&self, id: AssociationId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}
