//! Block-wise transfer in virtual time: against scripted peers, and two endpoints over a lossy line.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_gateway::coap::options::number;
use lwm2m_gateway::coap::{
    BlockError, Code, Endpoint, Event, ExchangeId, Kind, Message, MessageId, Options, Output, Parameters, Peer,
    Request, Response, Token, Transmit,
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
        assert!(matches!(scene.event(), Some(Event::Response { observing: Some(1), .. })));
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
                Output::Transmit(Transmit { datagram, .. }) => {
                    return Some(Message::decode(&datagram).expect("what leaves is a message"));
                }
                Output::Verdict(..) | Output::Retransmitted(_) | Output::Forgotten(_) => {}
            }
        }
    }

    fn event(&mut self) -> Option<Event> {
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
    assert_eq!(scene.event(), Some(Event::Response { exchange, response, observing: None }));
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
    assert!(matches!(scene.event(), Some(Event::Response { .. })));
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
        matches!(&told, Some(Event::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_TOO_LARGE),
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
        matches!(&told, Some(Event::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_INCOMPLETE),
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
        matches!(scene.event(), Some(Event::Response { response, .. }) if response.code == Code::FORBIDDEN && response.payload == b"no")
    );
    scene.expect_nothing_more();
}

#[test]
fn an_acknowledged_body_is_told_once_and_a_lost_block_ends_it() {
    let mut scene = Scene::new();
    let exchange = scene.send(put(1500));
    let first = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, first.id));
    assert_eq!(scene.event(), Some(Event::Acknowledged { exchange }));
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
    assert_eq!(scene.event(), Some(Event::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_first_block_is_repeated_as_any_request_and_a_further_one_twice_as_often() {
    let mut scene = Scene::new();
    let exchange = scene.send(put(1500));
    let first = scene.sent();
    assert_eq!(scene.repetitions(&first).len(), 4);
    assert_eq!(scene.event(), Some(Event::TimedOut { exchange }));

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
    assert_eq!(scene.event(), Some(Event::TimedOut { exchange }));
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
    let Some(Event::Response { exchange: told, response, observing }) = scene.event() else { panic!("no response") };
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
    assert!(matches!(scene.event(), Some(Event::Failed { error: BlockError::Changed, .. })));
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
        assert_eq!(scene.event(), Some(Event::Failed { exchange, error }), "{options:?}");
        scene.expect_nothing_more();
        assert_eq!(scene.endpoint.next_deadline(), None);
    }
}

#[test]
fn a_body_beyond_the_limit_is_given_up() {
    let mut scene = Scene::with(Parameters { received_body: 100, ..Parameters::default() });
    let exchange = scene.send(Request::new(Code::GET));
    let first = scene.sent();
    scene.answer(&first, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64))], &body(64));
    let second = scene.sent();
    scene.answer(&second, Code::CONTENT, &[(number::BLOCK2, block(1, true, 64))], &body(64));
    assert_eq!(scene.event(), Some(Event::Failed { exchange, error: BlockError::TooLarge }));
    scene.expect_nothing_more();
}

#[test]
fn notifications_keep_their_order_while_the_body_of_one_is_fetched() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    assert_ne!(fetch.token, token);
    scene.notify(token, &[(number::OBSERVE, 3)], b"small");
    scene.expect_nothing_more();

    scene.answer(&fetch, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"end");
    let told: Vec<_> = std::iter::from_fn(|| scene.event())
        .map(|event| match event {
            Event::Notification { observation: of, number, response, .. } if of == observation => {
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
    scene.answer(&first, Code::CONTENT, &[(number::OBSERVE, 1), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    scene.notify(first.token, &[(number::OBSERVE, 2)], b"two");
    scene.expect_nothing_more();
    scene.answer(&fetch, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"end");
    assert!(matches!(scene.event(), Some(Event::Response { observing: Some(1), .. })));
    assert!(matches!(scene.event(), Some(Event::Notification { number: Some(2), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_whose_body_cannot_be_fetched_is_told_as_such() {
    let (mut scene, observation, token) = Scene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    scene.receive(Message::empty(Kind::Reset, fetch.id));
    let error = BlockError::OutOfOrder;
    assert_eq!(scene.event(), Some(Event::NotificationFailed { observation, number: Some(2), error }));
    scene.notify(token, &[(number::OBSERVE, 3)], b"goes on");
    assert!(matches!(scene.event(), Some(Event::Notification { number: Some(3), .. })));
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
    let Some(Event::Request { id, request, .. }) = scene.event() else { panic!("no request") };
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
    assert!(matches!(scene.event(), Some(Event::Request { request, .. }) if request.payload.len() == 131));
}

/// Blocks with the bytes of their payloads, and what the last of them is answered.
type Refused<'a> = (&'a [(u32, usize)], Code, BlockError);

#[test]
fn a_body_that_does_not_fit_together_or_is_too_large_is_refused() {
    let limited = Parameters { received_body: 64, received_bodies: 1, ..Parameters::default() };
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
        assert_eq!(scene.event(), Some(Event::BodyRefused { peer: peer(1), error }));
        scene.expect_nothing_more();
    }
}

#[test]
fn bodies_under_way_are_bounded_and_forgotten_in_time() {
    let mut scene = Scene::with(Parameters { received_bodies: 1, ..Parameters::default() });
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
    assert_eq!(scene.event(), Some(Event::BodyRefused { peer: peer(2), error: BlockError::TooMany }));

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
        let Some(Event::Request { id, .. }) = scene.event() else { panic!("no request") };
        let response = Response { payload: body(150), ..Response::new(Code::CONTENT) };
        scene.endpoint.respond(scene.now, id, response);
        let answer = scene.sent();
        assert_eq!(block2(&answer), block(number, number < 2, 64));
        received.extend(answer.payload);
    }
    assert_eq!(received, body(150));
}

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
        let parameters = |block_size| Parameters { block_size, received_body: 1 << 21, ..Parameters::default() };
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
            let Output::Transmit(Transmit { datagram, .. }) = output else { continue };
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
fn send_over(line: &mut Line, length: usize) -> Option<Event> {
    let exchange = line.ends[0].send_request(line.now, peer(1), put(length));
    while line.step() {
        if let Some(Event::Request { id, request, .. }) = line.ends[1].poll_event() {
            assert!(request.payload == body(length), "byte for byte");
            line.ends[1].respond(line.now, id, Response::new(Code::CHANGED));
        }
        match line.ends[0].poll_event() {
            Some(Event::Acknowledged { .. }) | None => {}
            Some(event) => {
                assert!(
                    matches!(&event, Event::Response { exchange: id, .. } | Event::TimedOut { exchange: id } if *id == exchange),
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
        let changed = matches!(&told, Some(Event::Response { response, .. }) if response.code == Code::CHANGED);
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
        let changed = matches!(&told, Some(Event::Response { response, .. }) if response.code == Code::CHANGED);
        prop_assert!(changed || (loss > 0.0 && matches!(told, Some(Event::TimedOut { .. }))), "{:?}", told);
    }
}
