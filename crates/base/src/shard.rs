//! Shards: the fixed parts into which devices are divided, among threads or among the nodes of a cluster.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// Identifies one of the 256 shards. The number of shards never changes, because every id that the gateway gives to a
/// device (connection ID, location, token) contains the number of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard(u8);

impl Shard {
    /// The number of shards.
    pub const COUNT: usize = 256;

    /// Returns the shard of this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Iterates over all shards, in the order of their numbers.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// Returns the number of the shard: the byte that stands for it in ids, messages and records.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The index of a shard in a table of [`Shard::COUNT`] entries.
impl From<Shard> for usize {
    fn from(shard: Shard) -> Self {
        usize::from(shard.0)
    }
}

impl Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_shards_as_a_byte_has_values() {
        let numbers: Vec<_> = Shard::all().map(Shard::number).collect();

        assert_eq!(numbers, (0..=255).collect::<Vec<u8>>());
        assert_eq!(numbers.len(), Shard::COUNT);
    }
}
