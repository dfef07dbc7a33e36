//! Limits repeated log lines: each is logged once for each device and minute, and at the end of the minute with the
//! number of repetitions. Unregistered peers choose the names of devices, so the number of devices and of lines is
//! bounded.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Period in which a line is logged once for each device.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// Maximum number of lines that are counted by device. Devices beyond it share one line.
const MAX_DEVICES: usize = 1_000;

/// Stands for all devices beyond [`MAX_DEVICES`].
const OTHERS: &str = "(other devices)";

/// The repeated line, and the device that it is about.
pub(crate) type RepeatKey = (&'static str, String);

#[derive(Debug, Default)]
pub(crate) struct Repeats {
    lines: HashMap<RepeatKey, RepeatedLine>,
    /// The end of each line's period, the earliest first: all periods are equally long.
    ends: VecDeque<(Instant, RepeatKey)>,
}

#[derive(Debug)]
struct RepeatedLine {
    /// Number of repetitions since it was logged.
    more: u64,
    /// The last reason.
    last: String,
}

/// A line that was repeated within its period.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub kind: &'static str,
    pub device: String,
    pub times: u64,
    /// The last reason.
    pub reason: String,
}

impl Repeats {
    /// Returns whether the line has to be logged now; otherwise counts it.
    pub(super) fn is_first(&mut self, now: Instant, kind: &'static str, device: &str, reason: &str) -> bool {
        let key = (kind, device.to_owned());
        let key = if self.lines.len() < MAX_DEVICES || self.lines.contains_key(&key) {
            key
        } else {
            (kind, OTHERS.to_owned())
        };
        if let Some(line) = self.lines.get_mut(&key) {
            line.more += 1;
            reason.clone_into(&mut line.last);
            return false;
        }
        self.begin(now, key);
        true
    }

    /// Returns when [`Repeats::pop_ended`] has a line.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Returns the next repeated line whose period has ended, and begins a new period for it. A line that was not
    /// repeated is forgotten.
    pub(crate) fn pop_ended(&mut self, now: Instant) -> Option<Again> {
        while self.next_end().is_some_and(|end| end <= now) {
            let (_, key) = self.ends.pop_front()?;
            let line = self.lines.remove(&key).expect("a line is forgotten at its end");
            if line.more > 0 {
                let (kind, device) = key.clone();
                self.begin(now, key);
                return Some(Again { kind, device, times: line.more, reason: line.last });
            }
        }
        None
    }

    fn begin(&mut self, now: Instant, key: RepeatKey) {
        self.ends.push_back((now + PERIOD, key.clone()));
        self.lines.insert(key, RepeatedLine { more: 0, last: String::new() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_line_of_a_device_is_logged_once_in_a_minute_and_then_how_often_it_came() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!(repeats.is_first(now, "refused", "ep1", "a"));
        assert!(repeats.is_first(now, "refused", "ep2", "a"));
        assert!(repeats.is_first(now, "forbidden", "ep1", "a"));
        for _ in 0..20 {
            assert!(!repeats.is_first(now + SECOND, "refused", "ep1", "b"));
        }
        assert_eq!(repeats.next_end(), Some(now + PERIOD));
        assert_eq!(repeats.pop_ended(now + PERIOD - SECOND), None);
        let again = Again { kind: "refused", device: "ep1".to_owned(), times: 20, reason: "b".to_owned() };
        assert_eq!(repeats.pop_ended(now + PERIOD), Some(again));
        assert_eq!(repeats.pop_ended(now + PERIOD), None);
        // It still comes, and has had its line; the others have not come again.
        assert!(!repeats.is_first(now + PERIOD, "refused", "ep1", "c"));
        assert!(repeats.is_first(now + PERIOD, "refused", "ep2", "a"));
        assert_eq!(repeats.pop_ended(now + 2 * PERIOD).map(|again| again.times), Some(1));
        assert_eq!(repeats.pop_ended(now + 3 * PERIOD), None);
        assert_eq!((repeats.next_end(), repeats.lines.len()), (None, 0));
    }

    #[test]
    fn invented_names_fill_neither_the_memory_nor_the_log() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let logged = (0..20_000).filter(|name| repeats.is_first(now, "refused", &name.to_string(), "")).count();
        assert_eq!(
            (logged, repeats.lines.len(), repeats.ends.len()),
            (MAX_DEVICES + 1, MAX_DEVICES + 1, MAX_DEVICES + 1)
        );
        let others = repeats.pop_ended(now + PERIOD).unwrap();
        assert_eq!((others.device.as_str(), others.times), (OTHERS, 20_000 - MAX_DEVICES as u64 - 1));
    }
}
