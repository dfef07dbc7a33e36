//! The rate at which handshakes begin, and its fair distribution among the addresses.
//!
//! While at least half of the total burst is left, only the limits of an address and of all together count. When it is
//! not, handshakes come faster than they may begin. Each address then has an equal share of the total rate: the
//! addresses at which devices have proved their keys share one half of it, all others the other half. So many addresses
//! that ask for handshakes at their full rate leave room for one that asks for a few.
//!
//! Addresses are proven by a cookie before they come here. A table has an entry for each address whose share is not
//! full again. Only a handshake that begins takes from a share, so the total rate bounds the tables.

use std::time::Instant;

use lwm2m_base::rate::{Exceeded, Limiter, Rate, RateLimit, SourceNetwork, TokenBuckets};

pub(crate) struct HandshakeRate {
    limiter: Limiter,
    total: Rate,
    /// The shares of the addresses at which devices have proved their keys.
    known: TokenBuckets<SourceNetwork>,
    unknown: TokenBuckets<SourceNetwork>,
}

impl HandshakeRate {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self {
            limiter: Limiter::new(limit),
            total: limit.total,
            known: TokenBuckets::default(),
            unknown: TokenBuckets::default(),
        }
    }

    /// Counts one more handshake from this address; an error tells which rate is exceeded. `is_known` tells whether a
    /// device has proved its key at this address.
    pub(crate) fn take(&mut self, now: Instant, source: SourceNetwork, is_known: bool) -> Result<(), Exceeded> {
        self.limiter.check(now, source)?;
        if self.limiter.is_scarce(now) && !self.take_share(now, source, is_known) {
            return Err(Exceeded::Address);
        }
        self.limiter.take(now, source)
    }

    fn take_share(&mut self, now: Instant, source: SourceNetwork, is_known: bool) -> bool {
        let shares = if is_known { &mut self.known } else { &mut self.unknown };
        shares.forget_full(now);
        let share = self.total.shared_by(2 * shares.len().max(1));
        shares.take(now, source, share)
    }
}
