//! The handshake of DTLS at its face, against OpenSSL's client, in memory: the cookie is the test's, records are handed over
//! one by one, and the test decides what is lost.

#[path = "common/dtls/mod.rs"]
mod dtls;
#[path = "dtls_handshake/scene.rs"]
mod scene;

#[path = "dtls_handshake/certificates.rs"]
mod certificates;
#[path = "dtls_handshake/connection_ids.rs"]
mod connection_ids;
#[path = "dtls_handshake/keys.rs"]
mod keys;
#[path = "dtls_handshake/mutations.rs"]
mod mutations;
#[path = "dtls_handshake/network.rs"]
mod network;
#[path = "dtls_handshake/suites.rs"]
mod suites;
#[path = "dtls_handshake/tickets.rs"]
mod tickets;
