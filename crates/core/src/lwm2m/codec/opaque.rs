//! `application/octet-stream`: the bytes of one resource (LwM2M 1.1 section 7.4.2). They need no definition.

use crate::lwm2m::value::Value;

use super::{DecodeError, Entry, Reading, text};

/// Reads the bytes as an Opaque value, whatever the type of the resource is.
pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let path = reading.single()?;
    let undefined = reading.resource_type(path)?.is_none();
    reading.add(Entry { path, value: Value::Opaque(payload.to_vec()), time: None, undefined })
}

/// Returns the bytes of an Opaque value, or the text of any other.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::Opaque(bytes) => bytes.clone(),
        Value::String(_)
        | Value::Integer(_)
        | Value::UnsignedInteger(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Time(_)
        | Value::ObjectLink(_)
        | Value::CoreLink(_) => text::encode(value),
    }
}
