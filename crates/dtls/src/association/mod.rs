//! An association is what remains after a handshake: keys, sequence numbers and the address of the device.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use lwm2m_base::{AssociationId, Peer};

use super::CompletedHandshake;
use super::cipher::{RecordKeys, RecordOpenError, RecordWriter, Sealing};
use super::credentials::{KeyMark, KeyRealm, KeyUse, UsedKey};
use super::handshake::Established;
use super::hello::{CLIENT_HELLO, FINISHED};
use super::record::{ContentType, DtlsRecord, PeerCid};
use super::replay_window::{ReplayCheck, ReplayWindow};
use super::report::DtlsDropReason;
use super::write_terms::{TermTurn, UsedNumbers, WriteTerms};
use lwm2m_base::identity::Identity;
use lwm2m_cluster::{Term, TermError, WriteNumbers};

/// The meaning of an authentic record of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReceivedContent {
    Data(Vec<u8>),
    /// The device repeated its Finished because our last flight was lost. The flight is to be sent again.
    LastFlightLost(Vec<Vec<u8>>),
    /// The device asks for renegotiation, which is refused.
    Renegotiation,
    CloseNotify,
    FatalAlert(u8),
    /// A warning; nothing is to be done.
    Warning,
    /// A record that is not expected in this state.
    Unexpected,
}

/// Alerts (RFC 5246 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alert {
    CloseNotify,
    NoRenegotiation,
}

impl Alert {
    const WARNING: u8 = 1;
    const FATAL: u8 = 2;
    const CLOSE_NOTIFY: u8 = 0;

    fn bytes(self) -> [u8; 2] {
        match self {
            Self::CloseNotify => [Self::WARNING, Self::CLOSE_NOTIFY],
            Self::NoRenegotiation => [Self::WARNING, 100],
        }
    }
}

/// The terms that an association with used-up numbers waits for, in silence: 16 seconds. It is closed if the next one
/// is further away, because the clock was set back by more than that.
const PATIENT_TERMS: u64 = 4;
/// Records that an association may receive between two changes. After a crash only these could be replayed.
const RECEIVED_BETWEEN_CHANGES: u8 = 64;

/// The reason for which an association sends no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRecord {
    /// The association has to wait for the next term.
    Yet,
    /// Its numbers are used up.
    Never,
}

pub(crate) struct Association {
    pub(super) id: AssociationId,
    /// The address at which the association was established; part of its name.
    pub(super) made_at: (u16, SocketAddr),
    /// The current address of the device.
    pub(super) place: (u16, SocketAddr),
    pub(super) keys: RecordKeys,
    /// The device's records carry our connection id, which is `id`.
    pub(super) has_own_cid: bool,
    pub(super) peer_cid: Option<PeerCid>,
    pub(super) numbers: WriteNumbers,
    pub(super) window: ReplayWindow,
    pub(super) failed_tags: u64,
    /// Our datagrams that end the handshake, until the device is known to have them.
    pub(super) last_flight: Box<[Vec<u8>]>,
    pub(super) identity: Arc<Identity>,
    /// The pre-shared key that made it; `None` for a certificate or a raw public key.
    pub(super) key: Option<KeyMark>,
    /// `None` for an association of an earlier process.
    pub(super) handshake: Option<CompletedHandshake>,
    heard: Instant,
    /// Whether it has begun a term since it was a change for the last time.
    has_new_term: bool,
    received_since: u8,
    queued: bool,
}

/// An association as it was when it was saved.
pub(super) struct RestoredAssociation {
    pub id: AssociationId,
    pub made_at: (u16, SocketAddr),
    pub place: (u16, SocketAddr),
    pub keys: RecordKeys,
    pub has_own_cid: bool,
    pub peer_cid: Option<PeerCid>,
    pub used_numbers: UsedNumbers,
    pub window: ReplayWindow,
    pub failed_tags: u64,
    pub last_flight: Vec<Vec<u8>>,
    pub identity: Identity,
    pub key: Option<KeyMark>,
}

