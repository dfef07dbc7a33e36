//! Finds the device and the resources that a traced message is about.

use std::time::Instant;

use crate::coap::options::number;
use crate::coap::{ExchangeId, Header, Message, MessageDecodeError};
use crate::lwm2m::path::Path;
use crate::registry::{Device, ObservedPaths};
use lwm2m_base::Peer;

use super::{Direction, TraceId, TraceTarget, Traced, TracedEvent, TracedSubject};
use crate::gateway::Gateway;
use crate::gateway::bootstrap::begins_session;
use crate::gateway::context::Context;
use crate::gateway::intake::admission::{endpoint_of_register, is_register, is_send};
use crate::gateway::operators::inspection::paths;
use crate::gateway::registrations::Registrations;
use crate::gateway::registrations::send_request::sender;

/// Traces.
impl Gateway {
    /// Begins a trace. Returns `false`, and begins none, if there are [`TRACES`](super::TRACES) already.
    pub fn trace(&mut self, now: Instant, id: TraceId, target: TraceTarget) -> bool {
        self.context.now = now;
        let registry = self.registrations.devices().registry();
        let device = match &target {
            TraceTarget::Endpoint(endpoint) => registry.device_by_endpoint(endpoint).map(|device| device.peer),
            TraceTarget::Address(_) | TraceTarget::Identity(_) => None,
        };
        self.context.traces.begin(id, target, device)
    }

    /// Ends a trace.
    pub fn end_trace(&mut self, id: TraceId) {
        self.context.traces.end(id);
    }

    /// Returns the next copy. A shell that has begun a trace calls this after each
    /// [`Output::Idle`](crate::gateway::Output).
    pub fn poll_trace(&mut self) -> Option<Traced> {
        loop {
            let mut traced = self.context.traces.pop()?;
            if let TracedEvent::Message(message) = &mut traced.event
                && message.direction == Direction::Out
                && let Some((device, exchange)) = self.requested(message.peer, &message.datagram)
            {
                // The peer of a trace by endpoint name may stand for several devices.
                message.subject = subject_of_exchange(device, exchange);
                if !self.context.traces.keep_own(&mut traced, &device.registration.endpoint) {
                    continue;
                }
            }
            return Some(traced);
        }
    }

    /// Copies a received message for the traces that it belongs to.
    pub(in crate::gateway) fn seen(
        &mut self,
        peer: Peer,
        decoded: &Result<Message, MessageDecodeError>,
        datagram: &[u8],
    ) {
        let Self { context, registrations, .. } = self;
        let facts = context.peer_facts(peer);
        let message = decoded.as_ref().ok();
        let concerned = message.and_then(|message| Concerned::of(context, registrations, peer, message));
        let registering = message.filter(|message| is_register(message) || begins_session(message));
        let registering = registering.and_then(|register| {
            let identity = &context.config.identity;
            endpoint_of_register(identity, facts.identity.as_deref(), register)
        });
        let named = concerned.as_ref().map(|concerned| concerned.device.registration.endpoint.as_str()).or(registering);
        let subject = || concerned.as_ref().and_then(Concerned::subject);
        context.traces.received(context.trace_time(), &facts, named, datagram, subject);
    }

    /// Returns the device that a request of the gateway is for, and its exchange.
    fn requested(&self, peer: Peer, datagram: &[u8]) -> Option<(&Device, ExchangeId)> {
        let Header { code, token, .. } = Header::of(datagram)?;
        if !code.is_request() {
            return None;
        }
        let exchange = self.context.coap.named_by(peer, token?)?;
        Some((device_of(&self.registrations, exchange)?, exchange))
    }
}

/// The device that a received message is about, and its values.
struct Concerned<'d> {
    device: &'d Device,
    values: ValueSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueSource {
    /// The message has no values of resources.
    None,
    /// The answer to a request, or a notification.
    OfExchange(ExchangeId),
    OfSend,
}

impl<'d> Concerned<'d> {
    fn of(context: &Context, registrations: &'d Registrations, peer: Peer, message: &Message) -> Option<Self> {
        let registry = registrations.devices().registry();
        if message.code.is_response() {
            let exchange = context.coap.named_by(peer, message.token)?;
            return Some(Self {
                device: device_of(registrations, exchange)?,
                values: ValueSource::OfExchange(exchange),
            });
        }
        if is_send(message) {
            let device = registry.device(sender(registry, context, peer)?)?;
            return Some(Self { device, values: ValueSource::OfSend });
        }
        let mut path = message.options.all(number::URI_PATH);
        let (Some(b"rd"), Some(location), None) = (path.next(), path.next(), path.next()) else { return None };
        let id = registry.id_by_location(std::str::from_utf8(location).ok()?)?;
        Some(Self { device: registry.device(id)?, values: ValueSource::None })
    }

    fn subject(&self) -> Option<TracedSubject> {
        match self.values {
            ValueSource::None => None,
            ValueSource::OfExchange(exchange) => subject_of_exchange(self.device, exchange),
            ValueSource::OfSend => Some(subject(self.device, vec![Path::ROOT], true)),
        }
    }
}

fn device_of(registrations: &Registrations, exchange: ExchangeId) -> Option<&Device> {
    let devices = registrations.devices();
    devices.registry().device(devices.commands().registration_of(exchange)?)
}

fn subject_of_exchange(device: &Device, exchange: ExchangeId) -> Option<TracedSubject> {
    if let Some(in_flight) = device.in_flight().filter(|in_flight| in_flight.exchange == exchange) {
        let operation = &in_flight.command.operation;
        return Some(subject(device, paths(&in_flight.command), operation.kind.is_composite()));
    }
    let observation = device.observations.get(exchange)?;
    Some(match &observation.paths {
        ObservedPaths::Single(path) | ObservedPaths::Firmware(path) => subject(device, vec![*path], false),
        ObservedPaths::Composite(paths) => subject(device, paths.iter().copied().collect(), true),
    })
}

fn subject(device: &Device, paths: Vec<Path>, is_composite: bool) -> TracedSubject {
    TracedSubject { registration: device.registration.for_decoding(), paths, is_composite }
}
