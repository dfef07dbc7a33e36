//! What the gateway knows of a broker from probes and dials, and how devices come back.

use super::*;
use crate::upstream::client::device::{UpstreamState, Wait};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn a_broker_without_devices_is_probed_all_the_time_and_its_end_is_noticed<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.probe_all();
    broker.probe(ProbeEnd::Served);
    broker.expect_available();
    for _ in 0..3 {
        assert_eq!(broker.advance_to_deadline(), seconds(5));
        broker.probe(ProbeEnd::Served);
        assert_eq!(broker.health(), None);
    }

    assert_eq!(broker.advance_to_deadline(), seconds(5));
    broker.probe(ProbeEnd::NotReached);
    assert!(!broker.health().expect("a change").0);
    assert_eq!(broker.unavailable(), (1, 1));
    for _ in 0..3 {
        assert_eq!(broker.advance_to_deadline(), seconds(1));
        broker.probe(ProbeEnd::NotReached);
    }
    assert_eq!(broker.advance_to_deadline(), seconds(1));
    broker.probe(ProbeEnd::Served);
    assert!(broker.health().expect("a change").0);
    assert_eq!((broker.unavailable(), broker.metrics().nodes_recovered.get()), ((0, 1), 1));
    assert_eq!(broker.metrics().probes.get(), 9);
    broker.expect(&[]);
}

pub(crate) fn a_broker_that_closes_probes_at_once_is_unavailable_the_third_time<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.probe_all();
    broker.probe(ProbeEnd::Served);
    broker.health();
    for number in 1..=3 {
        let waited = broker.advance_to_deadline();
        assert_eq!(waited, seconds(if number == 1 { 5 } else { 1 }));
        broker.probe(ProbeEnd::Closed);
        let serves = broker.health().map(|(serving, _)| serving);
        assert_eq!(serves, (number == 3).then_some(false), "probe {number}");
    }
}

pub(crate) fn a_probe_that_finds_no_descriptor_says_nothing_of_the_broker<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.probe_all();
    broker.probe(ProbeEnd::Served);
    broker.advance_to_deadline();
    broker.health();
    broker.probe(ProbeEnd::NoDescriptor);
    let (serving, detail) = broker.health().expect("a change");
    assert!(serving && detail.contains("no file descriptor is left"), "{detail}");
    assert_eq!(broker.advance_to_deadline(), seconds(1));
    broker.probe(ProbeEnd::Served);
    broker.expect_available();
}

pub(crate) fn a_dial_that_finds_no_descriptor_says_nothing_of_the_broker<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connections = broker.connect_devices(2);
    broker.health();
    broker.lose_all(&connections[..1]);
    let connection = broker.next_dial();
    broker.lack_descriptor(connection);
    broker.expect(&[Observed::HungUp(connection)]);
    let (serving, detail) = broker.health().expect("a change");
    assert!(serving && detail.contains("no file descriptor is left"), "{detail}");
    assert_eq!((broker.unavailable(), broker.metrics().connections_not_opened.get()), ((0, 0), 1));

    // The device tries again after its back-off, as after any loss.
    let connection = broker.next_dial();
    broker.accept(connection);
    broker.expect(&[]);
    broker.expect_available();
}

pub(crate) fn a_probe_that_succeeds_connects_the_device_that_was_active_last_at_once_and_the_others_in_their_turn<
    B: LifecycleBroker,
>() {
    let mut broker = B::new();
    let connections = broker.connect_devices(20);
    // The odd ones say something, the later the lower their number is.
    for id in (1..=20).rev().filter(|id| id % 2 == 1) {
        broker.advance(Duration::from_millis(1));
        broker.publish(RegistrationId(id), "a");
        let connection = connections[id as usize - 1];
        broker.expect(&[Observed::Published(connection, "a".to_owned())]);
        broker.acknowledge(connection);
    }
    broker.lose_all(&connections);
    // One of them finds out that the broker is away. The first probe after it succeeds, when most are in their
    // back-off.
    let found_out = broker.next_dial();
    broker.fail_dial(found_out);
    broker.expect(&[Observed::HungUp(found_out)]);
    broker.advance(Duration::from_millis(100));
    broker.expect(&[]);
    let states = broker.devices().devices.values().map(|device| &device.state);
    let back_off = states.filter(|state| matches!(state, UpstreamState::WaitingToReconnect(Wait::BackOff)));
    assert!(back_off.count() > 5);
    broker.recover();

    let (mut order, begun) = (Vec::new(), broker.now());
    loop {
        let dials = broker.dials();
        let [connection] = dials.as_slice() else { panic!("not ten in a second: {dials:?}") };
        order.push(broker.owner(*connection).0);
        broker.accept(*connection);
        broker.expect(&[]);
        if broker.devices().returning.awaited() == 0 {
            break;
        }
        broker.advance(Duration::from_millis(100));
    }
    let expected: Vec<u64> = (1..=20).step_by(2).chain((2..=20).step_by(2)).collect();
    assert_eq!(order, expected);
    assert_eq!(broker.now() - begun, Duration::from_millis(1_900));
    assert_eq!(broker.metrics().reconnected.get(), 20);
}

pub(crate) fn a_device_that_says_something_while_it_waits_comes_earlier<B: LifecycleBroker>() {
    let mut broker = B::new();
    (1..=4).for_each(|id| broker.resume(RegistrationId(id)));
    let first = broker.expect_dial();
    assert_eq!(broker.owner(first), ONE);
    broker.advance(Duration::from_millis(1));
    broker.publish(RegistrationId(4), "a");
    broker.expect(&[]);
    let order: Vec<u64> = broker.dials_within(seconds(1)).iter().map(|(_, dial)| broker.owner(*dial).0).collect();
    assert_eq!(order, [4, 2, 3]);
}

pub(crate) fn devices_whose_turn_was_near_when_the_broker_went_again_do_not_wait_longer_for_it<B: LifecycleBroker>() {
    let mut broker = B::new();
    (1..=100).for_each(|id| broker.resume(RegistrationId(id)));
    let first = broker.expect_dial();
    broker.fail_dial(first);
    broker.observe();
    broker.dials_in_vain(seconds(30));
    broker.recover();
    let dials = broker.dials().len() + broker.dials_within(seconds(2)).len();
    assert_eq!(dials, 21, "the first at once, and ten in a second");
}
