//! The OpenSSL object of one handshake: records in, records out.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslContext, SslStream};
use openssl::x509::X509;
use zeroize::Zeroizing;

use crate::credentials::PskKey;
use crate::record::OwnCid;
use lwm2m_base::identity::{Identity, PskIdentity};

use super::acceptor::Acceptor;
use super::failure::HandshakeError;
use super::ffi;
use super::negotiation::{ConnectionIds, SharedNegotiation};
use super::suites::CipherSuite;

pub(super) struct OpenSslHandshake {
    stream: SslStream<RecordBuffer>,
    negotiation: SharedNegotiation,
    /// The sequence number of the next record of epoch 0 for OpenSSL. Records are renumbered here because OpenSSL
    /// would drop a repeated message as a replay, and epoch 0 proves nothing anyway.
    next_sequence: u64,
}

pub(super) enum HandshakeProgress {
    /// OpenSSL waits for more records.
    Going,
    Finished,
    Failed(HandshakeError),
}

/// The secrets from which the keys are derived.
pub(super) struct Secrets {
    pub master: Zeroizing<[u8; 48]>,
    pub client_random: [u8; 32],
    pub server_random: [u8; 32],
}

/// The credentials with which a session that is to be resumed was established.
pub(super) enum ResumedBy {
    Psk(PskIdentity),
    /// A certificate or a raw public key; whether its time is over.
    Certificate {
        expired: bool,
    },
}

impl OpenSslHandshake {
    /// Creates a connection from a ClientHello in one record whose cookie is verified. [`OpenSslHandshake::accept`]
    /// continues it.
    pub(super) fn new(
        acceptor: &Acceptor,
        context: &SslContext,
        hello: &[u8],
        own_cid: OwnCid,
        tickets_accepted: bool,
    ) -> Result<Self, HandshakeError> {
        let negotiation = SharedNegotiation::new(own_cid, tickets_accepted);
        let stream = stream(acceptor, context, &negotiation).map_err(|_| HandshakeError::Internal)?;
        let mut connection = Self { stream, negotiation, next_sequence: 0 };
        connection.give(hello.to_vec());
        let taken = ffi::listen(&mut connection.stream);
        forget_errors();
        if taken { Ok(connection) } else { Err(HandshakeError::BadHello) }
    }

    /// Passes a record of the client to OpenSSL.
    pub(super) fn feed(&mut self, record: Vec<u8>) -> HandshakeProgress {
        self.give(record);
        self.accept()
    }

    pub(super) fn accept(&mut self) -> HandshakeProgress {
        let accepted = self.stream.accept();
        forget_errors();
        let Err(error) = accepted else { return HandshakeProgress::Finished };
        if error.code() == ErrorCode::WANT_READ {
            return HandshakeProgress::Going;
        }
        HandshakeProgress::Failed(HandshakeError::of(&error, self.stream.ssl().verify_result()))
    }

