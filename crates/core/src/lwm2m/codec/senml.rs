//! Records of SenML JSON and SenML CBOR: their labels, and how base fields resolve (RFC 8428 section 4, RFC 8790).

use std::borrow::Cow;
use std::collections::HashSet;

use thiserror::Error;

use crate::lwm2m::number::Number;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

use super::scalar::Scalar;
use super::{Assignment, DecodeError, MAX_NAME, Patch, Reading, relative};

/// The newest version of SenML that is read (RFC 8428 section 4.4).
const VERSION: f64 = 10.0;

/// Names the labels of a record (RFC 8428 sections 4.3, 5 and 6; LwM2M 1.1 section 7.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    BaseName,
    BaseTime,
    BaseUnit,
    BaseValue,
    BaseSum,
    BaseVersion,
    Name,
    Unit,
    Value,
    Text,
    Boolean,
    Sum,
    Time,
    UpdateTime,
    Data,
    Link,
}

/// Lists the labels with their texts in JSON and their numbers in CBOR. The label of object links is the same text in
/// both.
const LABELS: [(Label, &str, Option<i64>); 16] = [
    (Label::BaseName, "bn", Some(-2)),
    (Label::BaseTime, "bt", Some(-3)),
    (Label::BaseUnit, "bu", Some(-4)),
    (Label::BaseValue, "bv", Some(-5)),
    (Label::BaseSum, "bs", Some(-6)),
    (Label::BaseVersion, "bver", Some(-1)),
    (Label::Name, "n", Some(0)),
    (Label::Unit, "u", Some(1)),
    (Label::Value, "v", Some(2)),
    (Label::Text, "vs", Some(3)),
    (Label::Boolean, "vb", Some(4)),
    (Label::Sum, "s", Some(5)),
    (Label::Time, "t", Some(6)),
    (Label::UpdateTime, "ut", Some(7)),
    (Label::Data, "vd", Some(8)),
    (Label::Link, "vlo", None),
];

impl Label {
    pub(super) fn of_text(text: &str) -> Option<Self> {
        LABELS.iter().find(|(_, name, _)| *name == text).map(|(label, ..)| *label)
    }

    pub(super) fn of_number(wanted: i64) -> Option<Self> {
        LABELS.iter().find(|(_, _, number)| *number == Some(wanted)).map(|(label, ..)| *label)
    }

    pub(super) fn text(self) -> &'static str {
        LABELS.iter().find(|(label, ..)| *label == self).map_or("", |(_, text, _)| text)
    }

    /// Returns the number in CBOR, or `None` for the one label that is a text there, too.
    pub(super) fn number(self) -> Option<i64> {
        LABELS.iter().find(|(label, ..)| *label == self).and_then(|(_, _, number)| *number)
    }
}

/// Holds one record as it was read.
#[derive(Debug, Default)]
pub(super) struct Record<'a> {
    base_name: Option<Cow<'a, str>>,
    base_time: Option<Number>,
    base_value: Option<Number>,
    base_version: Option<Number>,
    name: Option<Cow<'a, str>>,
    time: Option<Number>,
    value: Option<Scalar<'a>>,
    /// Has a bit for each known label that was read.
    seen: u32,
    others: HashSet<String>,
}

/// Tells why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("SenML version {0} is not supported")]
    Version(String),
    #[error("a record has the label {0:?} twice")]
    LabelTwice(String),
    #[error("the label {0:?} must be understood, and is unknown")]
    MustUnderstand(String),
    #[error("the value of the label {0:?} is of another type")]
    Type(&'static str),
    #[error("a record has more than one value")]
    SeveralValues,
    #[error("the record {0:?} has no value")]
    NoValue(String),
    #[error("the sum of base value and value has more than 128 bits")]
    BaseValue,
}

impl<'a> Record<'a> {
    /// Notes that the record has this label.
    pub(super) fn see(&mut self, label: Label) -> Result<(), RecordError> {
        let bit = 1 << (label as u32);
        if self.seen & bit != 0 {
            return Err(RecordError::LabelTwice(label.text().to_owned()));
        }
        self.seen |= bit;
        Ok(())
    }

    /// Notes that the record has an unknown label, whose value is ignored.
    pub(super) fn see_other(&mut self, label: &str) -> Result<(), RecordError> {
        let short = || label.chars().take(64).collect();
        // RFC 8428 section 4.4: a reader that does not know such a label must not use the record.
        if label.ends_with('_') {
            return Err(RecordError::MustUnderstand(short()));
        }
        if self.others.insert(label.to_owned()) { Ok(()) } else { Err(RecordError::LabelTwice(short())) }
    }

    /// Sets the value of a label. Units, update times and base sums are ignored.
    pub(super) fn set(&mut self, label: Label, value: Scalar<'a>) -> Result<(), RecordError> {
        match (label, value) {
            (Label::BaseName, Scalar::Text(name)) => self.base_name = Some(name),
            (Label::Name, Scalar::Text(name)) => self.name = Some(name),
            (Label::BaseTime, Scalar::Number(time)) => self.base_time = Some(time),
            (Label::BaseTime, Scalar::Date(time)) => self.base_time = Some(Number::Whole(time.into())),
            (Label::Time, Scalar::Number(time)) => self.time = Some(time),
            (Label::Time, Scalar::Date(time)) => self.time = Some(Number::Whole(time.into())),
            (Label::BaseValue, Scalar::Number(value)) => self.base_value = Some(value),
            (Label::BaseVersion, Scalar::Number(version)) => self.base_version = Some(version),
            (Label::BaseUnit | Label::Unit | Label::BaseSum | Label::Sum | Label::UpdateTime, _) => {}
            (Label::Link, Scalar::Text(link)) => return self.set_value(Scalar::Link(link)),
            (Label::Value, value @ (Scalar::Number(_) | Scalar::Date(_)))
            | (Label::Text, value @ (Scalar::Text(_) | Scalar::Date(_)))
            | (Label::Boolean, value @ Scalar::Boolean(_))
            | (Label::Data, value @ Scalar::Bytes(_)) => return self.set_value(value),
            (other, _) => return Err(RecordError::Type(other.text())),
        }
        Ok(())
    }

