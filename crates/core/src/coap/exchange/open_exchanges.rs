//! The requests that wait for their response, and the observations. Each has its token in use.

use std::time::Instant;

use rand::rngs::StdRng;

use lwm2m_base::Peer;
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;

use super::tokens::{Expected, Tokens};
use crate::coap::observe::Freshness;
use crate::coap::transmission::{MessageKey, SentMessage};
use crate::coap::{ExchangeId, MessageId, Parameters, Token};

/// Owns the exchanges and the observations, the tokens by which messages of peers belong to them, and the times at
/// which separate responses must have come.
#[derive(Debug, Default)]
pub(super) struct OpenExchanges {
    exchanges: IdMap<ExchangeId, Exchange>,
    observations: IdMap<ExchangeId, ExchangeObservation>,
    tokens: Tokens,
    response_deadlines: IdDeadlines<ExchangeId>,
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
    pub fn begin(&mut self, id: ExchangeId, exchange: Exchange) {
        self.tokens.set_exchange(exchange.peer, exchange.token, Some(id));
        self.exchanges.insert(id, exchange);
    }

    /// Notes that the peer has acknowledged the request and has to answer before this deadline.
    pub fn acknowledged(&mut self, id: ExchangeId, request: SentMessage, deadline: Instant) {
        self.response_deadlines.set(id, deadline);
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.acknowledged = Some(request);
        }
    }

    pub fn cancel_deadline(&mut self, id: ExchangeId) {
        self.response_deadlines.cancel(id);
    }

    /// Removes an exchange that is over. Its observation, if it has one, is kept.
    pub fn end(&mut self, id: ExchangeId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&id)?;
        self.response_deadlines.cancel(id);
        self.tokens.set_exchange(exchange.peer, exchange.token, None);
        Some(exchange)
    }

    pub fn observe(&mut self, id: ExchangeId, observation: ExchangeObservation) {
        self.tokens.set_observation(observation.peer, observation.token, Some(id));
        self.observations.insert(id, observation);
    }

    /// Gives an observation another id, and replaces the observation that has this id.
    pub fn rename_observation(&mut self, from: ExchangeId, to: ExchangeId) {
        let Some(observation) = self.observations.remove(&from) else { return };
        let (peer, token) = (observation.peer, observation.token);
        if let Some(former) = self.observations.insert(to, observation) {
            self.tokens.set_observation(former.peer, former.token, None);
        }
        self.tokens.set_observation(peer, token, Some(to));
    }

    pub fn forget_observation(&mut self, id: ExchangeId) {
        if let Some(ExchangeObservation { peer, token, .. }) = self.observations.remove(&id) {
            self.tokens.set_observation(peer, token, None);
        }
    }

    /// Moves an exchange to another peer. Returns the peer and the message id of its request before.
    pub fn readdress_exchange(&mut self, id: ExchangeId, to: Peer) -> Option<MessageKey> {
        let exchange = self.exchanges.get_mut(&id)?;
        let from = std::mem::replace(&mut exchange.peer, to);
        self.tokens.set_exchange(from, exchange.token, None);
        self.tokens.set_exchange(to, exchange.token, Some(id));
        Some((from, exchange.message_id))
    }

    /// Moves an observation to another peer.
    pub fn readdress_observation(&mut self, id: ExchangeId, to: Peer) {
        let Some(observation) = self.observations.get_mut(&id) else { return };
        let from = std::mem::replace(&mut observation.peer, to);
        self.tokens.set_observation(from, observation.token, None);
        self.tokens.set_observation(to, observation.token, Some(id));
    }

    /// Returns the next exchange whose separate response has not come in time.
    pub fn pop_expired(&mut self, now: Instant) -> Option<ExchangeId> {
        self.response_deadlines.pop_expired(now)
    }

    pub fn exchange_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.exchanges.get_mut(&id)
    }

    pub fn observation_mut(&mut self, id: ExchangeId) -> Option<&mut ExchangeObservation> {
        self.observations.get_mut(&id)
    }

    pub fn exchange(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges.get(&id)
    }

    pub fn observation(&self, id: ExchangeId) -> Option<&ExchangeObservation> {
        self.observations.get(&id)
    }

    /// Returns what a message of this peer with this token belongs to.
    pub fn expected(&self, peer: Peer, token: Token) -> Expected {
        self.tokens.get(peer, token)
    }

    /// Returns a random token that is unused with this peer, as long as the parameters say or longer.
    pub fn unused_token(&self, peer: Peer, parameters: &Parameters, rng: &mut StdRng) -> Token {
        self.tokens.random(peer, parameters.token_length, parameters.shards, rng)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.response_deadlines.next()
    }

    pub fn exchanges(&self) -> usize {
        self.exchanges.len()
    }

    pub fn observations(&self) -> usize {
        self.observations.len()
    }

    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn deadlines(&self) -> usize {
        self.response_deadlines.len()
    }
}
