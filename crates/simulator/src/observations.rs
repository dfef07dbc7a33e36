//! Observations of the server and the attributes that it wrote, which set the rate of notifications (OMA LwM2M 1.0
//! section 5.1.2, Core 1.2 section 5.1.2).

use std::collections::BTreeMap;
use std::slice;
use std::time::{Duration, Instant};

use lwm2m_core::coap::{Code, Token};
use lwm2m_core::lwm2m::path::Path;

/// Observations that a server may have at once.
const MAX_OBSERVATIONS: usize = 32;

const ATTRIBUTES: [&str; 10] = ["pmin", "pmax", "gt", "lt", "st", "epmin", "epmax", "con", "edge", "hqmax"];

/// The content of an observation's notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    Single {
        path: Path,
        accept: Option<u16>,
    },
    /// An Observe-Composite (OMA LwM2M Core 1.1 section 6.4).
    Composite {
        paths: Vec<Path>,
        format: u16,
    },
}

/// Attributes by name, as the server wrote them.
pub(super) type Attributes = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub(super) struct ServedObservation {
    pub observed: Observed,
    /// The attributes in the request, which hold for this observation only (from LwM2M 1.2 on).
    pub attributes: Attributes,
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
    attributes: BTreeMap<Path, Attributes>,
}

impl Observed {
    pub(crate) fn paths(&self) -> &[Path] {
        match self {
            Observed::Single { path, .. } => slice::from_ref(path),
            Observed::Composite { paths, .. } => paths,
        }
    }
}

impl Observations {
    /// Begins an observation, in place of one with the same token.
    pub(crate) fn begin(
        &mut self,
        token: Token,
        observed: Observed,
        attributes: Attributes,
        now: Instant,
    ) -> Result<u32, Code> {
        if self.by_token.len() >= MAX_OBSERVATIONS && !self.by_token.contains_key(&token) {
            return Err(Code::SERVICE_UNAVAILABLE);
        }
        let observation =
            ServedObservation { observed, attributes, number: 1, last_sent: now, in_flight: false, missed: false };
        let number = observation.number;
        self.by_token.insert(token, observation);
        Ok(number)
    }

    pub(crate) fn end(&mut self, token: Token) -> Option<ServedObservation> {
        self.by_token.remove(&token)
    }

    pub(crate) fn get(&self, token: Token) -> Option<&ServedObservation> {
        self.by_token.get(&token)
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut ServedObservation> {
        self.by_token.get_mut(&token)
    }

    /// Returns the observations that a change at or below one of the paths, or above it, concerns.
    pub(crate) fn concerned(&self, changed: &[Path]) -> Vec<Token> {
        let meets =
            |changed: &Path, observed: &Path| changed.is_at_or_below(observed) || observed.is_at_or_below(changed);
        let is_concerned = |one: &ServedObservation| {
            one.observed.paths().iter().any(|observed| changed.iter().any(|changed| meets(changed, observed)))
        };
        self.by_token.iter().filter(|(_, one)| is_concerned(one)).map(|(token, _)| *token).collect()
    }

    /// Forgets everything, as a device that starts again.
    pub(crate) fn clear(&mut self) -> Vec<Token> {
        self.attributes.clear();
        std::mem::take(&mut self.by_token).into_keys().collect()
    }

    /// Takes the query of a Write-Attributes: `pmin=10` sets one, `pmin` takes it away.
    pub(crate) fn write_attributes(&mut self, path: Path, query: &[&str]) -> Result<(), Code> {
        let items: Vec<(&str, Option<&str>)> = query.iter().map(|item| attribute(item)).collect::<Result<_, _>>()?;
        let attributes = self.attributes.entry(path).or_default();
        for (name, value) in items {
            match value {
                Some(value) => attributes.insert(name.to_owned(), value.to_owned()),
                None => attributes.remove(name),
            };
        }
        Ok(())
    }

    /// Returns the attributes of a path, as a link of Discover has them.
    pub(crate) fn link_attributes(&self, path: Path) -> String {
        let own = self.attributes.get(&path).into_iter().flatten();
        own.map(|(name, value)| format!(";{name}={value}")).collect()
    }

    /// Returns the shortest and the longest time between notifications of an observation: its own, or those written for
    /// its paths, or for what they are part of. Of several paths the shortest times count.
    pub(crate) fn periods(&self, observation: &ServedObservation) -> (Duration, Option<Duration>) {
        let seconds = |name| {
            let seconds = |value: &str| value.parse().ok().map(|seconds: u32| Duration::from_secs(seconds.into()));
            self.in_force(observation, name).filter_map(seconds).min()
        };
        let pmin = seconds("pmin").unwrap_or(Duration::ZERO);
        (pmin, seconds("pmax").filter(|pmax| *pmax >= pmin && !pmax.is_zero()))
    }

    /// Returns whether the server asked for confirmable notifications (`con=1`) or for others (`con=0`).
    pub(crate) fn confirmable(&self, observation: &ServedObservation) -> Option<bool> {
        self.in_force(observation, "con").map(|value| value == "1").max()
    }

    /// Returns the values of an attribute that hold for an observation.
    fn in_force<'a>(&'a self, observation: &'a ServedObservation, name: &'a str) -> impl Iterator<Item = &'a str> {
        let own = observation.attributes.get(name).map(String::as_str);
        let written = observation.observed.paths().iter().filter_map(move |path| self.written(*path, name));
        own.into_iter().chain(written.filter(move |_| own.is_none()))
    }

    /// Returns the value that was written for a path, or else for the nearest path above it.
    fn written(&self, path: Path, name: &str) -> Option<&str> {
        let above = self.attributes.iter().filter(|(written, _)| path.is_at_or_below(written));
        let values = above.filter_map(|(written, attributes)| Some((written.len(), attributes.get(name)?)));
        values.max_by_key(|(depth, _)| *depth).map(|(_, value)| value.as_str())
    }
}

/// Returns the attributes in the query of an Observe.
pub(super) fn attributes_of(query: &[&str]) -> Result<Attributes, Code> {
    let items = query.iter().map(|item| attribute(item)).collect::<Result<Vec<_>, _>>()?;
    Ok(items.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect())
}

fn attribute(item: &str) -> Result<(&str, Option<&str>), Code> {
    let (name, value) = match item.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (item, None),
    };
    if ATTRIBUTES.contains(&name) { Ok((name, value)) } else { Err(Code::BAD_REQUEST) }
}
