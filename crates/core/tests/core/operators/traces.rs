//! Traces in virtual time: copies of the messages of a device, an address or an identity.

use std::time::Duration;

use lwm2m_base::Peer;
use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, DatagramOutcome, DropReason, Kind, Message, MessageId};
use lwm2m_core::gateway::broker::{BrokerEvent, ConnectError};
use lwm2m_core::gateway::operators::trace::{
    Direction, MESSAGES_PER_SECOND, TRACES, TraceId, TraceTarget, Traced, TracedEvent, TracedMessage,
};
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{PASSWORD, QUERY, Scene, observe, peer, read};

const TRACE: TraceId = TraceId(1);

fn begin(scene: &mut Scene, target: TraceTarget) {
    assert!(scene.gateway.trace(scene.now, TRACE, target));
}

fn by_endpoint(endpoint: &str) -> TraceTarget {
    TraceTarget::Endpoint(endpoint.to_owned())
}

fn by_address(peer: Peer) -> TraceTarget {
    TraceTarget::Address(peer.address.ip())
}

fn traced(scene: &mut Scene) -> Vec<Traced> {
    std::iter::from_fn(|| scene.gateway.poll_trace()).collect()
}

fn messages(traced: &[Traced]) -> Vec<&TracedMessage> {
    let message = |traced| match traced {
        &Traced { event: TracedEvent::Message(ref message), .. } => Some(&**message),
        Traced { event: TracedEvent::Report { .. }, .. } => None,
    };
    traced.iter().filter_map(message).collect()
}

/// Returns direction, peer and code of each message.
fn codes(traced: &[Traced]) -> Vec<(Direction, Peer, Code)> {
    let code = |message: &TracedMessage| Message::decode(&message.datagram).expect("a message").code;
    messages(traced).into_iter().map(|message| (message.direction, message.peer, code(message))).collect()
}

fn reports(traced: &[Traced]) -> Vec<&Report> {
    let report = |traced| match traced {
        &Traced { event: TracedEvent::Report { ref report, .. }, .. } => Some(report.as_ref()),
        Traced { event: TracedEvent::Message(_), .. } => None,
    };
    traced.iter().filter_map(report).collect()
}

#[test]
fn a_trace_by_address_has_a_refused_register_and_its_reason() {
    let mut scene = Scene::new();
    let target = by_address(scene.peer);
    begin(&mut scene, target);
    let nameless = scene.request(Code::POST, &["rd"], "lt=300");
    scene.ask(&nameless, Code::BAD_REQUEST);

    let traced = traced(&mut scene);
    let (from, peer) = (Direction::In, scene.peer);
    assert_eq!(codes(&traced), [(from, peer, Code::POST), (Direction::Out, peer, Code::BAD_REQUEST)]);
    assert_eq!(messages(&traced)[0].datagram, nameless.encode());
    assert_eq!(traced[0].at, Duration::from_secs(1_700_000_000));
    let outcome = Report::Datagram { peer, outcome: DatagramOutcome::Request };
    let reason = "the query item ep is missing".to_owned();
    let rejected = Report::RegisterRejected { peer, endpoint: None, code: Code::BAD_REQUEST, reason };
    assert_eq!(reports(&traced), [&outcome, &rejected]);
}

