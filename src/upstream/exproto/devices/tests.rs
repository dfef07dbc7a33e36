//! The devices against a broker that is played by hand, in virtual time.

mod availability;
mod lifecycle;
mod nodes;
mod resuming;
mod superseding;

use std::net::Ipv4Addr;

use rand::SeedableRng;

use crate::upstream::LinkConfig;
use crate::upstream::client::test_values::{self, client};
use crate::upstream::client::{ClientTimer, DRAIN_TIMEOUT};
use crate::upstream::dialer::DialFailure;
use crate::upstream::exproto::Node;
use lwm2m_core::gateway::broker::{BrokerCommand, ConnectError, UplinkClass};

use super::*;

const ONE: RegistrationId = RegistrationId(1);
const TWO: RegistrationId = RegistrationId(2);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct ExProtoScene {
    now: Instant,
    devices: ExProtoDevices,
    metrics: Arc<UpstreamMetrics>,
    /// Where the anchors were to go.
    dialed: HashMap<ConnectionId, TargetId>,
    clientids: HashMap<RegistrationId, String>,
}

impl ExProtoScene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ExProtoConfig)) -> Self {
        let mut config = ExProtoConfig {
            ssl: crate::tls::TlsConfig::default(),
            nodes: vec![node("a")],
            adapter_connections: 1,
            handler_bind: (Ipv4Addr::LOCALHOST, 0).into(),
            proto_name: "exproto".to_owned(),
            link: LinkConfig {
                source_addresses: Vec::new(),
                connect_timeout: seconds(8),
                connections_per_second: 10,
                queue_per_device: 4,
                queue_total: 100,
                event_queue: 16,
            },
        };
        change(&mut config);
        let metrics = Arc::new(UpstreamMetrics::default());
        let devices = ExProtoDevices::new(&config, StdRng::seed_from_u64(1), Arc::clone(&metrics));
        Self { now: Instant::now(), devices, metrics, dialed: HashMap::new(), clientids: HashMap::new() }
    }

    /// With one device that is a client of the broker, with the conn `c1`.
    fn with_ready_device() -> (Self, ConnectionId) {
        let mut scene = Self::new();
        let anchor = scene.connect(ONE, "c1");
        (scene, anchor)
    }

    /// Takes a device from Connect to the answer of Subscribe.
    fn connect(&mut self, registration: RegistrationId, conn: &str) -> ConnectionId {
        self.command_connect(registration, &format!("ep{}", registration.0));
        let anchor = self.attempt(registration, conn);
        self.expect(&[ExProtoAction::Emit(BrokerEvent::Connected { registration })]);
        anchor
    }

    /// Plays a broker to which everything succeeds, from the dial on.
    fn attempt(&mut self, registration: RegistrationId, conn: &str) -> ConnectionId {
        let (anchor, token) = self.expect_dial();
        self.devices.dialed(self.now, anchor, Ok(()));
        self.socket_says(conn, &token.line());
        self.expect_authenticate(registration, anchor, conn);
        self.answer(anchor, CallOutcome::Done);
        self.expect_subscribe(registration, anchor, conn);
        self.answer(anchor, CallOutcome::Done);
        anchor
    }

    fn command_connect(&mut self, registration: RegistrationId, clientid: &str) {
        let client = self.client(registration, clientid);
        self.devices.command(self.now, BrokerCommand::Connect { registration, client });
    }

    fn command_resume(&mut self, registration: RegistrationId, clientid: &str) {
        let client = self.client(registration, clientid);
        self.devices.command(self.now, BrokerCommand::Resume { registration, client });
    }

    fn client(&mut self, registration: RegistrationId, clientid: &str) -> ClientInfo {
        self.clientids.insert(registration, clientid.to_owned());
        client(clientid)
    }

    fn publish(&mut self, registration: RegistrationId, topic: &str) {
        self.publish_as(registration, topic, UplinkClass::Answer);
    }

    fn publish_as(&mut self, registration: RegistrationId, topic: &str, class: UplinkClass) {
        let publication = publication(topic, class);
        self.devices.command(self.now, BrokerCommand::Publish { registration, publication });
    }

    fn disconnect(&mut self, registration: RegistrationId) {
        self.devices.command(self.now, BrokerCommand::Disconnect { registration });
    }

    fn socket_says(&mut self, conn: &str, bytes: &[u8]) {
        self.devices.heard(self.now, ExProtoEvent::SocketCreated);
        let event = ExProtoEvent::ReceivedBytes { conn: conn.to_owned(), bytes: bytes.to_vec() };
        self.devices.heard(self.now, event);
    }

    fn socket_closed(&mut self, conn: &str, reason: &str) {
        let event = ExProtoEvent::SocketClosed { conn: conn.to_owned(), reason: reason.to_owned() };
        self.devices.heard(self.now, event);
    }

    fn messages(&mut self, conn: &str, topics: &[&str]) {
        let messages =
            topics.iter().map(|topic| ExProtoMessage { topic: (*topic).to_owned(), payload: b"{}".to_vec() });
        let event = ExProtoEvent::ReceivedMessages { conn: conn.to_owned(), messages: messages.collect() };
        self.devices.heard(self.now, event);
    }

    fn answer(&mut self, anchor: ConnectionId, outcome: CallOutcome) {
        self.devices.called(self.now, self.dialed[&anchor], anchor, outcome);
    }

    /// A probe of a node that is down may be due, and nothing else.
    #[track_caller]
    fn expect_no_deadline(&self) {
        assert!(matches!(
            self.devices.deadlines.first(),
            None | Some((_, ClientTimer::Probe | ClientTimer::Protocol(_)))
        ));
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.devices.handle_timeout(self.now);
    }

    /// To the next deadline; gives how long it took.
    fn advance_to_deadline(&mut self) -> Duration {
        let before = self.now;
        self.now = self.devices.next_deadline().expect("a deadline");
        self.devices.handle_timeout(self.now);
        self.now - before
    }

    #[track_caller]
    fn expect(&mut self, expected: &[ExProtoAction]) {
        let actions: Vec<ExProtoAction> = std::iter::from_fn(|| self.devices.poll_action()).collect();
        assert_eq!(actions, expected);
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        self.expect(&[]);
    }

    #[track_caller]
    fn expect_dial(&mut self) -> (ConnectionId, AnchorToken) {
        let action = self.devices.poll_action();
        let Some(ExProtoAction::Dial { anchor, node, token }) = action else { panic!("no dial, but {action:?}") };
        self.dialed.insert(anchor, node);
        self.expect_nothing();
        (anchor, token)
    }

    #[track_caller]
    fn expect_authenticate(&mut self, registration: RegistrationId, anchor: ConnectionId, conn: &str) {
        let call = AdapterCall::Authenticate { conn: conn.to_owned(), client: client(&self.clientids[&registration]) };
        assert_eq!(self.devices.protocol.by_anchor.get(&anchor), Some(&AnchorOwner::Device(registration)));
        self.expect(&[ExProtoAction::Call { anchor, node: self.dialed[&anchor], call }]);
    }

    #[track_caller]
    fn expect_subscribe(&mut self, registration: RegistrationId, anchor: ConnectionId, conn: &str) {
        let call = AdapterCall::Subscribe {
            conn: conn.to_owned(),
            filter: format!("lwm2m/{}/dn", self.clientids[&registration]),
            qos: 1,
        };
        assert_eq!(self.devices.protocol.by_anchor.get(&anchor), Some(&AnchorOwner::Device(registration)));
        self.expect(&[ExProtoAction::Call { anchor, node: self.dialed[&anchor], call }]);
    }

    #[track_caller]
    fn expect_publish(&mut self, registration: RegistrationId, anchor: ConnectionId, topic: &str) {
        let action = self.devices.poll_action();
        let Some(ExProtoAction::Call { anchor: on, node, call: AdapterCall::Publish { publication, .. } }) = action
        else {
            panic!("no publish, but {action:?}")
        };
        assert_eq!((on, node, publication.topic.as_str()), (anchor, self.dialed[&anchor], topic));
        assert_eq!(self.devices.protocol.by_anchor.get(&anchor), Some(&AnchorOwner::Device(registration)));
        self.expect_nothing();
    }

    #[track_caller]
    fn expect_unavailable(&mut self, registration: RegistrationId) {
        let action = self.devices.poll_action();
        let Some(ExProtoAction::Emit(BrokerEvent::ConnectFailed {
            registration: failed,
            error: ConnectError::Unavailable(_),
        })) = action
        else {
            panic!("not unavailable, but {action:?}")
        };
        assert_eq!(failed, registration);
    }
}

