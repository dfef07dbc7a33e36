//! Block-wise transfer in virtual time: against scripted peers, and two endpoints over a lossy line.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::{AssociationId, Peer};
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{
    BlockError, CoapOutput, CoapTableSizes, Code, Endpoint, EndpointEvent, ExchangeId, Failure, Kind, Message,
    MessageId, Options, Parameters, PeerClass, Request, Response, Token, Transmit,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

struct Scene {
    endpoint: Endpoint,
    now: Instant,
    next_id: u16,
}

impl Scene {
    fn new() -> Self {
        Self::with(Parameters::default())
    }

    fn with(parameters: Parameters) -> Self {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self { endpoint: Endpoint::new(parameters, [3; 32]), now, next_id: 1 }
    }

    /// With an observation whose first answer was small.
    fn observing() -> (Self, ExchangeId, Token) {
        let mut scene = Self::new();
        let mut request = Request::new(Code::GET);
        request.options.add_uint(number::OBSERVE, 0);
        let id = scene.send(request);
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::OBSERVE, 1)], b"small");
        assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: Some(1), .. })));
        (scene, id, sent.token)
    }

    fn send(&mut self, request: Request) -> ExchangeId {
        self.endpoint.send_request(self.now, peer(1), request)
    }

    fn answer(&mut self, to: &Message, code: Code, options: &[(u16, u32)], payload: &[u8]) {
        self.receive(message(Kind::Acknowledgement, code, to.id, to.token, options, payload));
    }

    fn notify(&mut self, token: Token, options: &[(u16, u32)], payload: &[u8]) {
        self.next_id += 1;
        let id = MessageId(self.next_id);
        self.receive(message(Kind::NonConfirmable, Code::CONTENT, id, token, options, payload));
    }

    fn receive(&mut self, message: Message) {
        self.endpoint.handle_datagram(self.now, peer(1), &message.encode());
    }

    /// A request of the peer; what it is answered with if that is said at once.
    fn request(&mut self, options: &[(u16, u32)], payload: &[u8]) -> Option<Message> {
        self.next_id += 1;
        let id = MessageId(self.next_id);
        self.receive(message(Kind::Confirmable, Code::POST, id, Token::new(b"r"), options, payload));
        self.maybe_sent()
    }

    fn sent(&mut self) -> Message {
        self.maybe_sent().expect("something is sent")
    }

    fn maybe_sent(&mut self) -> Option<Message> {
        loop {
            match self.endpoint.poll_output()? {
                CoapOutput::Transmit(Transmit { datagram, .. }) => {
                    return Some(Message::decode(&datagram).expect("what leaves is a message"));
                }
                CoapOutput::Outcome(..) | CoapOutput::Retransmitted(_) | CoapOutput::Evicted(_) => {}
            }
        }
    }

    fn event(&mut self) -> Option<EndpointEvent> {
        self.endpoint.poll_event()
    }

    /// Lets time pass without an answer until this message is given up; gives the wait before each of its repetitions.
    fn repetitions(&mut self, message: &Message) -> Vec<Duration> {
        let mut waits = Vec::new();
        let mut last = self.now;
        while let Some(deadline) = self.endpoint.next_deadline() {
            self.now = deadline;
            self.endpoint.handle_timeout(deadline);
            if let Some(sent) = self.maybe_sent() {
                assert_eq!(&sent, message);
                waits.push(self.now - last);
                last = self.now;
            }
        }
        waits
    }

    fn expect_nothing_more(&mut self) {
        assert_eq!((self.maybe_sent(), self.event()), (None, None));
    }
}

fn peer(host: u8) -> Peer {
    Peer::udp(0, SocketAddr::from(([192, 0, 2, host], 5683)))
}

fn message(kind: Kind, code: Code, id: MessageId, token: Token, options: &[(u16, u32)], payload: &[u8]) -> Message {
    let mut all = Options::new();
    for (number, value) in options {
        all.add_uint(*number, *value);
    }
    Message { kind, code, id, token, options: all, payload: payload.to_vec() }
}

fn block(number: u32, more: bool, bytes: u32) -> u32 {
    (number << 4) | (u32::from(more) << 3) | (bytes.ilog2() - 4)
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 251) as u8).collect()
}

fn put(length: usize) -> Request {
    let mut request = Request::new(Code::PUT);
    request.options.add_text(number::URI_PATH, "5");
    request.options.add_uint(number::CONTENT_FORMAT, 42);
    request.payload = body(length);
    request
}

fn block1(message: &Message) -> u32 {
    message.options.uint(number::BLOCK1).expect("an integer").expect("a Block1 option")
}

fn block2(message: &Message) -> u32 {
    message.options.uint(number::BLOCK2).expect("an integer").expect("a Block2 option")
}

#[test]
fn a_large_body_goes_up_block_by_block() {
    let mut scene = Scene::new();
    let exchange = scene.send(put(2500));
    let first = scene.sent();
    assert_eq!((block1(&first), first.options.uint(number::SIZE1)), (block(0, true, 1024), Ok(Some(2500))));
    assert_eq!(first.payload, body(2500)[..1024]);
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 1024))], b"");

    let second = scene.sent();
    assert_eq!((block1(&second), &second.payload[..]), (block(1, true, 1024), &body(2500)[1024..2048]));
    assert_eq!(second.options.first(number::URI_PATH), Some(&b"5"[..]));
    assert_ne!((second.token, second.id), (first.token, first.id));
    scene.answer(&second, Code::CONTINUE, &[(number::BLOCK1, block(1, true, 1024))], b"");

    let last = scene.sent();
    assert_eq!((block1(&last), &last.payload[..]), (block(2, false, 1024), &body(2500)[2048..]));
    scene.answer(&last, Code::CHANGED, &[(number::BLOCK1, block(2, false, 1024))], b"");
    let response = Response::new(Code::CHANGED);
    assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);
}

