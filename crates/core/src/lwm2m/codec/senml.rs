//! What SenML JSON and SenML CBOR have in common: records, and how their base fields resolve (RFC 8428 section 4).

use thiserror::Error;

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

use super::{DecodeError, MAX_NAME, Reading, relative};

/// RFC 8428 section 4.4.
const VERSION: u64 = 10;

/// One record as it came; `V` is its value in the terms of the format.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<V> {
    pub base_name: Option<String>,
    pub base_time: Option<f64>,
    pub base_version: Option<u64>,
    pub name: Option<String>,
    pub time: Option<f64>,
    pub value: Option<V>,
}

/// Why records are no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("version {0} is not read")]
    Version(u64),
    #[error("a record has more than one value")]
    SeveralValues,
    #[error("the record {0:?} has no value")]
    NoValue(String),
    #[error("base values are not read")]
    BaseValue,
}

impl<V> Record<V> {
    /// A record has one value at most.
    pub fn set_value(&mut self, value: V) -> Result<(), RecordError> {
        match self.value.replace(value) {
            None => Ok(()),
            Some(_) => Err(RecordError::SeveralValues),
        }
    }
}

impl<V> Default for Record<V> {
    fn default() -> Self {
        Self { base_name: None, base_time: None, base_version: None, name: None, time: None, value: None }
    }
}

/// The base fields in force.
#[derive(Default)]
pub(super) struct Base {
    name: String,
    time: Option<f64>,
}

impl Base {
    /// Takes the base fields of a record: they hold for it and those behind it. Gives its path, time and value, or
    /// nothing for a record of base fields only.
    pub(super) fn resolve<V>(
        &mut self,
        record: Record<V>,
        reading: &Reading<'_>,
    ) -> Result<Option<(Path, Option<f64>, V)>, DecodeError> {
        if let Some(version) = record.base_version.filter(|version| *version > VERSION) {
            return Err(RecordError::Version(version).into());
        }
        if let Some(name) = record.base_name {
            if name.len() > MAX_NAME {
                return Err(DecodeError::Name(name.chars().take(64).collect()));
            }
            self.name = name;
        }
        self.time = record.base_time.or(self.time);
        let name = record.name.unwrap_or_default();
        let Some(value) = record.value else {
            return if name.is_empty() { Ok(None) } else { Err(RecordError::NoValue(short(&name)).into()) };
        };
        if name.len() > MAX_NAME {
            return Err(DecodeError::Name(short(&name)));
        }
        let path = reading.path(&format!("{}{name}", self.name))?;
        let time = reading.time(self.time, record.time)?;
        Ok(Some((path, time, value)))
    }
}

/// The records of a write: the base name in the first one, ending in a slash where names follow.
pub(super) fn records(target: Path, values: &[Assignment]) -> Vec<Record<&Value>> {
    let base = |path: Path| if path == target { target.to_string() } else { format!("{target}/") };
    let record = |assignment: &'_ Assignment| {
        let name = relative(assignment.path, target);
        if name.is_empty() { None } else { Some(name) }
    };
    let mut records = Vec::new();
    for assignment in values {
        let base_name = if records.is_empty() { Some(base(assignment.path)) } else { None };
        let name = record(assignment);
        records.push(Record { base_name, name, value: Some(&assignment.value), ..Record::default() });
    }
    records
}

fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
