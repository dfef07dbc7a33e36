//! The event streams of the console of the built program.

#![expect(clippy::disallowed_methods, reason = "these tests run over real sockets, in real time")]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use lwm2m_core::coap::Code;
use serde_json::{Value, json};

use super::devices::{LINKS, TestConsole};
use super::{exchange_with, make_token};
use crate::common::application::Application;
use crate::common::device::PATIENCE;

const SECRET: &str = "planted-key-of-a-device";

/// A stream that is read line by line.
struct EventReader(BufReader<UnixStream>);

impl EventReader {
    /// Opens a stream with this token, or as a process without one. The first event is `hello`.
    fn open(console: &TestConsole, token: Option<&str>, path: &str) -> Self {
        let mut reader = Self::ask(console, token, path);
        assert_eq!(reader.status(), 200);
        let (name, data) = reader.next().expect("an event");
        assert_eq!((name.as_str(), &data["version"]), ("hello", &json!(env!("CARGO_PKG_VERSION"))));
        reader
    }

    fn ask(console: &TestConsole, token: Option<&str>, path: &str) -> Self {
        let mut stream = console.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("the option is known");
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        // The body of HTTP/1.0 has no chunks.
        let request = format!("GET /api/v1{path} HTTP/1.0\r\nHost: localhost\r\n{token}\r\n");
        stream.write_all(request.as_bytes()).expect("it takes a request");
        Self(BufReader::new(stream))
    }