#[test]
fn the_device_may_ask_for_smaller_blocks_on_the_way() {
    let mut scene = Scene::new();
    scene.send(put(2048));
    let first = scene.sent();
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 256))], b"");
    for number in 4..8 {
        let sent = scene.sent();
        assert_eq!(block1(&sent), block(number, number < 7, 256));
        assert_eq!(sent.payload, body(2048)[number as usize * 256..][..256]);
        let code = if number < 7 { Code::CONTINUE } else { Code::CHANGED };
        scene.answer(&sent, code, &[(number::BLOCK1, block(number, number < 7, 256))], b"");
    }
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { .. })));
    scene.expect_nothing_more();
}

#[test]
fn too_large_a_first_block_begins_again_with_the_size_of_the_device() {
    let mut scene = Scene::new();
    scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::REQUEST_ENTITY_TOO_LARGE, &[(number::BLOCK1, block(0, true, 64))], b"");
    let again = scene.sent();
    assert_eq!((block1(&again), again.payload.len()), (block(0, true, 64), 64));

    scene.answer(&again, Code::REQUEST_ENTITY_TOO_LARGE, &[], b"");
    let told = scene.event();
    assert!(
        matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_TOO_LARGE),
        "without a smaller size it is the answer: {told:?}"
    );
    scene.expect_nothing_more();
}

#[test]
fn an_incomplete_body_is_sent_again_once() {
    let mut scene = Scene::new();
    scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 1024))], b"");
    let second = scene.sent();
    scene.answer(&second, Code::REQUEST_ENTITY_INCOMPLETE, &[], b"");
    let again = scene.sent();
    assert_eq!(block1(&again), block(0, true, 1024));
    scene.answer(&again, Code::REQUEST_ENTITY_INCOMPLETE, &[], b"");
    let told = scene.event();
    assert!(
        matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_INCOMPLETE),
        "{told:?}"
    );
    scene.expect_nothing_more();
}

#[test]
fn an_error_in_the_middle_is_the_answer() {
    let mut scene = Scene::new();
    scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::FORBIDDEN, &[], b"no");
    assert!(
        matches!(scene.event(), Some(EndpointEvent::Response { response, .. }) if response.code == Code::FORBIDDEN && response.payload == b"no")
    );
    scene.expect_nothing_more();
}

#[test]
fn an_acknowledged_body_is_told_once_and_a_lost_block_ends_it() {
    let mut scene = Scene::new();
    let exchange = scene.send(put(1500));
    let first = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, first.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange }));
    let next = message(
        Kind::NonConfirmable,
        Code::CONTINUE,
        MessageId(900),
        first.token,
        &[(number::BLOCK1, block(0, true, 1024))],
        b"",
    );
    scene.receive(next);
    let second = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, second.id));
    scene.expect_nothing_more();

    while let Some(deadline) = scene.endpoint.next_deadline() {
        scene.now = deadline;
        scene.endpoint.handle_timeout(deadline);
    }
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_first_block_is_repeated_as_any_request_and_a_further_one_twice_as_often() {
    let mut scene = Scene::new();
    let exchange = scene.send(put(1500));
    let first = scene.sent();
    assert_eq!(scene.repetitions(&first).len(), 4);
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));

    let exchange = scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 1024))], b"");
    let begun = scene.now;
    let second = scene.sent();
    let waits = scene.repetitions(&second);
    assert_eq!(waits.len(), 8);
    assert!(waits.windows(2).take(4).all(|two| two[1] == two[0] * 2), "{waits:?}");
    assert!(waits[4..].iter().all(|wait| *wait == waits[4]), "{waits:?}");
    let lifetime = Parameters::default().exchange_lifetime();
    assert!(waits.iter().sum::<Duration>() < lifetime, "the peer takes it for a repetition: {waits:?}");
    assert!(scene.now - begun < 2 * lifetime);
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_large_answer_is_fetched_to_its_end() {
    let mut scene = Scene::new();
    let mut request = Request::new(Code::GET);
    request.options.add_text(number::URI_PATH, "3");
    request.options.add_uint(number::OBSERVE, 0);
    let exchange = scene.send(request);
    let first = scene.sent();
    let options = [(number::OBSERVE, 7), (number::BLOCK2, block(0, true, 64)), (number::ETAG, 5)];
    scene.answer(&first, Code::CONTENT, &options, &body(150)[..64]);

    for number in 1..3u32 {
        let next = scene.sent();
        assert_eq!((block2(&next), next.code), (block(number, false, 64), Code::GET));
        assert_eq!(next.options.first(number::URI_PATH), Some(&b"3"[..]));
        assert!(!next.options.contains(number::OBSERVE), "a block is no observation of its own");
        let part = &body(150)[number as usize * 64..150.min(number as usize * 64 + 64)];
        let options = [(number::BLOCK2, block(number, number < 2, 64)), (number::ETAG, 5)];
        scene.answer(&next, Code::CONTENT, &options, part);
    }
    let Some(EndpointEvent::Response { exchange: told, response, observing }) = scene.event() else {
        panic!("no response")
    };
    assert_eq!((told, response.payload, observing), (exchange, body(150), Some(7)));
    assert!(!response.options.contains(number::BLOCK2));
    scene.expect_nothing_more();
}

#[test]
fn a_body_that_changes_is_fetched_anew_once() {
    let mut scene = Scene::new();
    scene.send(Request::new(Code::GET));
    let first = scene.sent();
    scene.answer(&first, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64)), (number::ETAG, 1)], &body(64));
    let second = scene.sent();
    scene.answer(&second, Code::CONTENT, &[(number::BLOCK2, block(1, false, 64)), (number::ETAG, 2)], b"new");
    let again = scene.sent();
    assert_eq!(block2(&again), block(0, false, 64));
    scene.answer(&again, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64)), (number::ETAG, 2)], &body(64));
    let rest = scene.sent();
    scene.answer(&rest, Code::CONTENT, &[(number::BLOCK2, block(1, false, 64)), (number::ETAG, 3)], b"newer");
    assert!(matches!(scene.event(), Some(EndpointEvent::Failed { error: Failure::Transfer(BlockError::Changed), .. })));
    scene.expect_nothing_more();
}

