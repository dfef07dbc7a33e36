//! A DTLS 1.2 server (RFC 6347) with connection ids (RFC 9146), without sockets and without a clock.
//!
//! OpenSSL performs the handshake. The record layer after it is our own, so that an association takes less than 1 KiB,
//! follows its device to another address and survives a restart of the process. The life of an association:
//!
//! 1. The server answers a ClientHello with a HelloVerifyRequest, whose cookie proves the address of the client. The
//!    server keeps no state for it (`cookie`).
//! 2. The ClientHello with that cookie begins a handshake ([`handshake`], `handshakes`).
//! 3. The finished handshake leaves an association (`association`, `associations`).
//! 4. The association ends when the device closes it, establishes a new one from the same address or is silent for too
//!    long, when its key is revoked, or when it is evicted.
//!
//! # How to use it
//!
//! [`DtlsServer`] takes datagrams, plaintexts, keys and the time, and queues [`DtlsOutput`]s and [`DtlsEvent`]s. The
//! owner calls [`DtlsServer::poll_output`] and then [`DtlsServer::poll_event`] after every other call until both return
//! None, and [`DtlsServer::handle_timeout`] at [`DtlsServer::next_deadline`]. Time never runs backwards. The owner
//! stores the changes of [`DtlsServer::take_changes`]; the changes that [`DtlsServer::restore`] returns have to be
//! durable before anything is sent.
//!
//! # What this crate guarantees
//!
//! - Each datagram has exactly one [`DtlsDatagramOutcome`] in the reports, and no datagram makes the server panic.
//! - A plaintext is authentic, was not received before ([RFC 6347 section 4.1.2.6]), and comes with the association
//!   that it belongs to. After a crash at most the last 64 records of a device could be accepted again.
//! - No sequence number protects two records, not even over a restart or if an older copy of the store is brought back,
//!   under the conditions that [`WriteTerms`] names.
//! - A device's address changes only by an authentic record that is newer than all before it (RFC 9146 section 6).
//! - Every table has a bound ([`DtlsConfig`]) and a gauge ([`DtlsTableSizes`]).
//! - All `unsafe` code of the program is here, in `handshake::ffi`, behind functions that are safe to call.
//! - Keys are zeroized on drop, and `Debug` shows none of them.
//!
//! # What it does not know
//!
//! CoAP, LwM2M, registrations and the broker; where keys and certificates come from; what an identity may do. It reads
//! no clock (except that OpenSSL checks the dates of certificates), opens no socket and writes no file. Randomness
//! comes from the seed that the owner passes, except inside OpenSSL.
//!
//! [RFC 6347 section 4.1.2.6]: https://www.rfc-editor.org/rfc/rfc6347#section-4.1.2.6
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod association;
mod associations;
pub mod cipher;
mod config;
mod cookie;
pub mod credentials;
mod establishing;
pub mod handshake;
mod handshake_rate;
mod handshakes;
mod hello;
mod key_cache;
mod key_turns;
mod prf;
mod receiving;
pub mod record;
mod replay_window;
mod report;
mod restart;
mod saved;
mod shards;
mod sources;
#[cfg(feature = "test-client")]
pub mod test_client;
mod write_terms;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use lwm2m_base::{AssociationId, Peer, Shard, ShardSet};

use association::{Alert, Association, NoRecord};
use associations::{Associations, PeerAddress};
use cookie::Cookies;
use credentials::{KeyKind, KeyQuestion, KeyUse};
use handshake::Acceptor;
use handshakes::Handshakes;
use key_cache::KeyCache;
use key_turns::KeyTurns;
use lwm2m_base::identity::{Identity, PskIdentity};
use record::MAX_PLAINTEXT;
use restart::AssociationChanges;
use write_terms::TermTurn;

pub use config::DtlsConfig;
pub use lwm2m_cluster::Term;
pub use report::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};
pub use saved::{AssociationChange, SavedAssociation, SavedNumbers};
pub use write_terms::WriteTerms;

