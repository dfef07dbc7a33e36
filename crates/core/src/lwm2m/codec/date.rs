//! Dates as RFC 3339 has them, where a Time may be one (LwM2M 1.1 table C.2).

use std::time::UNIX_EPOCH;

use crate::lwm2m::value::without_blanks;

/// The calendar repeats itself after 400 years, which are this many days.
const CYCLE_DAYS: i64 = 146_097;
/// The number of cycles by which a date before 1970 is moved, because its parser knows no such dates.
const CYCLES: i64 = 5;
const YEARS_MOVED: i64 = CYCLES * 400;
const SECONDS_MOVED: i64 = CYCLES * CYCLE_DAYS * 86_400;

/// Returns the seconds since 1970 of a date in any offset from UTC, or `None` for anything else and for a fraction of a
/// second.
pub(super) fn parse(text: &str) -> Option<i64> {
    // RFC 3339 section 5.6: T and Z may be small letters.
    let text = without_blanks(text).to_ascii_uppercase();
    let (local, offset) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (local, offset_seconds(offset)?)
        }
    };
    let (year, rest) = local.split_at_checked("1970".len())?;
    let year: i64 = year.bytes().all(|byte| byte.is_ascii_digit()).then(|| year.parse().ok())??;
    let (years, seconds) = if year < 1970 { (YEARS_MOVED, SECONDS_MOVED) } else { (0, 0) };
    let moved = humantime::parse_rfc3339(&format!("{}{rest}Z", year + years)).ok()?;
    let since = moved.duration_since(UNIX_EPOCH).ok().filter(|since| since.subsec_nanos() == 0)?;
    Some(i64::try_from(since.as_secs()).ok()? - seconds - offset)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_seconds_since_1970() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2016-10-11T11:50:13Z", 1_476_186_613),
            ("2016-10-11t11:50:13z", 1_476_186_613),
            (" 2016-10-11T11:50:13Z\n", 1_476_186_613),
            ("2016-10-11T11:50:13.000Z", 1_476_186_613),
            ("2016-10-11T13:50:13+02:00", 1_476_186_613),
            ("2016-10-11T06:20:13-05:30", 1_476_186_613),
            ("2016-10-11T11:50:13-00:00", 1_476_186_613),
            ("1970-01-01T00:30:00+01:00", -1_800),
            ("1969-12-31T23:59:59Z", -1),
            ("1968-02-29T00:00:00Z", -58_060_800),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_or_has_a_fraction_of_a_second_is_refused() {
        for text in [
            "",
            "Z",
            "2016-10-11",
            "2016-10-11T11:50:13",
            "2016-10-11T11:50:13.5Z",
            "2016-10-11T11:50:13+2:00",
            "2016-10-11T11:50:13+24:00",
            "2016-10-11T11:50:13+02:60",
            "2016-10-11T11:50:13+0200",
            "2016-13-11T11:50:13Z",
            "2015-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1969-02-29T00:00:00Z",
            "2016-10-11T24:50:13Z",
            "+016-10-11T11:50:13Z",
            "12016-10-11T11:50:13Z",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
