//! The console of the built program, asked over real sockets.

mod commands;
pub(crate) mod devices;
mod emqx;
mod events;
mod failures;
pub(crate) mod remote_commands;
mod traces;
pub(crate) mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lwm2m_dtls::test_client::credentials::Certified;
use openssl::ssl::{SslConnector, SslMethod};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::device::PATIENCE;
use crate::common::program::Program;

const PSK: &str = "planted-pre-shared-key";

/// The program with a console, and a viewer, an operator, and a token that is limited to some devices.
struct TestConsole {
    program: Program,
    folder: TempDir,
    tokens: BTreeMap<&'static str, String>,
}

pub(crate) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl TestConsole {
    /// Starts the program with a console at this TCP address of the system's choice.
    fn start(lines: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (mut tokens, mut file) = (BTreeMap::new(), String::new());
        let kinds: [(&str, &[&str]); 3] =
            [("viewer", &[]), ("operator", &["--role", "operator"]), ("limited", &["--prefix", "urn:imei:"])];
        for (name, options) in kinds {
            let (token, line) = make_token(name, options);
            tokens.insert(name, token);
            file += &format!("{line}\n");
        }
        fs::write(folder.path().join("tokens"), file).expect("a place for the tokens");
        let tokens_key = "console.tokens = \"tokens\"\nconsole.bind = \"127.0.0.1:0\"";
        Self { program: start_program(&folder, &format!("{tokens_key}\n{lines}")), folder, tokens }
    }

    fn address(&self) -> SocketAddr {
        console_address(&self.program).expect("there is a console")
    }

    fn token(&self, name: &str) -> &str {
        &self.tokens[name]
    }

    /// Sends a request line with the header of a token.
    fn ask(&self, line: &str, token: &str) -> Answer {
        self.send(line, &[("Authorization", &format!("Bearer {token}"))])
    }

    fn send(&self, line: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(TcpStream::connect(self.address()).expect("it listens"), &self.address().to_string(), line, headers)
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.body))
    }

    /// Returns the status and the last part of the type of a problem document.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let document = self.json();
        assert_eq!(document["status"], self.status);
        let kind = document["type"].as_str().expect("a type").rsplit(':').next().expect("a name").to_owned();
        (self.status, kind)
    }
}

/// Sends a request and returns the answer; the connection ends with it.
pub(crate) fn exchange(stream: impl Read + Write, host: &str, line: &str, headers: &[(&str, &str)]) -> Answer {
    exchange_with(stream, host, line, headers, b"")
}

/// Sends a request with a body, and returns the answer.
pub(crate) fn exchange_with(
    mut stream: impl Read + Write,
    host: &str,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {host}\r\n");
    }
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{request}\r\n").as_bytes()).expect("it takes a request");
    stream.write_all(body).expect("it takes a body");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it answers");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Returns a new token and its line.
pub(crate) fn make_token(name: &str, options: &[&str]) -> (String, String) {
    let program = env!("CARGO_BIN_EXE_lwm2m-gateway");
    let output = Command::new(program).args(["token", name]).args(options).output().expect("the program is built");
    let text = String::from_utf8(output.stdout).expect("text");
    let after = |title: &str| {
        let (_, rest) = text.split_once(title).unwrap_or_else(|| panic!("no {title:?} in {text}"));
        rest.lines().nth(1).expect("a line").trim().to_owned()
    };
    (after("token, which is shown only now:"), after("line for the file console.tokens:"))
}

