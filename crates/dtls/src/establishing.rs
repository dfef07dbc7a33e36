//! Drives handshakes: carries out their actions, looks their keys up, and takes their associations over.

use std::time::Instant;

use lwm2m_base::AssociationId;

use super::association::{Alert, Association};
use super::associations::PeerAddress;
use super::credentials::{KeyAnswer, KeyMark, KeyQuestion};
use super::handshake::{Established, HandshakeOutput};
use super::handshakes::PendingHandshake;
use super::key_cache::KeyLookup;
use super::record::{OwnCid, records};
use super::report::{AssociationCloseReason, DtlsReport, HandshakeFailure};
use super::{DtlsEvent, DtlsOutput, DtlsServer};
use lwm2m_base::identity::{Identity, PskIdentity};

impl DtlsServer {
    /// Handles the answer to [`DtlsOutput::FindKey`].
    pub fn handle_key(&mut self, now: Instant, question: &KeyQuestion, answer: KeyAnswer) {
        for id in self.keys.answered(now, question, &answer) {
            let Some(underway) = self.handshakes.get_mut(id) else { continue };
            underway.asking = false;
            let source = underway.source();
            match &answer {
                KeyAnswer::Found { key, .. } => {
                    underway.give_key(key, || self.key_turns.next(now, question, source, &mut self.rng))
                }
                KeyAnswer::Unknown { .. } => underway.handshake.handle_key(None),
                // Without a word: the device tries again, and is not told that its identity is wrong.
                KeyAnswer::Unavailable => self.handshake_failed(id, HandshakeFailure::KeyUnavailable),
            }
            self.drive_handshake(now, id);
        }
    }

    /// Carries out the actions of the handshake, until there are no more.
    pub(super) fn drive_handshake(&mut self, now: Instant, id: AssociationId) {
        let mut flight = Vec::new();
        while let Some(underway) = self.handshakes.get_mut(id) {
            let place = underway.place;
            let output = underway.handshake.poll();
            if let Some(HandshakeOutput::Transmit(datagram)) = output {
                underway.sent(now);
                flight.push(datagram);
                continue;
            }
            let is_last = matches!(output, Some(HandshakeOutput::Established(_)));
            for datagram in flight.drain(..) {
                self.transmit_flight(id, place, datagram, is_last);
            }
            match output {
                Some(HandshakeOutput::FindKey(identity)) => self.find_key(now, id, identity),
                Some(HandshakeOutput::Established(established)) => self.established(now, id, *established),
                Some(HandshakeOutput::Failed(failure)) => self.handshake_failed(id, HandshakeFailure::Failed(failure)),
                Some(HandshakeOutput::Transmit(_)) | None => break,
            }
        }
        self.handshakes.set_deadline(id);
    }

    fn transmit_flight(&mut self, id: AssociationId, (socket, to): PeerAddress, datagram: Vec<u8>, is_last: bool) {
        self.push(match is_last {
            true => DtlsOutput::TransmitLastFlight { association: id, socket, to, datagram },
            false => DtlsOutput::Transmit { socket, to, datagram },
        });
    }

    /// Flights that wait for an answer for too long, and handshakes.
    pub(super) fn handle_handshake_timeouts(&mut self, now: Instant) {
        while let Some(id) = self.handshakes.pop_due(now) {
            let Some(underway) = self.handshakes.get_mut(id) else { continue };
            if underway.is_over(now) {
                let wrong_key = underway.handshake.suspects_wrong_key();
                let reason = if wrong_key { HandshakeFailure::WrongKey } else { HandshakeFailure::Deadline };
                self.handshake_failed(id, reason);
            } else {
                self.repeat_flight(now, id);
            }
        }
    }

    pub(super) fn handshake_failed(&mut self, id: AssociationId, reason: HandshakeFailure) {
        let Some(underway) = self.end_handshake(id) else { return };
        let (peer, identity) = (underway.peer(), underway.identity);
        self.report(DtlsReport::HandshakeFailed { peer, identity, reason });
    }

    /// Evicts a handshake for another one. A client that has answered would repeat its answer for a minute, so it gets
    /// an alert. A client that has not answered repeats its hello, and so begins again.
    pub(super) fn evict_handshake(&mut self, id: AssociationId) {
        let Some(underway) = self.handshakes.get_mut(id) else { return };
        let place = underway.place;
        underway.handshake.abandon();
        while let Some(HandshakeOutput::Transmit(datagram)) =
            self.handshakes.get_mut(id).and_then(|u| u.handshake.poll())
        {
            self.transmit(place, datagram);
        }
        self.handshake_failed(id, HandshakeFailure::Evicted);
    }

