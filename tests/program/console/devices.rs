//! Devices in the console of the built program.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lwm2m_core::coap::Code;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, exchange, make_token};
use crate::common::broker::TestBroker;
use crate::common::device::Device;
use crate::common::gateway::Gateway;

pub(crate) const LINKS: &str =
    "</>;rt=\"oma.lwm2m\";ct=11542,</1/0>,</3/0>,</3303>;ver=1.1,</3303/0>,</3303/1>,</32000/0>";
const PASSWORD: &str = "planted-password-of-a-device";

/// The program with an embedded broker and a console at a socket.
pub(crate) struct TestConsole {
    pub gateway: Gateway,
    pub broker: TestBroker,
    folder: TempDir,
    pub viewer: String,
    pub limited: String,
}

impl TestConsole {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts it with these lines of configuration.
    pub(crate) async fn start_with(lines: &str) -> Self {
        let broker = TestBroker::start().await;
        let folder = TempDir::new().expect("a folder");
        let ((viewer, line), (limited, other)) =
            (make_token("viewer", &[]), make_token("limited", &["--role", "operator", "--prefix", "b"]));
        fs::write(folder.path().join("tokens"), format!("{line}\n{other}\n")).expect("a place for the tokens");
        let [tokens, socket] = ["tokens", "socket"].map(|name| folder.path().join(name));
        let lines = format!(
            "console.tokens = {tokens:?}\nconsole.bind = \"127.0.0.1:0\"\nconsole.socket = {socket:?}\n\
             log.level = \"debug\"\n{lines}"
        );
        let gateway = Gateway::start_with(&broker.addresses, 1, &lines);
        Self { gateway, broker, folder, viewer, limited }
    }

    /// Returns the path of a file of the console.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Connects to the socket.
    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("socket")).expect("it listens")
    }

    pub(crate) fn register(&self, endpoint: &str, query: &str) -> Device {
        let mut device = Device::new(self.gateway.address());
        device.register(&format!("ep={endpoint}&lt=300&lwm2m=1.1{query}"), LINKS);
        device
    }

    /// Asks as the operator that a process of this machine is.
    pub(crate) fn ask(&self, line: &str) -> Answer {
        self.send(line, &[])
    }

    pub(crate) fn ask_with(&self, token: &str, line: &str) -> Answer {
        self.send(line, &[("Authorization", &format!("Bearer {token}"))])
    }

    pub(crate) fn send(&self, line: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(self.connect(), "localhost", line, headers)
    }
}

