//! Datagrams that come to another node than the one that has their shard.

use std::net::SocketAddr;

use super::balancer::{Balance, Balancer};
use super::*;

/// Number of re-hashes of the balancer. `CLUSTER_HASHES` makes more.
const HASHES: u64 = 5;

pub(super) fn addresses(nodes: &[Node], of: impl Fn(&Node) -> SocketAddr) -> Vec<SocketAddr> {
    nodes.iter().map(of).collect()
}

/// Waits until the nodes have divided the shards, and hand none over for ten rounds.
pub(super) fn until_settled<'a>(nodes: impl IntoIterator<Item = &'a Node>) {
    let nodes: Vec<&Node> = nodes.into_iter().collect();
    until_divided(&nodes);
    let mut last = (now(), -1.0);
    until("no shard is handed over", || {
        let moved: f64 = nodes.iter().map(|node| node.metric("lwm2m_shard_moves_total")).sum();
        if last.1 != moved {
            last = (now(), moved);
        }
        now() - last.0 > Duration::from_secs(2)
    });
}

fn sum_of(nodes: &[Node], series: &str) -> f64 {
    nodes.iter().map(|node| node.metric(series)).sum()
}

/// Registers devices through the balancers, every second one over DTLS.
pub(super) fn devices(udp: SocketAddr, dtls: SocketAddr) -> Vec<Registered> {
    (0..DEVICES).map(|number| if number % 2 == 0 { plain_at(udp, number) } else { secured_at(dtls, number) }).collect()
}

/// An application reads from each device.
fn reads(application: &mut Application, devices: &mut [Registered], id: u64) {
    for (number, device) in devices.iter_mut().enumerate() {
        let command = json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } });
        let endpoint = endpoint(number);
        application.send(&endpoint, &command);
        device.answers_read();
        application.expect(&format!("lwm2m/{endpoint}/up/resp"), &answer(&command, content("/3/0/0", "Acme")));
    }
}

pub(super) fn endpoint(number: usize) -> String {
    if number.is_multiple_of(2) { format!("plain-{number}") } else { format!("secured-{number}") }
}

impl Registered {
    fn answers_read(&mut self) {
        match self {
            Self::Plain(device) => {
                let asked = device.receive();
                assert_eq!(path_of(&asked), "/3/0/0");
                device.send(&response_to(&asked, Code::CONTENT, Some((0, b"Acme"))));
            }
            Self::Secured { device, .. } => {
                let asked = device.receive();
                assert_eq!(path_of(&asked), "/3/0/0");
                device.send(&response_to(&asked, Code::CONTENT, Some((0, b"Acme"))));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_behind_a_balancer_that_hashes_anew_or_sends_each_packet_elsewhere() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let hashes = std::env::var("CLUSTER_HASHES").map_or(HASHES, |hashes| hashes.parse().expect("a number"));
    let broker = TestBroker::start().await;
    let mut nodes: Vec<Node> = (0..3).map(|number| Node::start(number, &broker, &server)).collect();
    until_settled(&nodes);
    until("the nodes are connected", || sum_of(&nodes, "lwm2m_peers{state=\"connected\"}") == 6.0);
    let udp = Balancer::before(addresses(&nodes, |node| node.gateway.address())).await;
    let dtls = Balancer::before(addresses(&nodes, |node| node.place.secured)).await;
    let endpoints: Vec<String> = (0..DEVICES).map(endpoint).collect();
    let names: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut application = Application::connect(&broker.addresses.mqtt, &names);
    let mut devices = devices(udp.address, dtls.address);
    for _ in 0..DEVICES {
        assert_eq!(application.receive().1["msgType"], "register");
    }

    let mut updates = 0;
    for salt in 1..=hashes {
        [&udp, &dtls].into_iter().for_each(|balancer| balancer.balance(Balance::Hash(salt)));
        for (number, device) in devices.iter_mut().enumerate() {
            assert!(device.updates_within(PATIENCE), "device {number} at hash {salt}");
            updates += 1;
        }
        // A command leaves by the node at which the Update came in.
        reads(&mut application, &mut devices, salt);
    }
    [&udp, &dtls].into_iter().for_each(|balancer| balancer.balance(Balance::PerPacket));
    for round in 0..hashes {
        for (number, device) in devices.iter_mut().enumerate() {
            assert!(device.updates_within(PATIENCE), "device {number} in round {round}");
            updates += 1;
        }
    }

    let forwarded =
        |direction: &str| sum_of(&nodes, &format!("lwm2m_forwarded_datagrams_total{{direction=\"{direction}\"}}"));
    let [out, in_, answers_out, answers_in] = ["out", "in", "answer_out", "answer_in"].map(forwarded);
    println!("{updates} Updates, {out} datagrams forwarded, {answers_out} answers");
    assert!(out > f64::from(updates) / 3.0, "{out} of {updates}");
    assert_eq!((out, answers_out), (in_, answers_in), "what one node has sent another one has received");
    assert_eq!(sum_of(&nodes, "lwm2m_forward_drops_total"), 0.0);
    assert_eq!((udp.strays(), dtls.strays()), (0, 0), "each answer leaves where its request came in");
    let output: String = nodes.iter().map(|node| node.gateway.output()).collect();
    assert_eq!(output.matches("device registered").count(), DEVICES, "nobody has registered again");
    assert_eq!(output.matches("association established").count(), DEVICES / 2, "or shaken hands");
    for node in &mut nodes {
        assert_eq!(node.gateway.stop("TERM").code(), Some(0));
    }
}

/// What the second node may cost the fastest Update: much less than the 40 ms for which TCP may delay an acknowledgement,
/// so that it is noticed if datagrams wait for one.
const FORWARDED: Duration = Duration::from_millis(20);

/// Compares Updates of one device directly and through another node. `CLUSTER_UPDATES` sends more.
#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_datagram_waits_for_no_timer_between_the_nodes() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let rounds = std::env::var("CLUSTER_UPDATES").map_or(50, |rounds| rounds.parse().expect("a number"));
    let broker = TestBroker::start().await;
    let nodes: Vec<Node> = (0..2).map(|number| Node::start(number, &broker, &server)).collect();
    until_settled(&nodes);
    until("the nodes are connected", || sum_of(&nodes, "lwm2m_peers{state=\"connected\"}") == 2.0);
    for (name, mut device) in [("plain UDP", plain(&nodes[0], 0)), ("DTLS", secured(&nodes[0], 1))] {
        let mut measured = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (node, times) in nodes.iter().zip(&mut measured) {
                device.reaches(node);
                let begun = now();
                assert!(device.updates(), "{name}");
                times.push(now() - begun);
            }
        }
        let [direct, forwarded] = measured.map(|mut times| {
            times.sort();
            [times[0], times[times.len() / 2], times[times.len() * 99 / 100]]
        });
        println!("{name}: fastest, p50, p99 of {rounds} Updates: direct {direct:?}, forwarded {forwarded:?}");
        let later = forwarded[0].saturating_sub(direct[0]);
        assert!(later < FORWARDED, "{name}: the fastest forwarded Update takes {later:?} longer");
    }
    assert_eq!(nodes[1].metric("lwm2m_forwarded_datagrams_total{direction=\"out\"}"), 2.0 * f64::from(rounds));
}
