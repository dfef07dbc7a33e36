//! A UDP balancer before the nodes of a cluster. It tracks connections: a client hears only the node to which its last
//! datagram went.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// How the balancer chooses the node of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) enum Balance {
    /// By the address of the client and this number. Another number is another hash.
    Hash(u64),
    /// In turns, each datagram for itself.
    PerPacket,
}

pub(super) struct Balancer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    front: UdpSocket,
    nodes: Mutex<Vec<SocketAddr>>,
    /// The indices of the nodes that get no datagrams.
    let_go: Mutex<HashSet<usize>>,
    balance: Mutex<Balance>,
    turn: AtomicU64,
    /// Datagrams that came from a node to which the last datagram of their client did not go.
    strays: AtomicU64,
}

impl Balancer {
    pub(super) async fn before(nodes: Vec<SocketAddr>) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = front.local_addr().expect("bound");
        let (balance, turn, strays) = (Mutex::new(Balance::Hash(0)), AtomicU64::new(0), AtomicU64::new(0));
        let (nodes, let_go) = (Mutex::new(nodes), Mutex::default());
        let shared = Arc::new(Shared { front, nodes, let_go, balance, turn, strays });
        Self { address, task: tokio::spawn(run(Arc::clone(&shared))), shared }
    }

    pub(super) fn balance(&self, balance: Balance) {
        *self.shared.balance.lock().expect("no panic") = balance;
    }

    /// Takes a further node, by which the hash of each client becomes another one.
    pub(super) fn join(&self, node: SocketAddr) {
        self.shared.nodes.lock().expect("no panic").push(node);
    }

    /// Gives a node no datagrams any more, or gives it some again.
    pub(super) fn let_go(&self, node: usize, is_let_go: bool) {
        let mut let_go = self.shared.let_go.lock().expect("no panic");
        if is_let_go {
            let_go.insert(node)
        } else {
            let_go.remove(&node)
        };
    }

    /// Returns the number of answers that were dropped because they came from the wrong node.
    pub(super) fn strays(&self) -> u64 {
        self.shared.strays.load(Ordering::Relaxed)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client: the socket by which the nodes know it, and the node of its last datagram.
struct Client {
    socket: Arc<UdpSocket>,
    node: Arc<Mutex<SocketAddr>>,
    back: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.back.abort();
    }
}

async fn run(shared: Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut buffer = vec![0; 65_535];
    loop {
        let Ok((length, client)) = shared.front.recv_from(&mut buffer).await else { continue };
        let node = shared.choose(client);
        if let std::collections::hash_map::Entry::Vacant(vacant) = clients.entry(client) {
            let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
            let current = Arc::new(Mutex::new(node));
            let back = tokio::spawn(hand_back(Arc::clone(&shared), client, Arc::clone(&socket), Arc::clone(&current)));
            vacant.insert(Client { socket, node: current, back });
        }
        let entry = &clients[&client];
        *entry.node.lock().expect("no panic") = node;
        entry.socket.send_to(&buffer[..length], node).await.expect("loopback");
    }
}

async fn hand_back(shared: Arc<Shared>, client: SocketAddr, socket: Arc<UdpSocket>, node: Arc<Mutex<SocketAddr>>) {
    let mut buffer = vec![0; 65_535];
    loop {
        // An error is that of an earlier datagram to a node that is not there.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if from == *node.lock().expect("no panic") {
            shared.front.send_to(&buffer[..length], client).await.expect("loopback");
        } else {
            shared.strays.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn choose(&self, client: SocketAddr) -> SocketAddr {
        let number = match *self.balance.lock().expect("no panic") {
            Balance::Hash(salt) => {
                (u64::from(client.port()) ^ salt.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x2545_f491)
            }
            Balance::PerPacket => self.turn.fetch_add(1, Ordering::Relaxed) << 16,
        };
        let nodes = self.nodes.lock().expect("no panic");
        let first = (number >> 16) as usize % nodes.len();
        let let_go = self.let_go.lock().expect("no panic");
        // The other nodes keep their clients.
        let mut in_turn = (first..first + nodes.len()).map(|index| index % nodes.len());
        nodes[in_turn.find(|index| !let_go.contains(index)).expect("a node is left")]
    }
}