    fn set_value(&mut self, value: Scalar<'a>) -> Result<(), RecordError> {
        match self.value.replace(value) {
            None => Ok(()),
            Some(_) => Err(RecordError::SeveralValues),
        }
    }

    fn has(&self, label: Label) -> bool {
        self.seen & (1 << (label as u32)) != 0
    }
}

/// Resolves the records of one payload in their order.
pub(super) struct Records<'r, 'a> {
    reading: &'r mut Reading<'a>,
    base_name: String,
    base_time: Option<Number>,
    base_value: Option<Number>,
}

impl<'r, 'a> Records<'r, 'a> {
    pub(super) fn new(reading: &'r mut Reading<'a>) -> Self {
        Self { reading, base_name: String::new(), base_time: None, base_value: None }
    }

    /// Adds the entry of a record. A record of base fields only has none; its fields hold for the records behind it.
    pub(super) fn add(&mut self, record: Record<'_>) -> Result<(), DecodeError> {
        if let Some(version) =
            record.base_version.map(Number::as_f64).filter(|version| version.is_nan() || *version > VERSION)
        {
            return Err(RecordError::Version(version.to_string()).into());
        }
        let is_sum_only = record.value.is_none() && record.has(Label::Sum);
        if let Some(name) = record.base_name {
            self.base_name.clear();
            self.base_name.push_str(within_limit(&name)?);
        }
        self.base_time = record.base_time.or(self.base_time);
        self.base_value = record.base_value.or(self.base_value);
        let name = record.name.as_deref().unwrap_or_default();
        let Some(value) = record.value else {
            let is_base_only = name.is_empty() && !is_sum_only;
            return if is_base_only { Ok(()) } else { Err(RecordError::NoValue(short(name)).into()) };
        };
        let path = self.reading.path(&format!("{}{}", self.base_name, within_limit(name)?))?;
        let time = self.reading.time(self.base_time, record.time)?;
        let value = match (value, self.base_value) {
            (Scalar::Number(value), Some(base)) => Scalar::Number(value.plus(base).ok_or(RecordError::BaseValue)?),
            (
                value @ (Scalar::Number(_)
                | Scalar::Date(_)
                | Scalar::Text(_)
                | Scalar::Boolean(_)
                | Scalar::Bytes(_)
                | Scalar::Link(_)),
                _,
            ) => value,
        };
        self.reading.push(path, time, value)
    }
}

/// Holds one record to be written.
pub(super) struct WrittenRecord<'a> {
    pub base_name: Option<String>,
    pub name: Option<String>,
    pub content: RecordContent<'a>,
}

pub(super) enum RecordContent<'a> {
    Value(&'a Value),
    /// The value `null`, which removes a resource instance (RFC 8790 section 3.2).
    Removal,
    /// Has no value: the record names a path.
    Path,
}

/// Returns the records of a write or a create. The first one has the base name, which ends in a slash where names
/// follow.
pub(super) fn of_values<'v>(
    alternate_path: &str,
    target: Path,
    values: &'v [Assignment],
) -> impl ExactSizeIterator<Item = WrittenRecord<'v>> {
    let base = full_name(alternate_path, target);
    values.iter().enumerate().map(move |(at, Assignment { path, value })| {
        let slash = if *path == target { "" } else { "/" };
        let base_name = (at == 0).then(|| format!("{base}{slash}"));
        let name = Some(relative(*path, target)).filter(|name| !name.is_empty());
        WrittenRecord { base_name, name, content: RecordContent::Value(value) }
    })
}

/// Returns the records of a composite write.
pub(super) fn of_patches<'v>(
    alternate_path: &str,
    patches: &'v [Patch],
) -> impl ExactSizeIterator<Item = WrittenRecord<'v>> {
    patches.iter().map(move |Patch { path, value }| WrittenRecord {
        base_name: None,
        name: Some(full_name(alternate_path, *path)),
        content: value.as_ref().map_or(RecordContent::Removal, RecordContent::Value),
    })
}

/// Returns the records of a list of paths.
pub(super) fn of_paths(alternate_path: &str, paths: &[Path]) -> impl ExactSizeIterator<Item = WrittenRecord<'static>> {
    paths.iter().map(move |path| WrittenRecord {
        base_name: None,
        name: Some(full_name(alternate_path, *path)),
        content: RecordContent::Path,
    })
}

/// Returns the name of a path, which begins with the alternate path.
fn full_name(alternate_path: &str, path: Path) -> String {
    match (alternate_path, path.is_empty()) {
        ("", _) => path.to_string(),
        (alternate_path, true) => alternate_path.to_owned(),
        (alternate_path, false) => format!("{alternate_path}{path}"),
    }
}

fn within_limit(name: &str) -> Result<&str, DecodeError> {
    if name.len() > MAX_NAME { Err(DecodeError::Name(short(name))) } else { Ok(name) }
}

fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
