//! The ways out: the node through which a datagram to an address leaves.
//!
//! The network lets an answer pass only at the node at which its request came in. What a node sends by itself leaves
//! where the device was heard last: a datagram that the device did not send, such as one with a forged address, does not
//! change that. So there are two tables: where the devices were heard, and where the last datagram came in of which
//! nothing proves that it is the device's.

use std::time::Instant;

use lwm2m_cluster::NodeNumber;

use crate::flows::{Flow, FlowTable};

/// Maximum number of devices that one review checks.
const REVIEWED: usize = 1_024;

/// Says whose datagram a node has handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The device at the address: the datagram was authentic, or was an expected message.
    Device,
    /// The address has no device, or had none when the datagram came.
    Unregistered,
    /// The address has a device, and nothing proves that it sent the datagram.
    Unproven,
}

/// The way of a datagram to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// The datagram leaves from this node.
    Here,
    Through(NodeNumber),
    /// The device was not heard since this node has its shard.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Ways {
    node: NodeNumber,
    /// The ways to devices, except from this node.
    devices: FlowTable<WayOut>,
    /// The ways of answers, where they are others.
    answers: FlowTable<AnswerWay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AnswerWay {
    node: NodeNumber,
    /// Whether the address had no device: a device that registers by the datagram is reached through this node.
    is_unregistered: bool,
}

impl Ways {
    pub(crate) fn new(node: NodeNumber, flows: usize) -> Self {
        Self { node, devices: FlowTable::new(flows), answers: FlowTable::new(flows) }
    }

    /// Returns whether a datagram to this address does not simply leave here.
    pub(crate) fn has(&self, flow: Flow) -> bool {
        self.devices.contains(flow) || self.answers.contains(flow)
    }

    /// Notes at which node a datagram of this address came in.
    pub(crate) fn heard(&mut self, now: Instant, flow: Flow, entry: NodeNumber, sender: Sender) {
        if sender == Sender::Device {
            self.answers.clear(flow);
            return self.found(now, flow, entry);
        }
        // The way to a device that has just left is forgotten at the next review, maybe before the answer has left.
        let is_usual = match self.devices.get(now, flow) {
            None => entry == self.node,
            Some(way) => way == WayOut::Through(entry) && sender != Sender::Unregistered,
        };
        if is_usual {
            self.answers.clear(flow);
        } else {
            self.answers.insert(now, flow, AnswerWay { node: entry, is_unregistered: sender == Sender::Unregistered });
        }
    }

    /// Notes that the device at this address was heard by another node, and not by this one.
    pub(crate) fn expect(&mut self, flow: Flow) {
        if !self.has(flow) {
            let (true | false) = self.devices.keep(flow, WayOut::Unknown);
        }
    }

    /// Notes that another node heard the device at this address at `entry`: the device comes to this node.
    pub(crate) fn told(&mut self, now: Instant, flow: Flow, entry: NodeNumber) {
        self.devices.clear(flow);
        self.answers.insert(now, flow, AnswerWay { node: entry, is_unregistered: true });
    }

    /// Returns the node at which the device at this address was heard; `None` if that is not known.
    pub(crate) fn entry(&mut self, now: Instant, flow: Flow) -> Option<NodeNumber> {
        self.registered(now, flow);
        match self.devices.get(now, flow) {
            None => Some(self.node),
            Some(WayOut::Through(node)) => Some(node),
            Some(WayOut::Here | WayOut::Unknown) => None,
        }
    }

    /// Returns the way of a datagram to an address. `is_own`: the node sends it by itself, and not as an answer.
    pub(crate) fn out(&mut self, now: Instant, flow: Flow, is_own: bool) -> WayOut {
        let device = self.devices.get(now, flow).unwrap_or(WayOut::Here);
        match self.answers.get(now, flow) {
            Some(answer) if !is_own && answer.node == self.node => WayOut::Here,
            Some(answer) if !is_own => WayOut::Through(answer.node),
            Some(_) | None => device,
        }
    }

