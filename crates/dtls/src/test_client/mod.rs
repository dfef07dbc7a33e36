//! A DTLS client of a test: OpenSSL's, without sockets and without a clock. With a connection id (RFC 9146), which
//! OpenSSL does not know, its records of epoch 1 are opened and sealed again on their way.
//!
//! `now` is whatever the test says; nothing here waits.

pub mod credentials;
pub mod ffi;
mod wire;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cipher::{RecordKeys, RecordWriter, Sealing, Suite};
use crate::record::{ContentType, DtlsRecord, EPOCH, records};
use openssl::ssl::{
    ErrorCode, ExtensionContext, ShutdownState, Ssl, SslAlert, SslContext, SslMethod, SslOptions, SslSession,
    SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;

pub use credentials::ClientCredentials;

/// The timeout of the first retransmission (RFC 6347 section 4.2.4.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// `SSL_OP_NO_ENCRYPT_THEN_MAC`
const NO_ENCRYPT_THEN_MAC: SslOptions = SslOptions::from_bits_retain(1 << 19);
/// `SSL_OP_NO_EXTENDED_MASTER_SECRET`
const NO_EXTENDED_MASTER_SECRET: SslOptions = SslOptions::from_bits_retain(1);

/// The configuration of a test client.
#[derive(Clone)]
pub struct DtlsClientConfig {
    pub credentials: ClientCredentials,
    /// OpenSSL's names, with colons between.
    pub cipher_suites: String,
    /// The connection id that its peer is to put into records; empty: none, but the extension is there. None: no
    /// extension.
    pub cid: Option<Vec<u8>>,
    /// Bytes of a handshake record, with its header. From 64 on.
    pub mtu: usize,
    pub encrypt_then_mac: bool,
    pub extended_master_secret: bool,
    /// Algorithms of signatures, by OpenSSL's names; None: what OpenSSL has.
    pub signatures: Option<&'static str>,
    /// The trusted authorities. Without any the client accepts every server.
    pub authorities: Option<X509>,
}

impl DtlsClientConfig {
    pub fn psk(identity: &str, key: &[u8]) -> Self {
        let credentials = ClientCredentials::Psk { identity: identity.to_owned(), key: key.to_vec() };
        Self::new(credentials, "PSK-AES128-CCM8")
    }

    pub fn new(credentials: ClientCredentials, cipher_suites: &str) -> Self {
        Self {
            credentials,
            cipher_suites: cipher_suites.to_owned(),
            cid: None,
            mtu: 1200,
            encrypt_then_mac: true,
            extended_master_secret: true,
            signatures: None,
            authorities: None,
        }
    }

    pub fn with_cid(self, cid: &[u8]) -> Self {
        Self { cid: Some(cid.to_vec()), ..self }
    }

    pub fn with_suites(self, cipher_suites: &str) -> Self {
        Self { cipher_suites: cipher_suites.to_owned(), ..self }
    }
}

/// A DTLS client. Its first hello is ready to be sent as soon as it is created.
pub struct DtlsClient {
    context: SslContext,
    config: DtlsClientConfig,
    stream: SslStream<Wire>,
    cids: Arc<Mutex<Cids>>,
    state: ClientState,
    /// The records of the current flight as they are on the wire.
    flight: Vec<Vec<u8>>,
    next_plain_sequence: u64,
    /// The next sequence number of epoch 1 on the wire. A message that is sent again is in a new record, which
    /// OpenSSL does not know of.
    next_protected_sequence: u64,
    outgoing: VecDeque<Vec<u8>>,
    received: VecDeque<Vec<u8>>,
    timer: Option<(Instant, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    Handshaking,
    Established,
    /// The server has sent close_notify.
    Closed,
    /// By an alert of the peer, with its number.
    Refused(u8),
    /// The client has ended the handshake; the number is OpenSSL's reason.
    Failed(i32),
}

#[derive(Clone, Default)]
struct Cids {
    /// The connection id that the client expects in received records.
    own: Option<Vec<u8>>,
    /// The connection id that the server asked for, if it supports connection ids.
    peer: Option<Vec<u8>>,
}

impl DtlsClient {
    pub fn new(now: Instant, config: DtlsClientConfig) -> Self {
        Self::start(now, context(&config), config, None)
    }

    /// The same client once more, after a reboot: a full handshake.
    pub fn reboot(&self, now: Instant) -> Self {
        Self::start(now, self.context.clone(), self.config.clone(), None)
    }

    /// The same client once more, by the ticket that it has.
    pub fn resume(&self, now: Instant) -> Self {
        let session = self.session().expect("it was established");
        Self::start(now, self.context.clone(), self.config.clone(), Some(session))
    }

    fn start(now: Instant, context: SslContext, config: DtlsClientConfig, session: Option<SslSession>) -> Self {
        let cids = Arc::new(Mutex::new(Cids { own: config.cid.clone(), peer: None }));
        let mut ssl = Ssl::new(&context).expect("memory");
        ssl.set_connect_state();
        ssl.set_mtu(1400).expect("an MTU that OpenSSL takes");
        ssl.set_ex_data(cids_index(), Arc::clone(&cids));
        ffi::never_retransmit(&ssl);
        if let Some(session) = session {
            ffi::set_session(&mut ssl, &session);
        }
        let mut client = Self {
            stream: SslStream::new(ssl, Wire::default()).expect("memory"),
            context,
            config,
            cids,
            state: ClientState::Handshaking,
            flight: Vec::new(),
            next_plain_sequence: 0,
            next_protected_sequence: 0,
            outgoing: VecDeque::new(),
            received: VecDeque::new(),
            timer: None,
        };
        client.go_on(now);
        client
    }

    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let cid_length = self.cids().own.map_or(0, |cid| cid.len());
        for record in records(datagram, cid_length) {
            let Some(classic) = self.to_openssl(&record) else { continue };
            self.stream.get_mut().unread.push_back(classic);
            self.go_on(now);
        }
    }

    /// Sends the current flight again if that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((due, timeout)) = self.timer.filter(|(due, _)| *due <= now) {
            self.retransmit();
            let timeout = (timeout * 2).min(LONGEST_TIMEOUT);
            self.timer = Some((due + timeout, timeout));
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.timer.map(|(due, _)| due)
    }

    /// Sends the current flight again at once, in new records.
    pub fn retransmit(&mut self) {
        for mut bytes in std::mem::take(&mut self.flight) {
            let cid_length = self.cids().peer.map_or(0, |cid| cid.len());
            let protected = records(&bytes, cid_length).next().filter(|record| record.epoch == EPOCH);
            match protected {
                Some(record) => bytes = self.seal_for_wire(&record),
                None => wire::number(&mut bytes, &mut self.next_plain_sequence),
            }
            self.outgoing.push_back(bytes.clone());
            self.flight.push(bytes);
        }
    }

    /// Application data. To be polled as a datagram.
    pub fn send(&mut self, plaintext: &[u8]) {
        assert_eq!(self.state, ClientState::Established, "only an established client sends data");
        self.stream.ssl_write(plaintext).expect("a record");
        self.take_written();
    }

    /// Sends a close_notify alert.
    pub fn close(&mut self) {
        self.stream.shutdown().expect("a close_notify can be written");
        self.take_written();
        self.state = ClientState::Closed;
    }

    /// The next datagram to the server: one record each.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }

    /// All datagrams to the server.
    pub fn transmits(&mut self) -> Vec<Vec<u8>> {
        self.outgoing.drain(..).collect()
    }

    /// The next application data of the server.
    pub fn poll_plaintext(&mut self) -> Option<Vec<u8>> {
        self.received.pop_front()
    }

    pub fn state(&self) -> ClientState {
        self.state
    }

    pub fn is_established(&self) -> bool {
        self.state == ClientState::Established
    }

    pub fn is_resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// OpenSSL's name of the negotiated suite.
    pub fn suite(&self) -> Option<&'static str> {
        self.stream.ssl().current_cipher().map(|cipher| cipher.name())
    }

    /// The connection id that its records carry.
    pub fn cid_of_server(&self) -> Option<Vec<u8>> {
        self.cids().peer
    }

    pub fn session(&self) -> Option<SslSession> {
        self.stream.ssl().session().map(ToOwned::to_owned)
    }

    /// SubjectPublicKeyInfo of the raw public key that the server showed.
    pub fn raw_key_of_server(&self) -> Option<Vec<u8>> {
        ffi::peer_raw_public_key(self.stream.ssl())
    }

    /// Returns the length of the connection id in received records.
    pub fn own_cid_length(&self) -> usize {
        self.config.cid.as_ref().map_or(0, Vec::len)
    }

    /// The keys of its records, for a test that makes some itself.
    pub fn keys(&self) -> Option<RecordKeys> {
        let ssl = self.stream.ssl();
        let [high, low] = ssl.current_cipher()?.protocol_id();
        let suite = Suite::from_iana(u16::from_be_bytes([high, low]))?;
        let mut master = [0; 48];
        let length = ssl.session()?.master_key(&mut master);
        let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
        ssl.client_random(&mut client_random);
        ssl.server_random(&mut server_random);
        (length == master.len()).then(|| RecordKeys::derive(suite, &master, &client_random, &server_random))
    }

    fn go_on(&mut self, now: Instant) {
        if self.state == ClientState::Handshaking {
            let result = self.stream.do_handshake();
            let wrote = self.take_written();
            match result {
                Ok(()) => self.established(),
                Err(error) if error.code() == ErrorCode::WANT_READ => {}
                Err(error) => self.failed(&error),
            }
            if wrote && self.state == ClientState::Handshaking {
                self.timer = Some((now + FIRST_TIMEOUT, FIRST_TIMEOUT));
            }
        }
        if self.state == ClientState::Established {
            self.read();
            self.take_written();
        }
    }

    fn established(&mut self) {
        self.state = ClientState::Established;
        self.timer = None;
    }

    fn failed(&mut self, error: &openssl::ssl::Error) {
        const LIBRARY_SSL: i32 = 20;
        let reasons = error.ssl_error().map(|stack| stack.errors()).unwrap_or_default();
        let reason = reasons.iter().find(|reason| reason.library_code() == LIBRARY_SSL).map_or(0, |r| r.reason_code());
        self.state = match reason {
            1000..=1255 => ClientState::Refused((reason - 1000) as u8),
            other => ClientState::Failed(other),
        };
        self.timer = None;
    }

    fn read(&mut self) {
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.ssl_read(&mut buffer) {
                Ok(length) => self.received.push_back(buffer[..length].to_vec()),
                Err(error) if error.code() == ErrorCode::WANT_READ => return,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.state = ClientState::Closed;
                    return;
                }
                Err(error) => return self.failed(&error),
            }
        }
    }

    /// Sends what OpenSSL wrote. During a handshake it becomes the new flight.
    fn take_written(&mut self) -> bool {
        let written = std::mem::take(&mut self.stream.get_mut().written);
        let in_handshake = self.state == ClientState::Handshaking;
        if !written.is_empty() && in_handshake {
            self.flight.clear();
        }
        for record in written.iter().flat_map(|datagram| records(datagram, 0)) {
            for record in self.on_wire(&record) {
                if in_handshake {
                    self.flight.push(record.clone());
                }
                self.outgoing.push_back(record);
            }
        }
        !written.is_empty()
    }

    fn on_wire(&mut self, record: &DtlsRecord<'_>) -> Vec<Vec<u8>> {
        if record.epoch == 0 {
            let mut pieces = wire::fragmented(record, self.config.mtu);
            pieces.iter_mut().for_each(|piece| wire::number(piece, &mut self.next_plain_sequence));
            return pieces;
        }
        vec![self.seal_for_wire(record)]
    }

    /// With the next number, and the connection id of the server.
    fn seal_for_wire(&mut self, record: &DtlsRecord<'_>) -> Vec<u8> {
        let cid = self.cids().peer.unwrap_or_default();
        let sequence = self.next_protected_sequence;
        self.next_protected_sequence += 1;
        if record.cid == cid && record.sequence == sequence {
            return record.bytes.to_vec();
        }
        self.seal_again(RecordWriter::Client, record, sequence, &cid)
    }

    /// None for what cannot be opened: lost.
    fn to_openssl(&self, record: &DtlsRecord<'_>) -> Option<Vec<u8>> {
        let Cids { own, peer } = self.cids();
        let own = own.filter(|_| peer.is_some()).unwrap_or_default();
        match (record.epoch, record.content_type) {
            (EPOCH, ContentType::Tls12Cid) if record.cid == own && !own.is_empty() => {
                self.keys()?.open(RecordWriter::Server, record).ok()?;
                Some(self.seal_again(RecordWriter::Server, record, record.sequence, &[]))
            }
            (_, ContentType::Tls12Cid) => None,
            // RFC 9146 section 3: what carries no connection id where one was agreed on is not for us.
            (EPOCH, _) if !own.is_empty() => None,
            _ => Some(record.bytes.to_vec()),
        }
    }

    fn seal_again(&self, writer: RecordWriter, record: &DtlsRecord<'_>, sequence: u64, cid: &[u8]) -> Vec<u8> {
        let keys = self.keys().expect("a record of epoch 1 has keys");
        let opened = keys.open(writer, record).expect("OpenSSL and this have the same keys");
        let sealing = Sealing { writer, content_type: opened.content_type, sequence, cid };
        keys.seal(sealing, &opened.plaintext)
    }

    fn cids(&self) -> Cids {
        self.cids.lock().expect("no panic").clone()
    }
}

