//! Messages, exchanges and observations: client and server at once, for all peers. A body is one message here;
//! `Endpoint` puts block-wise transfer over it.
//!
//! As a client:
//! 1. `send_request` sends a confirmable request and sets its first deadline; it is sent again until something comes.
//! 2. An empty acknowledgement ends the retransmission: [`ExchangeEvent::Acknowledged`]. The response may take its
//!    time.
//! 3. The response, piggybacked or separate, matched by token: [`ExchangeEvent::Response`]. A reset:
//!    [`ExchangeEvent::Reset`]. Nothing: [`Exchanges::handle_timeout`] returns the exchange. A response that cannot be
//!    read: [`ExchangeEvent::Failed`].
//! 4. When request and response have the Observe option, the exchange has become an observation of the same id: each
//!    further response with its token is an [`ExchangeEvent::Notification`], in the order of RFC 7641 section 3.4.
//!
//! As a server:
//! 1. A request comes: [`ExchangeEvent::Request`]. Its duplicates get what it got.
//! 2. `respond` answers: piggybacked, or, when the empty acknowledgement has left meanwhile, as a confirmable separate
//!    response.
//!
//! Each datagram has exactly one outcome, and at most one event: the call that takes the datagram returns them.

mod address_change;
mod critical_options;
mod event;
mod malformed;
mod open_exchanges;
mod pending_requests;
mod receiving;
mod repeated;

use std::collections::VecDeque;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use lwm2m_base::{Peer, Shard, ShardSet};

use super::dedup::Deduplicator;
use super::message_ids::MessageIds;
use super::observe::Freshness;
use super::options::number;
use super::outcome::DatagramOutcome;
use super::parameters::AckMode;
use super::table_sizes::CoapTableSizes;
use super::transmission::{Expired, MessageKey, Owner, Persistence, SentMessage, Transmissions};
use super::{
    ExchangeError, Kind, Message, MessageDecodeError, MessageId, Parameters, PeerClass, Request, Response, Token,
};

use open_exchanges::{Exchange, ExchangeObservation, OpenExchanges};
use pending_requests::{AnswerAs, PendingRequests};

pub(crate) use event::ExchangeEvent;
pub use event::{CoapOutput, ExchangeId, PendingAck, RequestId, Transmit};
pub(crate) use pending_requests::RequestMessage;
pub use repeated::RequestIds;

/// Owns the state of all messages, exchanges and observations.
#[derive(Debug)]
pub(crate) struct Exchanges {
    parameters: Parameters,
    rng: StdRng,
    dedup: Deduplicator,
    transmissions: Transmissions,
    open: OpenExchanges,
    requests: PendingRequests,
    message_ids: MessageIds,
    last_id: u64,
    outputs: VecDeque<CoapOutput>,
}

/// The outcome of a datagram, and its event for the owner.
pub(super) struct Handled {
    pub outcome: DatagramOutcome,
    pub event: Option<ExchangeEvent>,
}

impl Exchanges {
    /// Creates the state without exchanges. `seed` is the source of message ids, tokens and the random factor.
    pub(super) fn new(parameters: Parameters, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            dedup: Deduplicator::new(&parameters),
            message_ids: MessageIds::new(&mut rng),
            parameters,
            rng,
            transmissions: Transmissions::default(),
            open: OpenExchanges::default(),
            requests: PendingRequests::default(),
            last_id: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes a decoded datagram, and its bytes, by which a duplicate is recognized. Returns its outcome, and its event for the owner.
    pub(super) fn handle_decoded(
        &mut self,
        now: Instant,
        peer: Peer,
        class: PeerClass,
        decoded: Result<Message, MessageDecodeError>,
        datagram: &[u8],
    ) -> Handled {
        match decoded {
            Ok(message) => self.handle_message(now, peer, class, message, datagram),
            Err(error) => self.handle_malformed(now, peer, error, datagram),
        }
    }

    /// Does what is due at this time. Returns the exchanges that have timed out, which are forgotten.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<ExchangeId> {
        let mut timed_out = Vec::new();
        while let Some(expired) = self.transmissions.pop_expired(now, &self.parameters) {
            match expired {
                Expired::Retransmit(peer, datagram) => {
                    self.outputs.push_back(CoapOutput::Retransmitted(peer));
                    self.transmit(peer, datagram);
                }
                Expired::GivenUp(Owner::Exchange(exchange)) => {
                    self.end_exchange(exchange);
                    timed_out.push(exchange);
                }
                // The peer does not answer; its registration stays until its lifetime ends.
                Expired::GivenUp(Owner::SeparateResponse) => {}
            }
        }
        while let Some(exchange) = self.open.pop_expired(now) {
            self.end_exchange(exchange);
            timed_out.push(exchange);
        }
        // RFC 7252 section 5.2.2: the answer takes longer than the peer should wait.
        while let Some((peer, message_id)) = self.requests.pop_unacknowledged(now) {
            self.acknowledge(peer, message_id, Kind::Confirmable);
        }
        self.dedup.handle_timeout(now);
        timed_out
    }

