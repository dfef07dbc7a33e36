//! The time of the day in which a campaign begins updates.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const MINUTES_OF_DAY: i64 = 24 * 60;
/// The largest offset of a time zone from UTC.
const FURTHEST_ZONE: i64 = 14 * 60;

/// A window that opens and closes once a day, at a fixed offset from UTC. It may include midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WindowText", into = "WindowText")]
pub struct DailyWindow {
    /// Minutes since midnight in the zone. They differ.
    start: i64,
    end: i64,
    /// Minutes that the zone is ahead of UTC.
    zone: i64,
}

/// A window as its JSON has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowText {
    pub start: String,
    pub end: String,
    #[serde(default = "utc")]
    pub zone: String,
}

/// The reason why a text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WindowError {
    #[error("window: {0:?} is not a time of the day; expected one such as \"22:30\"")]
    Time(String),
    #[error("window.zone: {0:?} is not a zone; expected \"UTC\" or an offset from UTC such as \"+02:00\"")]
    Zone(String),
    #[error("window: it has no length, because start and end are the same time")]
    Empty,
}

impl DailyWindow {
    /// Returns whether the window is open at this time since 1970.
    pub fn is_open(&self, unix_time: Duration) -> bool {
        let since_start = (self.minute_of(unix_time) - self.start).rem_euclid(MINUTES_OF_DAY);
        since_start < (self.end - self.start).rem_euclid(MINUTES_OF_DAY)
    }

    /// Returns the time until the window opens; zero while it is open.
    pub(crate) fn time_to_open(&self, unix_time: Duration) -> Duration {
        if self.is_open(unix_time) {
            return Duration::ZERO;
        }
        let minutes = (self.start - self.minute_of(unix_time)).rem_euclid(MINUTES_OF_DAY);
        let into_minute = Duration::new(unix_time.as_secs() % 60, unix_time.subsec_nanos());
        Duration::from_secs(minutes.unsigned_abs() * 60).saturating_sub(into_minute)
    }

    fn minute_of(&self, unix_time: Duration) -> i64 {
        let minutes = i64::try_from(unix_time.as_secs() / 60).unwrap_or(0);
        (minutes + self.zone).rem_euclid(MINUTES_OF_DAY)
    }
}

impl TryFrom<WindowText> for DailyWindow {
    type Error = WindowError;

    fn try_from(WindowText { start, end, zone }: WindowText) -> Result<Self, WindowError> {
        let read = |text: String| time_of_day(&text).ok_or(WindowError::Time(text));
        let (start, end) = (read(start)?, read(end)?);
        let zone = zone_of(&zone).ok_or(WindowError::Zone(zone))?;
        if start == end {
            return Err(WindowError::Empty);
        }
        Ok(Self { start, end, zone })
    }
}

impl From<DailyWindow> for WindowText {
    fn from(DailyWindow { start, end, zone }: DailyWindow) -> Self {
        let sign = if zone < 0 { '-' } else { '+' };
        let zone = if zone == 0 { utc() } else { format!("{sign}{}", Time(zone.abs())) };
        Self { start: Time(start).to_string(), end: Time(end).to_string(), zone }
    }
}

/// Minutes as hours and minutes.
struct Time(i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

fn time_of_day(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<i64>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

fn zone_of(text: &str) -> Option<i64> {
    if matches!(text, "UTC" | "Z") {
        return Some(0);
    }
    let (sign, distance) = match text.split_at_checked(1)? {
        ("+", distance) => (1, distance),
        ("-", distance) => (-1, distance),
        _ => return None,
    };
    let distance = time_of_day(distance).filter(|distance| *distance <= FURTHEST_ZONE)?;
    Some(sign * distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: &str, end: &str, zone: &str) -> Result<DailyWindow, WindowError> {
        WindowText { start: start.to_owned(), end: end.to_owned(), zone: zone.to_owned() }.try_into()
    }

    fn at(hours: u64, minutes: u64) -> Duration {
        Duration::from_secs(20_000 * 86_400 + hours * 3600 + minutes * 60)
    }

    #[test]
    fn a_window_may_include_midnight_and_its_end_is_not_part_of_it() {
        let night = window("22:00", "05:00", "UTC").unwrap();
        for (time, is_open) in [
            (at(21, 59), false),
            (at(22, 0), true),
            (at(23, 59), true),
            (at(0, 0), true),
            (at(4, 59), true),
            (at(5, 0), false),
            (at(12, 0), false),
        ] {
            assert_eq!(night.is_open(time), is_open, "{time:?}");
        }
    }

    #[test]
    fn a_zone_moves_the_window_against_utc() {
        let east = window("22:00", "23:00", "+02:00").unwrap();
        assert!(east.is_open(at(20, 30)) && !east.is_open(at(22, 30)));
        let west = window("22:00", "23:00", "-05:30").unwrap();
        assert!(west.is_open(at(3, 30)) && !west.is_open(at(22, 30)));
    }

    #[test]
    fn the_time_to_the_next_opening_is_exact_to_the_second() {
        let night = window("22:00", "05:00", "UTC").unwrap();
        assert_eq!(night.time_to_open(at(23, 0)), Duration::ZERO);
        let time = at(21, 59) + Duration::from_millis(59_250);
        assert_eq!(night.time_to_open(time), Duration::from_millis(750));
        assert!(night.is_open(time + night.time_to_open(time)));
        assert_eq!(night.time_to_open(at(5, 0)), Duration::from_secs(17 * 3600));
    }

    #[test]
    fn nonsense_is_no_window() {
        for (start, end, zone) in [
            ("22:00", "22:00", "UTC"),
            ("24:00", "01:00", "UTC"),
            ("1:00", "02:00", "UTC"),
            ("-1:00", "02:00", "UTC"),
            ("22", "23:00", "UTC"),
            ("22:00", "23:60", "UTC"),
            ("22:00", "23:00", "Europe/Berlin"),
            ("22:00", "23:00", "+15:00"),
            ("22:00", "23:00", ""),
            ("22:00", "23:00", "ü"),
        ] {
            assert!(window(start, end, zone).is_err(), "{start} {end} {zone}");
        }
    }

    #[test]
    fn a_window_is_written_as_it_was_read() {
        for (start, end, zone) in
            [("22:00", "05:30", "UTC"), ("00:00", "23:59", "-03:30"), ("01:00", "02:00", "+14:00")]
        {
            let text = WindowText::from(window(start, end, zone).unwrap());
            assert_eq!((text.start.as_str(), text.end.as_str(), text.zone.as_str()), (start, end, zone));
        }
    }
}
