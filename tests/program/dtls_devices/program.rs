//! The built program with DTLS: what its files say, and what is left after a `kill -9`.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Message};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::scene::{register, update};
use crate::common::application::{Application, answer, content};
use crate::common::broker::TestBroker;
use crate::common::device::{Device, PATIENCE, path_of, response_to};
use crate::common::gateway::Gateway;
use crate::common::ports;
use crate::common::scene::LINKS;
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};
use lwm2m_dtls::{Term, WriteTerms};
use lwm2m_gateway::clock::unix_time;
use lwm2m_testkit::scene::beginning as now;

/// Longer than a change may wait to be written, by far.
const WRITTEN: Duration = Duration::from_millis(500);

/// A device behind a real socket.
pub(crate) struct SecuredDevice {
    socket: UdpSocket,
    client: DtlsClient,
    /// The sequence numbers of the protected records that came from the gateway.
    numbers: Vec<u64>,
}

impl SecuredDevice {
    /// None when the handshake does not come to its end.
    pub(crate) fn connect(gateway: SocketAddr, identity: &str, key: &[u8], patience: Duration) -> Option<Self> {
        Self::connect_with(gateway, DtlsClientConfig::psk(identity, key).with_cid(b""), patience)
    }

    pub(crate) fn connect_with(gateway: SocketAddr, config: DtlsClientConfig, patience: Duration) -> Option<Self> {
        let socket = ports::udp_socket();
        socket.connect(gateway).expect("loopback");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("the option is known");
        let client = DtlsClient::new(now(), config);
        let mut device = Self { socket, client, numbers: Vec::new() };
        let end = now() + patience;
        while !device.client.is_established() {
            if now() > end {
                return None;
            }
            device.exchange();
        }
        device.exchange();
        Some(device)
    }

    fn exchange(&mut self) {
        for datagram in self.client.transmits() {
            self.socket.send(&datagram).expect("loopback takes a datagram");
        }
        let mut buffer = [0; 2048];
        if let Ok(length) = self.socket.recv(&mut buffer) {
            self.numbers.extend(protected_numbers(&buffer[..length]));
            self.client.handle_datagram(now(), &buffer[..length]);
        }
        self.client.handle_timeout(now());
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.client.send(&message.encode());
        self.exchange();
    }

    pub(crate) fn receive(&mut self) -> Message {
        self.receive_within(PATIENCE).expect("the gateway has something to say to the device")
    }

    pub(crate) fn receive_within(&mut self, patience: Duration) -> Option<Message> {
        let end = now() + patience;
        loop {
            if let Some(plaintext) = self.client.poll_plaintext() {
                return Some(Message::decode(&plaintext).expect("a message"));
            }
            if now() >= end {
                return None;
            }
            self.exchange();
        }
    }

    /// Returns whether the gateway says nothing for so long.
    pub(crate) fn hears_nothing(&mut self, patience: Duration) -> bool {
        let end = now() + patience;
        while now() < end {
            self.exchange();
        }
        self.client.poll_plaintext().is_none()
    }

    pub(crate) fn ask(&mut self, request: &Message) -> Message {
        self.send(request);
        let answer = self.receive();
        assert_eq!(answer.token, request.token);
        answer
    }

    /// Returns the sequence numbers of the protected records that came from the gateway.
    pub(crate) fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// The same device, which reaches another gateway from now on.
    pub(crate) fn reaches(&self, gateway: SocketAddr) {
        self.socket.connect(gateway).expect("loopback");
    }

    /// The same device behind another NAT.
    pub(crate) fn moves(&mut self) {
        let gateway = self.socket.peer_addr().expect("it is connected");
        self.socket = ports::udp_socket();
        self.socket.connect(gateway).expect("loopback");
        self.socket.set_read_timeout(Some(Duration::from_millis(50))).expect("the option is known");
    }
}

/// The sequence numbers of the records of epoch 1 in a datagram to a device without a connection id (RFC 6347 section
/// 4.1).
fn protected_numbers(mut datagram: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let [_type, _, _, epoch @ ..] = datagram
        && let [e0, e1, n0, n1, n2, n3, n4, n5, l0, l1, rest @ ..] = epoch
    {
        if u16::from_be_bytes([*e0, *e1]) == 1 {
            numbers.push(u64::from_be_bytes([0, 0, *n0, *n1, *n2, *n3, *n4, *n5]));
        }
        datagram = rest.get(usize::from(u16::from_be_bytes([*l0, *l1]))..).unwrap_or_default();
    }
    numbers
}

