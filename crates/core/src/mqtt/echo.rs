//! The part of a command that every answer repeats, as the application wrote it.
//!
//! The members are kept as texts of JSON: no number in them is read, so that none comes back in another form, whatever
//! its size. Only [`Echo::known_members`] reads the few members that this program knows.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::lwm2m::codec::{Assignment, tlv};
use crate::lwm2m::operation::Operation;
use crate::lwm2m::path::Path;

use super::downlink::relative_path;

/// The members of a command that mean something.
const KNOWN: [&str; 4] = ["msgType", "data", "mheaders", "encoding"];
/// A value whose text is longer comes back as its size: nobody wants a firmware image back because it did not arrive.
const LONGEST_ECHOED_VALUE: usize = 1024;

/// What every answer repeats: the command's own object, and its path. A clone shares it. It is serialized as a text of
/// JSON, so that its depth does not add to that of what it is in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Echo {
    command: Arc<Written>,
}

#[derive(Debug, Default, PartialEq)]
struct Written {
    members: Members,
    msg_type: Option<String>,
    request_path: Option<String>,
}

impl Echo {
    /// Reads a command, with its members that mean something.
    pub(super) fn read(payload: &[u8]) -> Result<(Self, Map<String, Value>), String> {
        let members: Members =
            serde_json::from_slice(payload).map_err(|error| match serde_json::from_slice::<&RawValue>(payload) {
                Ok(_) => "the command is no JSON object".to_owned(),
                Err(_) => format!("the command is no JSON: {error}"),
            })?;
        let known = members.known().map_err(|error| format!("the command is no JSON: {error}"))?;
        let msg_type = known.get("msgType").and_then(Value::as_str).map(str::to_owned);
        let request_path = known.get("data").and_then(request_path).map(str::to_owned);
        Ok((Self { command: Arc::new(Written { members, msg_type, request_path }) }, known))
    }

    /// Makes a command of the gateway's own.
    pub(super) fn of(members: &Value) -> Self {
        let (echo, _) = Self::read(members.to_string().as_bytes()).expect("the gateway writes JSON objects");
        echo
    }

    /// The members that mean something, read anew.
    pub(super) fn known_members(&self) -> Result<Map<String, Value>, String> {
        self.command.members.known().map_err(|error| format!("the command is no JSON: {error}"))
    }

    /// The command as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.command.members).expect("what was JSON is JSON")
    }

    /// `msgType` of the command; `error` where there is none.
    pub fn msg_type(&self) -> &str {
        self.command.msg_type.as_deref().unwrap_or("error")
    }

    /// The command's path as written, without the query.
    pub fn request_path(&self) -> Option<&str> {
        self.command.request_path.as_deref()
    }

    /// The members, each as it was written.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.command.members.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    pub(super) fn data(&self) -> Option<&RawValue> {
        self.command.members.get("data")
    }
}

impl From<Echo> for String {
    fn from(echo: Echo) -> Self {
        echo.to_json()
    }
}

impl TryFrom<String> for Echo {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::read(text.as_bytes()).map(|(echo, _)| echo)
    }
}

fn request_path(data: &Value) -> Option<&str> {
    let text = |member| data.get(member).and_then(Value::as_str);
    let written = text("path").or_else(|| text("basePath"))?;
    Some(written.split_once('?').map_or(written, |(path, _)| path))
}

/// The members of an object in their order, their values as they were written. Of two with one name the later one
/// counts.
#[derive(Debug, Default)]
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn of(object: &RawValue) -> Option<Self> {
        serde_json::from_str(object.get()).ok()
    }

    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    fn known(&self) -> serde_json::Result<Map<String, Value>> {
        let known = self.0.iter().filter(|(name, _)| KNOWN.contains(&name.as_str()));
        known.map(|(name, value)| Ok((name.clone(), serde_json::from_str(value.get())?))).collect()
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        fn texts(members: &Members) -> impl Iterator<Item = (&str, &str)> {
            members.0.iter().map(|(name, value)| (name.as_str(), value.get()))
        }
        texts(self).eq(texts(other))
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
        let mut places = HashMap::new();
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            match places.get(&name) {
                Some(&at) => members[at] = (name, value),
                None => {
                    places.insert(name.clone(), members.len());
                    members.push((name, value));
                }
            }
        }
        Ok(Members(members))
    }
}

