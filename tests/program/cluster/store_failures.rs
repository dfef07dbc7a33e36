//! The store of a cluster is away, is emptied, or fails over without its last second, while the devices of three nodes
//! speak. `CLUSTER_FAULTS` repeats the faults.

use super::traffic::{ACK_TIMEOUT, Scene};
use super::*;
use crate::store::redis_store::{state, stored_devices};

/// The time for which the store is away.
const AWAY: Duration = Duration::from_secs(10);
/// The time of which a failover loses all writes, longer than what the gateway believes to be written.
const LOST: Duration = Duration::from_millis(1_500);

fn rounds() -> usize {
    std::env::var("CLUSTER_FAULTS").map_or(1, |rounds| rounds.parse().expect("a number"))
}

impl Scene {
    /// Waits until all nodes are sure of their leases, and all that they know is written.
    fn until_store_is_written(&self, server: &RedisServer, devices: usize) {
        let is_sure = |node: &Node| node.metric("lwm2m_store_contact{state=\"sure\"}") == 1.0;
        until("the nodes are sure of their leases", || self.nodes.iter().all(is_sure));
        let is_written = |node: &Node| state(&node.gateway) == ("up".to_owned(), 0.0);
        until("the nodes can write the store", || self.nodes.iter().all(is_written));
        until("the store has all devices", || stored_devices(server) == devices);
    }

    /// Ends the traffic, of which nobody has noticed a fault, and kills a node: its devices are those of the store.
    fn expect_nothing_noticed_and_all_stored(mut self, what: &str, registrations: usize) {
        let mut seen = self.be_silent();
        seen.print(what);
        let lost = self.sum("lwm2m_shard_moves_total{reason=\"lost\"}");
        seen.expect_nothing_noticed();
        assert_eq!(lost, 0.0, "shards that were lost");

        self.nodes[0].gateway.kill();
        self.let_go(0, true);
        let killed = now();
        for device in &mut seen.devices {
            while !device.updates() {
                assert!(now() - killed < TAKEOVER, "a device of the killed node is not served");
            }
        }
        self.expect_registrations_and_handshakes(registrations, DEVICES / 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_the_store_is_away_or_emptied() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let mut scene = Scene::start(3, &server.lines(), LEASES, ACK_TIMEOUT).await;
    scene.speak();
    for round in 1..=rounds() {
        server.signal("STOP");
        let stopped = now();
        let is_without = |node: &Node| node.metric("lwm2m_store_contact{state=\"all_without\"}") == 1.0;
        until("the nodes know that none reaches the store", || scene.nodes.iter().all(is_without));
        thread::park_timeout(AWAY.saturating_sub(now() - stopped));
        server.signal("CONT");
        scene.until_store_is_written(&server, DEVICES);

        assert_eq!(server.ask("FLUSHALL"), "+OK");
        until("all nodes write their records again", || {
            scene.nodes.iter().all(|node| node.metric("lwm2m_store_rewrites_total") >= round as f64)
        });
        scene.until_store_is_written(&server, DEVICES);
    }
    scene.expect_nothing_noticed_and_all_stored("the store was away and emptied", DEVICES);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_a_failover_of_a_killed_primary_that_loses_the_last_second() {
    fails_over("KILL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_a_failover_of_a_stopped_primary_that_comes_back() {
    fails_over("STOP").await;
}

/// The primary gets this signal while its replica lags.
async fn fails_over(signal: &str) {
    Upstream::Mqtt.choose();
    let Some(primary) = RedisServer::start() else { return };
    let port = primary.address.port().to_string();
    let Some(replica) = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]) else { return };
    let Some(sentinel) = RedisServer::start_sentinel(&primary) else { return };
    let mut scene = Scene::start(3, &sentinel.sentinel_lines(), LEASES, ACK_TIMEOUT).await;
    scene.speak();
    until("the replica has the devices", || stored_devices(&replica) == DEVICES);
    until("the Sentinel knows the replica", || {
        sentinel.ask_all("SENTINEL REPLICAS mymaster").contains(&replica.address.port().to_string())
    });

    // From now on the replica gets nothing more: what comes is lost.
    assert_eq!(replica.ask("CONFIG SET masterauth wrong"), "+OK");
    assert_eq!(primary.ask("CLIENT KILL TYPE replica"), ":1");
    let mut lost = Device::new(scene.nodes[1].gateway.address());
    lost.register("ep=lost&lt=300", LINKS);
    thread::park_timeout(LOST);
    assert_eq!([stored_devices(&primary), stored_devices(&replica)], [DEVICES + 1, DEVICES]);
    primary.signal(signal);
    until("the replica is the primary", || replica.ask_all("INFO replication").contains("role:master"));
    until("all nodes write their records again", || {
        scene.nodes.iter().all(|node| node.metric("lwm2m_store_rewrites_total") >= 1.0)
    });
    scene.until_store_is_written(&replica, DEVICES + 1);
    if signal == "STOP" {
        primary.signal("CONT");
        until("the former primary is a replica", || primary.ask_all("INFO replication").contains("role:slave"));
        scene.until_store_is_written(&replica, DEVICES + 1);
    }
    assert_eq!(lost.deregister().code, Code::DELETED);
    scene.expect_nothing_noticed_and_all_stored(&format!("the primary of the store got {signal}"), DEVICES + 1);
}
