//! Nodes with real sockets and certificates, and a network between them that is cut or frozen.

use std::path::PathBuf;
use std::time::Duration;

use lwm2m_cluster::{Incarnation, NodeAddress};
use lwm2m_dtls::test_client::credentials::Certified;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::tls::Connector;

const PATIENCE: Duration = Duration::from_secs(20);
const LISTENERS: [&str; 2] = ["listeners.udp.default", "listeners.dtls.default"];

/// The certificates of a cluster.
struct Authority {
    folder: TempDir,
    certified: Certified,
    cacertfile: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let (folder, certified) = (TempDir::new().expect("a folder"), Certified::authority(name));
        let (cacertfile, _) = certified.write(folder.path(), "ca");
        Self { folder, certified, cacertfile }
    }

    fn tls(&self, name: &str) -> TlsConfig {
        let (certfile, keyfile) = self.certified.certify(name).write(self.folder.path(), name);
        TlsConfig {
            cacertfile: Some(self.cacertfile.clone()),
            certfile: Some(certfile),
            keyfile: Some(keyfile),
            ..TlsConfig::default()
        }
    }
}

struct Node {
    number: NodeNumber,
    address: SocketAddr,
    handle: PeerHandle,
    running: RunningPeers,
    directory: watch::Sender<Arc<Directory>>,
    messages: mpsc::Receiver<(NodeNumber, PeerMessage)>,
    inputs: mpsc::Receiver<PeerInput>,
}

fn node(number: u64) -> NodeNumber {
    NodeNumber::try_from(number).expect("7 bits")
}

fn process(number: u64) -> NodeProcess {
    NodeProcess { node: node(number), incarnation: Incarnation(1) }
}

impl Node {
    /// Starts the node of this number, with the name `gw-NUMBER` and a certificate for `certificate`.
    async fn start(number: u64, authority: &Authority, certificate: &str) -> Self {
        let (directory, listed) = watch::channel(Arc::default());
        let (member, messages) = mpsc::channel(16);
        let (driver, inputs) = mpsc::channel(16);
        let config = PeerConfig {
            process: process(number),
            name: format!("gw-{number}"),
            bind: "127.0.0.1:0".parse().expect("an address"),
            advertise: "127.0.0.1:1".to_owned(),
            patience: Duration::from_secs(5),
            tls: authority.tls(certificate),
            listeners: LISTENERS.map(str::to_owned).to_vec(),
        };
        let metrics = Arc::new(PeerMetrics::register(&mut Default::default()));
        let link = PeerLink::bind(config, listed, PeerReceivers { member, driver }, metrics).await.expect("a port");
        let address = link.local_address().expect("bound");
        let running = link.start();
        Self { number: node(number), address, handle: running.handle(), running, directory, messages, inputs }
    }

    /// Tells the node that another one has this name and address.
    fn lists(&self, number: u64, address: SocketAddr) {
        let address = NodeAddress { name: format!("gw-{number}"), address: address.to_string() };
        self.directory.send_modify(|directory| {
            let others = directory.iter().map(|(node, address)| (node, address.clone()));
            *directory = Arc::new(others.chain([(node(number), address)]).collect());
        });
    }

    async fn is_connected_to(&self, number: u64, is_connected: bool) {
        let mut connected = self.handle.0.connected.subscribe();
        let reached = connected.wait_for(|nodes| nodes.contains(node(number)) == is_connected);
        timeout(PATIENCE, reached).await.expect("in time").expect("it runs");
    }

    async fn input(&mut self) -> PeerInput {
        timeout(PATIENCE, self.inputs.recv()).await.expect("in time").expect("it runs")
    }

    fn metrics(&self) -> &PeerMetrics {
        self.handle.metrics()
    }
}

/// Two nodes, the first of which knows the second.
async fn two() -> [Node; 2] {
    let authority = Authority::new("cluster");
    let [first, second] = [Node::start(1, &authority, "gw-1").await, Node::start(2, &authority, "gw-2").await];
    first.lists(2, second.address);
    first.is_connected_to(2, true).await;
    [first, second]
}

fn flow(socket: u16) -> Flow {
    Flow { socket, address: SocketAddr::from(([192, 0, 2, 1], 5683)) }
}

fn hop(to: u64) -> Hop {
    Hop { to: node(to), shard: Shard::new(7), entry: node(1), hops: 1, is_learned: true }
}