pub(crate) struct CredentialsFolder {
    folder: TempDir,
    pub secured: SocketAddr,
}

impl CredentialsFolder {
    pub(crate) fn new(keys: &str) -> Self {
        let folder = TempDir::new().expect("a place for the keys");
        let secured = ports::free_address();
        let place = Self { folder, secured };
        place.write(keys);
        place
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys.psk")
    }

    pub(crate) fn write(&self, keys: &str) {
        fs::write(self.keys(), keys).expect("a place for the keys");
    }

    pub(crate) fn lines(&self) -> String {
        let (bind, keys) = (self.secured, self.keys());
        format!("watch_interval = \"100ms\"\nlisteners.dtls.secured.bind = \"{bind}\"\ndtls.psk_file = {keys:?}\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_registers_by_dtls_moves_and_outlives_a_kill_without_a_handshake() {
    let place = CredentialsFolder::new("secured:0123456789abcdef\n");
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &(place.lines() + "log.level = \"debug\"\n"));
    let mut application = Application::connect(&broker.addresses.mqtt, &["secured"]);
    let mut device =
        SecuredDevice::connect(place.secured, "secured", b"0123456789abcdef", PATIENCE).expect("an association");
    let created = device.ask(&register("lt=300"));
    assert_eq!(created.code, Code::CREATED);
    let location = created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
    assert_eq!(application.receive().1["msgType"], "register");

    let mut read = |device: &mut SecuredDevice, id: u64| {
        let command = json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } });
        application.send("secured", &command);
        let request = device.receive();
        assert_eq!(path_of(&request), "/3/0/0");
        device.send(&response_to(&request, Code::CONTENT, Some((0, b"Acme"))));
        application.expect("lwm2m/secured/up/resp", &answer(&command, content("/3/0/0", "Acme")));
    };
    read(&mut device, 1);
    device.moves();
    assert_eq!(device.ask(&update(&location)).code, Code::CHANGED);
    read(&mut device, 2);

    for id in 3..6 {
        sleep(WRITTEN).await;
        gateway.kill();
        until(|| control.clients().is_empty()).await;
        gateway.start_again();
        until(|| !control.subscriptions("secured").is_empty()).await;
        assert_eq!(device.ask(&update(&location)).code, Code::CHANGED);
        read(&mut device, id);
    }
    assert_eq!(gateway.output().matches("association established").count(), 1, "{}", gateway.output());
    assert!(!gateway.output().contains("0123456789abcdef"), "no key is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sequence_number_comes_twice_after_kills_and_an_older_copy_of_the_store() {
    let place = CredentialsFolder::new("secured:0123456789abcdef\n");
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &place.lines());
    let mut device =
        SecuredDevice::connect(place.secured, "secured", b"0123456789abcdef", PATIENCE).expect("an association");
    let created = device.ask(&register("lt=300"));
    let location = created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
    let mut older = None;
    for round in 0..6 {
        for _ in 0..20 {
            assert_eq!(device.ask(&update(&location)).code, Code::CHANGED, "round {round}");
        }
        let tick = tick();
        gateway.kill();
        match round {
            1 => older = Some(fs::read(gateway.store()).expect("a store")),
            4 => {
                // Nobody copies a file in the tick in which the program started: 4 s.
                until(|| self::tick() > tick).await;
                fs::write(gateway.store(), older.take().expect("a copy")).expect("a place for the store");
            }
            _ => {}
        }
        gateway.start_again();
    }
    assert_eq!(device.ask(&update(&location)).code, Code::CHANGED);
    assert!(device.numbers.len() > 120, "{}", device.numbers.len());
    assert!(device.numbers.is_sorted_by(|one, next| one < next), "{:?}", device.numbers);
}