/// The `data` of a command that was not answered: as it was written, but that a large value is its size in bytes.
pub(super) struct UnansweredData<'a> {
    pub data: &'a RawValue,
    pub operation: &'a Operation,
}

impl Serialize for UnansweredData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let large = self.data.get().len() > LONGEST_ECHOED_VALUE;
        let Some(members) = Some(self.data).filter(|_| large).and_then(Members::of) else {
            return self.data.serialize(serializer);
        };
        let mut map = serializer.serialize_map(Some(members.0.len()))?;
        for (name, value) in &members.0 {
            match name.as_str() {
                "value" => map.serialize_entry(name, &self.shortened(value, self.operation.path()))?,
                "args" => map.serialize_entry(name, &shortened(value, self.arguments_length()))?,
                "content" => map.serialize_entry(name, &Content { items: value, data: self })?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

impl UnansweredData<'_> {
    fn shortened<'v>(&self, value: &'v RawValue, path: Path) -> Shortened<'v> {
        let assigned = self.values().iter().find(|assignment| assignment.path == path);
        shortened(value, assigned.map(|assignment| tlv::encode_value(&assignment.value).len()))
    }

    fn values(&self) -> &[Assignment] {
        match self.operation {
            Operation::Write { values, .. } | Operation::Create { values, .. } => values,
            Operation::Read { .. }
            | Operation::Discover { .. }
            | Operation::WriteAttributes { .. }
            | Operation::Execute { .. }
            | Operation::Delete { .. }
            | Operation::Observe { .. }
            | Operation::CancelObserve { .. } => &[],
        }
    }

    fn arguments_length(&self) -> Option<usize> {
        match self.operation {
            Operation::Execute { arguments, .. } => Some(arguments.len()),
            Operation::Read { .. }
            | Operation::Discover { .. }
            | Operation::Write { .. }
            | Operation::WriteAttributes { .. }
            | Operation::Create { .. }
            | Operation::Delete { .. }
            | Operation::Observe { .. }
            | Operation::CancelObserve { .. } => None,
        }
    }
}

/// A value, or its size.
enum Shortened<'a> {
    AsWritten(&'a RawValue),
    Bytes(usize),
}

/// `length` is that of the value; that of its text stands in where the command has no such value.
fn shortened(value: &RawValue, length: Option<usize>) -> Shortened<'_> {
    if value.get().len() <= LONGEST_ECHOED_VALUE {
        return Shortened::AsWritten(value);
    }
    Shortened::Bytes(length.unwrap_or(value.get().len()))
}

impl Serialize for Shortened<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AsWritten(value) => value.serialize(serializer),
            Self::Bytes(length) => serializer.collect_map([("bytes", length)]),
        }
    }
}

/// The items of `content`.
struct Content<'a> {
    items: &'a RawValue,
    data: &'a UnansweredData<'a>,
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ok(items) = serde_json::from_str::<Vec<Box<RawValue>>>(self.items.get()) else {
            return self.items.serialize(serializer);
        };
        let mut list = serializer.serialize_seq(Some(items.len()))?;
        for item in &items {
            match Members::of(item) {
                Some(members) => list.serialize_element(&ContentItem { members, data: self.data })?,
                None => list.serialize_element(item)?,
            }
        }
        list.end()
    }
}

struct ContentItem<'a> {
    members: Members,
    data: &'a UnansweredData<'a>,
}

impl ContentItem<'_> {
    fn path(&self) -> Path {
        let base = self.data.operation.path();
        let written = self.members.get("path").and_then(|path| serde_json::from_str(path.get()).ok());
        let relative = relative_path(written.as_ref()).unwrap_or(Path::ROOT);
        relative.segments().iter().try_fold(base, |path, id| path.child(*id)).unwrap_or(base)
    }
}

impl Serialize for ContentItem<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.path();
        let mut map = serializer.serialize_map(Some(self.members.0.len()))?;
        for (name, value) in &self.members.0 {
            match name.as_str() {
                "value" => map.serialize_entry(name, &self.data.shortened(value, path))?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}
