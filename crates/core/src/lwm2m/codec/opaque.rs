//! `application/octet-stream`: the bytes of one resource (LwM2M 1.1 section 7.4.2). They need no definition.

use crate::lwm2m::value::Value;

use super::{DecodeError, Entry, Reading, text};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let path = reading.request;
    reading.resource_type(path)?;
    reading.entries.push(Entry { path, value: Value::Opaque(payload.to_vec()), time: None, undefined: false });
    Ok(())
}

/// The bytes of an Opaque value; anything else as its text.
pub fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::Opaque(bytes) => bytes.clone(),
        other => text::encode(other),
    }
}
