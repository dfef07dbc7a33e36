//! Access control: decides which peer may use which endpoint name and which registration.
//!
//! A registration belongs to the identity that made it. Only associations of that identity may use it; a request from a
//! new association of the identity moves the registration there. A peer without that identity cannot replace it.
//!
//! The identity of a peer comes as an argument: the caller asks the DTLS server, and `None` means plain UDP.

use std::collections::HashSet;
use std::sync::Arc;

use crate::registry::Device;
use lwm2m_base::Peer;
use lwm2m_base::identity::{Identity, PskIdentity};

use crate::gateway::config::GatewayConfig;
use crate::gateway::identity::IdentityRule;
use crate::gateway::report::{Forbidden, Report};

/// Owns the list of identities that have a key of their own.
#[derive(Debug, Default)]
pub(in crate::gateway) struct AccessControl {
    keyed: HashSet<PskIdentity>,
}

impl AccessControl {
    /// Replaces the list: the devices of these identities need no plain UDP.
    pub(in crate::gateway) fn set_keyed_identities(&mut self, identities: HashSet<PskIdentity>) {
        self.keyed = identities;
    }

    /// Returns why a peer with this identity may not register by this endpoint name. `taken_over_dtls` tells whether a
    /// registered or pending registration of the name was made over DTLS.
    pub(crate) fn forbids_name(
        &self,
        config: &GatewayConfig,
        endpoint: &str,
        (peer, identity): (Peer, Option<&Identity>),
        taken_over_dtls: bool,
    ) -> Option<Forbidden> {
        let rule = &config.identity;
        if let Some(identity) = identity {
            return (!rule.allows(identity, endpoint)).then_some(Forbidden::OtherName);
        }
        if peer.association.is_some() {
            // The association was closed between its last record and this answer.
            return Some(Forbidden::OtherName);
        }
        if taken_over_dtls {
            return Some(Forbidden::Unsecured);
        }
        let has_key = || rule.identity_of(endpoint).is_some_and(|own| self.keyed.contains(&own));
        (!config.plain_udp_for_psk_devices && has_key()).then_some(Forbidden::HasKey)
    }
}

/// Returns why a request of this peer for the registration of this device is not accepted. The identity of the peer is
/// looked up only if the device did not speak from there already.
pub(super) fn forbids_request(
    rule: &IdentityRule,
    device: &Device,
    peer: Peer,
    identity: impl FnOnce() -> Option<Arc<Identity>>,
) -> Option<Forbidden> {
    if device.peer == peer {
        return None;
    }
    match (device.identity.as_deref(), identity().as_deref()) {
        (None, None) => None,
        (Some(_), None) => Some(Forbidden::Unsecured),
        (Some(own), Some(other)) => (own != other).then_some(Forbidden::OtherIdentity),
        (None, Some(identity)) => {
            (!rule.allows(identity, &device.registration.endpoint)).then_some(Forbidden::OtherName)
        }
    }
}