fn node(name: &str) -> Node {
    Node { listeners: vec![name.to_owned()], adapter: String::new() }
}

fn publication(topic: &str, class: UplinkClass) -> Publication {
    test_values::publication(topic, 0, class)
}

fn message(registration: RegistrationId, topic: &str) -> ExProtoAction {
    ExProtoAction::Emit(BrokerEvent::Message {
        registration,
        topic: topic.to_owned(),
        payload: b"{}".to_vec(),
        properties: MessageProperties::default(),
    })
}

fn closed(registration: RegistrationId, reason: CloseReason) -> ExProtoAction {
    ExProtoAction::Emit(BrokerEvent::Closed { registration, reason })
}

fn hang_up(anchor: ConnectionId) -> ExProtoAction {
    ExProtoAction::HangUp { anchor }
}

fn not_reached() -> Result<(), DialFailure> {
    Err(DialFailure::NotReached("connection refused".to_owned()))
}

fn nothing_left() -> Result<(), DialFailure> {
    Err(DialFailure::Local("no file descriptor is left".to_owned()))
}

fn gone() -> CallOutcome {
    CallOutcome::ConnectionLost("Connection process is not alive".to_owned())
}

fn unreachable() -> CallOutcome {
    CallOutcome::Unreachable("connection refused".to_owned())
}

