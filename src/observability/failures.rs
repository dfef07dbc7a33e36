//! The newest failures of devices, for people who look for the reason: who failed, with which code, and why. Equal
//! failures are counted in one entry.
//!
//! Unregistered peers cause failures, so the number of entries, their size, and the number of new entries in a second
//! are bounded.

mod of_report;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lwm2m_core::coap::Code;

/// Maximum number of entries. The entry whose last failure is the oldest is removed for a new one.
const ENTRIES: usize = 512;
/// Maximum number of new entries in a second.
const NEW_PER_SECOND: u32 = 100;
/// Maximum length of each text of an entry, in bytes.
const LONGEST_TEXT: usize = 256;

/// Keeps the newest failures.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<FailureEntries>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A Register or an Update was rejected.
    Register,
    /// A peer used an endpoint name or a registration that it may not use.
    Forbidden,
    /// A request for bootstrap was rejected, or a bootstrap session failed.
    Bootstrap,
    /// A DTLS handshake failed.
    Handshake,
    /// A device did not answer a command.
    Timeout,
    /// A payload of a device could not be decoded.
    Undecodable,
    /// The broker did not take a publication.
    Publish,
    /// A block-wise transfer failed.
    Transfer,
    /// A device of an earlier process was not restored.
    NotRestored,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// The endpoint name, if it is known.
    pub endpoint: Option<String>,
    pub address: Option<SocketAddr>,
    /// The DTLS identity that the peer has proved or, in a handshake, has named.
    pub identity: Option<String>,
    /// The code that the peer was answered.
    pub code: Option<Code>,
    /// The path of the resource or the topic.
    pub path: Option<String>,
    pub reason: String,
}

/// A failure with the number of its occurrences. Failures are equal if they differ only in the port of the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountedFailure {
    /// The last occurrence.
    pub failure: Failure,
    /// The time of the first and of the last occurrence, since 1970.
    pub first: Duration,
    pub at: Duration,
    pub count: u64,
}

#[derive(Debug, Default)]
struct FailureEntries {
    hasher: RandomState,
    /// Finds the place of a failure by its hash. The hash has a random key, so that nobody can choose equal ones.
    places: HashMap<u64, u64>,
    /// The entries with their hashes; the one that occurred last has the largest place.
    in_order: BTreeMap<u64, (u64, CountedFailure)>,
    last_place: u64,
    second: Option<Instant>,
    new_in_second: u32,
}

impl FailureLog {
    /// Adds an occurrence, `count` times. Returns its entry, or `None` if there were too many new ones in this second.
    pub(crate) fn record(&self, now: Instant, at: Duration, failure: Failure, count: u64) -> Option<CountedFailure> {
        self.lock().record(now, at, failure.shortened(), count)
    }

    /// Returns the entries; the one that occurred last comes first.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
    pub(crate) fn newest_first(&self) -> Vec<CountedFailure> {
        self.lock().in_order.values().rev().map(|(_, entry)| entry.clone()).collect()
    }

    // A panic while the entries are locked cannot leave them in a state that matters.
    fn lock(&self) -> MutexGuard<'_, FailureEntries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailureEntries {
    fn record(&mut self, now: Instant, at: Duration, failure: Failure, count: u64) -> Option<CountedFailure> {
        let hash = self.hasher.hash_one(failure.identifying());
        let before = self.places.get(&hash).and_then(|place| self.in_order.remove(place));
        if before.is_none() && !self.takes_new(now) {
            return None;
        }
        let (first, before) = before.map_or((at, 0), |(_, entry)| (entry.first, entry.count));
        let entry = CountedFailure { failure, first, at, count: before.saturating_add(count) };
        self.last_place += 1;
        self.places.insert(hash, self.last_place);
        self.in_order.insert(self.last_place, (hash, entry.clone()));
        if self.in_order.len() > ENTRIES
            && let Some((_, (oldest, _))) = self.in_order.pop_first()
        {
            self.places.remove(&oldest);
        }
        Some(entry)
    }

    fn takes_new(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            (self.second, self.new_in_second) = (Some(now), 0);
        }
        self.new_in_second = self.new_in_second.saturating_add(1);
        self.new_in_second <= NEW_PER_SECOND
    }
}

impl FailureKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Forbidden => "forbidden",
            Self::Bootstrap => "bootstrap",
            Self::Handshake => "handshake",
            Self::Timeout => "timeout",
            Self::Undecodable => "undecodable",
            Self::Publish => "publish",
            Self::Transfer => "transfer",
            Self::NotRestored => "notRestored",
        }
    }
}

