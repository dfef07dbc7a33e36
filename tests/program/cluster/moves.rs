//! Endpoints whose records, names and messages are at several places.

use std::collections::VecDeque;

use lwm2m_core::coap::options::format;
use lwm2m_core::coap::{Kind, Message, MessageId};
use lwm2m_dtls::test_client::DtlsClientConfig;
use rumqttc::{Client, MqttOptions};

use super::*;
use crate::common::device::fresh_id;

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

/// The store loses all names while the node that has a device cannot write them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_store_has_lost_is_given_to_nobody_until_the_nodes_have_written_their_names_again() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let nodes = [0, 1].map(|number| Node::start(number, &broker, &server));
    until_divided(&[&nodes[0], &nodes[1]]);
    until("the nodes are connected", || {
        nodes.iter().all(|node| node.metric("lwm2m_peers{state=\"connected\"}") == 1.0)
    });
    let registered =
        |nodes: &[Node; 2]| nodes.each_ref().map(|node| node.gateway.output().matches("device registered").count());
    let mut device = Device::new(nodes[0].gateway.address());
    device.register("ep=one&lt=3000", LINKS);

    let rewrites = |node: &Node| node.metric("lwm2m_store_rewrites_total");
    nodes[0].gateway.signal("STOP");
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    let refused = Device::new(nodes[1].gateway.address()).try_register("ep=one&lt=3000", LINKS);
    assert_eq!(refused.code, Code::SERVICE_UNAVAILABLE, "before the node knows of the loss");
    until("the node knows of the loss", || rewrites(&nodes[1]) == 1.0);
    let refused = Device::new(nodes[1].gateway.address()).try_register("ep=one&lt=3000", LINKS);
    assert_eq!(refused.code, Code::SERVICE_UNAVAILABLE, "after that");
    nodes[0].gateway.signal("CONT");

    until("the store has the name again", || server.ask("EXISTS lwm2m:ep:one") == ":1");
    let mut device = Device::new(nodes[1].gateway.address());
    device.register("ep=one&lt=3000", LINKS);
    until("the first node registers the device again", || registered(&nodes) == [2, 0]);
    let mut other = Device::new(nodes[1].gateway.address());
    let registers = |device: &mut Device| device.try_register("ep=two&lt=3000", LINKS).code;
    assert_eq!(registers(&mut other), Code::SERVICE_UNAVAILABLE, "a node may have it");
    until("the names are complete", || registers(&mut other) == Code::CREATED);
}

/// A device over DTLS without connection ID.
struct Wanderer {
    identity: String,
    device: SecuredDevice,
    location: String,
    /// The observe request of the application.
    observing: Option<Message>,
    notified: u32,
    /// The requests that have come while it waited for something else.
    early: VecDeque<Message>,
    answered: Vec<MessageId>,
}

impl Wanderer {
    fn session(node: &Node, identity: &str) -> SecuredDevice {
        let config = DtlsClientConfig::psk(identity, KEY.as_bytes());
        SecuredDevice::connect_with(node.place.secured, config, PATIENCE).expect("a DTLS session")
    }

    fn register(node: &Node, number: usize) -> Self {
        let identity = format!("secured-{number}");
        let device = Self::session(node, &identity);
        let mut wanderer = Self {
            identity,
            device,
            location: String::new(),
            observing: None,
            notified: 0,
            early: VecDeque::new(),
            answered: Vec::new(),
        };
        assert_eq!(wanderer.registers(), Code::CREATED);
        wanderer
    }

    fn registers(&mut self) -> Code {
        let answer = self.asks(&register("lt=3000")).expect("an answer");
        if answer.code == Code::CREATED {
            self.location = answer.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
        }
        answer.code
    }

    /// Makes a new handshake through a node.
    fn shakes_hands(&mut self, node: &Node) {
        self.device = Self::session(node, &self.identity);
    }

    fn updates(&mut self) -> Code {
        self.asks(&update(&self.location)).expect("an answer").code
    }

