//! What the documentation shows is what the program does.

mod documented_metrics;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, UplinkClass};
use lwm2m_gateway::config::Config;
use lwm2m_testkit::scene::{Said, Scene, path_of, reply, text_reply};
use serde_json::{Value, json};

/// `docs/mqtt.md` shows what an application publishes and what it hears, in order. The device of the examples is in
/// [`answers`].
#[test]
fn every_example_of_the_mqtt_interface_is_what_happens() {
    let document = read("docs/mqtt.md");
    let examples: Vec<(&str, &str)> = examples(&document).collect();
    assert!(examples.len() > 40, "{examples:?}");
    let mut play = Play { scene: Scene::new(), published: VecDeque::new(), observed: None, firmware: (0, 0) };
    play.scene.images.write("app-2.1.0.bin", b"new firmware");
    for (topic, payload) in examples {
        match topic {
            "lwm2m/ep1/dn" => play.command(payload),
            _ => {
                play.expect(topic, &serde_json::from_str(payload).unwrap_or_else(|error| panic!("{payload}: {error}")))
            }
        }
    }
    assert_eq!(play.published, []);
}

/// The README shows messages of other clients.
#[test]
fn every_message_in_the_readme_is_json() {
    let readme = read("README.md");
    let messages: Vec<_> = examples(&readme).filter(|(_, payload)| payload.starts_with('{')).collect();
    assert!(messages.len() >= 2, "{messages:?}");
    for (topic, payload) in messages {
        serde_json::from_str::<Value>(payload).unwrap_or_else(|error| panic!("{topic} {payload}: {error}"));
    }
}

/// A page names other pages and files of the project by their relative path.
#[test]
fn no_link_in_the_documentation_leads_nowhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("the folder").map(|entry| entry.expect("an entry").path());
    for page in docs.chain([root.join("README.md")]).filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(&page).expect("text");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = link.contains("://") || link.is_empty();
            assert!(outside || page.with_file_name(link).exists(), "{}: {link} is not there", page.display());
        }
    }
}

/// The pages for developers name files, folders and, in brackets behind a file, what to look for in it. The names may
/// leave out the folders in front.
#[test]
fn every_file_that_the_pages_for_developers_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "crates", "tests", "benches", "docs", "deploy", "proto", "xml"] {
        paths.push(root.join(folder));
        collect(&root.join(folder), &mut paths);
    }
    let mut named = 0;
    for page in ["CONTRIBUTING.md", "docs/architecture.md"] {
        let text = read(page);
        let mut parts = text.split('`').skip(1).peekable();
        while let (Some(name), after) = (parts.next(), parts.next()) {
            if !(name.ends_with(".rs") || name.ends_with('/')) {
                continue;
            }
            named += 1;
            let found: Vec<_> = paths.iter().filter(|path| path.ends_with(name)).collect();
            assert!(!found.is_empty(), "{page}: {name} is not there");
            if after == Some(" (") {
                let inside = parts.peek().expect("a name in brackets");
                let has = |path: &&PathBuf| path.is_file() && fs::read_to_string(path).expect("text").contains(*inside);
                assert!(found.iter().any(has), "{page}: {name} has no {inside}");
            }
        }
    }
    assert!(named > 100, "{named}");
}

/// A page shows a part of a configuration, which is one by itself.
#[test]
fn every_configuration_in_the_documentation_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let mut shown = 0;
    for page in [
        "README.md",
        "docs/emqx.md",
        "docs/migration.md",
        "docs/dtls.md",
        "docs/upstream.md",
        "docs/operations.md",
        "docs/cluster.md",
        "docs/security.md",
        "docs/console.md",
        "docs/bootstrap.md",
    ] {
        let document = read(page);
        for block in document.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            // The accounts of the bootstrap server are a file of their own.
            if block.contains("[[account") {
                continue;
            }
            fs::write(&file, block.replace("\n   ", "\n")).expect("a file");
            if let Err(error) = Config::load(Some(&file), []) {
                panic!("{page}:\n{block}\n{error}");
            }
            shown += 1;
        }
    }
    assert!(shown >= 8, "{shown}");
}

/// The second column of its tables has the key that takes the place of the one in the first.
#[test]
fn every_key_of_the_migration_page_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let page = read("docs/migration.md");
    let keys = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").nth(1)?.strip_prefix('`')?.strip_suffix('`'));
    let keys: Vec<&str> = keys.filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c))).collect();
    assert!(keys.len() > 45, "{keys:?}");
    for key in keys {
        // No key takes a date, and only one that there is says what it takes instead.
        fs::write(&file, format!("{key} = 1970-01-01")).expect("a file");
        let error = Config::load(Some(&file), []).expect_err(key).to_string();
        let named = [format!("{key} = 1970-01-01: "), format!("{key}: expected ")];
        assert!(named.iter().any(|named| error.contains(named)), "{error}");
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, paths);
        }
        paths.push(path);
    }
}

struct Play {
    scene: Scene,
    published: VecDeque<(String, Value)>,
    observed: Option<Message>,
    /// State and Update Result of the device.
    firmware: (u8, u8),
}

