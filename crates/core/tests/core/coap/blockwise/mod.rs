//! Block-wise transfer in virtual time: against scripted peers, and two endpoints over a lossy line.

mod lossy_line;
mod notifications;
mod peers;
mod requests;
mod responses;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::{AssociationId, Peer};
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{
    BlockError, CoapOutput, CoapTableSizes, Code, Endpoint, EndpointEvent, ExchangeError, ExchangeId, Kind, Message,
    MessageId, Options, Parameters, PeerClass, Request, Response, Token, Transmit,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

struct BlockwiseScene {
    endpoint: Endpoint,
    now: Instant,
    next_id: u16,
}

impl BlockwiseScene {
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
                CoapOutput::Retransmitted(_) | CoapOutput::Evicted(_) => {}
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
