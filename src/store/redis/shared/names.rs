//! Endpoint names: the shard that has each, without IO.

use std::collections::HashSet;
use std::time::Duration;

use ::redis::Cmd;

use lwm2m_base::{Peer, Shard};
use lwm2m_cluster::NodeNumber;
use lwm2m_cluster::endpoint_move::{Frozen, MoveNumber, Thawed};
use lwm2m_core::gateway::moves::claims::{ClaimPurpose, ClaimQuestion, DeviceName, MovedDevice};

use super::super::layout::RecordHash;
use super::super::lease::AnswerError;
use super::requests::{NodeIdentity, parse_process};
use super::scripts::SharedScript;

/// Maximum number of names that one request compares.
pub(super) const NAMES_AT_ONCE: usize = 512;

/// A question about an endpoint name.
#[derive(Debug)]
pub enum NameAsk {
    /// Finds the holder of the name of the question. A Register claims a free name.
    Claim(ClaimQuestion),
    /// Finds the holder of a name for a Register that has not been handled.
    Find(Box<str>),
    /// Freezes the name of a device that leaves this shard.
    Freeze(String, Shard),
    /// Ends the freezing of a name, so that its device cannot be taken any more.
    Thaw(String, Shard),
    /// Takes a device from another shard. Repeated until it is answered.
    Take(Box<Taking>),
}

/// The answer to a [`NameAsk`].
#[derive(Debug, PartialEq)]
pub enum NameAnswer {
    Claimed(ClaimQuestion, NameHolder),
    Found(Box<str>, NameHolder),
    Frozen(String, Frozen),
    Thawed(String, Thawed),
    /// The device, if it was taken, is in the request.
    Taken {
        taking: Box<Taking>,
        is_taken: bool,
    },
}

/// A device that is taken from a frozen name, for a peer of this node.
#[derive(Debug, PartialEq)]
pub struct Taking {
    pub number: MoveNumber,
    pub endpoint: String,
    /// The shard that had the device, and the version in which its name is frozen.
    pub from: Shard,
    pub version: u64,
    /// The peer that the device speaks from now.
    pub peer: Peer,
    /// The stored device, once it is read.
    pub device: Option<MovedDevice>,
}

/// The holder of an endpoint name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameHolder {
    /// Nobody has the name, or the asking process has claimed it.
    Free,
    /// A shard has the name. The node has its lease now, if there is one.
    Shard { shard: Shard, node: Option<NodeNumber> },
    /// Another process has claimed the name for a Register.
    Claimed,
    /// The store does not answer, or may have lost the name.
    Unknown,
}

impl NameAsk {
    /// Returns the answer if the store does not answer. A device that was asked for is not taken only if no request for
    /// it was sent.
    pub(super) fn unanswered(self) -> NameAnswer {
        match self {
            Self::Claim(question) => NameAnswer::Claimed(question, NameHolder::Unknown),
            Self::Find(name) => NameAnswer::Found(name, NameHolder::Unknown),
            Self::Freeze(endpoint, _) => NameAnswer::Frozen(endpoint, Frozen::Unknown),
            Self::Thaw(endpoint, _) => NameAnswer::Thawed(endpoint, Thawed::Unknown),
            Self::Take(taking) => NameAnswer::Taken { taking, is_taken: false },
        }
    }

    /// Returns the command; `None` if the question names no endpoint, or takes more than one command. `rewrite` is the
    /// time in which the nodes write the names that the server has lost.
    pub(super) fn command(&self, identity: &NodeIdentity, rewrite: Duration) -> Option<Cmd> {
        match self {
            Self::Claim(ClaimQuestion { device: DeviceName::Endpoint(endpoint), purpose, .. }) => Some(match purpose {
                ClaimPurpose::Register => identity.claim(endpoint, rewrite),
                ClaimPurpose::Request | ClaimPurpose::Handshake => identity.find(endpoint, rewrite),
            }),
            Self::Claim(ClaimQuestion { device: DeviceName::Location(_), .. }) => None,
            Self::Find(name) => Some(identity.find(name, rewrite)),
            Self::Freeze(endpoint, shard) => Some(identity.freeze_or_thaw(SharedScript::Freeze, *shard, endpoint)),
            Self::Thaw(endpoint, shard) => Some(identity.freeze_or_thaw(SharedScript::Thaw, *shard, endpoint)),
            Self::Take(_) => None,
        }
    }

    /// Reads the answer of the script. What cannot be read is an answer that the store did not give, with the reason.
    pub(super) fn read(self, answer: Vec<String>) -> (NameAnswer, Result<(), AnswerError>) {
        match self {
            Self::Claim(question) => {
                let (holder, read) = or(holder(answer), NameHolder::Unknown);
                (NameAnswer::Claimed(question, holder), read)
            }
            Self::Find(name) => {
                let (holder, read) = or(holder(answer), NameHolder::Unknown);
                (NameAnswer::Found(name, holder), read)
            }
            Self::Freeze(endpoint, _) => {
                let (frozen, read) = or(frozen(answer), Frozen::Unknown);
                (NameAnswer::Frozen(endpoint, frozen), read)
            }
            Self::Thaw(endpoint, _) => {
                let (thawed, read) = or(thawed(answer), Thawed::Unknown);
                (NameAnswer::Thawed(endpoint, thawed), read)
            }
            Self::Take(_) => (self.unanswered(), Ok(())),
        }
    }
}

/// Returns what was parsed, or the stand-in for it and the reason.
fn or<T>(parsed: Result<T, AnswerError>, unknown: T) -> (T, Result<(), AnswerError>) {
    match parsed {
        Ok(parsed) => (parsed, Ok(())),
        Err(error) => (unknown, Err(error)),
    }
}

