//! Reads the values of a write or a create from JSON or text as values of the types of their resources.

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::lwm2m::codec::scalar::Scalar;
use crate::lwm2m::codec::{Assignment, text, tlv};
use crate::lwm2m::number::Number;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{ResourceType, Value, ValueError};

use super::Source;
use super::error::CommandError;

const MAX_VALUES: usize = 4096;
/// Limits the bytes of a TLV element beside its value.
const HEADER: usize = 6;

pub(super) struct Values<'a> {
    source: &'a Source<'a>,
    /// Tells that the command has `"encoding":"hex"`.
    hex: bool,
    values: Vec<Assignment>,
}

impl<'a> Values<'a> {
    pub(super) fn new(source: &'a Source<'a>) -> Self {
        let hex = source.members.encoding.as_ref().and_then(Json::as_str) == Some("hex");
        Self { source, hex, values: Vec::new() }
    }

    /// Adds an item of `content`, whose path is relative to the base.
    pub(super) fn add_item(&mut self, base: Path, item: &Json) -> Result<(), CommandError> {
        self.add_item_below(base, relative_path(item.get("path"))?, item)
    }

    /// Adds an item of `content` whose path relative to the base is this text.
    pub(super) fn add_item_at(&mut self, base: Path, relative: &str, item: &Json) -> Result<(), CommandError> {
        self.add_item_below(base, relative.parse()?, item)
    }

    fn add_item_below(&mut self, base: Path, relative: Path, item: &Json) -> Result<(), CommandError> {
        let item = item.as_object().ok_or(CommandError::Member { member: "content", expected: "a list of objects" })?;
        let path = relative.segments().iter().try_fold(base, |path, id| path.child(*id));
        let path = path.filter(|path| path.len() >= 3).ok_or(CommandError::Member {
            member: "path of content",
            expected: "the way from basePath to a resource or a resource instance",
        })?;
        let value = item.get("value").filter(|value| !value.is_null()).ok_or(CommandError::Missing("value"))?;
        self.add(path, item.get("type"), value)
    }

    pub(super) fn add(&mut self, path: Path, given: Option<&Json>, value: &Json) -> Result<(), CommandError> {
        if self.values.len() == MAX_VALUES {
            return Err(CommandError::TooMany { limit: MAX_VALUES, what: "values" });
        }
        let expected = self.resource_type(path, given)?;
        let value = self.value(path, expected, value)?;
        let range = self.source.definition(path).and_then(|resource| resource.range);
        if let Some(range) = range.filter(|range| !range.allows(&value)) {
            return Err(CommandError::Range { path, range });
        }
        self.values.push(Assignment { path, value });
        Ok(())
    }

    /// Returns the values. The later of two values for one path wins.
    pub(super) fn finish(self) -> Result<Vec<Assignment>, CommandError> {
        let mut paths = HashSet::new();
        let mut values: Vec<_> = self.values.into_iter().rev().filter(|value| paths.insert(value.path)).collect();
        values.reverse();
        let mut instances = values.iter().filter(|value| value.path.len() == 4);
        if let Some(instance) = instances.find(|instance| paths.contains(&instance.path.parent())) {
            return Err(CommandError::Twofold(instance.path.parent()));
        }
        let length: usize = values.iter().map(|value| tlv::encode_value(&value.value).len() + 3 * HEADER).sum();
        if length > tlv::MAX_LENGTH { Err(CommandError::TooLong(tlv::MAX_LENGTH)) } else { Ok(values) }
    }

    /// Returns the type of the definition, or else the given one. An application may call a number an Integer where the
    /// definition has a Float. The value is written as the definition says.
    fn resource_type(&self, path: Path, given: Option<&Json>) -> Result<ResourceType, CommandError> {
        let given = match given {
            None | Some(Json::Null) => None,
            Some(Json::String(name)) => Some(name.parse::<ResourceType>()?),
            Some(_) => return Err(CommandError::Member { member: "type", expected: "a text" }),
        };
        let definition = self.source.definition(path);
        if definition.is_some_and(|resource| !resource.has_value()) {
            return Err(CommandError::NoValue(path));
        }
        match (definition.and_then(|resource| resource.resource_type), given) {
            (Some(defined), Some(given)) if !defined.is_related_to(given) => {
                Err(CommandError::OtherType { path, defined, given })
            }
            (Some(defined), _) => Ok(defined),
            (None, Some(given)) => Ok(given),
            (None, None) => Err(CommandError::NoType { path, loaded: self.source.other_versions(path) }),
        }
    }

    fn value(&self, path: Path, expected: ResourceType, value: &Json) -> Result<Value, CommandError> {
        let read = match (self.hex, value) {
            (true, Json::String(hex)) => {
                let bytes = bytes_of_hex(hex).ok_or(CommandError::Hex(path))?;
                let decoded = std::str::from_utf8(&bytes).map_err(|_| ValueError::NotText);
                decoded.and_then(|decoded| text::parse(expected, decoded))
            }
            (true, _) => return Err(CommandError::Hex(path)),
            (false, value) => read(expected, value),
        };
        read.map_err(|error| CommandError::Value { path, error })
    }
}

/// Reads the path of an item of `content`, which is a text or a number.
pub(super) fn relative_path(written: Option<&Json>) -> Result<Path, CommandError> {
    match written {
        None | Some(Json::Null) => Ok(Path::ROOT),
        Some(Json::String(path)) => Ok(path.parse()?),
        Some(Json::Number(id)) => Ok(id.to_string().parse()?),
        Some(Json::Bool(_) | Json::Array(_) | Json::Object(_)) => {
            Err(CommandError::Member { member: "path of content", expected: "a text" })
        }
    }
}

/// Reads a value from its JSON type or its text.
pub(crate) fn read(expected: ResourceType, value: &Json) -> Result<Value, ValueError> {
    let wrong = |value: &str| ValueError::Type { expected, value: value.to_owned() };
    match value {
        Json::String(written) => text::parse(expected, written),
        Json::Bool(value) => Scalar::Boolean(*value).into_value(Some(expected)),
        // Only devices write an object link as a number.
        Json::Number(number) if expected == ResourceType::ObjectLink => Err(wrong(&number.to_string())),
        Json::Number(number) => Scalar::Number(Number::of_json(number)).into_value(Some(expected)),
        Json::Null => Err(wrong("null")),
        Json::Array(_) => Err(wrong("a list")),
        Json::Object(_) => Err(wrong("an object")),
    }
}

fn bytes_of_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, odd) = hex.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}