/// An instruction of the server to its owner. Changes for the store are polled separately:
/// [`DtlsServer::take_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DtlsOutput {
    Transmit {
        socket: u16,
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// The datagrams by which the handshake of an association ends. A device that has received them uses its keys, so
    /// they may be sent only after [`AssociationChange::Put`] is durable; an owner without a store sends them at once.
    TransmitLastFlight {
        association: AssociationId,
        socket: u16,
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// Asks for a key; [`DtlsServer::handle_key`] takes the answer. There is at most one lookup at a time for each
    /// identity of a realm.
    FindKey(KeyQuestion),
    Closed {
        peer: Peer,
        reason: AssociationCloseReason,
    },
    /// A report for metrics and the log.
    Report(DtlsReport),
}

/// An event for the owner, which it handles when the server has no more outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DtlsEvent {
    /// Data of a device.
    Plaintext {
        peer: Peer,
        plaintext: Vec<u8>,
    },
    Established {
        peer: Peer,
        identity: Arc<Identity>,
    },
}

/// A DTLS server: handshakes, associations and the keys of PSK identities. See the documentation of the crate.
pub struct DtlsServer {
    config: DtlsConfig,
    /// The credentials of handshakes; `None` rejects new handshakes.
    acceptor: Option<Acceptor>,
    rng: StdRng,
    cookies: Cookies,
    keys: KeyCache,
    key_turns: KeyTurns,
    handshakes: Handshakes,
    associations: Associations,
    changes: AssociationChanges,
    terms: WriteTerms,
    /// The last term that an association may begin by itself, at the time of the last call with a time. An earlier time
    /// does no harm.
    latest_term: Term,
    /// The shards whose associations need a newer term, in a cluster.
    wanted_terms: ShardSet,
    outputs: VecDeque<DtlsOutput>,
    events: VecDeque<DtlsEvent>,
}

/// The entries of each table: all of them are bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DtlsTableSizes {
    pub handshakes: usize,
    pub associations: usize,
    /// Keys, and identities that are known to be unknown.
    pub cached_keys: usize,
    /// Identities whose key is being looked up.
    pub key_questions: usize,
    /// Outputs and events that were not polled yet.
    pub outputs: usize,
}

/// Adds the sizes of the tables of another instance.
impl std::ops::AddAssign for DtlsTableSizes {
    fn add_assign(&mut self, other: Self) {
        lwm2m_base::add_fields!(self, other; handshakes, associations, cached_keys, key_questions, outputs);
    }
}

/// Describes an association without its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssociationFacts {
    pub suite: cipher::Suite,
    /// Whether the records of the device carry a connection ID (RFC 9146).
    pub connection_id: bool,
    /// The handshake that made it; `None` for an association of an earlier process.
    pub handshake: Option<CompletedHandshake>,
}

/// A handshake that made an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedHandshake {
    /// The time of its end.
    pub at: Instant,
    /// Whether it resumed an earlier session (RFC 5246 section 7.3).
    pub resumed: bool,
}

