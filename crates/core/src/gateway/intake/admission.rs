//! Rate limits of received messages. Those of unregistered peers protect the registered devices; that of each
//! registered device protects the other devices.
//!
//! A message belongs to a registered device if it comes from the address of that device. For all other messages there
//! are two limits, each per address and in total: `limits.registers` for Registers, and `limits.unregistered` for
//! everything else that would be answered. A request for a registration from another address than that of its device
//! counts as unregistered, because anybody can name a location from a forged address. A message that is neither
//! answered nor remembered needs no limit.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::coap::options::number;
use crate::coap::{Code, Header, Kind, Message, MessageDecodeError, PeerClass, Response};
use crate::registry::Registry;
use lwm2m_base::Peer;
use lwm2m_base::identity::Identity;
use lwm2m_base::rate::{Exceeded, Limiter, Rate, SourceNetwork, TokenBuckets};

use crate::gateway::bootstrap::begins_session;
use crate::gateway::config::Limits;
use crate::gateway::context::Context;
use crate::gateway::diagnostic::add_max_age;
use crate::gateway::firmware::pulls::serving;
use crate::gateway::identity::IdentityRule;
use crate::gateway::notifications::send;
use crate::gateway::registrations::Registrations;
use crate::gateway::report::{DropReason, Report};

/// Minimum age of a registration whose device may register again without being limited like an unregistered peer: each
/// Register costs a connection to the broker.
const REREGISTER_AGE: Duration = Duration::from_secs(10);

/// Owns the rate limits for what peers send.
#[derive(Debug)]
pub(in crate::gateway) struct AdmissionControl {
    registers: Limiter,
    /// The limit for answers to Registers beyond `registers`. A Register beyond both limits is not answered.
    refusals: Limiter,
    others: Limiter,
    registered: TokenBuckets<Peer>,
    rate_of_registered: Rate,
}

/// The decision about a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admit(PeerClass),
    /// The message is a Register beyond the limit of its address, or beyond the limit of all addresses.
    Refuse(Exceeded),
    Drop(DropReason),
}

impl AdmissionControl {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            registers: Limiter::new(limits.registers),
            refusals: Limiter::new(limits.registers),
            others: Limiter::new(limits.unregistered),
            registered: TokenBuckets::default(),
            rate_of_registered: limits.registered,
        }
    }

    /// Decides what is done with a message, or with what could not be decoded as one.
    pub(super) fn decide(
        &mut self,
        context: &Context,
        registrations: &Registrations,
        peer: Peer,
        decoded: &Result<Message, MessageDecodeError>,
        datagram: &[u8],
    ) -> Decision {
        let (now, source) = (context.now, SourceNetwork::of(peer.address));
        let registry = registrations.devices().registry();
        let Ok(message) = decoded else { return self.decide_on_malformed(now, peer, registry, datagram) };
        // A reply belongs to a message of the gateway; if there is none, the message layer drops it.
        let replies = matches!(message.kind, Kind::Acknowledgement | Kind::Reset);
        if replies || message.code.is_response() && context.coap.awaits(peer, message.token) {
            return Decision::Admit(PeerClass::Registered);
        }
        let registers = is_register(message);
        let devices = registry.devices_at(peer);
        if serving::is_pull(context, message) {
            // A device may fetch its image from another port, or by another association, than it registered from.
            return self.registered(now, peer, devices.max(1), PeerClass::Idempotent);
        }
        if devices > 0 && (!registers || registers_again(context, registrations, peer, message)) {
            return self.registered(now, peer, devices, PeerClass::Registered);
        }
        match registers {
            // A repeated Update or Send must be recognised as a duplicate: an Update moves the registration, and a Send
            // is published, so neither may be carried out twice.
            // A repeated request for bootstrap must not end the session that the first one began.
            false
                if names_location(registry, message)
                    || peer.association.is_some() && is_send(message)
                    || context.config.bootstrap.is_some() && begins_session(message) =>
            {
                self.other(now, source, PeerClass::Unregistered)
            }
            false => self.other(now, source, PeerClass::Idempotent),
            true if continues(message) || context.coap.is_duplicate(now, peer, message.id, datagram) => {
                self.other(now, source, PeerClass::Unregistered)
            }
            true => self.register(now, source),
        }
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.registers.set_limit(limits.registers);
        self.refusals.set_limit(limits.registers);
        self.others.set_limit(limits.unregistered);
        self.rate_of_registered = limits.registered;
    }

    /// Returns the number of addresses of unregistered peers that are remembered because they sent lately: for each
    /// kind at most the burst of all, and those of the time that one token takes.
    pub(in crate::gateway) fn addresses(&self) -> usize {
        [&self.registers, &self.refusals, &self.others].iter().map(|limiter| limiter.addresses()).sum()
    }

    /// Returns the number of registered devices that are remembered because they sent lately.
    pub(in crate::gateway) fn senders(&self) -> usize {
        self.registered.len()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
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

    /// Decides about a message from an address that this number of registered devices share.
    fn registered(&mut self, now: Instant, peer: Peer, devices: usize, class: PeerClass) -> Decision {
        if self.registered.take(now, peer, self.rate_of_registered.times(devices)) {
            Decision::Admit(class)
        } else {
            Decision::Drop(DropReason::DeviceRateLimited)
        }
    }

    /// Decides about a malformed datagram. A confirmable one is answered with a reset, so the rate limits apply to it.
    fn decide_on_malformed(&mut self, now: Instant, peer: Peer, registry: &Registry, datagram: &[u8]) -> Decision {
        let is_reset = Header::of(datagram).is_some_and(|header| header.kind == Kind::Confirmable);
        let devices = registry.devices_at(peer);
        match (is_reset, devices) {
            (false, _) => Decision::Admit(PeerClass::Idempotent),
            (true, 0) => self.other(now, SourceNetwork::of(peer.address), PeerClass::Idempotent),
            (true, _) => self.registered(now, peer, devices, PeerClass::Registered),
        }
    }
}