    /// Notes that there is a device at this address. If the Register came from an address without a device, the device
    /// is reached through the node that received it.
    pub(crate) fn registered(&mut self, now: Instant, flow: Flow) {
        if let Some(AnswerWay { node, is_unregistered: true }) = self.answers.get(now, flow) {
            self.answers.clear(flow);
            self.found(now, flow, node);
        }
    }

    /// Returns whether the address had no device when its last datagram came.
    pub(crate) fn is_unregistered(&mut self, now: Instant, flow: Flow) -> bool {
        self.answers.get(now, flow).is_some_and(|answer| answer.is_unregistered)
    }

    /// Checks some of the devices, and removes those that have left. Successive calls check all of them in turn.
    pub(crate) fn review(&mut self, is_there: impl Fn(Flow) -> bool) {
        self.devices.review_kept(REVIEWED, is_there);
    }

    pub(crate) fn len(&self) -> usize {
        self.devices.len() + self.answers.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.devices.evicted() + self.answers.evicted()
    }

    fn found(&mut self, now: Instant, flow: Flow, entry: NodeNumber) {
        let way = WayOut::Through(entry);
        if entry == self.node {
            self.devices.clear(flow);
        } else if !self.devices.keep(flow, way) {
            self.devices.insert(now, flow, way);
        }
    }
}

