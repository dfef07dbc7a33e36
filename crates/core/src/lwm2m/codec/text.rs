//! `text/plain`: the value of one resource (LwM2M 1.1 section 7.4.1 and appendix C).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::lwm2m::number::Number;
use crate::lwm2m::value::{ResourceType, Value, ValueError, from_base64, without_blanks};

use super::scalar::Scalar;
use super::{DecodeError, Reading};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    reading.push_bytes(reading.single()?, payload, decode)
}

/// Reads the text of a resource of this type.
pub fn decode(expected: ResourceType, text: &[u8]) -> Result<Value, ValueError> {
    if expected == ResourceType::Opaque {
        // Devices send the bytes themselves, too: what is no base64 cannot be meant as such.
        return Ok(Value::Opaque(STANDARD.decode(text).unwrap_or_else(|_| text.to_vec())));
    }
    parse(expected, std::str::from_utf8(text).map_err(|_| ValueError::NotText)?)
}

/// Reads a text that is UTF-8. Opaque is base64 and nothing else. Numbers have the forms of [`Number::parse`], and
/// nothing of them may be lost.
pub fn parse(expected: ResourceType, text: &str) -> Result<Value, ValueError> {
    let wrong = || ValueError::Type { expected, value: format!("{:?}", text.chars().take(32).collect::<String>()) };
    match expected {
        ResourceType::String => Ok(Value::String(text.to_owned())),
        ResourceType::CoreLink => Ok(Value::CoreLink(text.to_owned())),
        ResourceType::Integer | ResourceType::Time | ResourceType::UnsignedInteger | ResourceType::Float => {
            let number = Number::parse(text).map(Scalar::Number);
            number.and_then(|number| number.into_value(Some(expected)).ok()).ok_or_else(wrong)
        }
        ResourceType::Boolean => boolean(without_blanks(text)).map(Value::Boolean).ok_or_else(wrong),
        ResourceType::Opaque => from_base64(text).map(Value::Opaque),
        ResourceType::ObjectLink => text.parse().map(Value::ObjectLink),
    }
}

pub fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) | Value::CoreLink(text) => text.clone().into_bytes(),
        Value::Integer(value) | Value::Time(value) => value.to_string().into_bytes(),
        Value::UnsignedInteger(value) => value.to_string().into_bytes(),
        Value::Float(value) => value.to_string().into_bytes(),
        Value::Boolean(value) => vec![b'0' + u8::from(*value)],
        Value::Opaque(bytes) => STANDARD.encode(bytes).into_bytes(),
        Value::ObjectLink(link) => link.to_string().into_bytes(),
    }
}

fn boolean(text: &str) -> Option<bool> {
    let is = |names: [&str; 2]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    if is(["1", "true"]) { Some(true) } else { is(["0", "false"]).then_some(false) }
}
