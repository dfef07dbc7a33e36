//! The CoAP endpoint in virtual time, through its public face: what a peer sends, what leaves, what is told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{
    CoapOutput, Code, DatagramOutcome, DropReason, Endpoint, EndpointEvent, ExchangeId, Failure, Kind, Message,
    MessageDecodeError, MessageId, Options, Parameters, Request, RequestId, Response, Token, Transmit,
};
use proptest::prelude::*;

struct Scene {
    endpoint: Endpoint,
    now: Instant,
    peer: Peer,
}

impl Scene {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self { endpoint: Endpoint::new(Parameters::default(), [7; 32]), now, peer: peer(5000) }
    }

    fn with_observation() -> (Self, ExchangeId, Token) {
        let mut scene = Self::new();
        let id = scene.send(observe());
        let request = scene.sent();
        scene.receive(piggybacked(&request, Code::CONTENT, &[(number::OBSERVE, 5)]));
        scene.expect_verdict(DatagramOutcome::Response);
        assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: Some(5), .. })));
        scene.expect_nothing_more();
        (scene, id, request.token)
    }

    fn send(&mut self, request: Request) -> ExchangeId {
        self.endpoint.send_request(self.now, self.peer, request)
    }

    fn receive(&mut self, message: Message) {
        self.receive_from(self.peer, message);
    }

    fn receive_from(&mut self, peer: Peer, message: Message) {
        self.endpoint.handle_datagram(self.now, peer, &message.encode());
    }

    /// A request from the peer, as the event that it is.
    fn request(&mut self, message: Message) -> RequestId {
        self.receive(message);
        let Some(EndpointEvent::Request { id, .. }) = self.event() else { panic!("no request was told") };
        self.expect_verdict(DatagramOutcome::Request);
        id
    }

    fn after(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
        self.endpoint.handle_timeout(self.now);
    }

    fn wait_for_deadline(&mut self) -> Duration {
        let next = self.endpoint.next_deadline().expect("a deadline");
        let passed = next - self.now;
        self.now = next;
        self.endpoint.handle_timeout(next);
        passed
    }

    fn output(&mut self) -> Option<CoapOutput> {
        self.endpoint.poll_output()
    }

    fn event(&mut self) -> Option<EndpointEvent> {
        self.endpoint.poll_event()
    }

    fn sent(&mut self) -> Message {
        self.sent_to(self.peer)
    }

    fn sent_to(&mut self, to: Peer) -> Message {
        match self.output() {
            Some(CoapOutput::Transmit(Transmit { peer, datagram })) if peer == to => {
                Message::decode(&datagram).expect("what leaves is a message")
            }
            other => panic!("expected a datagram, not {other:?}"),
        }
    }

    fn expect_verdict(&mut self, verdict: DatagramOutcome) {
        match self.output() {
            Some(CoapOutput::Outcome(_, given)) => assert_eq!(given, verdict),
            other => panic!("expected a verdict, not {other:?}"),
        }
    }

    fn expect_retransmission_of(&mut self, message: &Message, to: Peer) {
        assert_eq!(self.output(), Some(CoapOutput::Retransmitted(to)));
        assert_eq!(&self.sent_to(to), message);
    }

    fn expect_nothing_more(&mut self) {
        assert_eq!((self.output(), self.event()), (None, None));
    }
}

fn peer(port: u16) -> Peer {
    Peer::udp(0, SocketAddr::from(([192, 0, 2, 1], port)))
}

fn get() -> Request {
    Request::new(Code::GET)
}

fn observe() -> Request {
    let mut request = get();
    request.options.add_uint(number::OBSERVE, 0);
    request
}

fn message(kind: Kind, code: Code, id: u16, token: Token, options: &[(u16, u32)]) -> Message {
    let mut all = Options::new();
    for (number, value) in options {
        all.add_uint(*number, *value);
    }
    Message { kind, code, id: MessageId(id), token, options: all, payload: Vec::new() }
}

fn piggybacked(request: &Message, code: Code, options: &[(u16, u32)]) -> Message {
    message(Kind::Acknowledgement, code, request.id.0, request.token, options)
}

fn token(text: &[u8]) -> Token {
    Token::new(text)
}