/// Returns whether a node sends this datagram by itself, and not as an answer to one that anybody may have sent: a
/// protected record (RFC 6347 section 4.1: its epoch is not 0), or a request (RFC 7252 section 3).
pub(crate) fn is_own(is_dtls: bool, datagram: &[u8]) -> bool {
    if is_dtls {
        return datagram.get(3..5).is_some_and(|epoch| epoch != [0, 0]);
    }
    datagram.get(1).is_some_and(|code| (1..32).contains(code))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;

    fn node(number: u64) -> NodeNumber {
        NodeNumber::try_from(number).expect("7 bits")
    }

    fn flow(host: u8) -> Flow {
        Flow { socket: 0, address: SocketAddr::from(([192, 0, 2, host], 5683)) }
    }

    fn both(ways: &mut Ways, now: Instant, flow: Flow) -> (WayOut, WayOut) {
        (ways.out(now, flow, true), ways.out(now, flow, false))
    }

    #[test]
    fn a_datagram_that_the_device_did_not_send_moves_the_answer_to_it_and_nothing_else() {
        let (mut ways, now) = (Ways::new(node(0), 100), Instant::now());
        let [first, second] = [1, 2].map(|number| WayOut::Through(node(number)));
        ways.heard(now, flow(1), node(1), Sender::Device);
        assert_eq!(both(&mut ways, now, flow(1)), (first, first));
        ways.heard(now, flow(1), node(2), Sender::Unproven);
        assert_eq!(both(&mut ways, now, flow(1)), (first, second));
        ways.heard(now, flow(1), node(0), Sender::Unproven);
        assert_eq!(both(&mut ways, now, flow(1)), (first, WayOut::Here));
        ways.registered(now, flow(1));
        assert_eq!(ways.out(now, flow(1), true), first, "it was registered before");
        ways.heard(now, flow(1), node(1), Sender::Unproven);
        assert_eq!(both(&mut ways, now, flow(1)), (first, first));
        ways.heard(now, flow(1), node(2), Sender::Device);
        assert_eq!(both(&mut ways, now, flow(1)), (second, second));
        ways.heard(now, flow(1), node(0), Sender::Device);
        assert_eq!((both(&mut ways, now, flow(1)), ways.len()), ((WayOut::Here, WayOut::Here), 0));
        ways.heard(now, flow(1), node(2), Sender::Unproven);
        assert_eq!(both(&mut ways, now, flow(1)), (WayOut::Here, second));
    }

    #[test]
    fn a_device_is_reached_where_its_register_came_in() {
        let (mut ways, now) = (Ways::new(node(0), 100), Instant::now());
        let later = now + Duration::from_secs(3_600);
        for (host, sender) in [(1, Sender::Unregistered), (2, Sender::Unproven)] {
            ways.heard(now, flow(host), node(1), sender);
            assert_eq!(ways.out(now, flow(host), false), WayOut::Through(node(1)), "the answer");
            ways.registered(now, flow(host));
        }
        assert_eq!(ways.out(later, flow(1), true), WayOut::Through(node(1)));
        assert_eq!(ways.out(later, flow(2), true), WayOut::Here);
        let mut ways = Ways::new(node(0), 100);
        ways.heard(now, flow(3), node(1), Sender::Unregistered);
        assert_eq!(ways.out(later, flow(3), false), WayOut::Here, "an answer does not take that long");
    }

    #[test]
    fn the_way_to_a_device_of_another_node_is_unknown_until_it_is_heard() {
        let (mut ways, now) = (Ways::new(node(0), 100), Instant::now());
        ways.expect(flow(1));
        ways.heard(now, flow(1), node(1), Sender::Unproven);
        assert_eq!(both(&mut ways, now, flow(1)), (WayOut::Unknown, WayOut::Through(node(1))));
        ways.heard(now, flow(1), node(0), Sender::Device);
        assert_eq!(both(&mut ways, now, flow(1)), (WayOut::Here, WayOut::Here));
    }

    #[test]
    fn a_device_that_comes_from_another_node_is_reached_where_that_one_heard_it() {
        let (mut ways, now) = (Ways::new(node(0), 100), Instant::now());
        for (host, entry, way) in [(1, node(1), WayOut::Through(node(1))), (2, node(0), WayOut::Here)] {
            ways.told(now, flow(host), entry);
            ways.expect(flow(host));
            assert_eq!(ways.entry(now, flow(host)), Some(entry));
            assert_eq!(both(&mut ways, now, flow(host)), (way, way));
        }
        ways.expect(flow(3));
        assert_eq!(ways.entry(now, flow(3)), None);
    }

    #[test]
    fn the_answer_to_a_device_that_leaves_takes_the_way_of_its_request() {
        let (mut ways, now) = (Ways::new(node(0), 100), Instant::now());
        ways.heard(now, flow(1), node(1), Sender::Device);
        // Its De-register: there is no device any more.
        ways.heard(now, flow(1), node(1), Sender::Unregistered);
        ways.review(|_| false);
        assert_eq!(both(&mut ways, now, flow(1)), (WayOut::Here, WayOut::Through(node(1))));
    }

    #[test]
    fn devices_that_are_not_there_any_more_are_forgotten_in_turns() {
        let (mut ways, now) = (Ways::new(node(0), 5_000), Instant::now());
        let flows = |port: u16| Flow { socket: 0, address: SocketAddr::from(([192, 0, 2, 1], port)) };
        (1..=3_000).for_each(|port| ways.heard(now, flows(port), node(1), Sender::Device));
        let is_there = |flow: Flow| flow.address.port().is_multiple_of(3);
        ways.review(is_there);
        assert!(ways.len() >= 3_000 - REVIEWED, "{}", ways.len());
        (0..4).for_each(|_| ways.review(is_there));
        assert_eq!(ways.len(), 1_000);
        assert_eq!(ways.out(now, flows(3), true), WayOut::Through(node(1)));
    }

    #[test]
    fn requests_and_protected_records_are_no_answers() {
        for (is_dtls, datagram, expected) in [
            (false, &[0x44, 0x01, 0, 1][..], true),
            (false, &[0x54, 0x1f, 0, 1], true),
            (false, &[0x60, 0x00, 0, 1], false),
            (false, &[0x64, 0x45, 0, 1], false),
            (false, &[0x44], false),
            (true, &[22, 0xfe, 0xfd, 0, 0, 0], false),
            (true, &[25, 0xfe, 0xfd, 0, 1, 0], true),
            (true, &[23, 0xfe], false),
        ] {
            assert_eq!(is_own(is_dtls, datagram), expected, "{datagram:?}");
        }
    }
}
