//! The DTLS server at its public face, in virtual time, with OpenSSL's clients and a network that loses, doubles, delays,
//! cuts and forges. For each case: what the device sees, what the server says, and that no sequence number is used twice.

#[path = "common/dtls/mod.rs"]
mod dtls;
#[path = "dtls_network/scene.rs"]
mod scene;

#[path = "dtls_network/attacks.rs"]
mod attacks;
#[path = "dtls_network/bounds.rs"]
mod bounds;
#[path = "dtls_network/crowd.rs"]
mod crowd;
#[path = "dtls_network/handshake.rs"]
mod handshake;
#[path = "dtls_network/moving.rs"]
mod moving;
#[path = "dtls_network/random.rs"]
mod random;
#[path = "dtls_network/rate.rs"]
mod rate;
#[path = "dtls_network/replacing.rs"]
mod replacing;
#[path = "dtls_network/restart.rs"]
mod restart;
#[path = "dtls_network/revoking.rs"]
mod revoking;
#[path = "dtls_network/strangers.rs"]
mod strangers;
