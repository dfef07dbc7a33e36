//! Received messages: which exchange, observation or request each belongs to, and what it means to the owner.

use std::time::Instant;

use lwm2m_base::Peer;

use super::event::ExchangeEvent;
use super::event::{CoapOutput, ExchangeId, PendingAck, RequestId};
use super::open_exchanges::ExchangeObservation;
use super::pending_requests::PendingRequest;
use super::{Exchanges, Handled, critical_options};
use crate::coap::dedup::RememberedReply;
use crate::coap::observe::{Freshness, digest};
use crate::coap::options::number;
use crate::coap::outcome::{DatagramOutcome, DropReason};
use crate::coap::parameters::AckMode;
use crate::coap::transmission::Owner;
use crate::coap::{Code, ExchangeError, Kind, Message, MessageId, PeerClass, Request, Response, Token};

impl Exchanges {
    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        peer: Peer,
        class: PeerClass,
        message: Message,
        datagram: &[u8],
    ) -> Handled {
        match message.kind {
            Kind::Confirmable | Kind::NonConfirmable => {
                if let Some(reply) = self.dedup.duplicate(now, peer, message.id, datagram) {
                    if let RememberedReply::Datagram(reply) = reply.clone() {
                        self.transmit(peer, reply.into_vec());
                    }
                    return DatagramOutcome::Duplicate.into();
                }
                if message.code == Code::EMPTY {
                    return self.handle_empty(now, peer, &message).into();
                }
                if message.code.is_request() && self.requests.len() >= self.parameters.pending_requests {
                    // The message is not remembered: when it is repeated there may be room.
                    return DatagramOutcome::Dropped(DropReason::TooManyRequests).into();
                }
                let evicted = self.dedup.remember(now, (peer, class), (message.id, message.kind), datagram);
                self.outputs.extend(evicted.map(CoapOutput::Evicted));
                if message.code.is_request() {
                    self.handle_request(now, peer, class, message)
                } else {
                    self.handle_response(now, peer, message)
                }
            }
            Kind::Acknowledgement if message.code == Code::EMPTY => self.handle_acknowledgement(now, peer, message.id),
            Kind::Acknowledgement if message.code.is_response() => self.handle_piggybacked(now, peer, message),
            Kind::Reset if message.code == Code::EMPTY => self.handle_reset(peer, message.id),
            Kind::Acknowledgement | Kind::Reset => self.handle_invalid_code(peer, &message),
        }
    }

    fn handle_empty(&mut self, now: Instant, peer: Peer, message: &Message) -> DatagramOutcome {
        if message.kind == Kind::NonConfirmable {
            return DatagramOutcome::Dropped(DropReason::InvalidCodeForType);
        }
        self.reset_unremembered(now, peer, message.id);
        DatagramOutcome::Ping
    }

    fn handle_request(&mut self, now: Instant, peer: Peer, class: PeerClass, message: Message) -> Handled {
        let confirmable = message.kind == Kind::Confirmable;
        let unknown = critical_options::unknown_in_request(&message);
        if unknown.is_some() && !confirmable {
            self.reset(now, peer, message.id);
            return DatagramOutcome::Dropped(DropReason::CriticalOption).into();
        }
        let id = RequestId(self.new_id());
        let acknowledge_at = now + self.parameters.ack_timeout / 2;
        self.requests.insert(id, PendingRequest::new(peer, class, &message), acknowledge_at);
        if let Some(option) = unknown {
            self.respond(now, id, Response::new(critical_options::refusal_of(option)));
            return DatagramOutcome::Request.into();
        }
        let request = Request { method: message.code, options: message.options, payload: message.payload };
        Handled::as_event(DatagramOutcome::Request, ExchangeEvent::Request { id, peer, class, request })
    }

    /// Handles a response in a message of its own, confirmable or not (RFC 7252 section 5.2.2).
    fn handle_response(&mut self, now: Instant, peer: Peer, message: Message) -> Handled {
        let expected = self.open.expected(peer, message.token);
        let notifies = message.options.contains(number::OBSERVE) || expected.exchange.is_none();
        if let Some(option) = critical_options::unknown_in_response(&message) {
            let error = ExchangeError::CriticalOption(option);
            let event = match (expected.observation, expected.exchange) {
                (Some(observation), _) if notifies => Some(self.notification_failed(observation, error, true)),
                (_, Some(exchange)) => Some(self.fail(exchange, error)),
                (_, None) => None,
            };
            self.reset(now, peer, message.id);
            return Handled { outcome: DatagramOutcome::Dropped(DropReason::CriticalOption), event };
        }
        let (id, kind, token) = (message.id, message.kind, message.token);
        match (expected.observation, expected.exchange) {
            (Some(observation), _) if notifies => self.notify(now, peer, observation, message),
            (_, Some(exchange)) => {
                self.acknowledge(peer, id, kind);
                self.finish(now, exchange, peer, token, message)
            }
            (_, None) => {
                self.reset(now, peer, id);
                DatagramOutcome::Dropped(DropReason::Unexpected).into()
            }
        }
    }

    fn handle_piggybacked(&mut self, now: Instant, peer: Peer, message: Message) -> Handled {
        let token = message.token;
        let Some(exchange) = self.acknowledged_by(peer, message.id, token) else {
            return DatagramOutcome::Dropped(DropReason::Unexpected).into();
        };
        if let Some(option) = critical_options::unknown_in_response(&message) {
            let event = self.fail(exchange, ExchangeError::CriticalOption(option));
            return Handled::as_event(DatagramOutcome::Dropped(DropReason::CriticalOption), event);
        }
        self.finish(now, exchange, peer, token, message)
    }

    /// Returns the exchange whose request is in flight to this peer with this message id.
    pub(super) fn transmitted(&self, peer: Peer, id: MessageId) -> Option<ExchangeId> {
        match self.transmissions.owner((peer, id))? {
            Owner::Exchange(exchange) => Some(exchange),
            Owner::SeparateResponse => None,
        }
    }

    /// Returns the exchange whose request is in flight to this peer with this message id and this token.
    pub(super) fn acknowledged_by(&self, peer: Peer, id: MessageId, token: Token) -> Option<ExchangeId> {
        let exchange = self.transmitted(peer, id)?;
        self.open.exchange(exchange).is_some_and(|exchange| exchange.token == token).then_some(exchange)
    }

    fn handle_acknowledgement(&mut self, now: Instant, peer: Peer, id: MessageId) -> Handled {
        match self.transmissions.take((peer, id)) {
            Some((Owner::Exchange(id), sent)) => {
                self.open.acknowledged(id, sent, now + self.parameters.max_transmit_wait());
                Handled::as_event(DatagramOutcome::Acknowledgement, ExchangeEvent::Acknowledged { exchange: id })
            }
            Some((Owner::SeparateResponse, _)) => DatagramOutcome::Acknowledgement.into(),
            None => DatagramOutcome::Dropped(DropReason::Unexpected).into(),
        }
    }

    fn handle_reset(&mut self, peer: Peer, id: MessageId) -> Handled {
        match self.transmissions.end((peer, id)) {
            Some(Owner::Exchange(exchange)) => {
                self.end_exchange(exchange);
                Handled::as_event(DatagramOutcome::Reset, ExchangeEvent::Reset { exchange })
            }
            Some(Owner::SeparateResponse) => DatagramOutcome::Reset.into(),
            None => DatagramOutcome::Dropped(DropReason::Unexpected).into(),
        }
    }

    /// Ends an exchange with its response. With the Observe option it continues as an observation.
    fn finish(&mut self, now: Instant, id: ExchangeId, peer: Peer, token: Token, message: Message) -> Handled {
        let observe = self.open.exchange(id).is_some_and(|exchange| exchange.observe);
        self.end_exchange(id);
        let number = observe_number(&message).filter(|_| observe && message.code.is_success());
        if let Some(number) = number {
            let body = digest(&message.options, &message.payload);
            let freshness = Freshness::of(number, now).with_body(body);
            self.open.observe(id, ExchangeObservation { peer, token, freshness });
        }
        let response = Response { code: message.code, options: message.options, payload: message.payload };
        let event = ExchangeEvent::Response { exchange: id, response, observing: number };
        Handled::as_event(DatagramOutcome::Response, event)
    }

    fn notify(&mut self, now: Instant, peer: Peer, id: ExchangeId, message: Message) -> Handled {
        let number = observe_number(&message);
        let body = digest(&message.options, &message.payload);
        let Message { kind, id: message_id, .. } = message;
        let observation = self.open.observation_mut(id).expect("a token points to observations that exist");
        // RFC 7641 section 4.2: an error, or a response without the option, ends the observation.
        match number.filter(|_| message.code.is_success()) {
            Some(number) if !observation.freshness.advance(number, now, body) => {
                self.acknowledge(peer, message_id, kind);
                return DatagramOutcome::Dropped(DropReason::StaleNotification).into();
            }
            Some(_) => {}
            None => self.forget(id),
        }
        let response = Response { code: message.code, options: message.options, payload: message.payload };
        let pending_ack = match self.parameters.acknowledge_notifications {
            AckMode::Deferred if kind == Kind::Confirmable => Some(PendingAck { peer, id: message_id }),
            AckMode::Deferred | AckMode::OnReceipt => None,
        };
        if pending_ack.is_none() {
            self.acknowledge(peer, message_id, kind);
        }
        let event = ExchangeEvent::Notification { observation: id, number, response, pending_ack };
        Handled::as_event(DatagramOutcome::Notification, event)
    }
}

fn observe_number(message: &Message) -> Option<u32> {
    message.options.uint(number::OBSERVE).ok().flatten()
}
