//! The clients of the console: threads that list, search, listen and trace.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::setpriority_process;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::PROBE;
use crate::server::BenchServer;

/// Traces at once, as many as the gateway allows.
const TRACES: usize = 8;
/// Event streams that the gateway allows one token.
const STREAMS_OF_TOKEN: usize = 8;
/// The lowest priority of a thread (setpriority(2)).
const LOWEST: i32 = 19;
/// The size of one page.
const PAGE: usize = 1_000;
/// The time that one read from a stream may take, after which a console sees whether it is over.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// The running consoles.
pub(super) struct Consoles<'s> {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counts: Arc<ConsoleCounts>,
    socket: &'s Path,
    traces: Vec<String>,
}

/// Counts what the consoles do.
#[derive(Default)]
pub(super) struct ConsoleCounts {
    pub listed: AtomicU64,
    pub searched: AtomicU64,
    pub refused: AtomicU64,
    pub streams: AtomicU64,
    pub stream_bytes: AtomicU64,
    pub traces: AtomicU64,
}

/// The parts of a page of devices that matter here.
#[derive(Deserialize)]
struct DevicePage {
    devices: Vec<IgnoredAny>,
    examined: u64,
    next: Option<String>,
}

impl<'s> Consoles<'s> {
    /// Starts so many consoles, each on two threads of its own, and the traces.
    pub(super) fn start(consoles: usize, server: &'s BenchServer, counts: &Arc<ConsoleCounts>) -> Self {
        let socket = server.console.as_path();
        let traces = begin_traces(socket);
        counts.traces.fetch_max(traces.len() as u64, Ordering::Relaxed);
        let counts = Arc::clone(counts);
        let mut running = Self { over: Arc::default(), threads: Vec::new(), counts, socket, traces };
        for number in 0..consoles {
            let (lists, streams) = (socket.to_owned(), socket.to_owned());
            running.add(move |over, counts| look(&lists, number % 2 == 0, over, counts));
            let token = server.tokens.get(number / STREAMS_OF_TOKEN).cloned().unwrap_or_default();
            let path = match number % 2 {
                0 => "/api/v1/events".to_owned(),
                _ => format!("/api/v1/devices/load-{number}/events"),
            };
            running.add(move |over, counts| listen(&streams, &path, &token, over, counts));
        }
        running
    }

    fn add(&mut self, activity: impl FnOnce(&AtomicBool, &ConsoleCounts) -> anyhow::Result<()> + Send + 'static) {
        let (over, counts) = (Arc::clone(&self.over), Arc::clone(&self.counts));
        self.threads.push(thread::spawn(move || {
            let ended = setpriority_process(None, LOWEST).map_err(Into::into).and_then(|()| activity(&over, &counts));
            if let Err(error) = ended {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                eprintln!("load: a console ended: {error:#}");
            }
        }));
    }

    pub(super) fn end(self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        for trace in &self.traces {
            let (status, body) = ask(self.socket, &format!("DELETE /api/v1/traces/{trace}"), "", "")?;
            ensure!(status < 300, "the end of a trace was answered {status}: {body}");
        }
        Ok(())
    }
}

/// Lists all devices, or searches them all, until it is over. The answer on its way is not waited for then.
fn look(socket: &Path, searches: bool, over: &AtomicBool, counts: &ConsoleCounts) -> anyhow::Result<()> {
    let query = if searches { "&q=nothing" } else { "" };
    while !over.load(Ordering::Relaxed) {
        let mut cursor = String::new();
        loop {
            let line = format!("GET /api/v1/devices?limit={PAGE}{query}{cursor}");
            let Some((status, page)) = ask_until(socket, &line, "", "", over)? else { return Ok(()) };
            ensure!(status == 200, "{line} was answered {status}: {page}");
            let page: DevicePage = serde_json::from_str(&page)?;
            counts.listed.fetch_add(page.devices.len() as u64, Ordering::Relaxed);
            if searches {
                counts.searched.fetch_add(page.examined, Ordering::Relaxed);
            }
            match page.next {
                Some(next) if !over.load(Ordering::Relaxed) => cursor = format!("&cursor={next}"),
                Some(_) | None => break,
            }
        }
    }
    Ok(())
}

/// Reads a stream of events, until it is over.
fn listen(socket: &Path, path: &str, token: &str, over: &AtomicBool, counts: &ConsoleCounts) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LOOK))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")?;
    let mut buffer = [0; 16 * 1024];
    let mut is_open = false;
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                if !is_open {
                    is_open = true;
                    ensure!(buffer.starts_with(b"HTTP/1.1 200"), "{path}: no stream");
                    counts.streams.fetch_add(1, Ordering::Relaxed);
                }
                counts.stream_bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Begins the traces, one of them of the device whose Updates are timed, and returns their ids.
fn begin_traces(socket: &Path) -> Vec<String> {
    let trace = |number: usize| {
        let endpoint = if number == 0 { PROBE.to_owned() } else { format!("load-{number}") };
        let body = format!("{{\"endpoint\":\"{endpoint}\"}}");
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let (status, answer) = ask(socket, "POST /api/v1/traces", &head, &body).ok()?;
        let answer: Value = serde_json::from_str(&answer).ok().filter(|_| status < 300)?;
        answer["id"].as_str().map(str::to_owned)
    };
    (0..TRACES).filter_map(trace).collect()
}

/// Returns how long the event loop served consoles, in seconds.
pub(super) fn driver_seconds(socket: &Path) -> anyhow::Result<f64> {
    let overview: Value = serde_json::from_str(&get(socket, "/api/v1/overview")?)?;
    overview["metrics"]["lwm2m_console_driver_seconds_total"].as_f64().context("no metric of the console")
}

fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    let (status, body) = ask(socket, &format!("GET {path}"), "", "")?;
    ensure!(status == 200, "{path} was answered {status}: {body}");
    Ok(body)
}

/// Sends a request over a connection of its own, and returns the status and the body of the answer.
fn ask(socket: &Path, line: &str, head: &str, body: &str) -> anyhow::Result<(u16, String)> {
    ask_until(socket, line, head, body, &AtomicBool::new(false))?.context("an answer")
}

/// The same; `None` if it was over before the answer came.
fn ask_until(
    socket: &Path,
    line: &str,
    head: &str,
    body: &str,
    over: &AtomicBool,
) -> anyhow::Result<Option<(u16, String)>> {
    let mut stream = UnixStream::connect(socket).context("the console does not listen")?;
    stream.set_read_timeout(Some(LOOK))?;
    write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n{body}")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(error.into());
            }
            Err(_) if over.load(Ordering::Relaxed) => return Ok(None),
            Err(_) => {}
        }
    }
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the console closed the connection")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok(Some((status, body.to_owned())))
}