#[test]
fn a_request_is_sent_again_with_doubled_timeouts_and_then_given_up() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let first = scene.sent();
    assert_eq!((first.kind, first.code, first.token.as_bytes().len()), (Kind::Confirmable, Code::GET, 8));

    let initial = scene.wait_for_deadline();
    assert!((Duration::from_secs(2)..=Duration::from_secs(3)).contains(&initial), "{initial:?}");
    scene.expect_retransmission_of(&first, scene.peer);
    for doubled in [2, 4, 8] {
        assert_eq!(scene.wait_for_deadline(), initial * doubled);
        scene.expect_retransmission_of(&first, scene.peer);
    }
    assert_eq!(scene.wait_for_deadline(), initial * 16);
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);

    scene.receive(piggybacked(&first, Code::CONTENT, &[]));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn timeouts_have_a_random_factor() {
    let mut scene = Scene::new();
    let mut timeouts = Vec::new();
    for port in 1..50 {
        scene.peer = peer(port);
        let id = scene.send(get());
        timeouts.push(scene.endpoint.next_deadline().expect("a deadline") - scene.now);
        scene.endpoint.forget(id);
    }
    timeouts.sort();
    timeouts.dedup();
    assert!(timeouts.len() > 40, "{} different timeouts", timeouts.len());
}

#[test]
fn a_piggybacked_response_ends_the_exchange_and_its_duplicate_is_dropped() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    let answer = piggybacked(&request, Code::CONTENT, &[]);

    scene.receive(answer.clone());
    let response = Response::new(Code::CONTENT);
    assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
    scene.expect_verdict(DatagramOutcome::Response);
    assert_eq!(scene.endpoint.next_deadline(), None);

    scene.receive(answer);
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn a_response_counts_only_with_its_token_and_from_its_peer() {
    let mut scene = Scene::new();
    scene.send(get());
    let request = scene.sent();

    scene.receive(message(Kind::Acknowledgement, Code::CONTENT, request.id.0, token(b"other"), &[]));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.receive_from(peer(6000), piggybacked(&request, Code::CONTENT, &[]));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
    scene.wait_for_deadline();
    scene.expect_retransmission_of(&request, scene.peer);
}

#[test]
fn a_separate_response_comes_after_the_empty_acknowledgement_and_is_acknowledged_each_time() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();

    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange }));
    scene.expect_verdict(DatagramOutcome::Acknowledgement);
    scene.after(30.0);
    scene.expect_nothing_more();

    let separate = message(Kind::Confirmable, Code::CONTENT, 900, request.token, &[]);
    scene.receive(separate.clone());
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: None, .. })));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(900)));
    scene.expect_verdict(DatagramOutcome::Response);

    scene.receive(separate);
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(900)));
    scene.expect_verdict(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();
}

#[test]
fn a_separate_response_may_overtake_the_acknowledgement() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();

    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 901, request.token, &[]));
    let response = Response::new(Code::CONTENT);
    assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
    scene.expect_verdict(DatagramOutcome::Response);
    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn a_separate_response_that_never_comes_is_given_up() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_verdict(DatagramOutcome::Acknowledgement);
    scene.event();

    assert_eq!(scene.wait_for_deadline(), Parameters::default().max_transmit_wait());
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_reset_ends_the_exchange() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    scene.receive(Message::empty(Kind::Reset, request.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Reset { exchange }));
    scene.expect_verdict(DatagramOutcome::Reset);
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);
}

#[test]
fn a_request_that_comes_again_gets_its_stored_reply_until_its_lifetime_is_over() {
    let mut scene = Scene::new();
    let post = message(Kind::Confirmable, Code::POST, 1, token(b"a"), &[]);
    let id = scene.request(post.clone());

    scene.receive(post.clone());
    scene.expect_verdict(DatagramOutcome::Duplicate);
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let answer = scene.sent();
    assert_eq!(answer, message(Kind::Acknowledgement, Code::CREATED, 1, token(b"a"), &[]));

    scene.receive(post.clone());
    assert_eq!(scene.sent(), answer);
    scene.expect_verdict(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();

    scene.after(247.0);
    scene.request(post);
}

#[test]
fn a_restarted_device_may_begin_its_message_ids_anew() {
    let mut scene = Scene::new();
    let first = scene.request(message(Kind::Confirmable, Code::POST, 1, token(b"a"), &[]));
    scene.endpoint.respond(scene.now, first, Response::new(Code::CREATED));
    scene.sent();
    scene.request(message(Kind::Confirmable, Code::POST, 1, token(b"b"), &[]));
}

#[test]
fn a_slow_answer_leaves_after_an_empty_acknowledgement_and_is_confirmable() {
    let mut scene = Scene::new();
    let post = message(Kind::Confirmable, Code::POST, 2, token(b"t"), &[]);
    let id = scene.request(post.clone());

    assert_eq!(scene.wait_for_deadline(), Duration::from_secs(1));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(2)));
    scene.receive(post);
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(2)));
    scene.expect_verdict(DatagramOutcome::Duplicate);

    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let separate = scene.sent();
    assert_eq!((separate.kind, separate.code, separate.token), (Kind::Confirmable, Code::CREATED, token(b"t")));
    scene.wait_for_deadline();
    scene.expect_retransmission_of(&separate, scene.peer);
    scene.receive(Message::empty(Kind::Acknowledgement, separate.id));
    scene.expect_verdict(DatagramOutcome::Acknowledgement);
    scene.after(100.0);
    scene.expect_nothing_more();
}

