//! `events`, `observe --follow`, `trace` and `top`, which run until Ctrl-C.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::stub::{Stub, wait_until};
use super::{POST, answered};

const MOVED: &str = "id: 3\nevent: moved\ndata: {\"at\":\"2026-11-27T20:31:05.120Z\",\
    \"endpoint\":\"ep1\",\"from\":\"a\",\"to\":\"b\"}\n\n";
const NOTIFY: &str = "id: 4\nevent: message\ndata: {\"at\":\"2026-11-27T20:31:06.000Z\",\
    \"topic\":\"lwm2m/ep1/up/notify\",\
    \"payload\":{\"msgType\":\"notify\",\"data\":{\"reqPath\":\"/3303/0/5700\",\"content\":[{\"path\":\"/3303/0/5700\",\
    \"value\":22.5}]}}}\n\n";
const EVENTS: &str = "GET /devices/ep1/events";

#[test]
fn events_are_printed_until_ctrl_c() {
    let start = || Stub::start().stream(EVENTS, MOVED).stream("GET /events", MOVED);
    let stub = start();
    let child = stub.start_program(&["events", "ep1"]);
    child.wait_for_lines(2);
    let run = child.interrupt();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.rows()[0], ["UTC", "EVENT", "DEVICE", "DETAILS"]);
    assert_eq!(run.rows()[1], ["20:31:05.120", "moved", "ep1", "from=a", "to=b"]);

    let stub = start();
    let child = stub.start_program(&["events", "--json"]);
    child.wait_for_lines(1);
    let data = json!({ "at": "2026-11-27T20:31:05.120Z", "endpoint": "ep1", "from": "a", "to": "b" });
    assert_eq!(child.interrupt().json_lines(), [json!({ "event": "moved", "id": "3", "data": data })]);
}

#[test]
fn an_observation_is_followed_and_ends_with_ctrl_c() {
    let first = answered("2.05", json!({ "content": [{ "path": "/3303/0/5700", "value": 21.5 }] }));
    let stub = Stub::start().stream(EVENTS, &[MOVED, NOTIFY].concat()).answer(POST, 200, first);
    let child = stub.start_program(&["observe", "ep1", "/3303/0/5700", "--follow"]);
    child.wait_for_lines(3);
    let requests = stub.requests();
    let run = child.interrupt();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let expected =
        [&["UTC", "PATH", "VALUE"][..], &["-", "/3303/0/5700", "21.5"], &["20:31:06.000", "/3303/0/5700", "22.5"]];
    assert_eq!(run.rows(), expected);
    let observe = &requests[1];
    assert_eq!(observe.line, "POST /api/v1/devices/ep1/commands?wait=30&while=stream");
    assert_eq!(observe.body["msgType"], "observe");
    let cancel = stub.requests();
    assert_eq!(cancel[0].body, json!({ "msgType": "cancel-observe", "data": { "path": "/3303/0/5700" } }));
    assert!(run.stderr.contains("the observation is cancelled"), "{}", run.stderr);
}

#[test]
fn the_observation_of_an_application_is_followed_and_stays() {
    let stub = Stub::start().stream(EVENTS, NOTIFY).problem(POST, 409, "observed-already");
    let child = stub.start_program(&["observe", "ep1", "/3303/0/5700", "--follow"]);
    child.wait_for_lines(2);
    assert_eq!(stub.requests().len(), 2);
    let run = child.interrupt();
    assert_eq!((run.code, run.rows().len()), (Some(0), 2), "{}", run.stderr);
    assert!(run.stderr.contains("an application observes this path already"), "{}", run.stderr);
    assert_eq!(stub.requests(), []);
}

#[test]
fn an_observation_that_the_device_refuses_is_not_followed() {
    let stub = Stub::start().stream(EVENTS, "").answer(POST, 200, answered("4.05", json!({})));
    let run = stub.run(&["observe", "ep1", "/3303/0/5700", "--follow"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""));
}

/// A message of a trace, with its outcome if that is known.
fn message(n: u64, outcome: Option<&str>) -> Value {
    let mut message = json!({ "n": n, "at": "2026-11-27T20:31:05.120Z", "direction": "in", "peer": "10.0.0.9:56830",
        "type": "CON", "code": "2.05", "name": "Content", "mid": n, "token": "5f01",
        "options": [{ "number": 6, "name": "Observe", "value": "12" }],
        "payload": { "bytes": 12, "hex": "c4",
        "entries": [{ "path": "/3303/0/5700", "value": 21.5, "units": "Cel" }] } });
    if let Some(outcome) = outcome {
        message["outcome"] = outcome.into();
    }
    message
}

fn traced(messages: &[Value], running: bool) -> Value {
    json!({ "id": "t1", "running": running, "messages": messages })
}

