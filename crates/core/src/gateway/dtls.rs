//! The DTLS layer of the gateway: the DTLS server, and the rule which sockets speak DTLS.
//!
//! 1. A datagram of a DTLS socket becomes plaintext of an association, which then goes the way of any other datagram.
//! 2. A message for the peer of an association is sealed, and leaves for the address where its device is now.
//! 3. A new association takes over the registrations of its identity at once, so that commands and notifications
//!    continue before the device sends a message. A closed association ends no registration, because the device may be
//!    asleep.
//!
//! The layer knows associations and their identities. Which registrations an identity may use is decided by
//! [`super::registrations::access`].

use std::sync::Arc;

use crate::coap;
use lwm2m_base::identity::Identity;
use lwm2m_base::{AssociationId, Peer};
use lwm2m_dtls::{DtlsOutput, DtlsServer};

use super::output::Output;
use super::report::Report;

/// Owns the DTLS server.
pub(super) struct DtlsLayer {
    pub server: DtlsServer,
    /// The number of the first DTLS socket. All sockets after it are DTLS sockets, too.
    first_socket: u16,
}

impl DtlsLayer {
    pub(super) fn new(server: DtlsServer, first_socket: u16) -> Self {
        Self { server, first_socket }
    }

    /// Returns the next output that leaves the gateway, in order, with the association whose record it has to wait for,
    /// if there is one.
    pub(super) fn poll_output(&mut self) -> Option<(Option<AssociationId>, Output)> {
        let output = match self.server.poll_output()? {
            DtlsOutput::Transmit { socket, to, datagram } => {
                Output::Transmit(coap::Transmit { peer: Peer::udp(socket, to), datagram })
            }
            DtlsOutput::TransmitLastFlight { association, socket, to, datagram } => {
                let transmit = coap::Transmit { peer: Peer::udp(socket, to), datagram };
                return Some((Some(association), Output::Transmit(transmit)));
            }
            DtlsOutput::FindKey(question) => Output::FindKey(question),
            DtlsOutput::Closed { peer, reason } => Output::Report(Report::AssociationClosed { peer, reason }),
            DtlsOutput::Report(report) => Output::Report(Report::Dtls(report)),
        };
        Some((None, output))
    }

    /// Returns the first socket that speaks DTLS.
    pub(super) fn first_socket(&self) -> u16 {
        self.first_socket
    }

    /// Returns whether the socket that this peer sends to speaks DTLS.
    pub(super) fn serves(&self, peer: Peer) -> bool {
        peer.socket >= self.first_socket
    }

    pub(super) fn identity(&self, association: AssociationId) -> Option<Arc<Identity>> {
        self.server.identity(association).cloned()
    }
}
