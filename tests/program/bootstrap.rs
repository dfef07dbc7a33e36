//! The bootstrap server of the built program: its files, their reload, what `check` says, and keys that hold at once
//! and after a restart.

use std::fs;
use std::net::SocketAddr;
#[cfg(feature = "console")]
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lwm2m_core::bootstrap::file::{AccountFile, AccountReading};
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_testkit::scene::{model, path_of, reply};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::embedded_broker::application::MqttClient;
use crate::common::application::{Application, answer, done};
use crate::common::broker::{TestBroker, Upstream};
use crate::common::device::{Device, PATIENCE, request};
use crate::common::gateway::Gateway;
use crate::common::ports;
use crate::common::program::Program;
use crate::common::scene::LINKS;
#[cfg(feature = "console")]
use crate::console::{exchange, make_token};
use crate::dtls_devices::program::SecuredDevice;

const BOOTSTRAP_KEY: &str = "planted-key-of-a-bootstrap-account";
/// The secret of a given account, and its bytes as text.
const GIVEN: &str = "706c616e7465642d676976656e2d6b65";
const GIVEN_TEXT: &str = "planted-given-ke";

const GENERATING: &str = r#"
[[account]]
match = "lab-*"
  [[account.server]]
  short_server_id = 101
  uri = "coaps://127.0.0.1:5684"
  security = "psk"
  identity = "${endpoint_name}"
  secret = "generate"
"#;

/// The files of a gateway with a listener for bootstrap and one for registrations.
struct BootstrapFolder {
    folder: TempDir,
    bootstrap: SocketAddr,
    registration: SocketAddr,
}

impl BootstrapFolder {
    fn new(accounts: &str) -> Self {
        let folder = TempDir::new().expect("a place for the files");
        let place = Self { folder, bootstrap: ports::free_address(), registration: ports::free_address() };
        place.write("accounts.toml", accounts);
        place.write("bootstrap.psk", &format!("lab-1:{BOOTSTRAP_KEY}\n"));
        place
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).expect("a place for the files");
    }

    fn lines(&self) -> String {
        let path = |name: &str| self.folder.path().join(name);
        format!(
            "watch_interval = \"100ms\"\nlog.level = \"trace\"\nbootstrap.enable = true\nbootstrap.accounts = {:?}\n\
             bootstrap.psk_file = {:?}\nlisteners.dtls.bootstrap.bind = \"{}\"\nlisteners.dtls.bootstrap.role = \
             \"bootstrap\"\nlisteners.dtls.secured.bind = \"{}\"\nlisteners.dtls.secured.role = \"registration\"\n",
            path("accounts.toml"),
            path("bootstrap.psk"),
            self.bootstrap,
            self.registration,
        )
    }

    fn check(&self, lines: &str) -> (bool, String) {
        self.write("gateway.toml", lines);
        let arguments = ["check", "--config", "gateway.toml"];
        let output = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("the program is built");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).expect("text"))
    }
}

/// Asks for a session and obeys to its end. Returns what was written, by path.
fn bootstrap(device: &mut SecuredDevice, query: &str) -> Vec<(String, Vec<u8>)> {
    let answer = device.ask(&request(Code::POST, &["bs"], &[query], None));
    assert_eq!(answer.code, Code::CHANGED, "{:?}", String::from_utf8_lossy(&answer.payload));
    let mut written = Vec::new();
    loop {
        let request = device.receive();
        let code = match request.code {
            Code::GET => Code::CONTENT,
            Code::DELETE => Code::DELETED,
            _ => Code::CHANGED,
        };
        let mut answer = Message { kind: Kind::Acknowledgement, code, ..reply(&request) };
        if request.code == Code::GET {
            answer.payload = b"</>;lwm2m=1.1,</0/0>,</1>,</3/0>".to_vec();
        }
        device.send(&answer);
        let path = path_of(&request);
        if path == "/bs" {
            return written;
        }
        if request.code == Code::PUT {
            written.push((path, request.payload));
        }
    }
}

/// Returns the key of 16 bytes in the TLV of an instance of the object 0.
fn key_in(written: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (_, security) = written.iter().find(|(path, _)| path == "/0/1").expect("the object 0");
    let at = security.windows(3).position(|part| part == b"\xc8\x05\x10").expect("a key");
    security[at + 3..at + 19].to_vec()
}