#[test]
fn a_trace_is_printed_and_removed_at_its_end() {
    let stub = Stub::start().answer("POST /traces", 201, json!({ "id": "t1" }));
    let stub = stub.answer("GET /traces/t1", 200, traced(&[message(1, Some("notification"))], true));
    let stub = stub.answer("DELETE /traces/t1", 200, Value::Null);
    for (arguments, asked) in [
        (&["trace", "ep1"][..], json!({ "minutes": 30, "endpoint": "ep1" })),
        (&["trace", "--address", "10.0.0.9", "--minutes", "5"], json!({ "minutes": 5, "address": "10.0.0.9" })),
        (&["trace", "--identity", "key-1"], json!({ "minutes": 30, "identity": "key-1" })),
    ] {
        let child = stub.start_program(arguments);
        child.wait_for_lines(2);
        let run = child.interrupt();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let header = ["UTC", "DIRECTION", "PEER", "TYPE", "CODE", "MID", "TOKEN", "DETAILS"];
        assert_eq!(run.rows()[0], header);
        let details = ["Content", "Observe=12", "/3303/0/5700=21.5Cel", "(notification)"];
        let row = [&["20:31:05.120", "in", "10.0.0.9:56830", "CON", "2.05", "1", "5f01"][..], &details].concat();
        assert_eq!(run.rows()[1], row);
        let requests = stub.requests();
        assert_eq!(requests[0].body, asked);
        assert_eq!(requests[1].line, "GET /api/v1/traces/t1?after=0");
        assert_eq!(requests.last().map(|request| request.line.as_str()), Some("DELETE /api/v1/traces/t1"));
    }
    for arguments in [&["trace"][..], &["trace", "ep1", "--identity", "key-1"]] {
        assert_eq!(stub.run(arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_trace_that_has_ended_ends_the_command_and_no_message_is_printed_twice() {
    let [first, second] = [message(1, Some("notification")), message(5, Some("answer"))];
    let stub = Stub::start().answer("POST /traces", 201, json!({ "id": "t1" }));
    // The outcome of the second one is not known at first.
    let stub = stub.answer("GET /traces/t1", 200, traced(&[first.clone(), message(5, None)], true));
    let stub = stub.answer("GET /traces/t1", 200, traced(std::slice::from_ref(&second), true));
    let stub = stub.answer("GET /traces/t1", 200, traced(&[], false));
    let run = stub.run(&["trace", "ep1", "--json"]);
    assert_eq!((run.code, run.json_lines()), (Some(0), vec![first, second]), "{}", run.stderr);
    assert!(run.stderr.contains("3 messages are missing"), "{}", run.stderr);
    let asked = ["POST /traces", "GET /traces/t1?after=0", "GET /traces/t1?after=1", "GET /traces/t1?after=5"];
    // Somebody else has removed it.
    assert_eq!(stub.lines(), [&asked[..], &["DELETE /traces/t1"]].concat());
}

#[test]
fn a_trace_becomes_a_pcap_file() {
    let mut pcap = vec![0xd4, 0xc3, 0xb2, 0xa1];
    pcap.resize(24, 0);
    let empty = pcap.clone();
    pcap.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0x40, 0x01]);
    let start = || {
        let stub = Stub::start().answer("POST /traces", 201, json!({ "id": "t1" }));
        let stub = stub.answer("GET /traces/t1", 200, traced(&[], true));
        let stub = stub.answer("GET /traces/t1", 200, traced(&[message(1, None)], true));
        let stub = stub.file("GET /traces/t1.pcap", &empty).file("GET /traces/t1.pcap", &pcap);
        stub.answer("DELETE /traces/t1", 200, Value::Null)
    };
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("trace.pcap");
    let stub = start();
    let child = stub.start_program(&["trace", "ep1", "--pcap", file.to_str().expect("text")]);
    wait_until(|| fs::read(&file).is_ok_and(|written| written == pcap));
    let run = child.interrupt();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{}", run.stderr);
    assert_eq!(fs::read(&file).expect("a file"), pcap);
    assert_eq!(stub.lines().last().map(String::as_str), Some("DELETE /traces/t1"));

    let stub = start();
    let child = stub.start_program(&["trace", "ep1", "--pcap", "-"]);
    wait_until(|| child.printed() == pcap);
    let run = child.interrupt();
    assert_eq!(run.stdout, String::from_utf8_lossy(&pcap));
}

#[test]
fn top_repeats_the_overview_until_ctrl_c() {
    let stub = Stub::start().answer("GET /overview", 200, json!({ "version": "1.2.3" }));
    let child = stub.start_program(&["top", "--json"]);
    child.wait_for_lines(2);
    let run = child.interrupt();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.json_lines(), [json!({ "version": "1.2.3" }), json!({ "version": "1.2.3" })]);
}
