//! The retained commands that were obeyed. The broker gives them to everybody who subscribes, each time that a device
//! registers: a device that is told to reboot by one would never come to rest.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Commands that are remembered; the oldest is forgotten then, and would be obeyed once more.
const REMEMBERED: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Obeyed {
    hashes: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Obeyed {
    /// Whether this command comes to this device for the first time. From now on it does not.
    pub fn is_new(&mut self, endpoint: &str, payload: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        (endpoint, payload).hash(&mut hasher);
        let hash = hasher.finish();
        if !self.hashes.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_new_once_for_each_device() {
        let mut obeyed = Obeyed::default();
        assert!(obeyed.is_new("ep1", b"reboot"));
        assert!(obeyed.is_new("ep2", b"reboot"));
        assert!(obeyed.is_new("ep1", b"reset"));
        assert!(!obeyed.is_new("ep1", b"reboot"));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut obeyed = Obeyed::default();
        for number in 0..=REMEMBERED {
            assert!(obeyed.is_new("ep", &number.to_be_bytes()));
        }
        assert_eq!((obeyed.hashes.len(), obeyed.order.len()), (REMEMBERED, REMEMBERED));
        assert!(obeyed.is_new("ep", &0_usize.to_be_bytes()));
    }
}