/// Waits until the output of the program has this text.
fn wait_for(text: &str, output: impl Fn() -> String) {
    let is_there = || {
        let is_there = output().contains(text);
        if !is_there {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        is_there
    };
    assert!((0..400).any(|_| is_there()), "{text} is not in:\n{}", output());
}

fn register(device: &mut SecuredDevice, endpoint: &str) -> Code {
    device.ask(&request(Code::POST, &["rd"], &[&format!("ep={endpoint}"), "lt=300", "lwm2m=1.1"], None)).code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_given_a_key_registers_with_it_and_neither_is_lost_at_a_restart() {
    let place = BootstrapFolder::new(GENERATING);
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &place.lines());
    let connect = |key: &[u8], at| SecuredDevice::connect(at, "lab-1", key, PATIENCE).expect("the key holds");
    let key = key_in(&bootstrap(&mut connect(BOOTSTRAP_KEY.as_bytes(), place.bootstrap), "ep=lab-1"));
    assert_eq!(register(&mut connect(&key, place.registration), "lab-1"), Code::CREATED);
    let moment = Duration::from_millis(500);
    assert!(SecuredDevice::connect(place.registration, "lab-1", BOOTSTRAP_KEY.as_bytes(), moment).is_none());
    tokio::time::sleep(moment).await;

    gateway.kill();
    gateway.start_again();
    assert_eq!(register(&mut connect(&key, place.registration), "lab-1"), Code::CREATED);
    let again = key_in(&bootstrap(&mut connect(BOOTSTRAP_KEY.as_bytes(), place.bootstrap), "ep=lab-1"));
    assert_eq!(again, key);

    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(gateway.store()).expect("the store").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_, metrics) = gateway.ask_admin("/metrics");
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in [hex.as_str(), &format!("{key:?}"), BOOTSTRAP_KEY] {
        assert!(!gateway.output().contains(secret) && !metrics.contains(secret), "{}", gateway.output());
    }
    for line in ["bootstrap started", "bootstrap finished"] {
        assert!(gateway.output().contains(line), "{}", gateway.output());
    }
    assert!(metrics.contains("lwm2m_bootstrap_sessions_finished_total 1"), "{metrics}");
}

/// An operator removes the generated key of a device, with the command line and with the API.
#[cfg(feature = "console")]
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_ends_its_sessions_holds_no_longer_and_is_gone_after_a_kill() {
    let place = BootstrapFolder::new(GENERATING);
    let socket = place.folder.path().join("console.sock");
    let (viewer, viewer_line) = make_token("viewer", &[]);
    let (limited, limited_line) = make_token("limited", &["--role", "operator", "--prefix", "lab-"]);
    place.write("tokens", &format!("{viewer_line}\n{limited_line}\n"));
    let tokens = place.folder.path().join("tokens");
    let console = format!("console.socket = {socket:?}\nconsole.tokens = {tokens:?}\nconsole.bind = \"127.0.0.1:0\"\n");
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &format!("{}{console}", place.lines()));
    let moment = Duration::from_millis(500);
    let connect = |key: &[u8], at| SecuredDevice::connect(at, "lab-1", key, PATIENCE).expect("the key holds");
    let mut of_bootstrap = connect(BOOTSTRAP_KEY.as_bytes(), place.bootstrap);
    let key = key_in(&bootstrap(&mut of_bootstrap, "ep=lab-1"));
    let mut device = connect(&key, place.registration);
    assert_eq!(register(&mut device, "lab-1"), Code::CREATED);

    let remove = |identity: &str, headers: &[(&str, &str)]| {
        let line = format!("DELETE /api/v1/generated-keys/{identity}");
        exchange(UnixStream::connect(&socket).expect("it listens"), "localhost", &line, headers)
    };
    for token in [viewer, limited] {
        let refused = remove("lab-1", &[("Authorization", &format!("Bearer {token}"))]);
        assert_eq!(refused.problem(), (403, "not-allowed".to_owned()));
    }
    assert_eq!(remove("lab-2", &[]).problem(), (404, "no-such-key".to_owned()));
    assert_eq!(remove("%00", &[]).problem(), (400, "invalid-request".to_owned()));
    assert_eq!(register(&mut device, "lab-1"), Code::CREATED, "the key holds still");

    let remove_key = |identity: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(["remove-key", identity, "--yes", "--at", &format!("unix:{}", socket.display())])
            .output()
            .expect("the program is built");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    assert_eq!(remove_key("lab-1"), (Some(0), "the generated key of lab-1 is removed\n".to_owned()));
    let unknown = "lwm2m-gateway: There is no such generated key: no key was generated for the identity \"lab-1\"\n";
    assert_eq!(remove_key("lab-1"), (Some(1), unknown.to_owned()));

    device.send(&request(Code::POST, &["rd"], &["ep=lab-1", "lt=300", "lwm2m=1.1"], None));
    assert!(device.hears_nothing(moment), "its DTLS session has ended");
    assert!(SecuredDevice::connect(place.registration, "lab-1", &key, moment).is_none());
    let audited = exchange(UnixStream::connect(&socket).expect("it listens"), "localhost", "GET /api/v1/audit", &[]);
    let audited = audited.json();
    let results: Vec<_> =
        audited["entries"].as_array().expect("entries").iter().map(|entry| &entry["result"]).collect();
    assert_eq!(results, ["no such key", "done", "no such key"], "{audited}");
    assert_eq!(
        (&audited["entries"][1]["action"], &audited["entries"][1]["endpoint"]),
        (&json!("remove-key"), &json!("lab-1"))
    );
    assert!(
        gateway.output().contains("generated key removed by an operator identity=\"lab-1\""),
        "{}",
        gateway.output()
    );
    let (_, metrics) = gateway.ask_admin("/metrics");
    assert!(metrics.contains("lwm2m_bootstrap_keys_removed_total 1"), "{metrics}");

    gateway.kill();
    gateway.start_again();
    assert!(SecuredDevice::connect(place.registration, "lab-1", &key, moment).is_none());
    let next = key_in(&bootstrap(&mut connect(BOOTSTRAP_KEY.as_bytes(), place.bootstrap), "ep=lab-1"));
    assert_ne!(next, key);
    assert_eq!(register(&mut connect(&next, place.registration), "lab-1"), Code::CREATED);
}

