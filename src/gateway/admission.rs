//! What strangers may send, so that they cannot hurt those that are registered.
//!
//! A datagram belongs to a registered device when it comes from its address, or names its location: it is never limited.
//! Of all others, Registers have one limit, and what else would be answered has another; each of them for one address and
//! for all. What is neither answered nor remembered needs none.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::coap::options::number;
use crate::coap::{Code, DecodeError, Kind, Message, Peer, Response, Standing};
use crate::deadlines::Deadlines;
use crate::registry::Device;

use super::Gateway;
use super::report::{DropReason, Report, Verdict};
use super::settings::{Limits, Rate, RateLimit};

/// A device that registers again sooner is counted like a stranger: each Register costs a connection to the broker.
const SETTLED: Duration = Duration::from_secs(10);

/// Buckets of tokens for what strangers send.
#[derive(Debug)]
pub(super) struct Admission {
    registers: Limiter,
    /// Registers beyond their limit that are answered; those beyond this one are not.
    refusals: Limiter,
    others: Limiter,
}

/// What is done with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Admit(Standing),
    /// A Register: more than its address, or all together, may send.
    Refuse(Exceeded),
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exceeded {
    Address,
    Total,
}

impl Admission {
    pub fn new(limits: &Limits) -> Self {
        Self {
            registers: Limiter::new(limits.registers),
            refusals: Limiter::new(limits.registers),
            others: Limiter::new(limits.strangers),
        }
    }

    pub fn set_limits(&mut self, limits: &Limits) {
        self.registers.set_limit(limits.registers);
        self.refusals.set_limit(limits.registers);
        self.others.set_limit(limits.strangers);
    }

    /// Addresses that are remembered because they sent lately: for each kind at most the burst of all, and those of the
    /// time that one token takes.
    pub fn addresses(&self) -> usize {
        [&self.registers, &self.refusals, &self.others].iter().map(|limiter| limiter.addresses.len()).sum()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        for limiter in [&mut self.registers, &mut self.refusals, &mut self.others] {
            limiter.forget_full(now);
        }
    }

    fn register(&mut self, now: Instant, source: Source) -> Decision {
        match self.registers.take(now, source) {
            Ok(()) => Decision::Admit(Standing::Stranger),
            Err(exceeded) if self.refusals.take(now, source).is_ok() => Decision::Refuse(exceeded),
            Err(_) => Decision::Drop,
        }
    }

    fn other(&mut self, now: Instant, source: Source, standing: Standing) -> Decision {
        match self.others.take(now, source) {
            Ok(()) => Decision::Admit(standing),
            Err(_) => Decision::Drop,
        }
    }
}

impl Gateway {
    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        self.now = now;
        if !self.take_secured(now, peer, datagram) {
            self.handle_message(now, peer, datagram);
        }
    }

    /// A message of a peer: a datagram, or what a record held.
    pub(super) fn handle_message(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        let decoded = Message::decode(datagram);
        match (self.decide(now, peer, &decoded, datagram), decoded) {
            (Decision::Admit(standing), decoded) => {
                self.coap.handle_decoded(now, peer, standing, decoded, datagram);
                self.handle_coap(now);
            }
            (Decision::Refuse(exceeded), Ok(register)) => self.refuse_register(peer, &register, exceeded),
            (Decision::Drop | Decision::Refuse(_), _) => {
                let verdict = Verdict::Dropped(DropReason::RateLimited);
                self.report(Report::Datagram { peer, verdict });
            }
        }
    }

    fn decide(
        &mut self,
        now: Instant,
        peer: Peer,
        decoded: &Result<Message, DecodeError>,
        datagram: &[u8],
    ) -> Decision {
        let Ok(message) = decoded else { return Decision::Admit(Standing::Fleeting) };
        // They belong to a message of ours, or to nothing.
        if matches!(message.kind, Kind::Acknowledgement | Kind::Reset) {
            return Decision::Admit(Standing::Known);
        }
        let source = Source::of(peer);
        let registers = is_register(message);
        if self.is_of_registered(now, peer, message, registers) {
            return Decision::Admit(Standing::Known);
        }
        match registers {
            false => self.admission.other(now, source, Standing::Fleeting),
            true if continues(message) || self.coap.is_duplicate(now, peer, message.id, datagram) => {
                self.admission.other(now, source, Standing::Stranger)
            }
            true => self.admission.register(now, source),
        }
    }

    /// Whether a registered device sends this. A Register is the device's own only with its own name.
    fn is_of_registered(&self, now: Instant, peer: Peer, message: &Message, registers: bool) -> bool {
        if registers {
            let endpoint = message.options.all(number::URI_QUERY).find_map(|item| item.strip_prefix(b"ep="));
            let named = endpoint.and_then(|endpoint| std::str::from_utf8(endpoint).ok()).map(str::to_owned);
            let endpoint = named.or_else(|| self.endpoint_of(self.identity(peer).as_deref()));
            let device = endpoint.and_then(|endpoint| self.device_at(&endpoint, peer));
            return device.is_some_and(|device| device.age(now) >= SETTLED);
        }
        self.registry.is_known(peer) || self.names_location(message)
    }

    /// The registered device of this name, if it last spoke from there.
    pub(super) fn device_at(&self, endpoint: &str, peer: Peer) -> Option<&Device> {
        let device = self.registry.device(self.registry.id_by_endpoint(endpoint)?)?;
        (device.peer == peer).then_some(device)
    }

    fn names_location(&self, message: &Message) -> bool {
        let mut path = message.options.all(number::URI_PATH);
        let (Some(b"rd"), Some(location), None) = (path.next(), path.next(), path.next()) else { return false };
        std::str::from_utf8(location).is_ok_and(|location| self.registry.id_by_location(location).is_some())
    }

    fn refuse_register(&mut self, peer: Peer, register: &Message, exceeded: Exceeded) {
        let (code, reason) = match exceeded {
            Exceeded::Address => (Code::TOO_MANY_REQUESTS, "too many Registers from this address"),
            Exceeded::Total => (Code::SERVICE_UNAVAILABLE, "too many Registers"),
        };
        let mut response = Response::new(code);
        // Those that are refused at once do not come back at once.
        let spread = self.rng.random_range(1.0..=2.0);
        self.add_max_age(&mut response, self.settings.limits.retry_after.mul_f64(spread));
        self.coap.refuse(peer, register, response);
        self.report(Report::RegisterRejected { peer, endpoint: None, code, reason: reason.to_owned() });
    }
}