#[test]
fn the_broker_may_tell_the_token_before_the_dial_is_known_to_have_succeeded() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let (anchor, token) = scene.expect_dial();
    scene.socket_says("c1", &token.line());
    scene.expect_authenticate(ONE, anchor, "c1");
    scene.devices.dialed(scene.now, anchor, Ok(()));
    scene.expect_nothing();
    scene.answer(anchor, CallOutcome::Done);
    scene.expect_subscribe(ONE, anchor, "c1");
}

#[test]
fn unknown_connections_at_the_listener_are_counted_and_nothing_else() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    scene.expect_dial();
    scene.socket_says("other", b"GET / HTTP/1.1\r\n\r\n");
    scene.messages("other", &["a", "b"]);
    scene.socket_closed("other", "{shutdown,kicked}");
    scene.devices.heard(scene.now, ExProtoEvent::TimerTimeout);
    scene.expect_nothing();
    assert_eq!(scene.metrics.unknown_tokens.get(), 1);
    assert_eq!(scene.metrics.messages_dropped.get(), 2);
}

#[test]
fn a_device_that_the_broker_refuses_is_told_so_and_its_anchor_closed() {
    for refused_call in ["Authenticate", "Subscribe"] {
        let mut scene = ExProtoScene::new();
        scene.command_connect(ONE, "ep1");
        let (anchor, token) = scene.expect_dial();
        scene.socket_says("c1", &token.line());
        scene.expect_authenticate(ONE, anchor, "c1");
        if refused_call == "Subscribe" {
            scene.answer(anchor, CallOutcome::Done);
            scene.expect_subscribe(ONE, anchor, "c1");
        }
        scene.answer(anchor, CallOutcome::Refused("not_authorized".to_owned()));
        let error = ConnectError::Refused(format!("{refused_call}: not_authorized"));
        scene.expect(&[ExProtoAction::Emit(BrokerEvent::ConnectFailed { registration: ONE, error }), hang_up(anchor)]);
        assert!(scene.devices.is_empty());
        assert_eq!(scene.devices.next_deadline(), None);
    }
}

