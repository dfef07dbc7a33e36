//! The state of EMQX's nodes, as far as dials, calls and probes have shown, and the choice of the node that a device goes to.
//!
//! A node goes down by the faults that devices and probes meet there, and comes up again by a probe alone: an anchor
//! without a device, of which the node has to tell our handler, and a call on it. So the listener, the handler's channel and
//! the adapter are known to work before devices come back.
//!
//! A node that is down gets no new anchors. The clients that it has stay as long as their connections do, unless two
//! probes have shown that the node cannot serve them and another one is up: then they are taken away from it. Nothing is
//! moved back to a node that has recovered; it has the fewest devices, and so it gets the next ones.

use std::net::SocketAddr;

use tracing::{info, warn};

use super::ExProtoConfig;

/// Faults in a row after which a node is down, of those that a single device may meet on a node that is fine.
const TOLERATED: u32 = 3;
/// Probes that have to fail before the clients of a node are taken away from it.
const FAILED_PROBES: u32 = 2;

/// The position of a node in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// What can be wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// Its listener was not reached.
    NotReached(&'a str),
    /// It closed an anchor before it told us of it. Its listener may be full, or the handler out of its reach.
    AnchorClosed,
    /// It took an anchor, and did not tell us of it.
    AnchorUntold,
    /// Its adapter was not reached, or does not serve its anchors.
    NotServed(&'a str),
    /// Its adapter took a call, and did not answer.
    Unanswered,
}

#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    /// Since the standing was told last.
    changed: bool,
}

/// How it is with all nodes, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// One at least is known to serve.
    pub serving: bool,
    pub detail: String,
}

#[derive(Debug)]
struct Node {
    /// As it stands in the log: its listeners.
    name: String,
    sides: Sides,
    state: State,
    /// Why it went down last.
    fault: String,
    /// Anchors of devices there, those that are on their way included.
    anchors: usize,
    /// Devices there that are clients of EMQX.
    clients: usize,
    /// Whether it ever told us of an anchor, and whether its adapter ever answered.
    told: bool,
    answered: bool,
    /// In a row, up to now.
    untold: u32,
    unanswered: u32,
}

/// The addresses that have to fit together with those of a node, with the keys that name them.
#[derive(Clone, Debug)]
struct Sides {
    listener_key: &'static str,
    adapter_key: &'static str,
    adapter: String,
    handler: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down {
        failed_probes: u32,
        /// It cannot serve those either that are connected.
        clients_lost: bool,
        /// They were taken away from it.
        left: bool,
    },
}

impl Nodes {
    /// All of them count as up until something else is known.
    pub fn new(settings: &ExProtoConfig) -> Self {
        let several = settings.nodes.len() > 1;
        let node = |node: &super::Node| {
            let sides = Sides::new(several, &node.adapter, settings.handler_bind);
            Node::new(node.listeners.join(", "), sides)
        };
        Self { nodes: settings.nodes.iter().map(node).collect(), changed: true }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.nodes.get(id.0).is_some_and(Node::is_up)
    }

    pub fn any_up(&self) -> bool {
        self.nodes.iter().any(Node::is_up)
    }

