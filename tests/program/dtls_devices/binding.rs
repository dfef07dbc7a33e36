//! Who a device is says what it may do.

use std::time::Duration;

use lwm2m_core::coap::{Code, Kind};
use lwm2m_core::gateway::identity::IdentityRule;
use lwm2m_core::gateway::report::{Forbidden, Report};
use lwm2m_core::mqtt::topics::Template;
use lwm2m_dtls::AssociationCloseReason;

use super::scene::{DtlsDevicesScene, address, deregister, observe, read, register, update};

/// Who was refused, and why.
fn forbidden(scene: &DtlsDevicesScene) -> Vec<(Forbidden, Option<&str>)> {
    let mut all = Vec::new();
    for report in &scene.reports {
        if let Report::Forbidden { identity, reason, .. } = report {
            all.push((*reason, identity.as_deref()));
        }
    }
    all
}

#[test]
fn a_device_registers_by_the_name_of_its_identity_and_is_read() {
    let mut scene = DtlsDevicesScene::with(|settings| {
        settings.client.username = Template::for_client("psk ${psk_identity}").unwrap();
        settings.report_identity = true;
    });
    let device = scene.connect(1, "dev-7");
    scene.register(device, "ep=dev-7&lt=300&identity=forged");
    assert_eq!(scene.connects[0].username, "psk dev-7");
    assert_eq!(scene.published.pop_front().unwrap()["data"]["identity"], "dev-7");
    scene.command("dev-7", &read(1));
    let asked = scene.hear(device);
    scene.answer(device, &asked, "Acme", None);
    assert_eq!(scene.published.pop_front().unwrap()["data"]["content"][0]["value"], "Acme");
    scene.nobody_hears_anything();
    assert_eq!(scene.handshakes(), 1);
}

#[test]
fn a_register_without_a_name_is_of_the_device_that_the_identity_names() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "lt=300");
    assert_eq!(scene.published.pop_front().unwrap()["data"]["ep"], "dev-7");
    assert_eq!(scene.update(device, &location), Code::CHANGED);

    let mut scene = DtlsDevicesScene::with(|settings| settings.identity = IdentityRule::None);
    let device = scene.connect(1, "dev-7");
    assert_eq!(scene.ask(device, &register("lt=300")).code, Code::BAD_REQUEST);
    assert_eq!(scene.ask(address(9), &register("lt=300")).code, Code::BAD_REQUEST);
}

#[test]
fn another_name_than_that_of_the_identity_is_forbidden() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    assert_eq!(scene.ask(device, &register("ep=dev-8&lt=300")).code, Code::FORBIDDEN);
    assert_eq!(forbidden(&scene), [(Forbidden::OtherName, Some("dev-7"))]);
    assert!(scene.connects.is_empty(), "the broker is not asked");

    let pattern = IdentityRule::Pattern("psk-${endpoint_name}".parse().unwrap());
    let mut scene = DtlsDevicesScene::with(|settings| settings.identity = pattern);
    let device = scene.connect(1, "psk-dev-7");
    assert_eq!(scene.ask(device, &register("ep=psk-dev-7&lt=300")).code, Code::FORBIDDEN);
    scene.register(device, "ep=dev-7&lt=300");
}

#[test]
fn nobody_takes_a_device_of_dtls_over_by_plain_udp() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "ep=dev-7&lt=300");
    let unregistered = address(66);
    for message in [register("ep=dev-7&lt=300"), update(&location), deregister(&location)] {
        assert_eq!(scene.ask(unregistered, &message).code, Code::FORBIDDEN);
    }
    assert_eq!(forbidden(&scene), [(Forbidden::Unsecured, None); 3]);
    assert_eq!(scene.connects.len(), 1);
    assert_eq!(scene.update(device, &location), Code::CHANGED);
}

#[test]
fn nor_while_the_broker_thinks_about_its_register() {
    let mut scene = DtlsDevicesScene::new();
    scene.broker_thinks = true;
    let device = scene.connect(1, "dev-7");
    scene.say(device, &register("ep=dev-7&lt=300"));
    assert_eq!(scene.ask(address(66), &register("ep=dev-7&lt=300")).code, Code::FORBIDDEN);
    assert_eq!(scene.connects.len(), 1);
}

#[test]
fn a_device_of_plain_udp_that_comes_by_dtls_is_of_its_identity_from_then_on() {
    let mut scene = DtlsDevicesScene::new();
    let plain = address(9);
    let location = scene.register(plain, "ep=dev-7&lt=300");
    let other = scene.connect(2, "dev-8");
    assert_eq!(scene.update(other, &location), Code::FORBIDDEN);
    let device = scene.connect(1, "dev-7");
    assert_eq!(scene.update(device, &location), Code::CHANGED);
    assert_eq!(scene.update(plain, &location), Code::FORBIDDEN);
}

#[test]
fn a_registration_is_of_one_identity_even_where_names_are_free() {
    let mut scene = DtlsDevicesScene::with(|settings| settings.identity = IdentityRule::None);
    let device = scene.connect(1, "one");
    let location = scene.register(device, "ep=dev-7&lt=300");
    let other = scene.connect(2, "other");
    for message in [update(&location), deregister(&location)] {
        assert_eq!(scene.ask(other, &message).code, Code::FORBIDDEN);
    }
    assert_eq!(forbidden(&scene), [(Forbidden::OtherIdentity, Some("other")); 2]);
    let again = scene.connect(3, "one");
    assert_eq!(scene.update(again, &location), Code::CHANGED);
    scene.command("dev-7", &read(1));
    scene.hear(again);
}

#[test]
fn a_new_association_takes_commands_and_notifications_along() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "ep=dev-7&lt=300");
    scene.command("dev-7", &observe(1));
    let observed = scene.hear(device);
    scene.answer(device, &observed, "20.5", Some(5));
    scene.command("dev-7", &read(2));
    scene.hear(device);
    scene.command("dev-7", &read(3));
    scene.nobody_hears_anything();

    // It has rebooted behind another address, and says nothing before the command comes again.
    let again = scene.connect(2, "dev-7");
    scene.advance(Duration::from_secs(4));
    let asked = scene.hear(again);
    scene.answer(again, &asked, "Acme", None);
    scene.hear(again);
    scene.published.clear();
    let mut told = crate::common::device::response_to(&observed, Code::CONTENT, Some((0, b"21.5")));
    told.kind = Kind::Confirmable;
    told.id = crate::common::device::fresh_id();
    told.options.add_uint(lwm2m_core::coap::options::number::OBSERVE, 6);
    scene.say(again, &told);
    assert_eq!(scene.hear(again).kind, Kind::Acknowledgement);
    assert_eq!(scene.published.pop_front().unwrap()["msgType"], "notify");
    assert_eq!(scene.update(again, &location), Code::CHANGED);
}

#[test]
fn a_closed_association_ends_no_registration() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "ep=dev-7&lt=300");
    scene.close(device);
    let closed = |report: &&Report| {
        matches!(report, Report::AssociationClosed { reason: AssociationCloseReason::CloseNotify, .. })
    };
    assert_eq!(scene.reports.iter().filter(closed).count(), 1);
    assert_eq!(scene.gateway.table_sizes().devices, 1);
    scene.command("dev-7", &read(1));
    scene.nobody_hears_anything();
    let again = scene.connect(1, "dev-7");
    scene.advance(Duration::from_secs(4));
    let asked = scene.hear(again);
    scene.answer(again, &asked, "Acme", None);
    assert_eq!(scene.update(again, &location), Code::CHANGED);
}
