//! The store at a Redis server, with the built program: what it keeps over a kill, and what an absent, emptied or
//! replaced server does. Without Debian's `redis-server` these tests are skipped, but not in CI.

mod failover;
pub(crate) mod server;

use std::thread;
use std::time::Duration;

use lwm2m_core::coap::Code;
use lwm2m_dtls::test_client::credentials::Certified;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::admin::sum;
use crate::common::broker::TestBroker;
use crate::common::device::Device;
use crate::common::gateway::Gateway;
use crate::common::scene::{LINKS, ProgramScene};
use crate::process::check_connect::check;
use lwm2m_testkit::scene::beginning as now;
use server::{RedisServer, SEAL, until};

/// How long the server is away in a test.
const AWAY: Duration = Duration::from_secs(10);
/// The default of `store.patience`.
const PATIENCE_OF_STORE: Duration = Duration::from_millis(500);

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
async fn devices_notice_nothing_while_the_server_stands_still_and_then_it_has_all_changes() {
    let Some(server) = RedisServer::start() else { return };
    let lines = format!("qmode_time_window = \"1ms\"\n{}", server.lines());
    let mut scene = ProgramScene::registered_with("still", &lines).await;
    assert_eq!(state(&scene.gateway), ("up".to_owned(), 0.0));
    server.signal("STOP");
    // Known devices and new ones are served from memory. Before the gateway notices, they wait for `store.patience`.
    assert_eq!(scene.device.update(&["lt=400"], None).code, Code::CHANGED);
    until("the gateway notices", || state(&scene.gateway) == ("degraded".to_owned(), 1.0));
    assert_eq!(scene.gateway.ask_admin("/readyz").0, 200);
    let begin = now();
    let mut count = 0;
    while begin.elapsed() < AWAY {
        let sent = now();
        assert_eq!(scene.device.update(&[&format!("lt={}", 500 + count)], None).code, Code::CHANGED);
        let took = sent.elapsed();
        assert!(took < PATIENCE_OF_STORE, "an Update waited {took:?} for a store that is away");
        count += 1;
        // Not so many that they meet the rate limit of an address.
        thread::park_timeout(Duration::from_millis(100));
    }
    assert!(count > 20, "{count} Updates");
    let mut newcomer = Device::new(scene.gateway.address());
    let sent = now();
    newcomer.register("ep=newcomer&lt=300", LINKS);
    assert!(sent.elapsed() < PATIENCE_OF_STORE, "a Register waited {:?} for a store that is away", sent.elapsed());
    let mut leaver = Device::new(scene.gateway.address());
    leaver.register("ep=leaver&lt=300", LINKS);
    assert_eq!(leaver.deregister().code, Code::DELETED);
    assert!(metric(&scene.gateway, "lwm2m_store_waits_missed_total") > f64::from(count));

    server.signal("CONT");
    until("the store is written again", || state(&scene.gateway) == ("up".to_owned(), 0.0));
    until("the store equals the memory", || stored_devices(&server) == 2);
    scene.gateway.kill();
    scene.gateway.start_again();
    for device in [&scene.device, &newcomer] {
        assert_eq!(device.update(&[], None).code, Code::CHANGED);
    }
    assert_eq!(leaver.update(&[], None).code, Code::NOT_FOUND);
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

#[tokio::test(flavor = "multi_thread")]
async fn check_connect_tells_whether_the_store_can_be_used_and_who_uses_it() {
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    if broker.is_emqx() {
        return;
    }
    let tried = |lines: &str| check(&broker.addresses, "mqtt", lines);
    let (code, said) = tried(&server.lines());
    assert_eq!(code, Some(0), "{said}");
    let address = server.address;
    for line in [
        format!("store: redis://{address}, prefix lwm2m\n"),
        format!("tried: store.redis: redis://{address} is a primary that can be used\n"),
        "tried: store.redis: no gateway uses the store\n".to_owned(),
    ] {
        assert!(said.contains(&line), "{line} is not in\n{said}");
    }
    assert_eq!(server.ask("DBSIZE"), ":0", "it changes nothing");

    let gateway = Gateway::start_with(&broker.addresses, 1, &server.lines());
    let (code, said) = tried(&server.lines());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: store.redis: the gateway ") && said.contains(" uses the store: "), "{said}");
    let other = server.folder.path().join("other-seal");
    std::fs::write(&other, SEAL.replace('0', "1")).expect("a place for the key");
    let (code, said) = tried(&server.lines().replace("/seal", "/other-seal"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed: store.redis.seal_keyfile: the records in the store are sealed with another key"));
    drop(gateway);
    assert_eq!(server.ask("DEL lwm2m:lease"), ":1");

    assert_eq!(server.ask("CONFIG SET appendonly no"), "+OK");
    let (_, said) = tried(&server.lines());
    assert!(said.contains(" writes no append-only file: its restart loses the registrations"), "{said}");
    assert_eq!(server.ask("CONFIG SET maxmemory-policy allkeys-lru"), "+OK");
    let (code, said) = tried(&server.lines());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("maxmemory-policy is allkeys-lru"), "{said}");
    let (code, said) = tried(&server.lines().replace(&address.to_string(), "127.0.0.1:1"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed: store.redis: redis://127.0.0.1:1: Connection refused"), "{said}");
    assert!(!said.contains("ha:ha") && !said.contains("ha%3Aha"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_by_tls_if_its_certificate_is_trusted() {
    let folder = TempDir::new().expect("a folder");
    let ca = Certified::authority("Test CA");
    let (authority, _) = ca.write(folder.path(), "ca");
    let (other_authority, _) = Certified::authority("Other CA").write(folder.path(), "other");
    let (certificate, key) = ca.certify("localhost").write(folder.path(), "server");
    let Some(server) = RedisServer::start_tls(&certificate, &key) else { return };
    let mut scene = ProgramScene::registered_with("by-tls", &server.tls_lines(&authority)).await;
    scene.gateway.kill();
    scene.gateway.start_again();
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    let (code, said) = check(&scene.broker.addresses, "mqtt", &server.tls_lines(&other_authority));
    assert_eq!(code, Some(1), "{said}");
    let begin = format!("failed: store.redis: rediss://localhost:{}: TLS: ", server.address.port());
    assert!(said.contains(&begin), "{said}");
}

/// Returns the number of devices in the store.
pub(crate) fn stored_devices(server: &RedisServer) -> usize {
    let keys = server.ask_all("KEYS lwm2m:{*}:d");
    keys.lines()
        .filter(|line| line.starts_with("lwm2m:"))
        .map(|key| server.ask(&format!("HLEN {key}")))
        .map(|count| count.trim_start_matches(':').parse::<usize>().expect("a number"))
        .sum()
}

/// The state of the store, and whether it is failing by the metrics.
pub(crate) fn state(gateway: &Gateway) -> (String, f64) {
    let readiness: Value = serde_json::from_str(&gateway.ask_admin("/readyz").1).expect("JSON");
    let state = readiness["conditions"]["store"]["state"].as_str().expect("a state").to_owned();
    (state, metric(gateway, "lwm2m_store_failing"))
}

fn metric(gateway: &Gateway, name: &str) -> f64 {
    sum(&gateway.ask_admin("/metrics").1, name)
}
