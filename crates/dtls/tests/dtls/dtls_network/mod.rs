//! The DTLS server at its public face, in virtual time, with OpenSSL's clients and a network that loses, doubles,
//! delays, cuts and forges. For each case: what the device sees, what the server says, and that no sequence number is
//! used twice.

mod scene;

mod attacks;
mod bounds;
mod crowd;
mod handshake;
mod moving;
mod random;
mod rate;
mod replacing;
mod restart;
mod revoking;
mod shards;
mod unknown_peers;