/// One limit, for each address and for all.
#[derive(Debug)]
struct Limiter {
    limit: RateLimit,
    /// When the bucket of all is full again.
    total: Option<Instant>,
    /// The same for each address. One whose bucket is full is like one that never sent.
    addresses: Deadlines<Source>,
}

impl Limiter {
    fn new(limit: RateLimit) -> Self {
        Self { limit, total: None, addresses: Deadlines::default() }
    }

    /// A new limit begins with full buckets.
    fn set_limit(&mut self, limit: RateLimit) {
        if self.limit != limit {
            *self = Self::new(limit);
        }
    }

    /// Takes a token from both buckets, or from none.
    fn take(&mut self, now: Instant, source: Source) -> Result<(), Exceeded> {
        self.forget_full(now);
        let address = after_one_more(self.limit.address, now, self.addresses.get(source)).ok_or(Exceeded::Address)?;
        let total = after_one_more(self.limit.total, now, self.total).ok_or(Exceeded::Total)?;
        self.total = Some(total);
        self.addresses.set(source, address);
        Ok(())
    }

    fn forget_full(&mut self, now: Instant) {
        while self.addresses.pop_expired(now).is_some() {}
    }
}

/// When a bucket is full again after one token was taken from it; `None` if it is empty. `full`: when it would be
/// otherwise.
fn after_one_more(rate: Rate, now: Instant, full: Option<Instant>) -> Option<Instant> {
    let full = full.map_or(now, |full| full.max(now)) + rate.interval();
    (full <= now + rate.interval() * rate.burst).then_some(full)
}

/// Whom an address belongs to: behind IPv6, a network of 64 bits is one customer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl Source {
    fn of(peer: Peer) -> Self {
        match peer.address.ip().to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

fn is_register(message: &Message) -> bool {
    message.code == Code::POST && message.options.all(number::URI_PATH).eq([b"rd".as_slice()])
}

/// Whether this is a later block of a body: the first one was charged for the whole.
fn continues(message: &Message) -> bool {
    // RFC 7959 section 2.2: the number stands above the lowest four bits.
    message.options.uint(number::BLOCK1).ok().flatten().is_some_and(|block| block >> 4 > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit =
        RateLimit { total: Rate { per_second: 100, burst: 50 }, address: Rate { per_second: 10, burst: 20 } };

    fn source(number: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    fn taken(limiter: &mut Limiter, now: Instant, source: Source, attempts: usize) -> usize {
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
    fn all_addresses_share_the_total_and_a_refused_one_takes_nothing_of_it() {
        let (start, mut limiter) = (Instant::now(), Limiter::new(LIMIT));
        assert_eq!(taken(&mut limiter, start, source(1), 10_000), 20);
        assert_eq!(taken(&mut limiter, start, source(2), 10_000), 20);
        assert_eq!(taken(&mut limiter, start, source(3), 10_000), 10);
        assert_eq!(limiter.take(start, source(4)), Err(Exceeded::Total));
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
        let of = |text: &str| Source::of(Peer::udp(0, text.parse().unwrap()));
        assert_eq!(of("[2001:db8:1:2::1]:5683"), of("[2001:db8:1:2:ffff::9]:1"));
        assert_ne!(of("[2001:db8:1:2::1]:5683"), of("[2001:db8:1:3::1]:5683"));
        assert_eq!(of("[::ffff:192.0.2.7]:5683"), of("192.0.2.7:1"));
    }
}
