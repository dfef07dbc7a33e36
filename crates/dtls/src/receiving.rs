//! Datagrams: each record goes to the association or the handshake that it belongs to.

use std::net::SocketAddr;
use std::time::Instant;

use lwm2m_base::rate::SourceNetwork;
use lwm2m_base::{AssociationId, Peer};

use super::association::{Alert, ReceivedContent};
use super::associations::PeerAddress;
use super::handshake::{Handshake, HandshakeRecordOutcome};
use super::handshakes::PendingHandshake;
use super::hello::{CLIENT_HELLO, ClientHello};
use super::record::{ContentType, DtlsRecord, EPOCH, OwnCid, records};
use super::replay_window::ReplayCheck;
use super::report::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};
use super::{DtlsEvent, DtlsServer};

/// The outcome of a record and the association that it belongs to.
type RecordOutcome = (DtlsDatagramOutcome, Option<AssociationId>);

impl DtlsServer {
    /// Handles a datagram. It cannot fail: each datagram has its outcome among the reports.
    pub fn handle_datagram(&mut self, now: Instant, socket: u16, from: SocketAddr, datagram: &[u8]) {
        self.latest_term = self.terms.latest(now);
        let mut outcome = None;
        for record in records(datagram, OwnCid::LENGTH) {
            let next = self.handle_record(now, (socket, from), &record);
            outcome = Some(outcome.map_or(next, |first| telling(first, next)));
        }
        let (outcome, association) = outcome.unwrap_or((DtlsDatagramOutcome::Dropped(DtlsDropReason::NoRecord), None));
        self.report(DtlsReport::Datagram { peer: Peer { socket, address: from, association }, outcome });
    }

    fn handle_record(&mut self, now: Instant, place: PeerAddress, record: &DtlsRecord<'_>) -> RecordOutcome {
        match (record.epoch, record.content_type) {
            (0, ContentType::Handshake) if record.fragment.first() == Some(&CLIENT_HELLO) => {
                (self.handle_hello(now, place, record), None)
            }
            (0, ContentType::ChangeCipherSpec | ContentType::Alert | ContentType::Handshake) => {
                (self.handle_by_handshake(now, self.handshakes.by_place(place), record), None)
            }
            (EPOCH, ContentType::Tls12Cid) => self.handle_with_cid(now, place, record),
            (EPOCH, _) => self.handle_without_cid(now, place, record),
            _ => (DtlsDatagramOutcome::Dropped(DtlsDropReason::Unknown), None),
        }
    }

    /// Handles a ClientHello (RFC 6347 section 4.2.1). A hello from the address of an association is handled in the
    /// same way: its association is replaced when the handshake is complete, and by nothing less (section 4.2.8).
    fn handle_hello(&mut self, now: Instant, place: PeerAddress, record: &DtlsRecord<'_>) -> DtlsDatagramOutcome {
        let under_way = self.handshakes.by_place(place);
        let Some(hello) = ClientHello::parse(record.fragment) else {
            // It is a later fragment of the handshake that the first one began.
            let none = DtlsDatagramOutcome::Dropped(DtlsDropReason::NoHello);
            return under_way.map_or(none, |id| self.handle_by_handshake(now, Some(id), record));
        };
        if !self.cookies.is_valid(now, &mut self.rng, place, &hello) {
            let datagram = self.cookies.hello_verify_request(now, &mut self.rng, place, record.sequence, &hello);
            self.transmit(place, datagram);
            return DtlsDatagramOutcome::CookieAsked;
        }
        let Some(former) = under_way else { return self.begin_handshake(now, place, record, &hello) };
        if self.handshakes.get_mut(former).is_some_and(|under_way| under_way.random == *hello.random) {
            return self.handle_by_handshake(now, under_way, record);
        }
        // The device has begun again, and has forgotten its earlier handshake.
        self.handshake_failed(former, HandshakeFailure::Restarted);
        self.begin_handshake(now, place, record, &hello)
    }

    fn begin_handshake(
        &mut self,
        now: Instant,
        place: PeerAddress,
        record: &DtlsRecord<'_>,
        hello: &ClientHello<'_>,
    ) -> DtlsDatagramOutcome {
        let Some(acceptor) = &self.acceptor else { return DtlsDatagramOutcome::Dropped(DtlsDropReason::NoAcceptor) };
        let acceptor = acceptor.clone();
        let is_known = self.associations.is_known(SourceNetwork::of(place.1));
        match self.handshakes.admit(now, place, is_known) {
            Ok(evicted) => evicted.into_iter().for_each(|id| self.evict_handshake(id)),
            Err(reason) => return DtlsDatagramOutcome::Dropped(reason),
        }
        let id = self.new_id();
        let handshake = Handshake::accept(&acceptor, record.bytes, OwnCid(id.0.to_be_bytes()));
        let ends = now + self.config.handshake_deadline;
        let underway = PendingHandshake::new(handshake, place, *hello.random, ends);
        self.report(DtlsReport::HandshakeBegun { peer: underway.peer() });
        self.handshakes.insert(now, id, underway, is_known);
        self.drive_handshake(now, id);
        DtlsDatagramOutcome::Handshake
    }

