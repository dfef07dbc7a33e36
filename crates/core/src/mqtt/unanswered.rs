//! Writes the `data` of a command that was not answered, with large values replaced by their size.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use crate::command::{Members, WrittenValue};
use crate::lwm2m::codec::tlv;
use crate::lwm2m::operation::{Operation, OperationKind};
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

use super::downlink::below_base;

/// Limits the text of a repeated value. A longer one, such as a firmware image, is replaced by its size.
const LONGEST_ECHOED_VALUE: usize = 1024;

/// Serializes the `data` of a command as it was written, with large values replaced by their size in bytes.
pub(super) struct UnansweredData<'a> {
    pub data: WrittenValue<'a>,
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
                "value" => map.serialize_entry(name, &self.shortened(value, self.operation.path))?,
                "args" => map.serialize_entry(name, &shortened(value, self.arguments_length()))?,
                "content" => map.serialize_entry(name, &ContentItems { items: value, data: self })?,
                _ => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}

impl UnansweredData<'_> {
    fn shortened<'v>(&self, value: WrittenValue<'v>, path: Path) -> Shortened<'v> {
        shortened(value, self.value_at(path).map(|value| tlv::encode_value(value).len()))
    }

    fn value_at(&self, path: Path) -> Option<&Value> {
        match &self.operation.kind {
            OperationKind::Write { values, .. } | OperationKind::Create { values, .. } => {
                values.iter().find(|assignment| assignment.path == path).map(|assignment| &assignment.value)
            }
            OperationKind::WriteComposite { patches } => {
                patches.iter().find(|patch| patch.path == path).and_then(|patch| patch.value.as_ref())
            }
            OperationKind::Read
            | OperationKind::Discover
            | OperationKind::WriteAttributes
            | OperationKind::Execute { .. }
            | OperationKind::TriggerBootstrap
            | OperationKind::Delete
            | OperationKind::Observe
            | OperationKind::CancelObserve
            | OperationKind::ReadComposite { .. }
            | OperationKind::ObserveComposite { .. }
            | OperationKind::CancelObserveComposite { .. } => None,
        }
    }

    fn arguments_length(&self) -> Option<usize> {
        match &self.operation.kind {
            OperationKind::Execute { arguments } => Some(arguments.len()),
            OperationKind::TriggerBootstrap => Some(0),
            OperationKind::Read
            | OperationKind::Discover
            | OperationKind::Write { .. }
            | OperationKind::WriteAttributes
            | OperationKind::Create { .. }
            | OperationKind::Delete
            | OperationKind::Observe
            | OperationKind::CancelObserve
            | OperationKind::ReadComposite { .. }
            | OperationKind::WriteComposite { .. }
            | OperationKind::ObserveComposite { .. }
            | OperationKind::CancelObserveComposite { .. } => None,
        }
    }
}

/// Holds a value as it was written, or its size.
enum Shortened<'a> {
    AsWritten(WrittenValue<'a>),
    Bytes(usize),
}

/// Replaces a long value by its size. `length` is that of the value; the length of its text is used if the command has
/// no such value.
fn shortened(value: WrittenValue<'_>, length: Option<usize>) -> Shortened<'_> {
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

/// Serializes the items of `content`.
struct ContentItems<'a> {
    items: WrittenValue<'a>,
    data: &'a UnansweredData<'a>,
}

impl Serialize for ContentItems<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(self.items.get()) else {
            return self.items.serialize(serializer);
        };
        let mut list = serializer.serialize_seq(Some(items.len()))?;
        for item in items {
            match Members::of(WrittenValue::of(item)) {
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
        let base = self.data.operation.path;
        let written = self.members.get("path").and_then(|path| serde_json::from_str(path.get()).ok());
        let relative = below_base(written.as_ref()).unwrap_or(Path::ROOT);
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
                _ => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}
