//! Several gateways with one store that divide the shards of the devices, with the built program. Without Debian's
//! `redis-server` these tests are skipped, but not in CI.
//!
//! A node takes its first shards 12 seconds after its start, so these tests take some time.

mod balancer;
mod forwarding;
mod kills;
mod moves;
mod moving_in;
mod one_number;
mod operation;
mod rolling;
mod store_failures;
mod traffic;
mod wills;

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use lwm2m_core::coap::Code;
use lwm2m_core::coap::options::number;
use serde_json::json;

use crate::common::admin::sum;
use crate::common::application::{Application, answer, content};
use crate::common::broker::{TestBroker, Upstream};
use crate::common::device::{Device, PATIENCE, path_of, request, response_to};
use crate::common::gateway::Gateway;
use crate::common::scene::LINKS;
use crate::dtls_devices::program::{CredentialsFolder, SecuredDevice};
use crate::dtls_devices::scene::{register, update};
use crate::store::redis_store::server::{RedisServer, until, until_within};
use lwm2m_dtls::test_client::credentials::Certified;
use lwm2m_testkit::scene::beginning as now;
use tempfile::TempDir;

const KEY: &str = "0123456789abcdef";
/// Number of devices over plain UDP, and of devices over DTLS.
const DEVICES: usize = 24;
/// The time within which the devices of a lost node are served by another one, with the leases of these tests.
const TAKEOVER: Duration = Duration::from_secs(20);

/// Leases that hold on a busy machine, on which an answer of the server may take a second.
const TIMING: &str = "cluster.lease = \"3s\"\ncluster.renew = \"600ms\"\ncluster.grace = \"3s\"\n";
/// These leases, at nodes that end soon: no balancer has to let go of them.
const LEASES: &str =
    "cluster.lease = \"3s\"\ncluster.renew = \"600ms\"\ncluster.grace = \"3s\"\ncluster.linger = \"500ms\"\n";
/// A node of the cluster.
struct Node {
    gateway: Gateway,
    place: CredentialsFolder,
    _certificates: TempDir,
}

/// The authority of the nodes of all tests.
fn authority() -> &'static Certified {
    static AUTHORITY: OnceLock<Certified> = OnceLock::new();
    AUTHORITY.get_or_init(|| Certified::authority("cluster"))
}

impl Node {
    fn start(number: usize, broker: &TestBroker, server: &RedisServer) -> Self {
        Self::start_with(number, broker, server, LEASES)
    }

    fn start_with(number: usize, broker: &TestBroker, server: &RedisServer, more: &str) -> Self {
        Self::start_at(number, broker, &server.lines(), more)
    }

    /// Starts a node with these lines of configuration for its store, and these besides.
    fn start_at(number: usize, broker: &TestBroker, store: &str, more: &str) -> Self {
        let keys: String = (0..DEVICES).map(|device| format!("secured-{device}:{KEY}\n")).collect();
        let place = CredentialsFolder::new(&keys);
        let lines = format!(
            "log.level = \"debug\"\n{}{store}cluster.enable = true\ncluster.node = \"gw-{number}\"\n\
             cluster.moves_at_once = 16\n{more}",
            place.lines()
        );
        let (udp, peers) = (crate::common::ports::free_address(), crate::common::ports::free_address());
        let (certificates, name) = (TempDir::new().expect("a folder"), format!("gw-{number}"));
        let (cacertfile, _) = authority().write(certificates.path(), "ca");
        let (certfile, keyfile) = authority().certify(&name).write(certificates.path(), &name);
        let lines = format!(
            "{lines}cluster.bind = \"{peers}\"\ncluster.advertise = \"{peers}\"\ncluster.cacertfile = {cacertfile:?}\n\
             cluster.certfile = {certfile:?}\ncluster.keyfile = {keyfile:?}\n"
        );
        let lines = format!("{lines}listeners.udp.default.bind = \"{udp}\"\n");
        let mut gateway = Gateway::start_without_waiting(&broker.addresses, &lines);
        gateway.listeners = vec![udp];
        Self { gateway, place, _certificates: certificates }
    }

    fn metric(&self, series: &str) -> f64 {
        sum(&self.gateway.ask_admin("/metrics").1, series)
    }

    /// The metrics of what was dropped between the nodes; `None` if it has ended.
    fn drops(&mut self) -> Option<String> {
        let is_drop = |line: &&str| line.starts_with("lwm2m_forward_drops_total") && !line.ends_with(" 0");
        let of = |metrics: &str| metrics.lines().filter(is_drop).map(|line| format!("{line}\n")).collect();
        (!self.gateway.has_ended()).then(|| of(&self.gateway.ask_admin("/metrics").1))
    }

    fn shards(&self) -> f64 {
        self.metric("lwm2m_shards")
    }
}

/// A registered device over plain UDP or DTLS.
enum Registered {
    Plain(Device),
    Secured { device: Box<SecuredDevice>, location: String },
}