/// Options of a response, the bytes of its payload, and what is wrong with them.
type Misfit<'a> = (&'a [(u16, u32)], usize, BlockError);

#[test]
fn blocks_that_do_not_fit_together_fail_the_transfer() {
    let cases: [Misfit; 4] = [
        (&[(number::BLOCK2, block(3, true, 64))], 64, BlockError::OutOfOrder),
        (&[(number::BLOCK2, block(1, true, 64))], 63, BlockError::OutOfOrder),
        (&[(number::BLOCK2, block(1, false, 64))], 65, BlockError::OutOfOrder),
        (&[(number::BLOCK2, 7)], 1, BlockError::Malformed),
    ];
    for (options, length, error) in cases {
        let mut scene = Scene::new();
        let exchange = scene.send(Request::new(Code::GET));
        let first = scene.sent();
        scene.answer(&first, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64))], &body(64));
        let second = scene.sent();
        scene.answer(&second, Code::CONTENT, options, &body(length));
        assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error: error.into() }), "{options:?}");
        scene.expect_nothing_more();
        assert_eq!(scene.endpoint.next_deadline(), None);
    }
}

/// Some devices answer 5.03 to everything until their transfer has ended (eclipse-leshan and others).
#[test]
fn a_body_beyond_the_limit_is_fetched_to_its_end_and_discarded() {
    let mut scene = Scene::with(Parameters { received_body_size: 100, ..Parameters::default() });
    let exchange = scene.send(Request::new(Code::GET));
    for number in 0..5 {
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, number < 4, 64))], &body(64));
        let held = scene.endpoint.table_sizes().block_transfer_bytes;
        assert_eq!(held, if number == 0 { 64 } else { 0 }, "what is discarded is not held");
    }
    let error = Failure::Discarded { size: 320, limit: 100 };
    assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }));
    let told = error.to_string();
    assert!(told.contains("320 bytes") && told.contains("coap.received_body_size is 100"), "{told}");
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);
}

#[test]
fn a_body_that_has_no_end_is_given_up_after_16_mebibytes() {
    let mut scene = Scene::new();
    let exchange = scene.send(Request::new(Code::GET));
    for number in 0..16 * 1024 {
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, true, 1024))], &body(1024));
        assert!(scene.endpoint.table_sizes().block_transfer_bytes <= 1024 * 1024);
    }
    let error = BlockError::TooLarge.into();
    assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }));
    scene.expect_nothing_more();
}

#[test]
fn a_body_beyond_the_room_for_all_bodies_fails_with_the_reason() {
    let parameters = Parameters { received_body_size: 100, block_transfer_bytes: 200, ..Parameters::default() };
    let mut scene = Scene::with(parameters);
    let mut fetches = Vec::new();
    for host in 1..=3 {
        let exchange = scene.endpoint.send_request(scene.now, peer(host), Request::new(Code::GET));
        let sent = scene.sent();
        fetches.push((exchange, sent.clone()));
        let first = message(
            Kind::Acknowledgement,
            Code::CONTENT,
            sent.id,
            sent.token,
            &[(number::BLOCK2, block(0, true, 64))],
            &body(64),
        );
        scene.endpoint.handle_datagram(scene.now, peer(host), &first.encode());
        scene.sent();
    }
    assert_eq!(scene.endpoint.table_sizes().block_transfer_bytes, 192);
    scene.expect_nothing_more();
    let exchange = scene.endpoint.send_request(scene.now, peer(4), Request::new(Code::GET));
    let sent = scene.sent();
    let options = [(number::BLOCK2, block(0, true, 16))];
    let first = message(Kind::Acknowledgement, Code::CONTENT, sent.id, sent.token, &options, &body(16));
    scene.endpoint.handle_datagram(scene.now, peer(4), &first.encode());
    let error = Failure::Transfer(BlockError::NoRoom);
    assert!(error.to_string().contains("coap.block_transfer_bytes"));
    assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }));

    // An end of another one makes room.
    scene.endpoint.forget(fetches[0].0);
    assert_eq!(scene.endpoint.table_sizes().block_transfer_bytes, 128);
}

#[test]
fn notifications_keep_their_order_while_the_body_of_one_is_fetched() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::ETAG, 7), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    assert_ne!(fetch.token, token);
    scene.notify(token, &[(number::OBSERVE, 3)], b"small");
    scene.expect_nothing_more();

    scene.answer(&fetch, Code::CONTENT, &[(number::ETAG, 7), (number::BLOCK2, block(1, false, 16))], b"end");
    let told: Vec<_> = std::iter::from_fn(|| scene.event())
        .map(|event| match event {
            EndpointEvent::Notification { observation: of, number, response, .. } if of == observation => {
                (number, response.payload)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(Some(2), [&body(16)[..], b"end"].concat()), (Some(3), b"small".to_vec())]);
    scene.expect_nothing_more();
}