impl Association {
    /// Creates the association of a finished handshake. It numbers its records by `numbers`, after those of the
    /// handshake.
    pub(crate) fn new(
        id: AssociationId,
        made_at: (u16, SocketAddr),
        (established, key): (Established, Option<KeyMark>),
        (mut numbers, now): (WriteNumbers, Instant),
    ) -> Self {
        numbers.skip_below(established.next_write_sequence);
        Self {
            id,
            made_at,
            place: made_at,
            keys: established.keys,
            has_own_cid: established.own_cid.is_some(),
            peer_cid: established.peer_cid,
            numbers,
            window: ReplayWindow::with_newest(established.newest_read_sequence),
            failed_tags: 0,
            last_flight: established.last_flight.into(),
            identity: Arc::new(established.identity),
            key,
            handshake: Some(CompletedHandshake { at: now, resumed: established.resumed }),
            heard: now,
            has_new_term: false,
            received_since: 0,
            queued: false,
        }
    }

    /// Restores an association of an earlier process. Its sequence numbers continue in a term of this process. Returns
    /// `None` if no sequence numbers are left.
    pub(crate) fn restored(restored: RestoredAssociation, terms: &WriteTerms, now: Instant) -> Option<Self> {
        let numbers = terms.numbers_of_restored(restored.id.shard(), restored.used_numbers)?;
        Some(Self {
            id: restored.id,
            made_at: restored.made_at,
            place: restored.place,
            keys: restored.keys,
            has_own_cid: restored.has_own_cid,
            peer_cid: restored.peer_cid,
            numbers,
            window: restored.window,
            failed_tags: restored.failed_tags,
            last_flight: restored.last_flight.into(),
            identity: Arc::new(restored.identity),
            key: restored.key,
            handshake: None,
            heard: now,
            has_new_term: false,
            received_since: 0,
            queued: false,
        })
    }