#[tokio::test]
async fn what_a_node_sends_comes_to_the_other_one_in_its_order() {
    let [first, mut second] = two().await;
    let asked = monotonic_now();
    first.handle.send(second.number, PeerMessage::Ping { from: process(1), asked });
    first.handle.forward(hop(2), flow(1), b"one");
    first.handle.reply(second.number, flow(0), b"two");
    first.handle.learn(second.number, flow(1), Shard::new(9), true);
    first.handle.not_mine(second.number, Shard::new(9), Some(node(5)));
    first.handle.tell_ways(second.number, node(6), &[flow(1), flow(0)]);

    let forwarded = Forwarded { shard: Shard::new(7), entry: node(1), hops: 1, is_learned: true, flow: flow(1) };
    let datagram = b"one"[..].into();
    assert_eq!(second.input().await, PeerInput::Forwarded { from: node(1), forwarded, datagram });
    assert_eq!(second.input().await, PeerInput::Reply { flow: flow(0), datagram: b"two"[..].into() });
    assert_eq!(second.input().await, PeerInput::Learn { flow: flow(1), shard: Shard::new(9), has_device: true });
    let not_mine = PeerInput::NotMine { from: node(1), shard: Shard::new(9), owner: Some(node(5)) };
    assert_eq!(second.input().await, not_mine);
    for socket in 0..2 {
        assert_eq!(second.input().await, PeerInput::Ways { entry: node(6), flows: vec![flow(socket)] });
    }

    let (from, message) = timeout(PATIENCE, second.messages.recv()).await.expect("in time").expect("it runs");
    assert!(matches!((from, message), (one, PeerMessage::Ping { from, .. }) if one == node(1) && from == process(1)));
    let counted = |node: &Node| {
        let PeerMetrics { out, in_, answers_out, answers_in, .. } = node.metrics();
        [out, in_, answers_out, answers_in].map(|counter| counter.get())
    };
    assert_eq!((counted(&first), counted(&second)), ([1, 0, 1, 0], [0, 1, 0, 1]));
    assert_eq!((first.metrics().connected.get(), first.metrics().away.get()), (1, 0));
}

#[tokio::test]
async fn the_time_of_a_ping_comes_back_although_the_other_node_does_not_list_the_asker() {
    let authority = Authority::new("cluster");
    let [mut first, mut second] = [Node::start(1, &authority, "gw-1").await, Node::start(2, &authority, "gw-2").await];
    // The address in the hello of the test is that of nobody.
    second.lists(1, first.address);
    first.lists(2, second.address);
    first.is_connected_to(2, true).await;
    second.is_connected_to(1, true).await;
    let asked = monotonic_now();
    first.handle.send(node(2), PeerMessage::Ping { from: process(1), asked });
    let (from, message) = timeout(PATIENCE, second.messages.recv()).await.expect("in time").expect("it runs");
    let PeerMessage::Ping { asked: opaque, .. } = message else { panic!("a ping") };
    let pong = PeerMessage::Pong {
        from: process(2),
        asked: opaque,
        reaches: true,
        newest: None,
        acquired: Vec::new(),
        others: Vec::new(),
    };
    second.handle.send(from, pong);
    let (_, answer) = timeout(PATIENCE, first.messages.recv()).await.expect("in time").expect("it runs");
    assert!(matches!(answer, PeerMessage::Pong { asked: returned, .. } if returned == asked));
}

#[tokio::test]
async fn a_node_without_a_connection_gets_nothing_and_that_is_counted() {
    let authority = Authority::new("cluster");
    let first = Node::start(1, &authority, "gw-1").await;
    first.handle.forward(hop(2), flow(0), b"one");
    assert_eq!((first.metrics().drops.peer_away.get(), first.metrics().out.get()), (1, 0));
}

#[tokio::test]
async fn a_datagram_for_a_listener_that_the_node_does_not_have_is_dropped() {
    let authority = Authority::new("cluster");
    let [first, mut second] = [Node::start(1, &authority, "gw-1").await, Node::start(2, &authority, "gw-2").await];
    let stranger = connected(&authority, "gw-3", &second, process(3), "gw-3").await;
    let mut stream = stranger.expect("a node of the cluster");
    let flow = NamedFlow { listener: "listeners.udp.other", address: ([192, 0, 2, 1], 1).into() };
    write(&mut stream, &Frame::Reply(ForwardReply { flow, datagram: b"lost" })).await;
    let flow = NamedFlow { listener: LISTENERS[1], ..flow };
    write(&mut stream, &Frame::Reply(ForwardReply { flow, datagram: b"there" })).await;
    assert!(matches!(second.input().await, PeerInput::Reply { datagram, .. } if &*datagram == b"there"));
    assert_eq!(second.metrics().drops.no_listener.get(), 1);
    drop(first);
}

async fn write(stream: &mut tokio_openssl::SslStream<TcpStream>, frame: &Frame<'_>) {
    let mut bytes = Vec::new();
    frame.encode(FrameClock::new(monotonic_now()), &mut bytes).expect("a short frame");
    stream.write_all(&bytes).await.expect("a connection");
}

