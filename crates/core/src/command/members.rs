//! Keeps the members of a JSON object as they were written.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::ser::{self, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Up to so many members are compared with each other; the names of more are hashed.
const FEW_MEMBERS: usize = 16;

/// Holds the members of an object in their order, with their values as written. The later of two members with one name
/// wins. They are one text, because every observation keeps those of its command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Has each name, without quotation marks and escapes, and its value behind it.
    text: Box<str>,
    lengths: Box<[MemberLengths]>,
}

/// Holds the bytes of one member in the text of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MemberLengths {
    name: u32,
    value: u32,
}

/// Holds a JSON value as it was written. It is serialized like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenValue<'a>(&'a str);

/// Holds the members of a command that have a meaning for this program, parsed.
#[derive(Debug, Default)]
pub(crate) struct KnownMembers {
    pub msg_type: Option<Value>,
    pub data: Option<Value>,
    pub mheaders: Option<Value>,
    pub encoding: Option<Value>,
}

impl Members {
    /// Returns the members of a value; `None` if it is no object.
    pub(crate) fn of(object: WrittenValue<'_>) -> Option<Self> {
        serde_json::from_str(object.0).ok()
    }

    /// Adds a member, in place of one with this name.
    pub(super) fn with(&self, name: &str, value: &RawValue) -> Self {
        let others = self.iter().filter(|(own, _)| *own != name);
        let members: Vec<_> = others.map(|(name, value)| (name, value.0)).chain([(name, value.get())]).collect();
        Self::joined(&members).expect("a command that was read, and a short text, are not too long")
    }

    pub(crate) fn get(&self, name: &str) -> Option<WrittenValue<'_>> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, WrittenValue<'_>)> {
        let mut rest = &*self.text;
        self.lengths.iter().map(move |lengths| {
            let (name, behind) = rest.split_at(lengths.name as usize);
            let (value, behind) = behind.split_at(lengths.value as usize);
            rest = behind;
            (name, WrittenValue(value))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Parses the members that have a meaning for this program.
    pub(super) fn known(&self) -> serde_json::Result<KnownMembers> {
        let mut known = KnownMembers::default();
        for (name, value) in self.iter() {
            let member = match name {
                "msgType" => &mut known.msg_type,
                "data" => &mut known.data,
                "mheaders" => &mut known.mheaders,
                "encoding" => &mut known.encoding,
                _ => continue,
            };
            *member = Some(serde_json::from_str(value.0)?);
        }
        Ok(known)
    }

    /// Makes one text of all members; `None` if one of them has more than four gigabytes.
    fn joined(members: &[(impl AsRef<str>, &str)]) -> Option<Self> {
        let length = members.iter().map(|(name, value)| name.as_ref().len() + value.len()).sum();
        let mut text = String::with_capacity(length);
        let mut lengths = Vec::with_capacity(members.len());
        for (name, value) in members {
            let name = name.as_ref();
            text.push_str(name);
            text.push_str(value);
            lengths.push(MemberLengths { name: name.len().try_into().ok()?, value: value.len().try_into().ok()? });
        }
        Some(Self { text: text.into_boxed_str(), lengths: lengths.into_boxed_slice() })
    }
}

impl<'a> WrittenValue<'a> {
    pub(crate) fn of(value: &'a RawValue) -> Self {
        Self(value.get())
    }

    /// Returns the text of the value.
    pub(crate) fn get(self) -> &'a str {
        self.0
    }
}

impl Serialize for WrittenValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(self.0).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
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
        let mut few: Vec<(Cow<'de, str>, &'de str)> = Vec::with_capacity(FEW_MEMBERS / 4);
        while let Some((MemberName(name), value)) = map.next_entry::<_, &RawValue>()? {
            match few.iter_mut().find(|(own, _)| *own == name) {
                Some((_, earlier)) => *earlier = value.get(),
                None => few.push((name, value.get())),
            }
            if few.len() > FEW_MEMBERS {
                few = many_members(few, &mut map)?;
            }
        }
        Members::joined(&few).ok_or_else(|| A::Error::custom("a member is too long"))
    }
}

/// Borrows a name that has no escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads the rest of an object with many members. Comparing all of their names would take time that grows with the
/// square of their number.
fn many_members<'de, A: MapAccess<'de>>(
    few: Vec<(Cow<'de, str>, &'de str)>,
    map: &mut A,
) -> Result<Vec<(Cow<'de, str>, &'de str)>, A::Error> {
    let mut members: IndexMap<_, _> = few.into_iter().collect();
    while let Some((MemberName(name), value)) = map.next_entry::<_, &RawValue>()? {
        members.insert(name, value.get());
    }
    Ok(members.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_they_were_read_whatever_their_names_contain() {
        for text in [r#"{}"#, r#"{"a":1}"#, r#"{"":null,"a\"b":[1.50,{"x":2}],"é":"é\n","1e400":1e400}"#] {
            let members: Members = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&members).unwrap(), text);
        }
        assert!(serde_json::from_str::<Members>("[]").is_err());
    }
}
