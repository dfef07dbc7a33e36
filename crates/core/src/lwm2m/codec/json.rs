//! LwM2M JSON (LwM2M 1.0 section 6.4.4): `{"bn":"/3/0","e":[{"n":"9","v":81}]}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{ResourceType, Value, ValueError, from_base64};

use super::{DecodeError, Reading, relative};

#[derive(Deserialize, Serialize)]
struct Document {
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
    number: Option<Number>,
    #[serde(rename = "bv", skip_serializing_if = "Option::is_none")]
    boolean: Option<bool>,
    #[serde(rename = "ov", skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(rename = "sv", skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let document: Document = serde_json::from_slice(payload)?;
    for element in document.elements {
        let path = path(document.base_name.as_deref(), element.name.as_deref(), reading)?;
        let time = reading.time(document.base_time, element.time)?;
        reading.push_value(path, time, |expected| element.value(expected))?;
    }
    Ok(())
}

pub(super) fn write(target: Path, values: &[Assignment]) -> Vec<u8> {
    let elements = values.iter().map(|assignment| Element::of(relative(assignment.path, target), &assignment.value));
    let document = Document { base_name: Some(target.to_string()), base_time: None, elements: elements.collect() };
    serde_json::to_vec(&document).expect("texts and finite numbers are JSON")
}

/// A name is joined to the base name with one slash, whichever of the two has it. Without a base name it counts from the
/// root when it has a slash in front, else from the request.
fn path(base: Option<&str>, name: Option<&str>, reading: &Reading<'_>) -> Result<Path, DecodeError> {
    match (base, name.unwrap_or_default()) {
        (None, "") => Ok(reading.request),
        (None, name) if name.starts_with('/') => reading.path(name),
        (None, name) => reading.path(&format!("{}/{name}", reading.request)),
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
            Value::Integer(value) | Value::Time(value) => Self { number: Some((*value).into()), ..element },
            Value::UnsignedInteger(value) => Self { number: Some((*value).into()), ..element },
            Value::Float(value) => Self { number: Number::from_f64(*value), ..element },
            Value::Boolean(value) => Self { boolean: Some(*value), ..element },
            Value::ObjectLink(link) => Self { link: Some(link.to_string()), ..element },
        }
    }

    /// The one value of the element. Opaque has no member of its own: it is base64 in `sv`.
    fn value(self, expected: Option<ResourceType>) -> Result<Value, ValueError> {
        match (self.number, self.boolean, self.link, self.text) {
            (Some(number), None, None, None) => number_value(&number),
            (None, Some(boolean), None, None) => Ok(Value::Boolean(boolean)),
            (None, None, Some(link), None) => link.parse().map(Value::ObjectLink),
            (None, None, None, Some(text)) if expected == Some(ResourceType::Opaque) => {
                from_base64(&text).map(Value::Opaque)
            }
            (None, None, None, Some(text)) => Ok(Value::String(text)),
            (None, None, None, None) => Err(ValueError::NoValue),
            _ => Err(ValueError::SeveralValues),
        }
    }
}

/// Whole numbers stay whole over the full 64 bits.
pub fn number_value(number: &Number) -> Result<Value, ValueError> {
    match number.as_i128().and_then(Value::whole) {
        Some(whole) => Ok(whole),
        None => Value::float(number.as_f64().unwrap_or(f64::NAN)),
    }
}