/// Starts the program without a broker, with a pre-shared key and with these lines.
fn start_program(folder: &TempDir, lines: &str) -> Program {
    fs::write(folder.path().join("keys.psk"), format!("ep1:{PSK}\n")).expect("a place for the keys");
    let config = format!(
        "{lines}
        log.level = \"debug\"
        listeners.udp.default.bind = \"127.0.0.1:0\"
        listeners.dtls.default.bind = \"127.0.0.1:0\"
        dtls.psk_file = \"keys.psk\"
        admin.bind = \"127.0.0.1:0\"
        store.enable = false
        upstream.kind = \"mqtt\"
        upstream.mqtt.brokers = [\"127.0.0.1:1\"]"
    );
    fs::write(folder.path().join("gateway.toml"), config).expect("a place for the configuration");
    let program = Program::start(folder.path(), &["run", "--config", "gateway.toml"]);
    wait_until(|| program.output().contains("Each device is a client of the broker"));
    program
}

/// Returns the address of the console by the banner.
fn console_address(program: &Program) -> Option<SocketAddr> {
    let output = program.output();
    let line = output.lines().find(|line| line.starts_with("  console "))?;
    line.split_once("://")?.1.trim_end_matches('/').parse().ok()
}

pub(crate) fn wait_until(done: impl Fn() -> bool) {
    let there = (0..400).any(|_| {
        let done = done();
        if !done {
            thread::park_timeout(PATIENCE / 400);
        }
        done
    });
    assert!(there, "it does not come");
}

#[test]
fn without_tokens_and_socket_there_is_no_console() {
    let folder = TempDir::new().expect("a folder");
    let program = start_program(&folder, "console.bind = \"127.0.0.1:0\"");
    assert_eq!(console_address(&program), None);
    assert!(!program.output().contains("console"), "{}", program.output());
}

#[test]
fn a_token_gives_its_role_and_its_prefix_and_anything_else_gives_nothing() {
    let console = TestConsole::start("");
    let session = |token: &str| console.ask("GET /api/v1/session", token).json();
    let version = env!("CARGO_PKG_VERSION");
    let expected =
        |name, role, prefix: Value| json!({ "name": name, "role": role, "prefix": prefix, "version": version });
    assert_eq!(session(console.token("viewer")), expected("viewer", "viewer", Value::Null));
    assert_eq!(session(console.token("operator")), expected("operator", "operator", Value::Null));
    assert_eq!(session(console.token("limited")), expected("limited", "viewer", json!("urn:imei:")));

    for (headers, reason) in [
        (vec![], "missing"),
        (vec![("Authorization", "Bearer lgw_wrong")], "unknown"),
        (vec![("Authorization", "Basic dmlld2VyOng=")], "unknown"),
    ] {
        let answer = console.send("GET /api/v1/session", &headers);
        assert_eq!(answer.problem(), (401, "not-authenticated".to_owned()));
        assert!(answer.head.contains("www-authenticate: Bearer\r\n"), "{}", answer.head);
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{}", answer.body);
    }
    for path in ["overview", "failures", "tokens", "audit"] {
        let answer = console.ask(&format!("GET /api/v1/{path}"), console.token("limited"));
        assert_eq!(answer.problem(), (403, "not-allowed".to_owned()), "{path}");
        assert_eq!(answer.json()["instance"], format!("/api/v1/{path}"));
    }
}

#[test]
fn an_operator_sees_which_tokens_are_used_and_no_secret_of_them() {
    let console = TestConsole::start("");
    assert_eq!(console.ask("GET /api/v1/session", console.token("limited")).status, 200);
    let answer = console.ask("GET /api/v1/tokens", console.token("operator"));
    let list = answer.json();
    let used = |at: usize| (list["tokens"][at]["name"].clone(), list["tokens"][at]["lastUse"].is_string());
    assert_eq!(
        [used(0), used(1), used(2)],
        [(json!("limited"), true), (json!("operator"), true), (json!("viewer"), false)]
    );
    assert_eq!(list["tokens"][0]["prefix"], "urn:imei:");
    assert_eq!(list["tokens"][1]["role"], "operator");
    for token in console.tokens.values() {
        assert!(!answer.body.contains(token.as_str()), "{}", answer.body);
    }
    let refused = console.ask("GET /api/v1/tokens", console.token("viewer"));
    assert_eq!(refused.problem(), (403, "not-allowed".to_owned()));
}

#[test]
fn the_overview_has_the_state_of_the_gateway_and_every_metric() {
    let console = TestConsole::start("");
    let overview = console.ask("GET /api/v1/overview", console.token("viewer")).json();
    assert_eq!(overview["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(overview["devices"]["total"], 0);
    assert_eq!(overview["devices"]["limit"], overview["metrics"]["lwm2m_devices_limit"].as_f64().expect("it") as u64);
    assert_eq!(overview["upstream"]["kind"], "mqtt");
    assert_eq!(overview["conditions"]["serving"]["state"], "up");
    let node = &overview["upstream"]["nodes"][0];
    assert_eq!((&node["name"], &node["up"], &node["devices"]), (&json!("127.0.0.1:1"), &json!(false), &json!(0)));
    assert_eq!((&overview["definitions"]["broken"], &overview["reload"]["failing"]), (&json!([]), &json!(false)));
    assert!(overview["definitions"]["total"].as_u64().is_some_and(|total| total > 10), "{overview}");
    assert_eq!(overview["history"]["step"], 10);
    assert_eq!(overview["history"]["series"].as_object().expect("the series").len(), 16);
    let metrics = overview["metrics"].as_object().expect("the samples");
    assert!(metrics.contains_key("lwm2m_console_requests_total{result=\"answered\"}"), "{metrics:?}");
}

#[test]
fn the_definitions_have_a_tag_that_changes_with_them() {
    let console = TestConsole::start("xml_dir = \"xml\"\nwatch_interval = \"20ms\"");
    let viewer = console.token("viewer");
    let bearer = format!("Bearer {viewer}");
    let all = console.ask("GET /api/v1/objects", viewer);
    let tag = all.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag").to_owned();
    assert!(all.json()["objects"].as_array().expect("the objects").len() > 70);
    let same = [("Authorization", bearer.as_str()), ("If-None-Match", &tag)];
    assert_eq!(console.send("GET /api/v1/objects", &same).status, 304);

    let newest = console.ask("GET /api/v1/objects/4", viewer).json();
    assert_eq!((newest["version"].as_str(), newest["name"].as_str()), (Some("1.3"), Some("Connectivity Monitoring")));
    let oldest = console.ask("GET /api/v1/objects/4?version=1.0", viewer).json();
    assert_eq!(oldest["resources"].as_array().expect("resources").len(), 11);
    let temperature = console.ask("GET /api/v1/objects/3303", viewer).json();
    let value = temperature["resources"].as_array().expect("resources").iter().find(|one| one["id"] == 5700);
    assert_eq!((&value.expect("it")["type"], &value.expect("it")["operations"]), (&json!("Float"), &json!("R")));

    for (path, expected) in [
        ("/api/v1/objects/4?version=9.9", (404, "not-found")),
        ("/api/v1/objects/32000", (404, "not-found")),
        ("/api/v1/objects/70000", (400, "invalid-request")),
        ("/api/v1/objects/4?versoin=1.0", (400, "invalid-request")),
        ("/api/v1/nothing", (404, "not-found")),
        ("/nothing.html", (404, "not-found")),
    ] {
        assert_eq!(
            console.ask(&format!("GET {path}"), viewer).problem(),
            (expected.0, expected.1.to_owned()),
            "{path}"
        );
    }

    let definition = include_str!("../../../xml/3303-1_1.xml").replace("<ObjectID>3303<", "<ObjectID>32000<");
    fs::create_dir(console.folder.path().join("xml")).expect("a folder");
    fs::write(console.folder.path().join("xml/32000.xml"), definition).expect("a file");
    wait_until(|| console.ask("GET /api/v1/objects/32000", viewer).status == 200);
    assert_eq!(console.send("GET /api/v1/objects", &same).status, 200);
}

#[test]
fn requests_of_other_sites_and_for_other_hosts_are_rejected() {
    let console = TestConsole::start("console.hosts = [\"gateway.example\"]");
    let bearer = format!("Bearer {}", console.token("viewer"));
    let ask = |line: &str, header| console.send(line, &[("Authorization", bearer.as_str()), header]);
    let line = "GET /api/v1/overview";
    assert_eq!(ask(line, ("Host", "evil.example")).problem(), (421, "wrong-host".to_owned()));
    assert_eq!(ask(line, ("Host", "gateway.example")).status, 200);
    for header in [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        assert_eq!(ask(line, header).problem(), (403, "cross-site".to_owned()));
    }
    let preflight = ask("OPTIONS /api/v1/overview", ("Access-Control-Request-Method", "POST"));
    assert_eq!(preflight.problem(), (405, "method-not-allowed".to_owned()));
    assert!(!preflight.head.contains("access-control"), "{}", preflight.head);
    let form = ask("POST /api/v1/overview", ("Content-Type", "application/x-www-form-urlencoded"));
    assert_eq!(form.problem(), (415, "not-json".to_owned()));
    let large = ask("POST /api/v1/overview", ("Content-Length", "65537"));
    assert_eq!(large.problem(), (413, "body-too-large".to_owned()));
    let post = ask("POST /api/v1/overview", ("Content-Type", "application/json"));
    assert_eq!(post.problem(), (405, "method-not-allowed".to_owned()));
    assert!(post.head.contains("allow: GET,HEAD"), "{}", post.head);
}

#[test]
fn the_page_needs_no_token_and_its_headers_keep_other_sites_out() {
    let console = TestConsole::start("");
    let page = console.send("GET /", &[]);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<title>LwM2M gateway</title>"), "{}", page.body);
    for header in [
        "content-type: text/html; charset=utf-8",
        "default-src 'none'; script-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(page.head.contains(header), "{header} is not in {}", page.head);
    }
    for path in ["/../Cargo.toml", "/%2e%2e/mod.rs", "/../mod.rs", "//etc/passwd"] {
        assert_eq!(console.send(&format!("GET {path}"), &[]).status, 404, "{path}");
    }
}

#[test]
fn the_document_that_is_committed_is_printed_and_served() {
    let program = env!("CARGO_BIN_EXE_lwm2m-gateway");
    let printed = Command::new(program).arg("openapi").output().expect("the program is built").stdout;
    let printed = String::from_utf8(printed).expect("text");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &printed).expect("a file that can be written");
    }
    let committed = fs::read_to_string(file).unwrap_or_default();
    assert!(committed == printed, "docs/openapi.json is stale: lwm2m-gateway openapi > docs/openapi.json");
    let document: Value = serde_json::from_str(&printed).expect("JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document}");
    let console = TestConsole::start("");
    assert_eq!(console.send("GET /api/v1/openapi.json", &[]).json(), document);
    let paths = document["paths"].as_object().expect("paths");
    // A stream does not end.
    let ends = |path: &&String| !paths[*path].to_string().contains("text/event-stream");
    for path in paths.keys().filter(|path| !path.contains('{')).filter(ends) {
        // This gateway is by itself.
        let expected = if path == "/api/v1/cluster" { 404 } else { 200 };
        assert_eq!(console.ask(&format!("GET {path}"), console.token("operator")).status, expected, "{path}");
    }
}

#[test]
fn a_token_that_is_added_or_removed_counts_within_a_moment() {
    let console = TestConsole::start("");
    let status = |token: &str| console.ask("GET /api/v1/session", token).status;
    let (token, line) = make_token("carol", &[]);
    assert_eq!((status(&token), status(console.token("viewer"))), (401, 200));
    let file = console.folder.path().join("tokens");
    fs::write(&file, &line).expect("a file");
    wait_until(|| status(console.token("viewer")) != 200);
    assert_eq!(status(&token), 200);

    fs::write(&file, "carol root 1234").expect("a file");
    wait_until(|| console.program.output().contains("tokens of the console rejected"));
    assert_eq!(status(&token), 200);
}

#[test]
fn a_process_that_may_open_the_socket_is_an_operator() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("console.sock");
    let program = start_program(&folder, "console.socket = \"console.sock\"\nconsole.socket_mode = \"0600\"");
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let ask = || exchange(UnixStream::connect(&socket).expect("it listens"), "localhost", "GET /api/v1/session", &[]);
    let session = ask().json();
    assert_eq!(session["role"], "operator");
    assert!(session["name"].as_str().is_some_and(|name| name.starts_with("uid:")), "{session}");
    // It is killed, and leaves its socket behind.
    drop(program);
    assert!(socket.exists());
    let program = start_program(&folder, "console.socket = \"console.sock\"");
    assert_eq!(ask().status, 200);
    program.signal("TERM");
    wait_until(|| !socket.exists());
}

