//! A client and a handshake with a wire between them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_dtls::cipher::{RecordWriter, Sealing};
use lwm2m_dtls::credentials::PskKey;
use lwm2m_dtls::handshake::{
    Acceptor, AcceptorConfig, Established, Handshake, HandshakeError, HandshakeOutput, HandshakeRecordOutcome,
    PemSecret, VerifyMode,
};
use lwm2m_dtls::record::{ContentType, DtlsRecord, OwnCid, PeerCid, VERSION_1_0, records, write_plain};

use lwm2m_dtls::test_client::credentials::Certified;
use lwm2m_dtls::test_client::{ClientState, DtlsClient, DtlsClientConfig};

pub(super) const IDENTITY: &str = "urn:imei:490154203237518";
pub(super) const KEY: &[u8] = b"0123456789abcdef";
pub(super) const OWN_CID: OwnCid = OwnCid(*b"gateway1");

const COOKIE: &[u8] = b"a cookie of 20 bytes";

pub(super) struct HandshakeScene {
    pub now: Instant,
    pub acceptor: Acceptor,
    pub client: DtlsClient,
    pub server: Option<Handshake>,
    /// The key that the look-up returns.
    pub keys: HashMap<String, Vec<u8>>,
    /// Keys that were asked for.
    pub asked: Vec<String>,
    /// Whether questions for keys are answered at once.
    pub answers_keys: bool,
    pub established: Option<Box<Established>>,
    pub failed: Option<HandshakeError>,
    /// The datagrams that the server sent since the last call.
    pub sent: Vec<Vec<u8>>,
    pub heard: Vec<HandshakeRecordOutcome>,
    /// To be sent.
    transmits: Vec<Vec<u8>>,
}

/// On the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Client,
    Server,
}

impl HandshakeScene {
    pub(super) fn new(acceptor: &AcceptorConfig, client: DtlsClientConfig) -> Self {
        let acceptor = Acceptor::new(acceptor).expect("credentials that fit");
        #[expect(clippy::disallowed_methods, reason = "a start for the test's clock")]
        let now = Instant::now();
        Self {
            now,
            acceptor,
            client: DtlsClient::new(now, client),
            server: None,
            keys: HashMap::from([(IDENTITY.to_owned(), KEY.to_vec())]),
            asked: Vec::new(),
            answers_keys: true,
            established: None,
            failed: None,
            sent: Vec::new(),
            heard: Vec::new(),
            transmits: Vec::new(),
        }
    }

    pub(super) fn psk() -> Self {
        Self::new(&AcceptorConfig::default(), DtlsClientConfig::psk(IDENTITY, KEY))
    }

    /// Until nobody has anything to say.
    pub(super) fn run(&mut self) -> &mut Self {
        self.run_with(|_, datagram| vec![datagram])
    }

    /// `wire` makes of each datagram those that arrive.
    pub(super) fn run_with(&mut self, mut wire: impl FnMut(From, Vec<u8>) -> Vec<Vec<u8>>) -> &mut Self {
        loop {
            let from_client = self.client.transmits();
            let from_server = self.server_transmits();
            if from_client.is_empty() && from_server.is_empty() {
                return self;
            }
            for datagram in from_client.into_iter().flat_map(|datagram| wire(From::Client, datagram)) {
                self.give_server(&datagram);
            }
            for datagram in from_server.into_iter().flat_map(|datagram| wire(From::Server, datagram)) {
                self.client.handle_datagram(self.now, &datagram);
            }
        }
    }

    /// Until it is finished, with the client's and the server's timers, for at most two minutes.
    pub(super) fn run_in_time(&mut self, mut wire: impl FnMut(From, Vec<u8>) -> Vec<Vec<u8>>) -> &mut Self {
        for _ in 0..120 {
            self.run_with(&mut wire);
            if self.client.is_established() && self.established.is_some() {
                return self;
            }
            self.now += Duration::from_secs(1);
            self.client.handle_timeout(self.now);
        }
        self
    }

    /// The handshake's last datagrams once more, as the server does it for a client that lost them.
    pub(super) fn repeat_last_flight(&mut self) {
        let last = self.established.as_ref().expect("it is established").last_flight.clone();
        last.iter().for_each(|datagram| self.client.handle_datagram(self.now, datagram));
    }

    pub(super) fn answer_key(&mut self) {
        let identity = self.asked.last().expect("a key was asked for").clone();
        let key = self.keys.get(&identity).map(|key| PskKey::new(key.as_slice()).expect("a key"));
        self.server.as_mut().expect("it asked").handle_key(key.as_ref());
    }

    /// Passes a datagram of the client to the handshake or to the cookie exchange.
    pub(super) fn give_server(&mut self, datagram: &[u8]) {
        let split: Vec<DtlsRecord<'_>> = records(datagram, OwnCid::LENGTH).collect();
        for record in split {
            match &mut self.server {
                Some(server) => self.heard.push(server.handle_record(record.bytes)),
                None => self.hello(&record),
            }
            self.poll();
        }
    }

