//! What it means that the broker refuses a device.

use super::*;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn a_client_that_is_refused_when_it_comes_back_is_closed_when_that_lasts_while_others_are_served<
    B: LifecycleBroker,
>() {
    for way in 0..B::REFUSALS {
        let mut broker = B::new();
        let connections = broker.connect_devices(2);
        broker.lose_all(&connections[..1]);
        let mut first = None;
        loop {
            let connection = broker.next_dial();
            broker.refuse_device(connection, way);
            let since = *first.get_or_insert(broker.now());
            let observed = broker.observe();
            if observed == [Observed::HungUp(connection)] {
                continue;
            }
            let closed = BrokerEvent::Closed { registration: ONE, reason: CloseReason::Refused };
            assert_eq!(observed, [Observed::Told(closed), Observed::HungUp(connection)], "refusal {way}");
            let lasted = broker.now() - since;
            assert!((seconds(30)..=seconds(60)).contains(&lasted), "refusal {way}: {lasted:?}");
            break;
        }
    }
}

pub(crate) fn a_refusal_counts_from_the_first_one_since_the_broker_was_unavailable<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connections = broker.connect_devices(2);
    broker.lose_all(&connections[..1]);
    let refused = |broker: &mut B| {
        let connection = broker.next_dial();
        broker.refuse_device(connection, 0);
        broker.expect(&[Observed::HungUp(connection)]);
    };
    refused(&mut broker);
    let first = broker.now();
    while broker.now() < first + seconds(40) {
        let connection = broker.next_dial();
        broker.fail_device(connection);
        broker.expect(&[Observed::HungUp(connection)]);
    }
    refused(&mut broker);
    assert!(broker.devices().devices.contains_key(&ONE));
}

/// A broker may listen before its authentication is up, and refuse everybody meanwhile.
pub(crate) fn a_client_that_is_refused_with_everybody_stays_registered_and_comes_back_when_one_is_accepted<
    B: LifecycleBroker,
>() {
    let mut broker = B::new();
    let connections = broker.connect_devices(8);
    broker.lose_all(&connections);
    let (start, mut refusals) = (broker.now(), 0);
    while broker.now() < start + seconds(300) {
        let connection = broker.next_dial();
        broker.refuse_device(connection, 0);
        broker.expect(&[Observed::HungUp(connection)]);
        refusals += 1;
    }
    assert!(refusals > 80, "{refusals}");
    assert_eq!(broker.devices().devices.len(), 8);
    let (serving, detail) = broker.health().expect("a change");
    assert!(serving && detail.contains("the broker refuses every device"), "{detail}");

    // The first that is accepted brings the others back, at ten in a second.
    let mut due = vec![broker.next_dial()];
    let (accepted, mut back) = (broker.now(), 0);
    while back < 8 {
        for connection in std::mem::take(&mut due) {
            broker.accept(connection);
            back += 1;
            due.extend(broker.dials());
        }
        if due.is_empty() && back < 8 {
            due.push(broker.next_dial());
        }
    }
    assert!(broker.now() <= accepted + seconds(1), "{:?}", broker.now() - accepted);
    broker.expect_available();
}

pub(crate) fn refusals_of_new_devices_are_told_when_all_of_the_last_three_were_refused_and_none_is_connected<
    B: LifecycleBroker,
>() {
    for way in 0..B::REFUSALS {
        let mut broker = B::new();
        let refused = |broker: &mut B, registration: RegistrationId| {
            broker.connect(registration, client("ep1"));
            let connection = broker.expect_dial();
            broker.refuse_device(connection, way);
            broker.observe();
        };
        for number in 1..=3 {
            broker.health();
            refused(&mut broker, ONE);
            assert_eq!(broker.health().is_some(), number == 1 || number == 3, "refusal {way}, {number}");
        }
        broker.connect_device(ONE);
        broker.expect_available();

        // One that is connected shows that not everybody is refused.
        for _ in 0..5 {
            refused(&mut broker, TWO);
        }
        assert_eq!(broker.health(), None, "refusal {way}");
    }
}