    fn repeat_flight(&mut self, now: Instant, id: AssociationId) {
        let Some(underway) = self.handshakes.get_mut(id) else { return };
        if underway.repeats(now) {
            let (place, peer) = (underway.place, underway.peer());
            underway.handshake.retransmit();
            let mut repeated = false;
            while let Some(HandshakeOutput::Transmit(datagram)) =
                self.handshakes.get_mut(id).and_then(|u| u.handshake.poll())
            {
                repeated = true;
                self.transmit(place, datagram);
            }
            if repeated {
                self.report(DtlsReport::HandshakeRetransmitted { peer });
            }
        }
        self.handshakes.set_deadline(id);
    }

    fn find_key(&mut self, now: Instant, id: AssociationId, identity: PskIdentity) {
        let Some(underway) = self.handshakes.get_mut(id) else { return };
        underway.identity = Some(identity.clone());
        let question = KeyQuestion { identity, realm: self.config.realm_of(underway.place.0) };
        match self.keys.find(now, &question, id) {
            KeyLookup::Key(key) => {
                let source = underway.source();
                underway.give_key(&key, || self.key_turns.next(now, &question, source, &mut self.rng));
            }
            KeyLookup::Unknown => underway.handshake.handle_key(None),
            KeyLookup::Asked => underway.asking = true,
            KeyLookup::Ask => {
                underway.asking = true;
                self.push(DtlsOutput::FindKey(question));
            }
            KeyLookup::TooManyQuestions => {
                self.report(DtlsReport::KeyNotAsked { identity: question.identity });
                self.handshake_failed(id, HandshakeFailure::KeyUnavailable);
            }
        }
    }

    fn established(&mut self, now: Instant, id: AssociationId, mut established: Established) {
        let Some(underway) = self.end_handshake(id) else { return };
        let place = underway.place;
        let key = underway.key.map(|(key, kind)| KeyMark::new(&key, kind, id));
        if let Some(identity) = underway.identity {
            self.key_turns.forget(&KeyQuestion { identity, realm: self.config.realm_of(place.0) });
        }
        let (suite, resumed) = (established.keys.suite(), established.resumed);
        let early = std::mem::take(&mut established.early);
        let numbers = self.terms.numbers_of_new(id.shard(), now);
        let association = Association::new(id, place, (established, key), (numbers, now));
        let (peer, identity) = (association.peer(), association.identity.clone());
        let connection_id = association.has_own_cid;
        let replaced = self.replaced_by(&association).and_then(|id| self.associations.remove(id));
        self.make_room(&identity);
        self.associations.insert(association, self.config.idle);
        self.changed(id);
        self.report(DtlsReport::HandshakeCompleted { peer, suite, connection_id, resumed });
        self.events.push_back(DtlsEvent::Established { peer, identity });
        if let Some(replaced) = replaced {
            self.closed(replaced, AssociationCloseReason::Replaced);
        }
        for record in early.iter().flat_map(|record| records(record, OwnCid::LENGTH)) {
            self.handle_by_association(now, place, id, &record);
        }
    }

    /// Returns the association that a new one replaces (RFC 6347 section 4.2.8). An association with a connection id is
    /// found wherever its device is, and is replaced only if the identity is the same: behind a NAT the address may
    /// belong to another device now.
    fn replaced_by(&self, new: &Association) -> Option<AssociationId> {
        let former = self.associations.at(new.place)?;
        (!former.has_own_cid || former.identity == new.identity).then_some(former.id)
    }

    fn make_room(&mut self, identity: &Identity) {
        while self.associations.len() >= self.config.associations {
            let Some(mut evicted) = self.associations.pop_for(identity, self.config.idle) else { return };
            // The alert informs the device, if it listens.
            if let Some(datagram) = evicted.seal_alert(Alert::CloseNotify) {
                self.transmit(evicted.place, datagram);
            }
            self.closed(evicted, AssociationCloseReason::Evicted);
        }
    }

    pub(super) fn end_handshake(&mut self, id: AssociationId) -> Option<Box<PendingHandshake>> {
        let underway = self.handshakes.remove(id)?;
        if let Some(identity) = underway.identity.clone().filter(|_| underway.asking) {
            self.keys.leave(&KeyQuestion { identity, realm: self.config.realm_of(underway.place.0) }, id);
        }
        Some(underway)
    }
}
