//! Logs a connection or a socket that fails once for each outage.

use std::time::{Duration, Instant};

/// A series of failed attempts.
#[derive(Debug, Default)]
pub(super) struct PeerOutage {
    since: Option<Instant>,
    is_logged: bool,
}

impl PeerOutage {
    /// Notes a failed attempt. Returns whether it has to be logged: it is the first one for which the outage has lasted
    /// this long.
    pub(super) fn failed(&mut self, now: Instant, patience: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_first = !self.is_logged && now.saturating_duration_since(since) >= patience;
        self.is_logged |= is_first;
        is_first
    }

    /// Notes an attempt that did not fail. Returns whether the outage before it was logged.
    pub(super) fn ended(&mut self) -> bool {
        std::mem::take(self).is_logged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_once_and_only_if_it_lasts() {
        let (mut outage, start) = (PeerOutage::default(), Instant::now());
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(5);
        assert!(!outage.failed(seconds(0), patience) && !outage.failed(seconds(4), patience));
        assert!(!outage.ended(), "it was too short");
        assert!(!outage.failed(seconds(9), patience));
        assert_eq!([14, 15, 99].map(|at| outage.failed(seconds(at), patience)), [true, false, false]);
        assert!(outage.ended() && !outage.ended());
        assert_eq!([100, 101].map(|at| outage.failed(seconds(at), Duration::ZERO)), [true, false]);
    }
}