/// Answers a Register beyond the limits at once, and stores nothing about it.
pub(super) fn refuse_register(context: &mut Context, peer: Peer, register: &Message, exceeded: Exceeded) {
    let (code, reason) = match exceeded {
        Exceeded::Address => (Code::TOO_MANY_REQUESTS, "too many Registers from this address"),
        Exceeded::Total => (Code::SERVICE_UNAVAILABLE, "too many Registers"),
    };
    let mut response = Response::new(code);
    // Devices that are refused at the same time must not return at the same time.
    let spread = context.rng.random_range(1.0..=2.0);
    add_max_age(&mut response, context.config.limits.retry_after.mul_f64(spread));
    context.coap.refuse(peer, register, response);
    context.report(Report::RegisterRejected { peer, endpoint: None, code, reason: reason.to_owned() });
}

/// Returns whether a registered device sends this Register from its known address: the Register has its endpoint name.
fn registers_again(context: &Context, registrations: &Registrations, peer: Peer, message: &Message) -> bool {
    let identity = context.identity(peer);
    let endpoint = endpoint_of_register(&context.config.identity, identity.as_deref(), message);
    let device = endpoint.and_then(|endpoint| registrations.device_at(endpoint, peer));
    device.is_some_and(|device| device.age(context.now) >= REREGISTER_AGE)
}

/// Returns the endpoint name that a Register has, or else the one that the identity of its peer stands for.
pub(in crate::gateway) fn endpoint_of_register<'m>(
    rule: &IdentityRule,
    identity: Option<&'m Identity>,
    register: &'m Message,
) -> Option<&'m str> {
    let endpoint = register.options.all(number::URI_QUERY).find_map(|item| item.strip_prefix(b"ep="));
    let endpoint = endpoint.and_then(|endpoint| std::str::from_utf8(endpoint).ok());
    endpoint.or_else(|| rule.endpoint_named_by(identity))
}

fn names_location(registry: &Registry, message: &Message) -> bool {
    let mut path = message.options.all(number::URI_PATH);
    let (Some(b"rd"), Some(location), None) = (path.next(), path.next(), path.next()) else { return false };
    std::str::from_utf8(location).is_ok_and(|location| registry.id_by_location(location).is_some())
}

pub(in crate::gateway) fn is_register(message: &Message) -> bool {
    message.code == Code::POST && message.options.all(number::URI_PATH).eq([b"rd".as_slice()])
}

pub(in crate::gateway) fn is_send(message: &Message) -> bool {
    message.code == Code::POST && message.options.all(number::URI_PATH).eq([send::PATH.as_bytes()])
}

/// Returns whether this is a later block of a body. The rate limit counts the first block for the whole body.
fn continues(message: &Message) -> bool {
    // RFC 7959 section 2.2: the number stands above the lowest four bits.
    message.options.uint(number::BLOCK1).ok().flatten().is_some_and(|block| block >> 4 > 0)
}
