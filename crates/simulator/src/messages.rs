//! The device's message layer (RFC 7252 section 4): retransmission of what has to arrive, replay of what was asked
//! twice.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use lwm2m_base::deadlines::Deadlines;
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Parameters, Request, Response, Token};

/// Messages of the server that are remembered: it has one exchange at a time, as NSTART says.
const REMEMBERED: usize = 32;

/// Notifications without confirmation that a reset may still answer.
const RESETTABLE: usize = 16;

/// The purpose of a sent message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessagePurpose {
    /// A request of ours, with this token.
    Request(Token),
    /// A notification, with the token of its observation.
    Notification(Token),
}

/// The meaning of a received datagram or of an expired timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Occurrence {
    Request(Message),
    Response(Token, Response),
    Acknowledged(MessagePurpose),
    Reset(MessagePurpose),
    TimedOut(MessagePurpose),
}

#[derive(Debug)]
pub(super) struct Messages {
    parameters: Parameters,
    rng: StdRng,
    next_id: MessageId,
    transmissions: HashMap<MessageId, OutstandingMessage>,
    /// The tokens of our requests that have no response yet.
    awaited: Vec<Token>,
    resettable: VecDeque<(MessageId, Token)>,
    seen: VecDeque<ReceivedMessage>,
    deadlines: Deadlines<MessageTimer>,
    outbox: VecDeque<Vec<u8>>,
}

/// A confirmable message without acknowledgement.
#[derive(Debug)]
struct OutstandingMessage {
    datagram: Vec<u8>,
    purpose: MessagePurpose,
    retransmissions: u8,
    timeout: Duration,
}

/// A message of the server, and the reply that its duplicate gets.
#[derive(Debug)]
struct ReceivedMessage {
    id: MessageId,
    at: Instant,
    reply: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum MessageTimer {
    Retransmit(MessageId),
    /// The request was acknowledged; its response does not come.
    Response(Token),
}

impl Messages {
    pub(crate) fn new(parameters: Parameters, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let next_id = MessageId(rng.random());
        Self {
            parameters,
            rng,
            next_id,
            transmissions: HashMap::new(),
            awaited: Vec::new(),
            resettable: VecDeque::new(),
            seen: VecDeque::new(),
            deadlines: Deadlines::default(),
            outbox: VecDeque::new(),
        }
    }

    pub(crate) fn send_request(&mut self, now: Instant, request: Request) -> Token {
        let token = Token::new(&self.rng.random::<[u8; 8]>());
        let Request { method, options, payload } = request;
        let id = self.take_id();
        let message = Message { kind: Kind::Confirmable, code: method, id, token, options, payload };
        self.awaited.push(token);
        self.transmit(now, &message, MessagePurpose::Request(token));
        token
    }

    pub(crate) fn send_notification(&mut self, now: Instant, token: Token, notification: Response, confirmable: bool) {
        let Response { code, options, payload } = notification;
        let kind = if confirmable { Kind::Confirmable } else { Kind::NonConfirmable };
        let message = Message { kind, code, id: self.take_id(), token, options, payload };
        if confirmable {
            self.transmit(now, &message, MessagePurpose::Notification(token));
            return;
        }
        self.resettable.truncate(RESETTABLE - 1);
        self.resettable.push_front((message.id, token));
        self.outbox.push_back(message.encode());
    }

    /// Answers a request that came as [`Occurrence::Request`].
    pub(crate) fn reply(&mut self, request: &Message, response: Response) {
        let Response { code, options, payload } = response;
        let (kind, id) = match request.kind {
            Kind::Confirmable => (Kind::Acknowledgement, request.id),
            Kind::NonConfirmable | Kind::Acknowledgement | Kind::Reset => (Kind::NonConfirmable, self.take_id()),
        };
        let reply = Message { kind, code, id, token: request.token, options, payload }.encode();
        self.store_reply(request.id, &reply);
        self.outbox.push_back(reply);
    }

    pub(crate) fn receive(&mut self, now: Instant, datagram: &[u8]) -> Option<Occurrence> {
        let message = Message::decode(datagram).ok()?;
        match message.kind {
            Kind::Acknowledgement => self.acknowledged(now, message),
            Kind::Reset => self.reset(message.id),
            Kind::Confirmable | Kind::NonConfirmable => self.received(now, message),
        }
    }

    /// Returns the expired exchanges one at a time, and `None` when nothing is left to do at `now`.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Occurrence> {
        loop {
            match self.deadlines.pop_expired(now)? {
                MessageTimer::Response(token) => {
                    self.awaited.retain(|awaited| *awaited != token);
                    return Some(Occurrence::TimedOut(MessagePurpose::Request(token)));
                }
                MessageTimer::Retransmit(id) => {
                    if let Some(purpose) = self.retransmit(now, id) {
                        return Some(Occurrence::TimedOut(purpose));
                    }
                }
            }
        }
    }

    /// Ends every exchange of ours. What the server asked stays remembered.
    pub(crate) fn abandon_all(&mut self) {
        self.transmissions.clear();
        self.awaited.clear();
        self.resettable.clear();
        self.deadlines = Deadlines::default();
    }

