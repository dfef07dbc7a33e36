//! Retransmission of confirmable messages: a message is sent again with exponential back-off until it is acknowledged,
//! reset or given up (RFC 7252 section 4.2).
//!
//! A further block of a transfer is retransmitted twice as many times, and the back-off stops growing after the first
//! half. Where a tenth of the datagrams is lost each way, one exchange in four thousand fails with MAX_RETRANSMIT 4,
//! and so every fourth firmware image of a thousand blocks would. With the default parameters the last retransmission
//! leaves within EXCHANGE_LIFETIME, so that the peer recognises it as a duplicate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use lwm2m_base::Peer;
use lwm2m_base::deadlines::Deadlines;
use lwm2m_base::sparse::ShrinkSparse;

use super::{ExchangeId, MessageId, Parameters};

/// The peer that a message was sent to, and its message id.
pub(crate) type MessageKey = (Peer, MessageId);

/// The purpose of a confirmable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The request of this exchange.
    Exchange(ExchangeId),
    /// The separate response to a request of a peer.
    SeparateResponse,
}

/// Holds the confirmable messages that wait for an acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct Transmissions {
    waiting: HashMap<MessageKey, Transmission>,
    deadlines: Deadlines<MessageKey>,
}

#[derive(Debug)]
struct Transmission {
    owner: Owner,
    sent: SentMessage,
    timeout: Duration,
    retransmissions: u8,
    /// Whether it has not been sent to this address yet.
    due: bool,
}

/// A confirmable message as it leaves.
#[derive(Debug)]
pub(crate) struct SentMessage {
    pub datagram: Vec<u8>,
    pub persistence: Persistence,
}

impl SentMessage {
    pub(crate) fn set_message_id(&mut self, id: MessageId) {
        // RFC 7252 section 3: the message id is the third and the fourth byte.
        if let Some(bytes) = self.datagram.get_mut(2..4) {
            bytes.copy_from_slice(&id.0.to_be_bytes());
        }
    }
}

/// The number of retransmissions of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// MAX_RETRANSMIT times.
    Ordinary,
    /// Twice that: the peer has answered an earlier block of the same transfer.
    WithinTransfer,
}

/// The consequence of an expired deadline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The endpoint sends these bytes once more.
    Retransmit(Peer, Vec<u8>),
    /// The peer answered none of the transmissions.
    GivenUp(Owner),
}

impl Transmissions {
    /// Begins the transmission of a message that is sent now. The first timeout is ACK_TIMEOUT times a random factor.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        key: MessageKey,
        sent: SentMessage,
        owner: Owner,
        how: &Parameters,
        rng: &mut StdRng,
    ) {
        let timeout = how.ack_timeout.mul_f64(rng.random_range(1.0..=how.ack_random_factor));
        self.deadlines.set(key, now + timeout);
        self.waiting.insert(key, Transmission { owner, sent, timeout, retransmissions: 0, due: false });
    }

    /// Begins the transmission again of a message that was sent to another address: it is due now.
    pub(crate) fn begin_anew(
        &mut self,
        now: Instant,
        key: MessageKey,
        sent: SentMessage,
        owner: Owner,
        how: &Parameters,
        rng: &mut StdRng,
    ) {
        self.begin(now, key, sent, owner, how, rng);
        self.deadlines.set(key, now);
        if let Some(transmission) = self.waiting.get_mut(&key) {
            transmission.due = true;
        }
    }

    pub(super) fn contains(&self, key: MessageKey) -> bool {
        self.waiting.contains_key(&key)
    }

    /// Ends a transmission, because the message was acknowledged or reset, or is not needed any more.
    pub(super) fn end(&mut self, key: MessageKey) -> Option<Owner> {
        self.take(key).map(|(owner, _)| owner)
    }

    /// Ends a transmission like [`Transmissions::end`], and returns the message.
    pub(super) fn take(&mut self, key: MessageKey) -> Option<(Owner, SentMessage)> {
        self.deadlines.cancel(key);
        let Transmission { owner, sent, .. } = self.waiting.remove(&key)?;
        self.waiting.shrink_sparse();
        Some((owner, sent))
    }

    pub(super) fn owner(&self, key: MessageKey) -> Option<Owner> {
        self.waiting.get(&key).map(|transmission| transmission.owner)
    }

    pub(super) fn pop_expired(&mut self, now: Instant, how: &Parameters) -> Option<Expired> {
        let key = self.deadlines.pop_expired(now)?;
        let transmission = self.waiting.get_mut(&key).expect("every deadline has its transmission");
        if std::mem::take(&mut transmission.due) {
            self.deadlines.set(key, now + transmission.timeout);
            return Some(Expired::Retransmit(key.0, transmission.sent.datagram.clone()));
        }
        if transmission.retransmissions >= transmission.sent.persistence.retransmissions(how) {
            let owner = transmission.owner;
            self.waiting.remove(&key);
            self.waiting.shrink_sparse();
            return Some(Expired::GivenUp(owner));
        }
        transmission.retransmissions += 1;
        if transmission.retransmissions <= how.max_retransmit {
            transmission.timeout *= 2;
        }
        self.deadlines.set(key, now + transmission.timeout);
        Some(Expired::Retransmit(key.0, transmission.sent.datagram.clone()))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}

impl Persistence {
    fn retransmissions(self, how: &Parameters) -> u8 {
        match self {
            Self::Ordinary => how.max_retransmit,
            Self::WithinTransfer => how.max_retransmit.saturating_mul(2),
        }
    }
}
