//! A restart in every state of a device costs no handshake.

use std::time::Duration;

use lwm2m_core::coap::Code;

use super::scene::{DtlsDevicesScene, address, observe, read, register};

#[test]
fn before_the_answer_to_register() {
    let mut scene = DtlsDevicesScene::new();
    scene.broker_thinks = true;
    let device = scene.connect(1, "dev-7");
    let message = register("ep=dev-7&lt=300");
    scene.say(device, &message);
    scene.restart();
    scene.broker_thinks = false;
    // The device repeats it, over the association that it has.
    scene.nobody_hears_anything();
    assert_eq!(scene.ask(device, &message).code, Code::CREATED);
    assert_eq!(scene.handshakes(), 1);
}

#[test]
fn of_an_idle_device_and_again_and_again() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "ep=dev-7&lt=300");
    for _ in 0..5 {
        scene.restart();
        scene.command("dev-7", &read(1));
        let asked = scene.hear(device);
        scene.answer(device, &asked, "Acme", None);
        assert_eq!(scene.update(device, &location), Code::CHANGED);
    }
    assert_eq!(scene.handshakes(), 1);
    assert_eq!(scene.gateway.table_sizes().devices, 1);
}

#[test]
fn with_a_command_in_flight_and_an_observation() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    scene.register(device, "ep=dev-7&lt=300");
    scene.command("dev-7", &observe(1));
    let observed = scene.hear(device);
    scene.answer(device, &observed, "20.5", Some(5));
    scene.command("dev-7", &read(2));
    scene.hear(device);
    scene.published.clear();
    scene.restart();
    let asked = scene.hear(device);
    scene.answer(device, &asked, "Acme", None);
    assert_eq!(scene.published.pop_front().unwrap()["data"]["content"][0]["value"], "Acme");
    assert_eq!(scene.handshakes(), 1);
}

#[test]
fn of_a_device_that_sleeps_while_commands_wait() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "ep=dev-7&lt=3000&b=UQ");
    scene.advance(Duration::from_secs(600));
    scene.command("dev-7", &read(1));
    scene.restart();
    scene.nobody_hears_anything();
    assert_eq!(scene.update(device, &location), Code::CHANGED);
    scene.hear(device);
    assert_eq!(scene.handshakes(), 1);
}

#[test]
fn a_registration_stays_that_of_its_identity() {
    let mut scene = DtlsDevicesScene::new();
    let device = scene.connect(1, "dev-7");
    let location = scene.register(device, "ep=dev-7&lt=300");
    scene.close(device);
    scene.restart();
    assert_eq!(scene.ask(address(66), &register("ep=dev-7&lt=300")).code, Code::FORBIDDEN);
    assert_eq!(scene.update(address(66), &location), Code::FORBIDDEN);
    let again = scene.connect(2, "dev-7");
    assert_eq!(scene.update(again, &location), Code::CHANGED);
}