#[test]
fn a_trace_by_address_has_what_the_broker_refuses_and_what_the_rate_limit_drops() {
    let one = Rate { per_second: 1, burst: 1 };
    let mut scene = Scene::with(|config| config.limits.unregistered = RateLimit { total: one, address: one });
    let (own, other) = (scene.peer, peer(2));
    let same_host = Peer { address: (own.address.ip(), 4711).into(), ..own };
    begin(&mut scene, by_address(own));
    scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Refused("wrong password".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.forget_what_was_said();
    let refused = traced(&mut scene);
    assert_eq!(codes(&refused), [(Direction::In, own, Code::POST), (Direction::Out, own, Code::FORBIDDEN)]);
    assert!(matches!(reports(&refused)[1], Report::RegisterRejected { reason, .. } if reason == "wrong password"));

    let unknown = scene.request(Code::GET, &["nothing"], "");
    scene.device_sends_from(other, &unknown);
    assert_eq!(traced(&mut scene), [], "of another address");
    scene.device_sends_from(same_host, &unknown);
    let dropped = traced(&mut scene);
    assert_eq!(codes(&dropped), [(Direction::In, same_host, Code::GET)]);
    let outcome = DatagramOutcome::Dropped(DropReason::RateLimited);
    assert_eq!(reports(&dropped), [&Report::Datagram { peer: same_host, outcome }]);
}

#[test]
fn what_is_no_message_and_what_comes_twice_is_in_the_trace_with_its_outcome() {
    let mut scene = Scene::registered();
    let target = by_address(scene.peer);
    begin(&mut scene, target);
    scene.device_sends_bytes(&[0x40, 0x01]);
    let update = scene.update("");
    scene.device_sends(&update);
    scene.device_sends(&update);

    let traced = traced(&mut scene);
    let datagrams: Vec<_> = messages(&traced).iter().map(|message| message.datagram.len()).collect();
    let (sent, answered) = (update.encode().len(), 4 + 2);
    assert_eq!(datagrams, [2, sent, answered, sent, answered]);
    let outcome = |report: &&Report| match report {
        Report::Datagram { outcome, .. } => *outcome,
        other => panic!("{other:?}"),
    };
    let outcomes: Vec<_> = reports(&traced).iter().map(outcome).collect();
    assert!(matches!(outcomes[0], DatagramOutcome::Dropped(DropReason::NoMessage(_))), "{outcomes:?}");
    assert_eq!(outcomes[1..], [DatagramOutcome::Request, DatagramOutcome::Duplicate]);
}

#[test]
fn a_trace_by_endpoint_name_waits_for_the_device_and_follows_it_to_other_addresses() {
    let mut scene = Scene::new();
    begin(&mut scene, by_endpoint("dev-7"));
    scene.join("ep=dev-8&lt=300");
    scene.forget_what_was_said();
    assert_eq!(traced(&mut scene), [], "of another device");

    let (first, second) = (peer(7), peer(70));
    scene.peer = first;
    scene.register(QUERY);
    let registered = traced(&mut scene);
    assert_eq!(codes(&registered), [(Direction::In, first, Code::POST), (Direction::Out, first, Code::CREATED)]);

    let update = scene.update("");
    scene.device_sends_from(second, &update);
    scene.expect_reply(second, &update, Code::CHANGED);
    scene.peer = second;
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "ACME");
    let moved = traced(&mut scene);
    let expected = [
        (Direction::In, second, Code::POST),
        (Direction::Out, second, Code::CHANGED),
        (Direction::Out, second, Code::GET),
        (Direction::In, second, Code::CONTENT),
    ];
    assert_eq!(codes(&moved), expected);

    // Another device gets the address that it had before.
    let register = scene.register_message("ep=dev-9&lt=300");
    scene.device_sends_from(first, &register);
    assert_eq!(traced(&mut scene), []);
}

#[test]
fn a_trace_by_endpoint_name_has_no_message_of_another_device_at_the_same_address() {
    let mut scene = Scene::registered();
    begin(&mut scene, by_endpoint("dev-7"));
    let (own, location) = (scene.device, scene.location.clone());
    let register = scene.register_message("ep=dev-8&lt=300&lwm2m=1.0");
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.forget_what_was_said();
    traced(&mut scene);

    scene.command(&read(1));
    let (_, request) = scene.expect_sent();
    scene.answer_text(&request, "of dev-8");
    let shown = messages(&traced(&mut scene)).iter().any(|message| message.subject.is_some());
    assert!(!shown, "requests and answers of dev-8");
    scene.forget_what_was_said();

    scene.command_to(own, read(2).to_string().as_bytes());
    assert_eq!(codes(&traced(&mut scene)), [(Direction::Out, scene.peer, Code::GET)]);
    scene.location = location;
    let update = scene.update("");
    scene.device_sends(&update);
    let own = codes(&traced(&mut scene));
    assert_eq!(own, [(Direction::In, scene.peer, Code::POST), (Direction::Out, scene.peer, Code::CHANGED)]);
}

