//! What the lifecycle of a device promises over both upstreams. Each test runs once per upstream, against a broker that
//! [`LifecycleBroker`] plays in virtual time. What only one protocol has is tested in its own module.

mod availability;
mod probing;
mod superseding;

pub(crate) use availability::*;
pub(crate) use probing::*;
pub(crate) use superseding::*;

use std::time::{Duration, Instant};

use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ClientInfo, CloseReason, Publication, RegistrationId, Ticket, UplinkClass,
};

use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::test_values::client;
use crate::upstream::client::{Devices, Protocol};
use crate::upstream::metrics::UpstreamMetrics;

const ONE: RegistrationId = RegistrationId(1);
const TWO: RegistrationId = RegistrationId(2);

/// Lists what a broker and the core see of the devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// A device opens a connection.
    Dialed(ConnectionId),
    /// The gateway has closed a connection.
    HungUp(ConnectionId),
    /// A publication on this topic has arrived and has no answer.
    Published(ConnectionId, String),
    Told(BrokerEvent),
}

/// The end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeEnd {
    Served,
    /// Nobody listens.
    NotReached,
    /// The broker closes the connection at once.
    Closed,
    /// The connection cannot be opened, because this machine has no file descriptor left.
    NoDescriptor,
}

/// Plays a broker for the devices of one upstream. At most ten devices reconnect in a second.
pub(crate) trait LifecycleBroker {
    type Protocol: Protocol;

    /// The number of ways to refuse a device: [`refuse_device`](Self::refuse_device).
    const REFUSALS: usize;
    /// What the health says when nothing is wrong.
    const AVAILABLE: &str;

    fn new() -> Self;
    fn devices(&mut self) -> &mut Devices<Self::Protocol>;
    fn now(&self) -> Instant;
    fn metrics(&self) -> &UpstreamMetrics;
    fn publication(topic: &str) -> Publication;
    fn command(&mut self, command: BrokerCommand);
    /// Lets the time pass, and handles the deadlines that expire at its end.
    fn advance(&mut self, time: Duration);
    fn next_deadline(&self) -> Option<Instant>;
    /// Accepts a connection, and answers nothing that is asked on it.
    fn open(&mut self, connection: ConnectionId);
    /// Grants what was asked on a connection that was opened, and whatever follows, up to the subscription.
    fn grant(&mut self, connection: ConnectionId);
    /// Accepts a connection, and refuses the device on it. Each number up to [`REFUSALS`](Self::REFUSALS) is a way of
    /// its own: the connect or the subscription, with each reason that counts as a refusal.
    fn refuse_device(&mut self, connection: ConnectionId, way: usize);
    /// Accepts a connection, and says that the broker cannot decide about the device now.
    fn fail_device(&mut self, connection: ConnectionId);
    /// Nobody listens where the connection goes.
    fn fail_dial(&mut self, connection: ConnectionId);
    /// The connection cannot be opened, because this machine has no file descriptor left.
    fn lack_descriptor(&mut self, connection: ConnectionId);
    /// Ends a connection because another one has taken its client ID.
    fn take_over(&mut self, connection: ConnectionId);
    fn probe_all(&mut self);
    /// Returns whether a probe has begun and not ended.
    fn is_probed(&mut self) -> bool;
    fn end_probe(&mut self, end: ProbeEnd);
    /// A probe of the broker, which was unavailable, succeeds within a second.
    fn recover(&mut self);
    /// Returns the device that opens this connection.
    fn owner(&self, connection: ConnectionId) -> RegistrationId;
    /// Takes the publication that has no answer.
    fn acknowledge(&mut self, connection: ConnectionId);
    /// Refuses the publication that has no answer: its client may not publish it.
    fn refuse(&mut self, connection: ConnectionId);
    fn lose(&mut self, connection: ConnectionId);
    /// Returns what has happened since the last call.
    fn observe(&mut self) -> Vec<Observed>;

    /// Accepts a connection and whatever is asked on it, up to the subscription.
    fn accept(&mut self, connection: ConnectionId) {
        self.open(connection);
        self.grant(connection);
    }

    fn connect(&mut self, registration: RegistrationId, client: ClientInfo) {
        self.command(BrokerCommand::Connect { registration, client });
    }

    fn resume(&mut self, registration: RegistrationId) {
        let client = client(&format!("ep{}", registration.0));
        self.command(BrokerCommand::Resume { registration, client });
    }

