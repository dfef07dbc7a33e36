//! The handshake of DTLS 1.2, which OpenSSL does: records of the client in, datagrams, a question for a key and at last
//! the keys of an association out. OpenSSL is named nowhere else, and nowhere else is `unsafe`.
//!
//! 1. The hello whose cookie was verified, reassembled, is taken as if OpenSSL had asked for the cookie.
//! 2. With a ticket in it the session may be resumed: what OpenSSL answers is held back until the key of that session
//!    is found to be the key of today. If it is not, the handshake begins again, as a full one.
//! 3. The ClientKeyExchange of a suite with pre-shared keys is held, and its identity asked about; OpenSSL gets both.
//! 4. Since then the keys are known. With connection ids (RFC 9146, which OpenSSL does not know) the client's protected
//!    records are opened and protected again the way OpenSSL expects them, and its own the other way.
//! 5. When OpenSSL is content it goes, and what is left is [`Established`].
//!
//! When a flight is sent again is said by the [`DtlsServer`](super::DtlsServer), which has the clock: OpenSSL's timer
//! is taken out.

mod acceptor;
mod acceptor_config;
mod connection;
mod failure;
mod ffi;
mod flight;
mod message;
mod negotiation;
mod protection;
mod suites;
mod tickets;
mod trust;

use std::collections::VecDeque;

use super::cipher::RecordKeys;
use super::credentials::PskKey;
use super::record::{ContentType, DtlsRecord, EPOCH, OwnCid, PeerCid, VERSION, records, write_plain};
use connection::{HandshakeProgress, OpenSslHandshake, ResumedBy};
use flight::Flight;
use lwm2m_base::identity::{Identity, PskIdentity};
use message::{Fragment, Reassembly};
use protection::Protection;

pub use acceptor::Acceptor;
pub use acceptor_config::{AcceptorConfig, CredentialError, PemSecret, Pinned, VerifyMode};
pub use failure::{CertificateFault, HandshakeError};

/// Bytes of a ClientHello. A ticket with a certificate in it is the largest thing there.
const MAX_HELLO: usize = 8 * 1024;
/// Bytes of a ClientKeyExchange: an identity, and a point of a curve.
const MAX_KEY_EXCHANGE: usize = 1024;
/// Protected records that came too early for OpenSSL, or for this.
const MAX_HELD: usize = 4;

/// Extension `encrypt_then_mac` (RFC 7366).
const ENCRYPT_THEN_MAC: u16 = 22;

/// A handshake under way. It keeps about 70 KiB.
pub struct Handshake {
    acceptor: Acceptor,
    own_cid: OwnCid,
    /// The ClientHello, as far as it has arrived.
    hello: Option<Reassembly>,
    stage: HandshakeStage,
    steps: VecDeque<HandshakeOutput>,
    flight: Flight,
    protection: Option<Protection>,
    /// ChangeCipherSpec came, and has to wait.
    change_cipher_spec: Option<Vec<u8>>,
    /// OpenSSL has it.
    spec_changed: bool,
    /// Protected records that arrived before the ChangeCipherSpec could be processed.
    held: VecDeque<Vec<u8>>,
    early: Vec<Vec<u8>>,
    /// The client has answered the first flight.
    answered: bool,
    /// The next sequence number of epoch 1.
    next_write_sequence: u64,
    newest_read_sequence: u64,
    unopened: u64,
}

/// An instruction of a handshake to its owner.
pub enum HandshakeOutput {
    /// A datagram.
    Transmit(Vec<u8>),
    /// Asks for a key; [`Handshake::handle_key`] takes the answer.
    FindKey(PskIdentity),
    Established(Box<Established>),
    Failed(HandshakeError),
}