    fn asks(&mut self, request: &Message) -> Option<Message> {
        self.device.send(request);
        loop {
            let message = self.device.receive_within(PATIENCE)?;
            if message.token == request.token {
                return Some(message);
            }
            self.early.push_back(message);
        }
    }

    /// Returns the next request of the gateway that the device has not answered.
    fn receives(&mut self, patience: Duration) -> Option<Message> {
        loop {
            let asked = self.early.pop_front().or_else(|| self.device.receive_within(patience))?;
            if !self.answered.contains(&asked.id) {
                return Some(asked);
            }
        }
    }

    fn answers(&mut self, asked: &Message, text: &str, observe: Option<u32>) {
        self.answered.push(asked.id);
        let mut response = response_to(asked, Code::CONTENT, Some((format::TEXT, text.as_bytes())));
        observe.into_iter().for_each(|number| response.options.add_uint(number::OBSERVE, number));
        self.device.send(&response);
    }

    /// Sends a notification, which the application has to get.
    fn notifies(&mut self, application: &mut Application) {
        let asked = self.observing.as_ref().expect("it is observed");
        self.notified += 1;
        let mut notification = response_to(asked, Code::CONTENT, Some((format::TEXT, b"21.5")));
        (notification.kind, notification.id) = (Kind::NonConfirmable, fresh_id());
        notification.options.add_uint(number::OBSERVE, self.notified);
        self.device.send(&notification);
        let (topic, value) = application.receive();
        let expected = (format!("lwm2m/{}/up/notify", self.identity), "notify");
        assert_eq!((topic, value["msgType"].as_str().unwrap_or_default()), expected, "{value}");
    }

    /// The application reads from it. While the broker connects the device again, a command is lost.
    fn is_read(&mut self, application: &mut Application, id: &mut u64) {
        for _ in 0..20 {
            *id += 1;
            let command = json!({ "reqID": *id, "msgType": "read", "data": { "path": "/3/0/0" } });
            application.send(&self.identity, &command);
            let Some(asked) = self.receives(Duration::from_secs(1)) else { continue };
            assert_eq!(path_of(&asked), "/3/0/0");
            self.answers(&asked, "Acme", None);
            let expected = answer(&command, content("/3/0/0", "Acme"));
            return application.expect(&format!("lwm2m/{}/up/resp", self.identity), &expected);
        }
        panic!("{} gets no command", self.identity);
    }
}

/// Returns the shards that have a record of an endpoint.
fn shards_with(server: &RedisServer, endpoint: &str) -> Vec<usize> {
    let asked: Vec<String> = (0..256).map(|shard| format!("HEXISTS lwm2m:{{{shard}}}:d {endpoint}")).collect();
    let answers = server.ask_all(&asked.join("\r\n"));
    answers.lines().skip(1).enumerate().filter(|(_, answer)| *answer == ":1").map(|(shard, _)| shard).collect()
}

fn moved(nodes: &[Node], outcome: &str) -> f64 {
    nodes.iter().map(|node| node.metric(&format!("lwm2m_endpoint_moves_total{{outcome=\"{outcome}\"}}"))).sum()
}

