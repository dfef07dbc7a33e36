//! A server, thousands of devices and an attacker, in virtual time. Lighter than [`crate::dtls_network::scene`]:
//! nothing looks at every device, and the records are not opened.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lwm2m_dtls::credentials::{KeyAnswer, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::{DtlsConfig, DtlsOutput, DtlsReport, DtlsServer, HandshakeFailure, Term, WriteTerms};

use crate::dtls_network::scene::KEY;
use lwm2m_dtls::test_client::{ClientState, DtlsClient, DtlsClientConfig};

const SOCKET: u16 = 0;
/// The devices have this identity in common: what is tested here does not look at it.
const IDENTITY: &str = "fleet";
/// From one end of the network to the other.
const LATENCY: Duration = Duration::from_millis(100);
/// A device whose handshake failed begins another one after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a record's header, and of a handshake message's.
const RECORD_HEADER: usize = 13;
const MESSAGE_HEADER: usize = 12;

pub(super) struct Crowd {
    pub now: Instant,
    pub server: DtlsServer,
    pub devices: HashMap<SocketAddr, CrowdDevice>,
    pub failures: HashMap<HandshakeFailure, usize>,
    /// Answers to an attacker that were not read yet.
    to_attacker: Vec<Vec<u8>>,
    model: DtlsClient,
    /// The hello of a client of the fleet, as far as nobody changed it.
    hello: Vec<u8>,
    agenda: BTreeMap<(Instant, u64), CrowdEvent>,
    scheduled: u64,
}

pub(super) struct CrowdDevice {
    client: DtlsClient,
    started: Instant,
    /// The duration of the handshake.
    pub established_after: Option<Duration>,
    /// Handshakes that it began anew since one failed.
    pub restarts: usize,
}

/// Clients that complete the exchange of cookies and then do no more than `depth` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandshakeAttack {
    pub addresses: u32,
    pub per_second: u32,
    pub depth: AttackDepth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttackDepth {
    Silent,
    /// Names an identity that there is, which everybody on the path can read, and is silent then.
    NamesAnIdentity,
    /// Ends its handshake at once by an alert, so that it needs no place.
    GivesUp,
}

enum CrowdEvent {
    ToServer(SocketAddr, Vec<u8>),
    ToDevice(SocketAddr, Vec<u8>),
    Start(SocketAddr),
    Wake(SocketAddr),
    HandshakeAttack(HandshakeAttack, u64),
}

