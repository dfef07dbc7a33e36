//! The `data` of a command in the answer that it was not answered: large values are told by their size.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use crate::command::Members;
use crate::lwm2m::codec::{Assignment, tlv};
use crate::lwm2m::operation::Operation;
use crate::lwm2m::path::Path;

use super::downlink::relative_path;

/// A value whose text is longer comes back as its size: nobody wants a firmware image back because it did not arrive.
const LONGEST_ECHOED_VALUE: usize = 1024;

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
        let mut map = serializer.serialize_map(Some(members.len()))?;
        for (name, value) in members.iter() {
            match name {
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
        let mut map = serializer.serialize_map(Some(self.members.len()))?;
        for (name, value) in self.members.iter() {
            match name {
                "value" => map.serialize_entry(name, &self.data.shortened(value, path))?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}