    pub fn up(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_up()).count()
    }

    /// Whether the standing has changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn standing(&self) -> Standing {
        Standing {
            serving: self.nodes.iter().any(|node| node.is_up() && node.answered),
            detail: self.nodes.iter().map(Node::told_to_people).collect::<Vec<_>>().join("; "),
        }
    }

    /// Where a device goes next: to the node where it was, if that is up, else to the one with the fewest anchors. With
    /// `elsewhere`, to the node where it was only if no other is up.
    pub fn choose(&self, before: Option<NodeId>, elsewhere: bool) -> Option<NodeId> {
        let before = before.filter(|id| self.is_up(*id));
        let others =
            self.nodes.iter().enumerate().filter(|(index, node)| node.is_up() && Some(NodeId(*index)) != before);
        let other = others.min_by_key(|(_, node)| node.anchors).map(|(index, _)| NodeId(index));
        if elsewhere { other.or(before) } else { before.or(other) }
    }

    /// An anchor goes there.
    pub fn add_anchor(&mut self, id: NodeId) {
        self.nodes[id.0].anchors += 1;
    }

    pub fn remove_anchor(&mut self, id: NodeId) {
        self.nodes[id.0].anchors -= 1;
    }

    /// A device there is a client of EMQX now.
    pub fn add_client(&mut self, id: NodeId) {
        self.nodes[id.0].clients += 1;
    }

    pub fn remove_client(&mut self, id: NodeId) {
        self.nodes[id.0].clients -= 1;
    }

    /// Returns how many devices are clients there.
    pub fn clients_of(&self, id: NodeId) -> usize {
        self.nodes[id.0].clients
    }

    /// Returns how many devices are clients, at all nodes.
    pub fn clients(&self) -> usize {
        self.nodes.iter().map(|node| node.clients).sum()
    }

    #[cfg(test)]
    pub fn anchors(&self, id: NodeId) -> usize {
        self.nodes[id.0].anchors
    }

    /// It told us of an anchor.
    pub fn told(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        node.untold = 0;
        node.told = true;
    }

    /// Its adapter answered a call, whatever the answer was.
    pub fn answered(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        node.unanswered = 0;
        if !std::mem::replace(&mut node.answered, true) {
            info!(node = node.name, "EMQX available");
            self.changed = true;
        }
    }

    /// A device met this there. Says whether the node is down by it.
    pub fn failed(&mut self, id: NodeId, fault: Fault<'_>) -> bool {
        let node = &mut self.nodes[id.0];
        match &mut node.state {
            State::Down { clients_lost, .. } => {
                *clients_lost |= fault.loses_clients();
                false
            }
            State::Up => {
                let down = node.counts(fault);
                if down {
                    node.state = State::Down { failed_probes: 0, clients_lost: fault.loses_clients(), left: false };
                    node.fault = node.in_words(fault);
                    self.changed = true;
                    warn!(node = node.name, "EMQX unavailable: {}", node.fault);
                }
                down
            }
        }
    }

    pub fn probe_failed(&mut self, id: NodeId, fault: Fault<'_>) {
        if let State::Down { failed_probes, clients_lost, .. } = &mut self.nodes[id.0].state {
            *failed_probes = failed_probes.saturating_add(1);
            *clients_lost |= fault.loses_clients();
        }
    }

    /// Says whether the node was down until now.
    pub fn probe_succeeded(&mut self, id: NodeId) -> bool {
        let node = &mut self.nodes[id.0];
        let was_down = !node.is_up();
        (node.state, node.untold, node.unanswered) = (State::Up, 0, 0);
        if was_down {
            info!(node = node.name, "EMQX available again");
            self.changed = true;
        }
        was_down
    }

    /// The nodes whose clients have to be taken away now. Gives each of them once in its time of being down.
    pub fn take_left(&mut self) -> Vec<NodeId> {
        if !self.any_up() {
            return Vec::new();
        }
        let due = self.nodes.iter_mut().enumerate().filter_map(|(index, node)| node.leave().then_some(NodeId(index)));
        due.collect()
    }
}

impl Node {
    fn new(name: String, sides: Sides) -> Self {
        Self {
            name,
            sides,
            state: State::Up,
            fault: String::new(),
            anchors: 0,
            clients: 0,
            told: false,
            answered: false,
            untold: 0,
            unanswered: 0,
        }
    }

    fn told_to_people(&self) -> String {
        match self.state {
            State::Up if self.answered => format!("{} is available", self.name),
            State::Up => format!("{} has not answered yet", self.name),
            State::Down { .. } => format!("{} is unavailable: {}", self.name, self.fault),
        }
    }

