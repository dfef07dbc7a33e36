//! Endpoints whose records, names and messages are at several places.

use lwm2m_core::coap::options::format;

use super::*;

/// The shard in which the store has an endpoint, and the state of its name.
fn place(server: &RedisServer, endpoint: &str) -> (char, u8) {
    let place = server.ask_all(&format!("GET lwm2m:ep:{endpoint}"));
    let place = place.lines().nth(2).unwrap_or_else(|| panic!("{endpoint} has no shard: {place}"));
    let mut fields = place.split(' ');
    let state = fields.next().and_then(|state| state.chars().next()).expect("a state");
    (state, fields.next().and_then(|shard| shard.parse().ok()).unwrap_or_else(|| panic!("{place}")))
}

fn updated(device: &mut Device) -> Code {
    device.send(&request(Code::POST, &["rd", &device.location[1]], &[], None));
    device.receive().code
}

/// Registers with a body in blocks of 16 bytes (RFC 7959 section 2.3).
fn register_in_blocks(device: &mut Device, query: &str, links: &str) {
    let blocks: Vec<&[u8]> = links.as_bytes().chunks(16).collect();
    for (index, block) in blocks.iter().enumerate() {
        let mut message = request(Code::POST, &["rd"], &[query, "lt=3000"], Some((format::LINK_FORMAT, block)));
        let is_last = index + 1 == blocks.len();
        message.options.add_uint(number::BLOCK1, u32::try_from(index).expect("few") << 4 | u32::from(!is_last) << 3);
        let answer = device.request(&message);
        assert_eq!(answer.code, if is_last { Code::CREATED } else { Code::CONTINUE });
        let location = answer.options.texts(number::LOCATION_PATH).expect("text");
        device.location = location.into_iter().map(str::to_owned).collect();
    }
}

/// Each record of a shard is compared with the name of its endpoint when the shard is read. The test changes the names
/// while no node runs, as if another node had written them.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_endpoint_another_shard_has_is_dropped_when_its_shard_is_read() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let mut node = Node::start(0, &broker, &server);
    until("the node has all shards", || node.shards() == 256.0);
    let names = ["superseded", "without-record", "frozen", "without-name", "as-it-was"];
    let mut devices = names.map(|name| {
        let mut device = Device::new(node.gateway.address());
        device.register(&format!("ep={name}&lt=3000"), LINKS);
        device
    });
    let shards = names.map(|name| place(&server, name).1);
    node.gateway.kill();
    let ask = |command: String| assert!(!server.ask(&command).starts_with('-'), "{command}");
    let other = |index: usize| shards[index].wrapping_add(1);
    ask(format!("SET lwm2m:ep:superseded \"s {} 9\"", other(0)));
    ask(format!("HSET lwm2m:{{{}}}:d superseded anything", other(0)));
    ask(format!("SET lwm2m:ep:without-record \"s {} 9\"", other(1)));
    ask(format!("SET lwm2m:ep:frozen \"f {} 9\"", shards[2]));
    ask("DEL lwm2m:ep:without-name".to_owned());

    node.gateway.start_without_waiting_again();
    until("the node has all shards again", || node.shards() == 256.0 && node.gateway.ask_admin("/readyz").0 == 200);
    devices.iter_mut().for_each(|device| device.reaches(node.gateway.address()));
    let codes = devices.each_mut().map(updated);
    assert_eq!(codes, [Code::NOT_FOUND, Code::CHANGED, Code::CHANGED, Code::CHANGED, Code::CHANGED]);
    for (name, shard) in names.iter().zip(shards).skip(1) {
        assert_eq!(place(&server, name), ('s', shard), "{name}");
    }
    assert_eq!(place(&server, "superseded"), ('s', other(0)));
    let is_stored = |name: &str, shard: u8| server.ask(&format!("HEXISTS lwm2m:{{{shard}}}:d {name}")) == ":1";
    until("the superseded record is removed", || !is_stored("superseded", shards[0]));
    assert!(is_stored("as-it-was", shards[4]));
    let output = node.gateway.output();
    assert_eq!(output.matches("a stored record was dropped").count(), 1, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_over_plain_udp_reaches_the_node_that_has_the_device() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let nodes = [0, 1].map(|number| Node::start(number, &broker, &server));
    until_divided(&[&nodes[0], &nodes[1]]);
    until("the nodes are connected", || {
        nodes.iter().all(|node| node.metric("lwm2m_peers{state=\"connected\"}") == 1.0)
    });
    let mut application = Application::connect(&broker.addresses.mqtt, &["one"]);
    let mut device = Device::new(nodes[0].gateway.address());
    device.register("ep=one&lt=3000", LINKS);
    assert_eq!(application.receive().1["msgType"], "register");
    let registered =
        |nodes: &[Node; 2]| nodes.each_ref().map(|node| node.gateway.output().matches("device registered").count());

    // It registers again from a new address, by the other node, with a body of several blocks.
    let mut device = Device::new(nodes[1].gateway.address());
    register_in_blocks(&mut device, "ep=one", LINKS);
    assert_eq!(application.receive().1["msgType"], "register");
    assert_eq!(registered(&nodes), [2, 0], "the first node has the device");
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    application.send("one", &command);
    let asked = device.receive();
    device.send(&response_to(&asked, Code::CONTENT, Some((0, b"Acme"))));
    application.expect("lwm2m/one/up/resp", &answer(&command, content("/3/0/0", "Acme")));

    assert_eq!(device.deregister().code, Code::DELETED);
    assert_eq!(application.receive_within(Duration::from_millis(500)), None, "one end of one registration");
    until("the name is free", || server.ask("EXISTS lwm2m:ep:one") == ":0");
    device.register("ep=one&lt=3000", LINKS);
    assert_eq!(registered(&nodes), [2, 1], "a new registration is made where it comes in");
}