/// The result of a finished handshake, which needs no OpenSSL from here on.
pub struct Established {
    /// The record keys; those of CBC suites are for encrypt-then-MAC.
    pub keys: RecordKeys,
    /// The gateway's connection id; `None` unless both sides agreed on connection ids (RFC 9146).
    pub own_cid: Option<OwnCid>,
    /// The connection id in our records, or None if they carry none.
    pub peer_cid: Option<PeerCid>,
    /// The first unused sequence number of epoch 1.
    pub next_write_sequence: u64,
    /// The sequence number of the client's Finished in epoch 1.
    pub newest_read_sequence: u64,
    /// Our datagrams that the client has to have seen, as they were sent: empty where the client spoke last.
    pub last_flight: Vec<Vec<u8>>,
    /// Records of epoch 1, whole, that the client sent before the handshake was finished here and that are no part of
    /// it: for the association, as if they came now.
    pub early: Vec<Vec<u8>>,
    pub identity: Identity,
    pub resumed: bool,
}

/// The outcome of a record that a handshake received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeRecordOutcome {
    /// Part of the handshake, also where it had to be told once more.
    Taken,
    /// Kept until the handshake is finished.
    Early,
    /// More came early than is kept.
    TooMuch,
    /// Protected, and not authentic by the keys of this handshake: forged, or the client has another PSK.
    NotAuthentic,
    /// The record does not belong to this stage of the handshake.
    Unexpected,
}

enum HandshakeStage {
    /// Waits for the rest of the hello.
    Hello,
    /// Asks whether the key of a ticket's session is still the current key; nothing was sent.
    Resuming {
        connection: Box<OpenSslHandshake>,
        identity: PskIdentity,
    },
    Exchanging {
        connection: Box<OpenSslHandshake>,
        key: ClientPsk,
    },
    Over,
}

/// The client's PSK.
enum ClientPsk {
    /// The client has not named its identity yet, or only a part of it.
    Awaited(Option<Reassembly>),
    /// The key is being looked up while the ClientKeyExchange waits.
    Asked(Reassembly, PskIdentity),
    /// OpenSSL has it.
    Given(PskIdentity),
    /// There is none in this handshake.
    NoPsk,
}

impl Handshake {
    /// Starts a handshake. `hello` is the record with the (first fragment of the) ClientHello whose cookie is valid;
    /// `own_cid` is for the records of this client, if it wants one.
    pub fn accept(acceptor: &Acceptor, hello: &[u8], own_cid: OwnCid) -> Self {
        let record = records(hello, OwnCid::LENGTH).next();
        let mut handshake = Self {
            acceptor: acceptor.clone(),
            own_cid,
            hello: None,
            stage: HandshakeStage::Hello,
            steps: VecDeque::new(),
            flight: Flight::starting_at(record.map_or(0, |record| record.sequence)),
            protection: None,
            change_cipher_spec: None,
            spec_changed: false,
            held: VecDeque::new(),
            early: Vec::new(),
            answered: false,
            next_write_sequence: 0,
            newest_read_sequence: 0,
            unopened: 0,
        };
        handshake.begin(record);
        handshake
    }

    /// Processes a record of the client that has no connection id or the one of [`Handshake::accept`].
    pub fn handle_record(&mut self, record: &[u8]) -> HandshakeRecordOutcome {
        let Some(record) = records(record, OwnCid::LENGTH).next() else { return HandshakeRecordOutcome::Unexpected };
        match (record.epoch, record.content_type) {
            (0, ContentType::Handshake) => self.handle_messages(record),
            (0, ContentType::ChangeCipherSpec) => self.handle_change_cipher_spec(record),
            (0, ContentType::Alert) => self.handle_alert(record),
            (EPOCH, _) => self.handle_protected(record),
            _ => HandshakeRecordOutcome::Unexpected,
        }
    }

    /// Handles the current key of the identity that was asked for; `None` if it has none.
    ///
    /// A client with an unknown identity is told so by an alert. RFC 4279 section 2 allows to go on with a random key
    /// instead, which hides what identities there are; but identities are sent in the clear anyway, and a device that
    /// is left without an answer would spend a minute of its battery on repeating itself.
    pub fn handle_key(&mut self, key: Option<&PskKey>) {
        match std::mem::replace(&mut self.stage, HandshakeStage::Over) {
            HandshakeStage::Resuming { connection, identity } => self.resume(connection, identity, key),
            HandshakeStage::Exchanging { connection, key: ClientPsk::Asked(message, identity) } => {
                self.give_key(connection, &message, identity, key);
            }
            stage => self.stage = stage,
        }
    }