#[test]
fn a_notification_waits_for_the_first_answer_whose_body_is_fetched() {
    let mut scene = Scene::new();
    let mut request = Request::new(Code::GET);
    request.options.add_uint(number::OBSERVE, 0);
    scene.send(request);
    let first = scene.sent();
    let options = [(number::OBSERVE, 1), (number::ETAG, 7), (number::BLOCK2, block(0, true, 16))];
    scene.answer(&first, Code::CONTENT, &options, &body(16));
    let fetch = scene.sent();
    scene.notify(first.token, &[(number::OBSERVE, 2)], b"two");
    scene.expect_nothing_more();
    scene.answer(&fetch, Code::CONTENT, &[(number::ETAG, 7), (number::BLOCK2, block(1, false, 16))], b"end");
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: Some(1), .. })));
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(2), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_whose_body_cannot_be_fetched_is_told_as_such() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    scene.receive(Message::empty(Kind::Reset, fetch.id));
    let (error, over) = (BlockError::OutOfOrder.into(), false);
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationFailed { observation, number: Some(2), error, over }));
    scene.notify(token, &[(number::OBSERVE, 3)], b"goes on");
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(3), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_forgotten_observation_fetches_nothing_more() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    scene.endpoint.forget(observation);
    scene.answer(&fetch, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"end");
    scene.expect_nothing_more();
}

#[test]
fn a_body_of_a_device_is_told_when_it_is_whole_and_the_answer_has_its_last_block() {
    let mut scene = Scene::new();
    let first = scene.request(&[(number::BLOCK1, block(0, true, 32))], &body(32)).expect("an answer");
    assert_eq!((first.code, block1(&first)), (Code::CONTINUE, block(0, true, 32)));
    assert_eq!(scene.request(&[(number::BLOCK1, block(1, false, 32))], b"end"), None);
    let Some(EndpointEvent::Request { id, request, .. }) = scene.event() else { panic!("no request") };
    assert_eq!(request.payload, [&body(32)[..], b"end"].concat());
    assert!(!request.options.contains(number::BLOCK1));
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let answer = scene.sent();
    assert_eq!((answer.code, block1(&answer)), (Code::CREATED, block(1, false, 32)));
    scene.expect_nothing_more();
}

#[test]
fn a_first_block_larger_than_ours_is_answered_with_our_size() {
    let mut scene = Scene::with(Parameters { block_size: 64, ..Parameters::default() });
    let first = scene.request(&[(number::BLOCK1, block(0, true, 128))], &body(128)).expect("an answer");
    assert_eq!((first.code, block1(&first)), (Code::CONTINUE, block(0, true, 64)));
    assert_eq!(scene.request(&[(number::BLOCK1, block(2, false, 64))], b"end"), None);
    assert!(matches!(scene.event(), Some(EndpointEvent::Request { request, .. }) if request.payload.len() == 131));
}

/// Blocks with the bytes of their payloads, and what the last of them is answered.
type Refused<'a> = (&'a [(u32, usize)], Code, BlockError);

#[test]
fn a_body_that_does_not_fit_together_or_is_too_large_is_refused() {
    let limited = Parameters { received_body_size: 64, block_uploads: 1, ..Parameters::default() };
    let cases: [Refused; 4] = [
        (&[(block(1, true, 32), 32)], Code::REQUEST_ENTITY_INCOMPLETE, BlockError::OutOfOrder),
        (
            &[(block(0, true, 16), 16), (block(2, true, 16), 16)],
            Code::REQUEST_ENTITY_INCOMPLETE,
            BlockError::OutOfOrder,
        ),
        (&[(block(0, true, 16), 15)], Code::BAD_REQUEST, BlockError::OutOfOrder),
        (&[(block(0, true, 64), 64), (block(1, false, 64), 1)], Code::REQUEST_ENTITY_TOO_LARGE, BlockError::TooLarge),
    ];
    for (blocks, code, error) in cases {
        let mut scene = Scene::with(limited.clone());
        let mut last = None;
        for (value, length) in blocks {
            last = scene.request(&[(number::BLOCK1, *value)], &body(*length));
        }
        assert_eq!(last.map(|answer| answer.code), Some(code), "{blocks:?}");
        assert_eq!(scene.event(), Some(EndpointEvent::BodyRefused { peer: peer(1), error }));
        scene.expect_nothing_more();
    }
}

#[test]
fn bodies_under_way_are_bounded_and_forgotten_in_time() {
    let mut scene = Scene::with(Parameters { block_uploads: 1, ..Parameters::default() });
    scene.request(&[(number::BLOCK1, block(0, true, 16))], &body(16));
    let other = message(
        Kind::Confirmable,
        Code::POST,
        MessageId(1),
        Token::EMPTY,
        &[(number::BLOCK1, block(0, true, 16))],
        &body(16),
    );
    scene.endpoint.handle_datagram(scene.now, peer(2), &other.encode());
    assert_eq!(scene.sent().code, Code::SERVICE_UNAVAILABLE);
    assert_eq!(scene.event(), Some(EndpointEvent::BodyRefused { peer: peer(2), error: BlockError::TooMany }));

    while let Some(deadline) = scene.endpoint.next_deadline() {
        scene.now = deadline;
        scene.endpoint.handle_timeout(deadline);
    }
    let late = scene.request(&[(number::BLOCK1, block(1, false, 16))], b"end").expect("an answer");
    assert_eq!(late.code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn our_large_answer_is_served_in_blocks() {
    let mut scene = Scene::with(Parameters { block_size: 64, ..Parameters::default() });
    let mut received = Vec::new();
    for number in 0..3 {
        let asked = (number > 0).then_some((number::BLOCK2, block(number, false, 64)));
        assert_eq!(scene.request(asked.as_slice(), b""), None);
        let Some(EndpointEvent::Request { id, .. }) = scene.event() else { panic!("no request") };
        let response = Response { payload: body(150), ..Response::new(Code::CONTENT) };
        scene.endpoint.respond(scene.now, id, response);
        let answer = scene.sent();
        assert_eq!(block2(&answer), block(number, number < 2, 64));
        received.extend(answer.payload);
    }
    assert_eq!(received, body(150));
}

// --- A body is of one state ---------------------------------------------------------------------------------------------

/// Of a device without ETag, which answers each block from its present state.
#[test]
fn a_newer_notification_ends_the_fetch_of_the_older_one() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &[b'O'; 16]);
    let older = scene.sent();
    scene.notify(token, &[(number::OBSERVE, 3), (number::BLOCK2, block(0, true, 16))], &[b'N'; 16]);
    let newer = scene.sent();
    assert_ne!(newer.token, older.token);
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationSuperseded { observation }));
    scene.answer(&older, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], &[b'N'; 16]);
    scene.expect_nothing_more();
    scene.answer(&newer, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], &[b'N'; 16]);
    let Some(EndpointEvent::Notification { number, response, .. }) = scene.event() else { panic!("no notification") };
    assert_eq!((number, response.payload), (Some(3), vec![b'N'; 32]));
    scene.expect_nothing_more();
}

