//! Devices that speak DTLS: their datagrams go through [`dtls::DtlsServer`], and who they are says what they may do.
//!
//! 1. A datagram of a DTLS socket becomes plaintext of an association, which then goes the way of any other datagram.
//! 2. What is for the peer of an association is sealed, and goes to where its device is now.
//! 3. A registration has the identity that it was made with. Requests for it are taken from associations of that identity
//!    only: from a new one of them they move it there. Nothing takes its place that did not prove as much.
//! 4. An association that is established moves the registrations that its identity names, at once: commands and
//!    notifications go on before the device says anything. One that is closed ends nothing, for the device may be asleep.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::coap::{self, Transmit};
use lwm2m_base::{AssociationId, Peer};
use lwm2m_dtls::credentials::{Identity, KeyAnswer, PskIdentity};
use lwm2m_dtls::handshake::Acceptor;
use lwm2m_dtls::{self as dtls, DtlsServer};

use super::broker::RegistrationId;
use super::report::{Forbidden, Report};
use super::{Gateway, Output};

/// The DTLS server of the gateway, with what it has for the gateway itself.
pub(super) struct DtlsLayer {
    server: DtlsServer,
    /// This socket and all after it speak DTLS.
    first_socket: u16,
    events: VecDeque<DtlsEvent>,
}

/// An event that the gateway handles when the server has nothing more to send.
enum DtlsEvent {
    Plaintext { peer: Peer, plaintext: Vec<u8> },
    Established { peer: Peer, identity: Arc<Identity> },
}

impl DtlsLayer {
    fn new(server: DtlsServer, first_socket: u16) -> Self {
        Self { server, first_socket, events: VecDeque::new() }
    }

    /// Whether the socket that this peer speaks to is one of DTLS.
    fn serves(&self, peer: Peer) -> bool {
        peer.socket >= self.first_socket
    }

    /// Returns what leaves the gateway, in order. Events for the gateway itself wait for [`DtlsLayer::next_event`], or a
    /// message would be handled in the middle of another.
    fn poll_output(&mut self) -> Option<Output> {
        loop {
            return Some(match self.server.poll_output()? {
                dtls::DtlsOutput::Transmit { socket, to, datagram } => {
                    Output::Transmit(coap::Transmit { peer: Peer::udp(socket, to), datagram })
                }
                dtls::DtlsOutput::FindKey { identity } => Output::FindKey(identity),
                dtls::DtlsOutput::Closed { peer, reason } => Output::Report(Report::AssociationClosed { peer, reason }),
                dtls::DtlsOutput::Report(report) => Output::Report(Report::Dtls(report)),
                dtls::DtlsOutput::Plaintext { peer, plaintext } => {
                    self.events.push_back(DtlsEvent::Plaintext { peer, plaintext });
                    continue;
                }
                dtls::DtlsOutput::Established { peer, identity } => {
                    self.events.push_back(DtlsEvent::Established { peer, identity });
                    continue;
                }
            });
        }
    }

    fn next_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }
}

impl Gateway {
    /// With DTLS at this socket and all after it.
    pub fn with_dtls(mut self, server: DtlsServer, first_socket: u16) -> Self {
        self.dtls = Some(DtlsLayer::new(server, first_socket));
        self
    }

    /// The answer to [`Output::FindKey`].
    pub fn handle_key(&mut self, now: Instant, identity: &PskIdentity, answer: KeyAnswer) {
        let Some(dtls) = &mut self.dtls else { return };
        dtls.server.handle_key(now, identity, answer);
        self.handle_dtls_outputs(now);
    }

    /// Other credentials of ours; `None` if there are none that could be used: then there are no handshakes, and the
    /// associations that there are go on.
    pub fn set_acceptor(&mut self, acceptor: Option<Acceptor>) {
        if let Some(dtls) = &mut self.dtls {
            dtls.server.set_acceptor(acceptor);
        }
    }