    /// Returns the next output. Call it after every other method until it returns `None`.
    pub fn poll(&mut self) -> Option<HandshakeOutput> {
        self.steps.pop_front()
    }

    /// Sends the current flight again, if there is one.
    pub fn retransmit(&mut self) {
        if matches!(self.stage, HandshakeStage::Exchanging { .. }) {
            self.transmit_flight();
        }
    }

    /// Informs a client that has answered, by an alert, that its handshake ends here.
    pub fn abandon(&mut self) {
        if self.answered && matches!(self.stage, HandshakeStage::Exchanging { .. }) {
            self.transmit_alert(alert::INTERNAL_ERROR);
            self.stage = HandshakeStage::Over;
        }
    }

    /// Returns whether the client resumes a session by a ticket, and its key is awaited.
    pub(crate) fn is_resuming(&self) -> bool {
        matches!(self.stage, HandshakeStage::Resuming { .. })
    }

    /// Returns whether the session that the client resumes was made with this key.
    pub(crate) fn resumes_with(&self, key: &PskKey) -> bool {
        match &self.stage {
            HandshakeStage::Resuming { connection, identity } => {
                self.acceptor.tickets().belongs_to(connection.ticket_note(), identity, key)
            }
            HandshakeStage::Hello | HandshakeStage::Exchanging { .. } | HandshakeStage::Over => false,
        }
    }

    /// Returns whether the client has answered the first flight. That does not prove its identity before the handshake
    /// is finished, but a client that only floods hellos does not do it.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Returns whether the client probably has another key: under a wrong PSK none of its records is authentic, and
    /// only the deadline shows it.
    pub fn suspects_wrong_key(&self) -> bool {
        self.unopened > 0
    }

    fn begin(&mut self, record: Option<DtlsRecord<'_>>) {
        let fragment = record.and_then(|record| message::fragments(record.fragment).next());
        let hello = fragment.filter(|fragment| fragment.kind == message::CLIENT_HELLO);
        self.hello = hello.and_then(|fragment| Reassembly::begin(&fragment, MAX_HELLO));
        self.open_hello();
    }

    /// Opens the connection once the ClientHello is complete.
    fn open_hello(&mut self) {
        match &self.hello {
            Some(hello) if hello.sequence() > 1 => self.refuse(HandshakeError::LateCookie, alert::HANDSHAKE_FAILURE),
            Some(hello) if hello.is_whole() => self.open(true),
            Some(_) => {}
            None => self.fail(HandshakeError::BadHello),
        }
    }

    /// Gives the ClientHello to OpenSSL.
    fn open(&mut self, tickets_accepted: bool) {
        let Some(hello) = &self.hello else { return };
        let Some(context) = self.acceptor.context(message::hello_offers(hello.body(), ENCRYPT_THEN_MAC)) else {
            return self.refuse(HandshakeError::NoCommonSuite, alert::HANDSHAKE_FAILURE);
        };
        match OpenSslHandshake::new(&self.acceptor, context, &hello.record(), self.own_cid, tickets_accepted) {
            Ok(connection) => self.answer_hello(Box::new(connection)),
            Err(failure) => self.fail(failure),
        }
    }

    fn answer_hello(&mut self, mut connection: Box<OpenSslHandshake>) {
        let progress = connection.accept();
        match connection.resumed_by() {
            Some(ResumedBy::Psk(identity)) => {
                self.steps.push_back(HandshakeOutput::FindKey(identity.clone()));
                self.stage = HandshakeStage::Resuming { connection, identity };
            }
            Some(ResumedBy::Certificate { expired: true }) => self.open(false),
            Some(ResumedBy::Certificate { expired: false }) | None => {
                let psk = connection.suite().is_some_and(|suite| suite.is_psk());
                let key = if psk { ClientPsk::Awaited(None) } else { ClientPsk::NoPsk };
                self.go_on(connection, key, progress);
            }
        }
    }

