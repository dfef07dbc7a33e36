//! The lease as the process knows it, and the requests of the scripts, without IO.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{Cmd, cmd};
use openssl::error::ErrorStack;
use thiserror::Error;

use super::layout::{BatchStep, FORMAT};
use super::scripts::Script;
use super::seal::Seal;

/// The time after which another process may take the store.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// The names and the keys of a process at the store.
#[derive(Clone, Debug)]
pub(crate) struct ProcessIdentity {
    pub prefix: String,
    /// The name of the process: that of the machine, and a random number.
    pub owner: String,
    /// The fingerprints of the keys that open the records, that of the one that seals first.
    pub seal: String,
}

/// A lease that this process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub term: u64,
    /// The run of the server at the last renewal.
    pub run: String,
    /// The number of the database at the last renewal.
    pub created: String,
    /// The number of the last batch.
    pub seq: u64,
}

/// The answer of the script that takes the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AcquireAnswer {
    /// The process has the lease. `now` is the time of the server in milliseconds since 1970.
    Acquired {
        now: u64,
        lease: Lease,
    },
    Busy {
        owner: String,
        milliseconds: u64,
    },
    Unknown {
        now: u64,
    },
    Later {
        milliseconds: u64,
    },
    OtherFormat(String),
    OtherKey,
}

/// The answer to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RenewAnswer {
    /// `lost`: the server has lost some or all records since the last renewal.
    Mine {
        lost: bool,
    },
    Fenced {
        owner: String,
    },
}

/// An answer that none of the scripts gives.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the answer {0:?} is of no script of this version")]
pub struct AnswerError(Vec<String>);

impl ProcessIdentity {
    pub(super) fn acquire(&self, floor: u64, new_database: &str) -> Cmd {
        let mut command = self.script(Script::Acquire, &[&self.key("lease"), &self.key("about")]);
        command.arg(&self.owner).arg(milliseconds()).arg(floor).arg(FORMAT).arg(new_database).arg(&self.seal);
        command
    }

    pub(super) fn renew(&self, lease: &Lease, new_database: &str) -> Cmd {
        let mut command = self.script(Script::Renew, &[&self.key("lease"), &self.key("about")]);
        command.arg(&self.owner).arg(lease.term).arg(&lease.run).arg(milliseconds());
        command.arg(FORMAT).arg(new_database).arg(&self.seal).arg(lease.seq);
        command
    }

    pub(super) fn release(&self) -> Cmd {
        let mut command = self.script(Script::Release, &[&self.key("lease")]);
        command.arg(&self.owner);
        command
    }

    /// Returns the request that writes a batch. `nonce` returns random numbers.
    pub(super) fn write(
        &self,
        seq: u64,
        steps: &[BatchStep],
        seal: &mut Seal,
        mut nonce: impl FnMut() -> [u8; 12],
    ) -> Result<Cmd, ErrorStack> {
        let mut keys = vec![self.key("lease")];
        let mut numbers = HashMap::new();
        for step in steps {
            let (BatchStep::Put { hash, .. } | BatchStep::Remove { hash, .. } | BatchStep::Clear { hash }) = step;
            numbers.entry(hash).or_insert_with(|| {
                keys.push(hash.key(&self.prefix));
                keys.len()
            });
        }
        let mut command = self.script(Script::Write, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        command.arg(&self.owner).arg(seq);
        for step in steps {
            match step {
                BatchStep::Put { hash, field, value } => {
                    let sealed = seal.seal(&keys[numbers[hash] - 1], field, nonce(), value)?;
                    command.arg(numbers[hash]).arg("p").arg(field.as_slice()).arg(sealed);
                }
                BatchStep::Remove { hash, field } => {
                    command.arg(numbers[hash]).arg("r").arg(field.as_slice());
                }
                BatchStep::Clear { hash } => {
                    command.arg(numbers[hash]).arg("c");
                }
            }
        }
        Ok(command)
    }

    fn key(&self, last: &str) -> String {
        format!("{}:{last}", self.prefix)
    }

    fn script(&self, script: Script, keys: &[&str]) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(script.text()).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        command
    }
}

