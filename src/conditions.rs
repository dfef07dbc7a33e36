//! Conditions of readiness by name. Each part of the program sets the state of its own condition; the admin listener
//! shows all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All conditions of the program. A clone shares the list.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Arc<Mutex<BTreeMap<&'static str, ConditionStatus>>>);

/// The handle by which a part of the program sets its condition.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    conditions: Conditions,
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
    /// This part is disabled.
    Off,
}

impl Conditions {
    /// Adds a condition, which is down until it is set.
    pub fn add(&self, name: &'static str) -> Condition {
        let condition = Condition { name, conditions: self.clone() };
        condition.set(ConditionState::Down, "not there yet");
        condition
    }

    /// Returns the status of each condition, ordered by name.
    pub fn statuses(&self) -> BTreeMap<&'static str, ConditionStatus> {
        self.lock().clone()
    }

    // A panic while the list is locked cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, ConditionStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    pub fn set(&self, state: ConditionState, detail: impl Into<String>) {
        self.conditions.lock().insert(self.name, ConditionStatus { state, detail: detail.into() });
    }
}

impl ConditionState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Off => "off",
        }
    }
}
