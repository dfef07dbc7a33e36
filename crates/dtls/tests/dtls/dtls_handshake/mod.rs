//! The handshake of DTLS at its face, against OpenSSL's client, in memory: the cookie is the test's, records are handed
//! over one by one, and the test decides what is lost.

mod scene;

mod connection_ids;
mod keys;
mod mutations;
mod network;
mod suites;
mod tickets;
