//! A console that answers what a test tells it to, and keeps what it was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

/// A running stub. Its threads end with the test program.
pub(crate) struct Stub {
    pub address: SocketAddr,
    state: Arc<StubState>,
}

#[derive(Default)]
struct StubState {
    answers: Mutex<Vec<StubAnswer>>,
    requests: Mutex<Vec<StubRequest>>,
}

#[derive(Clone)]
struct StubAnswer {
    /// Method and path, without the query.
    line: String,
    status: u16,
    media_type: &'static str,
    body: Vec<u8>,
    /// Whether the connection stays open after the body.
    is_held: bool,
}

/// A request that the stub was sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StubRequest {
    /// Method and path, with the query.
    pub line: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// The program while it runs.
pub(crate) struct RunningProgram {
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// The end of a run of the program.
#[derive(Debug)]
pub(crate) struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Stub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::<StubState>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, state }
    }

    /// Listens at a socket too.
    pub(crate) fn listen_at(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a new socket");
        let shared = Arc::clone(&self.state);
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| shared.serve(stream)));
    }

    /// Answers a request with JSON. Several answers for one request are given in turn, the last one again and again.
    pub(crate) fn answer(self, line: &str, status: u16, body: Value) -> Self {
        let media_type = if status < 400 { "application/json" } else { "application/problem+json" };
        self.answer_with(line, status, media_type, body.to_string().into_bytes(), false)
    }

    /// Answers a request with an error.
    pub(crate) fn problem(self, line: &str, status: u16, kind: &str) -> Self {
        let kind = format!("urn:lwm2m-gateway:problem:{kind}");
        self.answer(line, status, json!({ "type": kind, "title": "A title", "status": status, "detail": "a detail" }))
    }

    /// Answers a request with a stream of events, which stays open.
    pub(crate) fn stream(self, line: &str, events: &str) -> Self {
        self.answer_with(line, 200, "text/event-stream", events.as_bytes().to_vec(), true)
    }

    pub(crate) fn file(self, line: &str, body: &[u8]) -> Self {
        self.answer_with(line, 200, "application/vnd.tcpdump.pcap", body.to_vec(), false)
    }

    fn answer_with(self, line: &str, status: u16, media_type: &'static str, body: Vec<u8>, is_held: bool) -> Self {
        let answer = StubAnswer { line: line_of_api(line), status, media_type, body, is_held };
        self.state.answers.lock().expect("no test panics with it").push(answer);
        self
    }

    /// Returns the requests so far, and forgets them.
    pub(crate) fn requests(&self) -> Vec<StubRequest> {
        std::mem::take(&mut *self.state.requests.lock().expect("no test panics with it"))
    }

    /// Returns the method, the path and the query of the requests so far, without the beginning that all have.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line.replace("/api/v1", "")).collect()
    }

    /// Runs the program with this console until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().expect("the program is built"))
    }

    /// Starts the program with this console.
    pub(crate) fn start_program(&self, arguments: &[&str]) -> RunningProgram {
        RunningProgram::start(self.command(arguments))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("LWM2M_GATEWAY_AT", format!("http://{}", self.address));
        command
    }
}

impl RunningProgram {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program is built");
        let mut pipe = child.stdout.take().expect("a pipe");
        let stdout = Arc::<Mutex<Vec<u8>>>::default();
        let shared = Arc::clone(&stdout);
        let reader = thread::spawn(move || {
            let mut part = [0; 1024];
            while let Some(length) = pipe.read(&mut part).ok().filter(|length| *length > 0) {
                shared.lock().expect("no test panics with it").extend_from_slice(&part[..length]);
            }
        });
        Self { child, stdout, reader }
    }

    /// Waits until it has printed so many lines.
    pub(crate) fn wait_for_lines(&self, count: usize) {
        wait_until(|| self.printed().iter().filter(|byte| **byte == b'\n').count() >= count);
    }

    /// Returns what it has printed so far.
    pub(crate) fn printed(&self) -> Vec<u8> {
        self.stdout.lock().expect("no test panics with it").clone()
    }

    /// Sends Ctrl-C, and returns how the program ended.
    pub(crate) fn interrupt(self) -> Run {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(done.expect("there is a kill").success());
        let Self { child, stdout, reader } = self;
        let output = child.wait_with_output().expect("a child of ours");
        reader.join().expect("it does not panic");
        let stdout = String::from_utf8_lossy(&stdout.lock().expect("no test panics with it")).into_owned();
        Run { code: output.status.code(), stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }
}

impl StubState {
    fn serve(&self, mut stream: impl Read + Write) {
        let Some(request) = read_request(&mut stream) else { return };
        let answer = self.take_answer(&request.line);
        self.requests.lock().expect("no test panics with it").push(request);
        let StubAnswer { status, media_type, body, is_held, .. } = answer;
        let length = if is_held { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("HTTP/1.1 {status} S\r\nContent-Type: {media_type}\r\n{length}Connection: close\r\n\r\n");
        let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        if is_held && written.is_ok() {
            // It ends when the program closes the connection.
            let _end = stream.read(&mut [0; 1]);
        }
    }

    fn take_answer(&self, line: &str) -> StubAnswer {
        let line = line.split('?').next().expect("a first part");
        let mut answers = self.answers.lock().expect("no test panics with it");
        let mut fitting = answers.iter().enumerate().filter(|(_, answer)| answer.line == line).map(|(at, _)| at);
        let (first, second) = (fitting.next(), fitting.next());
        match (first, second) {
            (Some(first), Some(_)) => answers.remove(first),
            (Some(first), None) => answers[first].clone(),
            (None, _) => StubAnswer {
                line: line.to_owned(),
                status: 404,
                media_type: "application/problem+json",
                body: json!({ "type": "urn:lwm2m-gateway:problem:not-found", "detail": line }).to_string().into_bytes(),
                is_held: false,
            },
        }
    }
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Returns the words of each line of the standard output.
    pub(crate) fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    /// Returns each line of the standard output as JSON.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(line).collect()
    }
}

/// Returns the program with these arguments, and nothing of this environment about consoles.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["LWM2M_GATEWAY_AT", "LWM2M_GATEWAY_TOKEN", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn wait_until(done: impl Fn() -> bool) {
    let there = (0..400).any(|_| {
        let there = done();
        if !there {
            thread::park_timeout(Duration::from_millis(50));
        }
        there
    });
    assert!(there, "it did not happen");
}

fn line_of_api(line: &str) -> String {
    line.replacen(" /", " /api/v1/", 1)
}

fn read_request(stream: &mut impl Read) -> Option<StubRequest> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut part = [0; 1024];
        let length = stream.read(&mut part).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&part[..length]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.clone().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        let mut part = [0; 1024];
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&part[..read]);
    }
    let line = head.lines().next().expect("a line").trim_end_matches(" HTTP/1.1").to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Some(StubRequest { line, authorization: header("authorization"), body })
}
