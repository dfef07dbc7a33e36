//! A shard that one node hands over to another one while datagrams of its devices come in everywhere.

use super::*;

/// A step while a shard is handed over from node 1 to node 2.
#[derive(Clone, Debug)]
enum HandoverStep {
    Receive {
        entry: usize,
    },
    /// The next one: the shard is parked, its lease is released, its next owner is told, and serves it.
    GoOn,
    /// A node reads a list of leases that is older than the release.
    ReadOldList {
        at: usize,
    },
    ReadList {
        at: usize,
    },
    HandOn {
        at: usize,
    },
}

/// Node 1 hands a shard over to node 2 while nodes read lists of leases that are old or new, and correct them by what
/// they know themselves.
struct Handover {
    world: World,
    stage: u8,
    handled: usize,
}

impl Handover {
    const SHARD: Shard = Shard::new(1);
    const RELEASED: u8 = 2;
    const TOLD: u8 = 3;
    const SERVED: u8 = 4;

    fn goes_on(&mut self) {
        self.stage = (self.stage + 1).min(Self::SERVED);
        match self.stage {
            1 => drop(self.world.nodes[1].1.served.remove(Self::SHARD)),
            Self::RELEASED => self.world.nodes[1].0.owners.give(Self::SHARD, node(2)),
            Self::TOLD => self.world.nodes[2].0.owners.set_owner(Self::SHARD, Some(node(2))),
            _ => drop(self.world.nodes[2].1.served.insert(Self::SHARD)),
        }
    }

    fn reads(&mut self, at: usize, listed: Option<NodeNumber>) {
        let owners = &mut self.world.nodes[at].0.owners;
        match at {
            1 if self.stage >= Self::RELEASED => owners.give(Self::SHARD, node(2)),
            2 if self.stage >= Self::TOLD => owners.set_owner(Self::SHARD, Some(node(2))),
            _ => owners.set_owner(Self::SHARD, listed),
        }
    }

    fn notes(&mut self, fate: Fate) -> Result<(), TestCaseError> {
        prop_assert!(!matches!(fate, Fate::Dropped(_)), "{fate:?}");
        self.handled += usize::from(matches!(fate, Fate::Handled { .. }));
        Ok(())
    }

    fn hands_on(&mut self, at: usize) -> Result<(), TestCaseError> {
        for ReleasedDatagram { held, hop, .. } in self.world.released(at).datagrams {
            let fate = match hop {
                None => Fate::Handled { by: node(at as u64), forwarded: held.hops },
                Some(hop) => self.world.follow(at, held.flow, &held.datagram, NodeRoute::Forward(hop), hop.hops),
            };
            self.notes(fate)?;
        }
        Ok(())
    }
}

proptest! {
    /// No datagram is lost at a handover.
    #[test]
    fn each_datagram_of_a_shard_that_is_handed_over_is_handled(steps in prop::collection::vec(prop_oneof![
        4 => (0..3_usize).prop_map(|entry| HandoverStep::Receive { entry }),
        1 => Just(HandoverStep::GoOn),
        1 => (0..3_usize).prop_map(|at| HandoverStep::ReadOldList { at }),
        1 => (0..3_usize).prop_map(|at| HandoverStep::ReadList { at }),
        3 => (0..3_usize).prop_map(|at| HandoverStep::HandOn { at }),
    ], 0..60)) {
        let mut handover = Handover { world: World::new(3), stage: 0, handled: 0 };
        let mut sent = 0;
        for step in steps {
            match step {
                HandoverStep::Receive { entry } => {
                    sent += 1;
                    let fate = handover.world.receives(entry, flow(1), &notification(1));
                    handover.notes(fate)?;
                }
                HandoverStep::GoOn => handover.goes_on(),
                HandoverStep::ReadOldList { at } => handover.reads(at, Some(node(1))),
                HandoverStep::ReadList { at } => {
                    let listed = match handover.stage {
                        0 | 1 => Some(node(1)),
                        Handover::SERVED => Some(node(2)),
                        _ => None,
                    };
                    handover.reads(at, listed);
                }
                HandoverStep::HandOn { at } => handover.hands_on(at)?,
            }
        }
        (0..4).for_each(|_| handover.goes_on());
        (0..3).for_each(|at| handover.reads(at, Some(node(2))));
        for at in (0..3).cycle().take(9) {
            handover.hands_on(at)?;
        }
        prop_assert_eq!(handover.handled, sent);
    }
}
