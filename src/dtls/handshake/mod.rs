//! The handshake: OpenSSL's part.

use zeroize::Zeroizing;

use super::cipher::Suite;
use super::credentials::{Identity, PskIdentity, PskKey};
use super::record::{OwnCid, PeerCid};

/// The credentials and choices of this side.
#[derive(Clone)]
pub struct Acceptor;

pub struct Handshake;

pub enum Step {
    Transmit(Vec<u8>),
    FindKey(PskIdentity),
    Established(Box<Established>),
    Failed(Failure),
}

/// What is left of a handshake: enough to go on without OpenSSL.
pub struct Established {
    pub suite: Suite,
    /// Always, for a suite with CBC.
    pub encrypt_then_mac: bool,
    pub master_secret: Zeroizing<[u8; 48]>,
    pub client_random: [u8; 32],
    pub server_random: [u8; 32],
    /// None unless both agreed on connection ids (RFC 9146).
    pub own_cid: Option<OwnCid>,
    /// What our records carry; None where they carry none.
    pub peer_cid: Option<PeerCid>,
    /// Of epoch 1: the first that was not used.
    pub next_write_sequence: u64,
    /// Of epoch 1: that of the client's Finished.
    pub newest_read_sequence: u64,
    /// Our datagrams that the client has to have seen, as they were sent: empty where the client spoke last.
    pub last_flight: Vec<Vec<u8>>,
    pub identity: Identity,
    pub resumed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Not said more exactly.
    Refused,
}

impl Handshake {
    /// `hello`: the record with the (first fragment of the) ClientHello whose cookie is valid.
    pub fn accept(_acceptor: &Acceptor, _hello: &[u8], _own_cid: OwnCid) -> Self {
        Self
    }

    pub fn handle_record(&mut self, _record: &[u8]) {}

    /// None: the identity is unknown.
    pub fn handle_key(&mut self, _key: Option<&PskKey>) {}

    /// Call after every `handle_*` until it returns None.
    pub fn poll(&mut self) -> Option<Step> {
        Some(Step::Failed(Failure::Refused))
    }

    /// The bytes of the current flight once more.
    pub fn retransmit(&mut self) {}
}