/// Devices without connection ID make new handshakes through one node after the other. `CLUSTER_HANDSHAKES` makes more.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_shakes_hands_through_another_node_moves_there_with_its_observations_and_commands() {
    const DEVICES: usize = 4;
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let handshakes = std::env::var("CLUSTER_HANDSHAKES").map_or(12, |count| count.parse().expect("a number"));
    let broker = TestBroker::start().await;
    let nodes: Vec<Node> = (0..3).map(|number| Node::start(number, &broker, &server)).collect();
    until_divided(&nodes.iter().collect::<Vec<_>>());
    let connected = |node: &Node| node.metric("lwm2m_peers{state=\"connected\"}") == 2.0;
    until("the nodes are connected", || nodes.iter().all(connected));
    let names: Vec<String> = (0..DEVICES).map(|number| format!("secured-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut application = Application::connect(&broker.addresses.mqtt, &names);
    let mut id = 0;
    let mut devices: Vec<Wanderer> = (0..DEVICES).map(|number| Wanderer::register(&nodes[0], number)).collect();
    for _ in &devices {
        assert_eq!(application.receive().1["msgType"], "register");
    }
    for device in &mut devices {
        device.is_read(&mut application, &mut id);
        id += 1;
        let command = json!({ "reqID": id, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
        application.send(&device.identity, &command);
        let asked = device.receives(PATIENCE).expect("a command");
        device.answers(&asked, "21.0", Some(0));
        device.observing = Some(asked);
        assert_eq!(application.receive().1["msgType"], "observe");
    }

    let begun = now();
    for handshake in 0..handshakes {
        let (number, node) = (handshake % DEVICES, &nodes[(handshake / DEVICES + handshake) % 3]);
        let device = &mut devices[number];
        // Every second time it has a command that it has not answered.
        let mut asked = None;
        if handshake % 2 == 1 {
            id += 1;
            let command = json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/1" } });
            application.send(&device.identity, &command);
            asked = Some((device.receives(PATIENCE).expect("a command"), command));
        }
        device.shakes_hands(node);
        assert_eq!(device.updates(), Code::CHANGED, "handshake {handshake}: {}", node.gateway.output());
        if let Some((asked, command)) = asked {
            let again = device.receives(PATIENCE).expect("the command");
            assert_eq!((again.id, again.token), (asked.id, asked.token), "the same message");
            device.answers(&again, "Model", None);
            let expected = answer(&command, content("/3/0/1", "Model"));
            application.expect(&format!("lwm2m/{}/up/resp", device.identity), &expected);
        }
        device.notifies(&mut application);
        device.is_read(&mut application, &mut id);
    }
    println!("{handshakes} handshakes, {} moves, {:?}", moved(&nodes, "arrived"), now() - begun);
    assert!(moved(&nodes, "arrived") >= handshakes as f64 / 2.0);
    until("the former nodes know", || moved(&nodes, "left") == moved(&nodes, "arrived"));
    assert_eq!(["returned", "forbidden", "failed"].map(|outcome| moved(&nodes, outcome)), [0.0; 3]);
    for device in &mut devices {
        let (state, shard) = place(&server, &device.identity);
        assert_eq!(state, 's');
        until("its other records are removed", || shards_with(&server, &device.identity) == [usize::from(shard)]);
        assert_eq!(device.updates(), Code::CHANGED);
    }
    let registered: usize = nodes.iter().map(|node| node.gateway.output().matches("device registered").count()).sum();
    assert_eq!(registered, DEVICES, "nobody has registered again");

    // A stranger cannot take the name over plain UDP, and the device registers again through any node.
    for node in &nodes {
        let forbidden = Device::new(node.gateway.address()).try_register("ep=secured-0&lt=3000", LINKS);
        assert_eq!(forbidden.code, Code::FORBIDDEN);
        devices[0].shakes_hands(node);
        assert_eq!(devices[0].registers(), Code::CREATED);
        assert_eq!(application.receive().1["msgType"], "register");
    }
    assert_eq!(application.receive_within(Duration::from_millis(500)), None, "no session has ended");

    // Another client with the client ID of a device ends its registration, where it is now.
    let (host, port) = broker.addresses.devices.rsplit_once(':').expect("host:port");
    let options = MqttOptions::new("secured-1", host, port.parse().expect("a port"));
    let (_foreign, mut connection) = Client::new(options, 4);
    thread::spawn(move || connection.iter().take_while(Result::is_ok).for_each(drop));
    until("the registration has ended", || devices[1].updates() == Code::NOT_FOUND);
}

/// A node is stopped or killed while a device moves from it or to it, and the store while nobody knows who has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_in_one_shard_when_a_node_is_lost_while_it_moves() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let mut nodes = [0, 1].map(|number| Node::start(number, &broker, &server));
    until_divided(&[&nodes[0], &nodes[1]]);
    until("the nodes are connected", || {
        nodes.iter().all(|node| node.metric("lwm2m_peers{state=\"connected\"}") == 1.0)
    });
    let mut device = Wanderer::register(&nodes[0], 0);

    // Its node does not answer: after its lease the other node has the device.
    nodes[0].gateway.signal("STOP");
    device.shakes_hands(&nodes[1]);
    until_served(&mut device, "without its former node");
    nodes[0].gateway.signal("CONT");
    until_divided(&[&nodes[0], &nodes[1]]);
    assert_eq!(shards_with(&server, "secured-0").len(), 1);

    // The new node is killed at any step of the move.
    for (round, delay) in [0, 1, 2, 4, 8].into_iter().enumerate() {
        let (from, to) = (round % 2, 1 - round % 2);
        device.shakes_hands(&nodes[from]);
        until_served(&mut device, "at the one node");
        device.shakes_hands(&nodes[to]);
        thread::park_timeout(Duration::from_millis(delay));
        nodes[to].gateway.kill();
        device.shakes_hands(&nodes[from]);
        until_served(&mut device, "after the death of the other node");
        until("there is one record", || shards_with(&server, "secured-0").len() == 1);
        nodes[to].gateway.start_without_waiting_again();
        until_divided(&[&nodes[0], &nodes[1]]);
    }

    // Without the store nobody knows who has the device.
    server.signal("STOP");
    until("the nodes know that none reaches the store", || {
        nodes.iter().all(|node| node.metric("lwm2m_store_contact{state=\"all_without\"}") == 1.0)
    });
    assert_eq!(device.updates(), Code::CHANGED, "its node serves it from memory");
    server.signal("CONT");
    until("the nodes reach the store", || {
        nodes.iter().all(|node| node.metric("lwm2m_store_contact{state=\"sure\"}") == 1.0)
    });
    assert_eq!(shards_with(&server, "secured-0").len(), 1);
}

/// The former node is killed, or the store stops for a while, at any step of a move. `CLUSTER_MOVES` tries more moments.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_in_one_shard_when_its_former_node_is_killed_or_the_store_stops_while_it_moves() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let moments = std::env::var("CLUSTER_MOVES").map_or(1, |moments| moments.parse().expect("a number"));
    let broker = TestBroker::start().await;
    let mut nodes = [0, 1].map(|number| Node::start(number, &broker, &server));
    until_divided(&[&nodes[0], &nodes[1]]);
    let connected = |node: &Node| node.metric("lwm2m_peers{state=\"connected\"}") == 1.0;
    until("the nodes are connected", || nodes.iter().all(connected));
    let mut device = Wanderer::register(&nodes[0], 0);
    for moment in 0..moments {
        // Milliseconds: most moves take less than four.
        let delay = Duration::from_millis([1, 2, 0, 3, 5, 8][moment % 6]);
        let (from, to) = (moment % 2, 1 - moment % 2);
        device.shakes_hands(&nodes[to]);
        thread::park_timeout(delay);
        server.signal("STOP");
        device.device.send(&update(&device.location));
        thread::park_timeout(Duration::from_secs(4));
        server.signal("CONT");
        until_served(&mut device, "after the store was away");
        until("there is one record", || shards_with(&server, "secured-0").len() == 1);

        device.shakes_hands(&nodes[from]);
        until_served(&mut device, "at the one node");
        device.shakes_hands(&nodes[to]);
        thread::park_timeout(delay);
        nodes[from].gateway.kill();
        until_served(&mut device, "after the death of its former node");
        until("there is one record", || shards_with(&server, "secured-0").len() == 1);
        nodes[from].gateway.start_without_waiting_again();
        if moment + 1 < moments {
            until_divided(&[&nodes[0], &nodes[1]]);
        }
    }
    let registered: usize = nodes.iter().map(|node| node.gateway.output().matches("device registered").count()).sum();
    println!("{moments} moments, {} registrations after the first one", registered - 1);
}

/// Waits until the device has a registration at its node. A Register is answered 5.03 as long as it cannot be found out
/// who has the device.
fn until_served(device: &mut Wanderer, when: &str) {
    until_within(TAKEOVER, when, || {
        let answer = device.asks(&update(&device.location));
        answer.is_some_and(|answer| answer.code == Code::CHANGED || device.registers() == Code::CREATED)
    });
}