#[test]
fn a_console_with_a_certificate_speaks_tls_only() {
    let place = TempDir::new().expect("a folder");
    let ca = Certified::authority("Test CA");
    let (authority, _) = ca.write(place.path(), "ca");
    let (certfile, keyfile) = ca.certify("localhost").write(place.path(), "console");
    let console = TestConsole::start(&format!("console.certfile = {certfile:?}\nconsole.keyfile = {keyfile:?}"));
    assert!(console.program.output().contains("https://127.0.0.1"), "{}", console.program.output());

    let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("TLS");
    builder.set_ca_file(&authority).expect("an authority");
    let tcp = || {
        let stream = TcpStream::connect(console.address()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("the option is known");
        stream
    };
    let stream = builder.build().connect("localhost", tcp()).expect("its certificate is valid");
    let bearer = format!("Bearer {}", console.token("viewer"));
    let answer = exchange(stream, "localhost", "GET /api/v1/session", &[("Authorization", &bearer)]);
    assert_eq!(answer.json()["name"], "viewer");

    let mut plain = tcp();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it takes bytes");
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn a_user_who_takes_all_connections_keeps_no_other_user_out() {
    let console = TestConsole::start("");
    let host = console.address().to_string();
    let request =
        |token: &str| format!("GET /api/v1/session HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
    let hold = |token: &str| {
        let mut stream = TcpStream::connect(console.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("the option is known");
        stream.write_all(request(token).as_bytes()).expect("it takes a request");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("it answers");
        assert_eq!(&status, b"HTTP/1.1 200");
        stream
    };
    let of_limited = hold(console.token("limited"));
    // A connection is closed when it was idle for 10 s: all are open at the end.
    let held: Vec<TcpStream> = (0..80).map(|_| hold(console.token("viewer"))).collect();
    for _ in 0..3 {
        assert_eq!(console.ask("GET /api/v1/session", console.token("operator")).status, 200);
    }
    let mut again = &of_limited;
    again.write_all(request(console.token("limited")).as_bytes()).expect("a user with one connection keeps it");
    drop(held);
}

#[test]
fn no_answer_and_no_log_has_a_secret() {
    let console = TestConsole::start("");
    let wrong = console.ask("GET /api/v1/session", "lgw_planted-wrong-token");
    assert_eq!(wrong.status, 401);
    let mut all = vec![wrong.head, wrong.body];
    for path in ["session", "overview", "objects", "openapi.json", "nothing"] {
        for token in console.tokens.values() {
            let answer = console.ask(&format!("GET /api/v1/{path}"), token);
            all.extend([answer.head, answer.body]);
        }
    }
    all.push(console.program.output());
    let lines = fs::read_to_string(console.folder.path().join("tokens")).expect("the tokens");
    let hashes: Vec<&str> = lines.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    let secrets = console.tokens.values().map(String::as_str).chain([PSK, "planted-wrong-token"]).chain(hashes);
    for secret in secrets {
        assert!(all.iter().all(|text| !text.contains(secret)), "{secret} is in an answer or in the log");
    }
}