#[test]
fn messages_carry_the_paths_that_they_are_about_and_no_password() {
    let mut scene = Scene::new();
    begin(&mut scene, by_endpoint("dev-7"));
    scene.register(&format!("ep=dev-7&lt=300&lwm2m=1.1&password={PASSWORD}"));
    let request = scene.observe(1, "/3303/0/5700");
    scene.notify(&request, Kind::NonConfirmable, 3, "21.5");
    let mut send = scene.request(Code::POST, &["dp"], "");
    send.options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
    send.payload = br#"[{"n":"/3303/0/5700","v":21.5}]"#.to_vec();
    scene.device_sends(&send);

    let traced = traced(&mut scene);
    let subjects: Vec<_> = messages(&traced)
        .into_iter()
        .filter_map(|message| {
            let subject = message.subject.as_ref()?;
            assert_eq!(subject.registration.endpoint, "dev-7");
            assert_eq!(subject.registration.password(), None);
            let paths: Vec<_> = subject.paths.iter().map(ToString::to_string).collect();
            Some((message.direction, paths.join(" "), subject.is_composite))
        })
        .collect();
    let temperature = || "/3303/0/5700".to_owned();
    let expected = [
        (Direction::Out, temperature(), false),
        (Direction::In, temperature(), false),
        (Direction::In, temperature(), false),
        (Direction::In, "/".to_owned(), true),
    ];
    assert_eq!(subjects, expected);
}

#[test]
fn a_trace_that_begins_later_knows_what_observations_are_about() {
    let mut scene = Scene::registered();
    let request = scene.observe(1, "/3303/0/5700");
    begin(&mut scene, by_endpoint("dev-7"));
    scene.notify(&request, Kind::Confirmable, 3, "21.5");
    let traced = traced(&mut scene);
    let subject = messages(&traced)[0].subject.as_ref().expect("an observation");
    assert_eq!(subject.paths, ["/3303/0/5700".parse().expect("a path")]);
    scene.command(&observe(2, "/3303/0/5700"));
}

#[test]
fn beyond_the_rate_messages_are_counted_and_not_copied() {
    let mut scene = Scene::registered_with(|config| {
        config.limits.registered = Rate { per_second: 1_000, burst: 1_000 };
    });
    let target = by_address(scene.peer);
    begin(&mut scene, target);
    let most = usize::try_from(MESSAGES_PER_SECOND).expect("a number");
    for id in 0..300 {
        let ping = Message::empty(Kind::Confirmable, MessageId(10_000 + id));
        scene.device_sends(&ping);
    }
    // Each ping is answered with a reset.
    assert_eq!(messages(&traced(&mut scene)).len(), most);
    scene.advance(1.0);
    let update = scene.update("");
    scene.device_sends(&update);
    let traced = traced(&mut scene);
    assert_eq!(messages(&traced).len(), 2);
    assert_eq!(traced[0].traces, [(TRACE, 2 * 300 - MESSAGES_PER_SECOND as u64)]);
}

#[test]
fn there_are_eight_traces_at_most_and_one_message_may_be_in_several() {
    let mut scene = Scene::registered();
    let address = by_address(scene.peer);
    for id in 0..TRACES {
        let target = if id % 2 == 0 { address.clone() } else { by_endpoint("nobody") };
        assert!(scene.gateway.trace(scene.now, TraceId(id as u64), target));
    }
    assert!(!scene.gateway.trace(scene.now, TraceId(99), address.clone()));
    let update = scene.update("");
    scene.device_sends(&update);
    let ids: Vec<_> = traced(&mut scene)[0].traces.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [0, 2, 4, 6]);

    scene.gateway.end_trace(TraceId(0));
    assert!(scene.gateway.trace(scene.now, TraceId(99), address));
    scene.device_sends(&update);
    let ids: Vec<_> = traced(&mut scene)[0].traces.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [2, 4, 6, 99]);
}
