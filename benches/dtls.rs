//! What DTLS costs, beside what OpenSSL costs that does all of it: the same suite, with a cookie, in memory, in one
//! process.
//!
//! `cargo bench --bench dtls`. It begins with what 50,000 associations occupy, in memory and in the store. Of the times
//! only the server's part is counted, in processor time of this thread. Both servers keep what a handshake leaves: this
//! one its associations, OpenSSL its sessions, the last few thousand of them.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lwm2m_base::AssociationId;
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::{AssociationChange, DtlsConfig, DtlsEvent, DtlsOutput, DtlsServer, Term, WriteTerms};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVersion};
use rustix::time::{ClockId, clock_gettime};

use lwm2m_dtls::test_client::ffi::listen;
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig, Wire};

const IDENTITY: &str = "urn:imei:490154203237518";
const KEY: &[u8] = b"0123456789abcdef";
const SUITE: &str = "PSK-AES128-CCM8";
/// What a device reports at a time.
const DATA: &[u8; 50] = &[0x41; 50];

const SOCKET: u16 = 0;
/// Between two handshakes: so that their rate is one that the settings allow.
const PAUSE: Duration = Duration::from_millis(10);
/// Associations whose memory is measured.
const CROWD: u32 = 50_000;
/// Sessions that OpenSSL keeps, of about 70 KiB each.
const SESSIONS: usize = 5_000;
/// Handshakes before that, for what OpenSSL makes once.
const WARM_UP: u32 = 500;

fn main() {
    let is_measurement = std::env::args().any(|argument| argument == "--bench");
    let (crowd, rounds) = if is_measurement { (CROWD, 100) } else { (WARM_UP, 2) };
    // First, while the memory of this process is that of nothing else.
    print_occupancy(crowd);
    for (name, cid) in [("", None), (", with connection ids", Some(&b"12345678"[..]))] {
        compare(&format!("a handshake with {SUITE}{name}"), rounds, 100, handshakes(cid), handshakes_alone());
    }
    for (name, cid) in [("", None), (", with connection ids", Some(&b"12345678"[..]))] {
        compare(&format!("50 bytes received and sent with {SUITE}{name}"), rounds, 1_000, echoes(cid), echoes_alone());
    }
}

/// By turns, since what else the machine does changes all the time; of each the median.
fn compare(
    name: &str,
    rounds: usize,
    in_round: u32,
    mut this: impl FnMut() -> Duration,
    mut alone: impl FnMut() -> Duration,
) {
    let mut measured: Vec<[f64; 3]> = (0..rounds)
        .map(|_| {
            let [this, alone] = [&mut this as &mut dyn FnMut() -> Duration, &mut alone]
                .map(|work| (0..in_round).map(|_| work()).sum::<Duration>().as_secs_f64() / f64::from(in_round));
            [this, alone, alone / this]
        })
        .collect();
    let [this, alone, ratio] = [0, 1, 2].map(|column| {
        measured.sort_by(|one, other| one[column].total_cmp(&other[column]));
        measured[rounds / 2][column]
    });
    let (this, alone) = (this * 1e6, alone * 1e6);
    println!("{name}: {this:.2} us, OpenSSL alone {alone:.2} us; {ratio:.2} times as many in the same time");
}

fn handshakes(cid: Option<&[u8]>) -> impl FnMut() -> Duration {
    let (mut gateway, client) = (Gateway::new(), client(cid));
    move || {
        let before = gateway.spent;
        let (mut client, association, address) = gateway.shake_hands(client.reboot(gateway.now));
        let spent = gateway.spent - before;
        // So that nothing is kept of the handshake.
        gateway.echo(&mut client, association, address);
        spent
    }
}

fn handshakes_alone() -> impl FnMut() -> Duration {
    let (mut alone, client) = (Alone::new(), client(None));
    move || {
        let before = alone.spent;
        let (_, peer) = alone.shake_hands(client.reboot(alone.now));
        alone.keep(peer);
        alone.spent - before
    }
}

/// One record of a device, and one back to it.
fn echoes(cid: Option<&[u8]>) -> impl FnMut() -> Duration {
    let mut gateway = Gateway::new();
    let (mut client, association, address) = gateway.shake_hands(client(cid));
    move || {
        let before = gateway.spent;
        gateway.echo(&mut client, association, address);
        gateway.spent - before
    }
}

fn echoes_alone() -> impl FnMut() -> Duration {
    let mut alone = Alone::new();
    let (mut client, mut peer) = alone.shake_hands(client(None));
    move || {
        let before = alone.spent;
        alone.echo(&mut client, &mut peer);
        alone.spent - before
    }
}