impl Registered {
    /// Sends an Update, and returns whether it is answered 2.04 soon. Nothing else may come as an answer.
    fn updates(&mut self) -> bool {
        self.updates_within(Duration::from_millis(200))
    }

    fn updates_within(&mut self, patience: Duration) -> bool {
        let answered = match self {
            Self::Plain(device) => {
                device.send(&request(Code::POST, &["rd", &device.location[1]], &[], None));
                device.receive_within(patience)
            }
            Self::Secured { device, location } => {
                device.send(&update(location));
                device.receive_within(patience)
            }
        };
        answered.inspect(|answer| assert_eq!(answer.code, Code::CHANGED)).is_some()
    }

    fn reaches(&mut self, node: &Node) {
        match self {
            Self::Plain(device) => device.reaches(node.gateway.address()),
            Self::Secured { device, .. } => device.reaches(node.place.secured),
        }
    }
}

fn plain(node: &Node, number: usize) -> Registered {
    plain_at(node.gateway.address(), number)
}

fn plain_at(address: std::net::SocketAddr, number: usize) -> Registered {
    let mut device = Device::new(address);
    device.register(&format!("ep=plain-{number}&lt=3000"), LINKS);
    Registered::Plain(device)
}

fn secured(node: &Node, number: usize) -> Registered {
    secured_at(node.place.secured, number)
}

fn secured_at(address: std::net::SocketAddr, number: usize) -> Registered {
    let identity = format!("secured-{number}");
    let mut device = SecuredDevice::connect(address, &identity, KEY.as_bytes(), PATIENCE).expect("a DTLS session");
    let created = device.ask(&register("lt=3000"));
    assert_eq!(created.code, Code::CREATED);
    let location = created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
    Registered::Secured { device: Box::new(device), location }
}

