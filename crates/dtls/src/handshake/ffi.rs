//! Bindings to OpenSSL functions that the `openssl` crate lacks. All `unsafe` code of the program is here, behind
//! functions that are safe to call.
//!
//! The declarations are those of OpenSSL's headers (`ssl.h`, `bio.h`, `x509_vfy.h`), which are the same from 1.1.1 to
//! 3.6, except for raw public keys: those came with 3.2 (`cfg(raw_public_keys)`, which `build.rs` sets by the
//! library's version).
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uchar, c_uint, c_void};
use std::{ptr, slice};

use foreign_types_shared::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ssl::{SslCipherRef, SslContextBuilder, SslRef, SslSessionRef, SslStream};
use openssl_sys as sys;

use super::tickets;

#[cfg(raw_public_keys)]
use openssl::pkey::{PKeyRef, Public};
#[cfg(raw_public_keys)]
use openssl::x509::X509StoreContextRef;

/// Microseconds until OpenSSL would send a flight again, about 71 minutes: longer than any handshake may take, so that
/// it never does. When a flight is sent again is ours to say, by our clock.
const NEVER: c_uint = c_uint::MAX;

/// `SSL_TICKET_SUCCESS`: the ticket is good.
const TICKET_SUCCESS: c_int = 5;
/// `SSL_TICKET_SUCCESS_RENEW`: it is, and a new one is due.
const TICKET_SUCCESS_RENEW: c_int = 6;
/// `SSL_TICKET_RETURN_IGNORE_RENEW`: a full handshake, and a new ticket.
const IGNORE_AND_RENEW: c_int = 2;
/// `SSL_TICKET_RETURN_USE`.
const USE: c_int = 3;
/// `SSL_TICKET_RETURN_USE_RENEW`.
const USE_AND_RENEW: c_int = 4;

/// Takes a ClientHello whose cookie was verified (the callback of the context has to say so) as the beginning of the
/// handshake: to `accept` it is as if OpenSSL had asked for that cookie. True if it was taken.
///
/// A stream, and no SSL alone: the BIOs have to be set.
pub(super) fn listen<S>(stream: &mut SslStream<S>) -> bool {
    // SAFETY: takes nothing, and returns null or an address that is ours.
    let address = unsafe { BIO_ADDR_new() };
    if address.is_null() {
        return false;
    }
    // SAFETY: the stream has a living SSL with its BIOs, and is borrowed exclusively, so that nobody else uses them
    // during the call; `address` was made above. DTLSv1_listen works on these only, and keeps neither argument.
    let taken = unsafe { DTLSv1_listen(stream.ssl().as_ptr(), address) };
    // SAFETY: made above, not freed before, and kept by nobody.
    unsafe { BIO_ADDR_free(address) };
    taken == 1
}

/// Takes OpenSSL's own timer out.
pub(super) fn never_retransmit(ssl: &mut SslRef) {
    // SAFETY: `ssl` is a living SSL; the call only looks at its method.
    let is_dtls = unsafe { SSL_is_dtls(ssl.as_ptr()) } == 1;
    assert!(is_dtls, "the contexts here are all for DTLS: others have no timer");
    // SAFETY: `ssl` is a living SSL for DTLS, borrowed exclusively; the callback is a function of this program, so that
    // it lives as long as any SSL.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), Some(never)) };
}

/// Returns the cipher suite of the ServerHello, once it is chosen.
pub(super) fn pending_cipher(ssl: &SslRef) -> Option<&SslCipherRef> {
    // SAFETY: `ssl` is a living SSL. The pointer is null or into OpenSSL's own table of ciphers, which is never freed;
    // the lifetime that is given to it here is shorter.
    unsafe {
        let cipher = SSL_get_pending_cipher(ssl.as_ptr());
        (!cipher.is_null()).then(|| SslCipherRef::from_ptr(cipher.cast_mut()))
    }
}

/// Lets [`tickets`] decide about the tickets of a context.
pub(super) fn set_tickets(context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    // SAFETY: the context is a living SSL_CTX; the callbacks are functions of this program, and their argument is not
    // used.
    let set = unsafe {
        SSL_CTX_set_session_ticket_cb(context.as_ptr(), Some(write_ticket), Some(read_ticket), ptr::null_mut())
    };
    done(set)
}

/// Returns the note of [`tickets::note`] in the ticket that the session came from, which is empty if there is none.
pub(super) fn ticket_note(session: &SslSessionRef) -> &[u8] {
    let mut note: *mut c_void = ptr::null_mut();
    let mut length = 0;
    // SAFETY: the session is a living SSL_SESSION; both places are ours and outlive the call. It writes a pointer into
    // the session, or null with length 0.
    let found = unsafe { SSL_SESSION_get0_ticket_appdata(session.as_ptr(), &mut note, &mut length) };
    if found != 1 || note.is_null() {
        return &[];
    }
    // SAFETY: OpenSSL says that there are `length` bytes at `note`. They belong to the session and change only by
    // SSL_SESSION_set1_ticket_appdata, which `write_ticket` calls, and only from within OpenSSL, while nothing borrows
    // the session.
    unsafe { slice::from_raw_parts(note.cast(), length) }
}

/// Offers the kinds of certificates for our own and accepts them of clients (RFC 7250), the best first.
#[cfg(raw_public_keys)]
pub(super) fn set_certificate_types(
    context: &mut SslContextBuilder,
    of_server: &[u8],
    of_client: &[u8],
) -> Result<(), ErrorStack> {
    let context = context.as_ptr();
    // SAFETY: the context is a living SSL_CTX; the bytes are copied by the call.
    done(unsafe { SSL_CTX_set1_server_cert_type(context, of_server.as_ptr(), of_server.len()) })?;
    // SAFETY: as above.
    done(unsafe { SSL_CTX_set1_client_cert_type(context, of_client.as_ptr(), of_client.len()) })
}