    /// Says what is wrong, which key names what was tried, and what to look at. The node itself is named around it.
    fn in_words(&self, fault: Fault<'_>) -> String {
        let Self { name, sides: Sides { listener_key, adapter_key, adapter, handler }, .. } = self;
        match fault {
            Fault::NotReached(why) => {
                let why = why.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why);
                format!(
                    "its exproto listener ({listener_key}) cannot be reached: {why}. Is EMQX running, and exproto \
                     enabled? \"emqx ctl gateway list\" tells"
                )
            }
            Fault::AnchorClosed => format!(
                "its listener closes connections at once: it is full (max_connections), or EMQX cannot call our \
                 handler: \"handler.address\" in EMQX has to lead to {handler} (upstream.exproto.handler_bind)"
            ),
            Fault::AnchorUntold => format!(
                "it takes connections, but does not call our handler: \"handler.address\" in EMQX has to lead to \
                 {handler} (upstream.exproto.handler_bind). Or is this ({listener_key}) not the exproto listener?"
            ),
            Fault::NotServed(why) => format!(
                "its ConnectionAdapter {adapter} ({adapter_key}) cannot be reached: {why}. It is \"server.bind\" of \
                 exproto in EMQX"
            ),
            Fault::Unanswered => {
                format!("its ConnectionAdapter {adapter} ({adapter_key}) takes calls, but does not answer them")
            }
        }
    }

    fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether this fault is one too many. A node that never told us of an anchor is not given the benefit of the doubt.
    fn counts(&mut self, fault: Fault<'_>) -> bool {
        match fault {
            Fault::NotReached(_) | Fault::NotServed(_) => true,
            Fault::AnchorClosed | Fault::AnchorUntold => {
                self.untold += 1;
                !self.told || self.untold >= TOLERATED
            }
            Fault::Unanswered => {
                self.unanswered += 1;
                self.unanswered >= TOLERATED
            }
        }
    }

    fn leave(&mut self) -> bool {
        match &mut self.state {
            State::Down { failed_probes: FAILED_PROBES.., clients_lost: true, left } => !std::mem::replace(left, true),
            State::Down { .. } | State::Up => false,
        }
    }
}

impl Fault<'_> {
    /// Where only new anchors fail, those that are there may be fine.
    fn loses_clients(self) -> bool {
        match self {
            Self::NotReached(_) | Self::AnchorClosed => false,
            Self::AnchorUntold | Self::NotServed(_) | Self::Unanswered => true,
        }
    }
}

