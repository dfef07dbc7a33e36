//! The tokens in use with each peer. A token belongs to an exchange, to an observation, or to one of each.

use std::collections::HashMap;

use rand::Rng;
use rand::rngs::StdRng;

use lwm2m_base::{Peer, ThreadShards};

use crate::coap::{ExchangeId, Token};

/// Maps each token to what it belongs to. A token that belongs to nothing is forgotten.
#[derive(Debug, Default)]
pub struct Tokens {
    by_peer_and_token: HashMap<(Peer, Token), Expected>,
}

/// The exchange and the observation that a token belongs to. A request with Observe 1 has the token of the observation
/// that it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub exchange: Option<ExchangeId>,
    pub observation: Option<ExchangeId>,
}

impl Tokens {
    /// Sets the exchange that a response of this peer with this token answers.
    pub fn set_exchange(&mut self, peer: Peer, token: Token, exchange: Option<ExchangeId>) {
        self.change(peer, token, |expected| expected.exchange = exchange);
    }

    /// Sets the observation that a notification of this peer with this token belongs to.
    pub fn set_observation(&mut self, peer: Peer, token: Token, observation: Option<ExchangeId>) {
        self.change(peer, token, |expected| expected.observation = observation);
    }

    /// Returns a random token in one of these shards that is unused with this peer. If a token of this length is taken,
    /// a longer one is tried.
    pub fn random(&self, peer: Peer, mut length: usize, shards: ThreadShards, rng: &mut StdRng) -> Token {
        loop {
            let mut bytes = [0; Token::MAX_LENGTH];
            rng.fill_bytes(&mut bytes);
            bytes[0] = shards.choose(bytes[0]).number();
            let token = Token::new(&bytes[..length.min(Token::MAX_LENGTH)]);
            if !self.by_peer_and_token.contains_key(&(peer, token)) {
                return token;
            }
            length += 1;
        }
    }

    /// Returns what a token belongs to.
    pub fn get(&self, peer: Peer, token: Token) -> Expected {
        self.by_peer_and_token.get(&(peer, token)).copied().unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.by_peer_and_token.len()
    }

    fn change(&mut self, peer: Peer, token: Token, change: impl FnOnce(&mut Expected)) {
        let expected = self.by_peer_and_token.entry((peer, token)).or_default();
        change(expected);
        if *expected == Expected::default() {
            self.by_peer_and_token.remove(&(peer, token));
        }
    }
}