    /// Counts the entries of the tables.
    pub(super) fn table_sizes(&self) -> CoapTableSizes {
        CoapTableSizes {
            exchanges: self.open.exchanges(),
            observations: self.open.observations(),
            tokens: self.open.tokens(),
            transmissions: self.transmissions.len(),
            pending_requests: self.requests.len(),
            remembered_messages: self.dedup.len(),
            deadlines: self.open.deadlines() + self.requests.deadlines(),
            outputs: self.outputs.len(),
            ..CoapTableSizes::default()
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<CoapOutput> {
        self.outputs.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let own = [self.open.next_deadline(), self.requests.next_deadline()];
        let of_parts = [self.transmissions.next_deadline(), self.dedup.next_deadline()];
        own.into_iter().chain(of_parts).flatten().min()
    }

    /// Sends a confirmable request under a new random token. `shard` is that of the device.
    pub(super) fn send_request(
        &mut self,
        now: Instant,
        (peer, shard): (Peer, Option<Shard>),
        request: &Request,
    ) -> ExchangeId {
        let shard = shard.filter(|_| self.parameters.tokens_of_device);
        let token = self.open.unused_token((peer, shard), &self.parameters, &mut self.rng);
        self.send_with_token(now, peer, request, token, Persistence::Ordinary)
    }

    /// Replaces the shards whose tokens are given out.
    pub(super) fn serve_shards(&mut self, shards: ShardSet) {
        self.parameters.shards = shards;
    }

    /// Returns an id for a request whose first message is sent later, under another id.
    pub(crate) fn reserve_id(&mut self) -> ExchangeId {
        ExchangeId(self.new_id())
    }

    /// Sends a further block of a transfer that the peer has begun to answer.
    pub(crate) fn send_block(&mut self, now: Instant, peer: Peer, request: &Request) -> ExchangeId {
        let token = self.open.unused_token((peer, None), &self.parameters, &mut self.rng);
        self.send_with_token(now, peer, request, token, Persistence::WithinTransfer)
    }

    /// Sends a request that ends an observation: with its token and to its peer (RFC 7641 section 3.6).
    pub(super) fn send_cancellation(
        &mut self,
        now: Instant,
        observation: ExchangeId,
        request: &Request,
    ) -> Option<ExchangeId> {
        let ExchangeObservation { peer, token, .. } = *self.open.observation(observation)?;
        Some(self.send_with_token(now, peer, request, token, Persistence::Ordinary))
    }

    /// Returns the token of an observation, and the freshness of its newest notification.
    pub(super) fn observation(&self, id: ExchangeId) -> Option<(Token, Freshness)> {
        self.open.observation(id).map(|observation| (observation.token, observation.freshness))
    }

    /// Restores an observation that an earlier process had with this peer under this token. If notifications are
    /// acknowledged on demand, the newest one may still be unacknowledged, so its repetition is accepted.
    pub(crate) fn restore_observation(&mut self, peer: Peer, token: Token, freshness: Freshness) -> ExchangeId {
        let id = ExchangeId(self.new_id());
        let freshness = match self.parameters.acknowledge_notifications {
            AckMode::OnReceipt => freshness,
            AckMode::Deferred => freshness.without_newest(),
        };
        self.open.observe(id, ExchangeObservation { peer, token, freshness });
        id
    }

    /// Returns the exchange that a response with this token answers, or else the observation that it belongs to.
    pub(crate) fn named_by(&self, peer: Peer, token: Token) -> Option<ExchangeId> {
        let expected = self.open.expected(peer, token);
        expected.exchange.or(expected.observation)
    }

    /// Returns the number of requests of peers that wait for their answer.
    pub(super) fn pending_requests(&self) -> usize {
        self.requests.len()
    }

    /// Answers a request of a peer. Nothing is sent if the request is no longer known.
    pub(super) fn respond(&mut self, now: Instant, id: RequestId, response: Response) {
        self.respond_as(now, id, response, Kind::Confirmable);
    }

    /// Answers like [`Exchanges::respond`], but a separate response is sent only once: the address of the peer may be
    /// forged.
    pub(crate) fn respond_once(&mut self, now: Instant, id: RequestId, response: Response) {
        self.respond_as(now, id, response, Kind::NonConfirmable);
    }

    /// Drops a request of a peer without an answer.
    pub(crate) fn drop_request(&mut self, id: RequestId) {
        self.requests.take(id);
    }

    /// Returns the message that a request has come in, while the request waits for its answer.
    pub(crate) fn message_of(&self, id: RequestId) -> Option<RequestMessage> {
        self.requests.message_of(id)
    }

    fn respond_as(&mut self, now: Instant, id: RequestId, response: Response, separate: Kind) {
        let Some(pending) = self.requests.take(id) else { return };
        let peer = pending.peer;
        let (kind, message_id) = match pending.answer_as {
            AnswerAs::Piggybacked => (Kind::Acknowledgement, pending.message_id),
            AnswerAs::Separate => (separate, self.new_message_id(peer)),
            AnswerAs::NonConfirmable if pending.class == PeerClass::Idempotent => {
                (Kind::NonConfirmable, MessageId(self.rng.random()))
            }
            AnswerAs::NonConfirmable => (Kind::NonConfirmable, self.new_message_id(peer)),
        };
        let datagram = response.encode(kind, message_id, pending.token);
        if kind == Kind::Acknowledgement {
            self.dedup.set_reply(peer, pending.message_id, &datagram);
        }
        if kind == Kind::Confirmable {
            let key = (peer, message_id);
            let what = SentMessage { datagram: datagram.clone(), persistence: Persistence::Ordinary };
            self.transmissions.begin(now, key, what, Owner::SeparateResponse, &self.parameters, &mut self.rng);
        }
        self.transmit(peer, datagram);
    }

    /// Sends a peer the acknowledgement that it waits for.
    pub(crate) fn acknowledge_pending(&mut self, pending_ack: PendingAck) {
        self.acknowledge(pending_ack.peer, pending_ack.id, Kind::Confirmable);
    }

    /// Gives the observation that the block `step` of a request began the id of the whole request. It replaces an
    /// observation that an earlier block began: notifications have the token of the last block.
    pub(crate) fn adopt_observation(&mut self, step: ExchangeId, whole: ExchangeId) {
        self.open.rename_observation(step, whole);
    }

    /// Forgets an exchange or an observation: it has no further events, and a notification of it is answered with a
    /// reset.
    pub(super) fn forget(&mut self, id: ExchangeId) {
        self.end_exchange(id);
        self.open.forget_observation(id);
    }

    /// Returns whether this message is a duplicate of a remembered one.
    pub(crate) fn is_duplicate(&self, now: Instant, peer: Peer, id: MessageId, datagram: &[u8]) -> bool {
        self.dedup.duplicate(now, peer, id, datagram).is_some()
    }

    /// Returns whether a request of ours with this token waits for the answer of this peer.
    pub(super) fn awaits(&self, peer: Peer, token: Token) -> bool {
        self.open.exchange_of(peer, token).is_some()
    }

    /// Answers a request at once, and keeps nothing of it: a duplicate is handled like a new request.
    pub(super) fn refuse(&mut self, peer: Peer, request: &Message, response: Response) {
        let (kind, id) = match request.kind {
            Kind::Confirmable => (Kind::Acknowledgement, request.id),
            Kind::NonConfirmable | Kind::Acknowledgement | Kind::Reset => {
                (Kind::NonConfirmable, MessageId(self.rng.random()))
            }
        };
        self.transmit(peer, response.encode(kind, id, request.token));
    }

    fn send_with_token(
        &mut self,
        now: Instant,
        peer: Peer,
        request: &Request,
        token: Token,
        persistence: Persistence,
    ) -> ExchangeId {
        let message_id = self.new_message_id(peer);
        self.send_as(now, peer, request, RequestIds { token, message_id }, persistence)
    }

    fn send_as(
        &mut self,
        now: Instant,
        peer: Peer,
        request: &Request,
        RequestIds { token, message_id }: RequestIds,
        persistence: Persistence,
    ) -> ExchangeId {
        let id = ExchangeId(self.new_id());
        let observe = request.options.uint(number::OBSERVE) == Ok(Some(0));
        self.open.begin(id, Exchange { peer, token, message_id, observe, acknowledged: None });

        let datagram = request.encode(message_id, token);
        let key = (peer, message_id);
        let what = SentMessage { datagram: datagram.clone(), persistence };
        self.transmissions.begin(now, key, what, Owner::Exchange(id), &self.parameters, &mut self.rng);
        self.transmit(peer, datagram);
        id
    }

    fn fail(&mut self, exchange: ExchangeId, error: ExchangeError) -> ExchangeEvent {
        self.end_exchange(exchange);
        ExchangeEvent::Failed { exchange, error }
    }

    fn notification_failed(&mut self, observation: ExchangeId, error: ExchangeError, over: bool) -> ExchangeEvent {
        if over {
            self.forget(observation);
        }
        ExchangeEvent::NotificationFailed { observation, error, over }
    }

    fn end_exchange(&mut self, id: ExchangeId) {
        let Some(exchange) = self.open.end(id) else { return };
        let key = (exchange.peer, exchange.message_id);
        if self.owns_transmission(id, key) {
            self.transmissions.end(key);
        }
    }

    fn acknowledge(&mut self, peer: Peer, id: MessageId, kind: Kind) {
        if kind == Kind::Confirmable {
            self.reply(peer, id, Kind::Acknowledgement);
        }
    }

    /// Rejects the newest remembered message with this id, unless a different one with the id was accepted: the device
    /// would take the reset as the answer to that one, and end an observation (RFC 7641 section 3.6). Devices do not
    /// use an id twice that soon (RFC 7252 section 4.4), so that one of the two is forged.
    fn reset(&mut self, now: Instant, peer: Peer, id: MessageId) {
        if self.dedup.resettable(now, peer, id) <= 1 {
            self.reply(peer, id, Kind::Reset);
        }
    }

    /// Rejects a message that is not remembered, under the same condition.
    fn reset_unremembered(&mut self, now: Instant, peer: Peer, id: MessageId) {
        if self.dedup.resettable(now, peer, id) == 0 {
            self.transmit(peer, Message::empty(Kind::Reset, id).encode());
        }
    }

    fn reply(&mut self, peer: Peer, id: MessageId, kind: Kind) {
        let datagram = Message::empty(kind, id).encode();
        self.dedup.set_reply(peer, id, &datagram);
        self.transmit(peer, datagram);
    }

    fn transmit(&mut self, peer: Peer, datagram: Vec<u8>) {
        self.outputs.push_back(CoapOutput::Transmit(Transmit { peer, datagram }));
    }

    /// Returns the next message id for this peer that no message in flight has. A message that was readdressed to this
    /// peer keeps its id.
    fn new_message_id(&mut self, peer: Peer) -> MessageId {
        loop {
            let id = self.message_ids.next(peer);
            if !self.transmissions.contains((peer, id)) {
                return id;
            }
        }
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Handled {
    fn as_event(outcome: DatagramOutcome, event: ExchangeEvent) -> Self {
        Self { outcome, event: Some(event) }
    }
}

impl From<DatagramOutcome> for Handled {
    /// Makes it of a datagram without an event for the owner.
    fn from(outcome: DatagramOutcome) -> Self {
        Self { outcome, event: None }
    }
}