/// Each device has sent something, so that the handshake is over for both sides.
fn print_occupancy(associations: u32) {
    let mut gateway = Gateway::new();
    let establish = |gateway: &mut Gateway, number: u32, cid: Option<&[u8]>| {
        let config = DtlsClientConfig::psk(&format!("urn:dev:os:32473-{number:06}"), KEY);
        let config = DtlsClientConfig { cid: cid.map(<[u8]>::to_vec), ..config };
        let (mut client, association, address) = gateway.shake_hands(DtlsClient::new(gateway.now, config));
        gateway.echo(&mut client, association, address);
    };
    (0..WARM_UP).for_each(|number| establish(&mut gateway, number, None));
    for (name, cid) in [("without", None), ("with", Some(&b"12345678"[..]))] {
        let (before, there) = (resident(), gateway.server.table_sizes().associations);
        (0..associations).for_each(|number| establish(&mut gateway, number, cid));
        let memory = (resident() - before) / f64::from(associations);
        let made = gateway.server.table_sizes().associations - there;
        gateway.server.change_all();
        let changes = gateway.server.take_changes(made);
        let saved = changes.iter().map(saved_size).sum::<usize>() as f64 / changes.len() as f64;
        println!(
            "{made} associations {name} connection ids: {memory:.0} bytes of memory each, {saved:.0} in the store"
        );
        gateway.server.take_changes(usize::MAX);
    }
}

fn saved_size(change: &AssociationChange) -> usize {
    match change {
        AssociationChange::Put(saved) => saved.bytes.len(),
        AssociationChange::Remove(_) => 0,
    }
}

/// Bytes of memory that this process has.
fn resident() -> f64 {
    const PAGE: f64 = 4096.0;
    let statm = fs::read_to_string("/proc/self/statm").expect("a Linux");
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the form of statm");
    pages * PAGE
}

fn client(cid: Option<&[u8]>) -> DtlsClient {
    let config = DtlsClientConfig::psk(IDENTITY, KEY).with_suites(SUITE);
    DtlsClient::new(now(), DtlsClientConfig { cid: cid.map(<[u8]>::to_vec), ..config })
}

#[expect(clippy::disallowed_methods, reason = "a benchmark starts somewhere")]
fn now() -> Instant {
    Instant::now()
}

/// Adds what this thread computes in it to `spent`.
fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let computed = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = computed();
    let made = work();
    *spent += computed() - before;
    made
}

/// The server of this project.
struct Gateway {
    server: DtlsServer,
    now: Instant,
    spent: Duration,
    devices: u32,
}

impl Gateway {
    fn new() -> Self {
        let now = now();
        let acceptor = Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing");
        let config = DtlsConfig { associations: 200_000, ..DtlsConfig::default() };
        let mut server = DtlsServer::new(config, Some(acceptor), [7; 32], now);
        assert!(server.restore(now, WriteTerms::new(Term::new(1), now, Duration::ZERO), Vec::new()).is_empty());
        Self { server, now, spent: Duration::ZERO, devices: 0 }
    }

    fn shake_hands(&mut self, mut client: DtlsClient) -> (DtlsClient, AssociationId, SocketAddr) {
        self.devices += 1;
        self.now += PAUSE;
        let Self { server, now, spent, .. } = self;
        timed(spent, || server.handle_timeout(*now));
        let address = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + self.devices), 5683));
        let mut association = None;
        while association.is_none() || !client.is_established() {
            let datagrams = client.transmits();
            assert!(!datagrams.is_empty(), "the client has something to say: {:?}", client.state());
            let outputs: Vec<_> = datagrams.iter().flat_map(|datagram| self.hear(address, datagram)).collect();
            for output in outputs {
                match output {
                    DtlsOutput::Transmit { datagram, .. } | DtlsOutput::TransmitLastFlight { datagram, .. } => {
                        client.handle_datagram(self.now, &datagram);
                    }
                    DtlsOutput::Report(_) => {}
                    other => panic!("not a handshake: {other:?}"),
                }
            }
            if let Some(DtlsEvent::Established { peer, .. }) = self.server.poll_event() {
                association = peer.association;
            }
        }
        (client, association.expect("it was looked for above"), address)
    }

    /// What comes of a datagram. Keys are known at once, and not remembered: their table is no part of an association.
    fn hear(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<DtlsOutput> {
        let Self { server, now, spent, .. } = self;
        timed(spent, || {
            let mut outputs = Vec::new();
            server.handle_datagram(*now, SOCKET, from, datagram);
            while let Some(output) = server.poll_output() {
                match output {
                    DtlsOutput::FindKey(question) => {
                        let key = PskKey::new(KEY).expect("a key");
                        server.handle_key(
                            *now,
                            &question,
                            KeyAnswer::Found { key: key.into(), keep_for: Duration::ZERO },
                        );
                    }
                    output => outputs.push(output),
                }
            }
            outputs
        })
    }

    fn echo(&mut self, client: &mut DtlsClient, association: AssociationId, address: SocketAddr) {
        client.send(DATA);
        let datagram = client.poll_transmit().expect("a record");
        self.hear(address, &datagram);
        let server = &mut self.server;
        let event = timed(&mut self.spent, || server.poll_event());
        let Some(DtlsEvent::Plaintext { plaintext, .. }) = event else { panic!("not read: {event:?}") };
        assert_eq!(plaintext, DATA);
        let (_, datagram) = timed(&mut self.spent, || server.seal(association, DATA)).expect("a record");
        client.handle_datagram(self.now, &datagram);
        assert!(client.poll_plaintext().is_some());
        // The store takes them, a few at a time.
        self.server.take_changes(usize::MAX);
    }
}

