//! What onlookers cost the devices: the time of Updates and of reads, and the memory of the server, without consoles
//! and with them.
//!
//! Each console lists all devices page by page, then searches them all, again and again; it reads the events of all
//! devices as well, and some trace a device. Rounds without and with consoles take turns, so that whatever else the
//! machine does meets both.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_load::{Application, Fleet};
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::server::BenchServer;

/// Rounds of each kind.
const ROUNDS: usize = 3;
/// Notifications in a second of all devices, beside the messages that are timed.
const NOTIFICATIONS: f64 = 500.0;
/// The time between two timed messages.
const PAUSE: Duration = Duration::from_millis(3);
/// An Update that is not answered by then was lost.
const LOST: Duration = Duration::from_secs(1);
/// Consoles that trace a device, as many as the gateway allows.
const TRACES: usize = 8;
/// The size of one page.
const PAGE: usize = 1_000;
/// The time that one read from a stream may take, after which a console sees whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// The times of one kind of message.
#[derive(Default)]
struct Times {
    updates: Vec<Duration>,
    reads: Vec<Duration>,
}

/// A device whose Updates are timed, one after the other.
struct UpdateProbe {
    socket: UdpSocket,
    location: Vec<Vec<u8>>,
    next_id: u16,
}

/// The running consoles.
struct Consoles {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counts: Arc<ConsoleCounts>,
}

/// What the consoles did.
#[derive(Default)]
struct ConsoleCounts {
    listed: AtomicU64,
    searches: AtomicU64,
    refused: AtomicU64,
    streams: AtomicU64,
    stream_bytes: AtomicU64,
}

/// Prints the times of both kinds of rounds, and what the consoles cost the server.
pub async fn run(
    (devices, consoles, seconds): (u32, usize, u64),
    server: &BenchServer,
    application: &mut Application,
    fleet: &Fleet,
) -> anyhow::Result<()> {
    let socket = server.console.as_path();
    let mut probe = UpdateProbe::register(server.udp).await?;
    fleet.notify_every(Some(Duration::from_secs_f64(f64::from(devices) / NOTIFICATIONS)));
    let traces = trace(socket);
    let before = server.memory()?;
    let (mut without, mut with, mut most, mut next_id) = (Times::default(), Times::default(), before, 1 << 32);
    let (mut cpu_without, mut cpu_with) = (Duration::ZERO, Duration::ZERO);
    let counts = Arc::new(ConsoleCounts::default());
    for _ in 0..ROUNDS {
        let cpu = server.cpu()?;
        measure(&mut without, seconds, devices, &mut next_id, application, &mut probe).await?;
        cpu_without += server.cpu()? - cpu;
        let running = Consoles::start(consoles, socket, &counts);
        let cpu = server.cpu()?;
        measure(&mut with, seconds, devices, &mut next_id, application, &mut probe).await?;
        cpu_with += server.cpu()? - cpu;
        most = most.max(server.memory()?);
        running.end();
    }
    let spent = driver_seconds(socket)?;
    let round = (ROUNDS as u64 * seconds) as f64;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{consoles} consoles for {round} s: {} rows listed, {} searches of all devices, {} streams with {} KiB, \
         {traces} traces, {} requests refused",
        count(&counts.listed),
        count(&counts.searches),
        count(&counts.streams),
        count(&counts.stream_bytes) / 1024,
        count(&counts.refused),
    );
    for (name, without, with) in
        [("Update", &mut without.updates, &mut with.updates), ("read", &mut without.reads, &mut with.reads)]
    {
        let at = |times: &mut Vec<Duration>, percent: usize| {
            times.sort();
            times[(times.len() - 1) * percent / 100]
        };
        println!(
            "{name:<7} without: p50 {:.2?}, p99 {:.2?}; with: p50 {:.2?}, p99 {:.2?}",
            at(without, 50),
            at(without, 99),
            at(with, 50),
            at(with, 99),
        );
    }
    println!(
        "event loop for consoles: {:.2} % of the time; cpu of the server: {:.1} % without, {:.1} % with; \
         memory: {:.1} MiB before, {:.1} MiB at most",
        spent / round * 100.0,
        cpu_without.as_secs_f64() / round * 100.0,
        cpu_with.as_secs_f64() / round * 100.0,
        before as f64 / 1_048_576.0,
        most as f64 / 1_048_576.0,
    );
    Ok(())
}

/// Times Updates and reads, one after the other.
async fn measure(
    times: &mut Times,
    seconds: u64,
    devices: u32,
    next_id: &mut u64,
    application: &mut Application,
    probe: &mut UpdateProbe,
) -> anyhow::Result<()> {
    // The consoles have connected by then.
    sleep(LOOK).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        times.updates.extend(probe.update().await?);
        sleep(PAUSE).await;
        *next_id += 1;
        let device = (*next_id % u64::from(devices)) as u32;
        let begin = Instant::now();
        application.command(device, *next_id, "read", "/3/0/0").await?;
        application.answer(*next_id).await?;
        times.reads.push(begin.elapsed());
        sleep(PAUSE).await;
    }
    Ok(())
}

