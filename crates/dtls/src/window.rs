//! Which records were received (RFC 6347 section 4.1.2.6).

/// The newest sequence number, and the 63 before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    newest: u64,
    /// Bit n: `newest - n` was received.
    received: u64,
}

/// What a sequence number is to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Newer than all before.
    Newest,
    /// Late, and not received yet.
    Late,
    /// Received before, or so old that nobody knows.
    Replayed,
}

impl Window {
    pub const SIZE: u64 = 64;

    /// With this one received, and none before it.
    pub fn with_newest(newest: u64) -> Self {
        Self { newest, received: 1 }
    }

    pub fn from_parts(newest: u64, received: u64) -> Self {
        Self { newest, received }
    }

    pub fn parts(self) -> (u64, u64) {
        (self.newest, self.received)
    }

    pub fn standing(self, sequence: u64) -> Standing {
        if sequence > self.newest {
            return Standing::Newest;
        }
        match self.newest - sequence {
            age if age < Self::SIZE && self.received >> age & 1 == 0 => Standing::Late,
            _ => Standing::Replayed,
        }
    }

    /// To be called for what is authentic, and never before that is known.
    pub fn mark(&mut self, sequence: u64) {
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
        let mut window = Window::with_newest(100);
        assert_eq!(window.standing(100), Standing::Replayed);
        assert_eq!(window.standing(101), Standing::Newest);
        assert_eq!(window.standing(99), Standing::Late);
        assert_eq!(window.standing(37), Standing::Late);
        assert_eq!(window.standing(36), Standing::Replayed);

        window.mark(163);
        assert_eq!(window.standing(101), Standing::Late);
        assert_eq!(window.standing(100), Standing::Replayed);
        window.mark(101);
        assert_eq!(window.standing(101), Standing::Replayed);
        window.mark(1_000);
        assert_eq!(window.standing(163), Standing::Replayed);
        assert_eq!(window.standing(999), Standing::Late);
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_nothing_within_the_window_is_lost(
            sequences in proptest::collection::vec(0..400u64, 1..400),
        ) {
            let mut window = Window::with_newest(0);
            let mut received = HashSet::from([0]);
            for sequence in sequences {
                let newest = received.iter().max().copied().unwrap_or_default();
                let accepted = window.standing(sequence) != Standing::Replayed;
                let known = received.contains(&sequence);
                prop_assert_eq!(accepted, !known && sequence + Window::SIZE > newest);
                if accepted {
                    window.mark(sequence);
                    received.insert(sequence);
                }
            }
        }
    }
}
