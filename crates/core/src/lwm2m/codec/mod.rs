//! Content formats: from a payload of a device to a flat list of entries, and from values to a payload. Nothing here
//! trusts a payload: each path must lie where the request was sent, each value must be of the type of its resource,
//! bytes that are left over are an error, and a payload is good as a whole or bad as a whole.

mod cbor;
mod date;
mod json;
mod lwm2m_cbor;
mod opaque;
pub(crate) mod scalar;
pub mod senml;
mod senml_cbor;
mod senml_json;
pub mod text;
pub mod tlv;

use std::time::Duration;

use thiserror::Error;

use self::scalar::Scalar;

use super::content_format::ContentFormat;
use super::model::{Model, OtherVersions, Resource};
use super::number::Number;
use super::path::Path;
use super::register::Registration;
use super::value::{ResourceType, Value, ValueError};

/// Limits the bytes of a name, which is a path and perhaps has the alternate path in front.
const MAX_NAME: usize = 1024;
/// The smallest absolute time. A smaller one is relative to now (RFC 8428 section 4.5.3).
const ABSOLUTE_TIME: f64 = 268_435_456.0;

/// Holds one resource or resource instance of a payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub path: Path,
    pub value: Value,
    /// Counts seconds since 1970, if the payload has a time for the value.
    pub time: Option<f64>,
    /// Tells that the resource has no definition. The type of the value is then that of the format.
    pub undefined: bool,
}

/// Assigns a value to a resource or a resource instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub path: Path,
    pub value: Value,
}

/// Assigns a value to a resource or a resource instance, or removes the instance (RFC 8790 section 3.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub path: Path,
    /// `None` for a removal.
    pub value: Option<Value>,
}

/// The treatment of an entry that has no definition, if its format does not carry types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UndefinedResources {
    /// The answer is 4.00 with a reason.
    #[default]
    Refuse,
    /// The entry is base64 text with `"type":"Opaque"`.
    Opaque,
}

/// The request that a payload answers.
#[derive(Clone, Copy, Debug)]
pub enum Requested<'a> {
    /// The path of the request.
    Path(Path),
    /// The paths of a composite operation. The payload must name whole paths.
    Paths(&'a [Path]),
}

/// Holds what is needed to decode a payload of a device.
#[derive(Clone, Copy, Debug)]
pub struct DecodeContext<'a> {
    pub registration: &'a Registration,
    pub model: &'a Model,
    pub undefined: UndefinedResources,
    /// The time since 1970 when the payload arrived. Relative times count from it.
    pub unix_time: Duration,
    /// Limits the entries of one payload.
    pub max_entries: usize,
}