impl AnswerError {
    pub fn new(answer: Vec<String>) -> Self {
        Self(answer)
    }
}

impl AcquireAnswer {
    pub(super) fn parse(answer: Vec<String>) -> Result<Self, AnswerError> {
        let number = |text: &str| text.parse::<u64>().ok();
        let parsed = match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["acquired", now, term, run, created] => number(now).zip(number(term)).map(|(now, term)| {
                let lease = Lease { term, run: run.to_owned(), created: created.to_owned(), seq: 0 };
                Self::Acquired { now, lease }
            }),
            ["busy", owner, left] => {
                number(left).map(|milliseconds| Self::Busy { owner: owner.to_owned(), milliseconds })
            }
            ["unknown", now] => number(now).map(|now| Self::Unknown { now }),
            ["later", left] => number(left).map(|milliseconds| Self::Later { milliseconds }),
            ["format", format] => Some(Self::OtherFormat(format.to_owned())),
            ["seal"] => Some(Self::OtherKey),
            _ => None,
        };
        parsed.ok_or(AnswerError(answer))
    }
}

impl Lease {
    /// Takes the answer to a renewal.
    pub(super) fn renewed(&mut self, answer: Vec<String>) -> Result<RenewAnswer, AnswerError> {
        match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["mine", run, created] => {
                let lost = self.run != run || self.created != created;
                (self.run, self.created) = (run.to_owned(), created.to_owned());
                Ok(RenewAnswer::Mine { lost })
            }
            ["fenced", owner] => Ok(RenewAnswer::Fenced { owner: owner.to_owned() }),
            _ => Err(AnswerError(answer)),
        }
    }
}

fn milliseconds() -> u64 {
    u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_renewal_by_another_run_or_in_another_database_tells_that_records_are_lost() {
        let mut lease = Lease { term: 7, run: "r1".to_owned(), created: "c1".to_owned(), seq: 0 };
        assert_eq!(lease.renewed(answer(&["mine", "r1", "c1"])), Ok(RenewAnswer::Mine { lost: false }));
        assert_eq!(lease.renewed(answer(&["mine", "r2", "c1"])), Ok(RenewAnswer::Mine { lost: true }), "a failover");
        assert_eq!(lease.renewed(answer(&["mine", "r2", "c1"])), Ok(RenewAnswer::Mine { lost: false }));
        assert_eq!(lease.renewed(answer(&["mine", "r2", "c2"])), Ok(RenewAnswer::Mine { lost: true }), "emptied");
        let fenced = RenewAnswer::Fenced { owner: "other".to_owned() };
        assert_eq!(lease.renewed(answer(&["fenced", "other"])), Ok(fenced));
        assert!(lease.renewed(answer(&["what"])).is_err());
    }

    #[test]
    fn the_answers_of_the_script_that_takes_the_lease_are_read() {
        let acquired = AcquireAnswer::parse(answer(&["acquired", "1796000000000", "15000000", "r", "c"]));
        let lease = Lease { term: 15_000_000, run: "r".to_owned(), created: "c".to_owned(), seq: 0 };
        assert_eq!(acquired, Ok(AcquireAnswer::Acquired { now: 1_796_000_000_000, lease }));
        let busy = AcquireAnswer::Busy { owner: "gw:1".to_owned(), milliseconds: 4_000 };
        assert_eq!(AcquireAnswer::parse(answer(&["busy", "gw:1", "4000"])), Ok(busy));
        assert_eq!(AcquireAnswer::parse(answer(&["later", "12"])), Ok(AcquireAnswer::Later { milliseconds: 12 }));
        assert!(AcquireAnswer::parse(answer(&["later", "-1"])).is_err());
    }
}
