//! The commands that ask a running gateway: what they send, what they print, and their exit codes. The console is a
//! stub; `live` has the same with the built program.

mod documentation;
mod live;
mod streams;
pub(crate) mod stub;

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use stub::{Stub, program};

const TOKEN: &str = "lgw_planted-token";

fn device(endpoint: &str) -> Value {
    json!({ "endpoint": endpoint, "state": "asleep", "awakeUntil": "2026-11-27T20:31:05.120Z", "transport": "dtls",
        "address": "10.0.0.9:56830", "identity": "key-1", "lwm2m": "1.1", "binding": "UQ", "lifetime": 86400,
        "expires": "9999-11-28T20:31:05.120Z", "registered": "2020-11-27T20:31:05.120Z",
        "lastHeard": "2020-11-27T20:31:05.120Z", "waiting": 1, "observations": 1, "inFlight": false })
}

fn whole_device() -> Value {
    let mut device = device("ep1");
    let more = json!({ "clientid": "ep1", "username": "u", "items": { "imei": "123" }, "alternatePath": "/",
        "topics": { "command": "lwm2m/ep1/dn/#" }, "formats": [110],
        "dtls": { "kind": "psk", "suite": "AES_128_CCM_8", "connectionId": true },
        "objects": [{ "id": 3303, "version": "1.1", "instances": [0, 1], "name": "Temperature", "defined": true },
            { "id": 32000, "version": "1.0", "instances": [], "defined": false }],
        "inFlight": { "number": 41, "msgType": "read", "path": "/3/0", "bytes": 9, "for": 1.2, "by": "mqtt" },
        "queue": [{ "number": 42, "msgType": "read-composite", "paths": ["/3/0/0", "/1"], "bytes": 30,
            "expires": "9999-11-28T20:31:05.120Z", "by": "console:alice" }],
        "observed": [{ "path": "/3303/0/5700", "by": "mqtt" }] });
    for (name, value) in more.as_object().expect("members") {
        device[name] = value.clone();
    }
    device
}

fn answered(code: &str, data: Value) -> Value {
    let mut all = json!({ "code": code, "codeMsg": "meaning" });
    for (name, value) in data.as_object().expect("members") {
        all[name] = value.clone();
    }
    json!({ "id": "c1", "state": "done", "outcome": "answered", "took": 0.4,
        "answer": { "msgType": "read", "data": all } })
}

const POST: &str = "POST /devices/ep1/commands";
const DRAIN: &str = "PUT /cluster/nodes/gw-1/drain";