impl Failure {
    /// Returns a failure of this kind about nobody in particular.
    pub fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { kind, endpoint: None, address: None, identity: None, code: None, path: None, reason }
    }

    /// Returns what equal failures have in common. A device behind a NAT has another port each time.
    fn identifying(&self) -> impl Hash + '_ {
        let Self { kind, endpoint, address, identity, code, path, reason } = self;
        (kind, endpoint, address.map(|address| address.ip()), identity, code, path, reason)
    }

    fn shortened(mut self) -> Self {
        let texts = [&mut self.endpoint, &mut self.identity, &mut self.path].into_iter().flatten();
        texts.chain([&mut self.reason]).for_each(shorten);
        self
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rejected(endpoint: &str, port: u16, reason: &str) -> Failure {
        Failure {
            endpoint: Some(endpoint.to_owned()),
            address: Some(([192, 0, 2, 1], port).into()),
            code: Some(Code::FORBIDDEN),
            ..Failure::new(FailureKind::Register, reason)
        }
    }

    fn names(log: &FailureLog) -> Vec<String> {
        log.newest_first().into_iter().filter_map(|entry| entry.failure.endpoint).collect()
    }

    #[test]
    fn equal_failures_are_counted_and_the_last_one_comes_first() {
        let (log, now) = (FailureLog::default(), Instant::now());
        log.record(now, SECOND, rejected("ep1", 1, "refused"), 1);
        log.record(now, SECOND, rejected("ep2", 1, "refused"), 1);
        log.record(now, SECOND, rejected("ep1", 1, "too large"), 1);
        let again = log.record(now, 7 * SECOND, rejected("ep1", 2, "refused"), 1);
        let expected =
            CountedFailure { failure: rejected("ep1", 2, "refused"), first: SECOND, at: 7 * SECOND, count: 2 };
        assert_eq!(again.as_ref(), Some(&expected));
        let entries = log.newest_first();
        assert_eq!(entries[0], expected);
        assert_eq!(names(&log), ["ep1", "ep1", "ep2"]);
        assert_eq!((entries[1].failure.reason.as_str(), entries[1].count), ("too large", 1));
    }

    #[test]
    fn the_newest_512_are_kept() {
        let (log, start) = (FailureLog::default(), Instant::now());
        for number in 0..600_u32 {
            log.record(start + number * SECOND, SECOND * number, rejected(&format!("ep{number}"), 1, "refused"), 1);
            // It occurs all the time, so it is never the oldest.
            log.record(start + number * SECOND, SECOND * number, rejected("each time", 1, "refused"), 1);
        }
        let names = names(&log);
        assert_eq!(names.len(), ENTRIES);
        assert_eq!((names[0].as_str(), names[1].as_str()), ("each time", "ep599"));
        assert_eq!(names[ENTRIES - 1], "ep89");
        assert_eq!(log.newest_first()[0].count, 600);
        assert_eq!(log.lock().places.len(), ENTRIES);
    }

    #[test]
    fn invented_names_make_100_entries_in_a_second_and_known_ones_are_counted_all_the_same() {
        let (log, now) = (FailureLog::default(), Instant::now());
        log.record(now, SECOND, rejected("ep1", 1, "refused"), 1);
        let made = |now, names: std::ops::Range<u32>| {
            names.filter(|name| log.record(now, SECOND, rejected(&format!("x{name}"), 1, ""), 1).is_some()).count()
        };
        assert_eq!(made(now, 0..1_000), 99);
        assert_eq!(log.record(now, SECOND, rejected("ep1", 1, "refused"), 1).map(|entry| entry.count), Some(2));
        assert_eq!(made(now + SECOND / 2, 1_000..2_000), 0);
        assert_eq!(made(now + SECOND, 2_000..3_000), 100);
    }

    #[test]
    fn a_text_that_a_stranger_chose_is_shortened() {
        let (log, now) = (FailureLog::default(), Instant::now());
        log.record(now, SECOND, rejected(&"ü".repeat(1_000), 1, &"x".repeat(70_000)), 1);
        let Failure { endpoint, reason, .. } = log.newest_first().remove(0).failure;
        assert_eq!(endpoint, Some("ü".repeat(128) + "..."));
        assert_eq!(reason.len(), LONGEST_TEXT + 3);
    }
}
