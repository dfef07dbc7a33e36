//! The health of EMQX's nodes, as far as dials, calls and probes have shown, and the choice of the node for a device.
//!
//! A node becomes unavailable by the faults that devices and probes meet there, and available again only by a probe: an
//! anchor without a device, which the node has to report to the handler, and a call on it. So the listener, the
//! handler's channel and the adapter are known to work before devices return.
//!
//! A node that is unavailable gets no new anchors. Its clients stay as long as their connections do, unless two probes
//! have shown that the node cannot serve them and another node is available: then they are moved. No device is moved
//! back to a node that has recovered; it has the fewest devices, and so it gets the next ones.

use std::net::SocketAddr;
use std::time::Duration;

use crate::upstream::client::probing::{FaultsInRow, MetBy, TargetFaults};
use crate::upstream::client::targets::{Target, TargetId, Targets};

use super::{ExProtoConfig, Node};

/// Counts the failed probes after which the clients of a node are moved.
const FAILED_PROBES: u32 = 2;

/// Holds the nodes of EMQX, each of which has a listener and a ConnectionAdapter.
pub(crate) type Nodes = Targets<NodeFaults>;

/// Lists what can be wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFault<'a> {
    /// The listener was not reached.
    NotReached(&'a str),
    /// The node closed an anchor before it reported it. Its listener may be full, or the handler out of its reach.
    AnchorClosed,
    /// The node took an anchor and did not report it.
    AnchorUnreported,
    /// The adapter was not reached, or does not serve its anchors.
    NotServed(&'a str),
    /// The adapter took a call and did not answer.
    Unanswered,
}

/// Keeps what devices and probes have met at one node.
#[derive(Debug)]
pub struct NodeFaults {
    sides: NodeAddresses,
    /// Tells whether the node ever reported an anchor.
    has_reported: bool,
    /// Counts the anchors in a row that the node did not report.
    unreported: FaultsInRow,
    /// Counts the calls in a row that the node did not answer.
    unanswered: FaultsInRow,
    /// Describes the outage while the node is unavailable.
    outage: Outage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outage {
    failed_probes: u32,
    /// Tells that the node cannot serve its connected clients either.
    clients_lost: bool,
    /// Tells that its clients were moved.
    left: bool,
}

/// Lists the addresses that belong to a node, with the keys that name them.
#[derive(Clone, Debug)]
struct NodeAddresses {
    listener_key: &'static str,
    adapter_key: &'static str,
    adapter: String,
    handler: String,
}

impl Nodes {
    pub fn of(config: &ExProtoConfig) -> Self {
        let several = config.nodes.len() > 1;
        let node = |node: &Node| {
            let sides = NodeAddresses::new(several, &node.adapter, config.handler_bind);
            (node.listeners.join(", "), NodeFaults::new(sides))
        };
        Self::new(config.nodes.iter().map(node))
    }

    /// Notes that the node reported an anchor.
    pub(crate) fn anchor_reported(&mut self, id: TargetId) {
        let faults = &mut self.target_mut(id).faults;
        faults.unreported.end();
        faults.has_reported = true;
    }

    /// Notes that the node's adapter answered a call, whatever the answer was.
    pub fn answered(&mut self, id: TargetId) {
        self.target_mut(id).faults.unanswered.end();
        self.mark_answered(id);
    }

    /// Returns the nodes whose clients have to be moved now, each once per outage.
    pub(crate) fn take_left(&mut self) -> Vec<TargetId> {
        if !self.any_up() {
            return Vec::new();
        }
        self.iter_mut().filter_map(|(id, node)| node.leave().then_some(id)).collect()
    }
}

impl TargetFaults for NodeFaults {
    type Fault<'a> = NodeFault<'a>;

    /// A fault of a moment is over by then.
    const PAUSE: Duration = Duration::from_millis(100);

    /// Counts a fault. Single ones are tolerated only at a node that has reported an anchor before.
    fn count(target: &mut Target<Self>, fault: NodeFault<'_>) -> bool {
        let faults = &mut target.faults;
        let is_down = match fault {
            NodeFault::NotReached(_) | NodeFault::NotServed(_) => true,
            NodeFault::AnchorClosed | NodeFault::AnchorUnreported => faults.unreported.count(faults.has_reported),
            NodeFault::Unanswered => faults.unanswered.count(true),
        };
        if is_down {
            faults.outage = Outage { clients_lost: fault.loses_clients(), ..Outage::default() };
        }
        is_down
    }

    fn count_again(&mut self, fault: NodeFault<'_>, met_by: MetBy) {
        let Outage { failed_probes, clients_lost, .. } = &mut self.outage;
        *failed_probes = failed_probes.saturating_add(u32::from(met_by == MetBy::Probe));
        *clients_lost |= fault.loses_clients();
    }

    fn served(&mut self, _was_down: bool) {
        self.unreported.end();
        self.unanswered.end();
    }

    fn in_words(target: &Target<Self>, fault: NodeFault<'_>) -> String {
        let NodeAddresses { listener_key, adapter_key, adapter, handler } = &target.faults.sides;
        match fault {
            NodeFault::NotReached(why) => {
                let why = target.without_name(why);
                format!(
                    "its exproto listener ({listener_key}) cannot be reached: {why}. Is EMQX running, and exproto \
                     enabled? \"emqx ctl gateway list\" tells"
                )
            }
            NodeFault::AnchorClosed => format!(
                "its listener closes connections at once: it is full (max_connections), or EMQX cannot call our \
                 handler: \"handler.address\" in EMQX has to lead to {handler} (upstream.exproto.handler_bind)"
            ),
            NodeFault::AnchorUnreported => format!(
                "it takes connections, but does not call our handler: \"handler.address\" in EMQX has to lead to \
                 {handler} (upstream.exproto.handler_bind). Or is this ({listener_key}) not the exproto listener?"
            ),
            NodeFault::NotServed(why) => format!(
                "its ConnectionAdapter {adapter} ({adapter_key}) cannot be reached: {why}. It is \"server.bind\" of \
                 exproto in EMQX"
            ),
            NodeFault::Unanswered => {
                format!("its ConnectionAdapter {adapter} ({adapter_key}) takes calls, but does not answer them")
            }
        }
    }
}

impl Target<NodeFaults> {
    fn leave(&mut self) -> bool {
        let is_down = !self.is_up();
        match &mut self.faults.outage {
            Outage { failed_probes: FAILED_PROBES.., clients_lost: true, left } if is_down => {
                !std::mem::replace(left, true)
            }
            Outage { .. } => false,
        }
    }
}

impl NodeFaults {
    fn new(sides: NodeAddresses) -> Self {
        Self {
            sides,
            has_reported: false,
            unreported: FaultsInRow::default(),
            unanswered: FaultsInRow::default(),
            outage: Outage::default(),
        }
    }
}

impl NodeFault<'_> {
    /// Returns whether the fault affects connected clients too, and not only new anchors.
    fn loses_clients(self) -> bool {
        match self {
            Self::NotReached(_) | Self::AnchorClosed => false,
            Self::AnchorUnreported | Self::NotServed(_) | Self::Unanswered => true,
        }
    }
}

impl NodeAddresses {
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
    use std::time::Instant;

    use super::*;
    use crate::upstream::client::probing::TOLERATED_FAULTS;

    const A: TargetId = TargetId(0);
    const B: TargetId = TargetId(1);
    const REFUSED: NodeFault<'_> = NodeFault::NotReached("connection refused");
    const UNAVAILABLE: NodeFault<'_> = NodeFault::NotServed("unavailable");

    fn two() -> Nodes {
        let handler = SocketAddr::from(([10, 0, 0, 7], 9002));
        let node = |name: &str| {
            (format!("{name}:7993"), NodeFaults::new(NodeAddresses::new(true, "http://10.0.0.5:9100", handler)))
        };
        Nodes::new([node("a"), node("b")])
    }

    fn failed(nodes: &mut Nodes, id: TargetId, fault: NodeFault<'_>) -> bool {
        nodes.failed(Instant::now(), id, fault, MetBy::Device)
    }

    fn in_words(node: &Target<NodeFaults>, fault: NodeFault<'_>) -> String {
        NodeFaults::in_words(node, fault)
    }

    #[test]
    fn a_fault_is_told_once_with_the_key_that_names_what_was_tried_and_with_the_next_step() {
        let handler = |address: &str| {
            let sides = NodeAddresses::new(false, "http://10.0.0.5:9100", address.parse().expect("an address"));
            Target::new("10.0.0.5:7994".to_owned(), NodeFaults::new(sides))
        };
        let node = handler("10.0.0.7:9002");
        assert_eq!(
            in_words(&node, NodeFault::NotReached("10.0.0.5:7994: connection refused")),
            "its exproto listener (upstream.exproto.listener) cannot be reached: connection refused. Is EMQX running, \
             and exproto enabled? \"emqx ctl gateway list\" tells"
        );
        assert_eq!(
            in_words(&node, NodeFault::NotServed("connection refused")),
            "its ConnectionAdapter http://10.0.0.5:9100 (upstream.exproto.adapter) cannot be reached: connection \
             refused. It is \"server.bind\" of exproto in EMQX"
        );
        for fault in [NodeFault::AnchorClosed, NodeFault::AnchorUnreported] {
            let told = in_words(&node, fault);
            assert!(told.contains("has to lead to http://10.0.0.7:9002 (upstream.exproto.handler_bind)"), "{told}");
        }
        let everywhere = in_words(&handler("0.0.0.0:9001"), NodeFault::AnchorUnreported);
        assert!(everywhere.contains("has to lead to port 9001 of this machine"), "{everywhere}");
    }

    #[test]
    fn a_node_that_is_down_is_chosen_by_nobody_until_a_probe_succeeds() {
        let mut nodes = two();
        assert!(failed(&mut nodes, A, REFUSED));
        assert!(!failed(&mut nodes, A, REFUSED));
        assert_eq!((nodes.choose(None, false), nodes.choose(Some(A), false)), (Some(B), Some(B)));
        assert_eq!(nodes.choose(Some(B), true), Some(B));

        assert!(failed(&mut nodes, B, UNAVAILABLE));
        assert!(!nodes.any_up());
        assert_eq!((nodes.choose(None, false), nodes.choose(Some(B), true)), (None, None));

        nodes.answered(A);
        nodes.anchor_reported(A);
        nodes.failed(Instant::now(), A, REFUSED, MetBy::Probe);
        assert!(!nodes.any_up());
        nodes.serves(Instant::now(), A);
        assert_eq!(nodes.choose(Some(B), false), Some(A));
    }

    #[test]
    fn what_a_single_device_may_meet_counts_three_times_in_a_row() {
        for fault in [NodeFault::Unanswered, NodeFault::AnchorClosed, NodeFault::AnchorUnreported] {
            let mut nodes = two();
            nodes.anchor_reported(A);
            for _ in 1..TOLERATED_FAULTS {
                assert!(!failed(&mut nodes, A, fault));
            }
            nodes.anchor_reported(A);
            nodes.answered(A);
            for _ in 1..TOLERATED_FAULTS {
                assert!(!failed(&mut nodes, A, fault), "{fault:?}");
            }
            assert!(failed(&mut nodes, A, fault), "{fault:?}");
        }
    }

    #[test]
    fn a_node_that_never_called_the_handler_is_down_at_the_first_anchor_that_it_does_not_tell_of() {
        assert!(failed(&mut two(), A, NodeFault::AnchorUnreported));
        assert!(failed(&mut two(), A, NodeFault::AnchorClosed));
    }

    #[test]
    fn clients_are_taken_away_from_a_node_that_two_probes_have_found_unable_to_serve_them() {
        let mut nodes = two();
        failed(&mut nodes, A, UNAVAILABLE);
        nodes.failed(Instant::now(), A, REFUSED, MetBy::Probe);
        assert_eq!(nodes.take_left(), []);
        nodes.failed(Instant::now(), A, REFUSED, MetBy::Probe);
        assert_eq!(nodes.take_left(), [A]);
        nodes.failed(Instant::now(), A, REFUSED, MetBy::Probe);
        assert_eq!(nodes.take_left(), []);

        nodes.serves(Instant::now(), A);
        failed(&mut nodes, A, NodeFault::NotServed("again"));
        nodes.failed(Instant::now(), A, REFUSED, MetBy::Probe);
        nodes.failed(Instant::now(), A, REFUSED, MetBy::Probe);
        assert_eq!(nodes.take_left(), [A]);
    }

    #[test]
    fn clients_stay_where_only_new_anchors_fail_and_while_no_other_node_is_up() {
        let mut nodes = two();
        failed(&mut nodes, A, REFUSED);
        for _ in 0..5 {
            nodes.failed(Instant::now(), A, NodeFault::AnchorClosed, MetBy::Probe);
        }
        assert_eq!(nodes.take_left(), []);

        failed(&mut nodes, B, REFUSED);
        nodes.failed(Instant::now(), A, NodeFault::AnchorUnreported, MetBy::Probe);
        assert_eq!(nodes.take_left(), []);
        nodes.serves(Instant::now(), B);
        assert_eq!(nodes.take_left(), [A]);
    }
}
