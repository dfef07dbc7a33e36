//! Access control: decides which peer may use which endpoint name and which registration.
//!
//! A registration belongs to the identity that made it. Only associations of that identity may use it; a request from a
//! new association of the identity moves the registration there. A peer without that identity cannot replace it.

use std::collections::HashSet;

use crate::registry::Device;
use lwm2m_base::Peer;
use lwm2m_base::identity::{Identity, PskIdentity};

use super::context::Context;
use super::report::{Forbidden, Report};

/// Owns the list of identities that have a key of their own.
#[derive(Debug, Default)]
pub(super) struct AccessControl {
    keyed: HashSet<PskIdentity>,
}

impl AccessControl {
    /// Replaces the list: the devices of these identities need no plain UDP.
    pub fn set_keyed_identities(&mut self, identities: HashSet<PskIdentity>) {
        self.keyed = identities;
    }

    /// Returns why a peer with this identity may not register by this endpoint name. `taken_over_dtls` tells whether a
    /// registered or pending registration of the name was made over DTLS.
    pub fn forbids_name(
        &self,
        context: &Context,
        endpoint: &str,
        (peer, identity): (Peer, Option<&Identity>),
        taken_over_dtls: bool,
    ) -> Option<Forbidden> {
        let rule = &context.settings.identity;
        if let Some(identity) = identity {
            return (!rule.allows(identity, endpoint)).then_some(Forbidden::OtherName);
        }
        if peer.association.is_some() {
            // Closed between its last record and this answer.
            return Some(Forbidden::OtherName);
        }
        if taken_over_dtls {
            return Some(Forbidden::Unsecured);
        }
        let has_key = || rule.identity_of(endpoint).is_some_and(|own| self.keyed.contains(&own));
        (!context.settings.plain_udp_for_psk_devices && has_key()).then_some(Forbidden::HasKey)
    }
}

/// Returns why a request of this peer for the registration of this device is not accepted.
pub(super) fn forbids_request(context: &Context, device: &Device, peer: Peer) -> Option<Forbidden> {
    if device.peer == peer {
        return None;
    }
    match (&device.identity, context.identity(peer)) {
        (None, None) => None,
        (Some(_), None) => Some(Forbidden::Unsecured),
        (Some(own), Some(other)) if *own == other => None,
        (Some(_), Some(_)) => Some(Forbidden::OtherIdentity),
        (None, Some(identity)) => {
            let allows = context.settings.identity.allows(&identity, &device.registration.endpoint);
            (!allows).then_some(Forbidden::OtherName)
        }
    }
}

pub(super) fn report_forbidden(context: &mut Context, endpoint: &str, peer: Peer, reason: Forbidden) {
    let identity = context.identity(peer).and_then(|identity| identity.name().map(str::to_owned));
    context.report(Report::Forbidden { endpoint: endpoint.to_owned(), peer, identity, reason });
}
