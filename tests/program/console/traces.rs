//! Traces in the console of the built program.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use lwm2m_core::coap::options::format;
use lwm2m_core::coap::{Code, Kind};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::make_token;
use crate::common::device::{PATIENCE, request, response_to};
use crate::common::ports;
use crate::common::scene::{LINKS, ProgramScene};
use crate::dtls_devices::program::SecuredDevice;

const PASSWORD: &str = "planted-password-of-a-device";
const KEY: &str = "planted-key-of-a-server";

/// A device, an application, and a console at a socket.
struct TracedScene {
    scene: ProgramScene,
    folder: TempDir,
    viewer: String,
    limited: String,
}

struct RawAnswer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl TracedScene {
    async fn start(endpoint: &str) -> Self {
        Self::start_with(endpoint, "").await
    }

    /// The same with further lines of configuration.
    async fn start_with(endpoint: &str, lines: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let ((viewer, line), (limited, other)) =
            (make_token("viewer", &[]), make_token("limited", &["--role", "operator", "--prefix", "b"]));
        fs::write(folder.path().join("tokens"), format!("{line}\n{other}\n")).expect("a place for the tokens");
        let [tokens, socket] = ["tokens", "socket"].map(|name| folder.path().join(name));
        let lines = format!(
            "console.tokens = {tokens:?}\nconsole.bind = \"127.0.0.1:0\"\nconsole.socket = {socket:?}\n\
             console.hide = [\"/0\", \"/21\", \"/3/0/2\"]\nlog.level = \"trace\"\n{lines}"
        );
        Self { scene: ProgramScene::start_with(endpoint, &lines).await, folder, viewer, limited }
    }

    fn ask(&self, line: &str) -> RawAnswer {
        self.send(line, "", None)
    }

    fn send(&self, line: &str, body: &str, token: Option<&str>) -> RawAnswer {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{token}\r\n"
        );
        let mut stream = UnixStream::connect(self.folder.path().join("socket")).expect("it listens");
        stream.write_all(format!("{head}{body}").as_bytes()).expect("it takes a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..end].to_vec()).expect("text");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        RawAnswer { status, head, body: answer[end + 4..].to_vec() }
    }

    /// Begins a trace and returns its path.
    fn begin(&self, of: &Value) -> String {
        let begun = self.send("POST /api/v1/traces", &of.to_string(), None);
        assert_eq!(begun.status, 201, "{}", begun.text());
        let path = format!("/api/v1/traces/{}", begun.json()["id"].as_str().expect("an ID"));
        assert!(begun.head.contains(&format!("location: {path}\r\n")), "{}", begun.head);
        path
    }