    fn publish(&mut self, registration: RegistrationId, topic: &str) {
        self.command(BrokerCommand::Publish { registration, publication: Self::publication(topic) });
    }

    fn disconnect(&mut self, registration: RegistrationId) {
        self.command(BrokerCommand::Disconnect { registration });
    }

    #[track_caller]
    fn expect(&mut self, expected: &[Observed]) {
        assert_eq!(self.observe(), expected);
    }

    #[track_caller]
    fn expect_dial(&mut self) -> ConnectionId {
        let observed = self.observe();
        let [Observed::Dialed(connection)] = observed.as_slice() else { panic!("no dial, but {observed:?}") };
        *connection
    }

    /// Lets the time pass up to the next dial. Nothing else happens before it.
    #[track_caller]
    fn next_dial(&mut self) -> ConnectionId {
        loop {
            self.advance_to_deadline();
            let observed = self.observe();
            if let [Observed::Dialed(connection)] = observed.as_slice() {
                return *connection;
            }
            assert_eq!(observed, [], "no dial");
        }
    }

    /// Returns the connections that were dialed since the last call. Nothing else has happened.
    #[track_caller]
    fn dials(&mut self) -> Vec<ConnectionId> {
        let dialed = self.observe().into_iter().map(|observed| match observed {
            Observed::Dialed(connection) => connection,
            Observed::HungUp(_) | Observed::Published(..) | Observed::Told(_) => panic!("no dial, but {observed:?}"),
        });
        dialed.collect()
    }

    /// Connects these devices, `1..=count`, each with a client ID of its own.
    fn connect_devices(&mut self, count: u64) -> Vec<ConnectionId> {
        (1..=count).map(|id| self.connect_device(RegistrationId(id))).collect()
    }

    /// Loses these connections, each of which is closed.
    #[track_caller]
    fn lose_all(&mut self, connections: &[ConnectionId]) {
        for connection in connections {
            self.lose(*connection);
            self.expect(&[Observed::HungUp(*connection)]);
        }
    }

    /// Ends the probe that has begun.
    #[track_caller]
    fn probe(&mut self, end: ProbeEnd) {
        assert!(self.is_probed(), "no probe has begun");
        self.end_probe(end);
    }

    /// Returns whether the broker serves, and the detail, if they have changed.
    fn health(&mut self) -> Option<(bool, String)> {
        self.devices().take_health().map(|health| (health.serving, health.detail))
    }

    #[track_caller]
    fn expect_available(&mut self) {
        assert_eq!(self.health(), Some((true, Self::AVAILABLE.to_owned())));
    }

    /// Returns how many brokers are unavailable, and how often one has become so.
    fn unavailable(&mut self) -> (usize, u64) {
        (self.devices().table_sizes().nodes_unavailable, self.metrics().nodes_failed.get())
    }

    /// Connects a device with a client ID of its own.
    fn connect_device(&mut self, registration: RegistrationId) -> ConnectionId {
        self.connect(registration, client(&format!("ep{}", registration.0)));
        let connection = self.expect_dial();
        self.accept(connection);
        self.expect(&[connected(registration)]);
        connection
    }

    fn advance_to_deadline(&mut self) -> Duration {
        let time = self.next_deadline().expect("a deadline").saturating_duration_since(self.now());
        self.advance(time);
        time
    }

    /// Lets this much time pass, deadline by deadline. Returns when each dial came, and accepts none.
    fn dials_within(&mut self, time: Duration) -> Vec<(Duration, ConnectionId)> {
        self.dials_while(time, |_, _| {})
    }

    /// The same while nobody listens: each dial and each probe fails.
    fn dials_in_vain(&mut self, time: Duration) -> Vec<(Duration, ConnectionId)> {
        self.dials_while(time, |broker, dialed| {
            dialed.iter().for_each(|connection| broker.fail_dial(*connection));
            if broker.is_probed() {
                broker.end_probe(ProbeEnd::NotReached);
            }
            broker.observe();
        })
    }

