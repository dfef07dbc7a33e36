//! The requests that wait for their response, and the observations. Each has its token in use.

use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;

use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::index::Index;
use lwm2m_base::sparse::ShrinkSparse;
use lwm2m_base::{Peer, Shard};

use crate::coap::observe::Freshness;
use crate::coap::transmission::{MessageKey, SentMessage};
use crate::coap::{ExchangeId, MessageId, Parameters, Token};

/// Owns the exchanges and the observations, the tokens by which messages of peers belong to them, and the times at
/// which separate responses must have come.
#[derive(Debug, Default)]
pub(super) struct OpenExchanges {
    exchanges: IdMap<ExchangeId, Exchange>,
    exchanges_by_token: Index<ExchangeId>,
    /// Boxed, so that the free places of the table are small: each device has observations.
    observations: IdMap<ExchangeId, Box<ExchangeObservation>>,
    observations_by_token: Index<ExchangeId>,
    response_deadlines: IdDeadlines<ExchangeId>,
}

/// The exchange and the observation that a token belongs to. A request with Observe 1 has the token of the observation
/// that it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub exchange: Option<ExchangeId>,
    pub observation: Option<ExchangeId>,
}

/// A request that waits for its response.
#[derive(Debug)]
pub(super) struct Exchange {
    pub peer: Peer,
    pub token: Token,
    pub message_id: MessageId,
    pub observe: bool,
    /// The request, once it was acknowledged: it is sent again if the device moves before it answers.
    pub acknowledged: Option<SentMessage>,
}

/// The token of an observation, and its newest notification.
#[derive(Debug)]
pub(super) struct ExchangeObservation {
    pub peer: Peer,
    pub token: Token,
    pub freshness: Freshness,
}

impl OpenExchanges {
    pub(super) fn begin(&mut self, id: ExchangeId, exchange: Exchange) {
        self.exchanges_by_token.insert(&(exchange.peer, exchange.token), id);
        self.exchanges.insert(id, exchange);
    }

    /// Notes that the peer has acknowledged the request and has to answer before this deadline.
    pub(super) fn acknowledged(&mut self, id: ExchangeId, request: SentMessage, deadline: Instant) {
        self.response_deadlines.set(id, deadline);
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.acknowledged = Some(request);
        }
    }

    pub(crate) fn cancel_deadline(&mut self, id: ExchangeId) {
        self.response_deadlines.cancel(id);
    }

    /// Removes an exchange that is over. Its observation, if it has one, is kept.
    pub(super) fn end(&mut self, id: ExchangeId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&id)?;
        self.exchanges.shrink_sparse();
        self.response_deadlines.cancel(id);
        self.exchanges_by_token.remove(&(exchange.peer, exchange.token), |own| *own == id);
        Some(exchange)
    }

    pub(super) fn observe(&mut self, id: ExchangeId, observation: ExchangeObservation) {
        self.observations_by_token.insert(&(observation.peer, observation.token), id);
        self.observations.insert(id, Box::new(observation));
    }

    /// Gives an observation another id, and replaces the observation that has this id.
    pub(crate) fn rename_observation(&mut self, from: ExchangeId, to: ExchangeId) {
        if from != to
            && let Some(observation) = self.take_observation(from)
        {
            self.take_observation(to);
            self.observe(to, *observation);
        }
    }

    pub(crate) fn forget_observation(&mut self, id: ExchangeId) {
        self.take_observation(id);
    }

    /// Moves an exchange to another peer. Returns the peer and the message id of its request before.
    pub(crate) fn readdress_exchange(&mut self, id: ExchangeId, to: Peer) -> Option<MessageKey> {
        let exchange = self.exchanges.get_mut(&id)?;
        let from = std::mem::replace(&mut exchange.peer, to);
        self.exchanges_by_token.remove(&(from, exchange.token), |own| *own == id);
        self.exchanges_by_token.insert(&(to, exchange.token), id);
        Some((from, exchange.message_id))
    }

    /// Moves an observation to another peer.
    pub(crate) fn readdress_observation(&mut self, id: ExchangeId, to: Peer) {
        if let Some(observation) = self.take_observation(id) {
            self.observe(id, ExchangeObservation { peer: to, ..*observation });
        }
    }

    /// Returns the next exchange whose separate response has not come in time.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<ExchangeId> {
        self.response_deadlines.pop_expired(now)
    }

    pub(crate) fn exchange_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.exchanges.get_mut(&id)
    }

    pub(crate) fn observation_mut(&mut self, id: ExchangeId) -> Option<&mut ExchangeObservation> {
        self.observations.get_mut(&id).map(AsMut::as_mut)
    }

    pub(super) fn exchange(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges.get(&id)
    }

    pub(super) fn observation(&self, id: ExchangeId) -> Option<&ExchangeObservation> {
        self.observations.get(&id).map(AsRef::as_ref)
    }

    /// Returns the exchange and the observation that a message of this peer with this token belongs to.
    pub(super) fn expected(&self, peer: Peer, token: Token) -> Expected {
        let (exchange, observation) = (self.exchange_of(peer, token), self.observation_of(peer, token));
        Expected { exchange, observation }
    }

    /// Returns the exchange that a response of this peer with this token answers: the newest that has the token.
    pub(crate) fn exchange_of(&self, peer: Peer, token: Token) -> Option<ExchangeId> {
        let has_token = |id: &ExchangeId| {
            self.exchanges.get(id).is_some_and(|exchange| exchange.token == token && exchange.peer == peer)
        };
        self.exchanges_by_token.candidates(&(peer, token)).copied().filter(has_token).max()
    }

    fn observation_of(&self, peer: Peer, token: Token) -> Option<ExchangeId> {
        let has_token =
            |id: &ExchangeId| self.observations.get(id).is_some_and(|one| one.token == token && one.peer == peer);
        self.observations_by_token.candidates(&(peer, token)).copied().filter(has_token).max()
    }

    /// Returns a random token that is unused with this peer, in this shard, or else in one of the shards of the
    /// parameters. It has the length of the parameters; if a token of this length is taken, a longer one is tried.
    pub(crate) fn unused_token(
        &self,
        (peer, shard): (Peer, Option<Shard>),
        parameters: &Parameters,
        rng: &mut StdRng,
    ) -> Token {
        let mut length = parameters.token_length;
        loop {
            let mut bytes = [0; Token::MAX_LENGTH];
            rng.fill_bytes(&mut bytes);
            bytes[0] = shard.unwrap_or_else(|| parameters.shards.choose(bytes[0])).number();
            let token = Token::new(&bytes[..length.min(Token::MAX_LENGTH)]);
            if self.expected(peer, token) == Expected::default() {
                return token;
            }
            length += 1;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.response_deadlines.next()
    }

    pub(super) fn exchanges(&self) -> usize {
        self.exchanges.len()
    }

    pub(super) fn observations(&self) -> usize {
        self.observations.len()
    }

    /// Returns the number of tokens in use. One that an exchange and an observation have counts twice.
    pub(super) fn tokens(&self) -> usize {
        self.exchanges_by_token.len() + self.observations_by_token.len()
    }

    pub(super) fn deadlines(&self) -> usize {
        self.response_deadlines.len()
    }

    fn take_observation(&mut self, id: ExchangeId) -> Option<Box<ExchangeObservation>> {
        let observation = self.observations.remove(&id)?;
        self.observations.shrink_sparse();
        self.observations_by_token.remove(&(observation.peer, observation.token), |own| *own == id);
        Some(observation)
    }
}
