//! The memory of a registered device with one observation has an upper bound.

use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::Output;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::config::AutoObserve;
use lwm2m_testkit::scene::{Scene, peer};

/// Bytes of a device that has just registered and is observed, and of the same device when EXCHANGE_LIFETIME is over.
const MOST_AT_ONCE: i64 = 2_400;
const MOST_LATER: i64 = 2_000;

/// So many devices leave half of the places of the hash tables free, which is the worst case: the tables have just
/// grown.
const DEVICES: u16 = 2_000;
/// Devices before them, so that what is there once is not counted.
const BEFORE: u16 = 2;

#[test]
fn a_registered_device_with_an_observation_needs_no_more_memory_than_it_did() {
    let mut scene = Scene::with(|config| {
        config.auto_observe = AutoObserve::Paths(vec!["/3303/0/5700".parse().unwrap()]);
        config.limits.registers.total.per_second = 1_000_000;
        config.limits.registers.total.burst = 1_000_000;
        config.limits.registers.address = config.limits.registers.total;
    });
    (0..BEFORE).for_each(|number| join(&mut scene, number));
    let at_once =
        allocation_counter::measure(|| (BEFORE..BEFORE + DEVICES).for_each(|number| join(&mut scene, number)));
    let later = allocation_counter::measure(|| {
        scene.now += Duration::from_secs(260);
        scene.gateway.handle_timeout(scene.now);
        scene.now += Duration::from_secs(260);
        scene.gateway.handle_timeout(scene.now);
        while !matches!(scene.gateway.poll_output(), Output::Idle(_)) {}
    });
    let each = |bytes: i64| bytes / i64::from(DEVICES);
    let (at_once, later) = (each(at_once.bytes_current), each(at_once.bytes_current + later.bytes_current));
    assert!(at_once <= MOST_AT_ONCE, "{at_once}");
    assert!(later <= MOST_LATER, "{later}");
}

/// Registers a device and accepts its observation.
fn join(scene: &mut Scene, number: u16) {
    scene.now += Duration::from_millis(1);
    scene.gateway.handle_timeout(scene.now);
    let register = scene.register_message(&format!("ep=device-{number:05}&lt=86400&lwm2m=1.0&b=U")).encode();
    scene.gateway.handle_datagram(scene.now, peer(number.into()), &register);
    let mut observed = false;
    loop {
        match scene.gateway.poll_output() {
            Output::Broker(BrokerCommand::Connect { registration, .. }) => {
                scene.gateway.handle_broker(scene.now, BrokerEvent::Connected { registration });
            }
            Output::Transmit(transmit) => {
                let message = Message::decode(&transmit.datagram).unwrap();
                if message.code == Code::GET {
                    observed = true;
                    let answer = accepted(message.id, message.token).encode();
                    scene.gateway.handle_datagram(scene.now, peer(number.into()), &answer);
                }
            }
            Output::Idle(_) => break,
            _ => {}
        }
    }
    assert!(observed);
}

fn accepted(id: MessageId, token: Token) -> Message {
    let mut options = Options::new();
    options.add_uint(number::OBSERVE, 1);
    options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
    Message { kind: Kind::Acknowledgement, code: Code::CONTENT, id, token, options, payload: b"21.5".to_vec() }
}