    /// The keys of devices may be others now: they are looked up anew.
    pub fn forget_keys(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            dtls.server.forget_keys();
        }
    }

    /// The keys of these identities are others now, or none: what was made by those of before is over. The registrations
    /// stay, and their devices cannot use them before they have the new keys.
    pub fn revoke(&mut self, now: Instant, is_revoked: impl Fn(&PskIdentity) -> bool) {
        if let Some(dtls) = &mut self.dtls {
            dtls.server.revoke(is_revoked);
            self.handle_dtls_outputs(now);
        }
    }

    /// These identities have a key of their own from now on, and no others: their devices need no plain UDP.
    pub fn set_keyed_identities(&mut self, identities: HashSet<PskIdentity>) {
        self.keyed = identities;
    }

    pub fn associations(&self) -> dtls::DtlsTableSizes {
        self.dtls.as_ref().map(|dtls| dtls.server.table_sizes()).unwrap_or_default()
    }

    /// A datagram of a DTLS socket is taken; one of another socket comes back.
    pub(super) fn handle_dtls_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) -> bool {
        let Some(dtls) = self.dtls.as_mut().filter(|dtls| dtls.serves(peer)) else {
            return false;
        };
        dtls.server.handle_datagram(now, peer.socket, peer.address, datagram);
        self.handle_dtls_outputs(now);
        true
    }

    pub(super) fn handle_dtls_timeout(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.server.handle_timeout(now);
            self.handle_dtls_outputs(now);
        }
    }

    pub(super) fn next_dtls_deadline(&self) -> Option<Instant> {
        self.dtls.as_ref()?.server.next_deadline()
    }

    pub(super) fn dtls_server(&mut self) -> Option<&mut DtlsServer> {
        self.dtls.as_mut().map(|dtls| &mut dtls.server)
    }

    pub(super) fn has_dtls_changes(&self) -> bool {
        self.dtls.as_ref().is_some_and(|dtls| dtls.server.has_changes())
    }

    /// What the endpoint has to send: as it is over UDP, as a record over DTLS.
    pub(super) fn transmit(&mut self, transmit: Transmit) {
        match (transmit.peer.association, &mut self.dtls) {
            (Some(association), Some(dtls)) => {
                dtls.server.send(association, &transmit.datagram);
                self.take_dtls_outputs();
            }
            // A device of before a restart, when there was DTLS: its address may be another one's by now.
            (Some(association), None) => {
                self.outputs.push_back(Output::Report(Report::Dtls(dtls::DtlsReport::Unsent { association })));
            }
            (None, _) => self.outputs.push_back(Output::Transmit(transmit)),
        }
    }

    /// Who is at the other end; `None` over plain UDP.
    pub(super) fn identity(&self, peer: Peer) -> Option<Arc<Identity>> {
        let association: AssociationId = peer.association?;
        self.dtls.as_ref()?.server.identity(association).cloned()
    }

    /// The endpoint name that the identity of this peer stands for.
    pub(super) fn endpoint_of(&self, identity: Option<&Identity>) -> Option<String> {
        let mut endpoints = self.settings.identity.endpoints_of(identity?);
        endpoints.next().map(str::to_owned)
    }

    /// Why a peer with this identity may not register by this name.
    pub(super) fn forbids_name(&self, endpoint: &str, peer: Peer, identity: Option<&Identity>) -> Option<Forbidden> {
        if let Some(identity) = identity {
            return (!self.settings.identity.allows(identity, endpoint)).then_some(Forbidden::OtherName);
        }
        if peer.association.is_some() {
            // Closed between its last record and this answer.
            return Some(Forbidden::OtherName);
        }
        let registered = self.registry.id_by_endpoint(endpoint).and_then(|id| self.registry.device(id));
        let secured = registered.is_some_and(|device| device.identity.is_some())
            || self.pending_registrations.by_endpoint(endpoint).is_some_and(|pending| pending.identity.is_some());
        if secured {
            return Some(Forbidden::Unsecured);
        }
        let has_key = || self.settings.identity.identity_of(endpoint).is_some_and(|own| self.keyed.contains(&own));
        (!self.settings.names_with_key_over_udp && has_key()).then_some(Forbidden::HasKey)
    }

    /// Why a request of this peer for this registration is not taken.
    pub(super) fn forbids_request(&self, id: RegistrationId, peer: Peer) -> Option<Forbidden> {
        let device = self.registry.device(id)?;
        if device.peer == peer {
            return None;
        }
        let identity = self.identity(peer);
        match (&device.identity, &identity) {
            (None, None) => None,
            (Some(_), None) => Some(Forbidden::Unsecured),
            (Some(own), Some(other)) if own == other => None,
            (Some(_), Some(_)) => Some(Forbidden::OtherIdentity),
            (None, Some(identity)) => self.forbids_name(&device.registration.endpoint, peer, Some(identity)),
        }
    }

    pub(super) fn report_forbidden(&mut self, endpoint: &str, peer: Peer, reason: Forbidden) {
        let identity = self.identity(peer).and_then(|identity| identity.name().map(str::to_owned));
        self.report(Report::Forbidden { endpoint: endpoint.to_owned(), peer, identity, reason });
    }

    /// Carries out the outputs and events of the DTLS server until it has no more.
    fn handle_dtls_outputs(&mut self, now: Instant) {
        self.take_dtls_outputs();
        while let Some(event) = self.dtls.as_mut().and_then(DtlsLayer::next_event) {
            match event {
                DtlsEvent::Plaintext { peer, plaintext } => self.handle_message(now, peer, &plaintext),
                DtlsEvent::Established { peer, identity } => self.established(now, peer, &identity),
            }
            self.take_dtls_outputs();
        }
        self.flush_coap();
    }

    fn take_dtls_outputs(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            self.outputs.extend(std::iter::from_fn(|| dtls.poll_output()));
        }
    }

    /// The registrations that this identity made, and that it names, are here now.
    fn established(&mut self, now: Instant, peer: Peer, identity: &Arc<Identity>) {
        let endpoints = self.settings.identity.endpoints_of(identity);
        let devices: Vec<RegistrationId> =
            endpoints.filter_map(|endpoint| self.registry.id_by_endpoint(endpoint)).collect();
        for id in devices {
            let own = self.registry.device(id).is_some_and(|device| device.identity.as_ref() == Some(identity));
            if own {
                self.moved(now, id, peer);
            }
        }
    }
}
