//! DTLS 1.2 (RFC 6347) with connection ids (RFC 9146): datagrams in, plaintext out, and back.
//!
//! OpenSSL does the handshake; the records after it are ours, so that an association costs less than 1 KiB, moves with
//! its device and outlives the process. A device's way:
//!
//! 1. Its hello is answered with a cookie; nothing is kept of it.
//! 2. Its hello with that cookie begins a handshake.
//! 3. The finished handshake leaves an association.
//! 4. The association is over when the device closes it, makes a new one from the same address, or is silent for too long.
//!
//! It knows neither CoAP nor devices, reads no clock and has no socket.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod association;
mod associations;
pub mod cipher;
mod config;
mod cookie;
pub mod credentials;
mod establishing;
pub mod handshake;
mod handshakes;
mod hello;
mod key_cache;
mod prf;
mod receiving;
pub mod record;
mod replay_window;
mod report;
mod restart;
mod saved;
mod sources;
#[cfg(feature = "test-client")]
pub mod test_client;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use lwm2m_base::{AssociationId, Peer};

use association::{Alert, Association};
use associations::{Associations, Place};
use cookie::Cookies;
use credentials::{Identity, PskIdentity};
use handshake::Acceptor;
use handshakes::Handshakes;
use key_cache::KeyCache;
use record::MAX_PLAINTEXT;
use restart::AssociationChanges;

pub use config::DtlsConfig;
pub use report::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};
pub use saved::{AssociationChange, SavedAssociation};

/// What the owner has to do. What has to be kept over a restart is apart from it: [`DtlsServer::take_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DtlsOutput {
    Transmit {
        socket: u16,
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// From a device.
    Plaintext {
        peer: Peer,
        plaintext: Vec<u8>,
    },
    /// To be answered with [`DtlsServer::handle_key`]. There is one question at a time for each identity.
    FindKey {
        identity: PskIdentity,
    },
    Established {
        peer: Peer,
        identity: Arc<Identity>,
    },
    Closed {
        peer: Peer,
        reason: AssociationCloseReason,
    },
    /// To be counted, and logged.
    Report(DtlsReport),
}

pub struct DtlsServer {
    settings: DtlsConfig,
    /// None: DTLS is switched off for those who have no association.
    acceptor: Option<Acceptor>,
    rng: StdRng,
    cookies: Cookies,
    keys: KeyCache,
    handshakes: Handshakes,
    associations: Associations,
    changes: AssociationChanges,
    outputs: VecDeque<DtlsOutput>,
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
    /// What was not polled yet.
    pub outputs: usize,
}

impl DtlsServer {
    /// `seed` is the source of all randomness: of cookies and of connection ids, so that nobody may guess it. Without an
    /// acceptor there are no handshakes; the associations that there are go on.
    pub fn new(settings: DtlsConfig, acceptor: Option<Acceptor>, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            acceptor,
            cookies: Cookies::new(settings.cookie_lifetime, &mut rng, now),
            rng,
            keys: KeyCache::new(settings.cached_keys, settings.handshakes),
            handshakes: Handshakes::new(&settings),
            associations: Associations::default(),
            changes: AssociationChanges::default(),
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// One record in one datagram, to where the device is now.
    pub fn send(&mut self, to: AssociationId, plaintext: &[u8]) {
        let association = self.associations.get_mut(to).filter(|_| plaintext.len() < MAX_PLAINTEXT);
        let Some(association) = association else { return self.report(DtlsReport::Unsent { association: to }) };
        let Some(datagram) = association.seal(plaintext) else {
            self.alert(to, Alert::CloseNotify);
            self.close(to, AssociationCloseReason::SequenceExhausted);
            return self.report(DtlsReport::Unsent { association: to });
        };
        if association.is_worn() {
            self.changed(to);
        }
        self.transmit_to(to, datagram);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.keys.handle_timeout(now);
        self.handle_handshake_timeouts(now);
        while let Some(silent) = self.associations.pop_silent(now, self.settings.idle) {
            self.closed(silent, AssociationCloseReason::Idle);
        }
    }

    /// Call after everything else until it returns None.
    pub fn poll_output(&mut self) -> Option<DtlsOutput> {
        self.outputs.pop_front()
    }

    /// Handshakes under way go on with the one that they began with.
    pub fn set_acceptor(&mut self, acceptor: Option<Acceptor>) {
        self.acceptor = acceptor;
    }

    /// The keys may be others now: they are looked up anew.
    pub fn forget_keys(&mut self) {
        self.keys.forget_all();
    }

    /// The keys of these identities are not those of before: who proved to be one of them by that has to prove it anew.
    pub fn revoke(&mut self, is_revoked: impl Fn(&PskIdentity) -> bool) {
        for id in self.associations.of_identities(&is_revoked) {
            self.alert(id, Alert::CloseNotify);
            self.close(id, AssociationCloseReason::Revoked);
        }
        for id in self.handshakes.of_identities(&is_revoked) {
            self.handshake_failed(id, HandshakeFailure::Revoked);
        }
    }

    /// When `handle_timeout` is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.handshakes.next_deadline(), self.associations.next_deadline(), self.keys.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Who is at the other end of an association.
    pub fn identity(&self, association: AssociationId) -> Option<&Arc<Identity>> {
        self.associations.get(association).map(|association| &association.identity)
    }

    pub fn table_sizes(&self) -> DtlsTableSizes {
        DtlsTableSizes {
            handshakes: self.handshakes.len(),
            associations: self.associations.len(),
            cached_keys: self.keys.remembered(),
            key_questions: self.keys.questions(),
            outputs: self.outputs.len(),
        }
    }

    fn peer(&self, id: AssociationId) -> Option<Peer> {
        self.associations.get(id).map(Association::peer)
    }

    /// An association has its id for ever; it is our connection id too, so that nobody may guess it.
    fn new_id(&mut self) -> AssociationId {
        loop {
            let id = AssociationId(self.rng.random());
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

    /// It is in no table any more.
    fn closed(&mut self, mut association: Box<Association>, reason: AssociationCloseReason) {
        self.changes.push(&mut association);
        self.push(DtlsOutput::Closed { peer: association.peer(), reason });
    }

    fn changed(&mut self, id: AssociationId) {
        if let Some(association) = self.associations.get_mut(id) {
            self.changes.push(association);
        }
    }

    fn transmit_to(&mut self, id: AssociationId, datagram: Vec<u8>) {
        if let Some(place) = self.associations.get(id).map(|association| association.place) {
            self.transmit(place, datagram);
        }
    }

    fn transmit(&mut self, (socket, to): Place, datagram: Vec<u8>) {
        self.push(DtlsOutput::Transmit { socket, to, datagram });
    }

    fn report(&mut self, report: DtlsReport) {
        self.push(DtlsOutput::Report(report));
    }

    fn push(&mut self, output: DtlsOutput) {
        self.outputs.push_back(output);
    }
}