/// What can go wrong in each state of a first connect.
#[test]
fn a_first_connect_that_is_lost_on_its_way_is_unavailable_at_once() {
    type Break = fn(&mut ExProtoScene, ConnectionId);
    let eof: Break = |scene, anchor| scene.devices.anchor_ended(scene.now, anchor);
    let told: Break = |scene, _| scene.socket_closed("c1", "{shutdown,tcp_closed}");
    let kicked: Break = |scene, _| scene.socket_closed("c1", "{shutdown,kicked}");
    let dead: Break = |scene, anchor| scene.answer(anchor, gone());
    let away: Break = |scene, anchor| scene.answer(anchor, unreachable());
    let crash: Break = |scene, anchor| scene.answer(anchor, CallOutcome::Failed("Internal".to_owned()));
    let mistake: Break = |scene, anchor| scene.answer(anchor, CallOutcome::Rejected("params".to_owned()));
    let silence: Break = |scene, _| scene.advance(seconds(8));
    let refused: Break = |scene, anchor| scene.devices.dialed(scene.now, anchor, not_reached());

    let calls = vec![eof, told, kicked, dead, away, crash, mistake, silence];
    let faults = [
        ("Dialing", vec![refused, silence]),
        ("Announced", vec![eof, silence]),
        ("Authenticating", calls.clone()),
        ("Subscribing", calls),
    ];
    for (state, fault) in faults.iter().flat_map(|(state, faults)| faults.iter().map(move |fault| (*state, fault))) {
        let mut scene = ExProtoScene::new();
        scene.command_connect(ONE, "ep1");
        let (anchor, token) = scene.expect_dial();
        if state != "Dialing" {
            scene.devices.dialed(scene.now, anchor, Ok(()));
        }
        if ["Authenticating", "Subscribing"].contains(&state) {
            scene.socket_says("c1", &token.line());
            scene.expect_authenticate(ONE, anchor, "c1");
        }
        if state == "Subscribing" {
            scene.answer(anchor, CallOutcome::Done);
            scene.expect_subscribe(ONE, anchor, "c1");
        }

        fault(&mut scene, anchor);
        scene.expect_unavailable(ONE);
        scene.expect(&[hang_up(anchor)]);
        assert!(scene.devices.is_empty());
        scene.expect_no_deadline();

        // What comes late finds nothing.
        scene.answer(anchor, CallOutcome::Done);
        scene.socket_says("c1", &token.line());
        scene.expect_nothing();
    }
}

#[test]
fn one_publication_is_under_way_at_a_time_and_order_is_kept() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchor, "a");
    scene.publish(ONE, "b");
    scene.publish(ONE, "c");
    scene.expect_nothing();
    for next in ["b", "c"] {
        scene.answer(anchor, CallOutcome::Done);
        scene.expect_publish(ONE, anchor, next);
    }
    scene.answer(anchor, CallOutcome::Done);
    scene.expect_nothing();
    assert_eq!(scene.devices.next_deadline(), None);
    assert_eq!(scene.metrics.publishes_ok.get(), 3);
}

#[test]
fn devices_publish_side_by_side() {
    let (mut scene, first) = ExProtoScene::with_ready_device();
    let second = scene.connect(TWO, "c2");
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, first, "a");
    scene.publish(TWO, "b");
    scene.expect_publish(TWO, second, "b");
    scene.answer(second, CallOutcome::Done);
    scene.expect_nothing();
}

#[test]
fn a_publication_that_is_not_allowed_is_told_and_the_next_one_goes() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchor, "a");
    scene.publish(ONE, "b");
    scene.answer(anchor, CallOutcome::Refused("Authorization deny".to_owned()));
    assert_eq!(
        scene.devices.poll_action(),
        Some(ExProtoAction::Emit(BrokerEvent::PublishRefused { registration: ONE, topic: "a".to_owned() }))
    );
    scene.expect_publish(ONE, anchor, "b");
}