#[test]
fn a_non_confirmable_request_is_answered_likewise() {
    let mut scene = Scene::new();
    let id = scene.request(message(Kind::NonConfirmable, Code::POST, 3, token(b"n"), &[]));
    scene.after(10.0);
    scene.endpoint.respond(scene.now, id, Response::new(Code::CHANGED));
    let answer = scene.sent();
    assert_eq!((answer.kind, answer.token), (Kind::NonConfirmable, token(b"n")));
    scene.expect_nothing_more();
}

#[test]
fn unknown_critical_options_are_refused_by_kind() {
    let cases = [
        (Kind::Confirmable, 9, Some((Kind::Acknowledgement, Code::BAD_OPTION)), DatagramOutcome::Request),
        (Kind::Confirmable, 35, Some((Kind::Acknowledgement, Code::PROXYING_NOT_SUPPORTED)), DatagramOutcome::Request),
        (
            Kind::NonConfirmable,
            9,
            Some((Kind::Reset, Code::EMPTY)),
            DatagramOutcome::Dropped(DropReason::CriticalOption),
        ),
    ];
    for (kind, option, answer, verdict) in cases {
        let mut scene = Scene::new();
        scene.receive(message(kind, Code::POST, 4, token(b"c"), &[(option, 1)]));
        let sent = scene.sent();
        assert_eq!(Some((sent.kind, sent.code)), answer, "{kind:?} {option}");
        scene.expect_verdict(verdict);
        scene.expect_nothing_more();
    }
}

#[test]
fn an_unknown_elective_option_is_ignored() {
    let mut scene = Scene::new();
    scene.request(message(Kind::Confirmable, Code::POST, 5, token(b"e"), &[(2000, 1)]));
}

#[test]
fn an_empty_confirmable_message_is_answered_with_a_reset() {
    let mut scene = Scene::new();
    scene.receive(Message::empty(Kind::Confirmable, MessageId(6)));
    assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(6)));
    scene.expect_verdict(DatagramOutcome::Ping);
    scene.receive(Message::empty(Kind::NonConfirmable, MessageId(7)));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::InvalidCodeForType));
    scene.receive(message(Kind::Reset, Code::GET, 8, Token::EMPTY, &[]));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::InvalidCodeForType));
    scene.expect_nothing_more();
}

#[test]
fn notifications_are_told_in_order_and_older_ones_acknowledged_and_dropped() {
    let (mut scene, observation, token) = Scene::with_observation();
    let notify = |kind, id, number| message(kind, Code::CONTENT, id, token, &[(number::OBSERVE, number)]);

    scene.receive(notify(Kind::Confirmable, 50, 7));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(50)));
    scene.expect_verdict(DatagramOutcome::Notification);
    let told = scene.event();
    assert!(
        matches!(told, Some(EndpointEvent::Notification { observation: id, number: Some(7), .. }) if id == observation),
        "{told:?}"
    );

    scene.receive(notify(Kind::Confirmable, 49, 6));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(49)));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::StaleNotification));
    scene.receive(notify(Kind::NonConfirmable, 51, 8));
    scene.expect_verdict(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(8), .. })));
    scene.receive(notify(Kind::NonConfirmable, 51, 8));
    scene.expect_verdict(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();
}

#[test]
fn a_notification_of_nothing_is_answered_with_a_reset_each_time() {
    let mut scene = Scene::new();
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let notification = message(kind, Code::CONTENT, 60, token(b"nobody"), &[(number::OBSERVE, 3)]);
        scene.receive(notification.clone());
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(60)));
        scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
        scene.receive(notification);
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(60)));
        scene.expect_verdict(DatagramOutcome::Duplicate);
    }
    scene.expect_nothing_more();
}

