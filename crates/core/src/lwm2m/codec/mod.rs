//! Content formats: from a device's payload to a flat list of entries, and from values to a payload. Nothing here trusts
//! the payload: every path must lie where the request went, every value must be of its resource's type, and what is left
//! over is an error.

pub mod cbor;
pub mod json;
pub mod lwm2m_cbor;
pub mod opaque;
pub mod senml;
pub mod senml_cbor;
pub mod senml_json;
pub mod text;
pub mod tlv;

use std::time::Duration;

use thiserror::Error;

use crate::coap::options::format;

use super::model::{Model, OtherVersions, Resource};
use super::path::Path;
use super::register::Registration;
use super::value::{ResourceType, Value, ValueError};

/// A name in a payload is a path, perhaps with the alternate path in front; longer ones are refused.
const MAX_NAME: usize = 1024;
/// RFC 8428 section 4.5.3: a smaller time is relative to now.
const ABSOLUTE_TIME: f64 = 268_435_456.0;

/// One resource or resource instance of a payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub path: Path,
    pub value: Value,
    /// Seconds since 1970, when the payload has a time for it.
    pub time: Option<f64>,
    /// There is no definition: the value is the bytes as they came.
    pub undefined: bool,
}

/// A resource or resource instance, and its new value.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub path: Path,
    pub value: Value,
}

/// What to do with an entry of a payload that has no definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UndefinedResources {
    /// The answer is 4.00 with a reason.
    #[default]
    Refuse,
    /// Base64 text with `"type":"Opaque"`.
    Opaque,
}

/// What is needed to understand a device's response.
#[derive(Clone, Copy, Debug)]
pub struct DecodeContext<'a> {
    pub registration: &'a Registration,
    pub model: &'a Model,
    pub undefined: UndefinedResources,
    /// Since 1970: relative times of SenML count from it.
    pub unix_time: Duration,
}