#[test]
fn a_newer_notification_in_one_message_ends_the_fetch_too() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &[b'O'; 16]);
    scene.sent();
    scene.notify(token, &[(number::OBSERVE, 3)], b"small");
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationSuperseded { observation }));
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(3), .. })));
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.table_sizes().transfers, 0, "nothing is fetched any more");
}

#[test]
fn a_notification_that_waited_with_a_newer_one_behind_it_is_not_fetched() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::ETAG, 7), (number::BLOCK2, block(0, true, 16))], &body(16));
    let tagged = scene.sent();
    scene.notify(token, &[(number::OBSERVE, 3), (number::BLOCK2, block(0, true, 16))], &[b'O'; 16]);
    scene.notify(token, &[(number::OBSERVE, 4)], b"small");
    scene.expect_nothing_more();
    scene.answer(&tagged, Code::CONTENT, &[(number::ETAG, 7), (number::BLOCK2, block(1, false, 16))], b"end");
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(2), .. })));
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationSuperseded { observation }));
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(4), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_is_the_answer_whose_body_was_being_fetched() {
    for rest in [false, true] {
        let mut scene = Scene::new();
        let mut request = Request::new(Code::GET);
        request.options.add_uint(number::OBSERVE, 0);
        let exchange = scene.send(request);
        let first = scene.sent();
        let options = [(number::OBSERVE, 1), (number::BLOCK2, block(0, true, 16))];
        scene.answer(&first, Code::CONTENT, &options, &[b'O'; 16]);
        let older = scene.sent();
        let newer = [(number::OBSERVE, 2), (number::BLOCK2, block(0, rest, 16))];
        scene.notify(first.token, &newer, &[b'N'; 16]);
        if rest {
            let newer = scene.sent();
            scene.answer(&older, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"N");
            scene.expect_nothing_more();
            scene.answer(&newer, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"N");
        }
        let Some(EndpointEvent::Response { exchange: told, response, observing }) = scene.event() else {
            panic!("no answer")
        };
        assert_eq!((told, observing, response.payload), (exchange, Some(2), vec![b'N'; 16 + usize::from(rest)]));
        scene.notify(first.token, &[(number::OBSERVE, 3)], b"goes on");
        assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(3), .. })));
        scene.expect_nothing_more();
    }
}

#[test]
fn that_no_body_can_be_fetched_between_notifications_is_told_now_and_then() {
    let (mut scene, observation, token) = Scene::observing();
    let mut told = Vec::new();
    for number in 2..20 {
        scene.notify(token, &[(number::OBSERVE, number), (number::BLOCK2, block(0, true, 16))], &body(16));
        scene.sent();
        told.extend(scene.event());
    }
    let error = Failure::from(BlockError::Superseded);
    let failed = |number| EndpointEvent::NotificationFailed { observation, number: Some(number), error, over: false };
    let superseded = EndpointEvent::NotificationSuperseded { observation };
    assert_eq!(told.len(), 17);
    assert_eq!((&told[7], &told[15]), (&failed(9), &failed(17)));
    assert_eq!(told.iter().filter(|event| **event == superseded).count(), 15);
}

/// RFC 7252 section 5.10.6.1.
#[test]
fn an_absent_etag_makes_no_statement() {
    let tags: [&[Option<u32>]; 4] =
        [&[Some(5), None, None], &[None, Some(5), Some(5)], &[Some(5), None, Some(5)], &[None, Some(5), None]];
    for tags in tags {
        let mut scene = Scene::new();
        scene.send(Request::new(Code::GET));
        for (number, tag) in (0..).zip(tags) {
            let sent = scene.sent();
            let mut options = vec![(number::BLOCK2, block(number, number < 2, 16))];
            options.extend(tag.map(|tag| (number::ETAG, tag)));
            scene.answer(&sent, Code::CONTENT, &options, &body(16));
        }
        let told = scene.event();
        assert!(
            matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.payload.len() == 48),
            "{told:?}"
        );
        scene.expect_nothing_more();
    }
    // A tag that a later block brings is compared with those after it.
    let mut scene = Scene::new();
    scene.send(Request::new(Code::GET));
    for (number, tag) in [(0, None), (1, Some(5)), (2, Some(6))] {
        let sent = scene.sent();
        let mut options = vec![(number::BLOCK2, block(number, true, 16))];
        options.extend(tag.map(|tag| (number::ETAG, tag)));
        scene.answer(&sent, Code::CONTENT, &options, &body(16));
    }
    assert_eq!(block2(&scene.sent()), block(0, false, 16), "from the beginning");
}