#[test]
fn a_publication_that_the_broker_takes_for_a_mistake_is_dropped_and_the_next_one_goes() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchor, "a");
    scene.publish(ONE, "b");
    scene.answer(anchor, CallOutcome::Rejected("PARAMS_TYPE_ERROR".to_owned()));
    scene.expect_publish(ONE, anchor, "b");
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn a_full_queue_drops_by_class_and_counts_what_it_drops() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish_as(ONE, "under way", UplinkClass::Notification);
    scene.expect_publish(ONE, anchor, "under way");
    for topic in ["n1", "n2", "n3", "n4"] {
        scene.publish_as(ONE, topic, UplinkClass::Notification);
    }
    scene.publish_as(ONE, "answer", UplinkClass::Answer);
    for next in ["n3", "n4", "answer"] {
        scene.answer(anchor, CallOutcome::Done);
        scene.expect_publish(ONE, anchor, next);
    }
    assert_eq!(scene.metrics.dropped_notifications.get(), 2);
    assert_eq!(scene.metrics.dropped_answers.get(), 0);
}

#[test]
fn commands_come_one_by_one_in_order() {
    let (mut scene, _) = ExProtoScene::with_ready_device();
    scene.messages("c1", &["a", "b"]);
    scene.messages("c1", &["c"]);
    scene.expect(&[message(ONE, "a"), message(ONE, "b"), message(ONE, "c")]);
}

#[test]
fn commands_that_overtake_the_answer_to_subscribe_come_after_connected() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let (anchor, token) = scene.expect_dial();
    scene.socket_says("c1", &token.line());
    scene.expect_authenticate(ONE, anchor, "c1");
    scene.answer(anchor, CallOutcome::Done);
    scene.expect_subscribe(ONE, anchor, "c1");
    let topics: Vec<String> = (0..EARLY_MESSAGES + 2).map(|number| number.to_string()).collect();
    scene.messages("c1", &topics.iter().map(String::as_str).collect::<Vec<_>>());
    scene.expect_nothing();

    scene.answer(anchor, CallOutcome::Done);
    let kept = topics[..EARLY_MESSAGES].iter().map(|topic| message(ONE, topic));
    let connected = ExProtoAction::Emit(BrokerEvent::Connected { registration: ONE });
    scene.expect(&std::iter::once(connected).chain(kept).collect::<Vec<_>>());
    assert_eq!(scene.metrics.messages_dropped.get(), 2);
}

#[test]
fn what_comes_before_a_first_subscribe_is_no_command_and_dropped() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let (anchor, token) = scene.expect_dial();
    scene.socket_says("c1", &token.line());
    scene.expect_authenticate(ONE, anchor, "c1");
    scene.messages("c1", &["a", "b"]);
    scene.expect_nothing();
    scene.answer(anchor, CallOutcome::Done);
    scene.expect_subscribe(ONE, anchor, "c1");
    assert_eq!(scene.metrics.messages_dropped.get(), 2);
}

#[test]
fn what_the_broker_ends_by_its_will_stays_ended() {
    let reasons = [
        ("{shutdown,kicked}", CloseReason::Kicked),
        ("{shutdown,discarded}", CloseReason::Discarded),
        ("{shutdown,expired}", CloseReason::Expired),
    ];
    for (text, reason) in reasons {
        let (mut scene, anchor) = ExProtoScene::with_ready_device();
        scene.publish(ONE, "a");
        scene.expect_publish(ONE, anchor, "a");
        scene.socket_closed("c1", text);
        scene.expect(&[closed(ONE, reason), hang_up(anchor)]);
        scene.devices.anchor_ended(scene.now, anchor);
        scene.answer(anchor, gone());
        scene.publish(ONE, "b");
        scene.expect_nothing();
        assert!(scene.devices.is_empty());
        assert_eq!(scene.devices.next_deadline(), None);
        assert_eq!(scene.metrics.dropped_answers.get(), 2);
    }
}

#[test]
fn the_reason_may_come_after_the_end_of_the_anchor() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.devices.anchor_ended(scene.now, anchor);
    scene.expect(&[hang_up(anchor)]);
    scene.advance(Duration::from_millis(900));
    scene.socket_closed("c1", "{shutdown,kicked}");
    scene.expect(&[closed(ONE, CloseReason::Kicked)]);
    assert_eq!(scene.devices.next_deadline(), None);
}

