//! The DTLS server against OpenSSL's client, in virtual time.

mod dtls_handshake;
mod dtls_network;
