//! The built program under fire from hundreds of addresses, over plain UDP, DTLS and HTTP, with honest devices beside
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lwm2m_core::coap::Message;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::corpus;
use super::effort::{self, now};
use super::honest::{HonestDevices, Tally};
use super::mutation::mutate;
use crate::common::admin;
use crate::common::application::Application;
use crate::common::broker::TestBroker;
use crate::common::gateway::Gateway;
use crate::common::ports;

const HONEST: usize = 4;
/// Addresses of each of the attackers.
const ADDRESSES: usize = 120;
/// Between two datagrams of an attacker. Together they send less than a socket can hold until the program, unoptimized
/// and on a busy machine, takes it.
const PAUSE: Duration = Duration::from_micros(700);
const SHORT: Duration = Duration::from_secs(6);
/// Memory that the tables may take when they are full of unregistered peers.
const MEMORY: f64 = 300e6;
/// An Update of a device beside an attack: with one repetition, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pages of metrics that are looked at until one was made between two datagrams.
const PAGES: usize = 20;

/// The built program, its honest devices and their application.
pub(super) struct Fort {
    pub gateway: Gateway,
    _broker: TestBroker,
    pub secured: SocketAddr,
    application: Application,
    honest: Vec<HonestDevices>,
    heard: BTreeMap<String, ReceivedMessages>,
    asked: u64,
    _keys: TempDir,
}