#[test]
fn the_reason_of_the_connection_before_is_heard_until_there_is_a_new_one() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.devices.anchor_ended(scene.now, anchor);
    scene.expect(&[hang_up(anchor)]);
    scene.advance_to_deadline();
    let (anchor, token) = scene.expect_dial();
    scene.socket_closed("c1", "{shutdown,tcp_closed}");
    scene.expect_nothing();
    scene.socket_says("c2", &token.line());
    scene.expect_authenticate(ONE, anchor, "c2");
    // By the new connection itself.
    scene.socket_closed("c1", "{shutdown,discarded}");
    scene.expect_nothing();
}

/// Each way in which a connection of a connected device can be lost: it comes back, and the device notices nothing.
#[test]
fn a_lost_connection_is_made_again_and_what_was_under_way_is_sent_again() {
    type Break = fn(&mut ExProtoScene, ConnectionId);
    let faults: [Break; 6] = [
        |scene, anchor| scene.devices.anchor_ended(scene.now, anchor),
        |scene, _| scene.socket_closed("c1", "{shutdown,tcp_closed}"),
        |scene, _| scene.socket_closed("c1", "{shutdown,normal}"),
        |scene, anchor| scene.answer(anchor, gone()),
        |scene, anchor| scene.answer(anchor, CallOutcome::Failed("Internal".to_owned())),
        |scene, _| scene.advance(PUBLISH_TIMEOUT),
    ];
    for fault in faults {
        let (mut scene, anchor) = ExProtoScene::with_ready_device();
        scene.publish(ONE, "a");
        scene.expect_publish(ONE, anchor, "a");
        fault(&mut scene, anchor);
        scene.expect(&[hang_up(anchor)]);
        scene.publish(ONE, "b");
        scene.answer(anchor, gone());
        scene.expect_nothing();

        let waited = scene.advance_to_deadline();
        assert!((seconds(1)..=seconds(2)).contains(&waited), "{waited:?}");
        let again = scene.attempt(ONE, "c2");
        scene.expect_publish(ONE, again, "a");
        scene.answer(again, CallOutcome::Done);
        scene.expect_publish(ONE, again, "b");
        assert_eq!(scene.metrics.connections_lost.get(), 1);
        assert_eq!(scene.metrics.reconnected.get(), 1);
    }
}

#[test]
fn a_publication_that_ends_its_connection_every_time_is_given_up() {
    let (mut scene, mut anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "poison");
    scene.publish(ONE, "good");
    for conn in ["c2", "c3", "c4"] {
        scene.expect_publish(ONE, anchor, "poison");
        scene.devices.anchor_ended(scene.now, anchor);
        scene.expect(&[hang_up(anchor)]);
        scene.answer(anchor, gone());
        scene.advance_to_deadline();
        anchor = scene.attempt(ONE, conn);
    }
    scene.expect_publish(ONE, anchor, "good");
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn attempts_to_come_back_are_repeated_with_a_growing_back_off_whatever_fails() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.devices.anchor_ended(scene.now, anchor);
    scene.expect(&[hang_up(anchor)]);
    type Break = fn(&mut ExProtoScene, ConnectionId);
    let faults: [(u32, Break); 4] = [
        (2, |scene, anchor| scene.devices.anchor_ended(scene.now, anchor)),
        (4, |scene, _| scene.advance(seconds(8))),
        (8, |scene, anchor| scene.answer(anchor, gone())),
        (16, |scene, anchor| scene.answer(anchor, CallOutcome::Failed("Internal".to_owned()))),
    ];
    let first = scene.advance_to_deadline();
    assert!(first >= seconds(1) && first <= seconds(2), "{first:?}");
    for (number, (least, fault)) in faults.into_iter().enumerate() {
        let conn = format!("again{number}");
        let (anchor, token) = scene.expect_dial();
        scene.devices.dialed(scene.now, anchor, Ok(()));
        if number > 0 {
            scene.socket_says(&conn, &token.line());
            scene.expect_authenticate(ONE, anchor, &conn);
        }
        fault(&mut scene, anchor);
        scene.expect(&[hang_up(anchor)]);
        let waited = scene.advance_to_deadline();
        let least = seconds(least.min(15).into());
        assert!(waited >= least && waited <= (least * 2).min(seconds(30)), "{waited:?} after {number}");
    }
    scene.attempt(ONE, "at last");
    scene.expect_nothing();
}

