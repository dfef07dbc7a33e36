//! Rate limits as token buckets. Unregistered peers share one bucket, and each of their addresses has another one.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::deadlines::Deadlines;

/// Limits the rate of one address (for IPv6: of one network of 64 bits) and the rate of all addresses together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub total: Rate,
    pub address: Rate,
}

/// An average rate, and the burst that is allowed after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 1,000,000.
    pub per_second: u32,
    /// The number of tokens of a full bucket, at least 1.
    pub burst: u32,
}

impl Rate {
    /// Returns this many times the rate, and the rate itself for none.
    pub fn times(self, factor: usize) -> Self {
        let factor = u32::try_from(factor).unwrap_or(u32::MAX).max(1);
        let times = |number: u32| number.saturating_mul(factor);
        // Beyond a million a second the interval would be shorter than the clock tells.
        Self { per_second: times(self.per_second).min(1_000_000), burst: times(self.burst) }
    }

    /// Returns an equal share for each of so many: at least one token a second, and one at once.
    pub fn shared_by(self, number: usize) -> Self {
        let number = u32::try_from(number).unwrap_or(u32::MAX).max(1);
        Self { per_second: (self.per_second / number).max(1), burst: self.burst.div_ceil(number) }
    }

    /// Returns the time in which one token is refilled.
    pub fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
}

/// The bucket that was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    Address,
    Total,
}

/// Token buckets by key. Each is kept as the time at which it is full again; a full bucket is not kept.
#[derive(Debug)]
pub struct TokenBuckets<K> {
    full: Deadlines<K>,
}

impl<K> Default for TokenBuckets<K> {
    fn default() -> Self {
        Self { full: Deadlines::default() }
    }
}

impl<K: Copy + Ord + Hash> TokenBuckets<K> {
    /// Takes a token from the bucket of this key. Returns `false`, and takes nothing, if it is empty.
    pub fn take(&mut self, now: Instant, key: K, rate: Rate) -> bool {
        self.forget_full(now);
        let full = after_one_more(rate, now, self.full.get(key));
        if let Some(full) = full {
            self.full.set(key, full);
        }
        full.is_some()
    }

    /// Forgets full buckets. Otherwise they are kept until the next token is taken.
    pub fn forget_full(&mut self, now: Instant) {
        while self.full.pop_expired(now).is_some() {}
    }

    pub fn len(&self) -> usize {
        self.full.len()
    }

    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }
}

/// Enforces a rate limit per address and in total.
#[derive(Debug)]
pub struct Limiter {
    limit: RateLimit,
    /// The time at which the total bucket is full again.
    total: Option<Instant>,
    /// The time at which each address's bucket is full again. A full bucket is not kept.
    addresses: Deadlines<SourceNetwork>,
}

impl Limiter {
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, total: None, addresses: Deadlines::default() }
    }

    /// Replaces the limit. A changed limit begins with full buckets.
    pub fn set_limit(&mut self, limit: RateLimit) {
        if self.limit != limit {
            *self = Self::new(limit);
        }
    }

    /// Takes a token from both buckets, or from none.
    pub fn take(&mut self, now: Instant, source: SourceNetwork) -> Result<(), Exceeded> {
        self.forget_full(now);
        let (total, address) = self.after_taking(now, source)?;
        self.total = Some(total);
        self.addresses.set(source, address);
        Ok(())
    }

    /// Tells whether [`Limiter::take`] would take a token now.
    pub fn check(&self, now: Instant, source: SourceNetwork) -> Result<(), Exceeded> {
        self.after_taking(now, source).map(|_| ())
    }

    /// Returns whether less than half of the total burst is left.
    pub fn is_scarce(&self, now: Instant) -> bool {
        let Rate { burst, .. } = self.limit.total;
        self.total.is_some_and(|full| 2 * full.saturating_duration_since(now) > self.limit.total.interval() * burst)
    }

    /// Forgets full buckets. Otherwise they are kept until the next token is taken.
    pub fn forget_full(&mut self, now: Instant) {
        while self.addresses.pop_expired(now).is_some() {}
    }

    /// Returns the times at which the total bucket and that of the address are full again after one more token.
    fn after_taking(&self, now: Instant, source: SourceNetwork) -> Result<(Instant, Instant), Exceeded> {
        let address = after_one_more(self.limit.address, now, self.addresses.get(source)).ok_or(Exceeded::Address)?;
        let total = after_one_more(self.limit.total, now, self.total).ok_or(Exceeded::Total)?;
        Ok((total, address))
    }

    /// Returns the number of buckets that are not full: at most the total burst, and the number of tokens that are
    /// refilled in the time in which one address gets one.
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }
}

