//! A server, devices, and the network between them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_base::{AssociationId, Peer};
use lwm2m_dtls::cipher::{RecordKeys, RecordWriter, Sealing};
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::record::{ContentType, DtlsRecord, EPOCH, records};
use lwm2m_dtls::{
    AssociationChange, AssociationCloseReason, DtlsConfig, DtlsDatagramOutcome, DtlsEvent, DtlsOutput, DtlsReport,
    DtlsServer, HandshakeFailure, SavedAssociation, Term, WriteTerms,
};

use lwm2m_dtls::test_client::{ClientState, DtlsClient, DtlsClientConfig};

pub(super) const KEY: &[u8] = b"0123456789abcdef";
/// From one end of the network to the other.
pub(super) const LATENCY: Duration = Duration::from_millis(100);
const SOCKET: u16 = 0;
/// The wall clock time at the beginning.
pub(super) const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);

/// The way of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// The fate of a datagram: the copies that arrive, each after its delay.
pub(super) type DatagramFate = Box<dyn FnMut(Direction, &[u8]) -> Vec<(Duration, Vec<u8>)>>;

pub(super) struct DtlsNetwork {
    began: Instant,
    /// The first term of the process.
    term: Term,
    pub now: Instant,
    pub server: DtlsServer,
    pub config: DtlsConfig,
    acceptor: Acceptor,
    pub devices: Vec<DtlsDevice>,
    network: DatagramFate,
    under_way: BTreeMap<(Instant, u64), InFlightDatagram>,
    sent: u64,
    /// The keys that the key server knows.
    pub keys: HashMap<String, Vec<u8>>,
    pub answers: bool,
    pub asked: Vec<PskIdentity>,
    /// The associations in the store.
    pub store: HashMap<AssociationId, SavedAssociation>,
    restarts: u8,
    pub plaintexts: Vec<(Peer, Vec<u8>)>,
    pub established: Vec<(Peer, Arc<Identity>)>,
    pub closed: Vec<(Peer, AssociationCloseReason)>,
    pub outcomes: Vec<DtlsDatagramOutcome>,
    pub reports: Vec<DtlsReport>,
    /// By the keys of a handshake: what left with each sequence number.
    protected: Vec<(RecordKeys, HashMap<u64, Vec<u8>>)>,
    /// Datagrams of the server, in their order.
    pub transmitted: Vec<(SocketAddr, Vec<u8>)>,
}

pub(super) struct DtlsDevice {
    pub client: DtlsClient,
    pub address: SocketAddr,
    pub received: Vec<Vec<u8>>,
}

enum InFlightDatagram {
    Up(SocketAddr, Vec<u8>),
    Down(SocketAddr, Vec<u8>),
}

impl DtlsNetwork {
    pub(super) fn new() -> Self {
        Self::with(DtlsConfig::default())
    }

