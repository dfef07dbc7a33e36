//! A node's knowledge of the other nodes: which of them exist, answer and reach the engine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::{NodeEntry, Timing};
use crate::node::{Incarnation, NodeNumber, NodeProcess, NodeSet};

/// The other nodes. There are at most 127, since each has a number of its own.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeNumber, PeerEvidence>,
    /// The nodes that are not in the engine's list any more. They are pinged, so that they learn of this one, and do
    /// not count as evidence.
    absent: Vec<NodeNumber>,
    /// The newest process of each number that was ever met.
    newest: BTreeMap<NodeNumber, Incarnation>,
    /// The last time at which the answers were forgotten.
    forgotten: Option<Instant>,
}

#[derive(Debug)]
struct PeerEvidence {
    entry: NodeEntry,
    /// The time of the first ping that no pong has followed.
    unanswered_since: Option<Instant>,
    /// The time of the ping that was answered last, and whether the peer reached the engine then.
    heard: Option<(Instant, bool)>,
}

/// The state of the engine by the pongs of the last seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A peer reaches the engine.
    Reached,
    /// All peers answer, and none reaches the engine.
    AllWithout,
    /// No peer that answers reaches the engine, and at least one does not answer, or there is none.
    SomeSilent,
    /// A peer was not asked for long enough.
    Missing,
}

impl Peers {
    /// Replaces the peers by those of the engine's list. Knowledge of a peer that was listed before is kept.
    pub(super) fn list(&mut self, me: NodeNumber, nodes: &[NodeEntry], members: &[NodeNumber]) {
        let mut before = std::mem::take(&mut self.peers);
        for &entry in nodes {
            self.meet(entry.process);
            if entry.process.node != me {
                let known = before.remove(&entry.process.node);
                let (unanswered_since, heard) = known.map_or((None, None), |peer| (peer.unanswered_since, peer.heard));
                self.peers.insert(entry.process.node, PeerEvidence { entry, unanswered_since, heard });
            }
        }
        let absent = |node: &&NodeNumber| **node != me && !self.peers.contains_key(node);
        self.absent = members.iter().filter(absent).copied().collect();
    }

    /// Records that a process exists, which may be unknown to the engine's last list.
    pub(super) fn meet_process(&mut self, me: NodeNumber, process: NodeProcess) {
        self.meet(process);
        if process.node != me {
            let entry = NodeEntry { process, weight: 0, takes: false };
            self.peers.entry(process.node).or_insert(PeerEvidence { entry, unanswered_since: None, heard: None });
        }
    }

    /// Records that all peers are asked, and returns their numbers.
    pub(super) fn pinged(&mut self, asked: Instant) -> Vec<NodeNumber> {
        for peer in self.peers.values_mut() {
            peer.unanswered_since.get_or_insert(asked);
        }
        self.peers.keys().chain(&self.absent).copied().collect()
    }

    pub(super) fn pong_from(&mut self, process: NodeProcess, asked: Instant, reaches: bool) {
        self.meet(process);
        if let Some(peer) = self.peers.get_mut(&process.node)
            && peer.heard.is_none_or(|(before, _)| before < asked)
        {
            peer.heard = Some((asked, reaches));
            peer.unanswered_since = None;
        }
    }

    /// Forgets which peers have answered: after a pause of this process earlier answers prove nothing.
    pub(super) fn forget_answers(&mut self, now: Instant) {
        self.forgotten = Some(now);
        for peer in self.peers.values_mut() {
            peer.heard = None;
            peer.unanswered_since = None;
        }
    }

    pub(super) fn evidence(&self, timing: Timing, now: Instant) -> Evidence {
        // A node without peers cannot know of those that joined since, at least not after a pause.
        let asked_long_enough = self.forgotten.is_none_or(|at| now >= at + timing.renew * 2);
        let mut all = match (self.peers.is_empty(), asked_long_enough) {
            (false, _) => Evidence::AllWithout,
            (true, true) => Evidence::SomeSilent,
            (true, false) => Evidence::Missing,
        };
        for peer in self.peers.values() {
            match peer.answer(timing, now) {
                PeerAnswer::Reaches => return Evidence::Reached,
                PeerAnswer::Without => {}
                PeerAnswer::Silent if all == Evidence::AllWithout => all = Evidence::SomeSilent,
                PeerAnswer::Silent => {}
                PeerAnswer::Open => all = Evidence::Missing,
            }
        }
        all
    }

    /// Returns the peers.
    pub(super) fn numbers(&self) -> NodeSet {
        self.peers.keys().fold(NodeSet::default(), |set, node| set.with(*node))
    }

    /// Returns when the oldest of the pings was sent that the peers have answered last; `None` if a peer has never
    /// answered, or if there is none.
    pub(super) fn all_asked_since(&self) -> Option<Instant> {
        let asked = self.peers.values().map(|peer| peer.heard.map(|(asked, _)| asked));
        asked.min().flatten()
    }

    /// Returns the peers that have answered within the last seconds.
    pub(super) fn answering(&self, timing: Timing, now: Instant) -> NodeSet {
        let answers =
            |peer: &PeerEvidence| matches!(peer.answer(timing, now), PeerAnswer::Reaches | PeerAnswer::Without);
        let answering = self.peers.iter().filter(|(_, peer)| answers(peer));
        answering.fold(NodeSet::default(), |set, (node, _)| set.with(*node))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = NodeEntry> {
        self.peers.values().map(|peer| peer.entry)
    }

    pub(super) fn newest(&self, node: NodeNumber) -> Option<Incarnation> {
        self.newest.get(&node).copied()
    }

    fn meet(&mut self, process: NodeProcess) {
        let newest = self.newest.entry(process.node).or_insert(process.incarnation);
        *newest = process.incarnation.max(*newest);
    }
}

/// The state of the engine as one peer reports it.
enum PeerAnswer {
    Reaches,
    Without,
    Silent,
    /// The peer was not asked for long enough.
    Open,
}

impl PeerEvidence {
    fn answer(&self, timing: Timing, now: Instant) -> PeerAnswer {
        let within = |since: Instant, limit: Duration| now.saturating_duration_since(since) < limit;
        match (self.heard, self.unanswered_since) {
            (Some((asked, true)), _) if within(asked, timing.renew * 3) => PeerAnswer::Reaches,
            (Some((asked, false)), _) if within(asked, timing.renew * 3) => PeerAnswer::Without,
            (_, Some(since)) if !within(since, timing.renew * 2) => PeerAnswer::Silent,
            (_, _) => PeerAnswer::Open,
        }
    }
}