impl UpdateProbe {
    async fn register(gateway: SocketAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(gateway).await?;
        let mut probe = Self { socket, location: vec![b"rd".to_vec()], next_id: 0 };
        let mut register = probe.request();
        for item in ["ep=update-probe", "lt=3600", "lwm2m=1.0", "b=U"] {
            register.options.add_text(number::URI_QUERY, item);
        }
        register.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        register.payload = b"</1/0>,</3/0>".to_vec();
        let created = probe.ask(&register).await?.context("the Register of the probe was not answered")?;
        ensure!(created.code == Code::CREATED, "the Register of the probe was answered {:?}", created.code);
        probe.location = created.options.all(number::LOCATION_PATH).map(<[u8]>::to_vec).collect();
        Ok(probe)
    }

    /// Returns how long the answer to an Update took; `None` if it was lost.
    async fn update(&mut self) -> anyhow::Result<Option<Duration>> {
        let update = self.request();
        let begin = Instant::now();
        let Some(answer) = self.ask(&update).await? else { return Ok(None) };
        ensure!(answer.code == Code::CHANGED, "an Update was answered {:?}", answer.code);
        Ok(Some(begin.elapsed()))
    }

    async fn ask(&self, request: &Message) -> anyhow::Result<Option<Message>> {
        self.socket.send(&request.encode()).await?;
        let mut buffer = [0; 1500];
        loop {
            let Ok(length) = timeout(LOST, self.socket.recv(&mut buffer)).await else { return Ok(None) };
            let answer = Message::decode(&buffer[..length?]).ok().context("the gateway sent no message")?;
            if answer.id == request.id {
                return Ok(Some(answer));
            }
        }
    }

    fn request(&mut self) -> Message {
        self.next_id = self.next_id.wrapping_add(1);
        let mut options = Options::new();
        self.location.iter().for_each(|segment| options.add(number::URI_PATH, segment));
        let (id, token) = (MessageId(self.next_id), Token::new(&self.next_id.to_be_bytes()));
        Message { kind: Kind::Confirmable, code: Code::POST, id, token, options, payload: Vec::new() }
    }
}

impl Consoles {
    /// Starts the consoles, each on threads of its own.
    fn start(consoles: usize, socket: &Path, counts: &Arc<ConsoleCounts>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..consoles {
            for activity in [look as fn(&Path, &AtomicBool, &ConsoleCounts) -> anyhow::Result<()>, listen] {
                let (socket, over, counts) = (socket.to_owned(), Arc::clone(&over), Arc::clone(counts));
                threads.push(thread::spawn(move || {
                    if let Err(error) = activity(&socket, &over, &counts) {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        eprintln!("load: a console ended: {error:#}");
                    }
                }));
            }
        }
        Self { over, threads, counts: Arc::clone(counts) }
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Lists all devices and searches them all, until it is over.
fn look(socket: &Path, over: &AtomicBool, counts: &ConsoleCounts) -> anyhow::Result<()> {
    let is_over = || over.load(Ordering::Relaxed);
    while !is_over() {
        for query in [format!("limit={PAGE}"), format!("limit={PAGE}&q=nothing")] {
            let mut cursor = String::new();
            loop {
                let list = get(socket, &format!("/api/v1/devices?{query}{cursor}"))?;
                let rows = list["devices"].as_array().map_or(0, Vec::len);
                counts.listed.fetch_add(rows as u64, Ordering::Relaxed);
                match list["next"].as_str() {
                    Some(next) if !is_over() => cursor = format!("&cursor={next}"),
                    Some(_) | None => break,
                }
            }
            if is_over() {
                return Ok(());
            }
        }
        counts.searches.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads the events of all devices, until it is over.
fn listen(socket: &Path, over: &AtomicBool, counts: &ConsoleCounts) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut buffer = [0; 16 * 1024];
    let mut is_open = false;
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                if !is_open {
                    is_open = true;
                    let opened = u64::from(buffer.starts_with(b"HTTP/1.1 200"));
                    counts.streams.fetch_add(opened, Ordering::Relaxed);
                }
                counts.stream_bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Begins the traces, and returns how many there are.
fn trace(socket: &Path) -> usize {
    let trace = |number: &usize| {
        let body = format!("{{\"endpoint\":\"load-{number}\"}}");
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        ask(socket, "POST /api/v1/traces", &head, &body).is_ok_and(|(status, _)| status < 300)
    };
    (0..TRACES).filter(trace).count()
}

/// Returns how long the event loop served consoles, in seconds.
fn driver_seconds(socket: &Path) -> anyhow::Result<f64> {
    let overview = get(socket, "/api/v1/overview")?;
    overview["metrics"]["lwm2m_console_driver_seconds_total"].as_f64().context("no metric of the console")
}

fn get(socket: &Path, path: &str) -> anyhow::Result<Value> {
    let (status, body) = ask(socket, &format!("GET {path}"), "", "")?;
    ensure!(status == 200, "{path} was answered {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// Sends a request over a connection of its own, and returns the status and the body of the answer.
fn ask(socket: &Path, line: &str, head: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket).context("the console does not listen")?;
    write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the console closed the connection")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
