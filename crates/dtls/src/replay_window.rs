//! Remembers which records were received (RFC 6347 section 4.1.2.6).

/// The newest sequence number, and the 63 before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplayWindow {
    newest: u64,
    /// Bit n: `newest - n` was received.
    received: u64,
}

/// The result of checking a sequence number against the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayCheck {
    /// Newer than all before.
    Newest,
    /// Late, and not received yet.
    Late,
    /// Received before, or so old that nobody knows.
    Replayed,
}

impl ReplayWindow {
    pub(crate) const SIZE: u64 = 64;

    /// Creates a window in which this number is the newest received one.
    pub(crate) fn with_newest(newest: u64) -> Self {
        Self { newest, received: 1 }
    }

    pub(crate) fn from_parts(newest: u64, received: u64) -> Self {
        Self { newest, received }
    }

    pub(crate) fn parts(self) -> (u64, u64) {
        (self.newest, self.received)
    }

    pub(crate) fn check(self, sequence: u64) -> ReplayCheck {
        if sequence > self.newest {
            return ReplayCheck::Newest;
        }
        match self.newest - sequence {
            age if age < Self::SIZE && self.received >> age & 1 == 0 => ReplayCheck::Late,
            _ => ReplayCheck::Replayed,
        }
    }

    /// Marks a number as received. Call it for authentic records only.
    pub(crate) fn mark(&mut self, sequence: u64) {
        if sequence > self.newest {
            let ahead = sequence - self.newest;
            self.received = if ahead < Self::SIZE { self.received << ahead | 1 } else { 1 };
            self.newest = sequence;
        } else if self.newest - sequence < Self::SIZE {
            self.received |= 1 << (self.newest - sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_new_once_late_within_the_window_and_replayed_before_it() {
        let mut window = ReplayWindow::with_newest(100);
        assert_eq!(window.check(100), ReplayCheck::Replayed);
        assert_eq!(window.check(101), ReplayCheck::Newest);
        assert_eq!(window.check(99), ReplayCheck::Late);
        assert_eq!(window.check(37), ReplayCheck::Late);
        assert_eq!(window.check(36), ReplayCheck::Replayed);

        window.mark(163);
        assert_eq!(window.check(101), ReplayCheck::Late);
        assert_eq!(window.check(100), ReplayCheck::Replayed);
        window.mark(101);
        assert_eq!(window.check(101), ReplayCheck::Replayed);
        window.mark(1_000);
        assert_eq!(window.check(163), ReplayCheck::Replayed);
        assert_eq!(window.check(999), ReplayCheck::Late);
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_nothing_within_the_window_is_lost(
            sequences in proptest::collection::vec(0..400u64, 1..400),
        ) {
            let mut window = ReplayWindow::with_newest(0);
            let mut received = HashSet::from([0]);
            for sequence in sequences {
                let newest = received.iter().max().copied().unwrap_or_default();
                let accepted = window.check(sequence) != ReplayCheck::Replayed;
                let known = received.contains(&sequence);
                prop_assert_eq!(accepted, !known && sequence + ReplayWindow::SIZE > newest);
                if accepted {
                    window.mark(sequence);
                    received.insert(sequence);
                }
            }
        }
    }
}