/// Returns the report that a peer with this identity may not use this endpoint name.
pub(super) fn forbidden(endpoint: &str, (peer, identity): (Peer, Option<&Identity>), reason: Forbidden) -> Report {
    let identity = identity.and_then(Identity::name).map(str::to_owned);
    Report::Forbidden { endpoint: endpoint.to_owned(), peer, identity, reason }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::gateway::fixtures::{address, association, device, psk};

    fn config() -> GatewayConfig {
        GatewayConfig {
            identity: IdentityRule::Pattern("lwm2m-${endpoint_name}".parse().unwrap()),
            ..Default::default()
        }
    }

    fn bound_device(peer: Peer, identity: Option<Identity>) -> Device {
        let mut device = device(7, &[], Instant::now());
        (device.peer, device.identity) = (peer, identity.map(Arc::new));
        device
    }

    fn forbids(device: &Device, peer: Peer, identity: Option<&Identity>) -> Option<Forbidden> {
        forbids_request(&config().identity, device, peer, || identity.cloned().map(Arc::new))
    }

    #[test]
    fn an_identity_may_use_the_names_that_it_stands_for_and_no_other() {
        let (access, config, own) = (AccessControl::default(), config(), psk("lwm2m-dev-7"));
        let forbids = |endpoint, taken| access.forbids_name(&config, endpoint, (association(1), Some(&own)), taken);
        assert_eq!(forbids("dev-7", false), None);
        assert_eq!(forbids("dev-7", true), None, "it may take the name over from another of its associations");
        assert_eq!(forbids("dev-8", false), Some(Forbidden::OtherName));
        assert_eq!(forbids("lwm2m-dev-7", false), Some(Forbidden::OtherName));
    }

    #[test]
    fn an_association_whose_identity_is_not_known_any_more_may_use_no_name() {
        let (access, config) = (AccessControl::default(), config());
        let closed = (association(1), None);
        assert_eq!(access.forbids_name(&config, "dev-7", closed, false), Some(Forbidden::OtherName));
        assert_eq!(access.forbids_name(&config, "dev-7", closed, true), Some(Forbidden::OtherName));
    }

    #[test]
    fn plain_udp_cannot_take_a_name_that_is_registered_over_dtls() {
        let (access, mut config) = (AccessControl::default(), config());
        config.plain_udp_for_psk_devices = true;
        let plain = (address(1), None);
        assert_eq!(access.forbids_name(&config, "dev-7", plain, true), Some(Forbidden::Unsecured));
        assert_eq!(access.forbids_name(&config, "dev-7", plain, false), None);
    }

    #[test]
    fn a_name_with_a_key_needs_dtls_unless_the_configuration_allows_plain_udp() {
        let (mut access, mut config, plain) = (AccessControl::default(), config(), (address(1), None));
        let key = |name: &str| PskIdentity::new(name.as_bytes()).unwrap();
        access.set_keyed_identities([key("lwm2m-dev-7")].into());
        assert_eq!(access.forbids_name(&config, "dev-7", plain, false), Some(Forbidden::HasKey));
        assert_eq!(access.forbids_name(&config, "dev-8", plain, false), None);

        access.set_keyed_identities([key("lwm2m-dev-8")].into());
        assert_eq!(access.forbids_name(&config, "dev-7", plain, false), None, "its key was removed");
        assert_eq!(access.forbids_name(&config, "dev-8", plain, false), Some(Forbidden::HasKey));

        config.plain_udp_for_psk_devices = true;
        assert_eq!(access.forbids_name(&config, "dev-8", plain, false), None);
    }

    #[test]
    fn names_that_no_identity_stands_for_have_no_key() {
        let mut access = AccessControl::default();
        access.set_keyed_identities([PskIdentity::new(b"dev-7").unwrap()].into());
        let config = GatewayConfig { identity: IdentityRule::None, ..Default::default() };
        assert_eq!(access.forbids_name(&config, "dev-7", (address(1), None), false), None);
        let any = psk("somebody");
        assert_eq!(access.forbids_name(&config, "dev-7", (association(1), Some(&any)), true), None);
    }

    #[test]
    fn a_registration_of_plain_udp_accepts_requests_from_each_address_and_from_the_identity_of_its_name() {
        let device = bound_device(address(1), None);
        let (own, other) = (psk("lwm2m-dev-7"), psk("lwm2m-dev-8"));
        assert_eq!(forbids(&device, address(2), None), None);
        assert_eq!(forbids(&device, association(1), Some(&own)), None);
        assert_eq!(forbids(&device, association(1), Some(&other)), Some(Forbidden::OtherName));
    }

    #[test]
    fn a_registration_of_an_identity_accepts_requests_from_associations_of_that_identity_only() {
        let own = psk("lwm2m-dev-7");
        let device = bound_device(association(1), Some(own.clone()));
        let other = psk("lwm2m-dev-8");
        let forbids = |peer, identity| forbids(&device, peer, identity);
        assert_eq!(forbids(association(2), Some(&own)), None);
        assert_eq!(forbids(association(2), Some(&other)), Some(Forbidden::OtherIdentity));
        assert_eq!(forbids(association(2), Some(&Identity::Unknown)), Some(Forbidden::OtherIdentity));
        assert_eq!(forbids(address(1), None), Some(Forbidden::Unsecured));
        assert_eq!(forbids(association(2), None), Some(Forbidden::Unsecured), "the association is closed");
    }

    #[test]
    fn the_peer_that_a_registration_speaks_from_is_not_asked_again() {
        let device = bound_device(association(1), Some(psk("lwm2m-dev-7")));
        let looked_up = || panic!("the identity is looked up");
        assert_eq!(forbids_request(&config().identity, &device, association(1), looked_up), None);
    }

    #[test]
    fn the_report_names_the_identity_if_there_is_one() {
        let reason = Forbidden::OtherName;
        let report = |peer, identity: Option<&Identity>| match forbidden("dev-7", (peer, identity), reason) {
            Report::Forbidden { endpoint, peer, identity, reason } => (endpoint, peer, identity, reason),
            other => panic!("{other:?}"),
        };
        let named = report(association(1), Some(&psk("lwm2m-dev-8")));
        assert_eq!(named, ("dev-7".to_owned(), association(1), Some("lwm2m-dev-8".to_owned()), reason));
        assert_eq!(report(address(1), None), ("dev-7".to_owned(), address(1), None, reason));
        assert_eq!(report(association(1), Some(&Identity::Unknown)).2, None);
    }
}
