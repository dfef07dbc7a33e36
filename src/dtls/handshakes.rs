//! The handshakes under way: how many there are and of whom, and when they speak again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::coap::{AssociationId, Peer};
use crate::deadlines::Deadlines;
use crate::rate::{Exceeded, Limiter, Source};

use super::associations::Place;
use super::credentials::PskIdentity;
use super::handshake::Handshake;
use super::record::OwnCid;
use super::report::DropReason;
use super::settings::Settings;

/// The wait for the answer to a flight, the first time and at most (RFC 6347 section 4.2.4.1).
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A handshake, and what is known beside it.
pub struct Underway {
    pub handshake: Handshake,
    pub place: Place,
    /// Of its hello: another one is of another handshake.
    pub random: [u8; 32],
    /// The client named it.
    pub identity: Option<PskIdentity>,
    /// The key of that identity is being looked up: the client waits for us, and is not to be asked again.
    pub asking: bool,
    /// It is given up then.
    ends: Instant,
    /// When our flight goes out again, and how long it was waited for that.
    repeats: Instant,
    wait: Duration,
}

impl Underway {
    pub fn new(handshake: Handshake, place: Place, random: [u8; 32], ends: Instant) -> Self {
        Self { handshake, place, random, identity: None, asking: false, ends, repeats: ends, wait: FIRST_WAIT }
    }

    pub fn peer(&self) -> Peer {
        Peer::udp(self.place.0, self.place.1)
    }

    /// A flight went out, in answer to something.
    pub fn sent(&mut self, now: Instant) {
        self.wait = FIRST_WAIT;
        self.repeats = now + self.wait;
    }

    /// Whether our flight is to go out again; the next time it takes twice as long.
    pub fn repeats(&mut self, now: Instant) -> bool {
        if self.repeats > now {
            return false;
        }
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        self.repeats = now + self.wait;
        !self.asking
    }

    pub fn is_over(&self, now: Instant) -> bool {
        self.ends <= now
    }

    fn deadline(&self) -> Instant {
        self.ends.min(self.repeats)
    }
}

pub struct Handshakes {
    most: usize,
    most_per_source: usize,
    begun: Limiter,
    /// By the id of the association to be, which is our connection id.
    by_id: HashMap<AssociationId, Box<Underway>>,
    by_place: HashMap<Place, AssociationId>,
    per_source: HashMap<Source, usize>,
    deadlines: Deadlines<AssociationId>,
}

impl Handshakes {
    pub fn new(settings: &Settings) -> Self {
        Self {
            most: settings.handshakes,
            most_per_source: settings.handshakes_per_address,
            begun: Limiter::new(settings.begun),
            by_id: HashMap::new(),
            by_place: HashMap::new(),
            per_source: HashMap::new(),
            deadlines: Deadlines::default(),
        }
    }

    /// Whether there is room for one more, from there. It counts as begun then.
    pub fn admit(&mut self, now: Instant, (_, address): Place) -> Result<(), DropReason> {
        if self.by_id.len() >= self.most {
            return Err(DropReason::TooManyHandshakes);
        }
        let source = Source::of(address);
        if self.per_source.get(&source).is_some_and(|number| *number >= self.most_per_source) {
            return Err(DropReason::TooManyHandshakesFromAddress);
        }
        self.begun.take(now, source).map_err(|exceeded| match exceeded {
            Exceeded::Address => DropReason::TooManyHandshakesFromAddress,
            Exceeded::Total => DropReason::TooManyHandshakes,
        })
    }

    pub fn insert(&mut self, id: AssociationId, underway: Underway) {
        self.by_place.insert(underway.place, id);
        *self.per_source.entry(Source::of(underway.place.1)).or_default() += 1;
        self.deadlines.set(id, underway.deadline());
        self.by_id.insert(id, Box::new(underway));
    }

    pub fn remove(&mut self, id: AssociationId) -> Option<Box<Underway>> {
        let underway = self.by_id.remove(&id)?;
        self.deadlines.cancel(id);
        if self.by_place.get(&underway.place) == Some(&id) {
            self.by_place.remove(&underway.place);
        }
        let source = Source::of(underway.place.1);
        if let Some(number) = self.per_source.get_mut(&source) {
            *number -= 1;
            if *number == 0 {
                self.per_source.remove(&source);
            }
        }
        Some(underway)
    }

    /// One whose deadline came. It has another one after [`Handshakes::set_deadline`].
    pub fn pop_due(&mut self, now: Instant) -> Option<AssociationId> {
        self.deadlines.pop_expired(now)
    }

    pub fn set_deadline(&mut self, id: AssociationId) {
        if let Some(underway) = self.by_id.get(&id) {
            self.deadlines.set(id, underway.deadline());
        }
    }

    pub fn get_mut(&mut self, id: AssociationId) -> Option<&mut Underway> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    pub fn by_place(&self, place: Place) -> Option<AssociationId> {
        self.by_place.get(&place).copied()
    }

    /// Whose records carry this connection id of ours. A handshake stays where it began.
    pub fn by_cid(&self, cid: OwnCid, place: Place) -> Option<AssociationId> {
        let id = AssociationId(u64::from_be_bytes(cid.0));
        self.by_id.get(&id).filter(|underway| underway.place == place).map(|_| id)
    }

    /// Those that have the key of such an identity.
    pub fn of_identities(&self, wanted: impl Fn(&PskIdentity) -> bool) -> Vec<AssociationId> {
        let have_key = self.by_id.iter().filter(|(_, underway)| !underway.asking);
        have_key.filter(|(_, underway)| underway.identity.as_ref().is_some_and(&wanted)).map(|(id, _)| *id).collect()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub fn contains(&self, id: AssociationId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }
}
