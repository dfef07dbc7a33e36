//! The rates of commands by the API, for each token and in all.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use lwm2m_base::rate::{Rate, TokenBuckets};

use crate::console::http::problem::{Problem, ProblemKind};

const OF_TOKEN: Rate = Rate { per_second: 10, burst: 20 };
const OF_ALL: Rate = Rate { per_second: 50, burst: 50 };

/// Bounds the rates of commands. The tokens file bounds the number of names.
#[derive(Default)]
pub(crate) struct CommandRates {
    buckets: Mutex<TokenBuckets<BucketKey>>,
    hashes: RandomState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum BucketKey {
    All,
    /// The hash of a name.
    User(u64),
}

impl CommandRates {
    /// Takes one command of this user.
    pub(crate) fn take(&self, now: Instant, user: &str) -> Result<(), Problem> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let user = BucketKey::User(self.hashes.hash_one(user));
        if !buckets.take(now, user, OF_TOKEN) {
            let reason = format!("a token may give {} commands in a second", OF_TOKEN.per_second);
            return Err(ProblemKind::TooMany.because(reason));
        }
        if !buckets.take(now, BucketKey::All, OF_ALL) {
            let reason = format!("the console gives {} commands in a second", OF_ALL.per_second);
            return Err(ProblemKind::TooMany.because(reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::monotonic_now;

    #[test]
    fn a_token_may_give_20_at_once_and_10_in_a_second_and_all_together_50() {
        let (rates, now) = (CommandRates::default(), monotonic_now());
        let given = |user: &str, now| (0..100).take_while(|_| rates.take(now, user).is_ok()).count();
        assert_eq!((given("alice", now), given("bob", now)), (20, 20));
        assert_eq!(given("carol", now), 10);
        let later = now + Duration::from_secs(1);
        assert_eq!((given("alice", later), given("bob", later)), (10, 10));
    }
}