impl DtlsServer {
    /// Creates a server. `seed` is the source of all randomness, for cookies and connection ids, and must be
    /// unpredictable. Without an acceptor handshakes are rejected; restored associations continue.
    pub fn new(config: DtlsConfig, acceptor: Option<Acceptor>, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            acceptor,
            cookies: Cookies::new(config.cookie_lifetime, &mut rng, now),
            rng,
            keys: KeyCache::new(config.cached_keys, config.handshakes),
            key_turns: KeyTurns::new(config.cached_keys),
            handshakes: Handshakes::new(&config),
            associations: Associations::default(),
            changes: AssociationChanges::default(),
            terms: WriteTerms::of_single_process(),
            latest_term: WriteTerms::of_single_process().latest(now),
            wanted_terms: ShardSet::EMPTY,
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            config,
        }
    }

    /// Returns a plaintext as one record in one datagram, which the owner sends to the current address of the device.
    /// Where there is none, a report says why.
    #[must_use]
    pub fn seal(&mut self, to: AssociationId, plaintext: &[u8]) -> Option<(Peer, Vec<u8>)> {
        let sealed = self.sealed(to, plaintext);
        if sealed.is_none() {
            self.report(DtlsReport::Unsent { association: to });
        }
        sealed
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.latest_term = self.terms.latest(now);
        self.keys.handle_timeout(now);
        self.key_turns.handle_timeout(now);
        self.handle_handshake_timeouts(now);
        while let Some(silent) = self.associations.pop_silent(now, self.config.idle) {
            self.closed(silent, AssociationCloseReason::Idle);
        }
    }

    /// Returns the next output. Call it after every other method until it returns `None`.
    pub fn poll_output(&mut self) -> Option<DtlsOutput> {
        self.outputs.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// Replaces the credentials of new handshakes. Handshakes in progress continue with the credentials that they began
    /// with.
    pub fn set_acceptor(&mut self, acceptor: Option<Acceptor>) {
        self.acceptor = acceptor;
    }

    /// Clears the cached keys, so that they are looked up again.
    pub fn forget_keys(&mut self) {
        self.keys.forget_all();
    }

    /// Clears one cached key, so that it is looked up again.
    pub fn forget_key(&mut self, question: &KeyQuestion) {
        self.keys.forget(question);
    }

    /// Closes the associations whose key was removed or changed; their devices have to make a new handshake.
    pub fn revoke(&mut self, is_revoked: impl Fn(KeyUse<'_>) -> bool) {
        let realm_of = |socket| self.config.realm_of(socket);
        let closed = self.associations.with_keys(realm_of, &is_revoked);
        let ended = self.handshakes.with_keys(realm_of, &is_revoked);
        self.end_revoked(closed, ended);
    }

    /// Closes those of these associations whose key was removed or changed.
    pub fn revoke_among(&mut self, ids: &[AssociationId], is_revoked: impl Fn(KeyUse<'_>) -> bool) {
        let is_closed = |id: &AssociationId| self.key_use(*id).is_some_and(&is_revoked);
        let closed: Vec<AssociationId> = ids.iter().copied().filter(is_closed).collect();
        self.end_revoked(closed, Vec::new());
    }

    /// Closes the associations of one identity whose key was removed or changed, and ends its handshakes.
    pub fn revoke_of(&mut self, identity: &PskIdentity, is_revoked: impl Fn(KeyUse<'_>) -> bool) {
        let realm_of = |socket| self.config.realm_of(socket);
        let of_identity = self.associations.of(&Identity::Psk(identity.clone())).iter().copied();
        let is_closed = |id: &AssociationId| self.key_use(*id).is_some_and(&is_revoked);
        let closed: Vec<AssociationId> = of_identity.filter(is_closed).collect();
        let ended = self.handshakes.with_keys(realm_of, |key| key.identity == identity && is_revoked(key));
        self.end_revoked(closed, ended);
    }

    /// Returns the time at which `handle_timeout` has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (keys, turns) = (self.keys.next_deadline(), self.key_turns.next_deadline());
        let deadlines = [self.handshakes.next_deadline(), self.associations.next_deadline(), keys, turns];
        deadlines.into_iter().flatten().min()
    }

    /// Returns the identity of the device of an association.
    pub fn identity(&self, association: AssociationId) -> Option<&Arc<Identity>> {
        self.associations.get(association).map(|association| &association.identity)
    }

    /// Returns the kind of the pre-shared key that made an association; `None` without such a key.
    pub fn key_kind(&self, association: AssociationId) -> Option<KeyKind> {
        Some(self.associations.get(association)?.key?.kind)
    }

    /// Describes the pre-shared key of an association; `None` without one.
    pub fn key_use(&self, association: AssociationId) -> Option<KeyUse<'_>> {
        self.associations.get(association)?.key_use(|socket| self.config.realm_of(socket))
    }

    /// Returns the address that the device of an association speaks from now.
    pub fn address(&self, association: AssociationId) -> Option<SocketAddr> {
        self.associations.get(association).map(|association| association.place.1)
    }

    /// Returns whether the device of an association speaks from this address.
    pub fn has_association_at(&self, socket: u16, address: SocketAddr) -> bool {
        self.associations.by_place((socket, address)).is_some()
    }

    /// Returns the shard of the association that was seen last at an address.
    pub fn shard_at(&self, socket: u16, address: SocketAddr) -> Option<Shard> {
        self.associations.at((socket, address)).map(|association| association.id.shard())
    }

    /// Returns when the last authentic record came from an address.
    pub fn last_heard_at(&self, socket: u16, address: SocketAddr) -> Option<Instant> {
        self.associations.at((socket, address)).map(|association| association.last_heard())
    }

    /// Iterates over the sockets and addresses at which there is an association without connection ID.
    pub fn addresses_without_connection_id(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        self.associations.places_without_id()
    }

    /// Returns the facts about an association that may be shown; `None` if there is none.
    pub fn facts(&self, association: AssociationId) -> Option<AssociationFacts> {
        let association = self.associations.get(association)?;
        Some(AssociationFacts {
            suite: association.keys.suite(),
            connection_id: association.has_own_cid,
            handshake: association.handshake,
        })
    }

    pub fn table_sizes(&self) -> DtlsTableSizes {
        DtlsTableSizes {
            handshakes: self.handshakes.len(),
            associations: self.associations.len(),
            cached_keys: self.keys.remembered(),
            key_questions: self.keys.questions(),
            outputs: self.outputs.len() + self.events.len(),
        }
    }

    fn end_revoked(&mut self, associations: Vec<AssociationId>, handshakes: Vec<AssociationId>) {
        for id in associations {
            self.alert(id, Alert::CloseNotify);
            self.close(id, AssociationCloseReason::Revoked);
        }
        for id in handshakes {
            self.handshake_failed(id, HandshakeFailure::Revoked);
        }
    }

    fn peer(&self, id: AssociationId) -> Option<Peer> {
        self.associations.get(id).map(Association::peer)
    }

    /// Draws the id of an association. It is never used again, and is the gateway's connection id, so it must be
    /// unpredictable.
    fn new_id(&mut self) -> AssociationId {
        loop {
            let id = AssociationId::from_random(self.rng.random(), self.config.shards);
            if self.associations.get(id).is_none() && !self.handshakes.contains(id) {
                return id;
            }
        }
    }

    fn alert(&mut self, id: AssociationId, alert: Alert) {
        let sealed = self.associations.get_mut(id).and_then(|association| association.seal_alert(alert));
        if let Some(datagram) = sealed {
            self.transmit_to(id, datagram);
        }
    }

    fn close(&mut self, id: AssociationId, reason: AssociationCloseReason) {
        if let Some(association) = self.associations.remove(id) {
            self.closed(association, reason);
        }
    }

    /// Reports that an association is closed. The association is no longer in any table.
    fn closed(&mut self, mut association: Box<Association>, reason: AssociationCloseReason) {
        self.changes.push(&mut association);
        self.push(DtlsOutput::Closed { peer: association.peer(), reason });
    }

    fn changed(&mut self, id: AssociationId) {
        if let Some(association) = self.associations.get_mut(id) {
            self.changes.push(association);
        }
    }

    fn sealed(&mut self, to: AssociationId, plaintext: &[u8]) -> Option<(Peer, Vec<u8>)> {
        let association = self.associations.get_mut(to).filter(|_| plaintext.len() < MAX_PLAINTEXT)?;
        let turn = self.terms.turn(to.shard(), self.latest_term);
        let sealed = association.seal(turn, plaintext);
        if matches!(turn, TermTurn::OfShard(Some(_))) && association.needs_term() {
            self.wanted_terms.insert(to.shard());
        }
        let ((socket, address), is_worn) = (association.place, association.is_worn());
        match sealed {
            Ok(datagram) => {
                if is_worn {
                    self.changed(to);
                }
                Some((Peer::udp(socket, address), datagram))
            }
            Err(NoRecord::Yet) => None,
            Err(NoRecord::Never) => {
                self.alert(to, Alert::CloseNotify);
                self.close(to, AssociationCloseReason::SequenceExhausted);
                None
            }
        }
    }

    fn transmit_to(&mut self, id: AssociationId, datagram: Vec<u8>) {
        if let Some(place) = self.associations.get(id).map(|association| association.place) {
            self.transmit(place, datagram);
        }
    }

    fn transmit(&mut self, (socket, to): PeerAddress, datagram: Vec<u8>) {
        self.push(DtlsOutput::Transmit { socket, to, datagram });
    }

    fn report(&mut self, report: DtlsReport) {
        self.push(DtlsOutput::Report(report));
    }

    fn push(&mut self, output: DtlsOutput) {
        self.outputs.push_back(output);
    }
}
