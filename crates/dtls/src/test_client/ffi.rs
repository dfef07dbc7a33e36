//! Bindings to OpenSSL functions that the `openssl` crate lacks, for the client.
#![allow(unsafe_code)]

#[cfg(raw_public_keys)]
use std::ffi::c_uchar;
use std::ffi::{c_int, c_uint};

use foreign_types_shared::ForeignTypeRef;
use openssl::ssl::{SslContextBuilder, SslRef, SslSession, SslStream};
use openssl_sys as sys;

/// Disables OpenSSL's retransmissions: the test decides about time.
pub(crate) fn never_retransmit(ssl: &SslRef) {
    extern "C" fn never(_ssl: *mut sys::SSL, _microseconds: c_uint) -> c_uint {
        c_uint::MAX
    }
    // SAFETY: a living SSL, and a function that lives for ever.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), Some(never)) };
}

pub(crate) fn set_session(ssl: &mut SslRef, session: &SslSession) {
    // SAFETY: sessions are used with the context that they are of: `DtlsClient::resume` passes both on.
    unsafe { ssl.set_session(session) }.expect("a session of this context");
}

/// Takes the next datagram: true if it is a hello with a valid cookie, else it was answered with one. Statelessly, and
/// the way that OpenSSL's manual has for servers.
pub fn listen<S>(stream: &mut SslStream<S>) -> bool {
    // SAFETY: a living SSL with its BIOs, borrowed exclusively; the address is made and freed here.
    unsafe {
        let address = BIO_ADDR_new();
        assert!(!address.is_null());
        let taken = DTLSv1_listen(stream.ssl().as_ptr(), address);
        BIO_ADDR_free(address);
        taken == 1
    }
}

/// Offers only raw public keys, of both sides (RFC 7250).
#[cfg(raw_public_keys)]
pub(crate) fn use_raw_public_keys(context: &mut SslContextBuilder) {
    const TYPES: [u8; 1] = [2];
    // SAFETY: a living SSL_CTX; the bytes are copied.
    unsafe {
        assert_eq!(SSL_CTX_set1_client_cert_type(context.as_ptr(), TYPES.as_ptr(), 1), 1);
        assert_eq!(SSL_CTX_set1_server_cert_type(context.as_ptr(), TYPES.as_ptr(), 1), 1);
    }
}

#[cfg(not(raw_public_keys))]
pub(crate) fn use_raw_public_keys(_context: &mut SslContextBuilder) {
    panic!("this OpenSSL has no raw public keys");
}

#[cfg(raw_public_keys)]
pub(crate) fn peer_raw_public_key(ssl: &SslRef) -> Option<Vec<u8>> {
    use openssl::pkey::{PKeyRef, Public};
    // SAFETY: a living SSL; the key belongs to its session, and is read at once.
    let key: &PKeyRef<Public> = unsafe {
        let key = SSL_get0_peer_rpk(ssl.as_ptr());
        if key.is_null() {
            return None;
        }
        PKeyRef::from_ptr(key)
    };
    Some(key.public_key_to_der().expect("a key has a form"))
}

#[cfg(not(raw_public_keys))]
pub(crate) fn peer_raw_public_key(_ssl: &SslRef) -> Option<Vec<u8>> {
    None
}

/// `BIO_ADDR`
#[repr(C)]
struct BioAddress {
    _opaque: [u8; 0],
}

// SAFETY: as declared in OpenSSL's headers.
unsafe extern "C" {
    fn BIO_ADDR_new() -> *mut BioAddress;
    fn BIO_ADDR_free(address: *mut BioAddress);
    fn DTLSv1_listen(ssl: *mut sys::SSL, client: *mut BioAddress) -> c_int;
    fn DTLS_set_timer_cb(ssl: *mut sys::SSL, callback: Option<extern "C" fn(*mut sys::SSL, c_uint) -> c_uint>);
}

// SAFETY: as declared in the headers of OpenSSL 3.2 and later.
#[cfg(raw_public_keys)]
unsafe extern "C" {
    fn SSL_CTX_set1_server_cert_type(context: *mut sys::SSL_CTX, types: *const c_uchar, length: usize) -> c_int;
    fn SSL_CTX_set1_client_cert_type(context: *mut sys::SSL_CTX, types: *const c_uchar, length: usize) -> c_int;
    fn SSL_get0_peer_rpk(ssl: *const sys::SSL) -> *mut sys::EVP_PKEY;
}