/// wakaama: the first block as SenML JSON, the next ones as TLV.
#[test]
fn blocks_of_another_content_format_are_not_glued_together() {
    let mut scene = Scene::new();
    scene.send(Request::new(Code::GET));
    let answer = |scene: &mut Scene, format: Option<u32>, number, more, payload: &[u8]| {
        let sent = scene.sent();
        let mut options = vec![(number::BLOCK2, block(number, more, 16))];
        options.extend(format.map(|format| (number::CONTENT_FORMAT, format)));
        assert_eq!(block2_or_first(&sent), block(number, false, 16) >> 4);
        scene.answer(&sent, Code::CONTENT, &options, payload);
    };
    answer(&mut scene, Some(110), 0, true, &[b'['; 16]);
    answer(&mut scene, Some(11542), 1, true, &[1; 16]);
    answer(&mut scene, Some(11542), 0, true, &[0; 16]);
    answer(&mut scene, Some(11542), 1, true, &[1; 16]);
    answer(&mut scene, None, 2, false, &[2; 3]);
    let Some(EndpointEvent::Response { response, .. }) = scene.event() else { panic!("no response") };
    assert_eq!(response.options.content_format(), Some(11542));
    assert_eq!(response.payload, [&[0; 16][..], &[1; 16], &[2; 3]].concat());
    scene.expect_nothing_more();
}

/// The number of the block that is asked for.
fn block2_or_first(message: &Message) -> u32 {
    message.options.uint(number::BLOCK2).expect("an integer").unwrap_or_default() >> 4
}

// --- 4.13 to a request in one message (RFC 7959 section 2.9.3) ----------------------------------------------------------

#[test]
fn a_request_that_is_too_large_for_one_message_goes_again_in_blocks() {
    // The bytes that were sent, the options of 4.13, and the size of the blocks.
    type HintOptions<'a> = &'a [(u16, u32)];
    let cases: [(usize, HintOptions, u32); 6] = [
        (300, &[(number::BLOCK1, block(0, false, 128))], 128),
        (300, &[(number::BLOCK1, block(0, true, 64)), (number::SIZE1, 200)], 64),
        (300, &[], 128),
        (300, &[(number::BLOCK1, block(0, false, 512))], 128),
        (300, &[(number::SIZE1, 4096)], 128),
        (17, &[], 16),
    ];
    for (length, options, size) in cases {
        let mut scene = Scene::new();
        let exchange = scene.send(put(length));
        let whole = scene.sent();
        assert_eq!((whole.payload.len(), whole.options.contains(number::BLOCK1)), (length, false));
        scene.answer(&whole, Code::REQUEST_ENTITY_TOO_LARGE, options, b"");
        let mut received = Vec::new();
        loop {
            let sent = scene.sent();
            let value = block1(&sent);
            assert_eq!(
                (value & 7, sent.options.content_format()),
                (size.ilog2() - 4, Some(42)),
                "{length} {options:?}"
            );
            received.extend(sent.payload.clone());
            let more = value & 8 != 0;
            let code = if more { Code::CONTINUE } else { Code::CHANGED };
            scene.answer(&sent, code, &[(number::BLOCK1, value)], b"");
            if !more {
                break;
            }
        }
        assert_eq!(received, body(length));
        let response = Response::new(Code::CHANGED);
        assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
        scene.expect_nothing_more();
    }
}

#[test]
fn blocks_that_would_not_help_are_not_tried() {
    let too_large = |told: &Option<EndpointEvent>| matches!(told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_TOO_LARGE);
    let cases: [(usize, &[(u16, u32)]); 3] = [(16, &[]), (0, &[]), (300, &[(number::SIZE1, 200)])];
    for (length, options) in cases {
        let mut scene = Scene::new();
        scene.send(put(length));
        let whole = scene.sent();
        scene.answer(&whole, Code::REQUEST_ENTITY_TOO_LARGE, options, b"");
        let told = scene.event();
        assert!(too_large(&told), "{length}: {told:?}");
        scene.expect_nothing_more();
    }
    // Blocks that are too large as well, without a smaller size, are the end.
    let mut scene = Scene::new();
    scene.send(put(300));
    for _ in 0..2 {
        let sent = scene.sent();
        scene.answer(&sent, Code::REQUEST_ENTITY_TOO_LARGE, &[], b"");
    }
    assert!(too_large(&scene.event()));
    scene.expect_nothing_more();
}

#[test]
fn a_success_before_the_last_block_or_2_31_after_it_is_a_failure() {
    let cases: [(usize, &[(Code, bool)]); 5] = [
        (1500, &[(Code::CHANGED, false)]),
        (1500, &[(Code::CREATED, false)]),
        (2500, &[(Code::CONTINUE, true), (Code::CHANGED, false)]),
        (1500, &[(Code::CONTINUE, true), (Code::CONTINUE, true)]),
        (10, &[(Code::CONTINUE, false)]),
    ];
    for (length, answers) in cases {
        let mut scene = Scene::new();
        let exchange = scene.send(put(length));
        for (code, with_block) in answers {
            let sent = scene.sent();
            let options: Vec<_> = sent.options.uint(number::BLOCK1).expect("an integer").into_iter().collect();
            let options: Vec<_> =
                options.iter().filter(|_| *with_block).map(|value| (number::BLOCK1, *value)).collect();
            scene.answer(&sent, *code, &options, b"");
        }
        let error = Failure::Transfer(BlockError::Unfinished);
        assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }), "{length} {answers:?}");
        scene.expect_nothing_more();
    }
}

// --- Bodies of peers ----------------------------------------------------------------------------------------------------

