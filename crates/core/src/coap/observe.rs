//! The order of notifications (RFC 7641 section 3.4).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::Options;
use super::options::number;

/// Time after which an Observe number proves nothing about order (RFC 7641 section 3.4).
const NUMBER_LIFETIME: Duration = Duration::from_secs(128);
/// Half of the 24-bit space of Observe numbers.
const HALF: u32 = 1 << 23;
/// The largest Observe number: it has 24 bits.
const NUMBERS: u32 = (1 << 24) - 1;

/// The newest notification of an observation: its number, when it came, and the digest of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    number: u32,
    at: Instant,
    /// The digest of the body; `None` for an observation that was restored, because a record does not contain it.
    body: Option<u64>,
}

impl Freshness {
    pub fn of(number: u32, at: Instant) -> Self {
        Self { number, at, body: None }
    }

    pub(crate) fn with_body(self, body: u64) -> Self {
        Self { body: Some(body), ..self }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn at(&self) -> Instant {
        self.at
    }

    /// Returns the freshness before the newest notification, so that a repetition of that notification is accepted.
    pub(crate) fn without_newest(self) -> Self {
        Self { number: self.number.wrapping_sub(1) & NUMBERS, ..self }
    }

    /// Takes the notification as the newest one, unless it is older than what came before. Some devices do not count: a
    /// notification with the number of the newest one is fresh unless its body is known to be the same. The caller has
    /// removed the repetitions of one message before.
    pub fn advance(&mut self, number: u32, at: Instant, body: u64) -> bool {
        let fresh = (self.number < number && number - self.number < HALF)
            || (self.number > number && self.number - number > HALF)
            || (self.number == number && self.body != Some(body))
            || at > self.at + NUMBER_LIFETIME;
        if fresh {
            *self = Self::of(number, at).with_body(body);
        }
        fresh
    }
}

/// Returns the digest of the content of a response: its payload and, for a body in blocks, the ETag and the size of the
/// whole body.
pub(super) fn digest(options: &Options, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    options.first(number::ETAG).hash(&mut hasher);
    options.first(number::SIZE2).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_of_two_is_told_by_number_and_after_128_seconds_by_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let advances =
            |from: u32, to: u32, seconds| Freshness::of(from, start).with_body(1).advance(to, after(seconds), 1);

        assert!(advances(5, 6, 1));
        assert!(!advances(6, 6, 1), "the same number is no news");
        assert!(!advances(6, 5, 1));
        assert!(!advances(6, 5, 128));
        assert!(advances(6, 5, 129));
        assert!(advances(0xff_ffff, 0, 1), "the number wraps at 24 bits");
        assert!(!advances(0, 0xff_ffff, 1));
    }

    #[test]
    fn the_same_number_is_news_with_another_body_only() {
        let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut newest = Freshness::of(6, start).with_body(1);
        assert!(!newest.advance(6, later, 1));
        assert!(newest.advance(6, later, 2));
        assert!(!newest.advance(6, later, 2));
        assert!(newest.advance(6, later, 1), "it may come back to what it was");
        assert!(!newest.advance(5, later, 3), "an older number stays older");

        let mut restored = Freshness::of(6, start);
        assert!(restored.advance(6, later, 1), "told twice is better than not at all");
        assert!(!restored.advance(6, later, 1));
    }
}