impl Play {
    fn command(&mut self, payload: &str) {
        let waits = payload.contains("mheaders");
        let update = self.scene.update("");
        self.scene.ask(&update, Code::CHANGED);
        if waits {
            // Nothing is heard of the device for long: it is asleep.
            self.scene.advance(60.0);
        }
        self.scene.command_bytes(payload.as_bytes());
        self.settle();
        for _ in 0..if waits { 7 } else { 12 } {
            self.scene.advance(10.0);
            self.settle();
        }
    }

    /// The device answers whatever it is asked, until there is nothing more.
    fn settle(&mut self) {
        while let Some(said) = self.scene.next_said() {
            match said {
                Said::ToDevice(_, request) => self.answer(&request),
                Said::ToBroker(BrokerCommand::Publish { registration, publication }) => {
                    if let (UplinkClass::Send, Some(ticket)) = (publication.class, publication.ticket) {
                        self.scene.broker_says(BrokerEvent::Queued { registration, ticket });
                    }
                    let payload = serde_json::from_slice(&publication.payload).expect("JSON");
                    self.published.push_back((publication.topic, payload));
                }
                Said::ToBroker(command) => panic!("{command:?}"),
                Said::ToConsole(answer) => panic!("{answer:?}"),
            }
        }
    }

    fn answer(&mut self, request: &Message) {
        if request.code.is_response() {
            return;
        }
        if request.options.uint(number::OBSERVE) == Ok(Some(0)) {
            self.observed = Some(request.clone());
        }
        let answers = self.firmware_answer(request).map_or_else(|| answers(request), |answer| vec![answer]);
        for answer in answers {
            self.scene.device_sends(&answer);
        }
    }

    /// Answers a request to the Firmware Update object, which does not let itself be observed.
    fn firmware_answer(&mut self, request: &Message) -> Option<Message> {
        let text = |text: &str| text_reply(request, Kind::Acknowledgement, request.id, None, text);
        let acknowledge = |code: Code| Message { kind: Kind::Acknowledgement, code, ..reply(request) };
        let (state, result) = self.firmware;
        match (request.code, path_of(request).as_str()) {
            (Code::GET, "/5/0") => {
                let object = [[0xc1, 3, state], [0xc1, 5, result], [0xc1, 9, 2]].concat();
                Some(with_content(acknowledge(Code::CONTENT), format::TLV, &object))
            }
            (Code::GET, "/5/0/3") => Some(text(&state.to_string())),
            (Code::GET, "/5/0/5") => Some(text(&result.to_string())),
            (Code::GET, "/3/0/3") => Some(text("2.1.0")),
            (Code::PUT, "/5/0/0") => {
                self.firmware = (2, 0);
                Some(acknowledge(Code::CHANGED))
            }
            (Code::POST, "/5/0/2") => {
                self.firmware = (0, 1);
                Some(acknowledge(Code::CHANGED))
            }
            _ => None,
        }
    }

    /// The next publication is this one; what a device says by itself it says now.
    fn expect(&mut self, topic: &str, payload: &Value) {
        match payload["msgType"].as_str() {
            Some("register") if payload["data"]["lwm2m"] == "1.2" => {
                let deregister = self.scene.deregister();
                self.scene.device_sends(&deregister);
                self.scene.forget_what_was_said();
                self.scene.join("ep=ep1&lt=300&lwm2m=1.2");
            }
            Some("register") => self.scene.join("ep=ep1&lt=300&lwm2m=1.0&b=UQ"),
            Some("send") => {
                let send = self.scene.request(Code::POST, &["dp"], "");
                self.scene.device_sends(&with_records(send, &payload["data"]["content"]));
            }
            Some("notify") if has_records(payload) => {
                let observed = self.observed.clone().expect("an observation");
                let id = self.scene.fresh_id();
                let mut notification =
                    Message { kind: Kind::NonConfirmable, id, code: Code::CONTENT, ..reply(&observed) };
                notification.options.add_uint(number::OBSERVE, 3);
                self.scene.device_sends(&with_records(notification, &payload["data"]["content"]));
            }
            Some("update") => {
                let objects = payload["data"]["objectList"].as_array().expect("a list");
                let links: Vec<String> =
                    objects.iter().filter_map(Value::as_str).map(|path| format!("<{path}>")).collect();
                let update = self.scene.update_with_links(&links.join(","));
                self.scene.ask(&update, Code::CHANGED);
            }
            Some("notify") => {
                let observed = self.observed.clone().expect("an observation");
                self.scene.notify(&observed, Kind::NonConfirmable, 3, "22.5");
            }
            _ => {}
        }
        self.settle();
        let published = self.published.pop_front().map(|(topic, mut told)| {
            // The label of a firmware update is random.
            if told["data"]["job"].is_string() {
                told["data"]["job"] = payload["data"]["job"].clone();
            }
            (topic, told)
        });
        assert_eq!(published, Some((topic.to_owned(), payload.clone())), "{payload}");
    }
}