/// Tells why a payload is bad.
#[derive(Debug, Error)]
pub enum DecodeError {
    #[error("content format {0} holds no values")]
    Format(u16),
    #[error("{0} names no paths, as the answer to a composite operation must")]
    NoPaths(ContentFormat),
    #[error("{path} has no definition{loaded}")]
    Undefined { path: Path, loaded: OtherVersions },
    #[error("{0} is executed and has no value")]
    NoValue(Path),
    #[error("the payload names {path}, which is not at or below {requested}")]
    Elsewhere { path: Path, requested: String },
    #[error("{0} is not a resource")]
    NoResource(Path),
    #[error("{0:?} is not a path")]
    Name(String),
    #[error("{path}: {error}")]
    Value { path: Path, error: ValueError },
    #[error("NaN and infinities are not times")]
    Time,
    #[error("more than {0} entries")]
    TooMany(usize),
    #[error("the payload is empty")]
    Empty,
    #[error("{0} bytes follow the value")]
    LeftOver(usize),
    #[error("TLV: {0}")]
    Tlv(#[from] tlv::TlvError),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("JSON: {0}")]
    Element(#[from] json::ElementError),
    #[error("CBOR: {0}")]
    Cbor(#[from] minicbor::decode::Error),
    #[error("SenML: {0}")]
    Senml(#[from] senml::RecordError),
}

/// Reads the payload of an answer, a notification or a Send. A payload without content format is text.
pub fn decode(
    requested: Requested<'_>,
    content_format: Option<u16>,
    payload: &[u8],
    context: DecodeContext<'_>,
) -> Result<Vec<Entry>, DecodeError> {
    let mut reading = Reading { requested, context, entries: Vec::new() };
    let number = content_format.unwrap_or(ContentFormat::Text.number());
    let known = ContentFormat::from_device(number);
    if payload.is_empty() && reading.may_be_empty(known)? {
        return Ok(Vec::new());
    }
    let format = known.ok_or(DecodeError::Format(number))?;
    if let Requested::Paths(_) = requested
        && !format.names_paths()
    {
        return Err(DecodeError::NoPaths(format));
    }
    match format {
        ContentFormat::Text => text::read(payload, &mut reading)?,
        ContentFormat::Opaque => opaque::read(payload, &mut reading)?,
        ContentFormat::Link | ContentFormat::SenmlEtchJson | ContentFormat::SenmlEtchCbor => {
            return Err(DecodeError::Format(number));
        }
        _ if payload.is_empty() => return Err(DecodeError::Empty),
        ContentFormat::Tlv => tlv::read(payload, &mut reading)?,
        ContentFormat::Lwm2mJson => json::read(payload, &mut reading)?,
        ContentFormat::SenmlJson => senml_json::read(payload, &mut reading)?,
        ContentFormat::SenmlCbor => senml_cbor::read(payload, &mut reading)?,
        ContentFormat::Cbor => cbor::read(payload, &mut reading)?,
        ContentFormat::Lwm2mCbor => lwm2m_cbor::read(payload, &mut reading)?,
    }
    Ok(reading.entries)
}

/// Writes values for a request of this path. The format must be one that can hold them.
pub fn encode(format: ContentFormat, alternate_path: &str, target: Path, values: &[Assignment]) -> Vec<u8> {
    let first = values.first().map(|first| &first.value);
    match format {
        ContentFormat::Text => first.map(text::encode).unwrap_or_default(),
        ContentFormat::Opaque => first.map(opaque::encode).unwrap_or_default(),
        ContentFormat::Cbor => first.map(cbor::write).unwrap_or_default(),
        ContentFormat::SenmlCbor | ContentFormat::SenmlEtchCbor => {
            senml_cbor::write(senml::of_values(alternate_path, target, values))
        }
        ContentFormat::SenmlJson | ContentFormat::SenmlEtchJson => {
            senml_json::write(senml::of_values(alternate_path, target, values))
        }
        ContentFormat::Lwm2mCbor => lwm2m_cbor::write(target, values),
        ContentFormat::Lwm2mJson => json::write(target, values),
        ContentFormat::Tlv | ContentFormat::Link => tlv::write(target, values),
    }
}

/// Writes the patches of a composite write in a format that holds them: SenML, SenML-ETCH or, without removals, LwM2M
/// CBOR.
pub fn encode_patches(format: ContentFormat, alternate_path: &str, patches: &[Patch]) -> Vec<u8> {
    match format {
        ContentFormat::Lwm2mCbor => lwm2m_cbor::write_patches(patches),
        _ if is_json(format) => senml_json::write(senml::of_patches(alternate_path, patches)),
        _ => senml_cbor::write(senml::of_patches(alternate_path, patches)),
    }
}

/// Writes a list of paths in a format that holds one: SenML or SenML-ETCH.
pub(crate) fn encode_paths(format: ContentFormat, alternate_path: &str, paths: &[Path]) -> Vec<u8> {
    let records = senml::of_paths(alternate_path, paths);
    if is_json(format) { senml_json::write(records) } else { senml_cbor::write(records) }
}

fn is_json(format: ContentFormat) -> bool {
    matches!(format, ContentFormat::SenmlJson | ContentFormat::SenmlEtchJson)
}

/// Returns whether a payload of this format can hold these patches.
pub(crate) fn can_hold_patches(format: ContentFormat, patches: &[Patch]) -> bool {
    let has_removals = patches.iter().any(|patch| patch.value.is_none());
    match format {
        ContentFormat::SenmlEtchJson | ContentFormat::SenmlEtchCbor => true,
        ContentFormat::SenmlJson | ContentFormat::SenmlCbor | ContentFormat::Lwm2mCbor => !has_removals,
        ContentFormat::Text
        | ContentFormat::Link
        | ContentFormat::Opaque
        | ContentFormat::Cbor
        | ContentFormat::Tlv
        | ContentFormat::Lwm2mJson => false,
    }
}

/// Returns whether the values are one Opaque for the very resource of the request.
pub(crate) fn is_single_opaque(target: Path, values: &[Assignment]) -> bool {
    matches!(values, [one] if one.path == target && matches!(one.value, Value::Opaque(_)))
}

/// Collects the entries of one payload. It knows what was requested, and what the resources of the device are.
pub(crate) struct Reading<'a> {
    requested: Requested<'a>,
    context: DecodeContext<'a>,
    entries: Vec<Entry>,
}

impl Reading<'_> {
    /// Returns the path of the request, for a format that names no whole paths.
    fn single(&self) -> Result<Path, DecodeError> {
        match self.requested {
            Requested::Path(path) => Ok(path),
            Requested::Paths(_) => Err(DecodeError::NoPaths(ContentFormat::Text)),
        }
    }

    /// Adds a value from a format that does not carry types.
    fn push_bytes(
        &mut self,
        path: Path,
        bytes: &[u8],
        decode: impl FnOnce(ResourceType, &[u8]) -> Result<Value, ValueError>,
    ) -> Result<(), DecodeError> {
        let expected = self.resource_type(path)?;
        let value = match (expected, self.context.undefined) {
            (Some(expected), _) => decode(expected, bytes).map_err(|error| DecodeError::Value { path, error })?,
            (None, UndefinedResources::Opaque) => Value::Opaque(bytes.to_vec()),
            (None, UndefinedResources::Refuse) => return Err(self.undefined(path)),
        };
        self.add(Entry { path, value, time: None, undefined: expected.is_none() })
    }

    /// Adds a value from a format that carries types. It must fit the definition if there is one.
    fn push(&mut self, path: Path, time: Option<f64>, scalar: Scalar<'_>) -> Result<(), DecodeError> {
        let expected = self.resource_type(path)?;
        let value = scalar.into_value(expected).map_err(|error| DecodeError::Value { path, error })?;
        self.add(Entry { path, value, time, undefined: expected.is_none() })
    }

    fn add(&mut self, entry: Entry) -> Result<(), DecodeError> {
        if self.entries.len() >= self.context.max_entries {
            return Err(DecodeError::TooMany(self.context.max_entries));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Returns the type of the resource at this path, or `None` if it has no definition.
    fn resource_type(&self, path: Path) -> Result<Option<ResourceType>, DecodeError> {
        self.check_requested(path)?;
        if path.resource().is_none() {
            return Err(DecodeError::NoResource(path));
        }
        match self.definition(path) {
            Some(definition) if !definition.has_value() => Err(DecodeError::NoValue(path)),
            Some(definition) => Ok(definition.resource_type),
            None => Ok(None),
        }
    }

    fn check_requested(&self, path: Path) -> Result<(), DecodeError> {
        let requested = match self.requested {
            Requested::Path(requested) if path.is_at_or_below(&requested) => return Ok(()),
            Requested::Paths(paths) if paths.iter().any(|requested| path.is_at_or_below(requested)) => return Ok(()),
            Requested::Path(requested) => requested.to_string(),
            Requested::Paths(_) => "a requested path".to_owned(),
        };
        Err(DecodeError::Elsewhere { path, requested })
    }

    fn definition(&self, path: Path) -> Option<&Resource> {
        let DecodeContext { registration, model, .. } = self.context;
        let (object, resource) = (path.object()?, path.resource()?);
        model.resource(object, registration.object_version(object), resource)
    }

    fn undefined(&self, path: Path) -> DecodeError {
        let DecodeContext { registration, model, .. } = self.context;
        let versions = |object| model.other_versions(object, registration.object_version(object));
        DecodeError::Undefined { path, loaded: path.object().map(versions).unwrap_or_default() }
    }

    /// Returns whether an empty payload says that nothing is there: no instance, no resource, or no instance of a
    /// resource. A resource without definition may have instances, except in a format in which no bytes are a value.
    fn may_be_empty(&self, format: Option<ContentFormat>) -> Result<bool, DecodeError> {
        let Requested::Path(path) = self.requested else { return Ok(true) };
        if path.resource().is_none() {
            return Ok(true);
        }
        match self.definition(path) {
            Some(definition) if !definition.has_value() => Err(DecodeError::NoValue(path)),
            Some(definition) => Ok(definition.multiple && path.len() == 3),
            None => {
                let has_empty_values = matches!(format, Some(ContentFormat::Text | ContentFormat::Opaque));
                Ok(path.len() == 3 && !has_empty_values)
            }
        }
    }

    /// Returns the instance of the requested object, if the object can have only one.
    fn only_instance(&self) -> Option<Path> {
        let object = self.single().ok()?.object()?;
        let DecodeContext { registration, model, .. } = self.context;
        let definition = model.object(object, registration.object_version(object))?;
        if definition.multiple { None } else { Path::of(&[object, 0]) }
    }

    /// Returns the path that a name in the payload means.
    fn path(&self, name: &str) -> Result<Path, DecodeError> {
        let shown = || DecodeError::Name(name.chars().take(64).collect());
        if name.len() > MAX_NAME {
            return Err(shown());
        }
        self.context.registration.without_alternate_path(name).parse().map_err(|_| shown())
    }

    /// Returns the seconds since 1970 for a base time and a time of which one may be missing. Their sum may be relative
    /// to the arrival of the payload.
    fn time(&self, base: Option<Number>, own: Option<Number>) -> Result<Option<f64>, DecodeError> {
        if base.is_none() && own.is_none() {
            return Ok(None);
        }
        let sum = base.map_or(0.0, Number::as_f64) + own.map_or(0.0, Number::as_f64);
        let absolute = if sum < ABSOLUTE_TIME { self.context.unix_time.as_secs_f64() + sum } else { sum };
        if absolute.is_finite() { Ok(Some(absolute)) } else { Err(DecodeError::Time) }
    }
}

/// Returns a path relative to a shorter one, without a slash in front. It is empty for the same path.
fn relative(path: Path, base: Path) -> String {
    let ids = path.segments().get(base.len()..).unwrap_or(&[]);
    ids.iter().map(u16::to_string).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests;