impl Sides {
    fn new(several: bool, adapter: &str, handler: SocketAddr) -> Self {
        let key = |one| if several { "upstream.exproto.nodes" } else { one };
        Self {
            listener_key: key("upstream.exproto.listener"),
            adapter_key: key("upstream.exproto.adapter"),
            adapter: adapter.to_owned(),
            handler: match handler.ip().is_unspecified() {
                true => format!("port {} of this machine", handler.port()),
                false => format!("http://{handler}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);
    const REFUSED: Fault<'_> = Fault::NotReached("connection refused");
    const UNAVAILABLE: Fault<'_> = Fault::NotServed("unavailable");

    fn two() -> Nodes {
        let handler = SocketAddr::from(([10, 0, 0, 7], 9002));
        let node = |name: &str| Node::new(format!("{name}:7993"), Sides::new(true, "http://10.0.0.5:9100", handler));
        Nodes { nodes: vec![node("a"), node("b")], changed: true }
    }

    #[test]
    fn a_fault_is_told_once_with_the_key_that_names_what_was_tried_and_with_the_next_step() {
        let handler = |address: &str| {
            let sides = Sides::new(false, "http://10.0.0.5:9100", address.parse().expect("an address"));
            Node::new("10.0.0.5:7994".to_owned(), sides)
        };
        let node = handler("10.0.0.7:9002");
        assert_eq!(
            node.in_words(Fault::NotReached("10.0.0.5:7994: connection refused")),
            "its exproto listener (upstream.exproto.listener) cannot be reached: connection refused. Is EMQX running, \
             and exproto enabled? \"emqx ctl gateway list\" tells"
        );
        assert_eq!(
            node.in_words(Fault::NotServed("connection refused")),
            "its ConnectionAdapter http://10.0.0.5:9100 (upstream.exproto.adapter) cannot be reached: connection \
             refused. It is \"server.bind\" of exproto in EMQX"
        );
        for fault in [Fault::AnchorClosed, Fault::AnchorUntold] {
            let told = node.in_words(fault);
            assert!(told.contains("has to lead to http://10.0.0.7:9002 (upstream.exproto.handler_bind)"), "{told}");
        }
        let everywhere = handler("0.0.0.0:9001").in_words(Fault::AnchorUntold);
        assert!(everywhere.contains("has to lead to port 9001 of this machine"), "{everywhere}");
    }

    #[test]
    fn new_devices_go_where_the_fewest_are_and_others_back_to_where_they_were() {
        let mut nodes = two();
        let mut chosen = Vec::new();
        for _ in 0..4 {
            let node = nodes.choose(None, false).expect("a node");
            nodes.add_anchor(node);
            chosen.push(node);
        }
        assert_eq!(chosen, [A, B, A, B]);
        nodes.remove_anchor(B);
        assert_eq!(nodes.choose(None, false), Some(B));
        assert_eq!(nodes.choose(Some(A), false), Some(A));
        assert_eq!(nodes.choose(Some(A), true), Some(B));
    }

    #[test]
    fn a_node_that_is_down_is_chosen_by_nobody_until_a_probe_succeeds() {
        let mut nodes = two();
        assert!(nodes.failed(A, REFUSED));
        assert!(!nodes.failed(A, REFUSED));
        assert_eq!((nodes.choose(None, false), nodes.choose(Some(A), false)), (Some(B), Some(B)));
        assert_eq!(nodes.choose(Some(B), true), Some(B));

        assert!(nodes.failed(B, UNAVAILABLE));
        assert!(!nodes.any_up());
        assert_eq!((nodes.choose(None, false), nodes.choose(Some(B), true)), (None, None));

        nodes.answered(A);
        nodes.told(A);
        nodes.probe_failed(A, REFUSED);
        assert!(!nodes.any_up());
        nodes.probe_succeeded(A);
        assert_eq!(nodes.choose(Some(B), false), Some(A));
    }

    #[test]
    fn what_a_single_device_may_meet_counts_three_times_in_a_row() {
        for fault in [Fault::Unanswered, Fault::AnchorClosed, Fault::AnchorUntold] {
            let mut nodes = two();
            nodes.told(A);
            for _ in 1..TOLERATED {
                assert!(!nodes.failed(A, fault));
            }
            nodes.told(A);
            nodes.answered(A);
            for _ in 1..TOLERATED {
                assert!(!nodes.failed(A, fault), "{fault:?}");
            }
            assert!(nodes.failed(A, fault), "{fault:?}");
        }
    }

    #[test]
    fn a_node_that_never_called_the_handler_is_down_at_the_first_anchor_that_it_does_not_tell_of() {
        assert!(two().failed(A, Fault::AnchorUntold));
        assert!(two().failed(A, Fault::AnchorClosed));
    }

    #[test]
    fn clients_are_taken_away_from_a_node_that_two_probes_have_found_unable_to_serve_them() {
        let mut nodes = two();
        nodes.failed(A, UNAVAILABLE);
        nodes.probe_failed(A, REFUSED);
        assert_eq!(nodes.take_left(), []);
        nodes.probe_failed(A, REFUSED);
        assert_eq!(nodes.take_left(), [A]);
        nodes.probe_failed(A, REFUSED);
        assert_eq!(nodes.take_left(), []);

        nodes.probe_succeeded(A);
        nodes.failed(A, Fault::NotServed("again"));
        nodes.probe_failed(A, REFUSED);
        nodes.probe_failed(A, REFUSED);
        assert_eq!(nodes.take_left(), [A]);
    }

    #[test]
    fn clients_stay_where_only_new_anchors_fail_and_while_no_other_node_is_up() {
        let mut nodes = two();
        nodes.failed(A, REFUSED);
        for _ in 0..5 {
            nodes.probe_failed(A, Fault::AnchorClosed);
        }
        assert_eq!(nodes.take_left(), []);

        nodes.failed(B, REFUSED);
        nodes.probe_failed(A, Fault::AnchorUntold);
        assert_eq!(nodes.take_left(), []);
        nodes.probe_succeeded(B);
        assert_eq!(nodes.take_left(), [A]);
    }
}