/// An application publishes an account, and hears how the session of the device has ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_an_application_publishes_is_given_to_the_device() {
    Upstream::Mqtt.choose();
    let broker = TestBroker::start().await;
    let gateway = Gateway::start_with(&broker.addresses, 1, "bootstrap.enable = true\nbootstrap.mqtt = true\n");
    let mut application = MqttClient::connect(&broker.addresses.mqtt, "application-of-bootstrap").await;
    application.subscribe("lwm2m-bootstrap/mq-1/status", 1).await;
    let account = json!({ "server": [{ "short_server_id": 7, "uri": "coap://gw.example.com", "lifetime": "1h" }] });
    application.publish_retained("lwm2m-bootstrap/mq-1/account", account.to_string().as_bytes()).await;
    wait_for("bootstrap account received", || gateway.output());

    let device = Device::new(gateway.address());
    let asked = request(Code::POST, &["bs"], &["ep=mq-1"], None);
    assert_eq!(device.request(&asked).code, Code::CHANGED);
    for (step, code) in [
        ("", Code::NOT_FOUND),
        ("/0", Code::DELETED),
        ("/1", Code::DELETED),
        ("/0/1", Code::CHANGED),
        ("/1/0", Code::CHANGED),
        ("/bs", Code::NOT_ACCEPTABLE),
    ] {
        let request = device.receive();
        assert_eq!(path_of(&request), step);
        device.answer(&request, code, None);
    }
    let status = application.message().await;
    let status: Value = serde_json::from_slice(&status.payload).expect("JSON");
    let failed = json!({
        "ep": "mq-1", "result": "failed", "step": "POST /bs", "code": "4.06",
        "reason": "the device found the account inconsistent",
    });
    assert_eq!(status, json!({ "msgType": "bootstrap", "data": failed }));
}