/// RFC 7641 section 3.6: the device would take the reset as the answer to the notification.
#[test]
fn what_comes_with_the_id_of_an_accepted_notification_is_not_reset() {
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let (mut scene, _, observed) = Scene::with_observation();
        scene.receive(message(kind, Code::CONTENT, 61, observed, &[(number::OBSERVE, 6)]));
        if kind == Kind::Confirmable {
            assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(61)));
        }
        scene.expect_verdict(DatagramOutcome::Notification);
        assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(6), .. })));

        let forged = [
            message(Kind::Confirmable, Code::CONTENT, 61, token(b"nobody"), &[(number::OBSERVE, 7)]).encode(),
            message(Kind::NonConfirmable, Code::CONTENT, 61, token(b"nobody"), &[]).encode(),
            message(Kind::NonConfirmable, Code::POST, 61, token(b"nobody"), &[(9, 1)]).encode(),
            Message::empty(Kind::Confirmable, MessageId(61)).encode(),
            hex("4045003dc0ff"),
        ];
        for datagram in &forged {
            scene.endpoint.handle_datagram(scene.now, scene.peer, datagram);
            assert!(matches!(scene.output(), Some(CoapOutput::Outcome(..))), "{datagram:02x?}");
            scene.expect_nothing_more();
        }
        // With another id, or when the device may use the id again, they are.
        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 62, token(b"nobody"), &[]));
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(62)));
        scene.output();
        scene.after(Parameters::default().exchange_lifetime().as_secs_f64());
        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 61, token(b"nobody"), &[]));
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(61)));
    }
}

#[test]
fn an_error_is_the_last_notification() {
    let (mut scene, _, token) = Scene::with_observation();
    scene.receive(message(Kind::Confirmable, Code::NOT_FOUND, 70, token, &[]));
    scene.sent();
    scene.expect_verdict(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: None, .. })));

    scene.receive(message(Kind::Confirmable, Code::CONTENT, 71, token, &[(number::OBSERVE, 9)]));
    assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(71)));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_in_the_place_of_a_lost_answer_is_the_answer() {
    let mut scene = Scene::new();
    scene.send(observe());
    let request = scene.sent();
    scene.receive(message(Kind::Confirmable, Code::CONTENT, 80, request.token, &[(number::OBSERVE, 12)]));
    scene.sent();
    scene.expect_verdict(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: Some(12), .. })));

    scene.receive(piggybacked(&request, Code::CONTENT, &[(number::OBSERVE, 11)]));
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn an_answer_without_observe_number_begins_no_observation() {
    let mut scene = Scene::new();
    scene.send(observe());
    let request = scene.sent();
    scene.receive(piggybacked(&request, Code::CONTENT, &[]));
    scene.expect_verdict(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: None, .. })));
    scene.receive(message(Kind::Confirmable, Code::CONTENT, 81, request.token, &[(number::OBSERVE, 2)]));
    assert_eq!(scene.sent().kind, Kind::Reset);
}

#[test]
fn a_cancellation_has_the_token_of_the_observation_whose_notifications_go_on_until_it_is_forgotten() {
    let (mut scene, observation, token) = Scene::with_observation();
    let cancellation = scene.endpoint.send_cancellation(scene.now, observation, Vec::new()).expect("it is observed");
    let sent = scene.sent();
    assert_eq!((sent.token, sent.options.uint(number::OBSERVE)), (token, Ok(Some(1))));
    assert_eq!((sent.code, sent.options.iter().count()), (Code::GET, 1));

    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 90, token, &[(number::OBSERVE, 6)]));
    scene.expect_verdict(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { .. })));
    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 91, token, &[]));
    scene.expect_verdict(DatagramOutcome::Response);
    let told = scene.event();
    assert!(
        matches!(told, Some(EndpointEvent::Response { exchange, observing: None, .. }) if exchange == cancellation),
        "{told:?}"
    );

    scene.endpoint.forget(observation);
    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 92, token, &[(number::OBSERVE, 7)]));
    assert_eq!(scene.sent().kind, Kind::Reset);
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn what_is_under_way_follows_the_device_to_its_new_address() {
    let (mut scene, observation, token) = Scene::with_observation();
    let exchange = scene.send(get());
    let request = scene.sent();
    let (old, new) = (scene.peer, peer(7000));

    scene.endpoint.readdress(scene.now, [exchange, observation], new);
    scene.endpoint.handle_timeout(scene.now);
    scene.expect_retransmission_of(&request, new);
    scene.receive_from(new, piggybacked(&request, Code::CONTENT, &[]));
    scene.expect_verdict(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { .. })));

    let notification = message(Kind::NonConfirmable, Code::CONTENT, 95, token, &[(number::OBSERVE, 9)]);
    scene.receive_from(new, notification.clone());
    scene.expect_verdict(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { .. })));
    scene.receive_from(old, notification);
    assert_eq!(scene.sent_to(old).kind, Kind::Reset);
}

