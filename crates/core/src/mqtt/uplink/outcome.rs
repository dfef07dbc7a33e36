//! The JSON of what a device answered or sent: `data` with its code, content and entries.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value as Json;

use crate::command::RequestTarget;
use crate::lwm2m::codec::Entry;
use crate::lwm2m::number::whole_of;
use crate::lwm2m::operation::{Content, Outcome};
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{ResourceType, Value};

use super::code_message;

/// Serializes `data` of an answer, a notification or a Send.
pub(super) struct OutcomeData<'a> {
    pub target: &'a RequestTarget,
    pub outcome: &'a Outcome,
    /// Adds the requested paths without an entry.
    pub tells_missing: bool,
}

impl Serialize for OutcomeData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_members(&mut map)?;
        map.end()
    }
}

impl OutcomeData<'_> {
    /// Serializes the members, so that others can follow.
    pub(super) fn serialize_members<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self { target, outcome, tells_missing } = self;
        match target {
            RequestTarget::Path(path) => map.serialize_entry("reqPath", path)?,
            RequestTarget::Paths(paths) => map.serialize_entry("reqPaths", paths)?,
        }
        map.serialize_entry("code", &format_args!("{}", outcome.code))?;
        map.serialize_entry("codeMsg", code_message(outcome.code))?;
        match &outcome.content {
            Some(Content::Entries(entries)) => {
                map.serialize_entry("content", &Entries { entries, leading_slash: target.has_leading_slash() })?;
                let missing = if *tells_missing { target.missing(entries) } else { Vec::new() };
                if !missing.is_empty() {
                    map.serialize_entry("missing", &missing)?;
                }
            }
            Some(Content::Links(links)) => map.serialize_entry("content", links)?,
            None => {}
        }
        if let Some(location) = &outcome.location {
            map.serialize_entry("location", location)?;
        }
        if let Some(reason) = &outcome.reason {
            map.serialize_entry("reason", reason)?;
        }
        Ok(())
    }
}

impl RequestTarget {
    /// Returns whether the paths of entries begin with a slash: always, except if the path of the command does not.
    fn has_leading_slash(&self) -> bool {
        match self {
            Self::Path(Some(path)) => path.starts_with('/'),
            Self::Path(None) | Self::Paths(_) => true,
        }
    }

    /// Returns the paths of a composite operation, as written, at or below which there is no entry.
    fn missing(&self, entries: &[Entry]) -> Vec<&Json> {
        let is_missing = |written: &&Json| {
            let path = written.as_str().and_then(|text| text.parse::<Path>().ok());
            path.is_some_and(|path| !entries.iter().any(|entry| entry.path.is_at_or_below(&path)))
        };
        match self {
            Self::Path(_) => Vec::new(),
            Self::Paths(paths) => paths.iter().flatten().filter(is_missing).collect(),
        }
    }
}

/// Serializes entries. Their paths begin with a slash if the path of the request does.
struct Entries<'a> {
    entries: &'a [Entry],
    leading_slash: bool,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.entries.len()))?;
        for entry in self.entries {
            list.serialize_element(&EntryJson { entry, leading_slash: self.leading_slash })?;
        }
        list.end()
    }
}

struct EntryJson<'a> {
    entry: &'a Entry,
    leading_slash: bool,
}

impl Serialize for EntryJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("path", &PathText { path: self.entry.path, leading_slash: self.leading_slash })?;
        map.serialize_entry("value", &ValueJson(&self.entry.value))?;
        if let Some(kind) = undefined_type(self.entry) {
            map.serialize_entry("type", kind.name())?;
        }
        if let Some(time) = self.entry.time {
            map.serialize_entry("time", &JsonDouble(time))?;
        }
        map.end()
    }
}

/// Returns the type of a value without definition whose JSON text could be taken for a String.
fn undefined_type(entry: &Entry) -> Option<ResourceType> {
    let kind = entry.value.resource_type();
    (entry.undefined && matches!(kind, ResourceType::Opaque | ResourceType::ObjectLink)).then_some(kind)
}

struct PathText {
    path: Path,
    leading_slash: bool,
}

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.path.to_string();
        serializer.serialize_str(if self.leading_slash { &text } else { text.trim_start_matches('/') })
    }
}

struct ValueJson<'a>(&'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) | Value::CoreLink(text) => serializer.serialize_str(text),
            Value::Integer(value) | Value::Time(value) => serializer.serialize_i64(*value),
            Value::UnsignedInteger(value) => serializer.serialize_u64(*value),
            Value::Float(value) => JsonDouble(*value).serialize(serializer),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Opaque(bytes) => serializer.collect_str(&Base64Display::new(bytes, &STANDARD)),
            Value::ObjectLink(link) => serializer.collect_str(link),
        }
    }
}

/// Serializes a double. A whole number is written without a point.
struct JsonDouble(f64);

impl Serialize for JsonDouble {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match whole_of(self.0) {
            Some(whole) => serializer.serialize_i64(whole),
            None => serializer.serialize_f64(self.0),
        }
    }
}
