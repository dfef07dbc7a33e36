//! The addresses that devices connect to, whether each of them serves, and the choice of the address for a device.
//!
//! Faults and probes decide whether a target is available (`probing`). No device is moved back to a target that has
//! recovered: that target has the fewest devices, and so it gets the next ones.

use tracing::{info, warn};

use crate::upstream::BrokerNodeState;

use super::probing::ProbeSchedule;

/// Identifies a target by its position in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub usize);

/// Says whether a target takes new devices. It is available until a fault shows that it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    Down { fault: String },
}

/// Describes the health of all targets together, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetsHealth {
    /// Tells that at least one target is available and has answered.
    pub serving: bool,
    pub detail: String,
}

#[derive(Debug)]
pub struct Targets<Faults> {
    targets: Vec<Target<Faults>>,
    /// Tells whether the health has changed since it was last asked for.
    changed: bool,
}

#[derive(Debug)]
pub struct Target<Faults> {
    /// The name for logs: the address, or the addresses.
    pub name: String,
    pub health: Health,
    /// Tells whether the target has ever answered.
    pub answered: bool,
    /// Counts the connections of devices there, including those that are being opened.
    pub connections: usize,
    /// Counts the devices there that the broker has accepted as clients.
    pub clients: usize,
    pub faults: Faults,
    pub(super) probes: ProbeSchedule,
}

impl<Faults> Targets<Faults> {
    pub fn new(targets: impl IntoIterator<Item = (String, Faults)>) -> Self {
        Self { targets: targets.into_iter().map(|(name, faults)| Target::new(name, faults)).collect(), changed: true }
    }

    /// Counts a connection that is about to be opened.
    pub(crate) fn add_connection(&mut self, id: TargetId) {
        self.target_mut(id).connections += 1;
    }

    pub(crate) fn remove_connection(&mut self, id: TargetId) {
        let target = self.target_mut(id);
        target.connections = target.connections.saturating_sub(1);
    }

    /// Counts a device that the broker has accepted there.
    pub(crate) fn add_client(&mut self, id: TargetId) {
        self.target_mut(id).clients += 1;
    }

    pub(crate) fn remove_client(&mut self, id: TargetId) {
        let target = self.target_mut(id);
        target.clients = target.clients.saturating_sub(1);
    }

    /// Notes that the target has answered, whatever the answer was.
    pub(crate) fn mark_answered(&mut self, id: TargetId) {
        let target = self.target_mut(id);
        if !std::mem::replace(&mut target.answered, true) {
            info!(broker = target.name, "broker available");
            self.changed = true;
        }
    }

    /// Makes the target unavailable, so that no device is sent there.
    pub(crate) fn mark_down(&mut self, id: TargetId, fault: String) {
        let target = self.target_mut(id);
        warn!(broker = target.name, "broker unavailable: {fault}");
        target.health = Health::Down { fault };
        self.changed = true;
    }

    /// Returns whether the target was down until now.
    pub(crate) fn mark_up(&mut self, id: TargetId) -> bool {
        let target = self.target_mut(id);
        let was_down = !target.is_up();
        if was_down {
            target.health = Health::Up;
            info!(broker = target.name, "broker available again");
            self.changed = true;
        }
        was_down
    }