    pub(super) fn with(config: DtlsConfig) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a start for the test's clock")]
        let now = Instant::now();
        let acceptor = Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing");
        let mut server = DtlsServer::new(config.clone(), Some(acceptor.clone()), [0; 32], now);
        let term = WriteTerms::first_after(Term::new(0), UNIX_TIME);
        assert_eq!(server.restore(now, WriteTerms::new(term, now, UNIX_TIME), Vec::new()), []);
        Self {
            began: now,
            term,
            now,
            server,
            config,
            acceptor,
            devices: Vec::new(),
            network: quiet(),
            under_way: BTreeMap::new(),
            sent: 0,
            keys: HashMap::new(),
            answers: true,
            asked: Vec::new(),
            store: HashMap::new(),
            restarts: 0,
            plaintexts: Vec::new(),
            established: Vec::new(),
            closed: Vec::new(),
            outcomes: Vec::new(),
            reports: Vec::new(),
            protected: Vec::new(),
            transmitted: Vec::new(),
        }
    }

    /// A device with a key that is known; it begins its handshake at once.
    pub(super) fn add(&mut self, client: DtlsClientConfig) -> usize {
        let number = self.devices.len();
        if let lwm2m_dtls::test_client::ClientCredentials::Psk { identity, .. } = &client.credentials {
            self.keys.insert(identity.clone(), KEY.to_vec());
        }
        let client = DtlsClient::new(self.now, client);
        let address = format!("192.0.2.{}:5000", number + 1).parse().expect("an address");
        self.devices.push(DtlsDevice { client, address, received: Vec::new() });
        number
    }

    /// Sets up an established device on a perfect network.
    pub(super) fn established(client: DtlsClientConfig) -> (Self, usize) {
        let mut scene = Self::new();
        let device = scene.add(client);
        scene.settle();
        scene.assert_established(device);
        (scene, device)
    }

    pub(super) fn set_network(&mut self, network: impl FnMut(Direction, &[u8]) -> Vec<(Duration, Vec<u8>)> + 'static) {
        self.network = Box::new(network);
    }

    pub(super) fn set_quiet_network(&mut self) {
        self.network = quiet();
    }

    /// Two seconds: what is on its way arrives, and is answered; a first retransmission takes place.
    pub(super) fn settle(&mut self) {
        self.run_for(Duration::from_secs(2));
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.take_transmits();
            let next = self.next_event().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn next_event(&self) -> Option<Instant> {
        let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let devices = self.devices.iter().filter_map(|device| device.client.next_deadline());
        devices.chain(arrival).chain(self.server.next_deadline()).min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                InFlightDatagram::Up(from, datagram) => self.give_server(from, &datagram),
                InFlightDatagram::Down(to, datagram) => self.give_device(to, &datagram),
            }
        }
        for device in &mut self.devices {
            device.client.handle_timeout(self.now);
        }
        if self.server.next_deadline().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
            assert!(self.server.next_deadline().is_none_or(|at| at > self.now), "a deadline that does not go away");
            self.drain();
        }
    }

    /// Puts what the devices want to send on its way.
    pub(super) fn take_transmits(&mut self) {
        for number in 0..self.devices.len() {
            let from = self.devices[number].address;
            for datagram in self.devices[number].client.transmits() {
                self.carry(Direction::Up, from, datagram);
            }
        }
    }

    fn carry(&mut self, way: Direction, address: SocketAddr, datagram: Vec<u8>) {
        for (delay, copy) in (self.network)(way, &datagram) {
            self.sent += 1;
            let datagram = match way {
                Direction::Up => InFlightDatagram::Up(address, copy),
                Direction::Down => InFlightDatagram::Down(address, copy),
            };
            self.under_way.insert((self.now + delay, self.sent), datagram);
        }
    }

    /// A datagram at the server, from wherever; it has exactly one outcome.
    pub(super) fn give_server(&mut self, from: SocketAddr, datagram: &[u8]) {
        let before = self.outcomes.len();
        self.server.handle_datagram(self.now, SOCKET, from, datagram);
        self.drain();
        assert_eq!(self.outcomes.len(), before + 1, "one outcome for each datagram");
    }

    /// The same, and what became of it.
    pub(super) fn outcome_of(&mut self, from: SocketAddr, datagram: &[u8]) -> DtlsDatagramOutcome {
        self.give_server(from, datagram);
        *self.outcomes.last().expect("it has an outcome")
    }

    fn give_device(&mut self, to: SocketAddr, datagram: &[u8]) {
        for device in self.devices.iter_mut().filter(|device| device.address == to) {
            device.client.handle_datagram(self.now, datagram);
            while let Some(plaintext) = device.client.poll_plaintext() {
                device.received.push(plaintext);
            }
        }
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                DtlsOutput::Transmit { socket, to, datagram }
                | DtlsOutput::TransmitLastFlight { socket, to, datagram, .. } => {
                    self.transmit(Peer::udp(socket, to), datagram);
                }
                DtlsOutput::FindKey(question) => {
                    self.asked.push(question.identity.clone());
                    if self.answers {
                        let answer = self.answer(&question.identity);
                        self.server.handle_key(self.now, &question, answer);
                    }
                }
                DtlsOutput::Closed { peer, reason } => self.closed.push((peer, reason)),
                DtlsOutput::Report(DtlsReport::Datagram { outcome, .. }) => self.outcomes.push(outcome),
                DtlsOutput::Report(report) => self.reports.push(report),
            }
        }
        while let Some(event) = self.server.poll_event() {
            match event {
                DtlsEvent::Plaintext { peer, plaintext } => self.plaintexts.push((peer, plaintext)),
                DtlsEvent::Established { peer, identity } => self.established.push((peer, identity)),
            }
        }
    }

    fn transmit(&mut self, Peer { socket, address, .. }: Peer, datagram: Vec<u8>) {
        assert_eq!(socket, SOCKET);
        self.watch(&datagram);
        self.transmitted.push((address, datagram.clone()));
        self.carry(Direction::Down, address, datagram);
    }

    pub(super) fn answer(&self, identity: &PskIdentity) -> KeyAnswer {
        let keep_for = Duration::from_secs(300);
        match self.keys.get(identity.as_str()) {
            Some(key) => KeyAnswer::Found { key: PskKey::new(key.as_slice()).expect("a key").into(), keep_for },
            None => KeyAnswer::Unknown { keep_for },
        }
    }

    /// Keeps what left under protection, and looks whether a sequence number left twice with different bytes.
    fn watch(&mut self, datagram: &[u8]) {
        for device in &self.devices {
            if let Some(keys) = device.client.keys().filter(|_| device.client.is_established())
                && !self.protected.iter().any(|(known, _)| *known == keys)
            {
                self.protected.push((keys, HashMap::new()));
            }
        }
        let cids = self.devices.iter().map(|device| device.client.own_cid_length()).chain([0]);
        for length in cids.collect::<std::collections::BTreeSet<_>>() {
            for record in records(datagram, length).filter(|record| record.epoch == EPOCH) {
                for (keys, seen) in &mut self.protected {
                    if keys.open(RecordWriter::Server, &record).is_ok() {
                        let before = seen.insert(record.sequence, record.bytes.to_vec());
                        assert!(
                            before.is_none_or(|before| before == record.bytes),
                            "sequence number {} left twice",
                            record.sequence
                        );
                    }
                }
            }
        }
    }

    /// The store takes what changed.
    pub(super) fn save(&mut self) {
        for change in self.server.take_changes(usize::MAX) {
            self.keep(change);
        }
    }

    pub(super) fn keep(&mut self, change: AssociationChange) {
        match change {
            AssociationChange::Put(saved) => self.store.insert(saved.id, saved),
            AssociationChange::Remove(id) => self.store.remove(&id),
        };
    }

    /// kill -9, and a new process with what is in the store.
    pub(super) fn restart(&mut self) {
        self.restarts += 1;
        let seed = [self.restarts; 32];
        self.server = DtlsServer::new(self.config.clone(), Some(self.acceptor.clone()), seed, self.now);
        let unix_time = UNIX_TIME + (self.now - self.began);
        self.term = WriteTerms::first_after(self.term, unix_time);
        let terms = WriteTerms::new(self.term, self.now, unix_time);
        for change in self.server.restore(self.now, terms, self.store.values().cloned().collect()) {
            self.keep(change);
        }
        self.drain();
    }

    /// The device sends data; it is on its way.
    pub(super) fn device_sends(&mut self, device: usize, plaintext: &[u8]) {
        self.devices[device].client.send(plaintext);
        self.take_transmits();
    }

    pub(super) fn put_on_its_way(&mut self, device: usize, datagram: Vec<u8>) {
        self.carry(Direction::Up, self.devices[device].address, datagram);
    }

    /// Takes the datagrams of the device without delivering them.
    pub(super) fn device_makes(&mut self, device: usize, plaintext: &[u8]) -> Vec<u8> {
        self.devices[device].client.send(plaintext);
        self.devices[device].client.poll_transmit().expect("a record")
    }

    /// A record of the device that OpenSSL would not make.
    pub(super) fn device_seals(
        &self,
        device: usize,
        content_type: ContentType,
        sequence: u64,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let client = &self.devices[device].client;
        let cid = client.cid_of_server().unwrap_or_default();
        let keys = client.keys().expect("it is established");
        keys.seal(Sealing { writer: RecordWriter::Client, content_type, sequence, cid: &cid }, plaintext)
    }

    /// Returns the plaintext in the last datagram of the server.
    pub(super) fn last_sealed(&self, device: usize) -> Option<(ContentType, Vec<u8>)> {
        let client = &self.devices[device].client;
        let (_, datagram) = self.transmitted.last()?;
        let record = records(datagram, client.own_cid_length()).next()?;
        let opened = client.keys()?.open(RecordWriter::Server, &record).ok()?;
        Some((opened.content_type, opened.plaintext))
    }

    pub(super) fn server_sends(&mut self, to: Peer, plaintext: &[u8]) {
        let record = self.server.seal(to.association.expect("an association"), plaintext);
        self.drain();
        if let Some((peer, datagram)) = record {
            self.transmit(peer, datagram);
        }
    }

    /// The network gives the device another address.
    pub(super) fn rebind(&mut self, device: usize) -> SocketAddr {
        let address = &mut self.devices[device].address;
        address.set_port(address.port() + 1);
        *address
    }

    /// Restarts the client at the same address.
    pub(super) fn reboot(&mut self, device: usize) {
        let client = self.devices[device].client.reboot(self.now);
        self.devices[device].client = client;
    }

    /// The association that was made last.
    pub(super) fn peer(&self) -> Peer {
        self.established.last().expect("an association").0
    }

    pub(super) fn assert_established(&self, device: usize) {
        assert_eq!(self.devices[device].client.state(), ClientState::Established, "{:?}", self.reports);
        assert!(!self.established.is_empty(), "{:?}", self.reports);
    }

    /// Data both ways, and nothing else.
    pub(super) fn assert_data_flows(&mut self, device: usize, peer: Peer) {
        self.plaintexts.clear();
        self.devices[device].received.clear();
        self.device_sends(device, b"up");
        self.settle();
        assert_eq!(self.plaintexts, [(peer, b"up".to_vec())], "{:?} {:?}", self.outcomes.last(), self.reports.last());
        self.server_sends(peer, b"down");
        self.settle();
        assert_eq!(self.devices[device].received, [b"down".to_vec()]);
        self.plaintexts.clear();
        self.devices[device].received.clear();
    }

    pub(super) fn failures(&self) -> Vec<HandshakeFailure> {
        let failure = |report: &DtlsReport| match report {
            DtlsReport::HandshakeFailed { reason, .. } => Some(*reason),
            _ => None,
        };
        self.reports.iter().filter_map(failure).collect()
    }

    /// Since this was asked for the last time: handshakes that were begun.
    pub(super) fn take_begun(&mut self) -> usize {
        let begun = self.reports.iter().filter(|report| matches!(report, DtlsReport::HandshakeBegun { .. })).count();
        self.reports.clear();
        begun
    }
}

fn quiet() -> DatagramFate {
    Box::new(|_, datagram| vec![(LATENCY, datagram.to_vec())])
}

pub(super) fn psk() -> DtlsClientConfig {
    DtlsClientConfig::psk("urn:imei:1", KEY)
}

pub(super) fn other_psk() -> DtlsClientConfig {
    DtlsClientConfig::psk("urn:imei:2", KEY)
}

/// With a connection id in both ways.
pub(super) fn psk_cid() -> DtlsClientConfig {
    psk().with_cid(b"dev")
}

/// Without connection ids; with one in the device's records; with one both ways.
pub(super) fn each_kind() -> [DtlsClientConfig; 3] {
    [psk(), psk().with_cid(&[]), psk_cid()]
}

/// Whether a datagram is the end of the server's part: it has its only ChangeCipherSpec in it.
pub(super) fn is_last_flight(way: Direction, datagram: &[u8]) -> bool {
    let changes = |record: DtlsRecord<'_>| record.content_type == ContentType::ChangeCipherSpec;
    way == Direction::Down && records(datagram, 0).any(changes)
}