/// What was published for a device.
#[derive(Debug, Default)]
struct ReceivedMessages {
    notified: Vec<u32>,
    sent: Vec<u32>,
    answered: BTreeSet<u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_program_outlives_an_attack_and_serves_the_others() {
    let Some(mut fort) = Fort::build("").await else { return };
    let before = fort.metrics();
    let attack = NetworkAttack::begin(&fort, 2);

    fort.live_for(effort::duration(SHORT));

    let sent = attack.end();
    let after = fort.fall_silent();
    let grown =
        admin::sum(&after, "process_resident_memory_bytes") - admin::sum(&before, "process_resident_memory_bytes");
    println!("{sent} datagrams; the program has grown by {:.0} MB", grown / 1e6);
    assert!(grown < MEMORY, "{grown} bytes");
    assert_each_is_counted_once(&after);
    fort.assert_all_were_served();
}

impl Fort {
    /// Returns `None` against a real EMQX: nobody else could use it meanwhile.
    pub(super) async fn build(lines: &str) -> Option<Self> {
        let broker = TestBroker::start().await;
        broker.control()?;
        let keys = TempDir::new().expect("a place for the keys");
        let file = keys.path().join("keys.psk");
        fs::write(&file, "secured:0123456789abcdef\n").expect("a place for the keys");
        let secured = ports::free_address();
        let dtls = format!("{lines}\nlisteners.dtls.secured.bind = \"{secured}\"\ndtls.psk_file = {file:?}\n");
        let gateway = Gateway::start_with(&broker.addresses, 1, &dtls);
        let names: Vec<String> = (0..HONEST).map(|number| format!("honest-{number}")).collect();
        let endpoints: Vec<&str> = names.iter().map(String::as_str).collect();
        let application = Application::connect(&broker.addresses.mqtt, &endpoints);
        let honest = names.iter().map(|name| HonestDevices::start(gateway.address(), name)).collect();
        let heard = names.iter().map(|name| (name.clone(), ReceivedMessages::default())).collect();
        let mut fort = Self { gateway, _broker: broker, secured, application, honest, heard, asked: 0, _keys: keys };
        fort.gateway.wait_for_clients(HONEST as f64);
        for name in &names {
            let observe = json!({ "reqID": 0, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
            fort.application.send(name, &observe);
        }
        fort.hear(Duration::from_millis(500));
        Some(fort)
    }

    /// The application asks the devices now and then, and the program is asked whether it is well.
    pub(super) fn live_for(&mut self, time: Duration) {
        let end = now() + time;
        while now() < end {
            self.asked += 1;
            for honest in &self.honest {
                let read = json!({ "reqID": self.asked, "msgType": "read", "data": { "path": "/3/0/0" } });
                self.application.send(&honest.endpoint, &read);
            }
            self.hear(Duration::from_millis(500));
            let (status, body) = self.gateway.ask_admin("/healthz");
            assert_eq!(status, 200, "{body}");
        }
    }

    pub(super) fn metrics(&self) -> String {
        self.gateway.ask_admin("/metrics").1
    }

    /// Waits until all that was sent has been counted; gives the page of metrics. The honest devices go on meanwhile,
    /// so that a page may be made between the two counts of a datagram of theirs: then the next one is looked at.
    pub(super) fn fall_silent(&mut self) -> String {
        self.hear(Duration::from_secs(1));
        let mut page = self.metrics();
        for _ in 0..PAGES {
            let (taken, plain, secured) = counted(&page);
            if taken == plain + secured {
                break;
            }
            self.hear(Duration::from_millis(50));
            page = self.metrics();
        }
        page
    }

    /// The devices stop. Each Update was answered in time, each notification that was acknowledged was published once,
    /// each Send was answered 2.04 and published once and in order, and each read was answered.
    #[track_caller]
    pub(super) fn assert_all_were_served(mut self) {
        let tallies: Vec<(String, Tally)> = std::mem::take(&mut self.honest)
            .into_iter()
            .map(|honest| (honest.endpoint.clone(), honest.stop()))
            .collect();
        self.hear(Duration::from_secs(2));
        for (endpoint, tally) in tallies {
            let heard = &self.heard[&endpoint];
            assert!(tally.updates.len() > 10, "{endpoint}: {tally:?}");
            assert_eq!((tally.unacknowledged, &*tally.refused), (0, &[][..]), "{endpoint}");
            let longest = tally.updates.iter().max().copied().unwrap_or_default();
            assert!(longest < PATIENCE, "{endpoint}: {longest:?}");
            let published: BTreeSet<u32> = heard.notified.iter().copied().collect();
            assert_eq!(published.len(), heard.notified.len(), "{endpoint}: one was published twice");
            let lost: Vec<_> = tally.acknowledged.difference(&published).collect();
            assert!(lost.is_empty(), "{endpoint}: {lost:?} of {}", tally.acknowledged.len());
            assert!(tally.sent.len() > 10, "{endpoint}: {:?}", tally.sent);
            assert!(tally.sent.iter().eq(&heard.sent), "{endpoint}: {:?} of {:?}", heard.sent, tally.sent);
            assert_eq!(heard.answered.len() as u64, self.asked, "{endpoint}: {:?}", heard.answered);
        }
    }

    fn hear(&mut self, time: Duration) {
        let end = now() + time;
        while let Some(left) = end.checked_duration_since(now()) {
            let Some((topic, payload)) = self.application.receive_within(left) else { return };
            let payload: Value = serde_json::from_slice(&payload).expect("what is published is JSON");
            let endpoint = topic.split('/').nth(1).expect("lwm2m/{endpoint}/...");
            let heard = self.heard.get_mut(endpoint).expect("it was subscribed for");
            match payload["msgType"].as_str() {
                Some("notify") => {
                    let value = payload["data"]["content"][0]["value"].as_f64().expect("a number");
                    heard.notified.push(value as u32);
                }
                Some("send") => {
                    let value = payload["data"]["content"][0]["value"].as_f64().expect("a number");
                    heard.sent.push(value as u32);
                }
                Some("read") if payload["data"]["code"] == "2.05" => {
                    heard.answered.insert(payload["reqID"].as_u64().expect("a number"));
                }
                _ => {}
            }
        }
    }
}

/// Threads that send mutated datagrams from hundreds of addresses, and connections at the admin listener.
struct NetworkAttack {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl NetworkAttack {
    fn begin(fort: &Fort, threads: u64) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let targets = [fort.gateway.address(), fort.secured];
        let attackers = (0..threads).map(|number| {
            let (stop, sent, rng) = (Arc::clone(&stop), Arc::clone(&sent), effort::rng(100 + number));
            thread::spawn(move || attack(rng, targets, &stop, &sent))
        });
        let mut threads: Vec<_> = attackers.collect();
        let (stopped, admin) = (Arc::clone(&stop), admin::address(&fort.gateway.output()).expect("it prints where"));
        threads.push(thread::spawn(move || trouble_the_admin(admin, effort::rng(99), &stopped)));
        Self { stop, sent, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("an attacker does not panic"));
        self.sent.load(Ordering::Relaxed)
    }
}

fn attack(mut rng: StdRng, [plain, secured]: [SocketAddr; 2], stop: &AtomicBool, sent: &AtomicU64) {
    let sockets: Vec<UdpSocket> = (0..ADDRESSES).map(|_| socket_somewhere(&mut rng)).collect();
    let corpus: Vec<Vec<u8>> = corpus::of_unregistered_peers().iter().map(Message::encode).collect();
    let records = dtls_records();
    while !stop.load(Ordering::Relaxed) {
        let socket = &sockets[rng.random_range(0..sockets.len())];
        let (of, target) = if rng.random_bool(0.75) { (&corpus, plain) } else { (&records, secured) };
        let mut datagram = of[rng.random_range(0..of.len())].clone();
        if rng.random_bool(0.9) {
            mutate(&mut rng, &mut datagram, of);
        }
        // Loopback may have no room for a moment.
        if socket.send_to(&datagram, target).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        thread::park_timeout(PAUSE);
    }
}

/// Heads that never end, requests that are none, and connections that say nothing; four in a second.
fn trouble_the_admin(admin: SocketAddr, mut rng: StdRng, stop: &AtomicBool) {
    let mut held = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(admin) {
            let says: &[u8] = match rng.random_range(0..3) {
                0 => b"GET /healthz HTT",
                1 => b"\x16\x03\x01\x02\x00\x01",
                _ => b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
            };
            // It may be closed already.
            if stream.write_all(says).is_ok() && rng.random_bool(0.3) {
                held.push(stream);
                held.truncate(2);
            }
        }
        thread::park_timeout(Duration::from_millis(250));
    }
}

/// All of 127.0.0.0/8 is this machine.
fn socket_somewhere(rng: &mut StdRng) -> UdpSocket {
    let address = SocketAddr::from(([127, rng.random_range(1..255), rng.random(), rng.random_range(1..255)], 0));
    UdpSocket::bind(address).unwrap_or_else(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port"))
}

/// Records as they look before a handshake, in it and after it.
fn dtls_records() -> Vec<Vec<u8>> {
    let record = |kind: u8, epoch: u8, body: &[u8]| {
        let header = [kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 7];
        [&header[..], &(body.len() as u16).to_be_bytes(), body].concat()
    };
    let mut hello = vec![1, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 60, 0xfe, 0xfd];
    hello.extend([7; 32]);
    hello.extend([0, 0, 0, 4, 0xc0, 0xa8, 0x00, 0xae, 1, 0, 0, 14, 0, 23, 0, 0, 0, 22, 0, 0, 0, 54, 0, 2, 1, 0]);
    vec![
        record(22, 0, &hello),
        record(22, 0, &[16, 0, 0, 9, 0, 2, 0, 0, 0, 0, 0, 9, 0, 7, b's', b'e', b'c', b'u', b'r', b'e', b'd']),
        record(20, 0, &[1]),
        record(21, 0, &[2, 40]),
        record(22, 1, &[0; 40]),
        record(23, 1, &[0; 64]),
        record(25, 1, &[0; 72]),
    ]
}

/// Returns the datagrams that the sockets took in, and those that plain UDP and DTLS counted by their outcomes.
fn counted(page: &str) -> (f64, f64, f64) {
    let sum = |series: &str| admin::sum(page, series);
    let taken = sum("lwm2m_socket_datagrams_total{direction=\"in\"}");
    (taken, sum("lwm2m_datagrams_total"), sum("lwm2m_dtls_datagrams_total"))
}

/// Each datagram is counted by one listener, and once.
#[track_caller]
pub(super) fn assert_each_is_counted_once(page: &str) {
    let sum = |series: &str| admin::sum(page, series);
    let (taken, plain, secured) = counted(page);
    // Nobody has a key here: what is inside of records would be counted as messages too.
    assert_eq!(sum("lwm2m_dtls_datagrams_total{outcome=\"data\"}"), 0.0);
    assert_eq!(taken, plain + secured, "{taken} were taken in, {plain} and {secured} counted");
}
