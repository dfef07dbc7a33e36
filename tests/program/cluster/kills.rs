//! Nodes that are killed one after the other and come back, and nodes that join and leave, while their devices speak.

use std::collections::HashMap;
use std::time::Instant;

use super::forwarding::until_settled;
use super::traffic::{Scene, percentile};
use super::*;

/// The interval at which the devices repeat an Update here, so that it is seen when they are served again.
const RETRY: Duration = Duration::from_millis(200);
/// Nobody waits longer for the answer of a node that lives.
const SERVED_BY_THE_LIVING: Duration = Duration::from_secs(2);

/// Kills two of three nodes with short leases. `CLUSTER_KILLS` kills so many, with the leases of the default.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_while_their_devices_speak_and_nobody_registers_again() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let kills: Option<usize> = std::env::var("CLUSTER_KILLS").ok().map(|kills| kills.parse().expect("a number"));
    // A node that has taken a shard does not know the way to its devices before they are heard, unless it is direct.
    let leases = if kills.is_some() { "cluster.linger = \"500ms\"\n" } else { LEASES };
    let mut scene = Scene::start(3, &server.lines(), leases, RETRY).await;
    scene.speak();
    let mut killed = Vec::new();
    for kill in 0..kills.unwrap_or(2) {
        let victim = kill % 3;
        // The balancer lets go of the node at once: what is measured is the cluster.
        scene.let_go(victim, true);
        scene.nodes[victim].gateway.kill();
        killed.push(now());
        let survivors: Vec<&Node> = (0..3).filter(|node| *node != victim).map(|node| &scene.nodes[node]).collect();
        until("the other nodes have all shards", || survivors.iter().map(|node| node.shards()).sum::<f64>() == 256.0);
        scene.nodes[victim].gateway.start_without_waiting_again();
        until_settled(&scene.nodes);
        scene.let_go(victim, false);
    }
    let seen = scene.be_silent();
    let mut takeovers: Vec<Duration> = killed.iter().flat_map(|at| takeovers(&seen, *at)).collect();
    takeovers.sort();
    seen.print("kills");
    assert!(takeovers.len() >= killed.len(), "{} devices of {} killed nodes", takeovers.len(), killed.len());
    println!(
        "{} kills, {} devices were served by another node: p50 {:?}, p99 {:?}, longest {:?}",
        killed.len(),
        takeovers.len(),
        percentile(&takeovers, 50),
        percentile(&takeovers, 99),
        percentile(&takeovers, 100),
    );
    seen.expect_one_form_of_each_answer();
    assert!(percentile(&takeovers, 100) < TAKEOVER);
    scene.expect_registrations_and_handshakes(DEVICES, DEVICES / 2);
}

/// Returns the times from the death of a node until its devices were answered. These are the devices whose Updates
/// around that moment took long.
fn takeovers(seen: &super::traffic::Seen, killed: Instant) -> Vec<Duration> {
    let around = |exchange: &super::traffic::Exchange| {
        exchange.sent < killed + SERVED_BY_THE_LIVING && exchange.answered.is_none_or(|answered| answered > killed)
    };
    let mut longest: HashMap<usize, Duration> = HashMap::new();
    for (number, exchange) in seen.updates().filter(|(_, exchange)| around(exchange)) {
        let Some(answered) = exchange.answered else { continue };
        let longest = longest.entry(number).or_default();
        *longest = (*longest).max(answered - killed);
    }
    longest.into_values().filter(|took| *took > SERVED_BY_THE_LIVING).collect()
}