    fn resume(&mut self, connection: Box<OpenSslHandshake>, identity: PskIdentity, key: Option<&PskKey>) {
        let tickets = self.acceptor.tickets();
        if key.is_some_and(|key| tickets.belongs_to(connection.ticket_note(), &identity, key)) {
            self.go_on(connection, ClientPsk::Given(identity), HandshakeProgress::Going);
        } else {
            self.open(false);
        }
    }

    fn give_key(
        &mut self,
        mut connection: Box<OpenSslHandshake>,
        message: &Reassembly,
        identity: PskIdentity,
        key: Option<&PskKey>,
    ) {
        if let Some(key) = key {
            connection.set_key(key.clone(), self.acceptor.tickets().note(&identity, key));
        }
        let progress = connection.feed(message.record());
        self.go_on(connection, ClientPsk::Given(identity), progress);
    }

    fn handle_messages(&mut self, record: DtlsRecord<'_>) -> HandshakeRecordOutcome {
        match std::mem::replace(&mut self.stage, HandshakeStage::Over) {
            HandshakeStage::Exchanging { connection, key } => self.exchange(connection, key, record),
            HandshakeStage::Hello => {
                self.stage = HandshakeStage::Hello;
                self.add_to_hello(record);
                HandshakeRecordOutcome::Taken
            }
            stage @ HandshakeStage::Resuming { .. } => {
                self.stage = stage;
                HandshakeRecordOutcome::Taken
            }
            HandshakeStage::Over => HandshakeRecordOutcome::Unexpected,
        }
    }

    fn add_to_hello(&mut self, record: DtlsRecord<'_>) {
        if let Some(hello) = &mut self.hello {
            message::fragments(record.fragment).for_each(|fragment| hello.add(&fragment));
        }
        self.open_hello();
    }

    fn exchange(
        &mut self,
        mut connection: Box<OpenSslHandshake>,
        key: ClientPsk,
        record: DtlsRecord<'_>,
    ) -> HandshakeRecordOutcome {
        let Some(first) = message::fragments(record.fragment).next() else {
            self.stage = HandshakeStage::Exchanging { connection, key };
            return HandshakeRecordOutcome::Unexpected;
        };
        match (first.kind, key) {
            (message::CLIENT_HELLO, key) => {
                self.stage = HandshakeStage::Exchanging { connection, key };
                return self.hear_hello_again(&first);
            }
            (message::CLIENT_KEY_EXCHANGE, ClientPsk::Awaited(message)) => {
                self.collect_key(connection, message, record)
            }
            (_, key @ ClientPsk::Asked(..)) => self.stage = HandshakeStage::Exchanging { connection, key },
            (_, key) => {
                self.answered = true;
                let progress = connection.feed(record.bytes.to_vec());
                self.go_on(connection, key, progress);
            }
        }
        HandshakeRecordOutcome::Taken
    }

    /// Answers a repeated hello with the current flight, because the client did not receive it. This happens once for
    /// each hello, also for one in fragments, and only for an identical hello, which only the client or an observer can
    /// send: a flight is larger than the hello that triggers it.
    fn hear_hello_again(&mut self, fragment: &Fragment<'_>) -> HandshakeRecordOutcome {
        let same = self.hello.as_ref().is_some_and(|hello| hello.has(fragment));
        if !same {
            return HandshakeRecordOutcome::Unexpected;
        }
        if fragment.offset == 0 {
            self.transmit_flight();
        }
        HandshakeRecordOutcome::Taken
    }

