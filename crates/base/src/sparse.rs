//! Hash tables that were large once give their memory back.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// A table with room for so many entries, or fewer, keeps its memory: it would soon need it again.
const SMALL: usize = 1_024;

/// Gives back the memory of a table that has become almost empty.
pub trait ShrinkSparse {
    /// Halves the table, or more, if it is less than an eighth full. Called after each removal, it moves each entry a
    /// constant number of times on average.
    fn shrink_sparse(&mut self);
}

impl<K: Eq + Hash, V, S: BuildHasher> ShrinkSparse for HashMap<K, V, S> {
    fn shrink_sparse(&mut self) {
        if is_sparse(self.len(), self.capacity()) {
            self.shrink_to(2 * self.len());
        }
    }
}

/// Returns whether a table of so many entries has too much room.
pub(crate) fn is_sparse(length: usize, capacity: usize) -> bool {
    capacity > SMALL && length < capacity / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shrinks_while_it_empties_and_a_small_one_keeps_its_memory() {
        let mut table: HashMap<u32, u32> = (0..100_000).map(|number| (number, number)).collect();
        let mut shrunk = 0;
        for number in 0..100_000 {
            let before = table.capacity();
            table.remove(&number);
            table.shrink_sparse();
            shrunk += u32::from(table.capacity() < before / 2);
            assert!(table.capacity() <= SMALL.max(8 * table.len() + 8), "{} of {}", table.len(), table.capacity());
        }
        assert!((1..=8).contains(&shrunk), "{shrunk}");

        let mut small: HashMap<u32, u32> = (0..800).map(|number| (number, number)).collect();
        small.retain(|number, _| *number < 1);
        let before = small.capacity();
        small.shrink_sparse();
        assert_eq!(small.capacity(), before);
    }
}