#[test]
fn devices_are_a_table_with_a_header_and_the_search_is_that_of_the_api() {
    let list = json!({ "devices": [device("a"), device("urn:b")], "next": null, "examined": 2, "total": 2 });
    let stub = Stub::start().answer("GET /devices", 200, list.clone());
    let run = stub.run(&["devices", "--prefix", "urn:", "--state", "asleep", "--silent", "1h"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let rows = run.rows();
    let header = "ENDPOINT STATE HEARD LEFT ADDRESS TRANSPORT LWM2M BINDING WAITING OBSERVED";
    assert_eq!(rows[0].join(" "), header);
    let row = &rows[2];
    assert_eq!((row[0], row[1]), ("urn:b", "asleep"));
    assert!(row[2].contains('d') && row[3].contains('d'), "{row:?}");
    assert_eq!(row[4..], ["10.0.0.9:56830", "dtls", "1.1", "UQ", "1", "1"]);
    assert_eq!(stub.lines(), ["GET /devices?prefix=urn%3A&state=asleep&silent=3600&limit=100"]);

    let run = stub.run(&["devices", "--json"]);
    assert_eq!(run.stdout, format!("{list}\n"));
}

#[test]
fn all_devices_are_listed_page_by_page() {
    let page = |endpoint: &str, next: Value| json!({ "devices": [device(endpoint)], "next": next });
    let pages = || {
        let stub = Stub::start().answer("GET /devices", 200, page("a", json!("2=")));
        let empty = json!({ "devices": [], "next": "3" });
        stub.answer("GET /devices", 200, empty).answer("GET /devices", 200, page("b", Value::Null))
    };
    let stub = pages();
    let run = stub.run(&["devices", "--all"]);
    assert_eq!(run.rows().iter().map(|row| row[0]).collect::<Vec<_>>(), ["ENDPOINT", "a", "b"]);
    let lines = ["limit=1000", "limit=1000&cursor=2%3D", "limit=1000&cursor=3"];
    assert_eq!(stub.lines(), lines.map(|query| format!("GET /devices?{query}")));
    assert_eq!(pages().run(&["devices", "--all", "--json"]).json_lines().len(), 3);

    let run = pages().run(&["devices", "--limit", "1"]);
    assert_eq!((run.rows().len(), run.stderr.as_str()), (2, "there may be more: --all\n"));
}

#[test]
fn a_device_is_shown_with_its_objects_observations_and_queue() {
    let stub = Stub::start().answer("GET /devices/ep1", 200, whole_device());
    let run = stub.run(&["show", "ep1"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    for line in [
        "endpoint       ep1",
        "DTLS           psk, AES_128_CCM_8, connection ID",
        "item imei      123",
        "topic command  lwm2m/ep1/dn/#",
        "3303    1.1      0,1        Temperature",
        "32000   1.0      -          no definition",
        "/3303/0/5700  -    mqtt",
        "41      sent   read            /3/0       9      -",
    ] {
        assert!(run.stdout.lines().any(|shown| shown.starts_with(line)), "{line} is not in\n{}", run.stdout);
    }
    assert_eq!(stub.run(&["show", "ep1", "--json"]).json_lines(), [whole_device()]);
}

#[test]
fn the_queue_of_a_device_is_listed_and_a_command_is_withdrawn() {
    let stub = Stub::start().answer("GET /devices/ep1", 200, whole_device());
    let stub = stub.answer("DELETE /devices/ep1/queue/42", 200, Value::Null);
    let run = stub.run(&["queue", "ep1"]);
    let rows = run.rows();
    assert_eq!(rows[0], ["NUMBER", "STATE", "COMMAND", "PATH", "BYTES", "LEFT", "BY"]);
    assert_eq!(rows[1], ["41", "sent", "read", "/3/0", "9", "-", "mqtt"]);
    assert_eq!(rows[2][..5], ["42", "waits", "read-composite", "/1,/3/0/0", "30"]);
    assert_eq!(rows[2][6], "console:alice");
    let whole = whole_device();
    let expected = json!({ "inFlight": whole["inFlight"], "queue": whole["queue"] });
    assert_eq!(stub.run(&["queue", "ep1", "--json"]).json_lines(), [expected]);
    stub.requests();
    let run = stub.run(&["queue", "ep1", "--withdraw", "42"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert_eq!(stub.lines(), ["DELETE /devices/ep1/queue/42"]);
}

#[test]
fn a_registration_is_ended() {
    let stub = Stub::start().answer("DELETE /devices/urn%3Aep%2F1", 200, Value::Null);
    let run = stub.run(&["kick", "urn:ep/1"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert_eq!(run.stderr, "the registration of urn:ep/1 has ended\n");
}

#[test]
fn a_generated_key_is_removed_after_a_question() {
    let stub = Stub::start().answer("DELETE /generated-keys/urn%3Aep%2F1", 200, Value::Null);
    let asked = stub.run(&["remove-key", "urn:ep/1"]);
    let why = "lwm2m-gateway: remove the key of urn:ep/1 needs --yes, or a terminal to ask at\n";
    assert_eq!((asked.code, asked.stderr.as_str()), (Some(2), why));
    let run = stub.run(&["remove-key", "urn:ep/1", "--yes"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert_eq!(run.stderr, "the generated key of urn:ep/1 is removed\n");
    assert_eq!(stub.lines(), ["DELETE /generated-keys/urn%3Aep%2F1"]);
}

#[test]
fn the_overview_has_devices_broker_conditions_and_bounds() {
    let overview = json!({ "version": "1.2.3", "uptime": 90_000,
        "devices": { "total": 7, "awake": 5, "asleep": 2, "joining": 1, "limit": 100 },
        "upstream": { "kind": "exproto", "nodesUp": 1, "nodesDown": 2, "waiting": 3, "limit": 9,
            "nodes": [{ "name": "10.0.0.6:7993", "up": false, "devices": 0, "detail": "does not answer" }] },
        "reload": { "failing": true, "mistakes": ["xml_dir: 1.xml: no XML"] },
        "conditions": { "broker": { "state": "degraded", "detail": "one of two" } },
        "history": { "step": 10, "series": { "awake": [1.0], "registersPerSecond": [0.5, 2.5] } },
        "bounds": [{ "name": "Pending commands", "used": 10, "limit": 20, "unit": "bytes" }] });
    let stub = Stub::start().answer("GET /overview", 200, overview.clone());
    let run = stub.run(&["overview"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for row in [
        &["version", "1.2.3"][..],
        &["uptime", "1d1h"],
        &["devices", "asleep", "2"],
        &["broker", "nodes", "down", "2"],
        &["10.0.0.6:7993", "down", "0", "does", "not", "answer"],
        &["xml_dir:", "1.xml:", "no", "XML"],
        &["registers", "per", "second", "2.5"],
        &["broker", "degraded", "one", "of", "two"],
        &["10", "20", "bytes", "Pending", "commands"],
    ] {
        assert!(run.rows().iter().any(|shown| shown == row), "{row:?} is not in\n{}", run.stdout);
    }
    assert_eq!(stub.run(&["overview", "--json"]).json_lines(), [overview]);
}

#[test]
fn failures_are_a_table_of_who_and_why() {
    let failures = json!({ "failures": [{ "kind": "register", "at": "2020-11-27T20:31:05.120Z",
        "first": "2020-11-27T20:31:05.120Z", "count": 3, "endpoint": "ep1", "address": "10.0.0.9:1", "code": "4.00",
        "reason": "lt is no number" }] });
    let stub = Stub::start().answer("GET /failures", 200, failures.clone());
    let run = stub.run(&["failures"]);
    let rows = run.rows();
    assert_eq!(rows[0], ["AGO", "COUNT", "KIND", "ENDPOINT", "ADDRESS", "IDENTITY", "CODE", "PATH", "REASON"]);
    assert_eq!(rows[1][1..], ["3", "register", "ep1", "10.0.0.9:1", "-", "4.00", "-", "lt", "is", "no", "number"]);
    assert_eq!(stub.run(&["failures", "--json"]).json_lines(), [failures]);
}

#[test]
fn a_read_prints_each_value_with_its_path() {
    let content = json!({ "reqPath": "/3303/0", "content": [
        { "path": "/3303/0/5700", "value": 21.5 }, { "path": "/3303/0/5701", "value": "Cel\u{1b}[2J" },
        { "path": "/3303/0/5750/1", "value": true }] });
    let answer = answered("2.05", content);
    let stub = Stub::start().answer(POST, 200, answer.clone());
    let run = stub.run(&["read", "ep1", "/3303/0"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let expected = "PATH            VALUE\n/3303/0/5700    21.5\n/3303/0/5701    Cel\\u{1b}[2J\n/3303/0/5750/1  true\n";
    assert_eq!(run.stdout, expected);
    let requests = stub.requests();
    assert_eq!(requests[0].line, "POST /api/v1/devices/ep1/commands?wait=30");
    assert_eq!(requests[0].body, json!({ "msgType": "read", "data": { "path": "/3303/0" } }));
    assert_eq!(stub.run(&["read", "ep1", "/3303/0", "--json"]).json_lines(), [answer]);
}

#[test]
fn each_command_is_the_json_of_the_mqtt_interface() {
    let stub = Stub::start().answer(POST, 200, answered("2.04", json!({ "reqPath": "/3/0/14" })));
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("image");
    fs::write(&file, [0, 1, 255]).expect("a file");
    let file = file.to_str().expect("text");
    let path = |msg_type: &str, path: &str| json!({ "msgType": msg_type, "data": { "path": path } });
    for (arguments, body) in [
        (
            &["read", "ep1", "/3/0/0", "/3303"][..],
            json!({ "msgType": "read-composite", "data": { "paths": ["/3/0/0", "/3303"] } }),
        ),
        (&["discover", "ep1", "/3"], path("discover", "/3")),
        (&["observe", "ep1", "/3303"], path("observe", "/3303")),
        (&["cancel", "ep1", "/3303"], path("cancel-observe", "/3303")),
        (&["delete", "ep1", "/6/0", "--yes"], path("delete", "/6/0")),
        (&["exec", "ep1", "/3/0/4", "--yes"], path("execute", "/3/0/4")),
        (
            &["exec", "ep1", "/3/0/4", "0='now'", "--yes"],
            json!({ "msgType": "execute", "data": { "path": "/3/0/4", "args": "0='now'" } }),
        ),
        (
            &["write", "ep1", "/3/0/14", "-5"],
            json!({ "msgType": "write", "data": { "path": "/3/0/14", "value": "-5" } }),
        ),
        (
            &["write", "ep1", "/1/0/1", "60", "--type", "Integer", "--yes"],
            json!({ "msgType": "write", "data": { "path": "/1/0/1", "type": "Integer", "value": "60" } }),
        ),
        (
            &["write", "ep1", "/5/0/0", "--file", file],
            json!({ "msgType": "write", "data": { "path": "/5/0/0", "type": "Opaque", "value": "AAH/" } }),
        ),
        (
            &["create", "ep1", "/6", "0=48.1", "1=2", "--yes"],
            json!({ "msgType": "create", "data": { "basePath": "/6", "content": [
            { "path": "*/0", "value": "48.1" },
            { "path": "*/1", "value": "2" },
        ] } }),
        ),
        (
            &["write-attr", "ep1", "/3303", "pmin=10"],
            json!({ "msgType": "write-attr", "data": { "path": "/3303", "pmin": 10 } }),
        ),
        (
            &["read", "ep1", "/3", "--ttl", "1m"],
            json!({ "msgType": "read", "mheaders": { "ttl": 60 }, "data": { "path": "/3" } }),
        ),
    ] {
        let run = stub.run(arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert_eq!(run.stdout, "PATH     CODE  MEANING\n/3/0/14  2.04  meaning\n", "{arguments:?}");
        let requests = stub.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(requests[0].body, body, "{arguments:?}");
    }
    stub.run(&["observe", "ep1", "/3303", "--force", "--wait", "2m"]);
    assert_eq!(stub.lines(), ["POST /devices/ep1/commands?wait=60&force=true"]);
}

#[test]
fn a_discover_prints_paths_and_attributes() {
    let content = json!({ "content": ["</3/0/0>", "</3/0/9>;pmin=5"] });
    let stub = Stub::start().answer(POST, 200, answered("2.05", content));
    let run = stub.run(&["discover", "ep1", "/3/0"]);
    assert_eq!(run.stdout, "PATH    ATTRIBUTES\n/3/0/0  -\n/3/0/9  pmin=5\n");
}

#[test]
fn the_nodes_of_a_cluster_are_a_table_and_what_is_wrong_is_told_apart() {
    let node = |name: &str, state: &str, peers: &[&str], silent: &[&str]| {
        json!({ "name": name, "state": state, "version": "1.2.3", "shards": 90, "devices": 7, "store": "sure",
            "peers": peers, "silentPeers": silent, "seen": 72.4, "console": "http://10.0.0.1:8086" })
    };
    let nodes = [
        node("gw-0", "up", &["gw-1"], &[]),
        node("gw-1", "draining", &[], &["gw-0"]),
        node("gw-2", "silent", &[], &["gw-0", "gw-1"]),
    ];
    let status =
        json!({ "node": "gw-0", "store": "sure", "age": 0.4, "shards": 256, "withoutOwner": 86, "nodes": nodes });
    let stub = Stub::start().answer("GET /cluster", 200, status);
    let run = stub.run(&["cluster", "status"]);
    assert_eq!(run.code, Some(0));
    let rows = run.rows();
    assert_eq!(rows[0], ["NODE", "STATE", "VERSION", "SHARDS", "DEVICES", "STORE", "PEERS", "SEEN", "CONSOLE"]);
    assert_eq!(rows[2], ["gw-1", "draining", "1.2.3", "90", "7", "sure", "0/1", "1m12s", "http://10.0.0.1:8086"]);
    let said = ["gw-0 does not answer gw-1", "gw-2 does not answer", "86 of 256 shards have no owner"];
    assert_eq!(run.stderr.lines().collect::<Vec<_>>(), said);

    let away =
        json!({ "node": "gw-0", "store": "all_without", "age": 61.0, "shards": 256, "withoutOwner": 0, "nodes": [] });
    let run = Stub::start().answer("GET /cluster", 200, away).run(&["cluster", "status"]);
    assert_eq!(run.stderr, "gw-0 does not reach the store: the list is 1m1s old\n");
}

#[test]
fn what_changes_much_is_not_sent_without_a_confirmation() {
    let stub = Stub::start().answer(POST, 200, answered("2.04", json!({})));
    for arguments in [
        &["exec", "ep1", "/3/0/4"][..],
        &["delete", "ep1", "/6/0"],
        &["create", "ep1", "/6", "0=1"],
        &["write", "ep1", "/1/0/1", "60"],
    ] {
        let run = stub.run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(run.stderr.contains("--yes"), "{}", run.stderr);
    }
    assert!(stub.requests().is_empty());
}

#[test]
fn the_exit_code_tells_how_it_ended() {
    let done = |outcome: &str| json!({ "id": "c1", "state": "done", "outcome": outcome });
    let pending = json!({ "id": "c1", "state": "pending", "place": 2, "device": "asleep", "expires": "soon" });
    let refused = answered("4.04", json!({ "reason": "no such instance" }));
    let read = &["read", "ep1", "/3/0", "--wait", "0"][..];
    for (stub, arguments, code, said) in [
        (Stub::start().answer(POST, 200, refused), read, 3, "the device answered 4.04 meaning: no such instance"),
        (Stub::start().answer(POST, 200, done("timedOut")), read, 4, "the device did not answer"),
        (Stub::start().answer(POST, 200, done("reset")), read, 4, "the device rejected the message (Reset)"),
        (Stub::start().answer(POST, 200, done("expired")), read, 4, "the command expired before it could be sent"),
        (Stub::start().answer(POST, 200, done("refused")), read, 4, "the gateway refused the command"),
        (Stub::start().problem(POST, 409, "device-asleep"), read, 4, "A title: a detail"),
        (
            Stub::start().answer(POST, 202, pending.clone()).answer("GET /commands/c1", 200, pending.clone()),
            &["read", "ep1", "/3/0", "--wait", "1"],
            5,
            "the command c1 still waits, at place 2, until soon; the device is asleep",
        ),
        (Stub::start().problem(POST, 404, "device-not-registered"), read, 6, "A title: a detail"),
        (Stub::start().problem(POST, 421, "device-elsewhere"), read, 8, "A title: a detail. Ask that node with --at"),
        (Stub::start().problem(DRAIN, 409, "last-node"), &["cluster", "drain", "gw-1"], 1, "A title: a detail"),
        (Stub::start().problem(POST, 401, "not-authenticated"), read, 7, "LWM2M_GATEWAY_TOKEN"),
        (Stub::start().problem("GET /devices", 403, "not-allowed"), &["devices"], 7, "A title: a detail"),
        (Stub::start().problem(POST, 400, "command-invalid"), read, 1, "A title: a detail"),
        (Stub::start().problem("GET /overview", 503, "driver-silent"), &["overview"], 1, "A title: a detail"),
        (Stub::start().answer("GET /devices", 200, json!([])), &["devices"], 1, "no list of devices"),
    ] {
        let run = stub.run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (Some(code), ""), "{said}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{said} is not in {}", run.stderr);
    }
    let handed_over = Stub::start().answer(POST, 202, pending).run(read);
    assert_eq!(handed_over.code, Some(0));
    assert_eq!(handed_over.rows()[1], ["c1", "pending", "2", "asleep", "soon"]);
    for arguments in [&["read", "ep1"][..], &["devices", "--state", "dead"], &["read", "ep1", "/3", "--wait", "soon"]] {
        assert_eq!(Stub::start().run(arguments).code, Some(2), "{arguments:?}");
    }
    let nobody = program(&["devices", "--at", "http://127.0.0.1:1"]).output().expect("the program is built");
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert_eq!(said, "lwm2m-gateway: cannot reach the gateway at http://127.0.0.1:1: connection refused\n");
}

#[test]
fn a_command_that_waits_longer_than_a_request_is_asked_for_again() {
    let pending = json!({ "id": "c1", "state": "pending", "place": 1 });
    let answer = answered("2.05", json!({ "content": [{ "path": "/3/0/0", "value": "ACME" }] }));
    let stub = Stub::start().answer(POST, 202, pending.clone());
    let stub = stub.answer("GET /commands/c1", 200, pending).answer("GET /commands/c1", 200, answer);
    let run = stub.run(&["read", "ep1", "/3/0/0", "--wait", "70s"]);
    assert_eq!((run.code, run.rows()[1].as_slice()), (Some(0), &["/3/0/0", "ACME"][..]));
    let lines = ["POST /devices/ep1/commands?wait=60", "GET /commands/c1", "GET /commands/c1"];
    assert_eq!(stub.lines(), lines);
}

#[test]
fn the_token_comes_from_the_environment_or_a_file_and_the_console_may_be_a_socket() {
    let folder = TempDir::new().expect("a folder");
    let (socket, file) = (folder.path().join("console.sock"), folder.path().join("token"));
    fs::write(&file, format!("{TOKEN}-of-file\n")).expect("a file");
    let stub = Stub::start().answer("GET /overview", 200, json!({}));
    stub.listen_at(&socket);
    let at = format!("unix:{}", socket.display());
    let authorization = |command: &mut Command| {
        let output = command.output().expect("the program is built");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        stub.requests().pop().expect("a request").authorization
    };
    assert_eq!(authorization(&mut program(&["overview", "--at", &at])), None);
    let mut command = stub.command(&["overview"]);
    assert_eq!(authorization(command.env("LWM2M_GATEWAY_TOKEN", TOKEN)), Some(format!("Bearer {TOKEN}")));
    let mut command = stub.command(&["overview", "--token-file", file.to_str().expect("text"), "--at", &at]);
    assert_eq!(authorization(command.env("LWM2M_GATEWAY_TOKEN", TOKEN)), Some(format!("Bearer {TOKEN}-of-file")));
    let missing = stub.run(&["overview", "--token-file", "/nowhere/token"]);
    assert_eq!(
        (missing.code, missing.stderr.as_str()),
        (Some(1), "lwm2m-gateway: /nowhere/token: No such file or directory (os error 2)\n")
    );
    let no_socket = stub.run(&["overview", "--at", "unix:/nowhere/socket"]);
    assert_eq!(no_socket.code, Some(1));
    assert_eq!(stub.run(&["overview", "--at", "ftp://here"]).code, Some(2));
}

#[test]
fn a_pipe_gets_no_colours() {
    let stub = Stub::start().answer("GET /devices/ep1", 200, whole_device());
    let stub = stub.answer(POST, 200, answered("4.04", json!({})));
    for arguments in [&["show", "ep1"][..], &["read", "ep1", "/3"]] {
        let run = stub.run(arguments);
        assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{run:?}");
    }
}

#[test]
fn completion_scripts_are_scripts_of_their_shell() {
    for (shell, option) in [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")] {
        let output = program(&["completion", shell]).output().expect("the program is built");
        assert_eq!(output.status.code(), Some(0));
        let script = String::from_utf8(output.stdout).expect("text");
        assert!(script.contains("write-attr") && script.contains("token-file"), "{script}");
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("script");
        fs::write(&file, script).expect("a file");
        // Not every machine has every shell.
        if let Ok(checked) = Command::new(shell).arg(option).arg(&file).status() {
            assert!(checked.success(), "{shell}");
        }
    }
}
