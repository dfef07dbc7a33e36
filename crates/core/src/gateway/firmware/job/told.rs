//! The values of the device's Firmware Update object, read from its answers.

use serde::{Deserialize, Serialize};

use crate::lwm2m::codec::Entry;
use crate::lwm2m::firmware::{State, UpdateResult, resource};
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

/// State and Update Result as the device reported them last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    state: Option<State>,
    result: Option<UpdateResult>,
    /// The result of an earlier update, which the device has not changed since this one began. Not every device clears
    /// it when a transfer begins, as the object says.
    stale: Option<UpdateResult>,
}

impl Told {
    /// Takes the values of these resources of the instance. Returns whether the state has changed.
    pub(super) fn take(&mut self, instance: Path, entries: &[Entry]) -> bool {
        let state = number(entries, instance, resource::STATE).and_then(State::of);
        let result = number(entries, instance, resource::UPDATE_RESULT).and_then(UpdateResult::of);
        if let Some(result) = result {
            if self.stale != Some(result) {
                self.stale = None;
            }
            self.result = Some(result);
        }
        let has_changed = state.is_some_and(|state| self.state != Some(state));
        self.state = state.or(self.state);
        has_changed
    }

    /// Marks the known result as that of an earlier update.
    pub(super) fn begin(&mut self) {
        self.stale = self.result;
    }

    /// Forgets the state: the device was told to change it.
    pub(crate) fn forget_state(&mut self) {
        self.state = None;
    }

    /// Marks the known result as that of this update, which the device has ended.
    pub(super) fn conclude(&mut self) {
        self.stale = None;
    }

    /// Returns whether the result that is known may be that of an earlier update.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.is_some_and(|result| result != UpdateResult::Initial)
    }

    pub(super) fn state(&self) -> Option<State> {
        self.state
    }

    pub(super) fn result(&self) -> Option<UpdateResult> {
        self.result
    }

    /// Returns the result, if it is that of this update.
    pub(crate) fn new_result(&self) -> Option<UpdateResult> {
        self.result.filter(|result| self.stale != Some(*result) && *result != UpdateResult::Initial)
    }

    /// Returns the result, if it is that of this update and reports a fault.
    pub(crate) fn new_fault(&self) -> Option<UpdateResult> {
        self.new_result().filter(|result| *result != UpdateResult::Success)
    }
}

/// Returns the number that a resource of an instance has.
pub(super) fn number(entries: &[Entry], instance: Path, resource: u16) -> Option<i64> {
    numbers(entries, instance, resource).next()
}

/// Returns the numbers that the instances of a resource have.
pub(super) fn numbers(entries: &[Entry], instance: Path, resource: u16) -> impl Iterator<Item = i64> {
    let path = instance.child(resource);
    let of_resource = entries.iter().filter(move |entry| path.is_some_and(|path| entry.path.is_at_or_below(&path)));
    of_resource.filter_map(|entry| match &entry.value {
        Value::Integer(number) => Some(*number),
        Value::UnsignedInteger(number) => i64::try_from(*number).ok(),
        // A version of the object without definition: the number is the same in all of them.
        Value::String(text) => text.trim().parse().ok(),
        Value::Opaque(bytes) => match bytes.as_slice() {
            [number] => Some(i64::from(*number)),
            _ => None,
        },
        Value::Float(_) | Value::Boolean(_) | Value::Time(_) | Value::ObjectLink(_) | Value::CoreLink(_) => None,
    })
}

/// Returns the text that a resource has.
pub(super) fn text(entries: &[Entry], path: Path) -> Option<&str> {
    entries.iter().find(|entry| entry.path == path).and_then(|entry| match &entry.value {
        Value::String(text) => Some(text.as_str()),
        Value::Integer(_)
        | Value::UnsignedInteger(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Opaque(_)
        | Value::Time(_)
        | Value::ObjectLink(_)
        | Value::CoreLink(_) => None,
    })
}