    fn dials_while(
        &mut self,
        time: Duration,
        answer: impl Fn(&mut Self, &[ConnectionId]),
    ) -> Vec<(Duration, ConnectionId)> {
        let (begin, mut dials) = (self.now(), Vec::new());
        let end = begin + time;
        while self.next_deadline().is_some_and(|at| at <= end) {
            self.advance_to_deadline();
            let at = self.now() - begin;
            let dialed = self.observe().into_iter().filter_map(|observed| match observed {
                Observed::Dialed(connection) => Some(connection),
                Observed::HungUp(_) | Observed::Published(..) | Observed::Told(_) => None,
            });
            let dialed: Vec<ConnectionId> = dialed.collect();
            answer(self, &dialed);
            dials.extend(dialed.into_iter().map(|connection| (at, connection)));
        }
        let rest = end - self.now();
        self.advance(rest);
        dials
    }
}

fn connected(registration: RegistrationId) -> Observed {
    Observed::Told(BrokerEvent::Connected { registration })
}

pub(crate) fn a_device_is_connected_when_its_command_topic_is_subscribed<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.connect_device(ONE);
    broker.expect(&[]);
    assert_eq!(broker.metrics().connected.get(), 1);
}

pub(crate) fn a_disconnect_before_the_end_of_connect_is_the_end_of_it<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.connect(ONE, client("ep1"));
    let connection = broker.expect_dial();
    broker.publish(ONE, "a");
    broker.command(BrokerCommand::Disconnect { registration: ONE });
    broker.expect(&[Observed::HungUp(connection)]);
    broker.accept(connection);
    broker.expect(&[]);
    assert_eq!(broker.metrics().dropped_answers.get(), 1);
}

pub(crate) fn who_waits_for_a_publication_is_told_when_it_is_taken<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connection = broker.connect_device(ONE);
    let ticket = Ticket(7);
    let publication = Publication { ticket: Some(ticket), ..B::publication("a") };
    broker.command(BrokerCommand::Publish { registration: ONE, publication });
    broker.expect(&[Observed::Published(connection, "a".to_owned())]);
    broker.acknowledge(connection);
    broker.expect(&[Observed::Told(BrokerEvent::Published { registration: ONE, ticket })]);
}

pub(crate) fn who_waits_for_a_publication_is_told_that_it_is_refused<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connection = broker.connect_device(ONE);
    let ticket = Ticket(7);
    let notification = Publication { ticket: Some(ticket), class: UplinkClass::Notification, ..B::publication("a") };
    broker.command(BrokerCommand::Publish { registration: ONE, publication: notification });
    broker.expect(&[Observed::Published(connection, "a".to_owned())]);
    broker.refuse(connection);
    broker.expect(&[
        Observed::Told(BrokerEvent::Unpublished { registration: ONE, ticket }),
        Observed::Told(BrokerEvent::PublishRefused { registration: ONE, topic: "a".to_owned() }),
    ]);
}

pub(crate) fn what_is_published_while_the_connection_is_away_arrives_in_order_on_the_next_one<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connection = broker.connect_device(ONE);
    broker.lose(connection);
    broker.expect(&[Observed::HungUp(connection)]);
    broker.publish(ONE, "a");
    broker.publish(ONE, "b");
    broker.expect(&[]);
    let waited = broker.advance_to_deadline();
    assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&waited), "{waited:?}");
    let again = broker.expect_dial();
    broker.accept(again);
    let mut arrived = Vec::new();
    for _ in 0..2 {
        arrived.extend(broker.observe());
        broker.acknowledge(again);
    }
    let expected = ["a", "b"].map(|topic| Observed::Published(again, topic.to_owned()));
    assert_eq!(arrived, expected);
    assert_eq!((broker.metrics().connections_lost.get(), broker.metrics().reconnected.get()), (1, 1));
}

pub(crate) fn devices_come_back_so_many_in_a_second<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connections: Vec<_> = (1..=20).map(|id| broker.connect_device(RegistrationId(id))).collect();
    connections.into_iter().for_each(|connection| broker.lose(connection));
    broker.observe();
    let dials = broker.dials_within(Duration::from_secs(4));
    assert_eq!(dials.len(), 20, "{dials:?}");
    for ((earlier, _), (later, _)) in dials.iter().zip(&dials[1..]) {
        assert!(*later - *earlier >= Duration::from_millis(100), "{dials:?}");
    }
}

pub(crate) fn a_device_that_leaves_with_nothing_to_say_is_gone_at_once<B: LifecycleBroker>() {
    let mut broker = B::new();
    let connection = broker.connect_device(ONE);
    broker.command(BrokerCommand::Disconnect { registration: ONE });
    broker.expect(&[Observed::HungUp(connection)]);
    assert_eq!(broker.next_deadline(), None);
}

