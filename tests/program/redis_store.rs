//! The store at a Redis server, with the built program: what it keeps over a kill, and what an absent, emptied or replaced
//! server does. Without Debian's `redis-server` these tests are skipped, but not in CI.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lwm2m_core::coap::Code;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::admin::sum;
use crate::common::broker::TestBroker;
use crate::common::gateway::Gateway;
use crate::common::ports;
use crate::common::scene::ProgramScene;

const SEAL: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

struct RedisServer {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl RedisServer {
    /// Starts a server; `None` where none is installed.
    fn start() -> Option<Self> {
        let folder = TempDir::new().expect("a place for the server");
        let address = ports::free_address();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--requirepass", "ha:ha"])
            .args(["--masterauth", "ha:ha", "--port", &address.port().to_string()])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            assert!(std::env::var_os("CI").is_none(), "CI has redis-server");
            println!("skipped: redis-server is not installed");
            return None;
        };
        std::fs::write(folder.path().join("seal"), SEAL).expect("a place for the key");
        let server = Self { child, address, folder };
        until("the server answers", || TcpStream::connect(address).is_ok());
        Some(server)
    }

    fn lines(&self) -> String {
        self.lines_with(&[self])
    }

    fn lines_with(&self, servers: &[&Self]) -> String {
        let urls: Vec<String> = servers.iter().map(|server| format!("redis://:ha%3Aha@{}", server.address)).collect();
        let seal = self.folder.path().join("seal");
        format!("store.kind = \"redis\"\nstore.redis.urls = {urls:?}\nstore.redis.seal_keyfile = {seal:?}\n")
    }

    /// Sends a command and returns the first line of the answer.
    fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("the option is known");
        write!(stream, "AUTH ha:ha\r\n{command}\r\nQUIT\r\n").expect("the server reads");
        let mut answers = String::new();
        stream.read_to_string(&mut answers).expect("the server answers");
        answers.lines().nth(1).unwrap_or_default().to_owned()
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(done.expect("there is a kill").success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_a_file_keeps_its_devices_over_a_kill() {
    let Some(server) = RedisServer::start() else { return };
    let mut scene = ProgramScene::registered_with("kept", &server.lines()).await;
    scene.gateway.kill();
    assert!(!scene.gateway.store().exists());
    scene.gateway.start_again();
    scene.gateway.wait_for_clients(1.0);
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    scene.nothing_more();
    let output = scene.gateway.output();
    assert!(!output.contains("ha:ha") && !output.contains("ha%3Aha") && !output.contains(SEAL), "{output}");
    let keys = server.ask("KEYS lwm2m:{*}:d");
    assert_eq!(keys, "*1", "one shard has a device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_stops_nobody_and_gets_the_changes_later() {
    let Some(server) = RedisServer::start() else { return };
    let mut scene = ProgramScene::registered_with("still", &server.lines()).await;
    assert_eq!(state(&scene.gateway), ("up".to_owned(), 0.0));
    server.signal("STOP");
    assert_eq!(scene.device.update(&["lt=400"], None).code, Code::CHANGED);
    until("the gateway notices", || state(&scene.gateway) == ("degraded".to_owned(), 1.0));
    assert_eq!(scene.gateway.ask_admin("/readyz").0, 200);
    server.signal("CONT");
    until("the store is written again", || state(&scene.gateway) == ("up".to_owned(), 0.0));
    scene.gateway.kill();
    scene.gateway.start_again();
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_server_is_written_anew() {
    let Some(server) = RedisServer::start() else { return };
    let mut scene = ProgramScene::registered_with("anew", &server.lines()).await;
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    until("all is written again", || server.ask("KEYS lwm2m:{*}:d") == "*1");
    assert_eq!(metric(&scene.gateway, "lwm2m_store_rewrites_total"), 1.0);
    scene.gateway.kill();
    scene.gateway.start_again();
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over() {
    let Some(primary) = RedisServer::start() else { return };
    let Some(replica) = RedisServer::start() else { return };
    let port = primary.address.port();
    assert_eq!(replica.ask(&format!("REPLICAOF 127.0.0.1 {port}")), "+OK");
    let mut scene = ProgramScene::registered_with("replica", &primary.lines_with(&[&primary, &replica])).await;
    until("the replica has the device", || replica.ask("KEYS lwm2m:{*}:d") == "*1");
    primary.signal("KILL");
    assert_eq!(replica.ask("REPLICAOF NO ONE"), "+OK");
    until("all is written again", || metric(&scene.gateway, "lwm2m_store_rewrites_total") == 1.0);
    until("the store is written again", || state(&scene.gateway) == ("up".to_owned(), 0.0));
    scene.gateway.kill();
    scene.gateway.start_again();
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_is_refused_and_one_that_was_replaced_ends() {
    let Some(server) = RedisServer::start() else { return };
    let mut scene = ProgramScene::registered_with("first", &server.lines()).await;
    let lines = format!("listeners.udp.x.bind = \"127.0.0.1:0\"\n{}", server.lines());
    let mut second = Gateway::start_without_waiting(&scene.broker.addresses, &lines);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.output().contains("another gateway uses the store"), "{}", second.output());
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);

    // The third one serves the handler of another broker, while the first one has its own.
    if scene.broker.is_emqx() {
        return;
    }
    let broker = TestBroker::start().await;
    scene.gateway.signal("STOP");
    let mut third = Gateway::start_without_waiting(&broker.addresses, &lines);
    until("the third one serves", || third.output().contains("metrics and health"));
    scene.gateway.signal("CONT");
    assert_eq!(scene.gateway.wait().code(), Some(1));
    assert!(scene.gateway.output().contains("another gateway has taken the store"), "{}", scene.gateway.output());
    assert_eq!(third.stop("TERM").code(), Some(0));
}

/// The state of the store, and whether it is failing by the metrics.
fn state(gateway: &Gateway) -> (String, f64) {
    let readiness: Value = serde_json::from_str(&gateway.ask_admin("/readyz").1).expect("JSON");
    let state = readiness["conditions"]["store"]["state"].as_str().expect("a state").to_owned();
    (state, metric(gateway, "lwm2m_store_failing"))
}

fn metric(gateway: &Gateway, name: &str) -> f64 {
    sum(&gateway.ask_admin("/metrics").1, name)
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        thread::park_timeout(Duration::from_millis(100));
    }
    panic!("never: {what}");
}