    /// Fragments of the ClientKeyExchange with PSK. Nothing else is in the same record: nothing else of that flight is
    /// a handshake message of epoch 0.
    fn collect_key(&mut self, connection: Box<OpenSslHandshake>, message: Option<Reassembly>, record: DtlsRecord<'_>) {
        let mut fragments = message::fragments(record.fragment);
        let message = message.or_else(|| Reassembly::begin(&fragments.next()?, MAX_KEY_EXCHANGE));
        let Some(mut message) = message else {
            return self.refuse(HandshakeError::UnknownIdentity, alert::UNKNOWN_PSK_IDENTITY);
        };
        message::fragments(record.fragment).for_each(|fragment| message.add(&fragment));
        if !message.is_whole() {
            self.stage = HandshakeStage::Exchanging { connection, key: ClientPsk::Awaited(Some(message)) };
            return;
        }
        self.answered = true;
        let Some(identity) = message::psk_identity(message.body()).and_then(PskIdentity::new) else {
            return self.refuse(HandshakeError::UnknownIdentity, alert::UNKNOWN_PSK_IDENTITY);
        };
        self.steps.push_back(HandshakeOutput::FindKey(identity.clone()));
        self.stage = HandshakeStage::Exchanging { connection, key: ClientPsk::Asked(message, identity) };
    }

    fn handle_change_cipher_spec(&mut self, record: DtlsRecord<'_>) -> HandshakeRecordOutcome {
        if !matches!(self.stage, HandshakeStage::Exchanging { .. }) {
            return HandshakeRecordOutcome::Unexpected;
        }
        self.change_cipher_spec = Some(record.bytes.to_vec());
        self.feed_what_waits();
        HandshakeRecordOutcome::Taken
    }

    fn handle_alert(&mut self, record: DtlsRecord<'_>) -> HandshakeRecordOutcome {
        if !matches!(self.stage, HandshakeStage::Exchanging { .. }) {
            return HandshakeRecordOutcome::Unexpected;
        }
        self.feed(record.bytes.to_vec());
        HandshakeRecordOutcome::Taken
    }

    fn handle_protected(&mut self, record: DtlsRecord<'_>) -> HandshakeRecordOutcome {
        if matches!(self.stage, HandshakeStage::Hello | HandshakeStage::Over) {
            return HandshakeRecordOutcome::Unexpected;
        }
        let Some(protection) = self.protection.as_ref().filter(|_| self.spec_changed) else { return self.hold(record) };
        let Some(opened) = protection.open(record) else {
            self.unopened += 1;
            return HandshakeRecordOutcome::NotAuthentic;
        };
        if opened.content_type == ContentType::ApplicationData {
            return self.keep_early(record);
        }
        let classic = protection.seal_for_openssl(record, &opened);
        self.newest_read_sequence = self.newest_read_sequence.max(record.sequence);
        self.feed(classic);
        HandshakeRecordOutcome::Taken
    }

    fn hold(&mut self, record: DtlsRecord<'_>) -> HandshakeRecordOutcome {
        if self.held.iter().any(|held| held == record.bytes) {
            return HandshakeRecordOutcome::Early;
        }
        if self.held.len() >= MAX_HELD {
            return HandshakeRecordOutcome::TooMuch;
        }
        self.held.push_back(record.bytes.to_vec());
        HandshakeRecordOutcome::Early
    }

    fn keep_early(&mut self, record: DtlsRecord<'_>) -> HandshakeRecordOutcome {
        if self.early.len() >= MAX_HELD {
            return HandshakeRecordOutcome::TooMuch;
        }
        self.early.push(record.bytes.to_vec());
        HandshakeRecordOutcome::Early
    }

    fn feed(&mut self, record: Vec<u8>) {
        match std::mem::replace(&mut self.stage, HandshakeStage::Over) {
            HandshakeStage::Exchanging { mut connection, key } => {
                let progress = connection.feed(record);
                self.go_on(connection, key, progress);
            }
            stage => self.stage = stage,
        }
    }

    /// Continues after a call of OpenSSL: sends what it wrote, and checks its progress.
    fn go_on(&mut self, mut connection: Box<OpenSslHandshake>, key: ClientPsk, progress: HandshakeProgress) {
        if self.protection.is_none() {
            self.protection = Protection::of(&connection);
        }
        self.send(connection.take_written());
        match progress {
            HandshakeProgress::Going => {
                self.stage = HandshakeStage::Exchanging { connection, key };
                self.feed_what_waits();
            }
            HandshakeProgress::Finished => self.establish(connection, key),
            HandshakeProgress::Failed(failure) => self.fail(failure),
        }
    }