/// Returns the time at which a bucket is full again after one more token; `None` if it is empty. `full` is that time
/// before.
fn after_one_more(rate: Rate, now: Instant, full: Option<Instant>) -> Option<Instant> {
    let full = full.map_or(now, |full| full.max(now)) + rate.interval();
    (full <= now + rate.interval() * rate.burst).then_some(full)
}

/// A source of datagrams: an IPv4 address, or an IPv6 network of 64 bits, which belongs to one customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceNetwork {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl SourceNetwork {
    pub fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit =
        RateLimit { total: Rate { per_second: 100, burst: 50 }, address: Rate { per_second: 10, burst: 20 } };

    fn source(number: u8) -> SourceNetwork {
        SourceNetwork::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    fn taken(limiter: &mut Limiter, now: Instant, source: SourceNetwork, attempts: usize) -> usize {
        (0..attempts).filter(|_| limiter.take(now, source).is_ok()).count()
    }

    #[test]
    fn an_address_has_its_burst_at_once_and_then_its_rate() {
        let (start, mut limiter) = (Instant::now(), Limiter::new(LIMIT));
        assert_eq!(taken(&mut limiter, start, source(1), 100), 20);
        assert_eq!(limiter.take(start, source(1)), Err(Exceeded::Address));
        assert_eq!(taken(&mut limiter, start + Duration::from_millis(1_000), source(1), 100), 10);
        assert_eq!(taken(&mut limiter, start + Duration::from_secs(60), source(1), 100), 20);
    }

    #[test]
    fn each_key_has_its_burst_at_once_and_then_its_rate() {
        let (start, mut buckets) = (Instant::now(), TokenBuckets::default());
        let mut taken = |key, seconds, rate: Rate| {
            let now = start + Duration::from_secs(seconds);
            (0..100).filter(|_| buckets.take(now, key, rate)).count()
        };
        assert_eq!(taken('a', 0, LIMIT.address), 20);
        assert_eq!(taken('b', 0, LIMIT.address), 20);
        assert_eq!(taken('a', 1, LIMIT.address), 10);
        assert_eq!(taken('a', 60, LIMIT.address.times(2)), 40);
        assert_eq!(taken('a', 61, LIMIT.address.times(2)), 20);
        buckets.forget_full(start + Duration::from_secs(120));
        assert!(buckets.is_empty());
    }

    #[test]
    fn all_addresses_share_the_total_and_a_refused_one_takes_nothing_of_it() {
        let (start, mut limiter) = (Instant::now(), Limiter::new(LIMIT));
        assert_eq!(taken(&mut limiter, start, source(1), 10_000), 20);
        assert_eq!(taken(&mut limiter, start, source(2), 10_000), 20);
        assert_eq!(taken(&mut limiter, start, source(3), 10_000), 10);
        assert_eq!(limiter.take(start, source(4)), Err(Exceeded::Total));
    }

    #[test]
    fn the_total_is_scarce_when_more_than_half_of_its_burst_was_taken() {
        let (start, mut limiter) = (Instant::now(), Limiter::new(LIMIT));
        for number in 0..25 {
            assert!(!limiter.is_scarce(start));
            assert_eq!((limiter.check(start, source(number)), limiter.take(start, source(number))), (Ok(()), Ok(())));
        }
        assert!(!limiter.is_scarce(start));
        assert_eq!(limiter.take(start, source(25)), Ok(()));
        assert!(limiter.is_scarce(start));
        assert!(!limiter.is_scarce(start + Duration::from_millis(10)));
    }

    #[test]
    fn a_share_is_an_equal_part_and_never_nothing() {
        assert_eq!(LIMIT.total.shared_by(1), LIMIT.total);
        assert_eq!(LIMIT.total.shared_by(4), Rate { per_second: 25, burst: 13 });
        assert_eq!(LIMIT.total.shared_by(1_000), Rate { per_second: 1, burst: 1 });
    }

    #[test]
    fn an_address_is_forgotten_when_its_bucket_is_full() {
        let (start, mut limiter) = (Instant::now(), Limiter::new(LIMIT));
        (0..50).for_each(|number| assert!(limiter.take(start, source(number)).is_ok()));
        assert!(limiter.take(start, source(200)).is_err());
        assert_eq!(limiter.addresses.len(), 50);
        limiter.forget_full(start + Duration::from_millis(100));
        assert!(limiter.addresses.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_ipv4_address_is_itself() {
        let of = |text: &str| SourceNetwork::of(text.parse().unwrap());
        assert_eq!(of("[2001:db8:1:2::1]:5683"), of("[2001:db8:1:2:ffff::9]:1"));
        assert_ne!(of("[2001:db8:1:2::1]:5683"), of("[2001:db8:1:3::1]:5683"));
        assert_eq!(of("[::ffff:192.0.2.7]:5683"), of("192.0.2.7:1"));
    }
}
