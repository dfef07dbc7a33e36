//! What strangers may send, so that they cannot hurt those that are registered.
//!
//! A datagram belongs to a registered device when it comes from its address, or names its location: it is never limited.
//! Of all others, Registers have one limit, and what else would be answered has another; each of them for one address and
//! for all. What is neither answered nor remembered needs none.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::coap::options::number;
use crate::coap::{Code, DecodeError, Kind, Message, Peer, Response, Standing};
use crate::rate::{Exceeded, Limiter, Source};
use crate::registry::Device;

use super::Gateway;
use super::report::{DropReason, Report, Verdict};
use super::settings::Limits;

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
        [&self.registers, &self.refusals, &self.others].iter().map(|limiter| limiter.addresses()).sum()
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
        let source = Source::of(peer.address);
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

fn is_register(message: &Message) -> bool {
    message.code == Code::POST && message.options.all(number::URI_PATH).eq([b"rd".as_slice()])
}

/// Whether this is a later block of a body: the first one was charged for the whole.
fn continues(message: &Message) -> bool {
    // RFC 7959 section 2.2: the number stands above the lowest four bits.
    message.options.uint(number::BLOCK1).ok().flatten().is_some_and(|block| block >> 4 > 0)
}