#[test]
fn a_request_leaves_for_the_new_address_at_once_however_often_it_was_repeated_before() {
    for repetitions in 0..=4 {
        let mut scene = Scene::new();
        let exchange = scene.send(get());
        let request = scene.sent();
        for _ in 0..repetitions {
            scene.wait_for_deadline();
            scene.expect_retransmission_of(&request, scene.peer);
        }
        let new = peer(7000);
        scene.endpoint.readdress(scene.now, [exchange], new);
        assert_eq!(scene.wait_for_deadline(), Duration::ZERO, "{repetitions}");
        scene.expect_retransmission_of(&request, new);
        // There it is repeated as a new one is.
        let initial = scene.wait_for_deadline();
        assert!((Duration::from_secs(2)..=Duration::from_secs(3)).contains(&initial), "{initial:?}");
        scene.expect_retransmission_of(&request, new);
        for doubled in [2, 4, 8] {
            assert_eq!(scene.wait_for_deadline(), initial * doubled);
            scene.expect_retransmission_of(&request, new);
        }
        scene.wait_for_deadline();
        assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
        scene.expect_nothing_more();
    }
}

/// The device may have answered from its new address before anybody knew that it is there, and was reset.
#[test]
fn an_acknowledged_request_is_sent_again_to_the_new_address() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_verdict(DatagramOutcome::Acknowledgement);
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange }));
    let new = peer(7000);
    let answer = message(Kind::Confirmable, Code::CONTENT, 90, request.token, &[]);
    scene.receive_from(new, answer);
    assert_eq!(scene.sent_to(new).kind, Kind::Reset);
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::Unexpected));

    scene.endpoint.readdress(scene.now, [exchange], new);
    assert_eq!(scene.wait_for_deadline(), Duration::ZERO);
    scene.expect_retransmission_of(&request, new);
    scene.receive_from(new, Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_verdict(DatagramOutcome::Acknowledgement);
    scene.receive_from(new, message(Kind::Confirmable, Code::CONTENT, 91, request.token, &[]));
    assert_eq!(scene.sent_to(new).kind, Kind::Acknowledgement);
    scene.expect_verdict(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange: answered, .. }) if answered == exchange));
    scene.expect_nothing_more();
}

/// Message ids begin anywhere for each peer, so that of many peers two begin alike.
fn two_peers_with_the_same_message_id(scene: &mut Scene) -> [(Peer, ExchangeId, Message); 2] {
    let mut first_with = std::collections::HashMap::new();
    for port in 1.. {
        scene.peer = peer(port);
        let exchange = scene.send(get());
        let request = scene.sent();
        if let Some(earlier) = first_with.insert(request.id, (scene.peer, exchange, request.clone())) {
            return [earlier, (scene.peer, exchange, request)];
        }
    }
    unreachable!("there are more ports than message ids")
}

#[test]
fn a_device_that_moves_to_the_address_of_another_leaves_the_exchange_of_that_one_alone() {
    let mut scene = Scene::new();
    let [(from, moving, request), (to, staying, other)] = two_peers_with_the_same_message_id(&mut scene);
    scene.endpoint.readdress(scene.now, [moving], to);
    scene.endpoint.handle_timeout(scene.now);
    assert_eq!(scene.output(), Some(CoapOutput::Retransmitted(to)));
    let moved = scene.sent_to(to);
    assert_ne!(moved.id, request.id);
    assert_eq!(moved, Message { id: moved.id, ..request });

    scene.receive_from(to, piggybacked(&moved, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange, .. }) if exchange == moving));
    scene.receive_from(to, piggybacked(&other, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange, .. }) if exchange == staying));
    assert_ne!(from, to);
}

#[test]
fn a_message_id_that_came_along_with_a_move_is_not_given_twice() {
    let mut scene = Scene::new();
    let [(_, moving, request), (to, acknowledged, other)] = two_peers_with_the_same_message_id(&mut scene);
    scene.receive_from(to, Message::empty(Kind::Acknowledgement, other.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange: acknowledged }));
    scene.endpoint.readdress(scene.now, [moving], to);

    // The end of the exchange whose message is not on its way any more is not the end of the one that came.
    scene.endpoint.forget(acknowledged);
    scene.expect_verdict(DatagramOutcome::Acknowledgement);
    scene.endpoint.handle_timeout(scene.now);
    scene.expect_retransmission_of(&request, to);
    scene.receive_from(to, piggybacked(&request, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange, .. }) if exchange == moving));
}