    /// Verifies a record of the device, and takes it up if it was not received before. First it is known to be
    /// authentic, then the window is marked.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        record: &DtlsRecord<'_>,
    ) -> Result<(ReplayCheck, ReceivedContent), DtlsDropReason> {
        let replay = self.window.check(record.sequence);
        if replay == ReplayCheck::Replayed {
            return Err(DtlsDropReason::Replayed);
        }
        let opened = match self.keys.open(RecordWriter::Client, record) {
            Ok(opened) => Some(opened),
            Err(RecordOpenError::Invalid) => None,
            Err(RecordOpenError::Forged) => return Err(DtlsDropReason::Forged),
        };
        self.window.mark(record.sequence);
        self.received_since = self.received_since.saturating_add(1);
        self.heard = now;
        let Some(opened) = opened else { return Ok((replay, ReceivedContent::Unexpected)) };
        let received = match opened.content_type {
            ContentType::ApplicationData => self.data(opened.plaintext),
            ContentType::Handshake => self.handshake(&opened.plaintext),
            ContentType::Alert => alert(&opened.plaintext),
            ContentType::ChangeCipherSpec | ContentType::Tls12Cid => ReceivedContent::Unexpected,
        };
        Ok((replay, received))
    }

    /// Seals data in a record. If the numbers of the term are used up, it begins the next term, if it is its turn.
    pub(crate) fn seal(&mut self, turn: TermTurn, plaintext: &[u8]) -> Result<Vec<u8>, NoRecord> {
        // The last number of a term is for the alert that closes the association.
        match turn {
            TermTurn::UpTo(latest) if self.numbers.left() <= 1 => self.begin_next_term(latest)?,
            TermTurn::UpTo(_) => {}
            TermTurn::OfShard(term) => self.follow(term)?,
        }
        self.seal_record(ContentType::ApplicationData, plaintext).ok_or(NoRecord::Never)
    }

    pub(crate) fn seal_alert(&mut self, alert: Alert) -> Option<Vec<u8>> {
        self.seal_record(ContentType::Alert, &alert.bytes())
    }

    /// Counts a record that was not authentic.
    pub(crate) fn count_forged(&mut self) -> u64 {
        self.failed_tags = self.failed_tags.saturating_add(1);
        self.failed_tags
    }

    /// Returns whether the numbers of the term are used up by half, or the term is not one to send in.
    pub(crate) fn needs_term(&self) -> bool {
        self.numbers.needs_term()
    }

    /// Returns whether so much was sent or received since the last change that the stored copy has to be replaced.
    pub(crate) fn is_worn(&self) -> bool {
        self.has_new_term || self.received_since >= RECEIVED_BETWEEN_CHANGES
    }

    /// Marks the association as changed, and returns whether it was marked before.
    pub(crate) fn queue(&mut self) -> bool {
        std::mem::replace(&mut self.queued, true)
    }

    /// Returns whether the association is marked as changed.
    pub(crate) fn is_queued(&self) -> bool {
        self.queued
    }

    /// Marks the current state as written.
    pub(crate) fn written(&mut self) {
        self.queued = false;
        self.has_new_term = false;
        self.received_since = 0;
    }

    /// Describes the pre-shared key that made the association; `None` without one.
    pub(super) fn key_use(&self, realm_of: impl Fn(u16) -> KeyRealm) -> Option<KeyUse<'_>> {
        let (Identity::Psk(identity), Some(KeyMark { kind, tag })) = (&*self.identity, self.key) else { return None };
        let key = tag.map_or(UsedKey::Unknown, |tag| UsedKey::Marked(self.id, tag));
        Some(KeyUse { identity, kind, realm: realm_of(self.made_at.0), key })
    }

    pub(crate) fn peer(&self) -> Peer {
        let (socket, address) = self.made_at;
        Peer { socket, address, association: Some(self.id) }
    }

    pub(crate) fn last_heard(&self) -> Instant {
        self.heard
    }

    fn begin_next_term(&mut self, latest: Term) -> Result<(), NoRecord> {
        let next = self.numbers.term().ok_or(NoRecord::Never)?.next();
        match next.since(latest) {
            None | Some(0) => {
                self.numbers.begin(next).map_err(|_| NoRecord::Never)?;
                self.has_new_term = true;
                Ok(())
            }
            Some(1..=PATIENT_TERMS) => Err(NoRecord::Yet),
            Some(_) => Err(NoRecord::Never),
        }
    }

    /// Begins the term of the shard, if it is a newer one.
    fn follow(&mut self, term: Option<Term>) -> Result<(), NoRecord> {
        let term = term.ok_or(NoRecord::Yet)?;
        if self.numbers.term().is_none_or(|current| current < term) {
            self.numbers.begin(term).map_err(|error| match error {
                TermError::NotNewer(_) | TermError::BeforeBirth(_) => NoRecord::Yet,
                TermError::TooOld(_) => NoRecord::Never,
            })?;
        }
        if self.numbers.left() <= 1 { Err(NoRecord::Yet) } else { Ok(()) }
    }

    fn seal_record(&mut self, content_type: ContentType, plaintext: &[u8]) -> Option<Vec<u8>> {
        let sequence = self.numbers.next_number().ok()?;
        let cid = self.peer_cid.as_ref().map_or(&[][..], PeerCid::as_bytes);
        Some(self.keys.seal(Sealing { writer: RecordWriter::Server, content_type, sequence, cid }, plaintext))
    }

    /// Handles data, which proves that the device has received the gateway's last flight; that flight is dropped.
    fn data(&mut self, plaintext: Vec<u8>) -> ReceivedContent {
        self.last_flight = Box::default();
        ReceivedContent::Data(plaintext)
    }

    fn handshake(&self, message: &[u8]) -> ReceivedContent {
        match message.first() {
            // The same bytes, or its sequence numbers would be used twice.
            Some(&FINISHED) if !self.last_flight.is_empty() => {
                ReceivedContent::LastFlightLost(self.last_flight.to_vec())
            }
            Some(&CLIENT_HELLO) => ReceivedContent::Renegotiation,
            _ => ReceivedContent::Unexpected,
        }
    }
}

fn alert(fragment: &[u8]) -> ReceivedContent {
    match *fragment {
        [_, Alert::CLOSE_NOTIFY] => ReceivedContent::CloseNotify,
        [Alert::FATAL, number] => ReceivedContent::FatalAlert(number),
        [Alert::WARNING, _] => ReceivedContent::Warning,
        _ => ReceivedContent::Unexpected,
    }
}

#[cfg(test)]
pub(crate) mod tests;