/// Why a payload is no answer to its request.
#[derive(Debug, Error)]
pub enum DecodeError {
    #[error("content format {0} holds no values")]
    Format(u16),
    #[error("{path} has no definition{loaded}")]
    Undefined { path: Path, loaded: OtherVersions },
    #[error("{0} is executed and has no value")]
    NoValue(Path),
    #[error("the payload names {path}, which is not at or below {request}")]
    Elsewhere { path: Path, request: Path },
    #[error("{0} is no resource")]
    NoResource(Path),
    #[error("{0:?} is no path")]
    Name(String),
    #[error("{path}: {error}")]
    Value { path: Path, error: ValueError },
    #[error("NaN and infinities are no times")]
    Time,
    #[error("the payload is empty")]
    Empty,
    #[error("{0} bytes are left over behind the value")]
    LeftOver(usize),
    #[error("TLV: {0}")]
    Tlv(#[from] tlv::TlvError),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("CBOR: {0}")]
    Cbor(#[from] minicbor::decode::Error),
    #[error("SenML: {0}")]
    SenMl(#[from] senml::RecordError),
}

/// Reads the payload of an answer to a request of this path. Without a content format it is text.
pub fn decode(
    request: Path,
    content_format: Option<u16>,
    payload: &[u8],
    context: DecodeContext<'_>,
) -> Result<Vec<Entry>, DecodeError> {
    let mut reading = Reading::new(request, context);
    match content_format {
        _ if payload.is_empty() && reading.may_be_empty(content_format)? => {}
        Some(format) if payload.is_empty() && !is_of_bytes(format) => return Err(DecodeError::Empty),
        None | Some(format::TEXT | format::LEGACY_TEXT) => text::read(payload, &mut reading)?,
        Some(format::OCTET_STREAM | format::LEGACY_OPAQUE) => opaque::read(payload, &mut reading)?,
        Some(format::TLV | format::LEGACY_TLV) => tlv::read(payload, &mut reading)?,
        Some(format::LWM2M_JSON | format::LEGACY_JSON) => json::read(payload, &mut reading)?,
        Some(format::SENML_JSON) => senml_json::read(payload, &mut reading)?,
        Some(format::SENML_CBOR) => senml_cbor::read(payload, &mut reading)?,
        Some(format::CBOR) => cbor::read(payload, &mut reading)?,
        Some(format::LWM2M_CBOR) => lwm2m_cbor::read(payload, &mut reading)?,
        Some(other) => return Err(DecodeError::Format(other)),
    }
    Ok(reading.entries)
}

/// Writes values for a request of this path in this format, in TLV for one that holds no values.
pub fn encode(target: Path, values: &[Assignment], content_format: u16) -> Vec<u8> {
    match content_format {
        format::SENML_CBOR => senml_cbor::write(target, values),
        format::SENML_JSON => senml_json::write(target, values),
        format::LWM2M_JSON => json::write(target, values),
        format::TEXT => values.first().map(|single| text::encode(&single.value)).unwrap_or_default(),
        format::OCTET_STREAM => values.first().map(|single| opaque::encode(&single.value)).unwrap_or_default(),
        _ => tlv::write(target, values),
    }
}

/// The format to ask for: those with times and several values first, those of one value for one resource only.
pub fn best_to_read(path: Path, announced: &[u16]) -> Option<u16> {
    const SEVERAL: [u16; 5] =
        [format::SENML_CBOR, format::LWM2M_CBOR, format::SENML_JSON, format::TLV, format::LWM2M_JSON];
    const SINGLE: [u16; 2] = [format::CBOR, format::TEXT];
    let single = if path.len() >= 3 { &SINGLE[..] } else { &[] };
    SEVERAL.iter().chain(single).copied().find(|candidate| announced.contains(candidate))
}

/// The format to write in: TLV or, for a device that announced formats without it, the best of those.
pub fn best_to_write(target: Path, values: &[Assignment], announced: &[u16]) -> u16 {
    const SEVERAL: [u16; 3] = [format::SENML_CBOR, format::SENML_JSON, format::LWM2M_JSON];
    if announced.is_empty() || announced.contains(&format::TLV) {
        return format::TLV;
    }
    if let Some(best) = SEVERAL.into_iter().find(|candidate| announced.contains(candidate)) {
        return best;
    }
    let single = match values {
        [one] if one.path == target => format::TEXT,
        _ => format::TLV,
    };
    if announced.contains(&single) { single } else { format::TLV }
}

/// Whether the values are one Opaque for the very resource of the request.
pub fn is_single_opaque(target: Path, values: &[Assignment]) -> bool {
    matches!(values, [one] if one.path == target && matches!(one.value, Value::Opaque(_)))
}

/// Whether no bytes are a value in this format: an empty text, or no octets.
fn is_of_bytes(content_format: u16) -> bool {
    use format::{LEGACY_OPAQUE, LEGACY_TEXT, OCTET_STREAM, TEXT};
    matches!(content_format, TEXT | LEGACY_TEXT | OCTET_STREAM | LEGACY_OPAQUE)
}

/// A payload on its way to entries: knows what was asked for and what its resources are.
pub struct Reading<'a> {
    pub(super) request: Path,
    model: &'a Model,
    registration: &'a Registration,
    undefined: UndefinedResources,
    unix_time: Duration,
    entries: Vec<Entry>,
}

impl<'a> Reading<'a> {
    fn new(request: Path, context: DecodeContext<'a>) -> Self {
        let DecodeContext { registration, model, undefined, unix_time } = context;
        Self { request, model, registration, undefined, unix_time, entries: Vec::new() }
    }

    /// Takes the bytes of a value in a format that says nothing of types.
    fn push_bytes(
        &mut self,
        path: Path,
        bytes: &[u8],
        decode: impl FnOnce(ResourceType, &[u8]) -> Result<Value, ValueError>,
    ) -> Result<(), DecodeError> {
        match (self.resource_type(path)?, self.undefined) {
            (Some(expected), _) => {
                let value = decode(expected, bytes).map_err(|error| DecodeError::Value { path, error })?;
                self.entries.push(Entry { path, value, time: None, undefined: false });
            }
            (None, UndefinedResources::Opaque) => {
                self.entries.push(Entry { path, value: Value::Opaque(bytes.to_vec()), time: None, undefined: true });
            }
            (None, UndefinedResources::Refuse) => {
                let versions = |object| self.model.other_versions(object, self.registration.object_version(object));
                return Err(DecodeError::Undefined { path, loaded: path.object().map(versions).unwrap_or_default() });
            }
        }
        Ok(())
    }

    /// Takes a value of a format that has types of its own: it must fit the definition, where there is one.
    fn push_value(
        &mut self,
        path: Path,
        time: Option<f64>,
        read: impl FnOnce(Option<ResourceType>) -> Result<Value, ValueError>,
    ) -> Result<(), DecodeError> {
        let expected = self.resource_type(path)?;
        let value = read(expected).and_then(|value| match expected {
            Some(expected) => value.conform(expected),
            None => Ok(value),
        });
        let value = value.map_err(|error| DecodeError::Value { path, error })?;
        self.entries.push(Entry { path, value, time, undefined: false });
        Ok(())
    }

    /// The type of the resource at this path; `None` when there is no definition.
    fn resource_type(&self, path: Path) -> Result<Option<ResourceType>, DecodeError> {
        if !path.is_at_or_below(&self.request) {
            return Err(DecodeError::Elsewhere { path, request: self.request });
        }
        let (Some(object), Some(resource)) = (path.object(), path.resource()) else {
            return Err(DecodeError::NoResource(path));
        };
        match self.model.resource(object, self.registration.object_version(object), resource) {
            Some(definition) if !definition.has_value() => Err(DecodeError::NoValue(path)),
            Some(Resource { resource_type, .. }) => Ok(*resource_type),
            None => Ok(None),
        }
    }

    /// Whether a device says by an empty payload that there is nothing: of an object, an instance or a resource with
    /// instances. A resource without definition may have instances; but no bytes may be its value.
    fn may_be_empty(&self, content_format: Option<u16>) -> Result<bool, DecodeError> {
        let path = self.request;
        let (Some(object), Some(resource)) = (path.object(), path.resource()) else { return Ok(true) };
        match self.model.resource(object, self.registration.object_version(object), resource) {
            Some(definition) if !definition.has_value() => Err(DecodeError::NoValue(path)),
            Some(definition) => Ok(definition.multiple && path.len() == 3),
            None => Ok(path.len() == 3 && content_format.is_some_and(|format| !is_of_bytes(format))),
        }
    }

    /// The instance of the object that was asked for, when its definition says that it has one only.
    fn only_instance(&self) -> Option<Path> {
        let object = self.request.object()?;
        let definition = self.model.object(object, self.registration.object_version(object))?;
        if definition.multiple { None } else { Path::of(&[object, 0]) }
    }

    /// The path that a name in the payload means.
    fn path(&self, name: &str) -> Result<Path, DecodeError> {
        let shown = || DecodeError::Name(name.chars().take(64).collect());
        if name.len() > MAX_NAME {
            return Err(shown());
        }
        self.registration.without_alternate_path(name).parse().map_err(|_| shown())
    }

    /// Seconds since 1970, for a base time and a time of which one may be missing; their sum may be relative to now.
    fn time(&self, base: Option<f64>, own: Option<f64>) -> Result<Option<f64>, DecodeError> {
        if base.is_none() && own.is_none() {
            return Ok(None);
        }
        let sum = base.unwrap_or(0.0) + own.unwrap_or(0.0);
        let absolute = if sum < ABSOLUTE_TIME { self.unix_time.as_secs_f64() + sum } else { sum };
        if absolute.is_finite() { Ok(Some(absolute)) } else { Err(DecodeError::Time) }
    }
}

/// A path relative to a shorter one, without a slash in front; empty for the same path.
fn relative(path: Path, base: Path) -> String {
    let ids = path.segments().get(base.len()..).unwrap_or(&[]);
    ids.iter().map(u16::to_string).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests;
