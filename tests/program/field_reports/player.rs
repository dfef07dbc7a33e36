//! One device of a report and the gateway, in virtual time. The broker takes every device.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, MessageProperties, RegistrationId};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_gateway::config::Config;
use lwm2m_gateway::definitions;

use super::cases::CaseStep;

pub(super) struct Player {
    gateway: Gateway,
    now: Instant,
    device: RegistrationId,
    /// The requests of the gateway that the report has not come to.
    asked: VecDeque<Message>,
    /// The requests of the report by their tokens, and those of this run that stand for them.
    same: HashMap<Token, (MessageId, Token)>,
    /// All requests of the gateway.
    pub requests: Vec<Message>,
    /// Everything else that it sent to the device.
    pub answers: Vec<Message>,
    /// Topics and payloads.
    pub published: Vec<(String, String)>,
}

impl Player {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    pub(super) fn new() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml");
        let model = Arc::new(definitions::read(&folder).expect("the project's own definitions").model);
        let now = Instant::now();
        let unix_time = Duration::from_secs(1_800_000_000);
        Self {
            gateway: Gateway::new(Config::default().gateway, model, [7; 32], now, unix_time),
            now,
            device: RegistrationId(0),
            asked: VecDeque::new(),
            same: HashMap::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            published: Vec::new(),
        }
    }

    pub(super) fn play(&mut self, steps: &[CaseStep<'_>]) {
        for step in steps {
            match step {
                CaseStep::Device(datagram) => self.device_sends(&bytes(datagram)),
                CaseStep::Gateway(datagram) => self.gateway_sent(&bytes(datagram)),
                CaseStep::Command(payload) => {
                    let (topic, properties) = (String::new(), MessageProperties::default());
                    let payload = payload.as_bytes().to_vec();
                    self.broker_says(BrokerEvent::Message { registration: self.device, topic, payload, properties });
                }
            }
        }
    }

    /// The device answers this request, with this Block1 option.
    pub(super) fn answer(&mut self, request: &Message, code: Code, block1: u32) {
        let mut options = Options::new();
        options.add_uint(number::BLOCK1, block1);
        let kind = Kind::Acknowledgement;
        let answer = Message { kind, code, id: request.id, token: request.token, options, payload: Vec::new() };
        self.receive(&answer.encode());
    }

    /// What the report has from the device, as it is in this run. What answers a request that is not made any more is
    /// not sent.
    fn device_sends(&mut self, datagram: &[u8]) {
        let datagram = match Message::decode(datagram) {
            Ok(message) if message.code.is_request() || message.token.as_bytes().is_empty() => datagram.to_vec(),
            Ok(message) => {
                let Some(&(id, token)) = self.same.get(&message.token) else { return };
                let id = if message.kind == Kind::Acknowledgement { id } else { message.id };
                Message { id, token, ..message }.encode()
            }
            Err(_) => datagram.to_vec(),
        };
        self.receive(&datagram);
    }

    fn receive(&mut self, datagram: &[u8]) {
        let peer = Peer::udp(0, SocketAddr::from(([192, 0, 2, 7], 56_830)));
        self.gateway.handle_datagram(self.now, peer, datagram);
        self.take_outputs();
    }

    /// A request of the report is the next one of this run.
    fn gateway_sent(&mut self, datagram: &[u8]) {
        let recorded = Message::decode(datagram).expect("the gateway writes well-formed messages");
        if recorded.code.is_request()
            && let Some(request) = self.asked.pop_front()
        {
            self.same.insert(recorded.token, (request.id, request.token));
        }
    }

    fn broker_says(&mut self, event: BrokerEvent) {
        self.gateway.handle_broker(self.now, event);
        self.take_outputs();
    }

    fn take_outputs(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("a well-formed message");
                    if message.code.is_request() {
                        self.asked.push_back(message.clone());
                        self.requests.push(message);
                    } else {
                        self.answers.push(message);
                    }
                }
                Output::Broker(BrokerCommand::Connect { registration: device, .. }) => {
                    self.device = device;
                    self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration: device });
                }
                Output::Broker(BrokerCommand::Publish { publication, .. }) => {
                    let payload = String::from_utf8(publication.payload.into()).expect("JSON is text");
                    self.published.push((publication.topic, payload));
                }
                Output::Broker(_) | Output::Report(_) | Output::Answer(_) => {}
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(_) => return,
            }
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}