    /// Returns whether the health has changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn health(&self) -> TargetsHealth {
        TargetsHealth {
            serving: self.targets.iter().any(|target| target.is_up() && target.answered),
            detail: self.targets.iter().map(Target::describe).collect::<Vec<_>>().join("; "),
        }
    }

    /// Returns the state of each target, for people who look.
    pub fn states(&self) -> Vec<BrokerNodeState> {
        let state = |target: &Target<Faults>| BrokerNodeState {
            name: target.name.clone(),
            is_available: target.is_up() && target.answered,
            clients: target.clients,
            detail: match &target.health {
                Health::Up if target.answered => String::new(),
                Health::Up => "it has not answered yet".to_owned(),
                Health::Down { fault } => fault.clone(),
            },
        };
        self.targets.iter().map(state).collect()
    }

    /// Returns where a device goes next: the target where it was, if that is up, else the one with the fewest
    /// connections. With `elsewhere`, the target where it was only if no other is up.
    pub fn choose(&self, before: Option<TargetId>, elsewhere: bool) -> Option<TargetId> {
        let before = before.filter(|id| self.is_up(*id));
        let others = self.iter().filter(|(id, target)| target.is_up() && Some(*id) != before);
        let other = others.min_by_key(|(_, target)| target.connections).map(|(id, _)| id);
        if elsewhere { other.or(before) } else { before.or(other) }
    }

    pub fn len(&self) -> usize {
        self.targets.len()
    }

    pub(crate) fn is_up(&self, id: TargetId) -> bool {
        self.targets.get(id.0).is_some_and(Target::is_up)
    }

    pub(crate) fn any_up(&self) -> bool {
        self.targets.iter().any(Target::is_up)
    }

    /// Returns how many targets are up.
    pub fn up(&self) -> usize {
        self.targets.iter().filter(|target| target.is_up()).count()
    }

    /// Returns how many devices are clients, at all targets.
    pub fn clients(&self) -> usize {
        self.targets.iter().map(|target| target.clients).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (TargetId, &Target<Faults>)> {
        self.targets.iter().enumerate().map(|(index, target)| (TargetId(index), target))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (TargetId, &mut Target<Faults>)> {
        self.targets.iter_mut().enumerate().map(|(index, target)| (TargetId(index), target))
    }

    pub fn target(&self, id: TargetId) -> &Target<Faults> {
        &self.targets[id.0]
    }

    pub(crate) fn target_mut(&mut self, id: TargetId) -> &mut Target<Faults> {
        &mut self.targets[id.0]
    }
}

impl<Faults> Target<Faults> {
    pub fn new(name: String, faults: Faults) -> Self {
        Self {
            name,
            health: Health::Up,
            answered: false,
            connections: 0,
            clients: 0,
            faults,
            probes: ProbeSchedule::default(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.health == Health::Up
    }

    fn describe(&self) -> String {
        match &self.health {
            Health::Up if self.answered => format!("{} is available", self.name),
            Health::Up => format!("{} has not answered yet", self.name),
            Health::Down { fault } => format!("{} is unavailable: {fault}", self.name),
        }
    }

    /// Returns the reason of a failed dial without the name of the target, which stands around it already.
    pub(crate) fn without_name<'a>(&self, why: &'a str) -> &'a str {
        why.strip_prefix(self.name.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TargetId = TargetId(0);
    const B: TargetId = TargetId(1);

    fn two() -> Targets<()> {
        Targets::new(["a", "b"].map(|name| (name.to_owned(), ())))
    }

    #[test]
    fn new_devices_go_where_the_fewest_are_and_others_back_to_where_they_were() {
        let mut targets = two();
        let mut chosen = Vec::new();
        for _ in 0..4 {
            let target = targets.choose(None, false).expect("a target");
            targets.add_connection(target);
            chosen.push(target);
        }
        assert_eq!(chosen, [A, B, A, B]);
        targets.remove_connection(B);
        assert_eq!(targets.choose(None, false), Some(B));
        assert_eq!(targets.choose(Some(A), false), Some(A));
        assert_eq!(targets.choose(Some(A), true), Some(B));
    }

    #[test]
    fn the_health_says_of_each_target_how_it_is_and_whether_one_serves() {
        let mut targets = two();
        assert!(targets.take_changed() && !targets.take_changed());
        let health = |serving, detail: &str| TargetsHealth { serving, detail: detail.to_owned() };
        assert_eq!(targets.health(), health(false, "a has not answered yet; b has not answered yet"));
        targets.mark_answered(A);
        targets.mark_down(B, "closed".to_owned());
        assert!(targets.take_changed());
        assert_eq!(targets.health(), health(true, "a is available; b is unavailable: closed"));
        assert_eq!(targets.choose(Some(B), false), Some(A));
        assert!(targets.mark_up(B) && !targets.mark_up(B));
        targets.mark_answered(A);
        assert!(targets.take_changed() && !targets.take_changed());
    }
}