/// The tick of the clock that terms follow.
fn tick() -> Term {
    let unix_time = unix_time().expect("a clock that is set");
    WriteTerms::first_after(Term::NONE, unix_time)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_missing_switches_dtls_off_and_plain_udp_is_served() {
    let place = CredentialsFolder::new("secured:0123456789abcdef\n");
    let broker = TestBroker::start().await;
    let missing = "dtls.certfile = \"nowhere.pem\"\ndtls.keyfile = \"nowhere-key.pem\"\n";
    let gateway = Gateway::start_with(&broker.addresses, 1, &(place.lines() + missing));
    until(|| gateway.ask_admin("/readyz").0 == 200).await;
    let output = gateway.output();
    assert!(output.contains("ERROR") && output.contains("DTLS is disabled"), "{output}");
    // Wherever it is shown: in the first line of the log, in an error, in the banner, in readiness and in the metrics.
    let (first, _) = output.split_once('\n').expect("a first line");
    assert!(first.contains(&format!("dtls {} (off)\"", place.secured)), "{first}");
    assert!(
        output.contains(&format!("{}   OFF: dtls.certfile = nowhere.pem: No such file", place.secured)),
        "{output}"
    );
    let (status, ready) = gateway.ask_admin("/readyz");
    let ready: serde_json::Value = serde_json::from_str(&ready).expect("JSON");
    assert_eq!((status, &ready["conditions"]["dtls"]["state"]), (200, &"off".into()), "{ready}");
    assert!(gateway.ask_admin("/metrics").1.contains("\nlwm2m_dtls_up 0\n"));
    let mut plain = Device::new(gateway.address());
    plain.register("ep=plain&lt=300", LINKS);
    let taken = plain.request(&register("ep=secured&lt=300"));
    assert_eq!(taken.code, Code::FORBIDDEN, "the name has a key, though it is of no use without DTLS");
    let refused = SecuredDevice::connect(place.secured, "secured", b"0123456789abcdef", Duration::from_secs(1));
    assert!(refused.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_missing_ends_the_program_if_it_is_told_so() {
    let place = CredentialsFolder::new("");
    let lines = place.lines() + "dtls.certfile = \"nowhere.pem\"\ndtls.on_error = \"exit\"\n";
    let mut gateway = Gateway::start_without_waiting(&TestBroker::start().await.addresses, &lines);
    assert_eq!(gateway.wait().code(), Some(1));
    assert!(gateway.output().contains("dtls.certfile = nowhere.pem: No such file"), "{}", gateway.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_keys_is_in_force_and_a_bad_one_leaves_the_old_keys() {
    let place = CredentialsFolder::new("one:0123456789abcdef\n");
    let broker = TestBroker::start().await;
    let gateway = Gateway::start_with(&broker.addresses, 1, &place.lines());
    let connects = |identity, key: &[u8], patience| {
        SecuredDevice::connect(place.secured, identity, key, Duration::from_secs(patience)).is_some()
    };
    let mut first =
        SecuredDevice::connect(place.secured, "one", b"0123456789abcdef", PATIENCE).expect("an association");
    assert!(!connects("two", b"hunter2-hunter2-", 1));
    let by_plain_udp =
        |name: &str| Device::new(gateway.address()).try_register(&format!("ep={name}&lt=300"), LINKS).code;
    assert_eq!([by_plain_udp("one"), by_plain_udp("two")], [Code::FORBIDDEN, Code::CREATED]);

    place.write("one:0123456789abcdef\ntwo:hunter2-hunter2-\n");
    until(|| connects("two", b"hunter2-hunter2-", 1)).await;
    assert_eq!([by_plain_udp("one"), by_plain_udp("two")], [Code::FORBIDDEN; 2], "both have a key now");
    place.write("one:0123456789abcdef\nhunter2-without-a-separator\n");
    until(|| gateway.output().contains("keys.psk, line 2: there is no separator")).await;
    assert!(connects("two", b"hunter2-hunter2-", 20));
    assert!(!gateway.output().contains("hunter2"), "{}", gateway.output());

    place.write("two:fedcba9876543210\n");
    until(|| connects("two", b"fedcba9876543210", 1)).await;
    assert!(!connects("one", b"0123456789abcdef", 1));
    // What was made by a key that is gone is over, and its device was told.
    first.exchange();
    assert!(!first.client.is_established());
}

pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    let end = now() + PATIENCE;
    while !done() {
        assert!(now() < end, "it does not happen");
        sleep(Duration::from_millis(50)).await;
    }
}