/// A device executes the bootstrap trigger; the gateway is killed before the device asks for bootstrap.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_the_command_bootstrap_outlives_a_kill() {
    let open = "[[account]]\nmatch = \"*\"\n[[account.server]]\nshort_server_id = 101\nuri = \"coap://127.0.0.1\"\n";
    let place = BootstrapFolder::new(open);
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &place.lines());
    let mut application = Application::connect(&broker.addresses.mqtt, &["lab-9"]);
    let mut device = Device::new(gateway.address());
    device.register("ep=lab-9&lt=300&lwm2m=1.1", LINKS);
    assert_eq!(application.receive().1["msgType"], "register");
    gateway.wait_for_clients(1.0);

    let command = json!({ "reqID": 7, "msgType": "bootstrap", "data": { "path": "/1/0/9" } });
    application.send("lab-9", &command);
    let execute = device.expect_request(Code::POST, "/1/0/9");
    device.answer(&execute, Code::CHANGED, None);
    application.expect("lwm2m/lab-9/up/resp", &json!({ "reqID": 7, "msgType": "ack" }));
    tokio::time::sleep(Duration::from_millis(500)).await;
    gateway.kill();
    gateway.start_again();

    let asked = request(Code::POST, &["bs"], &["ep=lab-9"], None);
    assert_eq!(device.request(&asked).code, Code::CHANGED);
    loop {
        let request = device.receive();
        let code = match request.code {
            Code::GET => Code::NOT_FOUND,
            Code::DELETE => Code::DELETED,
            _ => Code::CHANGED,
        };
        device.answer(&request, code, None);
        if path_of(&request) == "/bs" {
            break;
        }
    }
    application.expect("lwm2m/lab-9/up/resp", &answer(&command, done("/1/0/9", "2.04", "changed")));
}

/// One listener serves registrations and bootstrap: each key is good for one of them, and a reload changes which.
#[tokio::test(flavor = "multi_thread")]
async fn at_a_shared_listener_each_key_is_of_one_kind_also_after_a_reload() {
    let place = BootstrapFolder::new(GENERATING);
    let bootstrap_keys = format!("bs-lab-1:{BOOTSTRAP_KEY}\nbs-field-1:{BOOTSTRAP_KEY}\n");
    place.write("bootstrap.psk", &bootstrap_keys);
    place.write("keys.psk", "field-1:key-of-a-registration\n");
    let shared = place.registration;
    let lines = place.lines().replace("role = \"registration\"", "role = \"all\"");
    let keys = place.folder.path().join("keys.psk");
    let lines = format!("{lines}bootstrap.identity = \"bs-${{endpoint_name}}\"\ndtls.psk_file = {keys:?}\n");
    let broker = TestBroker::start().await;
    let gateway = Gateway::start_with(&broker.addresses, 1, &lines);
    let wait_for = |text: &str| wait_for(text, || gateway.output());
    let moment = Duration::from_millis(500);
    let connect = |identity, key: &[u8]| SecuredDevice::connect(shared, identity, key, PATIENCE);
    let mut of_bootstrap = connect("bs-lab-1", BOOTSTRAP_KEY.as_bytes()).expect("a key for bootstrap");
    let key = key_in(&bootstrap(&mut of_bootstrap, "ep=lab-1"));
    assert_eq!(register(&mut of_bootstrap, "lab-1"), Code::FORBIDDEN);

    let mut generated = connect("lab-1", &key).expect("the generated key");
    let mut of_file = connect("field-1", b"key-of-a-registration").expect("a key for registrations");
    for (device, endpoint) in [(&mut generated, "lab-1"), (&mut of_file, "field-1")] {
        assert_eq!(register(device, endpoint), Code::CREATED);
        for (method, path, accept) in [(Code::POST, "bs", None), (Code::GET, "bspack", Some(112))] {
            let mut asked = request(method, &[path], &[&format!("ep={endpoint}")], None);
            if let Some(accept) = accept {
                asked.options.add_uint(number::ACCEPT, accept);
            }
            assert_eq!(device.ask(&asked).code, Code::BAD_REQUEST, "{path} of {endpoint}");
        }
    }

    // The identity of the generated key is for bootstrap from now on.
    place.write("bootstrap.psk", &format!("{bootstrap_keys}lab-1:{BOOTSTRAP_KEY}\n"));
    wait_for("pre-shared keys of bootstrap accounts reloaded");
    let has_ended = (0..400).any(|_| {
        let has_ended = SecuredDevice::connect(shared, "lab-1", &key, moment).is_none();
        if !has_ended {
            thread::park_timeout(Duration::from_millis(50));
        }
        has_ended
    });
    assert!(has_ended, "the generated key ends here");
    let mut changed = connect("lab-1", BOOTSTRAP_KEY.as_bytes()).expect("a key for bootstrap");
    assert_eq!(register(&mut changed, "lab-1"), Code::FORBIDDEN);
    assert_eq!(register(&mut of_file, "field-1"), Code::CREATED, "its key is as before");

    // An identity in both files is refused, and the former keys stay.
    place.write("keys.psk", "field-1:key-of-a-registration\nbs-lab-1:another\n");
    wait_for("has a key in dtls.psk_file and in bootstrap.psk_file");
    assert!(SecuredDevice::connect(shared, "bs-lab-1", b"another", moment).is_none());
    assert!(connect("bs-lab-1", BOOTSTRAP_KEY.as_bytes()).is_some());
}