// --- What cannot be read ------------------------------------------------------------------------------------------------

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// RFC 7252 sections 4.2 and 4.3; another version of CoAP is ignored (section 3).
#[test]
fn a_confirmable_message_with_a_format_error_is_reset_and_any_other_is_not_answered() {
    let cases = [
        ("4d0220010031323334353637383930313233b27264", MessageDecodeError::TokenLength, true),
        ("40452002c0ff", MessageDecodeError::EmptyPayload, true),
        ("40012002ff", MessageDecodeError::EmptyPayload, true),
        ("400020020a", MessageDecodeError::MalformedEmpty, true),
        ("40e02002", MessageDecodeError::ReservedClass, true),
        ("48022002010203", MessageDecodeError::Malformed, true),
        ("40012002b5", MessageDecodeError::Malformed, true),
        ("50452002c0ff", MessageDecodeError::EmptyPayload, false),
        ("60452002c0ff", MessageDecodeError::EmptyPayload, false),
        ("7000200201", MessageDecodeError::MalformedEmpty, false),
        ("80452002", MessageDecodeError::Version, false),
        ("404520", MessageDecodeError::TooShort, false),
        ("", MessageDecodeError::TooShort, false),
    ];
    for (datagram, error, reset) in cases {
        let mut scene = Scene::new();
        // Its repetition is answered alike.
        for _ in 0..2 {
            scene.endpoint.handle_datagram(scene.now, scene.peer, &hex(datagram));
            if reset {
                let id = MessageId(u16::from_str_radix(&datagram[4..8], 16).expect("hex"));
                assert_eq!(scene.sent(), Message::empty(Kind::Reset, id), "{datagram}");
            }
            scene.expect_verdict(DatagramOutcome::Dropped(DropReason::NoMessage(error)));
            scene.expect_nothing_more();
        }
        assert_eq!(scene.endpoint.table_sizes().remembered_messages, 0);
    }
}

#[test]
fn the_reset_of_a_malformed_message_is_not_the_answer_to_a_well_formed_one_with_its_id() {
    let mut scene = Scene::new();
    let register = message(Kind::Confirmable, Code::POST, 0x2002, token(b"r"), &[]);
    let id = scene.request(register.clone());
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let created = scene.sent();
    scene.endpoint.handle_datagram(scene.now, scene.peer, &hex("4102200272ff"));
    assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(0x2002)));
    scene.output();
    scene.receive(register);
    assert_eq!(scene.sent(), created);
    scene.expect_verdict(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();
}

/// An answer with the message id and the token of the request, as the first byte and the code say, and with this behind it.
fn answer_bytes(request: &Message, first: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    [&[first, code], &request.id.0.to_be_bytes()[..], request.token.as_bytes(), rest].concat()
}

#[test]
fn an_answer_that_cannot_be_read_ends_its_exchange_at_once() {
    let malformed = |error| (DropReason::NoMessage(error), Failure::Malformed(error));
    // First byte, code, what stands behind the token, and what is said.
    type Said = (DropReason, Failure);
    let cases: [(u8, u8, &[u8], Said); 10] = [
        (0x68, 0x45, b"\xff", malformed(MessageDecodeError::EmptyPayload)),
        (0x68, 0x45, b"\xc0\xff", malformed(MessageDecodeError::EmptyPayload)),
        (0x68, 0x45, b"\xc5", malformed(MessageDecodeError::Malformed)),
        (0x68, 0xe0, b"", malformed(MessageDecodeError::ReservedClass)),
        (0x48, 0x45, b"\xff", malformed(MessageDecodeError::EmptyPayload)),
        (0x58, 0x45, b"\xf0", malformed(MessageDecodeError::Malformed)),
        (0x78, 0x00, b"", malformed(MessageDecodeError::MalformedEmpty)),
        (0x68, 0x45, b"\x90", (DropReason::CriticalOption, Failure::CriticalOption(9))),
        (0x48, 0x45, b"\x90", (DropReason::CriticalOption, Failure::CriticalOption(9))),
        (0x68, 0x01, b"", (DropReason::InvalidCodeForType, Failure::NotAResponse(Code::GET))),
    ];
    for (first, code, rest, (reason, error)) in cases {
        let mut scene = Scene::new();
        let exchange = scene.send(get());
        let request = scene.sent();
        let datagram = answer_bytes(&request, first, code, rest);
        scene.endpoint.handle_datagram(scene.now, scene.peer, &datagram);
        if first == 0x48 {
            assert_eq!(scene.sent(), Message::empty(Kind::Reset, request.id), "{datagram:02x?}");
        }
        scene.expect_verdict(DatagramOutcome::Dropped(reason));
        assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }), "{datagram:02x?}");
        scene.expect_nothing_more();
        let occupancy = scene.endpoint.table_sizes();
        assert_eq!((occupancy.exchanges, occupancy.transmissions, occupancy.tokens), (0, 0, 0), "{datagram:02x?}");
    }
}

