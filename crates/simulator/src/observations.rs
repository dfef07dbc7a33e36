//! Observations of the server and the attributes that it wrote, which set the rate of notifications (OMA LwM2M 1.0
//! section 5.1.2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lwm2m_core::coap::{Code, Token};
use lwm2m_core::lwm2m::path::Path;

/// Observations that a server may have at once.
const MAX_OBSERVATIONS: usize = 32;

const ATTRIBUTES: [&str; 10] = ["pmin", "pmax", "gt", "lt", "st", "epmin", "epmax", "con", "edge", "hqmax"];

#[derive(Clone, Debug)]
pub(super) struct ServedObservation {
    pub path: Path,
    pub accept: Option<u16>,
    /// The Observe number of the last notification: 24 bits.
    pub number: u32,
    pub last_sent: Instant,
    /// A confirmable notification waits for its acknowledgement: the next one waits too (RFC 7641 section 4.5).
    pub in_flight: bool,
    /// Something changed meanwhile.
    pub missed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Observations {
    by_token: BTreeMap<Token, ServedObservation>,
    attributes: BTreeMap<Path, BTreeMap<String, String>>,
}

impl Observations {
    /// Begins an observation, in place of one with the same token.
    pub fn begin(&mut self, token: Token, path: Path, accept: Option<u16>, now: Instant) -> Result<u32, Code> {
        if self.by_token.len() >= MAX_OBSERVATIONS && !self.by_token.contains_key(&token) {
            return Err(Code::SERVICE_UNAVAILABLE);
        }
        let observation =
            ServedObservation { path, accept, number: 1, last_sent: now, in_flight: false, missed: false };
        let number = observation.number;
        self.by_token.insert(token, observation);
        Ok(number)
    }

    pub fn end(&mut self, token: Token) -> Option<ServedObservation> {
        self.by_token.remove(&token)
    }

    pub fn get_mut(&mut self, token: Token) -> Option<&mut ServedObservation> {
        self.by_token.get_mut(&token)
    }

    /// The observations that a change at or below `path`, or above it, concerns.
    pub fn concerned(&self, path: Path) -> Vec<Token> {
        let concerns = |observed: Path| {
            let (changed, observed) = (path.segments(), observed.segments());
            changed.starts_with(observed) || observed.starts_with(changed)
        };
        self.by_token.iter().filter(|(_, one)| concerns(one.path)).map(|(token, _)| *token).collect()
    }

    /// Forgets everything, as a device that starts again.
    pub fn clear(&mut self) -> Vec<Token> {
        self.attributes.clear();
        std::mem::take(&mut self.by_token).into_keys().collect()
    }

    /// Takes the query of a Write-Attributes: `pmin=10` sets one, `pmin` takes it away.
    pub fn write_attributes(&mut self, path: Path, query: &[&str]) -> Result<(), Code> {
        let items: Vec<(&str, Option<&str>)> = query.iter().map(|item| split(item)).collect();
        if !items.iter().all(|(name, _)| ATTRIBUTES.contains(name)) {
            return Err(Code::BAD_REQUEST);
        }
        let attributes = self.attributes.entry(path).or_default();
        for (name, value) in items {
            match value {
                Some(value) => attributes.insert(name.to_owned(), value.to_owned()),
                None => attributes.remove(name),
            };
        }
        Ok(())
    }

    /// The attributes of a path, as a link of Discover has them.
    pub fn link_attributes(&self, path: Path) -> String {
        let own = self.attributes.get(&path).into_iter().flatten();
        own.map(|(name, value)| format!(";{name}={value}")).collect()
    }

    /// The shortest and the longest time between notifications of a path; written for it, or for what it is part of.
    pub fn periods(&self, path: Path) -> (Duration, Option<Duration>) {
        let pmin = self.seconds(path, "pmin").unwrap_or(Duration::ZERO);
        (pmin, self.seconds(path, "pmax").filter(|pmax| *pmax >= pmin && !pmax.is_zero()))
    }

    fn seconds(&self, path: Path, name: &str) -> Option<Duration> {
        let (_, value) = self
            .attributes
            .iter()
            .filter(|(written, _)| path.segments().starts_with(written.segments()))
            .filter_map(|(written, attributes)| Some((written.segments().len(), attributes.get(name)?)))
            .max_by_key(|(depth, _)| *depth)?;
        value.parse().ok().map(|seconds: u32| Duration::from_secs(seconds.into()))
    }
}

fn split(item: &str) -> (&str, Option<&str>) {
    match item.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (item, None),
    }
}
