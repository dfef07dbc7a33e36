//! Names that have a key are not registered over plain UDP.

use super::*;

#[test]
fn a_name_that_has_a_key_is_not_registered_over_plain_udp() {
    let pattern = IdentityRule::Pattern("psk-${endpoint_name}".parse().unwrap());
    for (rule, allowed, identity, code) in [
        (IdentityRule::Equals, false, "dev-7", Some(Code::FORBIDDEN)),
        (IdentityRule::Equals, true, "dev-7", None),
        (IdentityRule::Equals, false, "dev-8", None),
        (pattern.clone(), false, "psk-dev-7", Some(Code::FORBIDDEN)),
        (pattern, false, "dev-7", None),
        (IdentityRule::None, false, "dev-7", None),
    ] {
        let mut scene = Scene::with(|config| {
            config.identity = rule.clone();
            config.plain_udp_for_psk_devices = allowed;
        });
        scene.gateway.set_keyed_identities([PskIdentity::new(identity.as_bytes()).unwrap()].into());
        let register = scene.send_register(QUERY);
        match code {
            Some(code) => drop(scene.expect_reply(scene.peer, &register, code)),
            None => drop(scene.expect_connect()),
        }
        scene.expect_nothing_more();
        let forbidden = |report: &Report| matches!(report, Report::Forbidden { reason: Forbidden::HasKey, .. });
        assert_eq!(scene.reports().iter().any(forbidden), code.is_some(), "{rule:?} {identity}");
    }
}

#[test]
fn a_name_whose_key_is_taken_away_may_be_registered_over_plain_udp() {
    let mut scene = Scene::new();
    scene.gateway.set_keyed_identities([PskIdentity::new(b"dev-7").unwrap()].into());
    let register = scene.register_message(QUERY);
    scene.ask(&register, Code::FORBIDDEN);
    scene.gateway.set_keyed_identities([].into());
    scene.register(QUERY);
}