#[test]
fn what_cannot_be_read_and_matches_nothing_leaves_the_exchange_alone() {
    let mut scene = Scene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    let other = Message { token: token(b"othertok"), ..request.clone() };
    let later = Message { id: MessageId(request.id.0.wrapping_add(1)), ..request.clone() };
    let datagrams = [
        answer_bytes(&other, 0x68, 0x45, b"\xff"),
        answer_bytes(&later, 0x68, 0x45, b"\xff"),
        answer_bytes(&other, 0x58, 0x45, b"\xff"),
        // An empty acknowledgement with a token is no answer: that is still to come.
        answer_bytes(&request, 0x68, 0x00, b""),
        // A request.
        answer_bytes(&request, 0x58, 0x01, b"\xff"),
        // The token is cut short.
        answer_bytes(&request, 0x68, 0x45, b"")[..9].to_vec(),
    ];
    for datagram in datagrams {
        scene.endpoint.handle_datagram(scene.now, scene.peer, &datagram);
        assert!(matches!(scene.output(), Some(CoapOutput::Outcome(_, DatagramOutcome::Dropped(_)))), "{datagram:02x?}");
        scene.expect_nothing_more();
    }
    scene.endpoint.handle_datagram(scene.now, peer(9), &answer_bytes(&request, 0x68, 0x45, b"\xff"));
    assert!(matches!(scene.output(), Some(CoapOutput::Outcome(..))));
    scene.receive(piggybacked(&request, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange: answered, .. }) if answered == exchange));
}

/// RFC 7641 section 3.6: with the reset the device forgets the observation.
#[test]
fn a_notification_that_cannot_be_read_is_told_and_a_reset_ends_the_observation() {
    let cases: [(u8, &[u8], Failure, bool); 4] = [
        (0x48, b"\xff", Failure::Malformed(MessageDecodeError::EmptyPayload), true),
        (0x58, b"\xff", Failure::Malformed(MessageDecodeError::EmptyPayload), false),
        (0x48, b"\x61\x09\x30", Failure::CriticalOption(9), true),
        (0x58, b"\x61\x09\x30", Failure::CriticalOption(9), true),
    ];
    for (first, rest, error, over) in cases {
        let (mut scene, observation, token) = Scene::with_observation();
        let like = message(Kind::Confirmable, Code::CONTENT, 700, token, &[]);
        scene.endpoint.handle_datagram(scene.now, scene.peer, &answer_bytes(&like, first, 0x45, rest));
        if over {
            assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(700)));
        }
        assert!(matches!(scene.output(), Some(CoapOutput::Outcome(_, DatagramOutcome::Dropped(_)))));
        let told = EndpointEvent::NotificationFailed { observation, number: None, error, over };
        assert_eq!(scene.event(), Some(told));
        scene.expect_nothing_more();

        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 701, token, &[(number::OBSERVE, 9)]));
        let goes_on = matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(9), .. }));
        assert_eq!(goes_on, !over, "{rest:02x?}");
    }
}

/// Clients of old Leshan versions do not count.
#[test]
fn the_same_observe_number_is_news_with_another_body() {
    let (mut scene, observation, token) = Scene::with_observation();
    let notification = |id, text: &str| Message {
        payload: text.as_bytes().to_vec(),
        ..message(Kind::NonConfirmable, Code::CONTENT, id, token, &[(number::OBSERVE, 5)])
    };
    let mut told = Vec::new();
    for (id, text) in [(80, "20.5"), (81, "21.5"), (82, "21.5"), (83, "20.5"), (83, "20.5")] {
        scene.receive(notification(id, text));
        match scene.event() {
            Some(EndpointEvent::Notification { observation: of, number: Some(5), response, .. })
                if of == observation =>
            {
                scene.expect_verdict(DatagramOutcome::Notification);
                told.push((id, response.payload));
            }
            None if id == 83 => scene.expect_verdict(DatagramOutcome::Duplicate),
            None => scene.expect_verdict(DatagramOutcome::Dropped(DropReason::StaleNotification)),
            other => panic!("{other:?}"),
        }
    }
    let expected = [(80, "20.5"), (81, "21.5"), (83, "20.5")].map(|(id, text)| (id, text.as_bytes().to_vec()));
    assert_eq!(told, expected);
    scene.expect_nothing_more();
}

