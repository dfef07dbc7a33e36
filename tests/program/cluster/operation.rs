//! What operators see of a cluster and order: `cluster status`, `cluster drain`, and where a device is.

use std::fs;
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use tempfile::TempDir;

use super::forwarding::until_settled;
use super::*;
use crate::common::ports::free_address;
use crate::console::remote_commands::stub::{Run, program};
use crate::console::{Answer, exchange, make_token};

/// A node whose console other machines reach.
struct WatchedNode {
    node: Node,
    console: SocketAddr,
    token: String,
    _tokens: TempDir,
}

impl WatchedNode {
    fn start(number: usize, broker: &TestBroker, server: &RedisServer) -> Self {
        let (tokens, console) = (TempDir::new().expect("a folder"), free_address());
        let (token, line) = make_token("people", &["--role", "operator"]);
        let file = tokens.path().join("tokens");
        fs::write(&file, line).expect("a place for the tokens");
        let lines = format!("{LEASES}console.tokens = {file:?}\nconsole.bind = \"{console}\"\n");
        let node = Node::start_with(number, broker, server, &lines);
        Self { node, console, token, _tokens: tokens }
    }

    /// Runs the command line against the console of this node.
    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = program(arguments);
        command.env("LWM2M_GATEWAY_AT", format!("http://{}", self.console)).env("LWM2M_GATEWAY_TOKEN", &self.token);
        Run::of(&command.output().expect("the program is built"))
    }

    fn ask(&self, line: &str) -> Answer {
        let stream = TcpStream::connect(self.console).expect("it listens");
        let authorization = format!("Bearer {}", self.token);
        exchange(stream, &self.console.to_string(), line, &[("Authorization", &authorization)])
    }

    /// Returns the nodes as this one tells of them.
    fn nodes(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.run(&["cluster", "status", "--json"]).stdout).expect("JSON");
        status["nodes"].as_array().expect("nodes").clone()
    }

    fn state_of(&self, name: &str) -> String {
        let nodes = self.nodes();
        let node = nodes.iter().find(|node| node["name"] == name).expect("it announced itself");
        node["state"].as_str().expect("text").to_owned()
    }
}

fn sum_of(nodes: &[Value], member: &str) -> u64 {
    nodes.iter().map(|node| node[member].as_u64().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_tells_of_all_and_a_node_is_drained_and_undrained_by_another_one() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let mut nodes = [0, 1, 2].map(|number| WatchedNode::start(number, &broker, &server));
    until_settled(nodes.iter().map(|node| &node.node));
    let mut devices: Vec<Registered> = (0..DEVICES).map(|number| plain(&nodes[number % 3].node, number)).collect();

    let shown = |node: &WatchedNode| {
        let nodes = node.nodes();
        let states: Vec<&str> = nodes.iter().filter_map(|node| node["state"].as_str()).collect();
        states == ["up", "up", "up"]
            && (sum_of(&nodes, "shards"), sum_of(&nodes, "devices")) == (256, DEVICES as u64)
            && nodes.iter().all(|node| node["peers"].as_array().is_some_and(|peers| peers.len() == 2))
    };
    until("all nodes tell the same", || nodes.iter().all(shown));
    let told = nodes[0].nodes();
    assert_eq!((&told[1]["version"], &told[1]["store"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("sure")));
    assert_eq!(nodes[0].run(&["cluster", "status"]).stderr, "");
    a_device_of_another_node_is_named_with_its_node(&nodes);

    // Any node takes the order for any other.
    assert_eq!(nodes[0].run(&["cluster", "drain", "gw-1"]).code, Some(0));
    until("the node is drained", || nodes[1].node.shards() == 0.0 && nodes[2].state_of("gw-1") == "draining");
    assert_eq!(nodes[0].node.shards() + nodes[2].node.shards(), 256.0);
    assert_eq!(nodes[1].node.gateway.ask_admin("/readyz").0, 503, "the balancer lets go of it");
    for device in &mut devices {
        device.reaches(&nodes[1].node);
        until("a drained node forwards", || device.updates());
    }
    assert_eq!(nodes[2].run(&["cluster", "undrain", "gw-1"]).code, Some(0));
    until_settled(nodes.iter().map(|node| &node.node));
    until("the node is up again", || nodes[0].state_of("gw-1") == "up");

    // One node that lives tells of all, and is not drained.
    nodes[2].node.gateway.kill();
    nodes[1].node.gateway.kill();
    until("two nodes do not answer", || ["gw-1", "gw-2"].iter().all(|name| nodes[0].state_of(name) == "silent"));
    let refused = nodes[0].run(&["cluster", "drain", "gw-0"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("no other node takes shards"), "{}", refused.stderr);
    assert_eq!(nodes[0].ask("PUT /api/v1/cluster/nodes/gw-2/drain").problem(), (404, "no-such-node".to_owned()));
    assert!(nodes[0].run(&["cluster", "status"]).stderr.contains("gw-2 does not answer"));
    until("the last node has all shards", || nodes[0].node.shards() == 256.0);
    server.signal("STOP");
    let away = || nodes[0].run(&["cluster", "status"]).stderr.contains("gw-0 does not reach the store");
    until("the node tells that the store is away", away);
    let silent = nodes[0].ask("DELETE /api/v1/cluster/nodes/gw-0/drain");
    assert_eq!(silent.problem(), (503, "store-silent".to_owned()));
    let outputs: String = nodes.iter().map(|node| node.node.gateway.output()).collect();
    assert_eq!(outputs.matches("device registered").count(), DEVICES);
}

fn a_device_of_another_node_is_named_with_its_node(nodes: &[WatchedNode]) {
    for device in 0..DEVICES {
        let path = format!("GET /api/v1/devices/plain-{device}");
        let answers: Vec<Answer> = nodes.iter().map(|node| node.ask(&path)).collect();
        let owner = answers.iter().position(|answer| answer.status == 200).expect("a node has it");
        for (number, answer) in answers.iter().enumerate().filter(|(number, _)| *number != owner) {
            assert_eq!(answer.problem(), (421, "device-elsewhere".to_owned()), "node {number}");
            let place = answer.json();
            assert_eq!(place["node"], format!("gw-{owner}"));
            assert_eq!(place["console"], format!("http://{}", nodes[owner].console));
        }
    }
    let owner = nodes.iter().position(|node| node.run(&["show", "plain-0"]).code == Some(0)).expect("a node has it");
    let other = &nodes[(owner + 1) % nodes.len()];
    for arguments in [&["show", "plain-0"][..], &["read", "plain-0", "/3/0/0"], &["kick", "plain-0"]] {
        let run = other.run(arguments);
        assert_eq!(run.code, Some(8), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("is registered at the node gw-{owner}")), "{}", run.stderr);
    }
    assert_eq!(other.run(&["show", "nobody"]).code, Some(6));
}