    /// Takes the datagrams that OpenSSL has written since the last call. Each has one or more records.
    pub(crate) fn take_written(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.stream.get_mut().written)
    }

    pub(crate) fn set_key(&mut self, key: PskKey, ticket_note: Vec<u8>) {
        let mut negotiation = self.negotiation.lock();
        negotiation.key = Some(key);
        negotiation.ticket_note = Some(ticket_note);
    }

    /// Returns the negotiated cipher suite, which is known since the ServerHello.
    pub(super) fn suite(&self) -> Option<&'static CipherSuite> {
        let [high, low] = ffi::pending_cipher(self.stream.ssl())?.protocol_id();
        CipherSuite::by_id(u16::from_be_bytes([high, low]))
    }

    pub(super) fn connection_ids(&self) -> Option<ConnectionIds> {
        self.negotiation.lock().connection_ids()
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// Returns how the session was resumed; `None` for a full handshake.
    pub(crate) fn resumed_by(&self) -> Option<ResumedBy> {
        let ssl = self.stream.ssl();
        if !ssl.session_reused() {
            return None;
        }
        if let Some(identity) = ssl.psk_identity() {
            return PskIdentity::new(identity).map(ResumedBy::Psk);
        }
        // If OpenSSL cannot tell the time, every certificate counts as expired.
        let now = Asn1Time::days_from_now(0).ok();
        let is_over = |certificate: X509| now.is_none_or(|now| *certificate.not_after() < *now);
        let expired = ssl.peer_certificate().is_some_and(is_over);
        Some(ResumedBy::Certificate { expired })
    }

    /// Returns the note in the ticket that binds its session to a key.
    pub(crate) fn ticket_note(&self) -> &[u8] {
        self.stream.ssl().session().map_or(&[], ffi::ticket_note)
    }

    /// Returns the secrets, which are known after the ClientKeyExchange, or after the ServerHello of a resumed session.
    pub(super) fn secrets(&self) -> Option<Secrets> {
        let ssl = self.stream.ssl();
        let mut master = Zeroizing::new([0; 48]);
        let known = ssl.session()?.master_key(master.as_mut_slice()) == master.len();
        let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
        ssl.client_random(&mut client_random);
        ssl.server_random(&mut server_random);
        known.then_some(Secrets { master, client_random, server_random })
    }

    /// Returns whether ChangeCipherSpec is expected next. OpenSSL drops one that arrives earlier.
    pub(crate) fn awaits_change_cipher_spec(&self) -> bool {
        let ssl = self.stream.ssl();
        match ssl.state_string() {
            READ_KEY_EXCHANGE => !self.has_certificate(),
            READ_CERTIFICATE_VERIFY => true,
            WROTE_FINISHED => ssl.session_reused(),
            _ => false,
        }
    }

    /// Returns the identity of the client after a finished handshake without PSK.
    pub(crate) fn certificate_identity(&self, acceptor: &Acceptor) -> Identity {
        acceptor.trust().identity(self.stream.ssl())
    }

    /// Returns whether the client showed a certificate or a key whose possession it has to prove.
    fn has_certificate(&self) -> bool {
        let ssl = self.stream.ssl();
        #[cfg(raw_public_keys)]
        if ffi::peer_raw_public_key(ssl).is_some() {
            return true;
        }
        ssl.peer_certificate().is_some()
    }

    fn give(&mut self, mut record: Vec<u8>) {
        if let Some([0, 0, sequence @ ..]) = record.get_mut(3..11) {
            let [_, _, number @ ..] = self.next_sequence.to_be_bytes();
            sequence.copy_from_slice(&number);
            self.next_sequence += 1;
        }
        self.stream.get_mut().unread.push_back(record);
    }
}

impl Drop for OpenSslHandshake {
    /// Marks the session as shut down; otherwise OpenSSL treats it as broken and its ticket as worthless.
    fn drop(&mut self) {
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }
}

/// `SSL_state_string` after the message of that name.
const READ_KEY_EXCHANGE: &str = "TRCKE";
const READ_CERTIFICATE_VERIFY: &str = "TRCV";
const WROTE_FINISHED: &str = "TWFIN";

fn stream(
    acceptor: &Acceptor,
    context: &SslContext,
    negotiation: &SharedNegotiation,
) -> Result<SslStream<RecordBuffer>, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    ssl.set_accept_state();
    ssl.set_mtu(acceptor.mtu().try_into().unwrap_or(u32::MAX))?;
    negotiation.attach(&mut ssl)?;
    ffi::never_retransmit(&mut ssl);
    SslStream::new(ssl, RecordBuffer::default())
}

/// Clears the error queue of the thread. OpenSSL would take an old entry for the outcome of its next operation, even
/// for another connection.
fn forget_errors() {
    drop(ErrorStack::get());
}

/// The wire, in memory.
#[derive(Default)]
struct RecordBuffer {
    unread: VecDeque<Vec<u8>>,
    written: Vec<Vec<u8>>,
}

impl Read for RecordBuffer {
    /// Reads one record as a datagram. OpenSSL passes a buffer with room for the largest one.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let record = self.unread.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        record.as_slice().read(buffer)
    }
}

impl Write for RecordBuffer {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.written.push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
