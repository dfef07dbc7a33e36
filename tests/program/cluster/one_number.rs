//! Two processes of one node: of one number that is to be unique, since it keeps the DTLS record numbers apart.

use super::*;

/// The devices are served without a registration or a handshake after their first ones.
fn expect_served(devices: &mut [Registered], node: &Node) {
    let begun = now();
    for device in devices.iter_mut() {
        device.reaches(node);
        while !device.updates() {
            assert!(now() - begun < TAKEOVER, "{}", node.gateway.output());
        }
        if let Registered::Secured { device, .. } = device {
            let numbers = device.numbers();
            assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_a_living_node_ends_and_the_first_one_goes_on() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let nodes = [0, 1].map(|number| Node::start(number, &broker, &server));
    until_divided(&[&nodes[0], &nodes[1]]);
    let mut devices = [plain(&nodes[0], 0), secured(&nodes[0], 1)];

    let mut second = Node::start(0, &broker, &server);
    assert_eq!(second.gateway.wait().code(), Some(1));
    let output = second.gateway.output();
    assert!(output.contains("another process of this node or of its number is alive"), "{output}");
    let lost = nodes[0].metric("lwm2m_shard_moves_total{reason=\"lost\"}");
    assert_eq!(lost, 0.0, "the first process has lost nothing");
    expect_served(&mut devices, &nodes[0]);
    let is_connected = |node: &Node| node.metric("lwm2m_peers{state=\"connected\"}") == 1.0;
    until("the nodes are connected", || nodes.iter().all(is_connected));
    let output = nodes[0].gateway.output();
    assert_eq!(output.matches("device registered").count(), 2);
    assert_eq!(output.matches("association established").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_and_replaced_ends_when_it_goes_on() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let mut first = Node::start(0, &broker, &server);
    until("the node has all shards", || first.shards() == 256.0);
    let mut devices = [plain(&first, 0), secured(&first, 1)];
    expect_served(&mut devices, &first);

    first.gateway.signal("STOP");
    let second = Node::start(0, &broker, &server);
    until("the second process has all shards", || second.shards() == 256.0);
    expect_served(&mut devices, &second);
    first.gateway.signal("CONT");
    assert_eq!(first.gateway.wait().code(), Some(1));
    let output = first.gateway.output();
    assert!(output.contains("a newer process of this node has started"), "{output}");
    assert_eq!(second.shards(), 256.0);
    expect_served(&mut devices, &second);
    let output = second.gateway.output();
    assert!(!output.contains("device registered") && !output.contains("association established"), "{output}");
}