/// Connects to a node with the certificate of this name, and a hello with these contents. Returns the connection if
/// the node answers with its own hello.
async fn connected(
    authority: &Authority,
    certificate: &str,
    to: &Node,
    process: NodeProcess,
    name: &str,
) -> Option<tokio_openssl::SslStream<TcpStream>> {
    let connector = Connector::new(&authority.tls(certificate)).expect("certificates");
    let stream = TcpStream::connect(to.address).await.expect("a port");
    let own_name = format!("gw-{}", to.number);
    let mut stream = connector.connect(&own_name, stream).await.ok()?;
    let mut hello = Vec::new();
    let frame = Frame::Hello(Hello { process, name, address: "127.0.0.1:1" });
    frame.encode(FrameClock::new(monotonic_now()), &mut hello).expect("a short frame");
    stream.write_all(&hello).await.ok()?;
    outgoing::read_frame(&mut stream).await.ok()?;
    Some(stream)
}

#[tokio::test]
async fn a_node_of_a_foreign_authority_or_with_another_name_is_refused() {
    let (authority, foreign) = (Authority::new("cluster"), Authority::new("another"));
    let second = Node::start(2, &authority, "gw-2").await;
    second.lists(4, "127.0.0.1:1".parse().expect("an address"));
    // The names of the listed node 4, and of nodes that are not listed.
    for (certificate, number, name, is_accepted) in [
        ("gw-3", 3, "gw-3", true),
        ("gw-4", 4, "gw-4", true),
        ("gw-9", 3, "gw-3", false),
        ("gw-9", 4, "gw-9", false),
        ("gw-2", 2, "gw-2", false),
    ] {
        let refused = second.metrics().refused.get();
        let stream = connected(&authority, certificate, &second, process(number), name).await;
        assert_eq!(stream.is_some(), is_accepted, "{certificate} as {number}, {name}");
        assert_eq!(second.metrics().refused.get() - refused, u64::from(!is_accepted));
    }
    // The foreign node would trust this one.
    let trusting = Authority { cacertfile: authority.cacertfile.clone(), ..foreign };
    assert!(connected(&trusting, "gw-3", &second, process(3), "gw-3").await.is_none());
}

#[tokio::test]
async fn a_node_connects_to_nobody_but_the_node_that_it_looks_for() {
    let (authority, foreign) = (Authority::new("cluster"), Authority::new("another"));
    let first = Node::start(1, &authority, "gw-1").await;
    let others = [
        (2, Node::start(2, &authority, "gw-9").await),
        (3, Node::start(3, &foreign, "gw-3").await),
        // It is another node than the list says.
        (5, Node::start(4, &authority, "gw-5").await),
    ];
    others.iter().for_each(|(number, other)| first.lists(*number, other.address));
    let sixth = Node::start(6, &authority, "gw-6").await;
    first.lists(6, sixth.address);
    first.is_connected_to(6, true).await;
    // Each of them is tried more than once until then.
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
        assert_eq!(first.handle.connected(), NodeSet::default().with(node(6)));
    }
    assert_eq!((first.metrics().connected.get(), first.metrics().away.get()), (1, 3));
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_the_connection() {
    let authority = Authority::new("cluster");
    let second = Node::start(2, &authority, "gw-2").await;
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02\x01\x03", b"\0\0\0\x02\x07\x03"] {
        let mut stream = connected(&authority, "gw-3", &second, process(3), "gw-3").await.expect("a node");
        stream.write_all(bytes).await.expect("a connection");
        let end = timeout(PATIENCE, outgoing::read_frame(&mut stream)).await.expect("in time");
        assert!(end.is_err(), "{bytes:?}");
    }
    // A kind that a newer node knows is skipped.
    let mut stream = connected(&authority, "gw-3", &second, process(3), "gw-3").await.expect("a node");
    stream.write_all(b"\0\0\0\x02\x01\xf0").await.expect("a connection");
    let mut second = second;
    write(&mut stream, &Frame::NotMine(NotMine { shard: Shard::new(1), owner: None })).await;
    assert!(matches!(second.input().await, PeerInput::NotMine { .. }));
}

