//! LwM2M JSON (LwM2M 1.0 section 6.4.4): `{"bn":"/3/0","e":[{"n":"9","v":81}]}`.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::lwm2m::number::Number;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{ResourceType, Value, ValueError, from_base64};

use super::scalar::Scalar;
use super::{Assignment, DecodeError, Reading, relative};

#[derive(Deserialize, Serialize)]
struct JsonDocument {
    #[serde(rename = "bn", default, skip_serializing_if = "Option::is_none")]
    base_name: Option<String>,
    #[serde(rename = "bt", default, skip_serializing_if = "Option::is_none")]
    base_time: Option<f64>,
    #[serde(rename = "e")]
    elements: Vec<Element>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Element {
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "t", skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(rename = "v", skip_serializing_if = "Option::is_none")]
    number: Option<ExactNumber>,
    #[serde(rename = "bv", skip_serializing_if = "Option::is_none")]
    boolean: Option<bool>,
    #[serde(rename = "ov", skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(rename = "sv", skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Holds the number of an element. It is read from its text: a whole number with a point or an exponent would lose
/// digits in a double.
struct ExactNumber(Number);

/// Tells why an element cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ElementError {
    #[error("an element has no value")]
    NoValue,
    #[error("an element has more than one value")]
    SeveralValues,
}

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let document: JsonDocument = serde_json::from_slice(payload)?;
    for element in document.elements {
        let path = path(document.base_name.as_deref(), element.name.as_deref(), reading)?;
        let time = reading.time(document.base_time.map(Number::Double), element.time.map(Number::Double))?;
        let is_opaque =
            reading.definition(path).and_then(|resource| resource.resource_type) == Some(ResourceType::Opaque);
        let value = element.value(is_opaque).map_err(|error| error.at(path))?;
        reading.push(path, time, value)?;
    }
    Ok(())
}

pub(super) fn write(target: Path, values: &[Assignment]) -> Vec<u8> {
    let elements = values.iter().map(|assignment| Element::of(relative(assignment.path, target), &assignment.value));
    let document = JsonDocument { base_name: Some(target.to_string()), base_time: None, elements: elements.collect() };
    serde_json::to_vec(&document).expect("texts and finite numbers are JSON")
}

/// Returns the path of an element. Its name is joined to the base name with one slash, whichever of the two has it.
/// Without a base name it counts from the root if it has a slash in front, else from the request.
fn path(base: Option<&str>, name: Option<&str>, reading: &Reading<'_>) -> Result<Path, DecodeError> {
    match (base, name.unwrap_or_default()) {
        (None, name) if name.starts_with('/') => reading.path(name),
        (None, "") => reading.single(),
        (None, name) => reading.path(&format!("{}/{name}", reading.single()?)),
        (Some(base), "") => reading.path(base),
        (Some(base), name) => {
            if base.len() + name.len() > super::MAX_NAME {
                return Err(DecodeError::Name(base.chars().take(64).collect()));
            }
            reading.path(&format!("{}/{}", base.trim_end_matches('/'), name.trim_start_matches('/')))
        }
    }
}

impl Element {
    fn of(name: String, value: &Value) -> Self {
        let name = if name.is_empty() { None } else { Some(name) };
        let element = Self { name, ..Self::default() };
        match value {
            Value::String(text) | Value::CoreLink(text) => Self { text: Some(text.clone()), ..element },
            Value::Opaque(bytes) => Self { text: Some(STANDARD.encode(bytes)), ..element },
            Value::Integer(value) | Value::Time(value) => Self { number: ExactNumber::whole(*value), ..element },
            Value::UnsignedInteger(value) => Self { number: ExactNumber::whole(*value), ..element },
            Value::Float(value) => Self { number: Some(ExactNumber(Number::Double(*value))), ..element },
            Value::Boolean(value) => Self { boolean: Some(*value), ..element },
            Value::ObjectLink(link) => Self { link: Some(link.to_string()), ..element },
        }
    }

    /// Returns the one value of the element. An Opaque has no member of its own: it is base64 in `sv`.
    fn value(self, is_opaque: bool) -> Result<Scalar<'static>, ElementFailure> {
        match (self.number, self.boolean, self.link, self.text) {
            (Some(ExactNumber(number)), None, None, None) => Ok(Scalar::Number(number)),
            (None, Some(boolean), None, None) => Ok(Scalar::Boolean(boolean)),
            (None, None, Some(link), None) => Ok(Scalar::Link(Cow::Owned(link))),
            (None, None, None, Some(text)) if is_opaque => {
                Ok(Scalar::Bytes(Cow::Owned(from_base64(&text).map_err(ElementFailure::Value)?)))
            }
            (None, None, None, Some(text)) => Ok(Scalar::Text(Cow::Owned(text))),
            (None, None, None, None) => Err(ElementFailure::Element(ElementError::NoValue)),
            _ => Err(ElementFailure::Element(ElementError::SeveralValues)),
        }
    }
}

/// Tells why an element has no usable value, before its path is known.
enum ElementFailure {
    Element(ElementError),
    Value(ValueError),
}

impl ElementFailure {
    fn at(self, path: Path) -> DecodeError {
        match self {
            Self::Element(error) => error.into(),
            Self::Value(error) => DecodeError::Value { path, error },
        }
    }
}

impl ExactNumber {
    fn whole(value: impl Into<i128>) -> Option<Self> {
        Some(Self(Number::Whole(value.into())))
    }
}

impl<'de> Deserialize<'de> for ExactNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = <&RawValue>::deserialize(deserializer)?.get();
        let number = Number::parse(written).map(Self);
        number.ok_or_else(|| de::Error::custom("the value of \"v\" is not a readable number"))
    }
}

impl Serialize for ExactNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Number::Whole(value) => serializer.serialize_i128(value),
            Number::Double(value) | Number::Huge(value) => serializer.serialize_f64(value),
        }
    }
}