impl Drop for DtlsClient {
    /// Else its session would be worthless.
    fn drop(&mut self) {
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }
}

fn context(config: &DtlsClientConfig) -> SslContext {
    let mut context = SslContext::builder(SslMethod::dtls_client()).expect("memory");
    context.set_min_proto_version(Some(SslVersion::DTLS1_2)).expect("OpenSSL has DTLS 1.2");
    context.set_options(SslOptions::NO_QUERY_MTU);
    if !config.encrypt_then_mac {
        context.set_options(NO_ENCRYPT_THEN_MAC);
    }
    if !config.extended_master_secret {
        context.set_options(NO_EXTENDED_MASTER_SECRET);
    }
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT);
    context.set_cipher_list(&format!("{}:@SECLEVEL=0", config.cipher_suites)).expect("suites of OpenSSL");
    if let Some(signatures) = config.signatures {
        context.set_sigalgs_list(signatures).expect("signatures of OpenSSL");
    }
    context.set_verify(SslVerifyMode::NONE);
    if let Some(authority) = &config.authorities {
        context.set_verify(SslVerifyMode::PEER);
        context.cert_store_mut().add_cert(authority.clone()).expect("a certificate");
    }
    config.credentials.install(&mut context);
    if config.cid.is_some() {
        const CONNECTION_ID: u16 = 54;
        let hellos = ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_2_SERVER_HELLO;
        let added = context.add_custom_ext(
            CONNECTION_ID,
            hellos,
            |ssl, _, _| {
                let own = ssl.ex_data(cids_index()).and_then(|cids| cids.lock().expect("no panic").own.clone());
                Ok(own.map(|own| [&[own.len() as u8], own.as_slice()].concat()))
            },
            |ssl, _, extension, _| {
                let (length, cid) = extension.split_first().ok_or(SslAlert::DECODE_ERROR)?;
                assert_eq!(usize::from(*length), cid.len(), "the server's connection id");
                let cids = ssl.ex_data(cids_index()).ok_or(SslAlert::INTERNAL_ERROR)?;
                cids.lock().expect("no panic").peer = Some(cid.to_vec());
                Ok(())
            },
        );
        added.expect("no other such extension");
    }
    context.build()
}

type CidsIndex = openssl::ex_data::Index<Ssl, Arc<Mutex<Cids>>>;

fn cids_index() -> CidsIndex {
    static INDEX: std::sync::OnceLock<CidsIndex> = std::sync::OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().expect("memory"))
}

/// The two sides of OpenSSL, in memory.
#[derive(Default)]
pub struct Wire {
    pub unread: VecDeque<Vec<u8>>,
    pub written: Vec<Vec<u8>>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let record = self.unread.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        record.as_slice().read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.written.push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