    fn handle_by_handshake(
        &mut self,
        now: Instant,
        id: Option<AssociationId>,
        record: &DtlsRecord<'_>,
    ) -> DtlsDatagramOutcome {
        let found = id.and_then(|id| Some((id, self.handshakes.get_mut(id)?)));
        let Some((id, underway)) = found else { return DtlsDatagramOutcome::Dropped(DtlsDropReason::Unknown) };
        let heard = underway.handshake.handle_record(record.bytes);
        self.handshakes.heard(now, id);
        self.drive_handshake(now, id);
        match heard {
            HandshakeRecordOutcome::Taken => DtlsDatagramOutcome::Handshake,
            HandshakeRecordOutcome::Early => DtlsDatagramOutcome::Early,
            HandshakeRecordOutcome::TooMuch => DtlsDatagramOutcome::Dropped(DtlsDropReason::TooMuchHeld),
            HandshakeRecordOutcome::NotAuthentic => DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged),
            HandshakeRecordOutcome::Unexpected => DtlsDatagramOutcome::Dropped(DtlsDropReason::Unexpected),
        }
    }

    fn handle_with_cid(&mut self, now: Instant, place: PeerAddress, record: &DtlsRecord<'_>) -> RecordOutcome {
        let Ok(cid) = record.cid.try_into().map(OwnCid) else {
            return (DtlsDatagramOutcome::Dropped(DtlsDropReason::UnknownConnectionId), None);
        };
        if let Some(id) = self.associations.by_cid(cid) {
            let outcome = self.handle_by_association(now, place, id, record);
            return (outcome.unwrap_or_else(|| self.forged(id)), Some(id));
        }
        match self.handshakes.by_cid(cid, place) {
            Some(id) => (self.handle_by_handshake(now, Some(id), record), None),
            None => (DtlsDatagramOutcome::Dropped(DtlsDropReason::UnknownConnectionId), None),
        }
    }

    /// Handles a record without a connection id. During a new handshake at the address of an association it may belong
    /// to either: a peer without the keys must not be able to silence the device. The numbers of the new one begin at
    /// 0, which the association received long ago.
    fn handle_without_cid(&mut self, now: Instant, place: PeerAddress, record: &DtlsRecord<'_>) -> RecordOutcome {
        let under_way = self.handshakes.by_place(place);
        let Some(id) = self.associations.by_place(place) else {
            return (self.handle_by_handshake(now, under_way, record), None);
        };
        let outcome = self.handle_by_association(now, place, id, record).unwrap_or_else(|| self.forged(id));
        match outcome {
            DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged | DtlsDropReason::Replayed) if under_way.is_some() => {
                (self.handle_by_handshake(now, under_way, record), None)
            }
            outcome => (outcome, Some(id)),
        }
    }

    /// Handles a record of an association; `None` if it is not authentic.
    pub(super) fn handle_by_association(
        &mut self,
        now: Instant,
        place: PeerAddress,
        id: AssociationId,
        record: &DtlsRecord<'_>,
    ) -> Option<DtlsDatagramOutcome> {
        let association = self.associations.get_mut(id)?;
        let (replay, received) = match association.open(now, record) {
            Ok(opened) => opened,
            Err(DtlsDropReason::Forged) => return None,
            Err(reason) => return Some(DtlsDatagramOutcome::Dropped(reason)),
        };
        let (has_moved, is_worn) = (association.place != place, association.is_worn());
        // RFC 9146 section 6: only what is authentic and newer than all before tells where the device is. Who changes
        // the source of such a record on its way turns aside what we send until the device's next one: an answer, or a
        // command and its four repetitions.
        if has_moved && replay == ReplayCheck::Newest {
            self.moved(id, place);
        }
        if is_worn {
            self.changed(id);
        }
        Some(self.handle_received(id, received))
    }

    fn handle_received(&mut self, id: AssociationId, received: ReceivedContent) -> DtlsDatagramOutcome {
        match received {
            ReceivedContent::Data(plaintext) => {
                let Some(peer) = self.peer(id) else { return DtlsDatagramOutcome::Data };
                self.events.push_back(DtlsEvent::Plaintext { peer, plaintext });
                DtlsDatagramOutcome::Data
            }
            ReceivedContent::LastFlightLost(flight) => {
                for datagram in flight {
                    self.transmit_to(id, datagram);
                }
                DtlsDatagramOutcome::LastFlightRepeated
            }
            ReceivedContent::Renegotiation => {
                self.alert(id, Alert::NoRenegotiation);
                DtlsDatagramOutcome::RenegotiationRefused
            }
            ReceivedContent::CloseNotify => {
                self.alert(id, Alert::CloseNotify);
                self.close(id, AssociationCloseReason::CloseNotify);
                DtlsDatagramOutcome::Alert
            }
            ReceivedContent::FatalAlert(number) => {
                self.close(id, AssociationCloseReason::Alert(number));
                DtlsDatagramOutcome::Alert
            }
            ReceivedContent::Warning => DtlsDatagramOutcome::Alert,
            ReceivedContent::Unexpected => DtlsDatagramOutcome::Dropped(DtlsDropReason::Unexpected),
        }
    }

    /// Records a new address of a device. Only associations with a connection id move, because others are found by
    /// address.
    fn moved(&mut self, id: AssociationId, to: PeerAddress) {
        let (Some(peer), Some((_, from))) = (self.peer(id), self.associations.moved(id, to)) else { return };
        self.changed(id);
        self.report(DtlsReport::Moved { peer, from, to: to.1 });
    }

    fn forged(&mut self, id: AssociationId) -> DtlsDatagramOutcome {
        let failed = self.associations.get_mut(id).map(|association| association.count_forged());
        if failed.is_some_and(|failed| failed >= self.config.failed_tags) {
            self.alert(id, Alert::CloseNotify);
            self.close(id, AssociationCloseReason::TooManyForged);
        }
        DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged)
    }
}

/// Returns the outcome of the first record that was not dropped.
fn telling(first: RecordOutcome, next: RecordOutcome) -> RecordOutcome {
    match (first.0, next.0) {
        (DtlsDatagramOutcome::Dropped(_), DtlsDatagramOutcome::Dropped(_)) => first,
        (DtlsDatagramOutcome::Dropped(_), _) => next,
        _ => first,
    }
}
