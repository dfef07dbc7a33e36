//! How long the tests with random input run, and with which randomness.

use std::env;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Counts rounds: so many, or for `HOSTILE_SECONDS`.
pub(super) fn rounds(short: u64) -> impl Iterator<Item = u64> {
    let end = seconds().map(|seconds| now() + Duration::from_secs(seconds));
    // Reading the clock each time would take longer than a round.
    (0..).take_while(move |round| match end {
        None => *round < short,
        Some(end) => round % 1_024 != 0 || now() < end,
    })
}

/// Returns how long something in real time goes on.
pub(super) fn duration(short: Duration) -> Duration {
    seconds().map_or(short, Duration::from_secs)
}

/// Each test has a stream of its own.
pub(super) fn rng(stream: u64) -> StdRng {
    StdRng::seed_from_u64(number("HOSTILE_SEED").unwrap_or(1).wrapping_mul(1_000_003).wrapping_add(stream))
}

#[expect(clippy::disallowed_methods, reason = "the length of a run is real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

fn seconds() -> Option<u64> {
    number("HOSTILE_SECONDS")
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} = {value:?}: a whole number was expected")))
}
