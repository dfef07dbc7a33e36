//! The records of a gateway with a file are imported, and the key that seals records is changed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::common::ports::free_address;
use lwm2m_core::coap::{Kind, Message};

const NEW_SEAL: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// What makes a configuration that of a node. Its files are not read by these commands.
const NODE: &str = "upstream.kind = \"mqtt\"\ncluster.enable = true\ncluster.node = \"gw-9\"\ncluster.cacertfile = \"ca\"\n\
                    cluster.certfile = \"node\"\ncluster.keyfile = \"key\"\n\
                    listeners.dtls.secured.bind = \"127.0.0.1:1\"\n";

/// Returns the command of the program with this configuration.
fn command(arguments: &[&str], folder: &Path, lines: &str) -> Command {
    let file = folder.join("command.toml");
    fs::write(&file, lines).expect("a place for the configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"));
    command.args(arguments).arg("--config").arg(file);
    command
}

/// Runs the program with this configuration, and returns its exit code and what it has printed.
fn run(arguments: &[&str], folder: &Path, lines: &str) -> (Option<i32>, String) {
    let output = command(arguments, folder, lines).output().expect("the program is built");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
    (output.status.code(), stdout + &stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_a_gateway_with_a_file_are_imported_and_nobody_registers_again() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let place = CredentialsFolder::new(&format!("secured-1:{KEY}\n"));
    let udp = free_address();
    let lines = format!("{}listeners.udp.default.bind = \"{udp}\"\n", place.lines());
    let mut single = Gateway::start_without_waiting(&broker.addresses, &lines);
    single.listeners = vec![udp];
    single.wait_until_it_hears();
    let mut application = Application::connect(&broker.addresses.mqtt, &["plain-0"]);
    let mut devices = [plain_at(udp, 0), secured_at(place.secured, 1)];
    assert_eq!(application.receive().1["msgType"], "register");
    let read = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    application.send("plain-0", &read);
    let Registered::Plain(plain) = &mut devices[0] else { panic!("it is one without DTLS") };
    let asked = plain.receive();
    assert_eq!(path_of(&asked), "/3/0/0");

    let store = single.store();
    let from = format!("--from={}", store.display());
    let lines = format!("{NODE}{}", server.lines());
    let import = |options: &[&str]| run(&[&["import", &from], options].concat(), server.folder.path(), &lines);
    let (code, said) = import(&[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("another process uses it"), "{said}");
    single.kill();
    let before = fs::read(&store).expect("a file");
    an_import_is_refused_while_a_gateway_without_a_cluster_uses_the_store(&broker, &server, import);
    let (code, said) = import(&["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    let rest = "of 256 shards), 1 pending commands, 1 DTLS sessions, 0 object lists";
    assert!(
        said.contains("in the file: 2 devices, 1 pending commands, 1 DTLS sessions")
            && said.contains("would be imported: 2 devices (in ")
            && said.contains(rest),
        "{said}"
    );
    assert_eq!(server.ask("DBSIZE"), ":0", "a trial writes nothing");
    let (code, said) = import(&[]);
    assert!(code == Some(0) && said.contains("\nimported: 2 devices (in ") && said.contains(rest), "{said}");
    let (code, said) = import(&[]);
    assert!(code == Some(0) && said.contains("\nimported: 0 devices (in 0 of 256 shards), 0 pending"), "{said}");
    assert!(said.contains("left: 2 devices that are in the cluster already") && said.contains("plain-0"), "{said}");
    let (code, said) = import(&["--replace"]);
    assert!(code == Some(0) && said.contains("\nimported: 2 devices (in ") && said.contains(rest), "{said}");
    assert_eq!(fs::read(&store).expect("a file"), before, "the file is not changed");

    let node = Node::start(0, &broker, &server);
    until_within(Duration::from_secs(60), "the node has all shards", || node.shards() == 256.0);
    let (code, said) = import(&["--replace"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the cluster runs: gw-0. Stop all nodes"), "{said}");
    let [Registered::Plain(plain), secured] = &mut devices else { panic!("one without DTLS and one with it") };
    // The node does not know the ways to the devices: the command waits until the device is heard.
    plain.reaches(node.gateway.address());
    let update = request(Code::POST, &["rd", &plain.location[1]], &[], None);
    plain.send(&update);
    let heard = received_until_request(plain);
    assert_eq!(heard.0, Some(Code::CHANGED), "the Update is answered");
    assert_eq!((heard.1.id, heard.1.token), (asked.id, asked.token), "the message that the former gateway has sent");
    plain.send(&response_to(&heard.1, Code::CONTENT, Some((0, b"Acme"))));
    application.expect("lwm2m/plain-0/up/resp", &answer(&read, content("/3/0/0", "Acme")));
    secured.reaches(&node);
    until("the node serves the device with its DTLS session", || secured.updates());
    let output = node.gateway.output();
    assert!(!output.contains("device registered") && !output.contains("association established"), "{output}");
    let Registered::Secured { device, .. } = &secured else { panic!("it is one with DTLS") };
    let numbers = device.numbers();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

/// Receives until there is a request. Returns the code of the last answer before it, and the request.
fn received_until_request(device: &Device) -> (Option<Code>, Message) {
    let mut answered = None;
    loop {
        let message = device.receive();
        match message.kind {
            Kind::Confirmable => return (answered, message),
            Kind::Acknowledgement | Kind::NonConfirmable | Kind::Reset => answered = Some(message.code),
        }
    }
}

fn an_import_is_refused_while_a_gateway_without_a_cluster_uses_the_store(
    broker: &TestBroker,
    server: &RedisServer,
    import: impl Fn(&[&str]) -> (Option<i32>, String),
) {
    let udp = free_address();
    let lines = format!("{}listeners.udp.default.bind = \"{udp}\"\n", server.lines());
    let mut other = Gateway::start_without_waiting(&broker.addresses, &lines);
    other.listeners = vec![udp];
    other.wait_until_it_hears();
    for options in [&[][..], &["--dry-run"]] {
        let (code, said) = import(options);
        assert_eq!(code, Some(1));
        assert!(said.contains("uses this store without a cluster. A cluster needs a store of its own"), "{said}");
    }
    assert_eq!(server.ask("DEL lwm2m:about"), ":1");
    let (code, said) = import(&[]);
    assert!(code == Some(1) && said.contains("uses this store without a cluster"), "{said}");
    assert_eq!(other.stop("TERM").code(), Some(0));
    assert_eq!(server.ask("FLUSHALL"), "+OK");
}

/// The lines of a configuration with these keys in the place of the server's.
fn with_keys(server: &RedisServer, sealing: &Path, other: Option<&Path>) -> String {
    let keys = key("seal_keyfile", sealing) + &other.map(|other| key("other_seal_keyfile", other)).unwrap_or_default();
    let own = key("seal_keyfile", &server.folder.path().join("seal"));
    server.lines().replace(&own, &keys)
}

fn key(name: &str, file: &Path) -> String {
    format!("store.redis.{name} = {file:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_that_seals_records_is_changed_while_two_nodes_serve_devices() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let [old, new] = ["seal", "new-seal"].map(|file| server.folder.path().join(file));
    fs::write(&new, NEW_SEAL).expect("a place for the key");
    let rekey = |sealing: &Path, other: Option<&Path>| {
        run(&["rekey"], server.folder.path(), &format!("{NODE}{}", with_keys(&server, sealing, other)))
    };
    let refused = |why: &str| {
        let (code, said) = rekey(&new, Some(&old));
        assert!(code == Some(1) && said.contains(why), "{said}");
    };
    let mut nodes = [0, 1].map(|number| Node::start(number, &broker, &server));
    until_divided(&[&nodes[0], &nodes[1]]);
    let mut devices: Vec<Registered> = (0..DEVICES)
        .map(|number| if number % 2 == 0 { plain(&nodes[0], number) } else { secured(&nodes[1], number) })
        .collect();
    until("all are stored", || server.ask("KEYS lwm2m:ep:*") == format!("*{DEVICES}"));
    let (code, said) = rekey(&old, None);
    assert!(code == Some(1) && said.contains("store.redis.other_seal_keyfile: required"), "{said}");
    refused("the node gw-0 does not know the new key");

    let [only_old, knows_new] =
        [key("seal_keyfile", &old), key("seal_keyfile", &old) + &key("other_seal_keyfile", &new)];
    let [uses_new, only_new] =
        [key("seal_keyfile", &new) + &key("other_seal_keyfile", &old), key("seal_keyfile", &new)];
    let mut early = Node::start(2, &broker, &server);
    restart(&mut early, &only_old, &uses_new);
    assert_eq!(early.gateway.wait().code(), Some(1), "the other nodes could not read what it would write");
    assert!(early.gateway.output().contains("the node gw-0 does not know this key"), "{}", early.gateway.output());
    for node in &mut nodes {
        restart(node, &only_old, &knows_new);
    }
    until_divided(&[&nodes[0], &nodes[1]]);
    refused("still seals with the old key");
    restart(&mut nodes[0], &knows_new, &uses_new);
    until("the first node has announced itself again", || {
        server.ask_all("HGETALL lwm2m:about").contains("seal\r\n$33")
    });
    refused("the node gw-1 still seals with the old key");
    restart(&mut nodes[1], &knows_new, &uses_new);
    until_divided(&[&nodes[0], &nodes[1]]);
    serves(&mut devices, &nodes);

    let change = format!("{NODE}{}", with_keys(&server, &new, Some(&old)));
    interrupt_rekey(&server, &change);
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut updates = 0;
            while !stop.load(Ordering::Relaxed) {
                assert!(devices.iter_mut().all(|device| device.updates_within(PATIENCE)), "the nodes serve meanwhile");
                updates += devices.len();
            }
            (devices, updates)
        })
    };
    let (code, said) = rekey(&new, Some(&old));
    assert!(code == Some(0) && said.contains("records are sealed anew"), "{said}");
    assert!(said.contains("no record needs the old key"), "{said}");
    assert_eq!(server.ask_all("HGET lwm2m:about seal").lines().nth(1), Some("$16"), "one key");
    let (code, said) = rekey(&new, Some(&old));
    assert!(code == Some(0) && said.starts_with("0 records are sealed anew"), "{said}");
    stop.store(true, Ordering::Relaxed);
    let (mut devices, updates) = traffic.join().expect("the devices were served");
    println!("{updates} Updates were answered while the records were sealed anew");

    for node in &mut nodes {
        restart(node, &uses_new, &only_new);
    }
    until_divided(&[&nodes[0], &nodes[1]]);
    serves(&mut devices, &nodes);
    let outputs = nodes.each_ref().map(|node| node.gateway.output()).concat();
    assert!(!outputs.contains("unreadable") && outputs.matches("device registered").count() == DEVICES, "{outputs}");
    assert_eq!(outputs.matches("association established").count(), DEVICES / 2);
    assert!(!outputs.contains(NEW_SEAL) && !said.contains(NEW_SEAL), "no key is told");
    let mut late = Node::start(2, &broker, &server);
    assert_eq!(late.gateway.wait().code(), Some(1), "the old key is not accepted any more");
    assert!(late.gateway.output().contains("sealed with another key"), "{}", late.gateway.output());
}

fn restart(node: &mut Node, from: &str, to: &str) {
    node.gateway.kill();
    node.gateway.edit(from, to);
    node.gateway.start_without_waiting_again();
}

fn serves(devices: &mut [Registered], nodes: &[Node]) {
    for (number, device) in devices.iter_mut().enumerate() {
        device.reaches(&nodes[number % 2]);
        until("the node serves the device", || device.updates());
    }
}

/// Begins to seal the records anew, and kills the program on the way.
fn interrupt_rekey(server: &RedisServer, lines: &str) {
    let mut command = command(&["rekey"], server.folder.path(), lines);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program is built");
    while server.ask("HEXISTS lwm2m:about rekeying") != ":1" {
        assert_eq!(child.try_wait().expect("a child of ours"), None, "it has begun");
    }
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    assert_eq!(server.ask("HGET lwm2m:about seal"), "$33", "both keys are needed still");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_that_seals_records_is_changed_while_a_gateway_without_a_cluster_serves_devices() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let [old, new] = ["seal", "new-seal"].map(|file| server.folder.path().join(file));
    fs::write(&new, NEW_SEAL).expect("a place for the key");
    let udp = free_address();
    let lines = format!("log.level = \"debug\"\n{}listeners.udp.default.bind = \"{udp}\"\n", server.lines());
    let mut gateway = Gateway::start_without_waiting(&broker.addresses, &lines);
    gateway.listeners = vec![udp];
    gateway.wait_until_it_hears();
    let mut device = plain_at(udp, 0);
    let with = |arguments: &[&str], lines: &str| {
        let lines = format!("upstream.kind = \"mqtt\"\nadmin.bind = \"127.0.0.1:0\"\n{lines}");
        run(arguments, server.folder.path(), &lines)
    };
    let change = with_keys(&server, &new, Some(&old));
    let (code, said) = with(&["rekey"], &change);
    assert!(code == Some(1) && said.contains("the gateway ") && said.contains(" does not know the new key"), "{said}");
    let (_, said) = with(&["check", "--connect"], &change);
    assert!(said.contains("store.redis.seal_keyfile: no record is sealed with this key yet"), "{said}");

    gateway.kill();
    gateway.edit(&key("seal_keyfile", &old), &(key("seal_keyfile", &new) + &key("other_seal_keyfile", &old)));
    gateway.start_again();
    until("the gateway serves", || device.updates());
    let (_, said) = with(&["check", "--connect"], &change);
    assert!(said.contains("there may be records that are sealed with this key"), "{said}");
    let stale = format!("{}listeners.udp.default.bind = \"{}\"\n", server.lines(), free_address());
    let mut stale = Gateway::start_without_waiting(&broker.addresses, &stale);
    assert_eq!(stale.wait().code(), Some(1), "a gateway that could not read all records does not start");
    assert!(stale.output().contains("sealed with another key"), "{}", stale.output());
    let (code, said) = with(&["rekey"], &change);
    assert!(code == Some(0) && said.contains("records are sealed anew"), "{said}");
    assert!(device.updates(), "the gateway serves");

    gateway.kill();
    gateway.edit(&key("other_seal_keyfile", &old), "");
    gateway.start_again();
    until("the records are read with the new key alone", || device.updates());
    let output = gateway.output();
    assert!(!output.contains("unreadable") && output.matches("device registered").count() == 1, "{output}");
}
