//! The CoAP endpoint in virtual time, through its public face: what a peer sends, what leaves, what is told.

mod addresses;
mod exchanges;
mod malformed;
mod observations;
mod requests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{
    CoapOutput, Code, DatagramOutcome, DropReason, Endpoint, EndpointEvent, ExchangeError, ExchangeId, Kind, Message,
    MessageDecodeError, MessageId, Options, Parameters, Request, RequestId, Response, Token, Transmit,
};
use proptest::prelude::*;

struct EndpointScene {
    endpoint: Endpoint,
    now: Instant,
    peer: Peer,
    /// The outcome of the last datagram, until a test looks at it.
    outcome: Option<DatagramOutcome>,
}

impl EndpointScene {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self { endpoint: Endpoint::new(Parameters::default(), [7; 32]), now, peer: peer(5000), outcome: None }
    }

    fn with_observation() -> (Self, ExchangeId, Token) {
        let mut scene = Self::new();
        let id = scene.send(observe());
        let request = scene.sent();
        scene.receive(piggybacked(&request, Code::CONTENT, &[(number::OBSERVE, 5)]));
        scene.expect_outcome(DatagramOutcome::Response);
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
        self.receive_bytes(peer, &message.encode());
    }

    fn receive_bytes(&mut self, peer: Peer, datagram: &[u8]) {
        self.outcome = Some(self.endpoint.handle_datagram(self.now, peer, datagram));
    }

    /// A request from the peer, as the event that it is.
    fn request(&mut self, message: Message) -> RequestId {
        self.receive(message);
        let Some(EndpointEvent::Request { id, .. }) = self.event() else { panic!("no request was told") };
        self.expect_outcome(DatagramOutcome::Request);
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

    fn expect_outcome(&mut self, outcome: DatagramOutcome) {
        assert_eq!(self.outcome.take(), Some(outcome));
    }

    fn expect_retransmission_of(&mut self, message: &Message, to: Peer) {
        assert_eq!(self.output(), Some(CoapOutput::Retransmitted(to)));
        assert_eq!(&self.sent_to(to), message);
    }

    fn expect_nothing_more(&mut self) {
        assert_eq!((self.outcome.take(), self.output(), self.event()), (None, None, None));
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

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}
