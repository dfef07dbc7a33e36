//! How much strangers may send, so that they cannot hurt those that are registered, and how much a registered device may
//! send, so that it cannot hurt the others.
//!
//! A message belongs to a registered device when it comes from the address of that device. Of all others, Registers have
//! one limit, and what else would be answered has another; each of them for one address and for all. A request for a
//! registration from another address than that of its device is among them: anybody can name the location that he was
//! given, from any address that he claims to have. What is neither answered nor remembered needs no limit.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::coap::options::number;
use crate::coap::{Code, DecodeError, Header, Kind, Message, PeerClass, Response};
use crate::registry::Device;
use lwm2m_base::Peer;
use lwm2m_base::rate::{Exceeded, Limiter, Rate, SourceNetwork, TokenBuckets};

use super::Gateway;
use super::config::Limits;
use super::report::{DatagramOutcome, DropReason, Report};

/// A device that registers again sooner is counted like a stranger: each Register costs a connection to the broker.
const SETTLED: Duration = Duration::from_secs(10);

/// Buckets of tokens for what peers send.
#[derive(Debug)]
pub(super) struct AdmissionControl {
    registers: Limiter,
    /// Registers beyond their limit that are answered; those beyond this one are not.
    refusals: Limiter,
    others: Limiter,
    registered: TokenBuckets<Peer>,
    rate_of_registered: Rate,
}

/// What is done with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Admit(PeerClass),
    /// A Register: more than its address, or all together, may send.
    Refuse(Exceeded),
    Drop(DropReason),
}

impl AdmissionControl {
    pub fn new(limits: &Limits) -> Self {
        Self {
            registers: Limiter::new(limits.registers),
            refusals: Limiter::new(limits.registers),
            others: Limiter::new(limits.strangers),
            registered: TokenBuckets::default(),
            rate_of_registered: limits.registered,
        }
    }

    pub fn set_limits(&mut self, limits: &Limits) {
        self.registers.set_limit(limits.registers);
        self.refusals.set_limit(limits.registers);
        self.others.set_limit(limits.strangers);
        self.rate_of_registered = limits.registered;
    }

    /// Addresses of strangers that are remembered because they sent lately: for each kind at most the burst of all, and those of the
    /// time that one token takes.
    pub fn addresses(&self) -> usize {
        [&self.registers, &self.refusals, &self.others].iter().map(|limiter| limiter.addresses()).sum()
    }

    /// Registered devices that are remembered because they sent lately.
    pub fn senders(&self) -> usize {
        self.registered.len()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        for limiter in [&mut self.registers, &mut self.refusals, &mut self.others] {
            limiter.forget_full(now);
        }
        self.registered.forget_full(now);
    }

    fn register(&mut self, now: Instant, source: SourceNetwork) -> Decision {
        match self.registers.take(now, source) {
            Ok(()) => Decision::Admit(PeerClass::Unregistered),
            Err(exceeded) if self.refusals.take(now, source).is_ok() => Decision::Refuse(exceeded),
            Err(_) => Decision::Drop(DropReason::RateLimited),
        }
    }

    fn other(&mut self, now: Instant, source: SourceNetwork, class: PeerClass) -> Decision {
        match self.others.take(now, source) {
            Ok(()) => Decision::Admit(class),
            Err(_) => Decision::Drop(DropReason::RateLimited),
        }
    }

    /// A message from where so many registered devices are.
    fn registered(&mut self, now: Instant, peer: Peer, devices: usize) -> Decision {
        if self.registered.take(now, peer, self.rate_of_registered.times(devices)) {
            Decision::Admit(PeerClass::Registered)
        } else {
            Decision::Drop(DropReason::DeviceRateLimited)
        }
    }
}

impl Gateway {
    /// A message of a peer: a datagram, or what a record held.
    pub(super) fn handle_message(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        let decoded = Message::decode(datagram);
        match (self.decide(now, peer, &decoded, datagram), decoded) {
            (Decision::Admit(class), decoded) => {
                self.coap.handle_decoded(now, peer, class, decoded, datagram);
                self.handle_coap(now);
            }
            (Decision::Refuse(exceeded), Ok(register)) => self.refuse_register(peer, &register, exceeded),
            (Decision::Drop(reason), _) => self.drop_datagram(peer, reason),
            (Decision::Refuse(_), Err(_)) => self.drop_datagram(peer, DropReason::RateLimited),
        }
    }

    fn decide(
        &mut self,
        now: Instant,
        peer: Peer,
        decoded: &Result<Message, DecodeError>,
        datagram: &[u8],
    ) -> Decision {
        let source = SourceNetwork::of(peer.address);
        let Ok(message) = decoded else { return self.decide_on_malformed(now, peer, datagram) };
        // They belong to a message of ours, or to nothing.
        let replies = matches!(message.kind, Kind::Acknowledgement | Kind::Reset);
        if replies || message.code.is_response() && self.coap.awaits(peer, message.token) {
            return Decision::Admit(PeerClass::Registered);
        }
        let registers = is_register(message);
        if self.is_of_registered(now, peer, message, registers) {
            let devices = self.registry.devices_at(peer);
            return self.admission.registered(now, peer, devices);
        }
        match registers {
            // An Update moves the registration: a repetition of it should be told.
            false if self.names_location(message) => self.admission.other(now, source, PeerClass::Unregistered),
            false => self.admission.other(now, source, PeerClass::UnregisteredIdempotent),
            true if continues(message) || self.coap.is_duplicate(now, peer, message.id, datagram) => {
                self.admission.other(now, source, PeerClass::Unregistered)
            }
            true => self.admission.register(now, source),
        }
    }

    /// What is no message is reset if it is confirmable, and that is an answer like any other.
    fn decide_on_malformed(&mut self, now: Instant, peer: Peer, datagram: &[u8]) -> Decision {
        let is_reset = Header::of(datagram).is_some_and(|header| header.kind == Kind::Confirmable);
        let devices = self.registry.devices_at(peer);
        match (is_reset, devices) {
            (false, _) => Decision::Admit(PeerClass::UnregisteredIdempotent),
            (true, 0) => self.admission.other(now, SourceNetwork::of(peer.address), PeerClass::UnregisteredIdempotent),
            (true, _) => self.admission.registered(now, peer, devices),
        }
    }

    fn drop_datagram(&mut self, peer: Peer, reason: DropReason) {
        self.report(Report::Datagram { peer, outcome: DatagramOutcome::Dropped(reason) });
    }

    /// Whether a registered device sends this, from where it is. A Register is the device's own only with its own name.
    fn is_of_registered(&self, now: Instant, peer: Peer, message: &Message, registers: bool) -> bool {
        if registers {
            let endpoint = message.options.all(number::URI_QUERY).find_map(|item| item.strip_prefix(b"ep="));
            let named = endpoint.and_then(|endpoint| std::str::from_utf8(endpoint).ok()).map(str::to_owned);
            let endpoint = named.or_else(|| self.endpoint_of(self.identity(peer).as_deref()));
            let device = endpoint.and_then(|endpoint| self.device_at(&endpoint, peer));
            return device.is_some_and(|device| device.age(now) >= SETTLED);
        }
        self.registry.is_known(peer)
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