/// A TCP proxy that can be cut and frozen.
struct Proxy {
    address: SocketAddr,
    frozen: watch::Sender<bool>,
    connections: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (frozen, connections) = (watch::Sender::new(false), watch::Sender::new(0_u64));
        let (is_frozen, cut) = (frozen.clone(), connections.clone());
        let task = tokio::spawn(async move {
            let mut relays = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let server = TcpStream::connect(target).await.expect("the node");
                relays.spawn(relay(client, server, is_frozen.subscribe(), cut.subscribe()));
            }
        });
        Self { address, frozen, connections, task }
    }

    fn cut(&self) {
        self.connections.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Relays a connection until it is cut. While it is frozen nothing is read.
async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    mut frozen: watch::Receiver<bool>,
    mut cut: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
    let mut watched = frozen.clone();
    let up = async {
        loop {
            let mut piece = Vec::with_capacity(64 << 10);
            drop(frozen.wait_for(|is_frozen| !is_frozen).await);
            match tokio::io::AsyncReadExt::read_buf(&mut from_client, &mut piece).await {
                Ok(read) if read > 0 => to_server.write_all(&piece).await.unwrap_or_default(),
                Ok(_) | Err(_) => return,
            }
        }
    };
    let down = async {
        loop {
            let mut piece = Vec::with_capacity(64 << 10);
            drop(watched.wait_for(|is_frozen| !is_frozen).await);
            match tokio::io::AsyncReadExt::read_buf(&mut from_server, &mut piece).await {
                Ok(read) if read > 0 => to_client.write_all(&piece).await.unwrap_or_default(),
                Ok(_) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = cut.changed() => {}
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_opened_again() {
    let [first, mut second] = two().await;
    let proxy = Proxy::before(second.address).await;
    first.lists(2, proxy.address);
    first.is_connected_to(2, false).await;
    for number in 0..3_u8 {
        first.is_connected_to(2, true).await;
        first.handle.forward(hop(2), flow(0), &[number]);
        assert!(matches!(second.input().await, PeerInput::Forwarded { datagram, .. } if *datagram == [number]));
        proxy.cut();
        first.is_connected_to(2, false).await;
    }
    assert_eq!(first.metrics().drops.connection_lost.get(), 0, "nothing waited");
}

#[tokio::test]
async fn a_connection_that_is_frozen_holds_a_bounded_number_of_bytes_and_ends() {
    let [first, mut second] = two().await;
    let proxy = Proxy::before(second.address).await;
    first.lists(2, proxy.address);
    first.is_connected_to(2, false).await;
    first.is_connected_to(2, true).await;
    let began = Instant::now();
    proxy.frozen.send_replace(true);
    let datagram = [0; 60_000];
    let drops = &first.metrics().drops;
    while drops.queue_full.get() == 0 {
        // The task of the connection has its turn, until the buffers of the system are full.
        tokio::task::yield_now().await;
        first.handle.forward(hop(2), flow(0), &datagram);
        assert!(began.elapsed() < PATIENCE);
    }
    first.is_connected_to(2, false).await;
    let (lost, sent) = (drops.connection_lost.get(), first.metrics().out.get());
    assert!(lost > 0 && lost <= sent, "{lost} of {sent}");
    proxy.frozen.send_replace(false);
    first.is_connected_to(2, true).await;
    while second.inputs.try_recv().is_ok() {}
    first.handle.reply(second.number, flow(0), b"alive");
    while !matches!(second.input().await, PeerInput::Reply { datagram, .. } if &*datagram == b"alive") {}
}

#[tokio::test]
async fn a_node_that_has_left_the_list_and_is_not_connected_is_not_called_any_more() {
    let authority = Authority::new("cluster");
    let [first, second] = [Node::start(1, &authority, "gw-1").await, Node::start(2, &authority, "gw-2").await];
    first.lists(2, second.address);
    second.lists(1, first.address);
    first.is_connected_to(2, true).await;
    second.is_connected_to(1, true).await;

    let Node { running, handle, .. } = second;
    drop((running, handle));
    first.is_connected_to(2, false).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(first.metrics().away.get(), 1, "it is listed: it may come back");
    first.directory.send_replace(Arc::default());
    let end = Instant::now() + PATIENCE;
    while first.metrics().away.get() > 0 {
        assert!(Instant::now() < end, "it is still called");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(first.metrics().connected.get(), 0);
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_node_out() {
    let authority = Authority::new("cluster");
    let second = Node::start(2, &authority, "gw-2").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(second.address).await.expect("a port"));
    }
    let began = Instant::now();
    assert!(connected(&authority, "gw-3", &second, process(3), "gw-3").await.is_some());
    let took = began.elapsed();
    assert!(took < outgoing::CONNECT_TIMEOUT / 2, "{took:?}");
    assert!(second.metrics().refused.get() >= 68, "the oldest of them were closed");
}

#[tokio::test]
async fn a_node_that_is_dropped_serves_nobody_any_more() {
    let [first, second] = two().await;
    let Node { running, handle, .. } = second;
    drop((running, handle));
    first.is_connected_to(2, false).await;
}
