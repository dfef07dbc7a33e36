//! The configuration of the DTLS server.

use std::time::Duration;

use lwm2m_base::ShardSet;
use lwm2m_base::rate::{Rate, RateLimit};

use super::credentials::KeyRealm;

/// Bounds on what unauthenticated peers can make grow, and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtlsConfig {
    /// Handshakes that are begun. Each takes about as much time as 500 records do, and that time is the devices' too.
    pub begun: RateLimit,
    /// Handshakes under way at once. One keeps about 70 KiB.
    pub handshakes: usize,
    /// Handshakes of one address (of IPv6: of one network of 64 bits) at which no device has proved its key, once half
    /// of the places are taken.
    pub handshakes_per_address: usize,
    /// A handshake that is not finished after so long is given up: a wrong key is silent.
    pub handshake_deadline: Duration,
    /// Associations. If there is no room for a new one, the association that was silent longest is evicted, or one of
    /// the same device if it has more than a few.
    pub associations: usize,
    /// An association that nothing was heard on for so long is forgotten.
    pub idle: Duration,
    /// Records of an association that may fail to be authentic before it is closed.
    pub failed_tags: u64,
    /// Keys that are remembered; of identities that are unknown, as many again.
    pub cached_keys: usize,
    /// A cookie is valid for so long at least, and twice as long at most.
    pub cookie_lifetime: Duration,
    /// The realms of the sockets by number. A socket beyond the list has the default realm.
    pub realms: Vec<KeyRealm>,
    /// The shards whose connection IDs the server gives out.
    pub shards: ShardSet,
}

impl DtlsConfig {
    const HANDSHAKES: usize = 2_000;

    /// Returns the realm of a socket.
    pub(crate) fn realm_of(&self, socket: u16) -> KeyRealm {
        self.realms.get(usize::from(socket)).copied().unwrap_or_default()
    }

    /// Returns the share of one address, 2 % of all handshakes.
    pub fn share_of(handshakes: usize) -> usize {
        (handshakes / 50).max(1)
    }
}

impl Default for DtlsConfig {
    fn default() -> Self {
        Self {
            // A client repeats its hello until it is taken, after 1, 2, 4 ... seconds: a fleet that a power cut brings
            // back together is spread over some seconds by this, and lost by nothing.
            begun: RateLimit {
                total: Rate { per_second: 2_000, burst: 4_000 },
                address: Rate { per_second: 1_000, burst: 2_000 },
            },
            handshakes: Self::HANDSHAKES,
            handshakes_per_address: Self::share_of(Self::HANDSHAKES),
            handshake_deadline: Duration::from_secs(60),
            associations: 100_000,
            // A device in queue mode may be away for the whole of its lifetime.
            idle: Duration::from_secs(30 * 24 * 3600),
            // A tag of CCM_8 has 64 bits: after so many attempts one was accepted with a probability of 2^-28. At a
            // million records per second against one association it takes 19 hours to get there.
            failed_tags: 1 << 36,
            cached_keys: 100_000,
            cookie_lifetime: Duration::from_secs(60),
            realms: Vec::new(),
            shards: ShardSet::ALL,
        }
    }
}