impl Crowd {
    pub(super) fn new(config: DtlsConfig) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a start for the test's clock")]
        let now = Instant::now();
        let acceptor = Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing");
        let mut server = DtlsServer::new(config, Some(acceptor), [0; 32], now);
        assert_eq!(server.restore(now, WriteTerms::new(Term::new(1), now, Duration::ZERO), Vec::new()), []);
        let model = DtlsClient::new(now, DtlsClientConfig::psk(IDENTITY, KEY));
        let hello = model.reboot(now).transmits().into_iter().next().expect("a client begins with a hello");
        Self {
            now,
            server,
            devices: HashMap::new(),
            failures: HashMap::new(),
            to_attacker: Vec::new(),
            model,
            hello,
            agenda: BTreeMap::new(),
            scheduled: 0,
        }
    }

    /// Lets a device begin its handshake after so long.
    pub(super) fn add(&mut self, address: SocketAddr, after: Duration) {
        self.schedule(self.now + after, CrowdEvent::Start(address));
    }

    /// Lets an attack begin now. It does not end.
    pub(super) fn attack(&mut self, attack: HandshakeAttack) {
        self.schedule(self.now, CrowdEvent::HandshakeAttack(attack, 0));
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// Runs until every device is established, or for this time.
    pub(super) fn run_until_established(&mut self, devices: usize, most: Duration) {
        let end = self.now + most;
        while self.now < end && (self.devices.len() < devices || self.waiting() > 0) {
            self.run_for(Duration::from_millis(100));
        }
        assert_eq!((self.devices.len(), self.waiting()), (devices, 0), "{:?}", self.failures);
    }

    /// Returns the devices that are not established.
    pub(super) fn waiting(&self) -> usize {
        self.devices.values().filter(|device| device.established_after.is_none()).count()
    }

    /// Returns the longest time that a handshake took, counted from the first hello.
    pub(super) fn longest(&self) -> Duration {
        self.devices.values().filter_map(|device| device.established_after).max().unwrap_or_default()
    }

    pub(super) fn evicted(&self) -> usize {
        self.failures.get(&HandshakeFailure::Evicted).copied().unwrap_or_default()
    }

    fn next_event(&self) -> Option<Instant> {
        let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
        planned.into_iter().chain(self.server.next_deadline()).min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                CrowdEvent::ToServer(from, datagram) => self.give_server(from, &datagram),
                CrowdEvent::ToDevice(to, datagram) => {
                    self.with(to, |client, now| client.handle_datagram(now, &datagram))
                }
                CrowdEvent::Start(address) => self.start(address),
                CrowdEvent::Wake(address) => self.with(address, DtlsClient::handle_timeout),
                CrowdEvent::HandshakeAttack(attack, number) => self.strike(attack, number),
            }
        }
        if self.server.next_deadline().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
            self.drain();
        }
    }

    fn start(&mut self, address: SocketAddr) {
        let client = self.model.reboot(self.now);
        let new = CrowdDevice { client, started: self.now, established_after: None, restarts: 0 };
        self.devices
            .entry(address)
            .and_modify(|device| {
                device.client = device.client.reboot(self.now);
                device.restarts += 1;
            })
            .or_insert(new);
        self.with(address, |_, _| {});
    }

    /// Lets something happen to a device, and does what it wants then.
    fn with(&mut self, address: SocketAddr, act: impl FnOnce(&mut DtlsClient, Instant)) {
        let now = self.now;
        let Some(device) = self.devices.get_mut(&address) else { return };
        let before = device.client.state();
        act(&mut device.client, now);
        let sent = device.client.transmits();
        let wakes = device.client.next_deadline();
        let state = device.client.state();
        if state == ClientState::Established && device.established_after.is_none() {
            device.established_after = Some(now.duration_since(device.started));
        }
        for datagram in sent {
            self.schedule(now + LATENCY, CrowdEvent::ToServer(address, datagram));
        }
        match state {
            ClientState::Handshaking => wakes.into_iter().for_each(|at| self.schedule(at, CrowdEvent::Wake(address))),
            ClientState::Established => {}
            ClientState::Closed | ClientState::Refused(_) | ClientState::Failed(_) if before == state => {}
            ClientState::Closed | ClientState::Refused(_) | ClientState::Failed(_) => {
                self.schedule(now + AGAIN, CrowdEvent::Start(address))
            }
        }
    }

    fn give_server(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.server.handle_datagram(self.now, SOCKET, from, datagram);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                DtlsOutput::Transmit { to, datagram, .. } | DtlsOutput::TransmitLastFlight { to, datagram, .. }
                    if self.devices.contains_key(&to) =>
                {
                    self.schedule(self.now + LATENCY, CrowdEvent::ToDevice(to, datagram));
                }
                DtlsOutput::Transmit { datagram, .. } | DtlsOutput::TransmitLastFlight { datagram, .. } => {
                    self.to_attacker.push(datagram);
                }
                DtlsOutput::FindKey(question) => {
                    let key = PskKey::new(KEY).expect("a key");
                    let answer = KeyAnswer::Found { key: key.into(), keep_for: Duration::from_secs(3600) };
                    self.server.handle_key(self.now, &question, answer);
                }
                DtlsOutput::Report(DtlsReport::HandshakeFailed { reason, .. }) => {
                    *self.failures.entry(reason).or_default() += 1;
                }
                DtlsOutput::Closed { .. } | DtlsOutput::Report(_) => {}
            }
        }
        while self.server.poll_event().is_some() {}
    }

    /// A client of an attack and the time of the next one.
    fn strike(&mut self, attack: HandshakeAttack, number: u64) {
        let from = attacker(attack, number);
        self.to_attacker.clear();
        self.give_server(from, &hello_with(&self.hello, number, &[]));
        let cookie =
            self.to_attacker.pop().expect("a cookie is always given")[RECORD_HEADER + MESSAGE_HEADER + 3..].to_vec();
        self.give_server(from, &hello_with(&self.hello, number, &cookie));
        match attack.depth {
            AttackDepth::Silent => {}
            AttackDepth::NamesAnIdentity => self.give_server(from, &key_exchange()),
            AttackDepth::GivesUp => self.give_server(from, &handshake_failure()),
        }
        let next = self.now + Duration::from_secs(1) / attack.per_second;
        self.schedule(next, CrowdEvent::HandshakeAttack(attack, number + 1));
    }

    fn schedule(&mut self, at: Instant, event: CrowdEvent) {
        self.scheduled += 1;
        self.agenda.insert((at, self.scheduled), event);
    }
}

/// Each client of an attack has an address of its own as long as there are ports.
fn attacker(attack: HandshakeAttack, number: u64) -> SocketAddr {
    let (of, nth) = (number % u64::from(attack.addresses), number / u64::from(attack.addresses));
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + of as u32);
    SocketAddr::new(IpAddr::V4(ip), 1_024 + (nth % 64_000) as u16)
}

/// The same hello with another random and this cookie.
fn hello_with(hello: &[u8], random: u64, cookie: &[u8]) -> Vec<u8> {
    let mut body = hello[RECORD_HEADER + MESSAGE_HEADER..].to_vec();
    body[2..10].copy_from_slice(&random.to_be_bytes());
    let at = 2 + 32 + 1 + usize::from(body[34]);
    assert_eq!(body[at], 0, "a first hello has no cookie");
    body.splice(at..=at, [&[cookie.len() as u8], cookie].concat());
    record(1, u8::from(!cookie.is_empty()), &body)
}

fn key_exchange() -> Vec<u8> {
    let identity = IDENTITY.as_bytes();
    record(16, 2, &[&(identity.len() as u16).to_be_bytes(), identity].concat())
}

/// An alert: fatal, handshake_failure.
fn handshake_failure() -> Vec<u8> {
    vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 2, 40]
}

/// A handshake message in a record of epoch 0; both have the same number.
fn record(kind: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[kind], &length[1..], &[0, sequence], &[0; 3], &length[1..], body].concat();
    let header = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, sequence];
    [&header[..], &(message.len() as u16).to_be_bytes(), &message].concat()
}
