//! Dates as RFC 3339 has them, where a Time may be one (LwM2M 1.1 table C.2).

use std::time::UNIX_EPOCH;

use crate::lwm2m::value::without_blanks;

/// Returns the seconds since 1970 of a date in any offset from UTC, or `None` for anything else and for a fraction of a
/// second.
pub(super) fn parse(text: &str) -> Option<i64> {
    let text = without_blanks(text);
    let (local, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (local, offset_seconds(offset)?)
        }
    };
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let since = local.duration_since(UNIX_EPOCH).ok().filter(|since| since.subsec_nanos() == 0)?;
    Some(i64::try_from(since.as_secs()).ok()? - offset)
}

/// Returns how many seconds local time is ahead of UTC: `+02:00`, `-00:00`.
fn offset_seconds(text: &str) -> Option<i64> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let number = |text: &str, most: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten().filter(|number| *number <= most)
    };
    let seconds = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
    match text.as_bytes().first() {
        Some(b'+') => Some(seconds),
        Some(b'-') => Some(-seconds),
        Some(_) | None => None,
    }
}