#[test]
fn tokens_of_one_peer_differ_however_short_they_are() {
    let parameters = Parameters { token_length: 1, ..Parameters::default() };
    let mut scene = Scene { endpoint: Endpoint::new(parameters, [1; 32]), ..Scene::new() };
    let mut tokens = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        scene.send(get());
        tokens.insert(scene.sent().token);
    }
    assert_eq!(tokens.len(), 1000);
    assert!(tokens.iter().any(|token| token.as_bytes().len() == 1));
}

#[test]
fn requests_that_wait_for_an_answer_are_bounded() {
    let parameters = Parameters { pending_requests: 2, ..Parameters::default() };
    let mut scene = Scene { endpoint: Endpoint::new(parameters, [1; 32]), ..Scene::new() };
    let [first, _] = [0, 1].map(|id| scene.request(message(Kind::Confirmable, Code::POST, id, Token::EMPTY, &[])));
    let refused = message(Kind::Confirmable, Code::POST, 9, Token::EMPTY, &[]);
    scene.receive(refused.clone());
    scene.expect_verdict(DatagramOutcome::Dropped(DropReason::TooManyRequests));
    scene.expect_nothing_more();

    scene.endpoint.respond(scene.now, first, Response::new(Code::CREATED));
    scene.sent();
    scene.request(refused);
}

#[test]
fn a_peer_that_sends_without_end_pushes_out_only_its_own_past() {
    let parameters =
        Parameters { deduplication_entries_per_peer: 4, deduplication_entries: 100, ..Parameters::default() };
    let mut scene = Scene { endpoint: Endpoint::new(parameters, [1; 32]), ..Scene::new() };
    let quiet = message(Kind::NonConfirmable, Code::CONTENT, 1, token(b"q"), &[]);
    scene.receive_from(peer(1), quiet.clone());
    for id in 0..1000 {
        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, id, token(b"x"), &[]));
    }
    while scene.output().is_some() {}
    scene.receive_from(peer(1), quiet);
    assert_eq!(scene.sent_to(peer(1)).kind, Kind::Reset);
    scene.expect_verdict(DatagramOutcome::Duplicate);
}

#[test]
fn everything_is_forgotten_in_the_end() {
    let (mut scene, observation, _) = Scene::with_observation();
    scene.request(message(Kind::Confirmable, Code::POST, 2, token(b"t"), &[]));
    scene.endpoint.forget(observation);
    while scene.endpoint.next_deadline().is_some() {
        scene.wait_for_deadline();
    }
    while scene.output().is_some() {}
    assert_eq!(scene.event(), None);
}

proptest! {
    #[test]
    fn each_datagram_has_exactly_one_verdict(datagrams in prop::collection::vec(arbitrary_datagram(), 1..60)) {
        let (mut scene, _, token) = Scene::with_observation();
        scene.send(get());
        for (mut bytes, ours) in datagrams {
            if ours && bytes.len() >= 12 {
                bytes[0] = (bytes[0] & 0x30) | 0x48;
                bytes[4..12].copy_from_slice(token.as_bytes());
            }
            while scene.output().is_some() {}
            scene.endpoint.handle_datagram(scene.now, scene.peer, &bytes);
            let mut verdicts = 0;
            while let Some(output) = scene.output() {
                verdicts += usize::from(matches!(output, CoapOutput::Outcome(..)));
            }
            prop_assert_eq!(verdicts, 1);
        }
    }
}

/// Bytes that begin like a message in most cases, and whether they take over the token of the observation.
fn arbitrary_datagram() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let code = prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 65, 68, 69, 95, 128, 132, 160]);
    let kind = prop::sample::select(vec![0x40u8, 0x50, 0x60, 0x70, 0x80]);
    let message = (kind, code, 0u8..4, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, code, id, rest)| [&[kind, code, 0, id][..], &rest].concat());
    (prop_oneof![4 => message, 1 => prop::collection::vec(any::<u8>(), 0..40)], any::<bool>())
}
