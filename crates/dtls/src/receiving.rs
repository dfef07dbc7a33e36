//! Datagrams: each record goes to the association or the handshake that it belongs to.

use std::net::SocketAddr;
use std::time::Instant;

use lwm2m_base::{AssociationId, Peer};

use super::association::{Alert, Received};
use super::associations::Place;
use super::handshake::{Handshake, Heard};
use super::handshakes::Underway;
use super::hello::{CLIENT_HELLO, Hello};
use super::record::{ContentType, EPOCH, OwnCid, Record, records};
use super::report::{CloseReason, DropReason, HandshakeFailure, Report, Verdict};
use super::window::Standing;
use super::{Output, Server};

/// What became of a record, and of which association it is.
type Outcome = (Verdict, Option<AssociationId>);

impl Server {
    /// No datagram can make this fail: each has its verdict, among the reports.
    pub fn handle_datagram(&mut self, now: Instant, socket: u16, from: SocketAddr, datagram: &[u8]) {
        let mut outcome = None;
        for record in records(datagram, OwnCid::LENGTH) {
            let next = self.handle_record(now, (socket, from), &record);
            outcome = Some(outcome.map_or(next, |first| telling(first, next)));
        }
        let (verdict, association) = outcome.unwrap_or((Verdict::Dropped(DropReason::NoRecord), None));
        self.report(Report::Datagram { peer: Peer { socket, address: from, association }, verdict });
    }

    fn handle_record(&mut self, now: Instant, place: Place, record: &Record<'_>) -> Outcome {
        match (record.epoch, record.content_type) {
            (0, ContentType::Handshake) if record.fragment.first() == Some(&CLIENT_HELLO) => {
                (self.handle_hello(now, place, record), None)
            }
            (0, ContentType::ChangeCipherSpec | ContentType::Alert | ContentType::Handshake) => {
                (self.handle_by_handshake(now, self.handshakes.by_place(place), record), None)
            }
            (EPOCH, ContentType::Tls12Cid) => self.handle_with_cid(now, place, record),
            (EPOCH, _) => self.handle_without_cid(now, place, record),
            _ => (Verdict::Dropped(DropReason::Unknown), None),
        }
    }

    /// RFC 6347 section 4.2.1. A hello from the address of an association goes this way too: its association is replaced
    /// when the handshake is finished, and by nothing less (section 4.2.8).
    fn handle_hello(&mut self, now: Instant, place: Place, record: &Record<'_>) -> Verdict {
        let under_way = self.handshakes.by_place(place);
        let Some(hello) = Hello::parse(record.fragment) else {
            // A later fragment, that of the handshake that the first one began.
            let none = Verdict::Dropped(DropReason::NoHello);
            return under_way.map_or(none, |id| self.handle_by_handshake(now, Some(id), record));
        };
        if !self.cookies.is_valid(now, &mut self.rng, place, &hello) {
            let datagram = self.cookies.verify_request(now, &mut self.rng, place, record.sequence, &hello);
            self.transmit(place, datagram);
            return Verdict::CookieAsked;
        }
        let Some(former) = under_way else { return self.begin_handshake(now, place, record, &hello) };
        if self.handshakes.get_mut(former).is_some_and(|under_way| under_way.random == *hello.random) {
            return self.handle_by_handshake(now, under_way, record);
        }
        // The device began anew; what it began before, it forgot.
        self.handshake_failed(former, HandshakeFailure::Restarted);
        self.begin_handshake(now, place, record, &hello)
    }

    fn begin_handshake(&mut self, now: Instant, place: Place, record: &Record<'_>, hello: &Hello<'_>) -> Verdict {
        let Some(acceptor) = &self.acceptor else { return Verdict::Dropped(DropReason::NoAcceptor) };
        let acceptor = acceptor.clone();
        match self.handshakes.admit(now, place) {
            Ok(evicted) => evicted.into_iter().for_each(|id| self.evict_handshake(id)),
            Err(reason) => return Verdict::Dropped(reason),
        }
        let id = self.new_id();
        let handshake = Handshake::accept(&acceptor, record.bytes, OwnCid(id.0.to_be_bytes()));
        let ends = now + self.settings.handshake_deadline;
        let underway = Underway::new(handshake, place, *hello.random, ends);
        self.report(Report::HandshakeBegun { peer: underway.peer() });
        self.handshakes.insert(now, id, underway);
        self.drive_handshake(now, id);
        Verdict::Handshake
    }

    fn handle_by_handshake(&mut self, now: Instant, id: Option<AssociationId>, record: &Record<'_>) -> Verdict {
        let found = id.and_then(|id| Some((id, self.handshakes.get_mut(id)?)));
        let Some((id, underway)) = found else { return Verdict::Dropped(DropReason::Unknown) };
        let heard = underway.handshake.handle_record(record.bytes);
        self.handshakes.heard(now, id);
        self.drive_handshake(now, id);
        match heard {
            Heard::Taken => Verdict::Handshake,
            Heard::Early => Verdict::Early,
            Heard::TooMuch => Verdict::Dropped(DropReason::TooMuchHeld),
            Heard::NotAuthentic => Verdict::Dropped(DropReason::Forged),
            Heard::Unexpected => Verdict::Dropped(DropReason::Unexpected),
        }
    }