/// Returns the raw public key whose possession the client has proved.
#[cfg(raw_public_keys)]
pub(super) fn peer_raw_public_key(ssl: &SslRef) -> Option<&PKeyRef<Public>> {
    // SAFETY: `ssl` is a living SSL. The key is null or belongs to its session, which changes in a handshake only, and
    // that takes the SSL exclusively (`SslStream::accept` takes `&mut self`).
    unsafe {
        let key = SSL_get0_peer_rpk(ssl.as_ptr());
        (!key.is_null()).then(|| PKeyRef::from_ptr(key))
    }
}

/// Returns the raw public key that has to be verified; `None` for a certificate.
#[cfg(raw_public_keys)]
pub(super) fn raw_public_key_to_verify(context: &X509StoreContextRef) -> Option<&PKeyRef<Public>> {
    // SAFETY: the context is a living X509_STORE_CTX. The key is null or belongs to whoever started the verification,
    // who keeps it for the whole of it; the reference lives no longer than that of the context.
    unsafe {
        let key = X509_STORE_CTX_get0_rpk(context.as_ptr());
        (!key.is_null()).then(|| PKeyRef::from_ptr(key))
    }
}

extern "C" fn never(_ssl: *mut sys::SSL, _microseconds: c_uint) -> c_uint {
    NEVER
}

extern "C" fn write_ticket(ssl: *mut sys::SSL, _argument: *mut c_void) -> c_int {
    // SAFETY: OpenSSL calls this with the SSL whose ticket it is about to write: alive, and not in use elsewhere. A
    // panic would end the process at this border, as it has to (extern "C" aborts).
    let ssl = unsafe { SslRef::from_ptr(ssl) };
    let (Some(note), Some(session)) = (tickets::note(ssl), ssl.session()) else { return 1 };
    // SAFETY: the session is alive; it is the one of this SSL and not in a cache (there is none here), so that nobody
    // else reads it. The bytes are copied by the call.
    unsafe { SSL_SESSION_set1_ticket_appdata(session.as_ptr(), note.as_ptr().cast(), note.len()) }
}

extern "C" fn read_ticket(
    ssl: *mut sys::SSL,
    _session: *mut sys::SSL_SESSION,
    _name: *const c_uchar,
    _name_length: usize,
    status: c_int,
    _argument: *mut c_void,
) -> c_int {
    // SAFETY: as in `write_ticket`.
    let ssl = unsafe { SslRef::from_ptr(ssl) };
    match status {
        TICKET_SUCCESS if tickets::are_accepted(ssl) => USE,
        TICKET_SUCCESS_RENEW if tickets::are_accepted(ssl) => USE_AND_RENEW,
        _ => IGNORE_AND_RENEW,
    }
}

/// Converts a result of OpenSSL, where 1 is success.
fn done(result: c_int) -> Result<(), ErrorStack> {
    if result == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// `BIO_ADDR`, of which only OpenSSL knows what is in it.
#[repr(C)]
struct BioAddr {
    _opaque: [u8; 0],
}

type TimerCallback = extern "C" fn(*mut sys::SSL, c_uint) -> c_uint;
type WriteTicket = extern "C" fn(*mut sys::SSL, *mut c_void) -> c_int;
type ReadTicket =
    extern "C" fn(*mut sys::SSL, *mut sys::SSL_SESSION, *const c_uchar, usize, c_int, *mut c_void) -> c_int;

// SAFETY: as declared in OpenSSL's headers.
unsafe extern "C" {
    fn BIO_ADDR_new() -> *mut BioAddr;
    fn BIO_ADDR_free(address: *mut BioAddr);
    fn DTLSv1_listen(ssl: *mut sys::SSL, client: *mut BioAddr) -> c_int;
    fn SSL_is_dtls(ssl: *const sys::SSL) -> c_int;
    fn DTLS_set_timer_cb(ssl: *mut sys::SSL, callback: Option<TimerCallback>);
    fn SSL_get_pending_cipher(ssl: *const sys::SSL) -> *const sys::SSL_CIPHER;
    fn SSL_CTX_set_session_ticket_cb(
        context: *mut sys::SSL_CTX,
        write: Option<WriteTicket>,
        read: Option<ReadTicket>,
        argument: *mut c_void,
    ) -> c_int;
    fn SSL_SESSION_set1_ticket_appdata(session: *mut sys::SSL_SESSION, data: *const c_void, length: usize) -> c_int;
    fn SSL_SESSION_get0_ticket_appdata(
        session: *mut sys::SSL_SESSION,
        data: *mut *mut c_void,
        length: *mut usize,
    ) -> c_int;
}

// SAFETY: as declared in the headers of OpenSSL 3.2 and later.
#[cfg(raw_public_keys)]
unsafe extern "C" {
    fn SSL_CTX_set1_server_cert_type(context: *mut sys::SSL_CTX, types: *const c_uchar, length: usize) -> c_int;
    fn SSL_CTX_set1_client_cert_type(context: *mut sys::SSL_CTX, types: *const c_uchar, length: usize) -> c_int;
    fn SSL_get0_peer_rpk(ssl: *const sys::SSL) -> *mut sys::EVP_PKEY;
    fn X509_STORE_CTX_get0_rpk(context: *const sys::X509_STORE_CTX) -> *mut sys::EVP_PKEY;
}