/// How the device of the examples answers.
fn answers(request: &Message) -> Vec<Message> {
    let acknowledge = |code: Code| Message { kind: Kind::Acknowledgement, code, ..reply(request) };
    let text = |text: &str| text_reply(request, Kind::Acknowledgement, request.id, observe_number(request), text);
    let path = path_of(request);
    match (request.code, path.as_str()) {
        (Code::EMPTY, _) => Vec::new(),
        (Code::GET, _) if request.options.uint(number::ACCEPT) == Ok(Some(format::LINK_FORMAT.into())) => {
            vec![with_content(acknowledge(Code::CONTENT), format::LINK_FORMAT, b"</3/0/0>,</3/0/9>;pmin=5")]
        }
        (Code::GET, "/3303/0") => {
            let tlv = b"\xe4\x16\x44\x41\xac\x00\x00\xe3\x16\x45Cel";
            vec![with_content(acknowledge(Code::CONTENT), format::TLV, tlv)]
        }
        (Code::GET, "/3303/0/5700") => vec![text("21.5")],
        (Code::GET, "/3/0/9") => {
            let later = text_reply(request, Kind::Confirmable, lwm2m_core::coap::MessageId(9999), None, "95");
            vec![Message::empty(Kind::Acknowledgement, request.id), later]
        }
        (Code::GET, "/3/0/13") => vec![Message::empty(Kind::Reset, request.id)],
        (Code::GET, "/3/0/16") => Vec::new(),
        (Code::GET, _) => vec![text("ACME")],
        (Code::DELETE, "/3/0") => vec![acknowledge(Code::METHOD_NOT_ALLOWED)],
        (Code::DELETE, _) => vec![acknowledge(Code::DELETED)],
        // The resources of a new instance stand in TLV without the instance, or within it (bits 7 and 6).
        (Code::POST, "/6") if request.payload.first().is_some_and(|first| first & 0xc0 == 0xc0) => {
            let mut created = acknowledge(Code::CREATED);
            ["6", "1"].iter().for_each(|segment| created.options.add_text(number::LOCATION_PATH, segment));
            vec![created]
        }
        (Code::POST, "/6") => vec![acknowledge(Code::CREATED)],
        // Only SenML-ETCH has a null value (RFC 8790 section 3). Here it ends the last record.
        (Code::IPATCH, _)
            if request.payload.last() == Some(&CBOR_NULL)
                && request.options.content_format() != Some(format::SENML_ETCH_CBOR) =>
        {
            vec![acknowledge(Code::UNSUPPORTED_CONTENT_FORMAT)]
        }
        (Code::FETCH, _) => vec![with_records(acknowledge_observing(request), &composite(request))],
        _ => vec![acknowledge(Code::CHANGED)],
    }
}

/// RFC 8949 section 3.3.
const CBOR_NULL: u8 = 0xf6;

/// What a composite read or observation of these paths finds.
fn composite(request: &Message) -> Value {
    let asks_for = |path: &[u8]| request.payload.windows(path.len()).any(|part| part == path);
    if asks_for(b"/3/0/99") {
        json!([{ "path": "/3/0/0", "value": "ACME" }, { "path": "/3303/0/5700", "value": 21.5 }])
    } else if asks_for(b"/3/0/9") {
        json!([{ "path": "/3303/0/5700", "value": 21.5 }, { "path": "/3/0/9", "value": 95 }])
    } else {
        json!([{ "path": "/1/0/1", "value": 60 }, { "path": "/3/0/0", "value": "ACME" }])
    }
}

fn acknowledge_observing(request: &Message) -> Message {
    let mut answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, ..reply(request) };
    observe_number(request).iter().for_each(|number| answer.options.add_uint(number::OBSERVE, *number));
    answer
}

/// Whether a notification is one of several values, or of values with times.
fn has_records(notification: &Value) -> bool {
    notification["data"]["reqPaths"].is_array() || notification["data"]["content"][0]["time"].is_number()
}

/// Adds the entries in SenML JSON.
fn with_records(message: Message, content: &Value) -> Message {
    let record = |entry: &Value| {
        let label = if entry["value"].is_string() { "vs" } else { "v" };
        let mut record = json!({ "n": entry["path"], label: entry["value"] });
        if entry["time"].is_number() {
            record["t"] = entry["time"].clone();
        }
        record
    };
    let records: Vec<Value> = content.as_array().expect("entries").iter().map(record).collect();
    with_content(message, format::SENML_JSON, json!(records).to_string().as_bytes())
}

/// An observation that begins has the number 2.
fn observe_number(request: &Message) -> Option<u32> {
    (request.options.uint(number::OBSERVE) == Ok(Some(0))).then_some(2)
}

fn with_content(mut message: Message, content_format: u16, payload: &[u8]) -> Message {
    message.options.add_uint(number::CONTENT_FORMAT, content_format.into());
    message.payload = payload.to_vec();
    message
}

/// Topic and payload of each line in a block that begins with a topic.
fn examples(document: &str) -> impl Iterator<Item = (&str, &str)> {
    let blocks = document.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter(|line| line.starts_with("lwm2m/")).filter_map(|line| line.split_once(' '))
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}