#[test]
fn accounts_are_reloaded_and_bad_ones_leave_the_former_in_force() {
    let place = BootstrapFolder::new(GENERATING);
    let handler = ports::free_address();
    let admin = format!(
        "admin.bind = \"127.0.0.1:0\"\nstore.file = \"store.redb\"\nupstream.exproto.handler_bind = \"{handler}\"\n"
    );
    place.write("gateway.toml", &format!("{admin}{}listeners.udp.default.bind = \"127.0.0.1:0\"\n", place.lines()));
    let program = Program::start(place.folder.path(), &["run", "--config", "gateway.toml"]);
    let wait_for = |text: &str| wait_for(text, || program.output());
    let connect = |identity, key: &str| SecuredDevice::connect(place.bootstrap, identity, key.as_bytes(), PATIENCE);
    let ask = |identity, key, endpoint: &str| {
        let mut device = connect(identity, key).expect("the key holds");
        device.ask(&request(Code::POST, &["bs"], &[&format!("ep={endpoint}")], None)).code
    };
    assert_eq!(ask("lab-1", BOOTSTRAP_KEY, "lab-1"), Code::CHANGED);
    place.write("bootstrap.psk", &format!("lab-1:{BOOTSTRAP_KEY}\nfield-1:{BOOTSTRAP_KEY}\n"));
    wait_for("pre-shared keys of bootstrap accounts reloaded");
    assert_eq!(ask("field-1", BOOTSTRAP_KEY, "field-1"), Code::BAD_REQUEST);

    let given = GENERATING.replace("lab-*", "field-*").replace("generate", &format!("hex:{GIVEN}"));
    place.write("accounts.toml", &format!("{GENERATING}{}", given.replace("uri = \"coaps", "uri = \"coap")));
    wait_for("the scheme \\\"coap\\\" does not fit security \\\"psk\\\"");
    assert_eq!(ask("lab-1", BOOTSTRAP_KEY, "lab-1"), Code::CHANGED);
    assert_eq!(ask("field-1", BOOTSTRAP_KEY, "field-1"), Code::BAD_REQUEST);

    place.write("accounts.toml", &format!("{GENERATING}{given}"));
    wait_for("bootstrap accounts reloaded accounts=2");
    let written = bootstrap(&mut connect("field-1", BOOTSTRAP_KEY).expect("the key holds"), "ep=field-1");
    assert_eq!(key_in(&written), GIVEN_TEXT.as_bytes());
    for secret in [GIVEN, GIVEN_TEXT, BOOTSTRAP_KEY] {
        assert!(!program.output().contains(secret), "{}", program.output());
    }
}

#[test]
fn check_says_what_each_pattern_would_be_given_and_no_secret() {
    let given = GENERATING.replace("lab-*", "field-*").replace("generate", &format!("hex:{GIVEN}"));
    let place = BootstrapFolder::new(&format!("{GENERATING}{given}"));
    let (is_valid, said) = place.check(&place.lines());
    assert!(is_valid, "{said}");
    let server = "server 101 at coaps://127.0.0.1:5684, lifetime 1day, binding U, security psk";
    for expected in [
        "bootstrap: lab-*: deletes /0 /1, writes the device's format or TLV",
        &format!("bootstrap: lab-*: {server}, identity ${{endpoint_name}}, a key for each"),
        &format!("bootstrap: field-*: {server}, identity ${{endpoint_name}}, a key for all"),
        "warning: bootstrap: field-*: all devices get the same key",
        "bootstrap: 2 accounts, 1 keys, OK",
        "bootstrap only",
    ] {
        assert!(said.contains(expected), "{expected}:\n{said}");
    }
    assert!(![GIVEN, GIVEN_TEXT, BOOTSTRAP_KEY].iter().any(|secret| said.contains(secret)), "{said}");

    let plain = GENERATING.replace("match = \"lab-*\"", "match = \"lab-*\"\nallow_plaintext = true");
    place.write("accounts.toml", &plain);
    let (is_valid, said) = place.check(&place.lines());
    let warned = "warning: bootstrap: lab-*: allow_plaintext sends secrets without encryption";
    assert!(is_valid && said.contains(warned), "{said}");

    place.write("accounts.toml", &GENERATING.replace("generate", "hex:planted"));
    let (is_valid, said) = place.check(&place.lines());
    assert!(!is_valid && said.contains("server 1, secret: expected hexadecimal digits"), "{said}");
    place.write(
        "accounts.toml",
        &GENERATING.replace("\"coaps://127.0.0.1:5684\"", "\"coaps://gw\"\n  pmin = \"planted\""),
    );
    let (is_valid, said) = place.check(&place.lines());
    assert!(!is_valid && said.contains("line 7") && !said.contains("planted"), "{said}");
    place.write("accounts.toml", &GENERATING.replace("short_server_id = 101", "short_server_id = \"planted\""));
    let (is_valid, said) = place.check(&place.lines());
    assert!(!is_valid && said.contains("invalid value, expected u16") && !said.contains("planted"), "{said}");
    place.write("accounts.toml", "[[account]]\nsecret = \"planted\n");
    let (is_valid, said) = place.check(&place.lines());
    assert!(!is_valid && said.contains("line 2") && !said.contains("planted"), "{said}");
}