    /// Feeds ChangeCipherSpec once OpenSSL accepts it, and then the protected records that arrived before.
    fn feed_what_waits(&mut self) {
        if self.protection.is_some() && self.awaits_change_cipher_spec() {
            self.spec_changed = true;
            self.change_cipher_spec.take().into_iter().for_each(|record| self.feed(record));
        }
        while self.spec_changed
            && matches!(self.stage, HandshakeStage::Exchanging { .. })
            && let Some(held) = self.held.pop_front()
        {
            for record in records(&held, OwnCid::LENGTH) {
                self.handle_protected(record);
            }
        }
    }

    fn awaits_change_cipher_spec(&self) -> bool {
        let HandshakeStage::Exchanging { connection, .. } = &self.stage else { return false };
        self.change_cipher_spec.is_some() && connection.awaits_change_cipher_spec()
    }

    /// Sends what OpenSSL wrote as the next flight.
    fn send(&mut self, written: Vec<Vec<u8>>) {
        if written.is_empty() {
            return;
        }
        self.flight.begin();
        for record in written.iter().flat_map(|datagram| flight::written_records(datagram)) {
            self.add_to_flight(record);
        }
        self.transmit_flight();
    }

    fn add_to_flight(&mut self, record: DtlsRecord<'_>) {
        if record.epoch == 0 {
            return self.flight.push(record.bytes.to_vec());
        }
        self.next_write_sequence = self.next_write_sequence.max(record.sequence + 1);
        let protection = self.protection.as_ref();
        // OpenSSL protects by the keys that we took from it: there is nothing that it wrote and we cannot open.
        self.flight.extend(protection.and_then(|protection| protection.seal_for_client(record)));
    }

    fn transmit_flight(&mut self) {
        let datagrams = self.flight.datagrams(self.acceptor.mtu());
        self.steps.extend(datagrams.into_iter().map(HandshakeOutput::Transmit));
    }

    /// Produces the result of the handshake. It is allocated after OpenSSL's object is freed: in the midst of that
    /// memory it would leave holes into which no other such object fits.
    fn establish(&mut self, connection: Box<OpenSslHandshake>, key: ClientPsk) {
        let Some(protection) = self.protection.take() else { return self.fail(HandshakeError::Internal) };
        let identity = match key {
            ClientPsk::Given(identity) => Identity::Psk(identity),
            ClientPsk::Awaited(_) | ClientPsk::Asked(..) | ClientPsk::NoPsk => {
                connection.certificate_identity(&self.acceptor)
            }
        };
        let resumed = connection.is_resumed();
        drop(connection);
        let mut early = std::mem::take(&mut self.early);
        early.extend(self.held.drain(..));
        self.steps.push_back(HandshakeOutput::Established(Box::new(Established {
            keys: protection.keys.clone(),
            own_cid: protection.own_cid,
            peer_cid: protection.peer_cid.clone(),
            next_write_sequence: self.next_write_sequence,
            newest_read_sequence: self.newest_read_sequence,
            last_flight: if resumed { Vec::new() } else { self.flight.sent(self.acceptor.mtu()) },
            early,
            identity: identity.clone(),
            resumed,
        })));
    }

    /// Rejects the client with an alert that OpenSSL did not send itself.
    fn refuse(&mut self, failure: HandshakeError, description: u8) {
        self.transmit_alert(description);
        self.fail(failure);
    }

    fn transmit_alert(&mut self, description: u8) {
        self.flight.begin();
        self.flight.push(write_plain(ContentType::Alert, VERSION, 0, &[alert::FATAL, description]));
        self.transmit_flight();
    }

    fn fail(&mut self, failure: HandshakeError) {
        self.stage = HandshakeStage::Over;
        self.steps.push_back(HandshakeOutput::Failed(failure));
    }
}

/// Alerts (RFC 5246 section 7.2, RFC 4279 section 6).
mod alert {
    pub(crate) const FATAL: u8 = 2;
    pub(crate) const HANDSHAKE_FAILURE: u8 = 40;
    pub(super) const INTERNAL_ERROR: u8 = 80;
    pub(crate) const UNKNOWN_PSK_IDENTITY: u8 = 115;
}
