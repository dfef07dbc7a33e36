//! A device that registers again while its older registration is connected, or on its way.

use super::*;

/// Connects a device that registers again. Its older connection ends in this way before the newer one is accepted.
fn superseded<B: LifecycleBroker>(end: fn(&mut B, ConnectionId)) -> (B, ConnectionId) {
    let mut broker = B::new();
    let older = broker.connect_device(ONE);
    broker.connect(TWO, client("ep1"));
    let newer = broker.expect_dial();
    broker.open(newer);
    end(&mut broker, older);
    broker.expect(&[Observed::HungUp(older)]);
    (broker, newer)
}

pub(crate) fn a_registration_that_waits_to_reconnect_never_dials_after_its_successor_which_publishes_its_answer<
    B: LifecycleBroker,
>() {
    for end in [B::lose, B::take_over] {
        let (mut broker, newer) = superseded::<B>(end);
        broker.publish(ONE, "answer");
        broker.expect(&[]);
        broker.grant(newer);
        broker.expect(&[connected(TWO), Observed::Published(newer, "answer".to_owned())]);
        broker.disconnect(ONE);
        broker.publish(TWO, "register");
        broker.expect(&[]);
        broker.acknowledge(newer);
        broker.expect(&[Observed::Published(newer, "register".to_owned())]);
        broker.acknowledge(newer);
        broker.advance(Duration::from_secs(60));
        broker.expect(&[]);
        let metrics = broker.metrics();
        assert_eq!(
            (metrics.dropped_answers.get(), metrics.dropped_registrations.get(), metrics.closed.get()),
            (0, 0, 0)
        );
    }
}

pub(crate) fn the_end_of_the_older_connection_ends_no_registration<B: LifecycleBroker>() {
    for end in [B::lose, B::take_over] {
        let (mut broker, newer) = superseded::<B>(end);
        broker.grant(newer);
        broker.expect(&[connected(TWO)]);
        broker.disconnect(ONE);
        broker.advance(Duration::from_secs(60));
        broker.expect(&[]);
        assert_eq!(broker.metrics().closed.get(), 0);
    }
}