pub(crate) fn an_endpoint_whose_clientid_another_one_takes_is_discarded<B: LifecycleBroker>() {
    let mut broker = B::new();
    let older = broker.connect_device(ONE);
    broker.connect(TWO, ClientInfo { endpoint: "other".to_owned(), ..client("ep1") });
    let newer = broker.expect_dial();
    broker.accept(newer);
    let discarded = BrokerEvent::Closed { registration: ONE, reason: CloseReason::Discarded };
    broker.expect(&[connected(TWO), Observed::Told(discarded), Observed::HungUp(older)]);
}

pub(crate) fn devices_of_an_earlier_process_are_connected_again_at_the_limited_rate<B: LifecycleBroker>() {
    let mut broker = B::new();
    (1..=3).for_each(|id| broker.resume(RegistrationId(id)));
    for id in 1..=3 {
        let connection = broker.expect_dial();
        broker.accept(connection);
        broker.expect(&[connected(RegistrationId(id))]);
        if id < 3 {
            broker.advance(Duration::from_millis(100));
        }
    }
    assert_eq!((broker.metrics().connected.get(), broker.metrics().reconnected.get()), (0, 3));
}

pub(crate) fn a_device_of_an_earlier_process_that_is_disconnected_before_its_turn_is_forgotten<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.resume(ONE);
    broker.expect_dial();
    broker.resume(TWO);
    broker.command(BrokerCommand::Disconnect { registration: TWO });
    broker.advance(Duration::from_secs(1));
    broker.expect(&[]);
}

pub(crate) fn a_device_of_an_earlier_process_is_told_as_connected_once<B: LifecycleBroker>() {
    let mut broker = B::new();
    broker.resume(ONE);
    let connection = broker.expect_dial();
    broker.accept(connection);
    broker.expect(&[connected(ONE)]);
    broker.lose(connection);
    broker.expect(&[Observed::HungUp(connection)]);
    broker.advance_to_deadline();
    let again = broker.expect_dial();
    broker.accept(again);
    broker.expect(&[]);
}

/// Makes a test of each function, for one upstream.
macro_rules! lifecycle_tests {
    ($broker:ty: $($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                $crate::upstream::client::lifecycle_tests::$name::<$broker>();
            }
        )+
    };
    ($broker:ty) => {
        $crate::upstream::client::lifecycle_tests::lifecycle_tests! {
            $broker:
            a_device_is_connected_when_its_command_topic_is_subscribed,
            a_disconnect_before_the_end_of_connect_is_the_end_of_it,
            who_waits_for_a_publication_is_told_when_it_is_taken,
            who_waits_for_a_publication_is_told_that_it_is_refused,
            what_is_published_while_the_connection_is_away_arrives_in_order_on_the_next_one,
            devices_come_back_so_many_in_a_second,
            a_device_that_leaves_with_nothing_to_say_is_gone_at_once,
            an_endpoint_whose_clientid_another_one_takes_is_discarded,
            devices_of_an_earlier_process_are_connected_again_at_the_limited_rate,
            a_device_of_an_earlier_process_that_is_disconnected_before_its_turn_is_forgotten,
            a_device_of_an_earlier_process_is_told_as_connected_once,
            a_broker_without_devices_is_probed_all_the_time_and_its_end_is_noticed,
            a_broker_that_closes_probes_at_once_is_unavailable_the_third_time,
            a_probe_that_finds_no_descriptor_says_nothing_of_the_broker,
            a_dial_that_finds_no_descriptor_says_nothing_of_the_broker,
            a_probe_that_succeeds_connects_the_device_that_was_active_last_at_once_and_the_others_in_their_turn,
            a_device_that_says_something_while_it_waits_comes_earlier,
            devices_whose_turn_was_near_when_the_broker_went_again_do_not_wait_longer_for_it,
            a_client_that_is_refused_when_it_comes_back_is_closed_when_that_lasts_while_others_are_served,
            a_refusal_counts_from_the_first_one_since_the_broker_was_unavailable,
            a_client_that_is_refused_with_everybody_stays_registered_and_comes_back_when_one_is_accepted,
            refusals_of_new_devices_are_told_when_all_of_the_last_three_were_refused_and_none_is_connected,
            a_registration_that_waits_to_reconnect_never_dials_after_its_successor_which_publishes_its_answer,
            the_end_of_the_older_connection_ends_no_registration,
        }
    };
}

pub(in crate::upstream) use lifecycle_tests;