/// A server that is OpenSSL and nothing else, with its stateless cookie.
struct Alone {
    context: SslContext,
    sessions: VecDeque<Peer>,
    now: Instant,
    spent: Duration,
}

type Peer = SslStream<Wire>;

impl Alone {
    fn new() -> Self {
        const COOKIE: &[u8] = b"0123456789abcdef";
        let mut context = SslContext::builder(SslMethod::dtls()).expect("memory");
        context.set_min_proto_version(Some(SslVersion::DTLS1_2)).expect("OpenSSL has it");
        context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_RENEGOTIATION);
        context.set_session_id_context(b"bench").expect("it is short");
        context.set_cipher_list(&format!("{SUITE}:@SECLEVEL=0")).expect("a suite of OpenSSL");
        context.set_cookie_generate_cb(|_, cookie| {
            cookie[..COOKIE.len()].copy_from_slice(COOKIE);
            Ok(COOKIE.len())
        });
        context.set_cookie_verify_cb(|_, cookie| cookie == COOKIE);
        context.set_psk_server_callback(|_, _, key| {
            key[..KEY.len()].copy_from_slice(KEY);
            Ok(KEY.len())
        });
        Self { context: context.build(), sessions: VecDeque::new(), now: now(), spent: Duration::ZERO }
    }

    fn shake_hands(&mut self, mut client: DtlsClient) -> (DtlsClient, Peer) {
        let mut peer = timed(&mut self.spent, || {
            let mut ssl = Ssl::new(&self.context).expect("memory");
            ssl.set_accept_state();
            ssl.set_mtu(1200).expect("an MTU");
            SslStream::new(ssl, Wire::default()).expect("memory")
        });
        let (mut is_listening, mut is_done) = (true, false);
        while !is_done || !client.is_established() {
            for datagram in client.transmits() {
                timed(&mut self.spent, || {
                    peer.get_mut().unread.push_back(datagram);
                    is_listening = is_listening && !listen(&mut peer);
                    is_done = !is_listening && peer.accept().is_ok();
                });
            }
            let written = std::mem::take(&mut peer.get_mut().written);
            assert!(is_done || !written.is_empty(), "OpenSSL has something to say: {:?}", client.state());
            written.iter().for_each(|datagram| client.handle_datagram(self.now, datagram));
        }
        (client, peer)
    }

    fn keep(&mut self, peer: Peer) {
        self.sessions.push_back(peer);
        if self.sessions.len() > SESSIONS {
            let oldest = self.sessions.pop_front();
            timed(&mut self.spent, || drop(oldest));
        }
    }

    fn echo(&mut self, client: &mut DtlsClient, peer: &mut Peer) {
        client.send(DATA);
        let datagram = client.poll_transmit().expect("a record");
        let written = timed(&mut self.spent, || {
            peer.get_mut().unread.push_back(datagram);
            let mut buffer = [0; 2048];
            let length = peer.ssl_read(&mut buffer).expect("a record");
            peer.ssl_write(&buffer[..length]).expect("a record");
            std::mem::take(&mut peer.get_mut().written)
        });
        written.iter().for_each(|datagram| client.handle_datagram(self.now, datagram));
        assert!(client.poll_plaintext().is_some());
    }
}