/// Waits until the nodes have all shards together, each of them some.
fn until_divided(nodes: &[&Node]) {
    // Of nodes that have just started, a shard waits up to 4 s for the next tick of the terms' clock.
    until_within(Duration::from_secs(90), "the nodes divide the shards", || {
        let shards: Vec<f64> = nodes.iter().map(|node| node.shards()).collect();
        let expected = 256.0 / nodes.len() as f64;
        shards.iter().sum::<f64>() == 256.0 && shards.iter().all(|shards| (shards - expected).abs() < expected / 2.0)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_a_killed_node_are_served_by_the_other_one_without_a_registration_or_a_handshake() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    // The devices take packets from both nodes.
    let more = format!("{LEASES}cluster.direct = true\n");
    let mut nodes = [0, 1].map(|number| Node::start_with(number, &broker, &server, &more));
    until_divided(&[&nodes[0], &nodes[1]]);
    let mut application = Application::connect(&broker.addresses.mqtt, &["plain-0"]);
    let mut devices: Vec<Registered> = (0..DEVICES)
        .map(|number| if number % 2 == 0 { plain(&nodes[0], number) } else { secured(&nodes[0], number) })
        .collect();
    assert_eq!(application.receive().1["msgType"], "register");

    // The first device has got a command when its node is killed.
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    application.send("plain-0", &command);
    let Registered::Plain(device) = &mut devices[0] else { panic!("it is one without DTLS") };
    let asked = device.receive();
    assert_eq!(path_of(&asked), "/3/0/0");
    nodes[0].gateway.kill();
    let killed = now();

    let survivor = &nodes[1];
    device.reaches(survivor.gateway.address());
    let again = device.receive();
    assert_eq!((again.id, again.token), (asked.id, asked.token), "the same message");
    device.send(&response_to(&again, Code::CONTENT, Some((0, b"Acme"))));
    application.expect("lwm2m/plain-0/up/resp", &answer(&command, content("/3/0/0", "Acme")));
    for device in &mut devices {
        device.reaches(survivor);
        while !device.updates() {
            assert!(now() - killed < TAKEOVER, "{}", survivor.gateway.output());
        }
    }
    println!("the other node has served all devices after {:?}", now() - killed);
    assert_eq!(survivor.shards(), 256.0);
    let output = survivor.gateway.output();
    assert!(!output.contains("device registered") && !output.contains("association established"), "{output}");
    assert_eq!(application.receive_within(Duration::from_millis(500)), None, "one final form");
    for device in &devices {
        if let Registered::Secured { device, .. } = device {
            let numbers = device.numbers();
            assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_stopped_gives_its_devices_up_and_one_that_ends_hands_them_over() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let mut nodes = [Node::start(0, &broker, &server), Node::start(1, &broker, &server)];
    until_divided(&[&nodes[0], &nodes[1]]);
    let mut application = Application::connect(&broker.addresses.mqtt, &["plain-0"]);
    let mut devices: Vec<Registered> = (0..DEVICES)
        .map(|number| if number % 2 == 0 { plain(&nodes[0], number) } else { secured(&nodes[0], number) })
        .collect();
    assert_eq!(application.receive().1["msgType"], "register");

    nodes[0].gateway.signal("STOP");
    let stopped = now();
    for device in &mut devices {
        device.reaches(&nodes[1]);
        while !device.updates() {
            assert!(now() - stopped < TAKEOVER, "{}", nodes[1].gateway.output());
        }
    }
    nodes[0].gateway.signal("CONT");
    until("the node that was stopped has given its shards up", || {
        nodes[0].metric("lwm2m_shard_moves_total{reason=\"lost\"}") >= 100.0
    });
    assert!(devices.iter_mut().all(Registered::updates), "the other node serves them");
    // It gets shards again by a handover, and the devices of these shards with them.
    until_divided(&[&nodes[0], &nodes[1]]);
    let is_back = |device: &mut Registered| {
        device.reaches(&nodes[0]);
        device.updates()
    };
    let back = devices.iter_mut().filter_map(|device| is_back(device).then_some(())).count();
    assert!(back > 0, "some devices are served by the node that was stopped");

    assert_eq!(nodes[0].gateway.stop("TERM").code(), Some(0));
    let output = nodes[0].gateway.output();
    assert!(output.contains("all shards were handed over"), "{output}");
    let ended = now();
    for device in &mut devices {
        device.reaches(&nodes[1]);
        while !device.updates() {
            assert!(now() - ended < TAKEOVER, "{}", nodes[1].gateway.output());
        }
    }
    println!("all devices were served {:?} after the end of their node", now() - ended);
    let outputs = nodes.each_ref().map(|node| node.gateway.output()).concat();
    assert_eq!(outputs.matches("device registered").count(), DEVICES);
    assert_eq!(outputs.matches("association established").count(), DEVICES / 2);
    for device in &devices {
        if let Registered::Secured { device, .. } = device {
            let numbers = device.numbers();
            assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        }
    }
    assert_eq!(application.receive_within(Duration::from_millis(500)), None, "nothing is published for a takeover");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_registered_at_one_node_and_nodes_serve_without_the_store_while_they_hear_each_other() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let nodes = [0, 1].map(|number| Node::start_with(number, &broker, &server, "cluster.isolated = \"suspend\"\n"));
    until_divided(&[&nodes[0], &nodes[1]]);
    let mut device = Device::new(nodes[0].gateway.address());
    device.register("ep=one&lt=3000", LINKS);
    let mut other = Device::new(nodes[1].gateway.address());
    other.register("ep=one&lt=3000", LINKS);
    assert_eq!(device.deregister().code, Code::NOT_FOUND, "the node has replaced its registration");
    let mut device = Registered::Plain(other);

    server.signal("STOP");
    let all_without = |node: &Node| node.metric("lwm2m_store_contact{state=\"all_without\"}") == 1.0;
    until("the nodes know that none reaches the store", || nodes.iter().all(all_without));
    assert!(device.updates(), "the nodes serve from memory");
    let unknown = Device::new(nodes[0].gateway.address()).try_register("ep=two&lt=3000", LINKS);
    assert_eq!(unknown.code, Code::SERVICE_UNAVAILABLE, "the store cannot tell who has the name");
    nodes[0].gateway.signal("STOP");
    until("the node suspends its shards", || nodes[1].gateway.ask_admin("/readyz").0 == 503);
    assert!(!device.updates(), "a suspended node answers nobody");
    nodes[0].gateway.signal("CONT");
    until("the node serves again", || device.updates());
    server.signal("CONT");
    until("the node reaches the store", || nodes[1].metric("lwm2m_store_contact{state=\"sure\"}") == 1.0);
    until_divided(&[&nodes[0], &nodes[1]]);
    let registered = |node: &Node| node.gateway.output().matches("device registered").count();
    assert_eq!(nodes.each_ref().map(registered), [2, 0], "the node that has the name registers the device again");

    let mut alone = Gateway::start_without_waiting(&broker.addresses, &server.lines());
    assert_eq!(alone.wait().code(), Some(1), "a gateway without a cluster does not use its store");
    assert!(alone.output().contains("the records have format cluster-1"), "{}", alone.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_weight_0_serves_while_no_other_node_does() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let broker = TestBroker::start().await;
    let mut first = Node::start(0, &broker, &server);
    let second = Node::start_with(1, &broker, &server, &format!("{LEASES}cluster.weight = 0\n"));
    let have = |shares: [f64; 2], first: &Node| [first.shards(), second.shards()] == shares;
    until("the first node has all shards", || have([256.0, 0.0], &first));
    let mut device = plain(&first, 0);
    first.gateway.kill();
    until("the second node has all shards", || second.shards() == 256.0);
    device.reaches(&second);
    until("the second node serves", || device.updates());
    first.gateway.start_without_waiting_again();
    until("the first node has all shards again", || have([256.0, 0.0], &first));
    device.reaches(&first);
    until("the first node serves", || device.updates());
    assert_eq!(first.gateway.output().matches("device registered").count(), 1);
    assert!(!second.gateway.output().contains("device registered"));
}
