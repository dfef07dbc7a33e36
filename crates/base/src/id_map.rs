//! A map whose keys are numbers that this program counts up.

use std::collections::HashMap;

/// Maps ids of this program to values. No peer chooses such a key, so that a fast hash function is enough. A map whose
/// keys contain anything that a peer chooses is a [`HashMap`] with the hash function of the standard library, which
/// withstands chosen keys.
pub type IdMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