    /// Ends what still goes on about a notification of this observation.
    pub(crate) fn abandon_notifications(&mut self, token: Token) {
        self.transmissions.retain(|id, transmission| {
            let keep = transmission.purpose != MessagePurpose::Notification(token);
            if !keep {
                self.deadlines.cancel(MessageTimer::Retransmit(*id));
            }
            keep
        });
        self.resettable.retain(|(_, observation)| *observation != token);
    }

    pub(crate) fn take_datagram(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    fn take_id(&mut self) -> MessageId {
        let id = self.next_id;
        self.next_id = MessageId(id.0.wrapping_add(1));
        id
    }

    fn transmit(&mut self, now: Instant, message: &Message, purpose: MessagePurpose) {
        let spread = self.rng.random_range(1.0..=self.parameters.ack_random_factor.max(1.0));
        let timeout = self.parameters.ack_timeout.mul_f64(spread);
        let datagram = message.encode();
        self.outbox.push_back(datagram.clone());
        self.deadlines.set(MessageTimer::Retransmit(message.id), now + timeout);
        self.transmissions.insert(message.id, OutstandingMessage { datagram, purpose, retransmissions: 0, timeout });
    }

    /// Sends it once more; gives its purpose when that is in vain.
    fn retransmit(&mut self, now: Instant, id: MessageId) -> Option<MessagePurpose> {
        let transmission = self.transmissions.get_mut(&id)?;
        if transmission.retransmissions < self.parameters.max_retransmit {
            transmission.retransmissions += 1;
            transmission.timeout *= 2;
            self.deadlines.set(MessageTimer::Retransmit(id), now + transmission.timeout);
            self.outbox.push_back(transmission.datagram.clone());
            return None;
        }
        let purpose = self.end_transmission(id)?;
        if let MessagePurpose::Request(token) = purpose {
            self.awaited.retain(|awaited| *awaited != token);
        }
        Some(purpose)
    }

    fn end_transmission(&mut self, id: MessageId) -> Option<MessagePurpose> {
        self.deadlines.cancel(MessageTimer::Retransmit(id));
        self.transmissions.remove(&id).map(|transmission| transmission.purpose)
    }

    fn acknowledged(&mut self, now: Instant, message: Message) -> Option<Occurrence> {
        if message.code.is_response() {
            return self.response(message);
        }
        let purpose = self.end_transmission(message.id)?;
        if let MessagePurpose::Request(token) = purpose {
            self.deadlines.set(MessageTimer::Response(token), now + self.parameters.max_transmit_wait());
        }
        Some(Occurrence::Acknowledged(purpose))
    }

    fn reset(&mut self, id: MessageId) -> Option<Occurrence> {
        if let Some(purpose) = self.end_transmission(id) {
            if let MessagePurpose::Request(token) = purpose {
                self.awaited.retain(|awaited| *awaited != token);
            }
            return Some(Occurrence::Reset(purpose));
        }
        let (_, token) = *self.resettable.iter().find(|(sent, _)| *sent == id)?;
        Some(Occurrence::Reset(MessagePurpose::Notification(token)))
    }

    fn received(&mut self, now: Instant, message: Message) -> Option<Occurrence> {
        let confirmable = message.kind == Kind::Confirmable;
        if message.code == Code::EMPTY {
            if confirmable {
                self.send_empty(Kind::Reset, message.id);
            }
            return None;
        }
        if self.replay(now, message.id) {
            return None;
        }
        self.remember(now, message.id);
        if message.code.is_request() {
            return Some(Occurrence::Request(message));
        }
        let id = message.id;
        let occurrence = self.response(message);
        if confirmable {
            self.send_empty(if occurrence.is_some() { Kind::Acknowledgement } else { Kind::Reset }, id);
        }
        occurrence
    }

    /// Takes a response to a request of ours, in the acknowledgement or on its own.
    fn response(&mut self, message: Message) -> Option<Occurrence> {
        let at = self.awaited.iter().position(|awaited| *awaited == message.token)?;
        let token = self.awaited.swap_remove(at);
        self.deadlines.cancel(MessageTimer::Response(token));
        let mut transmissions = self.transmissions.iter();
        let unacknowledged =
            transmissions.find(|(_, one)| one.purpose == MessagePurpose::Request(token)).map(|(id, _)| *id);
        if let Some(id) = unacknowledged {
            self.end_transmission(id);
        }
        let Message { code, options, payload, .. } = message;
        Some(Occurrence::Response(token, Response { code, options, payload }))
    }

    fn send_empty(&mut self, kind: Kind, id: MessageId) {
        let reply = Message::empty(kind, id).encode();
        self.store_reply(id, &reply);
        self.outbox.push_back(reply);
    }

    /// Returns whether the message was here before; then its reply leaves once more.
    fn replay(&mut self, now: Instant, id: MessageId) -> bool {
        let lifetime = self.parameters.exchange_lifetime();
        self.seen.retain(|seen| now < seen.at + lifetime);
        let Some(seen) = self.seen.iter().find(|seen| seen.id == id) else { return false };
        self.outbox.extend(seen.reply.clone());
        true
    }

    fn remember(&mut self, now: Instant, id: MessageId) {
        self.seen.truncate(REMEMBERED - 1);
        self.seen.push_front(ReceivedMessage { id, at: now, reply: None });
    }

    fn store_reply(&mut self, id: MessageId, reply: &[u8]) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.id == id) {
            seen.reply = Some(reply.to_vec());
        }
    }
}