    /// Takes the datagrams that the server sent since the last call.
    pub(super) fn server_transmits(&mut self) -> Vec<Vec<u8>> {
        self.poll();
        self.sent.extend(self.transmits.iter().cloned());
        std::mem::take(&mut self.transmits)
    }

    /// Polls the handshake, and answers its questions.
    fn poll(&mut self) {
        while let Some(step) = self.server.as_mut().and_then(Handshake::poll) {
            match step {
                HandshakeOutput::Transmit(datagram) => self.transmits.push(datagram),
                HandshakeOutput::FindKey(identity) => {
                    self.asked.push(identity.as_str().to_owned());
                    if self.answers_keys {
                        self.answer_key();
                    }
                }
                HandshakeOutput::Established(established) => {
                    assert!(self.established.replace(established).is_none(), "a handshake ends once");
                }
                HandshakeOutput::Failed(failure) => {
                    assert!(self.failed.replace(failure).is_none(), "a handshake ends once")
                }
            }
        }
    }

    fn hello(&mut self, record: &DtlsRecord<'_>) {
        // RFC 6347 section 4.2.2: type, length, message_seq, fragment offset and length.
        let (sequence, offset) = (record.fragment.get(4..6), record.fragment.get(6..9));
        if record.content_type != ContentType::Handshake || offset != Some(&[0, 0, 0]) {
            return;
        }
        if sequence == Some(&[0, 0]) {
            self.client.handle_datagram(self.now, &hello_verify_request(record.sequence));
        } else {
            self.server = Some(Handshake::accept(&self.acceptor, record.bytes, OWN_CID));
        }
    }

    pub(super) fn assert_established(&mut self) -> &mut Self {
        assert_eq!(self.failed, None, "client: {:?}", self.client.state());
        assert!(self.established.is_some(), "server not established; client: {:?}", self.client.state());
        assert_eq!(self.client.state(), ClientState::Established);
        self
    }

    pub(super) fn assert_failed(&mut self, failure: HandshakeError) -> &mut Self {
        assert_eq!(self.failed, Some(failure), "client: {:?}", self.client.state());
        assert!(self.established.is_none());
        self
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.established.as_ref().expect("it is established").identity
    }

    /// Data both ways, by what the handshake left: its keys, numbers and connection ids.
    pub(super) fn assert_data_flows(&mut self) {
        let left = self.established.as_ref().expect("it is established");
        let keys = left.keys.clone();

        self.client.send(b"from the device");
        let sent = self.client.poll_transmit().expect("a record");
        let record = records(&sent, OwnCid::LENGTH).next().expect("a record");
        assert_eq!(record.cid, left.own_cid.as_ref().map_or(&[][..], |OwnCid(cid)| cid), "our connection id");
        assert!(record.sequence > left.newest_read_sequence);
        let opened = keys.open(RecordWriter::Client, &record).expect("a record by the same keys");
        assert_eq!((opened.content_type, &*opened.plaintext), (ContentType::ApplicationData, &b"from the device"[..]));

        let cid = left.peer_cid.as_ref().map_or(&[][..], PeerCid::as_bytes);
        let sealing = Sealing {
            writer: RecordWriter::Server,
            content_type: ContentType::ApplicationData,
            sequence: left.next_write_sequence,
            cid,
        };
        self.client.handle_datagram(self.now, &keys.seal(sealing, b"to the device"));
        assert_eq!(self.client.poll_plaintext().as_deref(), Some(&b"to the device"[..]));
    }

    /// The same client begins a new handshake by its ticket.
    pub(super) fn resume(&mut self) -> &mut Self {
        let client = self.client.resume(self.now);
        self.restart(client)
    }

    pub(super) fn restart(&mut self, client: DtlsClient) -> &mut Self {
        self.client = client;
        (self.server, self.established, self.failed) = (None, None, None);
        (self.asked, self.sent, self.heard) = (Vec::new(), Vec::new(), Vec::new());
        self
    }
}

/// RFC 6347 section 4.2.1, with the record's number of the hello.
fn hello_verify_request(sequence: u64) -> Vec<u8> {
    let body = [&VERSION_1_0[..], &[COOKIE.len() as u8], COOKIE].concat();
    let length = [0, 0, body.len() as u8];
    let message = [&[3][..], &length, &[0, 0], &[0, 0, 0], &length, &body].concat();
    write_plain(ContentType::Handshake, VERSION_1_0, sequence, &message)
}

/// Pre-shared keys and a certificate, of an authority that clients may have theirs of.
pub(super) fn with_certificate(server: &Certified, authority: &Certified, verify: VerifyMode) -> AcceptorConfig {
    AcceptorConfig {
        certificate_chain: Some(server.certificate_pem()),
        private_key: Some(PemSecret::new(server.key_pem())),
        authorities: Some(authority.certificate_pem()),
        verify,
        ..AcceptorConfig::default()
    }
}

pub(super) fn psk_identity(name: &str) -> Identity {
    Identity::Psk(PskIdentity::new(name.as_bytes()).expect("an identity"))
}
