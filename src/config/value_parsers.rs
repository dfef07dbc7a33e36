//! Parsers of values: each accepts a TOML value or describes the expected values.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Value;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// A year of 365.25 days, as in `humantime`.
pub(super) const YEAR: Duration = Duration::from_secs(31_557_600);

/// Maximum of every count.
pub(crate) const MAX_COUNT: usize = 10_000_000;

pub(crate) const SOCKET_ADDRESS: &str = "an IP address with a port, such as \"0.0.0.0:5683\" or \"[::]:5683\"";

/// Maximum length of a value in a message, in characters.
const LONGEST_SHOWN: usize = 80;

pub(super) fn whole<N>(range: RangeInclusive<N>) -> impl Fn(&Value) -> Result<N, String>
where
    N: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let number = value.as_integer().and_then(|number| N::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Parses a number with or without a fraction.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Result<f64, String> {
    move |value| {
        let whole = || value.as_integer().and_then(|number| i32::try_from(number).ok()).map(f64::from);
        value
            .as_float()
            .or_else(whole)
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("expected a number from {:?} to {:?}", range.start(), range.end()))
    }
}

/// Parses a duration such as `"1h 30m"`, or whole seconds.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        let seconds = || value.as_integer().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let text = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
        text.or_else(seconds).filter(|duration| range.contains(duration)).ok_or_else(|| {
            let [least, most] = [*range.start(), *range.end()].map(humantime::format_duration);
            format!("expected a duration (\"90s\", \"1h 30m\") or whole seconds, from {least} to {most}")
        })
    }
}

pub(crate) fn switch(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "expected true or false".to_owned())
}

pub(super) fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "expected a string".to_owned())
}

pub(crate) fn text_with_content(value: &Value) -> Result<String, String> {
    let given = value.as_str().filter(|text| !text.is_empty());
    given.map(str::to_owned).ok_or_else(|| "expected a non-empty string".to_owned())
}

/// Parses a string by the [`FromStr`] of a type; `allowed` describes the expected values.
pub(super) fn parsed<T: FromStr>(allowed: &'static str) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let given = value.as_str().and_then(|text| text.parse().ok());
        given.ok_or_else(|| format!("expected {allowed}"))
    }
}

/// Parses one of these words.
pub(super) fn choice<T: Copy, const N: usize>(words: [(&'static str, T); N]) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let given = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        given.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let names = words.map(|(word, _)| format!("{word:?}"));
            format!("expected {}", names.join(" or "))
        })
    }
}

/// Parses a list, or a single value as a list of one.
pub(super) fn list<T>(item: impl Fn(&Value) -> Result<T, String>) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        items.iter().map(|given| item(given).map_err(|problem| format!("{}: {problem}", shown(given)))).collect()
    }
}

pub(crate) fn not_empty<T>(
    list: impl Fn(&Value) -> Result<Vec<T>, String>,
) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| {
        let items = list(value)?;
        if items.is_empty() { Err("at least one is needed".to_owned()) } else { Ok(items) }
    }
}

/// Parses an address with a port other than 0, for a listener whose port others have to know.
pub(crate) fn reachable_address(value: &Value) -> Result<SocketAddr, String> {
    let address: SocketAddr = parsed("an IP address with a port, such as \"127.0.0.1:9001\" or \"[::1]:9001\"")(value)?;
    if address.port() == 0 { Err("expected a port from 1 to 65535".to_owned()) } else { Ok(address) }
}

/// Parses `host:port` or `ssl://host:port`. The error shows the example.
pub(crate) fn broker_address(example: &'static str) -> impl Fn(&Value) -> Result<String, String> {
    move |value| {
        let given = value.as_str().filter(|text| is_host_and_port(text.strip_prefix("ssl://").unwrap_or(text)));
        given.map(str::to_owned).ok_or_else(|| format!("expected host:port, such as {example:?}, or ssl://host:port"))
    }
}

/// Parses `http://host:port`.
pub(crate) fn http_address(value: &Value) -> Result<String, String> {
    let authority = |text: &str| text.strip_prefix("http://").is_some_and(is_host_and_port);
    let given = value.as_str().filter(|text| authority(text));
    given.map(str::to_owned).ok_or_else(|| "expected http://host:port, such as \"http://127.0.0.1:9100\"".to_owned())
}

/// Formats a value as in the file, shortened.
pub(super) fn shown(value: &Value) -> String {
    let whole = value.to_string();
    match whole.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

/// Parses a host and a port.
pub(crate) fn host_and_port(value: &Value) -> Result<String, String> {
    let given = value.as_str().filter(|text| is_host_and_port(text));
    given.map(str::to_owned).ok_or_else(|| "expected a host and a port, such as \"gw-0.example.com:5690\"".to_owned())
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    host_fits && port.parse().is_ok_and(|port: u16| port != 0)
}
