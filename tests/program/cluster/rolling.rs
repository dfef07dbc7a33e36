//! Nodes that end by SIGTERM and are started again one after the other, as at an upgrade, and nodes that join and leave
//! for good, while their devices speak. Nobody notices it.

use super::forwarding::until_settled;
use super::traffic::{ACK_TIMEOUT, Scene};
use super::*;

/// The time between the signal and the moment at which the balancer lets go of a node, as by its health check.
const HEALTH_CHECK: Duration = Duration::from_secs(1);
/// Longer than that.
const LINGER: &str = "cluster.linger = \"3s\"\nshutdown_timeout = \"60s\"\n";
/// The time in which a node ends, longer than `shutdown_timeout`.
const ENDED: Duration = Duration::from_secs(90);

impl Scene {
    /// Ends a node by SIGTERM, of which the balancer lets go.
    fn end_node(&mut self, victim: usize) {
        let before = ["left the cluster", "no connection"].map(|text| self.logged_by_others(victim, text));
        self.nodes[victim].gateway.signal("TERM");
        let signalled = now();
        thread::park_timeout(HEALTH_CHECK);
        self.let_go(victim, true);
        until_within(ENDED, "the node ends", || self.nodes[victim].gateway.has_ended());
        println!("node {victim} has ended after {:?}", now() - signalled);
        let output = self.nodes[victim].gateway.output();
        assert!(output.contains("all shards were handed over"), "{output}");
        let others = self.nodes.len() - 1;
        until("the others know that it has left", || {
            self.logged_by_others(victim, "left the cluster") == before[0] + others
        });
        assert_eq!(self.logged_by_others(victim, "no connection"), before[1], "it has left properly");
    }

    fn logged_by_others(&self, victim: usize, text: &str) -> usize {
        let others = self.nodes.iter().enumerate().filter(|(number, _)| *number != victim);
        others.map(|(_, node)| node.gateway.output().matches(text).count()).sum()
    }
}

/// Restarts one node. `CLUSTER_ROUNDS` restarts all of them so many times.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_no_retransmission_and_no_notification() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let rounds: Option<usize> = std::env::var("CLUSTER_ROUNDS").ok().map(|rounds| rounds.parse().expect("a number"));
    let victims: Vec<usize> = rounds.map_or(vec![1], |rounds| (0..rounds).flat_map(|_| 0..3).collect());
    let mut scene = Scene::start(3, &server.lines(), &format!("{TIMING}{LINGER}"), ACK_TIMEOUT).await;
    scene.speak();
    for &victim in &victims {
        scene.end_node(victim);
        if rounds.is_some() {
            scene.nodes[victim].gateway.start_without_waiting_again();
            until("the node is ready", || scene.nodes[victim].gateway.ask_admin("/readyz").0 == 200);
            scene.let_go(victim, false);
            until_settled(&scene.nodes);
        }
    }
    let seen = scene.be_silent();
    seen.print(&format!("{} restarts", victims.len()));
    seen.expect_nothing_noticed();
    scene.expect_registrations_and_handshakes(DEVICES, DEVICES / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_a_node_joins_and_another_one_leaves_for_good() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let more = format!("{TIMING}{LINGER}");
    let mut scene = Scene::start(2, &server.lines(), &more, ACK_TIMEOUT).await;
    scene.speak();
    let started = now();
    let third = Node::start_at(2, &scene.broker, &server.lines(), &more);
    until("the third node is ready", || third.gateway.ask_admin("/readyz").0 == 200);
    println!("the third node was ready after {:?}", now() - started);
    scene.join(third);
    until_settled(&scene.nodes);
    println!("the nodes have divided the shards {:?} after the start of the third one", now() - started);

    scene.end_node(0);
    until("the other nodes have all shards", || scene.nodes[1].shards() + scene.nodes[2].shards() == 256.0);
    let seen = scene.be_silent();
    seen.print("a node joined, another one left");
    seen.expect_nothing_noticed();
    scene.expect_registrations_and_handshakes(DEVICES, DEVICES / 2);
}