    /// Returns the messages of a trace when there are so many.
    fn messages(&self, trace: &str, count: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        for _ in 0..200 {
            messages = self.ask(&format!("GET {trace}")).json()["messages"].as_array().expect("messages").clone();
            // Its outcome follows each message.
            let judged = messages.last().is_none_or(|last| last["direction"] != "in" || last.get("outcome").is_some());
            if messages.len() >= count && judged {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert_eq!(messages.len(), count, "{messages:#?}");
        messages
    }

    fn pcap(&self, trace: &str) -> Vec<u8> {
        let file = self.ask(&format!("GET {trace}.pcap"));
        assert_eq!(file.status, 200);
        assert!(file.head.contains("content-type: application/vnd.tcpdump.pcap"), "{}", file.head);
        file.body
    }
}

impl RawAnswer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn text(&self) -> String {
        format!("{}\n{}", self.head, String::from_utf8_lossy(&self.body))
    }

    fn problem(&self) -> (u16, String) {
        let kind = self.json()["type"].as_str().expect("a type").rsplit(':').next().expect("a name").to_owned();
        (self.status, kind)
    }
}

fn without_varying(mut message: Value) -> Value {
    let members = message.as_object_mut().expect("an object");
    for varying in ["at", "peer", "mid", "token"] {
        assert!(members.remove(varying).is_some(), "no {varying} in {members:?}");
    }
    message
}

fn option(number: u16, name: &str, value: &str) -> Value {
    json!({ "number": number, "name": name, "value": value })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_by_endpoint_name_has_each_message_decoded_with_names_and_units() {
    let mut traced = TracedScene::start("ep1").await;
    let trace = traced.begin(&json!({ "endpoint": "ep1", "minutes": 1 }));
    traced.scene.register("lt=300&lwm2m=1.0", LINKS);
    let observe = json!({ "reqID": 1, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
    traced.scene.command(&observe);
    let sent = traced.scene.device.expect_request(Code::GET, "/3303/0/5700");
    traced.scene.device.answer_observe(&sent, "20.5");
    traced.scene.hear("up/resp", "observe");
    traced.scene.device.notify(&sent, Kind::NonConfirmable, 12, "21.5");
    traced.scene.hear("up/notify", "notify");

    let mut messages = traced.messages(&trace, 5);

    let mids: Vec<_> = messages.iter().map(|message| message["mid"].clone()).collect();
    assert_eq!((&mids[0], &mids[2]), (&mids[1], &mids[3]), "the acknowledgements");
    assert_eq!(messages[4]["token"], messages[2]["token"]);
    let payload = messages[0]["payload"].take();
    assert_eq!(payload["bytes"], LINKS.len());
    let answer = |n, direction, kind: &str, code, name, bytes: &Value, options: Value, outcome, answers: Value| {
        json!({ "n": n, "direction": direction, "secured": false, "bytes": bytes, "type": kind, "code": code,
            "name": name, "options": options, "outcome": outcome, "answers": answers, "again": false })
    };
    let created = answer(
        2,
        "out",
        "ACK",
        "2.01",
        "Created",
        &messages[1]["bytes"].clone(),
        json!([option(8, "Location-Path", "rd"), option(8, "Location-Path", &"*".repeat(12))]),
        Value::Null,
        json!(1),
    );
    let mut created = created;
    created.as_object_mut().expect("an object").remove("outcome");
    assert_eq!(without_varying(messages[1].clone()), created);
    let value = |value: f64, text: &str| {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        json!({ "bytes": text.len(), "hex": hex, "entries": [
            { "path": "/3303/0/5700", "name": "Sensor Value", "value": value, "units": "" }] })
    };
    let mut notification = answer(
        5,
        "in",
        "NON",
        "2.05",
        "Content",
        &messages[4]["bytes"].clone(),
        json!([option(6, "Observe", "12"), option(12, "Content-Format", "0")]),
        json!("notification"),
        json!(3),
    );
    notification["payload"] = value(21.5, "21.5");
    let mut shown = without_varying(messages[4].clone());
    let entry = &mut shown["payload"]["entries"][0];
    // The definition of this version has no units.
    entry.as_object_mut().expect("an entry").entry("units").or_insert_with(|| "".into());
    assert_eq!(shown, notification);

    let after = traced.ask(&format!("GET {trace}?after=4")).json();
    assert_eq!(after["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!((&after["endpoint"], &after["running"], &after["count"]), (&json!("ep1"), &json!(true), &json!(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_by_address_tells_why_a_register_is_refused_and_what_is_no_message() {
    let mut traced = TracedScene::start("ep1").await;
    let trace = traced.begin(&json!({ "address": "127.0.0.1" }));
    let refused = traced.scene.device.try_register("lt=300", LINKS);
    assert_eq!(refused.code, Code::BAD_REQUEST);
    // The last option is cut short.
    traced.scene.device.send_bytes(b"\x50\x02\x00\x07\xb4secret"[..8].as_ref());

    let messages = traced.messages(&trace, 3);

    assert_eq!(messages[0]["outcome"], "refused 4.00: the query item ep is missing");
    assert_eq!((&messages[1]["code"], &messages[1]["answers"]), (&json!("4.00"), &json!(1)));
    assert_eq!(messages[2]["hex"], "50020007".to_owned() + &"2a".repeat(4));
    let outcome = messages[2]["outcome"].as_str().expect("a outcome");
    assert!(outcome.contains("no CoAP message: an option, or the token, is cut short"), "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_no_location_and_no_value_of_a_hidden_path_is_in_a_trace_or_its_file() {
    let mut traced = TracedScene::start("b1").await;
    let traces = [traced.begin(&json!({ "endpoint": "b1" })), traced.begin(&json!({ "address": "127.0.0.1" }))];
    traced.scene.register(&format!("lt=300&lwm2m=1.1&password={PASSWORD}"), LINKS);
    let location = traced.scene.device.location[1].clone();
    traced.scene.device.update(&[&format!("password={PASSWORD}")], None);
    // A bug of a device: the whole query in one option, and the path in one segment.
    let joined = request(Code::POST, &[&format!("rd/{location}")], &[&format!("lt=9&password={PASSWORD}")], None);
    assert_eq!(traced.scene.device.request(&joined).code, Code::NOT_FOUND);

    // A hidden resource, by itself and within its instance; a hidden object in the answer to a composite operation.
    let read = |path: &str| json!({ "reqID": 1, "msgType": "read", "data": { "path": path } });
    let record = |name: &str| json!({ "n": name, "vs": KEY });
    for (path, format, payload) in [
        ("/0/0/0", format::TEXT, KEY.as_bytes().to_vec()),
        ("/3/0/2", format::TEXT, KEY.as_bytes().to_vec()),
        ("/3/0", format::TLV, [&[0xc8, 2, KEY.len() as u8], KEY.as_bytes()].concat()),
        ("/3/0", format::TLV, [&[0xc8, 2, 200], KEY.as_bytes()].concat()),
        ("/3/0/1", format::SENML_JSON, json!([record("/0/0/0")]).to_string().into_bytes()),
    ] {
        traced.scene.command(&read(path));
        let sent = traced.scene.device.expect_request(Code::GET, path);
        traced.scene.device.answer(&sent, Code::CONTENT, Some((format, &payload)));
        traced.scene.hear("up/resp", "read");
    }
    let composite = json!({ "reqID": 2, "msgType": "read-composite", "data": { "paths": ["/3/0/0", "/0/0/0"] } });
    traced.scene.command(&composite);
    let sent = traced.scene.device.receive();
    let answer = json!([{ "n": "/3/0/0", "vs": "ACME" }, record("/0/0/0")]).to_string();
    traced.scene.device.answer(&sent, Code::CONTENT, Some((format::SENML_JSON, answer.as_bytes())));
    traced.scene.hear("up/resp", "read-composite");
    let write = json!({ "reqID": 3, "msgType": "write", "data": { "path": "/0/0/0", "value": KEY } });
    traced.scene.command(&write);
    let sent = traced.scene.device.expect_request(Code::PUT, "/0/0/0");
    traced.scene.device.answer(&sent, Code::CHANGED, None);
    traced.scene.hear("up/resp", "write");
    // An answer that nobody waits for, and one more time.
    let late = response_to(&sent, Code::CONTENT, Some((format::TEXT, KEY.as_bytes())));
    traced.scene.device.send(&late);
    let sending = json!([{ "n": "/3303/0/5700", "v": 1 }, record("/0/0/0")]).to_string();
    let mut send = request(Code::POST, &["dp"], &[], Some((format::SENML_JSON, sending.as_bytes())));
    send.kind = Kind::NonConfirmable;
    traced.scene.device.send(&send);
    // What is shown beside them.
    traced.scene.command(&read("/3/0/0"));
    let mut answered = Vec::new();
    while let Some(message) = traced.scene.device.receive_within(Duration::from_millis(500)) {
        if message.code == Code::GET {
            traced.scene.device.answer_text(&message, "shown-beside");
        }
        answered.push(message);
    }

    for trace in &traces {
        let all = traced.ask(&format!("GET {trace}"));
        let file = traced.pcap(trace);
        let text = all.text();
        assert!(text.contains("shown-beside") && file.windows(12).any(|part| part == b"shown-beside"), "{text}");
        for secret in [PASSWORD, KEY, &location] {
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains(secret) && !text.contains(&hex), "{secret} is in {text}");
            assert!(!file.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} is in the file");
        }
        let hidden = all.json()["messages"].as_array().expect("messages").clone();
        let hidden: Vec<_> = hidden.iter().filter(|message| message["payload"]["hidden"] == true).collect();
        assert!(hidden.len() >= 9, "{hidden:#?}");
        assert!(hidden.iter().all(|message| message["payload"].get("entries").is_none()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_for_operators_and_their_number_and_duration_have_bounds() {
    let traced = TracedScene::start("b1").await;
    let begin = |of: &Value, token: Option<&str>| traced.send("POST /api/v1/traces", &of.to_string(), token);
    let (viewer, limited) = (Some(traced.viewer.as_str()), Some(traced.limited.as_str()));
    let not_allowed = || (403, "not-allowed".to_owned());
    assert_eq!(begin(&json!({ "endpoint": "b1" }), viewer).problem(), not_allowed());
    assert_eq!(traced.send("GET /api/v1/traces", "", viewer).problem(), not_allowed());
    for of in [json!({ "endpoint": "a1" }), json!({ "address": "10.0.0.1" }), json!({ "identity": "b1" })] {
        assert_eq!(begin(&of, limited).problem(), not_allowed(), "{of}");
    }
    for of in [
        json!({}),
        json!({ "endpoint": "b1", "identity": "b1" }),
        json!({ "endpoint": "" }),
        json!({ "address": "nowhere" }),
        json!({ "endpoint": "b1", "minutes": 0 }),
        json!({ "endpoint": "b1", "minutes": 121 }),
        json!({ "endpoint": "b1", "minutes": 1.5 }),
        json!({ "endpoint": "b1", "minutes": null }),
        json!({ "endpoint": "b1", "identity": null }),
        json!({ "endpoint": "b1", "until": "tomorrow" }),
    ] {
        assert_eq!(begin(&of, None).problem(), (400, "invalid-request".to_owned()), "{of}");
    }
    let other = traced.begin(&json!({ "address": "10.0.0.1" }));
    let own = begin(&json!({ "endpoint": "b2" }), limited);
    assert_eq!(own.status, 201, "{}", own.text());
    let own = format!("/api/v1/traces/{}", own.json()["id"].as_str().expect("an ID"));
    let list = traced.send("GET /api/v1/traces", "", limited).json();
    assert_eq!(list["traces"].as_array().map(Vec::len), Some(1));
    assert_eq!((&list["traces"][0]["endpoint"], &list["traces"][0]["by"]), (&json!("b2"), &json!("limited")));
    for line in [format!("GET {other}"), format!("GET {other}.pcap"), format!("DELETE {other}")] {
        assert_eq!(traced.send(&line, "", limited).problem(), not_allowed(), "{line}");
    }
    (2..8).for_each(|_| drop(traced.begin(&json!({ "identity": "somebody" }))));
    assert_eq!(begin(&json!({ "endpoint": "b1" }), None).problem(), (429, "too-many".to_owned()));
    let (_, metrics) = traced.scene.gateway.ask_admin("/metrics");
    assert!(metrics.contains("\nlwm2m_console_traces 8\n"), "{metrics}");

    assert_eq!(traced.send(&format!("DELETE {own}"), "", limited).status, 204);
    let gone = || (404, "no-such-trace".to_owned());
    for line in [format!("GET {own}"), format!("GET {own}.pcap"), format!("DELETE {own}")] {
        assert_eq!(traced.ask(&line).problem(), gone(), "{line}");
    }
    for id in ["x", "%2e%2e", "0", "+00000000000000f", "00000000000000000"] {
        assert_eq!(traced.ask(&format!("GET /api/v1/traces/{id}")).problem(), gone(), "{id}");
    }
    traced.begin(&json!({ "endpoint": "b1", "minutes": 120.0 }));

    let audit = traced.ask("GET /api/v1/audit").json();
    let entry = |at: usize| (audit["entries"][at]["action"].clone(), audit["entries"][at]["endpoint"].clone());
    assert_eq!(entry(0), (json!("trace"), json!("b1")));
    assert_eq!(entry(1), (json!("endTrace"), json!("b2")));
    assert_eq!(audit["entries"][2]["result"], "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn wireshark_reads_the_file_of_a_trace() {
    if Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tshark is missing");
        return;
    }
    let mut traced = TracedScene::start("ep1").await;
    let trace = traced.begin(&json!({ "endpoint": "ep1" }));
    traced.scene.register("lt=300&lwm2m=1.0", LINKS);
    let read = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0" } });
    traced.scene.command(&read);
    let sent = traced.scene.device.expect_request(Code::GET, "/3/0");
    let tlv = [&[0xc4, 0][..], b"ACME"].concat();
    traced.scene.device.answer(&sent, Code::CONTENT, Some((format::TLV, &tlv)));
    traced.scene.hear("up/resp", "read");
    traced.messages(&trace, 4);

    let file = traced.folder.path().join("trace.pcap");
    fs::write(&file, traced.pcap(&trace)).expect("a place for the file");
    let fields = ["coap.code", "coap.opt.uri_path_recon", "ip.src", "exported_pdu.src_port", "lwm2mtlv.identifier"];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let output = Command::new("tshark")
        .args(["-r".as_ref(), file.as_os_str()])
        .args(["-Y", "coap", "-T", "fields", "-E", "separator=|"])
        .args(fields)
        .output()
        .expect("tshark is there");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').collect()).collect();
    let codes: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(codes, ["2", "65", "1", "69"], "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((lines[0][1], lines[2][1]), ("/rd", "/3/0"), "{text}");
    assert!(lines.iter().all(|line| line[2] == "127.0.0.1"), "{text}");
    let port = traced.scene.gateway.address().port().to_string();
    assert_eq!((lines[1][3], lines[2][3]), (port.as_str(), port.as_str()), "{text}");
    assert_eq!(lines[3][4], "0", "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_by_identity_tells_why_a_handshake_failed_and_shows_what_was_encrypted() {
    let keys = TempDir::new().expect("a folder");
    let (file, secured) = (keys.path().join("keys.psk"), ports::free_address());
    fs::write(&file, "ep1:0123456789abcdef\n").expect("a place for the keys");
    let lines = format!("listeners.dtls.secured.bind = \"{secured}\"\ndtls.psk_file = {file:?}");
    let traced = TracedScene::start_with("ep1", &lines).await;
    let [own, stranger] = ["ep1", "stranger"].map(|identity| traced.begin(&json!({ "identity": identity })));

    let connect = |identity, patience| SecuredDevice::connect(secured, identity, b"0123456789abcdef", patience);
    assert!(connect("stranger", Duration::from_secs(1)).is_none());
    let mut device = connect("ep1", PATIENCE).expect("it has the key");
    let answer = device.ask(&request(Code::GET, &[".well-known", "core"], &[], None));
    assert_eq!(answer.code, Code::CONTENT);

    let failed = traced.ask(&format!("GET {stranger}")).json()["messages"].take();
    let failed = failed.as_array().expect("messages").iter().find(|entry| entry["event"] == "handshakeFailed");
    let failed = failed.expect("the failure");
    assert_eq!((&failed["dtls"], &failed["identity"]), (&json!(true), &json!("stranger")));
    assert_eq!(failed["reason"], "unknown PSK identity");
    assert!(failed["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{failed}");

    let messages = traced.messages(&own, 3);
    assert_eq!((&messages[0]["event"], &messages[0]["identity"]), (&json!("handshakeCompleted"), &json!("ep1")));
    assert_eq!((&messages[1]["name"], &messages[1]["secured"]), (&json!("GET"), &json!(true)));
    assert_eq!((&messages[2]["name"], &messages[2]["answers"]), (&json!("Content"), &json!(2)));
}

impl TracedScene {
    /// Opens a stream. The body of HTTP/1.0 has no chunks.
    fn follow(&self, path: &str, token: Option<&str>) -> BufReader<UnixStream> {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let mut stream = UnixStream::connect(self.folder.path().join("socket")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("the option is known");
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{token}\r\n");
        stream.write_all(request.as_bytes()).expect("it takes a request");
        BufReader::new(stream)
    }
}

/// Returns the next event of these names, with its data; `None` at the end.
fn next_event(stream: &mut BufReader<UnixStream>, names: &[&str]) -> Option<(String, Value)> {
    let mut event = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).expect("it goes on") == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("event", name)) => event = name.to_owned(),
            Some(("data", data)) if names.contains(&event.as_str()) => {
                return Some((event, serde_json::from_str(data).expect("JSON")));
            }
            Some(_) | None => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_followed_as_they_come_until_the_trace_ends() {
    let mut traced = TracedScene::start("b1").await;
    let limited = traced.limited.clone();
    let mut of_device = traced.follow("/api/v1/devices/b1/events", Some(&limited));
    let mut of_viewer = traced.follow("/api/v1/devices/b1/events", Some(&traced.viewer));
    for stream in [&mut of_device, &mut of_viewer] {
        next_event(stream, &["hello"]).expect("it begins");
    }
    let trace = traced.begin(&json!({ "endpoint": "b1" }));
    traced.scene.register("lt=300&lwm2m=1.0", LINKS);
    let mut of_trace = traced.follow(&format!("{trace}/events"), Some(&limited));
    let mut later = traced.follow(&format!("{trace}/events?after=1"), None);
    let codes = |stream: &mut BufReader<UnixStream>, count: usize| -> Vec<Value> {
        (0..count).map(|_| next_event(stream, &["coap"]).expect("a message").1["code"].take()).collect()
    };
    let register = [json!("0.02"), json!("2.01")];
    assert_eq!(codes(&mut of_device, 2), register);
    assert_eq!(codes(&mut of_trace, 2), register);
    assert_eq!(codes(&mut later, 1), register[1..]);
    traced.scene.device.update(&[], None);
    for stream in [&mut of_device, &mut of_trace, &mut later] {
        assert_eq!(codes(stream, 2), [json!("0.02"), json!("2.04")]);
    }
    assert_eq!(traced.ask(&format!("DELETE {trace}")).status, 204);
    for stream in [&mut of_trace, &mut later] {
        assert!(next_event(stream, &["coap", "lost"]).is_none());
    }
    // The stream of the viewer goes on, and had no message.
    assert_eq!(traced.scene.device.deregister().code, Code::DELETED);
    let (name, _) = next_event(&mut of_viewer, &["coap", "dtls", "left"]).expect("the end of the registration");
    assert_eq!(name, "left");
}