#[test]
fn check_refuses_an_identity_of_both_kinds_where_a_listener_serves_both() {
    let place = BootstrapFolder::new(GENERATING);
    let shared = place.lines().replace("role = \"bootstrap\"", "role = \"all\"");
    let (is_valid, said) = place.check(&shared);
    assert!(!is_valid && said.contains("\"lab-1\" is in bootstrap.psk_file and is given to devices"), "{said}");

    place.write("keys.psk", "lab-1:another\n");
    let keys = format!("{shared}dtls.psk_file = \"keys.psk\"\n");
    let (is_valid, said) = place.check(&keys);
    assert!(!is_valid && said.contains("\"lab-1\" has a key in both dtls.psk_file and bootstrap.psk_file"), "{said}");
    let (is_valid, said) = place.check(&keys.replace("role = \"all\"", "role = \"bootstrap\""));
    assert!(is_valid, "{said}");
}

/// The first device of the demonstration has no server: it is given one.
#[test]
fn the_demonstration_shows_a_device_that_is_given_its_server() {
    let folder = TempDir::new().expect("a place for the files");
    let config = format!(
        "xml_dir = \"{}/xml\"\nadmin.enable = false\nlisteners.udp.default.bind = \"127.0.0.1:0\"\n\
         embedded.mqtt = \"127.0.0.1:0\"\nembedded.listener = \"127.0.0.1:0\"\nembedded.adapter = \"127.0.0.1:0\"\n\
         upstream.exproto.handler_bind = \"{}\"\n",
        env!("CARGO_MANIFEST_DIR"),
        ports::free_address(),
    );
    fs::write(folder.path().join("gateway.toml"), config).expect("a place for the files");
    let output = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
        .args(["demo", "--once", "--bootstrap", "--config", "gateway.toml"])
        .current_dir(folder.path())
        .output()
        .expect("the program is built");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    assert!(output.status.success(), "{said}");
    for expected in [
        "PUT /0/1, answered 2.04",
        "was given the server 101 at coap://127.0.0.1:",
        "registered, as /rd/",
        // The demonstration of a firmware update.
        "demo-2.5.0.bin",
        "downloading",
        "verifying",
        "succeeded",
    ] {
        assert!(said.contains(expected), "{expected}:\n{said}");
    }
}

/// `docs/bootstrap.md` shows a file of accounts.
#[test]
fn the_accounts_in_the_documentation_are_taken() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bootstrap.md")).expect("the page");
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut shown = 0;
    for block in blocks.filter(|block| block.contains("account.") || block.contains("[[account]]")) {
        // An object belongs to the account above it.
        let account = &GENERATING.replace("lab-*", "*");
        let whole = if block.contains("[[account]]") { block.to_owned() } else { format!("{account}{block}") };
        let file: AccountFile = toml::from_str(&whole).expect("TOML");
        let reading = AccountReading { model: &model(), read_file: None };
        file.read(reading).unwrap_or_else(|error| panic!("{whole}: {error}"));
        shown += 1;
    }
    assert_eq!(shown, 2);
}