#[test]
fn a_block_that_came_already_is_answered_as_before() {
    let mut scene = Scene::new();
    let blocks = [(block(0, true, 32), &body(96)[..32]), (block(1, true, 32), &body(96)[32..64])];
    for (value, payload) in [blocks[0], blocks[1], blocks[1]] {
        let answer = scene.request(&[(number::BLOCK1, value)], payload).expect("an answer");
        assert_eq!((answer.code, block1(&answer)), (Code::CONTINUE, value));
    }
    let last = [(number::BLOCK1, block(2, false, 32))];
    assert_eq!(scene.request(&last, b"end"), None);
    let Some(EndpointEvent::Request { id, request, .. }) = scene.event() else { panic!("no request") };
    assert_eq!(request.payload, [&body(96)[..64], b"end"].concat());
    // Before the answer is there, and after it.
    assert_eq!(scene.request(&last, b"end"), None);
    let mut created = Response::new(Code::CREATED);
    created.options.add_text(number::LOCATION_PATH, "rd");
    scene.endpoint.respond(scene.now, id, created);
    let answers = [scene.sent(), scene.sent(), scene.request(&last, b"end").expect("an answer")];
    for answer in &answers {
        assert_eq!((answer.code, block1(answer)), (Code::CREATED, block(2, false, 32)));
        assert_eq!(answer.options.first(number::LOCATION_PATH), Some(&b"rd"[..]));
    }
    assert!(answers[0].id != answers[1].id && answers[1].id != answers[2].id);
    scene.expect_nothing_more();

    // Another last block is none of this body.
    let other = scene.request(&last, b"END").expect("an answer");
    assert_eq!(other.code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn a_block_that_comes_again_with_other_bytes_is_refused_and_a_first_one_begins_anew() {
    let mut scene = Scene::new();
    scene.request(&[(number::BLOCK1, block(0, true, 16))], &[1; 16]);
    scene.request(&[(number::BLOCK1, block(1, true, 16))], &[2; 16]);
    let other = scene.request(&[(number::BLOCK1, block(1, true, 16))], &[3; 16]).expect("an answer");
    assert_eq!(other.code, Code::REQUEST_ENTITY_INCOMPLETE);
    scene.event();

    scene.request(&[(number::BLOCK1, block(0, true, 16))], &[1; 16]);
    scene.request(&[(number::BLOCK1, block(1, true, 16))], &[2; 16]);
    for value in [block(0, true, 16), block(1, true, 16)] {
        assert_eq!(scene.request(&[(number::BLOCK1, value)], &[4; 16]).map(|answer| answer.code), Some(Code::CONTINUE));
    }
    assert_eq!(scene.request(&[(number::BLOCK1, block(2, false, 16))], b"end"), None);
    assert!(
        matches!(scene.event(), Some(EndpointEvent::Request { request, .. }) if request.payload == [&[4; 32][..], b"end"].concat())
    );
}

#[test]
fn repeated_last_blocks_leave_nothing_behind() {
    let mut scene = Scene::new();
    scene.request(&[(number::BLOCK1, block(0, true, 16))], &[1; 16]);
    let last = [(number::BLOCK1, block(1, false, 16))];
    for _ in 0..4 {
        scene.request(&last, b"end");
    }
    let Some(EndpointEvent::Request { id, .. }) = scene.event() else { panic!("no request") };
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    while scene.maybe_sent().is_some() {}
    assert_eq!(scene.endpoint.table_sizes().pending_requests, 0);
    while let Some(deadline) = scene.endpoint.next_deadline() {
        scene.now = deadline;
        scene.endpoint.handle_timeout(deadline);
        while scene.maybe_sent().is_some() {}
    }
    scene.endpoint.handle_timeout(scene.now + Duration::from_secs(1000));
    assert_eq!(scene.endpoint.table_sizes(), CoapTableSizes::default());
}

/// The first block of a body of an unregistered peer; what it is answered with.
fn unregistered_block(scene: &mut Scene, from: Peer, number: u32) -> Code {
    let options = [(number::BLOCK1, block(number, true, 16))];
    let first = message(Kind::Confirmable, Code::POST, MessageId(number as u16), Token::EMPTY, &options, &body(16));
    let datagram = first.encode();
    scene.endpoint.handle_decoded(scene.now, from, PeerClass::Unregistered, Message::decode(&datagram), &datagram);
    scene.sent().code
}

fn unregistered(address: u32, port: u16) -> Peer {
    let [_, b, c, d] = address.to_be_bytes();
    Peer::udp(0, SocketAddr::from(([10, b, c, d], port)))
}

#[test]
fn bodies_of_unregistered_peers_take_no_room_of_others_and_the_oldest_goes() {
    let mut scene = Scene::with(Parameters { block_uploads: 200, ..Parameters::default() });
    let over_dtls = Peer { association: Some(AssociationId(7)), ..unregistered(1, 1) };
    assert_eq!(unregistered_block(&mut scene, over_dtls, 0), Code::CONTINUE);
    // One that went on stays while there are others that did not.
    let going_on = unregistered(2, 1);
    assert_eq!(unregistered_block(&mut scene, going_on, 0), Code::CONTINUE);
    assert_eq!(unregistered_block(&mut scene, going_on, 1), Code::CONTINUE);
    for number in 0..510 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1000 + number, 1), 0), Code::CONTINUE);
    }
    let evicted = std::iter::from_fn(|| scene.event())
        .filter(|event| matches!(event, EndpointEvent::BodyRefused { error: BlockError::Evicted, .. }));
    assert_eq!(evicted.count(), 510 - 99);
    assert_eq!(scene.endpoint.table_sizes().assemblies, 101, "half of the room, and the one over DTLS");
    assert_eq!(unregistered_block(&mut scene, over_dtls, 1), Code::CONTINUE);
    assert_eq!(unregistered_block(&mut scene, going_on, 2), Code::CONTINUE);
    assert_eq!(unregistered_block(&mut scene, unregistered(1000, 1), 1), Code::REQUEST_ENTITY_INCOMPLETE);
    // Those that are known have all of their room.
    for host in 1..=200 {
        let options = [(number::BLOCK1, block(0, true, 16))];
        let first = message(Kind::Confirmable, Code::POST, MessageId(1), Token::EMPTY, &options, &body(16));
        scene.endpoint.handle_datagram(scene.now, peer(host), &first.encode());
        assert_eq!(scene.sent().code, Code::CONTINUE);
    }
    scene.now += Duration::from_secs(31);
    scene.endpoint.handle_timeout(scene.now);
    assert_eq!(scene.endpoint.table_sizes().assemblies, 200, "unregistered peers have seconds");
}

