//! The records of a gateway with a file are imported, and the key that seals records is changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::common::ports::free_address;

const NEW_SEAL: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Runs the program with the configuration of a node, and returns its exit code and what it has printed.
fn run(arguments: &[&str], folder: &Path, lines: &str) -> (Option<i32>, String) {
    let file = folder.join("node.toml");
    let node = "upstream.kind = \"mqtt\"\ncluster.enable = true\ncluster.node = \"gw-9\"\ncluster.cacertfile = \"ca\"\n\
                cluster.certfile = \"node\"\ncluster.keyfile = \"key\"\nlisteners.dtls.secured.bind = \"127.0.0.1:1\"\n";
    fs::write(&file, format!("{node}{lines}")).expect("a place for the configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"));
    let output = command.args(arguments).arg("--config").arg(file).output().expect("the program is built");
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
    let store = single.store();
    let from = format!("--from={}", store.display());
    let import = |options: &[&str]| run(&[&["import", &from], options].concat(), server.folder.path(), &server.lines());

    let (code, said) = import(&[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("another process uses it"), "{said}");
    single.kill();
    let before = fs::read(&store).expect("a file");
    let (code, said) = import(&["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    let rest = "0 pending commands, 1 DTLS sessions, 0 object lists";
    assert!(
        said.contains("in the file: 2 devices, 0 pending commands, 1 DTLS sessions")
            && said.contains("would be imported: 2 devices to")
            && said.contains(rest),
        "{said}"
    );
    assert_eq!(server.ask("DBSIZE"), ":0", "a trial writes nothing");
    let (code, said) = import(&[]);
    assert!(code == Some(0) && said.contains("\nimported: 2 devices to"), "{said}");
    let (code, said) = import(&[]);
    assert!(code == Some(0) && said.contains("imported: 0 devices"), "{said}");
    assert!(
        said.contains("left: 2 devices that are registered in the cluster already") && said.contains("plain-0"),
        "{said}"
    );
    let (code, said) = import(&["--replace"]);
    assert!(code == Some(0) && said.contains("\nimported: 2 devices"), "{said}");
    assert_eq!(fs::read(&store).expect("a file"), before, "the file is not changed");

    let node = Node::start(0, &broker, &server);
    until_within(Duration::from_secs(60), "the node has all shards", || node.shards() == 256.0);
    let (code, said) = import(&["--replace"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the cluster runs: gw-0. Stop all nodes"), "{said}");
    for device in &mut devices {
        device.reaches(&node);
        until("the node serves the device", || device.updates());
    }
    let output = node.gateway.output();
    assert!(!output.contains("device registered") && !output.contains("association established"), "{output}");
    if let Registered::Secured { device, .. } = &devices[1] {
        let numbers = device.numbers();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_that_seals_records_is_changed_while_a_node_runs() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let [old, new] = ["seal", "new-seal"].map(|file| server.folder.path().join(file));
    fs::write(&new, NEW_SEAL).expect("a place for the key");
    let rekey = |keys: &str| {
        let lines: String = server
            .lines()
            .lines()
            .filter(|line| !line.contains("seal_keyfile"))
            .map(|line| format!("{line}\n"))
            .collect();
        run(&["rekey"], server.folder.path(), &(lines + keys))
    };
    let change = format!("store.redis.seal_keyfile = {new:?}\nstore.redis.other_seal_keyfile = {old:?}\n");
    let mut node = Node::start(0, &broker, &server);
    until("the node has all shards", || node.shards() == 256.0);
    let mut devices = [plain(&node, 0), secured(&node, 1)];
    until("both are stored", || server.ask("KEYS lwm2m:ep:*") == "*2");

    let (code, said) = rekey(&format!("store.redis.seal_keyfile = {old:?}\n"));
    assert!(code == Some(1) && said.contains("store.redis.other_seal_keyfile: required"), "{said}");
    let (code, said) = rekey(&change);
    assert!(code == Some(1) && said.contains("the node gw-0 does not know the new key"), "{said}");
    let restart = |node: &mut Node, from: &str, to: &str| {
        node.gateway.kill();
        node.gateway.edit(from, to);
        node.gateway.start_without_waiting_again();
        until("the node has all shards", || node.shards() == 256.0);
    };
    let key = |name: &str, file: &Path| format!("store.redis.{name} = {file:?}\n");
    let knows_both = key("seal_keyfile", &new) + &key("other_seal_keyfile", &old);
    restart(&mut node, &key("seal_keyfile", &old), &knows_both);
    let (code, said) = rekey(&change);
    assert!(code == Some(0) && said.contains("records are sealed anew"), "{said}");
    assert!(devices.iter_mut().all(Registered::updates), "the node serves while the records are sealed anew");
    let (code, said) = rekey(&change);
    assert!(code == Some(0) && said.starts_with("0 records are sealed anew"), "{said}");

    restart(&mut node, &key("other_seal_keyfile", &old), "");
    assert!(devices.iter_mut().all(Registered::updates), "the records are read with the new key alone");
    let output = node.gateway.output();
    assert!(!output.contains("unreadable") && output.matches("device registered").count() == 2, "{output}");
    assert!(!output.contains(NEW_SEAL), "{output}");
    let mut alone = Node::start(1, &broker, &server);
    assert_eq!(alone.gateway.wait().code(), Some(1), "the old key is not accepted any more");
    assert!(alone.gateway.output().contains("sealed with another key"), "{}", alone.gateway.output());
}
