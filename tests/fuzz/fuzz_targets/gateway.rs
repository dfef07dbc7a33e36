#![no_main]
//! The whole core under random events: datagrams of unknown peers and of devices, whatever the broker says, and time.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use lwm2m_core::coap::options::number;
use lwm2m_base::Peer;
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, CloseReason, ConnectError, RegistrationId, MessageProperties};
use lwm2m_core::gateway::report::Report;
use lwm2m_core::gateway::config::{AutoObserve, GatewayConfig};
use lwm2m_core::gateway::{Gateway, Output};

/// More than one event can bring about: every waiting command of every device is refused, and told, at once.
const MOST_OUTPUTS: usize = 200;
/// One run is short, so that it says what was wrong.
const MOST_EVENTS: usize = 200;

#[derive(Arbitrary, Debug)]
enum Event<'a> {
    Bytes { peer: u8, datagram: &'a [u8] },
    Register { peer: u8, endpoint: u8, lifetime: u8, sleeps: bool, links: &'a [u8] },
    Update { peer: u8, query: &'a str, links: Option<&'a [u8]> },
    Deregister { peer: u8 },
    /// To the request of the core that left that many before the last one.
    Reply { peer: Option<u8>, to: u8, kind: u8, code: u8, observe: Option<u16>, format: u16, payload: &'a [u8] },
    Connected { device: u8 },
    Failed { device: u8, refused: bool },
    Closed { device: u8, reason: u8 },
    Command { device: u8, kind: u8, path: u8, ttl: Option<u8> },
    Message { device: u8, payload: &'a [u8] },
    PublishRefused { device: u8 },
    Pass { tenths: u16 },
    NextDeadline,
}

struct Run {
    gateway: Gateway,
    now: Instant,
    deadline: Option<Instant>,
    devices: u64,
    next_id: u16,
    /// Where the last registrations are.
    location: Vec<u8>,
    requests: Vec<(Peer, Message)>,
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let mut run = Run::new(input.arbitrary().unwrap_or(false));
    for _ in 0..MOST_EVENTS {
        let Ok(event) = Event::arbitrary(&mut input) else { break };
        run.happen(event);
        if input.is_empty() {
            break;
        }
    }
    run.end();
});

impl Run {
    fn new(auto_observe: bool) -> Self {
        let now = Instant::now();
        let mut settings = settings().clone();
        settings.auto_observe_composite = auto_observe;
        settings.auto_observe = if auto_observe { AutoObserve::On } else { AutoObserve::Off };
        let model = Arc::clone(scene::model());
        Self {
            gateway: Gateway::new(settings, model, [7; 32], now, Duration::from_secs(1_700_000_000)),
            now,
            deadline: None,
            devices: 0,
            next_id: 0,
            location: Vec::new(),
            requests: Vec::new(),
        }
    }

    fn happen(&mut self, event: Event<'_>) {
        match event {
            Event::Bytes { peer, datagram } => self.receive(address(peer), datagram),
            Event::Register { peer, endpoint, lifetime, sleeps, links } => {
                let mut register = self.request(Code::POST, &[b"rd"]);
                let binding = if sleeps { "b=UQ" } else { "b=U" };
                for item in [&format!("ep={}", endpoint % 4), &format!("lt={lifetime}"), binding] {
                    register.options.add_text(number::URI_QUERY, item);
                }
                register.payload = if links.is_empty() { b"</3/0>,</3303/0>".to_vec() } else { links.to_vec() };
                self.receive(address(peer), &register.encode());
            }
            Event::Update { peer, query, links } => {
                let mut update = self.request(Code::POST, &[b"rd", &self.location.clone()]);
                for item in query.split('&').filter(|item| !item.is_empty()) {
                    update.options.add_text(number::URI_QUERY, item);
                }
                update.payload = links.unwrap_or_default().to_vec();
                self.receive(address(peer), &update.encode());
            }
            Event::Deregister { peer } => {
                let deregister = self.request(Code::DELETE, &[b"rd", &self.location.clone()]);
                self.receive(address(peer), &deregister.encode());
            }
            Event::Reply { peer, to, kind, code, observe, format, payload } => {
                self.reply(peer, to, kind, code, observe, format, payload);
            }
            Event::Connected { device } => self.broker(BrokerEvent::Connected { registration: self.device(device) }),
            Event::Failed { device, refused } => {
                let reason = String::new();
                let error = if refused { ConnectError::Refused(reason) } else { ConnectError::Unavailable(reason) };
                self.broker(BrokerEvent::ConnectFailed { registration: self.device(device), error });
            }
            Event::Closed { device, reason } => {
                let reasons =
                    [CloseReason::Kicked, CloseReason::Discarded, CloseReason::Expired, CloseReason::Refused];
                let reason = reasons[usize::from(reason) % reasons.len()];
                self.broker(BrokerEvent::Closed { registration: self.device(device), reason });
            }
            Event::Command { device, kind, path, ttl } => self.command(device, kind, path, ttl),
            Event::Message { device, payload } => self.message(device, payload.to_vec()),
            Event::PublishRefused { device } => {
                self.broker(BrokerEvent::PublishRefused { registration: self.device(device), topic: String::new() });
            }
            Event::Pass { tenths } => self.pass(Duration::from_millis(100 * u64::from(tenths))),
            Event::NextDeadline => {
                let wait = self.deadline.map(|deadline| deadline.saturating_duration_since(self.now));
                self.pass(wait.unwrap_or_default());
            }
        }
    }

    fn command(&mut self, device: u8, kind: u8, path: u8, ttl: Option<u8>) {
        let kinds = ["read", "observe", "cancel-observe", "discover", "execute", "delete"];
        let paths = ["/3/0/0", "/3303/0/5700", "/3303/0", "/3/0/4", "/3"];
        let (kind, path) = (kinds[usize::from(kind) % kinds.len()], paths[usize::from(path) % paths.len()]);
        let ttl = ttl.map(|ttl| format!(r#","mheaders":{{"ttl":{ttl}}}"#)).unwrap_or_default();
        self.message(device, format!(r#"{{"msgType":"{kind}","data":{{"path":"{path}"}}{ttl}}}"#).into_bytes());
    }

    fn message(&mut self, device: u8, payload: Vec<u8>) {
        let topic = String::new();
        self.broker(BrokerEvent::Message { registration: self.device(device), topic, payload, properties: MessageProperties::default() });
    }

    fn reply(
        &mut self,
        peer: Option<u8>,
        to: u8,
        kind: u8,
        code: u8,
        observe: Option<u16>,
        format: u16,
        payload: &[u8],
    ) {
        let Some(at) = self.requests.len().checked_sub(1 + usize::from(to % 8)) else { return };
        let (sent_to, request) = self.requests[at].clone();
        let kinds = [Kind::Acknowledgement, Kind::Reset, Kind::Confirmable, Kind::NonConfirmable];
        let kind = kinds[usize::from(kind) % kinds.len()];
        let own = matches!(kind, Kind::Confirmable | Kind::NonConfirmable);
        let id = if own { self.fresh_id() } else { request.id };
        let codes = [Code::CONTENT, Code::EMPTY, Code::CHANGED, Code::NOT_FOUND];
        let code = codes[usize::from(code) % codes.len()];
        let mut reply = Message::empty(kind, id);
        if code != Code::EMPTY {
            (reply.code, reply.token, reply.payload) = (code, request.token, payload.to_vec());
            reply.options.add_uint(number::CONTENT_FORMAT, format.into());
            if let Some(observe) = observe {
                reply.options.add_uint(number::OBSERVE, observe.into());
            }
        }
        self.receive(peer.map_or(sent_to, address), &reply.encode());
    }

    fn receive(&mut self, peer: Peer, datagram: &[u8]) {
        self.gateway.handle_datagram(self.now, peer, datagram);
        assert_eq!(self.drain(), 1, "one outcome for each datagram");
    }

    fn broker(&mut self, event: BrokerEvent) {
        self.gateway.handle_broker(self.now, event);
        assert_eq!(self.drain(), 0);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.gateway.handle_timeout(self.now);
        assert_eq!(self.drain(), 0);
        assert!(self.deadline.is_none_or(|deadline| deadline > self.now), "a deadline that has passed");
    }

    /// Gives how many outcomes there were.
    fn drain(&mut self) -> usize {
        let mut outcomes = 0;
        for _ in 0..MOST_OUTPUTS {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("what leaves is a message");
                    if message.code.is_request() {
                        self.requests.push((transmit.peer, message));
                    } else if let Some(location) = message.options.all(number::LOCATION_PATH).nth(1) {
                        self.location = location.to_vec();
                    }
                }
                Output::Broker(BrokerCommand::Connect { registration: device, .. } | BrokerCommand::Resume { registration: device, .. }) => {
                    self.devices = device.0;
                }
                Output::Broker(
                    BrokerCommand::Publish { .. } | BrokerCommand::SetLifetime { .. } | BrokerCommand::Disconnect { .. },
                ) => {}
                Output::Report(Report::Datagram { .. }) => outcomes += 1,
                Output::Report(_) => {}
                Output::FindKey(identity) => panic!("nobody speaks DTLS here, {identity}"),
                Output::Idle(deadline) => {
                    self.deadline = deadline;
                    return outcomes;
                }
            }
        }
        panic!("more than {MOST_OUTPUTS} outputs of one event");
    }

    /// Every Register is answered by the broker, and every lifetime ends: then nothing is left.
    fn end(mut self) {
        for id in 1..=self.devices {
            let error = ConnectError::Unavailable(String::new());
            self.broker(BrokerEvent::ConnectFailed { registration: RegistrationId(id), error });
        }
        for _ in 0..10_000 {
            let Some(deadline) = self.deadline else {
                assert_eq!(self.gateway.table_sizes().devices, 0);
                return;
            };
            self.pass(deadline.saturating_duration_since(self.now));
        }
        panic!("the core is never at rest");
    }

    /// One of the last devices that the broker was asked for.
    fn device(&self, before: u8) -> RegistrationId {
        RegistrationId(self.devices.saturating_sub(u64::from(before % 6)))
    }

    fn request(&mut self, method: Code, path: &[&[u8]]) -> Message {
        let id = self.fresh_id();
        let token = Token::new(&id.0.to_be_bytes());
        let mut options = Options::new();
        for segment in path {
            options.add(number::URI_PATH, segment);
        }
        Message { kind: Kind::Confirmable, code: method, id, token, options, payload: Vec::new() }
    }

    fn fresh_id(&mut self) -> MessageId {
        self.next_id = self.next_id.wrapping_add(1);
        MessageId(self.next_id)
    }
}

/// Small bounds, so that they are reached.
fn settings() -> &'static GatewayConfig {
    static SETTINGS: OnceLock<GatewayConfig> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let mut settings = GatewayConfig::default();
        settings.limits.devices = 3;
        settings.limits.pending_commands = 4;
        settings.limits.observations = 2;
        settings.limits.command_expiry = Duration::from_secs(60);
        settings.coap.pending_requests = 4;
        settings.coap.token_length = 1;
        settings.coap.deduplication_entries_per_peer = 4;
        settings.coap.deduplication_entries = 8;
        settings
    })
}

fn address(number: u8) -> Peer {
    Peer::udp(0, SocketAddr::from(([10, 0, 0, number % 3], 5683)))
}