fn names(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    let devices = list["devices"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    devices.iter().map(|device| device["endpoint"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_by_page_in_the_order_of_their_names_and_by_what_is_searched() {
    let console = TestConsole::start().await;
    let _devices = ["b2", "a1", "c3", "b1"].map(|endpoint| console.register(endpoint, ""));
    let _sleeper = console.register("b3", "&b=UQ");

    let first = console.ask("GET /api/v1/devices?limit=2");
    assert_eq!(names(&first), ["a1", "b1"]);
    assert_eq!(first.json()["total"], 5);
    let next = first.json()["next"].as_str().expect("more").to_owned();
    let rest = console.ask(&format!("GET /api/v1/devices?cursor={next}"));
    assert_eq!((names(&rest), &rest.json()["next"]), (["b2", "b3", "c3"].map(str::to_owned).to_vec(), &Value::Null));

    for (query, expected) in [
        ("prefix=b", &["b1", "b2", "b3"][..]),
        ("q=3", &["b3", "c3"]),
        ("prefix=b&q=3", &["b3"]),
        ("binding=UQ", &["b3"]),
        ("object=32000&limit=1", &["a1"]),
        ("object=5", &[]),
        ("state=asleep", &[]),
        ("transport=dtls", &[]),
        ("transport=udp&address=127.0.0.1&state=awake&q=a", &["a1"]),
        ("silent=3600", &[]),
        ("waiting=true", &[]),
    ] {
        assert_eq!(names(&console.ask(&format!("GET /api/v1/devices?{query}"))), expected, "{query}");
    }
    for query in ["limit=0", "limit=1001", "cursor=%25", "state=dead", "sort=address", "object=many"] {
        let answer = console.ask(&format!("GET /api/v1/devices?{query}"));
        assert_eq!(answer.problem(), (400, "invalid-request".to_owned()), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_shown_with_its_objects_by_name_and_without_its_password() {
    let console = TestConsole::start().await;
    let _device = console.register("urn:imei:1%2F2", &format!("&imei=123&password={PASSWORD}"));
    let list = console.ask("GET /api/v1/devices");
    let name = names(&list).pop().expect("a device");
    let encoded = name.replace('%', "%25").replace('/', "%2F").replace(':', "%3A");
    let answer = console.ask(&format!("GET /api/v1/devices/{encoded}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let shown = answer.json();
    let expected = json!({ "endpoint": name, "state": "awake", "transport": "udp", "lwm2m": "1.1", "lifetime": 300,
        "waiting": 0, "observations": 0, "alternatePath": "/", "items": { "imei": "123" },
        "inFlight": null, "queue": [],
        "observed": [], "formats": [11542] });
    for (member, value) in expected.as_object().expect("members") {
        assert_eq!(&shown[member], value, "{member} of {shown}");
    }
    assert!(shown["topics"]["command"].as_str().is_some_and(|topic| topic.contains("/dn")), "{shown}");
    let objects = shown["objects"].as_array().expect("objects");
    let temperature = objects.iter().find(|object| object["id"] == 3303).expect("it");
    let expected = json!({ "id": 3303, "version": "1.1", "instances": [0, 1], "name": "Temperature", "defined": true,
        "definition": "1.1" });
    assert_eq!(temperature, &expected);
    let unknown = objects.iter().find(|object| object["id"] == 32000).expect("it");
    assert_eq!((&unknown["defined"], unknown.get("name")), (&json!(false), None));
    for time in ["expires", "registered", "lastHeard"] {
        assert!(shown[time].as_str().is_some_and(|time| time.ends_with('Z')), "{time} of {shown}");
    }
    let all = [&list.body, &answer.body, &console.gateway.output()].map(String::as_str).concat();
    assert!(!all.contains(PASSWORD), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_a_registration_and_the_audit_log_says_who_it_was() {
    let console = TestConsole::start().await;
    let device = console.register("b1", "");
    let refused = console.ask_with(&console.viewer, "DELETE /api/v1/devices/b1");
    assert_eq!(refused.problem(), (403, "not-allowed".to_owned()));
    assert_eq!(console.ask_with(&console.viewer, "GET /api/v1/devices/b1").status, 200);

    assert_eq!(console.ask_with(&console.limited, "DELETE /api/v1/devices/b1").status, 204);

    let gone = (404, "device-not-registered".to_owned());
    assert_eq!(console.ask("GET /api/v1/devices/b1").problem(), gone);
    assert_eq!(console.ask("DELETE /api/v1/devices/b1").problem(), gone);
    assert_eq!(device.deregister().code, Code::NOT_FOUND);

    let entries = console.ask("GET /api/v1/audit").json();
    let entry = |at: usize| {
        let entry = &entries["entries"][at];
        (entry["by"].as_str().expect("a name"), entry["action"].as_str(), entry["result"].as_str().expect("a result"))
    };
    assert!(entry(0).0.starts_with("uid:") && entry(0).2 == "not registered", "{entries}");
    assert_eq!(entry(1), ("limited", Some("kick"), "done"));
    assert_eq!(entries["entries"].as_array().expect("entries").len(), 2);
    let log = console.gateway.output();
    assert!(log.lines().any(|line| line.contains("audit") && line.contains("endpoint=\"b1\"")), "{log}");
    let viewer = console.ask_with(&console.viewer, "GET /api/v1/audit");
    assert_eq!(viewer.problem(), (403, "not-allowed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_prefix_shows_its_devices_and_no_others() {
    let console = TestConsole::start().await;
    let _devices = ["a1", "b1", "b2", "c1"].map(|endpoint| console.register(endpoint, ""));
    let ask = |path: &str| console.ask_with(&console.limited, &format!("GET /api/v1/{path}"));
    assert_eq!(names(&ask("devices")), ["b1", "b2"]);
    assert_eq!(names(&ask("devices?prefix=b2")), ["b2"]);
    assert_eq!(names(&ask("devices?prefix=a")), [""; 0]);
    assert_eq!(ask("devices").json()["total"], 0);
    // The cursor of another answer does not lead out of the prefix.
    let next = console.ask("GET /api/v1/devices?limit=3").json()["next"].as_str().expect("more").to_owned();
    assert_eq!(names(&ask(&format!("devices?cursor={next}"))), [""; 0]);
    assert_eq!(ask("devices/b1").status, 200);
    // Definitions tell nothing of devices.
    assert!(ask("objects").json()["objects"].as_array().is_some_and(|objects| !objects.is_empty()));
    assert_eq!(ask("objects/3303").json()["name"], "Temperature");
    for path in ["devices/a1", "devices/nobody", "overview", "failures", "audit"] {
        assert_eq!(ask(path).problem(), (403, "not-allowed".to_owned()), "{path}");
    }
}
