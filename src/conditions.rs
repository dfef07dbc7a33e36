//! Conditions of readiness by name. Each part of the program sets the state of its own condition; the admin listener
//! shows all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All conditions of the program. A clone shares the list.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Arc<Mutex<BTreeMap<&'static str, Vec<ConditionStatus>>>>);

/// The handle by which a part of the program sets its condition.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    /// The index of this part among those of the condition.
    part: usize,
    conditions: Conditions,
    /// The state in the place of [`ConditionState::Down`].
    down: ConditionState,
}

/// The state of a condition, with an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionStatus {
    pub state: ConditionState,
    /// Explains the state to an operator: the address, or what is wrong. Contains no secret.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionState {
    Up,
    /// The program works with a restriction, which the detail names.
    Degraded,
    /// The program cannot serve devices.
    Down,
    /// The part is disabled.
    Off,
}

impl Conditions {
    /// Adds a condition, which is down until it is set.
    pub fn add(&self, name: &'static str) -> Condition {
        let mut conditions = self.lock();
        let parts = conditions.entry(name).or_default();
        parts.push(ConditionStatus { state: ConditionState::Down, detail: "not there yet".to_owned() });
        Condition { name, part: parts.len() - 1, conditions: self.clone(), down: ConditionState::Down }
    }

    /// Returns the status of each condition, ordered by name. If several parts of the program, such as threads, have
    /// added a condition of one name, its status is the worst of theirs.
    pub fn statuses(&self) -> BTreeMap<&'static str, ConditionStatus> {
        let conditions = self.lock();
        let worst = |parts: &[ConditionStatus]| parts.iter().rev().max_by_key(|status| status.state.badness()).cloned();
        conditions.iter().filter_map(|(name, parts)| Some((*name, worst(parts)?))).collect()
    }

    // A panic while the list is locked cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<ConditionStatus>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// Returns a handle that sets the condition to degraded where it would be down: without this part the program serves
    /// devices all the same.
    pub fn never_down(self) -> Self {
        Self { down: ConditionState::Degraded, ..self }
    }

    pub fn set(&self, state: ConditionState, detail: impl Into<String>) {
        let state = if state == ConditionState::Down { self.down } else { state };
        if let Some(status) = self.conditions.lock().get_mut(self.name).and_then(|parts| parts.get_mut(self.part)) {
            *status = ConditionStatus { state, detail: detail.into() };
        }
    }
}

impl ConditionState {
    fn badness(self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Off => 1,
            Self::Degraded => 2,
            Self::Down => 3,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Off => "off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_of_several_parts_is_as_bad_as_the_worst_of_them() {
        let conditions = Conditions::default();
        let parts = [(); 3].map(|()| conditions.add("broker"));
        let shown = || {
            let ConditionStatus { state, detail } = conditions.statuses()["broker"].clone();
            (state, detail)
        };
        assert_eq!(shown(), (ConditionState::Down, "not there yet".to_owned()));
        parts.iter().zip(["one", "two", "three"]).for_each(|(part, name)| part.set(ConditionState::Up, name));
        assert_eq!(shown(), (ConditionState::Up, "one".to_owned()));
        parts[1].set(ConditionState::Degraded, "slow");
        assert_eq!(shown(), (ConditionState::Degraded, "slow".to_owned()));
        parts[0].clone().never_down().set(ConditionState::Down, "away");
        assert_eq!(shown(), (ConditionState::Degraded, "away".to_owned()));
        parts[2].set(ConditionState::Down, "gone");
        assert_eq!(shown(), (ConditionState::Down, "gone".to_owned()));
    }
}