#[test]
fn a_device_that_leaves_publishes_what_it_has_and_is_not_heard_of_any_more() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchor, "a");
    scene.publish(ONE, "b");
    scene.disconnect(ONE);
    scene.messages("c1", &["command"]);
    scene.publish(ONE, "after the end");
    scene.answer(anchor, CallOutcome::Refused("Authorization deny".to_owned()));
    scene.expect_publish(ONE, anchor, "b");
    scene.answer(anchor, CallOutcome::Done);
    scene.expect(&[hang_up(anchor)]);
    assert!(scene.devices.is_empty());
    assert_eq!(scene.devices.next_deadline(), None);
}

#[test]
fn last_words_have_five_seconds_also_on_a_connection_that_has_to_be_made_again() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchor, "a");
    scene.disconnect(ONE);
    scene.devices.anchor_ended(scene.now, anchor);
    scene.expect(&[hang_up(anchor)]);
    scene.answer(anchor, gone());
    scene.advance_to_deadline();
    let anchor = scene.attempt(ONE, "c2");
    scene.expect_publish(ONE, anchor, "a");
    scene.advance(DRAIN_TIMEOUT);
    scene.expect(&[hang_up(anchor)]);
    assert!(scene.devices.is_empty());
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn nothing_is_published_when_the_time_to_leave_and_the_wait_for_a_lost_call_end_together() {
    let (mut scene, anchor) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchor, "a");
    scene.devices.anchor_ended(scene.now, anchor);
    scene.expect(&[hang_up(anchor)]);
    scene.advance_to_deadline();
    let anchor = scene.attempt(ONE, "c2");
    // The call on the first connection has no answer yet.
    scene.expect_nothing();
    scene.disconnect(ONE);
    scene.advance(DRAIN_TIMEOUT);
    scene.expect(&[hang_up(anchor)]);
    assert!(scene.devices.is_empty());
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn a_new_device_of_the_same_clientid_lets_the_older_one_finish() {
    let (mut scene, older) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "last words");
    scene.expect_publish(ONE, older, "last words");
    scene.disconnect(ONE);
    scene.command_connect(TWO, "ep1");
    scene.expect_nothing();
    scene.answer(older, CallOutcome::Done);
    assert_eq!(scene.devices.poll_action(), Some(hang_up(older)));
    scene.attempt(TWO, "c2");
    scene.expect(&[ExProtoAction::Emit(BrokerEvent::Connected { registration: TWO })]);
}

#[test]
fn an_older_device_that_cannot_finish_gives_way() {
    let (mut scene, older) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "last words");
    scene.expect_publish(ONE, older, "last words");
    scene.disconnect(ONE);
    scene.command_connect(TWO, "ep1");
    scene.devices.anchor_ended(scene.now, older);
    assert_eq!(scene.devices.poll_action(), Some(hang_up(older)));
    scene.attempt(TWO, "c2");
    scene.expect(&[ExProtoAction::Emit(BrokerEvent::Connected { registration: TWO })]);
}

#[test]
fn an_endpoint_whose_clientid_another_one_takes_is_discarded() {
    let (mut scene, older) = ExProtoScene::with_ready_device();
    let other = ClientInfo { endpoint: "other".to_owned(), ..scene.client(TWO, "ep1") };
    scene.devices.command(scene.now, BrokerCommand::Connect { registration: TWO, client: other });
    let (anchor, token) = scene.expect_dial();
    scene.socket_says("c2", &token.line());
    scene.devices.poll_action().expect("Authenticate");
    scene.socket_closed("c1", "{shutdown,discarded}");
    scene.expect(&[hang_up(older)]);
    scene.answer(anchor, CallOutcome::Done);
    scene.devices.poll_action().expect("Subscribe");
    scene.answer(anchor, CallOutcome::Done);
    let connected = ExProtoAction::Emit(BrokerEvent::Connected { registration: TWO });
    scene.expect(&[connected, closed(ONE, CloseReason::Discarded)]);
}