    fn status(&mut self) -> u16 {
        let status = self.line().expect("a status line");
        while self.line().is_some_and(|line| !line.is_empty()) {}
        status.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    /// Returns the next event; `None` at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        let (mut name, mut id) = (String::new(), None);
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("id", number)) => id = number.parse::<u64>().ok(),
                Some(("event", event)) => name = event.to_owned(),
                Some(("data", data)) => {
                    assert!(id.is_some(), "an event has an ID");
                    return Some((name, serde_json::from_str(data).expect("JSON")));
                }
                _ => {}
            }
        }
    }

    /// Reads up to the next event of this name.
    fn expect(&mut self, name: &str) -> Value {
        loop {
            let (found, data) = self.next().unwrap_or_else(|| panic!("no {name}"));
            if found == name {
                return data;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn kinds(list: &Value) -> Vec<&str> {
    list["events"].as_array().expect("a list").iter().map(|event| event["event"].as_str().expect("a name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_followed_from_its_register_to_its_end() {
    let console = TestConsole::start().await;
    let mut events = EventReader::open(&console, Some(&console.viewer), "/devices/ep1/events");
    let mut all = EventReader::open(&console, Some(&console.viewer), "/events");
    let _other = console.register("ep2", "");
    let mut device = console.register("ep1", "");

    let (name, message) = events.next().expect("an event");
    assert_eq!((name.as_str(), &message["payload"]["msgType"]), ("message", &json!("register")));
    assert_eq!((&message["endpoint"], &message["payload"]["data"]["ep"]), (&json!("ep1"), &json!("ep1")));
    let (name, row) = events.next().expect("an event");
    assert_eq!((name.as_str(), &row["endpoint"], &row["state"]), ("registered", &json!("ep1"), &json!("awake")));
    device.moves();
    assert_eq!(device.update(&[], None).code, Code::CHANGED);
    let moved = events.expect("moved");
    assert_eq!(events.expect("updated")["address"], moved["to"]);
    assert_ne!(moved["from"], moved["to"]);
    assert_eq!(device.deregister().code, Code::DELETED);
    assert_eq!(events.expect("left")["reason"], "deregistered");

    let (name, row) = all.next().expect("an event");
    assert_eq!((name.as_str(), &row["endpoint"]), ("registered", &json!("ep2")));
    let names: Vec<_> = (0..3).map(|_| all.next().expect("an event").0).collect();
    assert_eq!(names, ["registered", "moved", "left"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_shows_no_value_of_a_hidden_path() {
    let console = TestConsole::start().await;
    let device = console.register("ep1", "");
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["ep1"]);
    let mut events = EventReader::open(&console, None, "/devices/ep1/events");
    for (path, shown) in [("/0/0/0", false), ("/3/0/0", true)] {
        application.send("ep1", &json!({ "reqID": 1, "msgType": "read", "data": { "path": path } }));
        device.answer_text(&device.expect_request(Code::GET, path), SECRET);
        let message = loop {
            let message = events.expect("message");
            if message["payload"]["data"]["content"].is_array() {
                break message;
            }
        };
        let entry = &message["payload"]["data"]["content"][0];
        let expected = if shown { json!(SECRET) } else { json!("***") };
        assert_eq!((&entry["path"], &entry["value"]), (&json!(path), &expected), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_events_and_nobody_else_does() {
    const UPDATES: usize = 1_000;
    let console = TestConsole::start().await;
    let device = console.register("ep1", "");
    let mut slow = EventReader::open(&console, None, "/devices/ep1/events");
    let mut quick = EventReader::open(&console, Some(&console.viewer), "/devices/ep1/events");
    for _ in 0..UPDATES {
        assert_eq!(device.update(&[], None).code, Code::CHANGED);
        quick.expect("updated");
    }
    let (mut shown, mut lost) = (0, 0);
    while shown + lost < UPDATES {
        match slow.next().expect("an event") {
            (name, data) if name == "lost" => {
                lost += usize::try_from(data["count"].as_u64().expect("a count")).unwrap()
            }
            (name, _) => shown += usize::from(name == "updated"),
        }
    }
    assert!(lost > 0 && shown >= 128, "{shown} shown, {lost} lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_token_is_removed() {
    let console = TestConsole::start().await;
    let mut revoked = EventReader::open(&console, Some(&console.viewer), "/devices/b1/events");
    let mut other = EventReader::open(&console, Some(&console.limited), "/devices/b1/events");
    let tokens = console.path("tokens");
    let lines = fs::read_to_string(&tokens).expect("the tokens");
    let left: Vec<&str> = lines.lines().filter(|line| !line.starts_with("viewer ")).collect();
    fs::write(&tokens, left.join("\n")).expect("a place for the tokens");

    assert_eq!(revoked.next(), None);

    let _device = console.register("b1", "");
    assert_eq!(other.expect("registered")["endpoint"], "b1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_8_streams_and_all_together_have_32() {
    let console = TestConsole::start().await;
    let mut tokens = vec![Some(console.viewer.clone()), None];
    let mut lines = fs::read_to_string(console.path("tokens")).expect("the tokens");
    for name in ["carol", "dave", "erin"] {
        let (token, line) = make_token(name, &[]);
        lines += &format!("{line}\n");
        tokens.push(Some(token));
    }
    fs::write(console.path("tokens"), lines).expect("a place for the tokens");
    let last = tokens.pop().expect("a token");
    let end = Instant::now() + PATIENCE;
    while console.ask_with(last.as_deref().expect("it"), "GET /api/v1/session").status != 200 {
        assert!(Instant::now() < end, "the new tokens are not in force");
        park_timeout(Duration::from_millis(50));
    }
    let mut open = Vec::new();
    for token in &tokens {
        open.extend((0..8).map(|_| EventReader::open(&console, token.as_deref(), "/devices/ep1/events")));
        let ninth = EventReader::ask(&console, token.as_deref(), "/devices/ep1/events").status();
        assert_eq!(ninth, 429);
    }
    let ask = || EventReader::ask(&console, last.as_deref(), "/devices/ep1/events").status();
    assert_eq!((open.len(), ask()), (32, 429));
    open.pop();
    let end = Instant::now() + PATIENCE;
    while ask() != 200 {
        assert!(Instant::now() < end, "a closed stream keeps its place");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_can_be_polled_and_no_event_between_two_polls_is_missed() {
    let console = TestConsole::start().await;
    let poll =
        |since: u64, max: &str| console.ask(&format!("GET /api/v1/devices/ep1/events?since={since}&max={max}")).json();
    let first = poll(0, "0s");
    assert_eq!(kinds(&first), ["hello"]);
    let since = first["last"].as_u64().expect("an ID");
    assert_eq!(poll(since, "10ms"), json!({ "events": [], "last": since }));
    let device = console.register("ep1", "");
    assert_eq!(device.update(&[], None).code, Code::CHANGED);
    let mut seen = Vec::new();
    let mut last = since;
    while seen.last().is_none_or(|name| name != "updated") {
        let list = poll(last, "4s");
        seen.extend(kinds(&list).into_iter().map(str::to_owned));
        last = list["last"].as_u64().expect("an ID");
    }
    assert_eq!(seen, ["message", "registered", "updated"]);
    assert_eq!(kinds(&poll(last + 1_000_000, "1s"))[0], "lost");
    let invalid = console.ask("GET /api/v1/devices/ep1/events?max=4s");
    assert_eq!(invalid.problem(), (400, "invalid-request".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_has_the_messages_of_a_trace_for_operators_and_not_for_viewers() {
    let console = TestConsole::start().await;
    let path = |since: u64| format!("GET /api/v1/devices/b1/events?since={since}&max=200ms");
    let poll = |token: &str, since: u64| console.ask_with(token, &path(since)).json();
    let body = json!({ "endpoint": "b1" }).to_string();
    let headers = [("Content-Type", "application/json"), ("Content-Length", &body.len().to_string())];
    let begun = exchange_with(console.connect(), "localhost", "POST /api/v1/traces", &headers, body.as_bytes());
    assert_eq!(begun.status, 201);
    let last = |list: Value| list["last"].as_u64().expect("an ID");
    let (operator, viewer) = (last(poll(&console.limited, 0)), last(poll(&console.viewer, 0)));
    let _device = console.register("b1", "");

    let traced = |token: &str, mut since: u64| {
        let mut seen = Vec::new();
        for _ in 0..25 {
            let list = poll(token, since);
            since = list["last"].as_u64().expect("an ID");
            let traced = list["events"].as_array().expect("a list").iter().filter(|event| event["event"] == "coap");
            seen.extend(traced.map(|event| event["data"]["code"].as_str().expect("a code").to_owned()));
            if seen.len() >= 2 {
                break;
            }
        }
        seen
    };
    assert_eq!(traced(&console.limited, operator), ["0.02", "2.01"]);
    let list = poll(&console.viewer, viewer);
    assert_eq!(kinds(&list), ["message", "registered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_prefix_follows_its_devices_and_no_others() {
    let console = TestConsole::start().await;
    let mut own = EventReader::open(&console, Some(&console.limited), "/devices/b1/events");
    for path in ["/devices/a1/events", "/events"] {
        let answer = console.ask_with(&console.limited, &format!("GET /api/v1{path}"));
        assert_eq!(answer.problem(), (403, "not-allowed".to_owned()), "{path}");
    }
    let mut device = console.register("b1", "");
    assert_eq!(own.expect("registered")["endpoint"], "b1");
    device.register("ep=b1&lt=300&lwm2m=1.1", LINKS);
    assert_eq!(own.expect("left")["reason"], "replaced");
}
