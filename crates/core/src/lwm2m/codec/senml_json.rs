//! SenML JSON (RFC 8428 section 5, LwM2M 1.1 section 7.4.4): `[{"bn":"/3/0/","n":"9","v":81}]`.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::lwm2m::number::Number;
use crate::lwm2m::value::{Value, from_base64};

use super::scalar::Scalar;
use super::senml::{Label, Record, RecordContent, Records, WrittenRecord};
use super::senml_cbor::label_of;
use super::{DecodeError, Reading};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut error = None;
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let document = SenmlDocument { records: Records::new(reading), error: &mut error };
    let read = document.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (error, read) {
        (Some(error), _) => Err(error),
        (None, read) => Ok(read?),
    }
}

/// Adds each record as soon as it is read.
struct SenmlDocument<'d, 'r, 'a> {
    records: Records<'r, 'a>,
    /// Keeps why a record could not be added.
    error: &'d mut Option<DecodeError>,
}

impl<'de> DeserializeSeed<'de> for SenmlDocument<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for SenmlDocument<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of SenML records")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(JsonRecord(record)) = list.next_element()? {
            if let Err(error) = self.records.add(record) {
                let reason = de::Error::custom(&error);
                *self.error = Some(error);
                return Err(reason);
            }
        }
        Ok(())
    }
}

struct JsonRecord<'de>(Record<'de>);

impl<'de> Deserialize<'de> for JsonRecord<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor).map(Self)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Record<'de>, A::Error> {
        let mut record = Record::default();
        while let Some(key) = members.next_key::<RecordKey>()? {
            match key {
                RecordKey::Known(label) => {
                    record.see(label).map_err(de::Error::custom)?;
                    if let Some(value) = scalar(label, &mut members)? {
                        record.set(label, value).map_err(de::Error::custom)?;
                    }
                }
                RecordKey::Other(label) => {
                    record.see_other(&label).map_err(de::Error::custom)?;
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(record)
    }
}

/// Reads the value of a label; `None` for one that is ignored.
fn scalar<'de, A: MapAccess<'de>>(label: Label, members: &mut A) -> Result<Option<Scalar<'de>>, A::Error> {
    Ok(Some(match label {
        Label::BaseName | Label::Name | Label::Text | Label::Link => Scalar::Text(Cow::Owned(members.next_value()?)),
        Label::BaseTime | Label::Time | Label::BaseValue | Label::BaseVersion | Label::Value => {
            let written = members.next_value::<&RawValue>()?.get();
            let number = Some(written).filter(|text| !text.starts_with('"')).and_then(Number::parse);
            let wrong = || de::Error::custom(format!("the value of {:?} is not a readable number", label.text()));
            Scalar::Number(number.ok_or_else(wrong)?)
        }
        Label::Boolean => Scalar::Boolean(members.next_value()?),
        // RFC 8428 section 5 has the alphabet for URLs without padding. Devices use the other one, too.
        Label::Data => {
            let text: String = members.next_value()?;
            Scalar::Bytes(Cow::Owned(from_base64(&text).map_err(de::Error::custom)?))
        }
        Label::BaseUnit | Label::Unit | Label::UpdateTime | Label::BaseSum | Label::Sum => {
            members.next_value::<IgnoredAny>()?;
            return Ok(None);
        }
    }))
}

enum RecordKey {
    Known(Label),
    Other(String),
}

impl<'de> Deserialize<'de> for RecordKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = RecordKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RecordKey, E> {
        Ok(Label::of_text(text).map_or_else(|| RecordKey::Other(text.to_owned()), RecordKey::Known))
    }
}

/// Writes the list of these records.
pub(super) fn write<'a>(records: impl ExactSizeIterator<Item = WrittenRecord<'a>>) -> Vec<u8> {
    let records: Vec<_> = records.collect();
    serde_json::to_vec(&records).expect("texts and finite numbers are JSON")
}

impl Serialize for WrittenRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(name) = &self.base_name {
            map.serialize_entry(Label::BaseName.text(), name)?;
        }
        if let Some(name) = &self.name {
            map.serialize_entry(Label::Name.text(), name)?;
        }
        match self.content {
            RecordContent::Value(value) => serialize_value(value, &mut map)?,
            RecordContent::Removal => map.serialize_entry(Label::Value.text(), &())?,
            RecordContent::Path => {}
        }
        map.end()
    }
}

fn serialize_value<M: SerializeMap>(value: &Value, map: &mut M) -> Result<(), M::Error> {
    let label = label_of(value).text();
    match value {
        Value::String(text) | Value::CoreLink(text) => map.serialize_entry(label, text),
        Value::Integer(value) | Value::Time(value) => map.serialize_entry(label, value),
        Value::UnsignedInteger(value) => map.serialize_entry(label, value),
        Value::Float(value) => map.serialize_entry(label, value),
        Value::Boolean(value) => map.serialize_entry(label, value),
        Value::Opaque(bytes) => map.serialize_entry(label, &URL_SAFE_NO_PAD.encode(bytes)),
        Value::ObjectLink(link) => map.serialize_entry(label, &link.to_string()),
    }
}