#[test]
fn an_address_may_have_what_nobody_else_wants_and_its_share_beyond_half() {
    let mut scene = Scene::with(Parameters { block_uploads: 200, ..Parameters::default() });
    for port in 1..=60 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1, port), 0), Code::CONTINUE);
    }
    // Half of a hundred is there: each further one of this address replaces one of its own.
    assert_eq!(scene.endpoint.table_sizes().assemblies, 50);
    for number in 0..50 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1000 + number, 1), 0), Code::CONTINUE);
    }
    assert_eq!(scene.endpoint.table_sizes().assemblies, 100);
    for port in 100..200 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1, port), 0), Code::CONTINUE);
    }
    for number in 0..50 {
        assert_eq!(
            unregistered_block(&mut scene, unregistered(1000 + number, 1), 1),
            Code::CONTINUE,
            "others keep theirs"
        );
    }
}

#[test]
fn bodies_of_unregistered_peers_give_way_to_what_was_asked_for() {
    let parameters = Parameters { block_transfer_bytes: 4096, received_body_size: 4096, ..Parameters::default() };
    let mut scene = Scene::with(parameters);
    for number in 0..40 {
        unregistered_block(&mut scene, unregistered(number, 1), 0);
    }
    let of_unregistered = scene.endpoint.table_sizes().block_transfer_bytes;
    assert_eq!(of_unregistered, 512, "an eighth of all");
    scene.send(Request::new(Code::GET));
    for number in 0..4 {
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, number < 3, 1024))], &body(1024));
        assert!(scene.endpoint.table_sizes().block_transfer_bytes <= 4096);
    }
    let answered = std::iter::from_fn(|| scene.event()).find(|event| matches!(event, EndpointEvent::Response { .. }));
    assert!(answered.is_some());
}

// --- Two endpoints ------------------------------------------------------------------------------------------------------

/// When a datagram arrives, its number, the end that it goes to, and its bytes.
type UnderWay = (Instant, u64, usize, Vec<u8>);

/// Two endpoints and the line between them; what is under way is in the order of its arrival.
struct Line {
    ends: [Endpoint; 2],
    now: Instant,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    rng: StdRng,
    loss: f64,
    sent: u64,
}

impl Line {
    fn new(seed: u64, loss: f64, sizes: [usize; 2]) -> Self {
        let parameters = |block_size| Parameters { block_size, received_body_size: 1 << 21, ..Parameters::default() };
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self {
            ends: [Endpoint::new(parameters(sizes[0]), [1; 32]), Endpoint::new(parameters(sizes[1]), [2; 32])],
            now,
            under_way: BinaryHeap::new(),
            rng: StdRng::seed_from_u64(seed),
            loss,
            sent: 0,
        }
    }

    /// Carries what an end has to say: lost, doubled or late by chance.
    fn carry(&mut self, from: usize) {
        while let Some(output) = self.ends[from].poll_output() {
            let CoapOutput::Transmit(Transmit { datagram, .. }) = output else { continue };
            let copies = if self.rng.random_bool(self.loss / 2.0) { 2 } else { 1 };
            for _ in 0..copies {
                if !self.rng.random_bool(self.loss) {
                    self.sent += 1;
                    let late = Duration::from_millis(self.rng.random_range(10..300));
                    self.under_way.push(Reverse((self.now + late, self.sent, 1 - from, datagram.clone())));
                }
            }
        }
    }

    /// To the next moment at which something happens. False when nothing ever will.
    fn step(&mut self) -> bool {
        self.carry(0);
        self.carry(1);
        let arrival = self.under_way.peek().map(|next| next.0.0);
        let deadlines = [self.ends[0].next_deadline(), self.ends[1].next_deadline()];
        let Some(next) = deadlines.into_iter().chain([arrival]).flatten().min() else { return false };
        self.now = next;
        if arrival == Some(next) {
            let Reverse((_, _, to, datagram)) = self.under_way.pop().expect("it was seen");
            self.ends[to].handle_datagram(next, peer(1 - to as u8), &datagram);
        } else {
            self.ends.iter_mut().for_each(|end| end.handle_timeout(next));
        }
        true
    }
}

/// Sends a body, which is compared where it arrives, and gives what came of it.
fn send_over(line: &mut Line, length: usize) -> Option<EndpointEvent> {
    let exchange = line.ends[0].send_request(line.now, peer(1), put(length));
    while line.step() {
        if let Some(EndpointEvent::Request { id, request, .. }) = line.ends[1].poll_event() {
            assert!(request.payload == body(length), "byte for byte");
            line.ends[1].respond(line.now, id, Response::new(Code::CHANGED));
        }
        match line.ends[0].poll_event() {
            Some(EndpointEvent::Acknowledged { .. }) | None => {}
            Some(event) => {
                assert!(
                    matches!(&event, EndpointEvent::Response { exchange: id, .. } | EndpointEvent::TimedOut { exchange: id } if *id == exchange),
                    "{event:?}"
                );
                return Some(event);
            }
        }
    }
    None
}

#[test]
fn a_firmware_image_of_a_mebibyte_arrives_whole_over_a_line_that_loses_a_tenth() {
    for seed in 0..4 {
        let mut line = Line::new(seed, 0.1, [1024, 1024]);
        let told = send_over(&mut line, 1 << 20);
        let changed = matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::CHANGED);
        assert!(changed, "seed {seed}: {told:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_body_goes_up_whole_over_any_line_or_times_out(
        seed: u64,
        length in 0usize..6000,
        loss in 0.0..0.3f64,
        sizes in prop::array::uniform2(prop::sample::select(vec![16usize, 64, 256, 1024])),
    ) {
        let mut line = Line::new(seed, loss, sizes);
        let told = send_over(&mut line, length);
        let changed = matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::CHANGED);
        prop_assert!(changed || (loss > 0.0 && matches!(told, Some(EndpointEvent::TimedOut { .. }))), "{:?}", told);
    }
}
