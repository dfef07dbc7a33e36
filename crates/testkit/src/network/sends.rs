//! The Sends of the devices: when they arrive at the core, how the core answers them, and which the broker gets.

use std::collections::HashMap;
use std::time::Instant;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Header, Message, Token};
use lwm2m_core::gateway::broker::{BrokerEvent, Publication, RegistrationId, Ticket};
use lwm2m_simulator as simulator;
use rand::RngExt;

use super::{DeviceNumber, Happening, Network};

/// A Send of a device, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedSend {
    pub value: f64,
    /// The processes of the core that it reached, by the number of restarts before them. Each is named once.
    pub reached: Vec<usize>,
    /// Each response of the core, with the process that gave it. A repeated response is named again.
    pub answers: Vec<(usize, Code)>,
}

/// The network's record of Sends.
#[derive(Debug, Default)]
pub(super) struct SendWatch {
    /// The value that a device is about to send.
    sending: Option<f64>,
    by_token: HashMap<Token, (DeviceNumber, usize)>,
    /// The publications that the link has and the broker has not.
    under_way: HashMap<Ticket, Publication>,
    /// The time at which the broker takes or rejects the newest publication of each endpoint: it keeps their order.
    decided: HashMap<String, Instant>,
}

impl WatchedSend {
    /// Returns how many processes of the core gave this answer.
    pub fn answered_by(&self, code: Code) -> usize {
        self.reached.iter().filter(|process| self.answers.contains(&(**process, code))).count()
    }
}

impl SendWatch {
    /// The process of the core and its link have ended: what the broker has not got is lost.
    pub(super) fn restart(&mut self) {
        self.under_way.clear();
        self.decided.clear();
    }
}

impl Network {
    /// Lets a device send a value that nobody asked for, if it is registered.
    pub(super) fn send(&mut self, number: DeviceNumber, value: f64) {
        let path = "/3303/0/5700".parse().expect("a path");
        let value_of = simulator::SimulatedValue::Float(value);
        let sample = simulator::SimulatedSample { path, value: value_of, time: None };
        let send = simulator::SimulatedSend { format: format::SENML_CBOR, base_time: None, samples: vec![sample] };
        self.send_watch.sending = Some(value);
        let mut sent = Ok(());
        self.with_device(number, |device, now| sent = device.send(now, &send));
        assert!(matches!(sent, Ok(()) | Err(simulator::SimulatedSendError::NotRegistered)), "{sent:?}");
        self.send_watch.sending = None;
    }

    /// Notes a Send that a device transmits for the first time.
    pub(super) fn watch_send(&mut self, number: DeviceNumber, message: &Message) {
        if !is_send(message) {
            return;
        }
        let Some(value) = self.send_watch.sending.take() else { return };
        let sends = &mut self.devices[number].sends;
        self.send_watch.by_token.insert(message.token, (number, sends.len()));
        sends.push(WatchedSend { value, reached: Vec::new(), answers: Vec::new() });
    }

    /// Notes that a Send has arrived at the core.
    pub(super) fn send_arrives(&mut self, datagram: &[u8]) {
        let sent = Header::of(datagram).filter(|header| header.code == Code::POST).and_then(|header| header.token);
        let Some((number, index)) = sent.and_then(|token| self.send_watch.by_token.get(&token)).copied() else {
            return;
        };
        let attached = &mut self.devices[number];
        let send = &mut attached.sends[index];
        if !send.reached.contains(&self.restarts) {
            send.reached.push(self.restarts);
            attached.arrivals.push(send.value);
        }
    }

    /// Notes the answer of the core to a Send, whether or not it arrives.
    pub(super) fn watch_answer(&mut self, datagram: &[u8]) {
        let Some(header) = Header::of(datagram).filter(|header| header.code.is_response()) else { return };
        let Some((number, index)) = header.token.and_then(|token| self.send_watch.by_token.get(&token)).copied() else {
            return;
        };
        self.devices[number].sends[index].answers.push((self.restarts, header.code));
    }

    /// Lets the link say at once whether it has room for a Send. What it has room for the broker takes after its delay,
    /// in order. The share of [`super::Weather::unpublished`] finds no room, or is rejected by the broker where the
    /// device waits for that.
    pub(super) fn take_send(&mut self, registration: RegistrationId, ticket: Ticket, publication: Publication) {
        let is_refused = self.rng.random_bool(self.weather.unpublished);
        if is_refused && (!self.asks_the_broker || self.rng.random_bool(0.5)) {
            return self.schedule(self.now, Happening::FromBroker(BrokerEvent::Unpublished { registration, ticket }));
        }
        self.schedule(self.now, Happening::FromBroker(BrokerEvent::Queued { registration, ticket }));
        let endpoint = self.clientids.get(&registration).cloned().unwrap_or_default();
        let soon = self.now + self.weather.broker_delay.mul_f64(self.rng.random_range(0.0..1.0));
        let decided = self.send_watch.decided.entry(endpoint).or_insert(soon);
        *decided = soon.max(*decided);
        let at = *decided;
        if is_refused {
            return self.schedule(at, Happening::FromBroker(BrokerEvent::Unpublished { registration, ticket }));
        }
        self.send_watch.under_way.insert(ticket, publication);
        self.schedule(at, Happening::FromBroker(BrokerEvent::Published { registration, ticket }));
    }

    /// Takes what the link or the broker says about a Send. The broker has it when it says so. Where the device is
    /// answered before, the link keeps what it has queued, also when the device leaves.
    pub(super) fn decide_send(&mut self, event: &BrokerEvent) {
        let (registration, ticket) = match event {
            BrokerEvent::Queued { registration, ticket } if !self.asks_the_broker => (registration, ticket),
            BrokerEvent::Published { registration, ticket } => (registration, ticket),
            _ => return,
        };
        let Some(publication) = self.send_watch.under_way.remove(ticket) else { return };
        if self.clientids.contains_key(registration) || !self.asks_the_broker {
            self.published.push((*registration, publication));
        }
    }
}

fn is_send(message: &Message) -> bool {
    message.code == Code::POST && message.options.all(number::URI_PATH).eq([b"dp".as_slice()])
}