/// Reads whether a device was taken.
pub(super) fn is_taken(answer: Vec<String>) -> Result<bool, AnswerError> {
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["taken"] => Ok(true),
        ["gone" | "fenced"] => Ok(false),
        _ => Err(AnswerError::new(answer)),
    }
}

fn holder(answer: Vec<String>) -> Result<NameHolder, AnswerError> {
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["free"] => Ok(NameHolder::Free),
        ["claimed"] => Ok(NameHolder::Claimed),
        ["unknown"] => Ok(NameHolder::Unknown),
        ["at", shard, owner] => match shard.parse() {
            Ok(shard) => {
                let node = parse_process(owner).map(|process| process.node);
                Ok(NameHolder::Shard { shard: Shard::new(shard), node })
            }
            Err(_) => Err(AnswerError::new(answer)),
        },
        _ => Err(AnswerError::new(answer)),
    }
}

fn frozen(answer: Vec<String>) -> Result<Frozen, AnswerError> {
    let parsed = match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["frozen", version] => version.parse().ok().map(Frozen::Version),
        ["gone"] => Some(Frozen::Gone),
        ["fenced"] => Some(Frozen::Fenced),
        _ => None,
    };
    parsed.ok_or_else(|| AnswerError::new(answer))
}

fn thawed(answer: Vec<String>) -> Result<Thawed, AnswerError> {
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["back"] => Ok(Thawed::Back),
        ["gone"] => Ok(Thawed::Gone),
        ["fenced"] => Ok(Thawed::Fenced),
        _ => Err(AnswerError::new(answer)),
    }
}

/// Returns the endpoints of a shard whose records are superseded, by the answers to the requests for
/// [`NAMES_AT_ONCE`] each.
pub(super) fn superseded(endpoints: &[Vec<u8>], answers: Vec<Vec<String>>) -> Result<HashSet<Vec<u8>>, AnswerError> {
    let mut superseded = HashSet::new();
    for (endpoints, answer) in endpoints.chunks(NAMES_AT_ONCE).zip(answers) {
        let numbers = match answer.split_first() {
            Some((word, numbers)) if word == "checked" => numbers,
            // Another node has the shard by now. The member task finds out by its next round.
            Some((word, [])) if word == "fenced" => continue,
            Some(_) | None => return Err(AnswerError::new(answer)),
        };
        for number in numbers {
            let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            match index.and_then(|index| endpoints.get(index)) {
                Some(endpoint) => superseded.insert(endpoint.clone()),
                None => return Err(AnswerError::new(answer)),
            };
        }
    }
    Ok(superseded)
}

/// Returns whether the fields of a hash are endpoint names, of which each belongs to one shard.
pub(super) fn is_by_endpoint(hash: &RecordHash) -> bool {
    matches!(hash, RecordHash::Devices(_) | RecordHash::RetainedOf(_) | RecordHash::FirmwareJobsOf(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_holder_of_a_name_is_read() {
        let read = |words: &[&str]| holder(texts(words));
        let shard = |node: Option<u64>| NameHolder::Shard {
            shard: Shard::new(7),
            node: node.map(|node| NodeNumber::try_from(node).unwrap()),
        };
        assert_eq!(read(&["free"]), Ok(NameHolder::Free));
        assert_eq!(read(&["claimed"]), Ok(NameHolder::Claimed));
        assert_eq!(read(&["unknown"]), Ok(NameHolder::Unknown));
        assert_eq!(read(&["at", "7", "3:1796000000000"]), Ok(shard(Some(3))));
        assert_eq!(read(&["at", "7", ""]), Ok(shard(None)), "nobody has the lease");
        assert!(read(&["at", "256", "3:1"]).is_err() && read(&["mine"]).is_err());
    }

    #[test]
    fn the_answers_to_the_steps_of_a_move_are_read() {
        assert_eq!(frozen(texts(&["frozen", "1796000000000"])), Ok(Frozen::Version(1_796_000_000_000)));
        assert_eq!(frozen(texts(&["gone"])), Ok(Frozen::Gone));
        assert!(frozen(texts(&["frozen", "x"])).is_err() && frozen(texts(&["back"])).is_err());
        assert_eq!(thawed(texts(&["back"])), Ok(Thawed::Back));
        assert_eq!(thawed(texts(&["fenced"])), Ok(Thawed::Fenced));
        assert!(thawed(texts(&["frozen"])).is_err());
    }

    #[test]
    fn a_name_whose_answer_cannot_be_read_is_unknown() {
        let (answer, read) = NameAsk::Find("a".into()).read(texts(&["mine"]));
        assert_eq!(answer, NameAnswer::Found("a".into(), NameHolder::Unknown));
        assert!(read.is_err());
        assert!(is_taken(texts(&["back"])).is_err(), "a device that may have been taken is asked for again");
    }

    #[test]
    fn superseded_records_are_read_by_their_numbers_in_each_request() {
        let endpoints: Vec<Vec<u8>> = (0..=NAMES_AT_ONCE).map(|number| number.to_string().into_bytes()).collect();
        let answers = |second: &[&str]| vec![texts(&["checked", "1", "3"]), texts(second)];
        let found = superseded(&endpoints, answers(&["checked", "1"])).unwrap();
        assert_eq!(found, HashSet::from([b"0".to_vec(), b"2".to_vec(), NAMES_AT_ONCE.to_string().into_bytes()]));
        assert_eq!(superseded(&endpoints, answers(&["fenced"])).unwrap().len(), 2);
        assert!(superseded(&endpoints, answers(&["checked", "2"])).is_err(), "there is one endpoint");
    }
}