    fn handle_with_cid(&mut self, now: Instant, place: Place, record: &Record<'_>) -> Outcome {
        let Ok(cid) = record.cid.try_into().map(OwnCid) else {
            return (Verdict::Dropped(DropReason::UnknownConnectionId), None);
        };
        if let Some(id) = self.associations.by_cid(cid) {
            let verdict = self.handle_by_association(now, place, id, record);
            return (verdict.unwrap_or_else(|| self.forged(id)), Some(id));
        }
        match self.handshakes.by_cid(cid, place) {
            Some(id) => (self.handle_by_handshake(now, Some(id), record), None),
            None => (Verdict::Dropped(DropReason::UnknownConnectionId), None),
        }
    }

    /// While a new handshake is under way at the place of an association, a record may be of either: who cannot make
    /// authentic records shall not silence who can. The numbers of the new one begin at 0, where those of the association
    /// were received long ago.
    fn handle_without_cid(&mut self, now: Instant, place: Place, record: &Record<'_>) -> Outcome {
        let under_way = self.handshakes.by_place(place);
        let Some(id) = self.associations.by_place(place) else {
            return (self.handle_by_handshake(now, under_way, record), None);
        };
        let verdict = self.handle_by_association(now, place, id, record).unwrap_or_else(|| self.forged(id));
        match verdict {
            Verdict::Dropped(DropReason::Forged | DropReason::Replayed) if under_way.is_some() => {
                (self.handle_by_handshake(now, under_way, record), None)
            }
            verdict => (verdict, Some(id)),
        }
    }

    /// None for a record that is not authentic.
    pub(super) fn handle_by_association(
        &mut self,
        now: Instant,
        place: Place,
        id: AssociationId,
        record: &Record<'_>,
    ) -> Option<Verdict> {
        let association = self.associations.get_mut(id)?;
        let (standing, received) = match association.open(now, record) {
            Ok(opened) => opened,
            Err(DropReason::Forged) => return None,
            Err(reason) => return Some(Verdict::Dropped(reason)),
        };
        let (has_moved, is_worn) = (association.place != place, association.is_worn());
        // RFC 9146 section 6: only what is authentic and newer than all before tells where the device is. Who changes the
        // source of such a record on its way turns aside what we send until the device's next one: an answer, or a
        // command and its four repetitions.
        if has_moved && standing == Standing::Newest {
            self.moved(id, place);
        }
        if is_worn {
            self.changed(id);
        }
        Some(self.handle_received(id, received))
    }

    fn handle_received(&mut self, id: AssociationId, received: Received) -> Verdict {
        match received {
            Received::Data(plaintext) => {
                let Some(peer) = self.peer(id) else { return Verdict::Data };
                self.push(Output::Plaintext { peer, plaintext });
                Verdict::Data
            }
            Received::LastFlightLost(flight) => {
                for datagram in flight {
                    self.transmit_to(id, datagram);
                }
                Verdict::LastFlightRepeated
            }
            Received::Renegotiation => {
                self.alert(id, Alert::NoRenegotiation);
                Verdict::RenegotiationRefused
            }
            Received::CloseNotify => {
                self.alert(id, Alert::CloseNotify);
                self.close(id, CloseReason::CloseNotify);
                Verdict::Alert
            }
            Received::FatalAlert(number) => {
                self.close(id, CloseReason::Alert(number));
                Verdict::Alert
            }
            Received::Warning => Verdict::Alert,
            Received::Unexpected => Verdict::Dropped(DropReason::Unexpected),
        }
    }

    /// Without a connection id a record is found by its place, so that this is only for those with one.
    fn moved(&mut self, id: AssociationId, to: Place) {
        let (Some(peer), Some((_, from))) = (self.peer(id), self.associations.moved(id, to)) else { return };
        self.changed(id);
        self.report(Report::Moved { peer, from, to: to.1 });
    }

    fn forged(&mut self, id: AssociationId) -> Verdict {
        let failed = self.associations.get_mut(id).map(|association| association.count_forged());
        if failed.is_some_and(|failed| failed >= self.settings.failed_tags) {
            self.alert(id, Alert::CloseNotify);
            self.close(id, CloseReason::FailedTags);
        }
        Verdict::Dropped(DropReason::Forged)
    }
}

/// The first one, but for one that was dropped.
fn telling(first: Outcome, next: Outcome) -> Outcome {
    match (first.0, next.0) {
        (Verdict::Dropped(_), Verdict::Dropped(_)) => first,
        (Verdict::Dropped(_), _) => next,
        _ => first,
    }
}
