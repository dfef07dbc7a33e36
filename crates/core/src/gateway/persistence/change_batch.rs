//! Batches of changes for the store, and the numbers by which the store confirms them.

use super::record::Change;

/// The number of a batch of changes of one gateway. Batches are numbered in the order in which
/// [`Gateway::take_batch`](crate::gateway::Gateway::take_batch) returns them, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNumber(u64);

impl BatchNumber {
    /// Returns the number of the next batch.
    pub(in crate::gateway) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Changes that the store writes together, all or none.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeBatch {
    pub version: BatchNumber,
    pub changes: Vec<Change>,
}
