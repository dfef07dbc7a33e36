//! SenML JSON (RFC 8428 section 5, LwM2M 1.1 section 7.4.4): `[{"bn":"/3/0/","n":"9","v":81}]`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Number};

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{Value, ValueError, from_base64};

use super::senml::{self, Base, Record, RecordError};
use super::{DecodeError, Reading, json};

/// A value by the label that it has.
enum Labelled {
    Number(Number),
    Text(String),
    Boolean(bool),
    Data(String),
    Link(String),
}

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let records: Vec<JsonRecord> = serde_json::from_slice(payload)?;
    let mut base = Base::default();
    for JsonRecord(record) in records {
        if let Some((path, time, value)) = base.resolve(record, reading)? {
            reading.push_value(path, time, |_| value.read())?;
        }
    }
    Ok(())
}

pub(super) fn write(target: Path, values: &[Assignment]) -> Vec<u8> {
    let records: Vec<_> = senml::records(target, values).into_iter().map(members).collect();
    serde_json::to_vec(&records).expect("texts and finite numbers are JSON")
}

fn members(record: Record<&Value>) -> Map<String, serde_json::Value> {
    let mut members = Map::new();
    let mut put = |label: &str, value: serde_json::Value| members.insert(label.to_owned(), value);
    record.base_name.map(|name| put("bn", name.into()));
    record.name.map(|name| put("n", name.into()));
    match record.value {
        Some(Value::String(text) | Value::CoreLink(text)) => put("vs", text.as_str().into()),
        Some(Value::Integer(value) | Value::Time(value)) => put("v", (*value).into()),
        Some(Value::UnsignedInteger(value)) => put("v", (*value).into()),
        Some(Value::Float(value)) => put("v", (*value).into()),
        Some(Value::Boolean(value)) => put("vb", (*value).into()),
        Some(Value::Opaque(bytes)) => put("vd", URL_SAFE_NO_PAD.encode(bytes).into()),
        Some(Value::ObjectLink(link)) => put("vlo", link.to_string().into()),
        None => None,
    };
    members
}

impl Labelled {
    fn read(self) -> Result<Value, ValueError> {
        match self {
            Self::Number(number) => json::number_value(&number),
            Self::Text(text) => Ok(Value::String(text)),
            Self::Boolean(value) => Ok(Value::Boolean(value)),
            Self::Link(link) => link.parse().map(Value::ObjectLink),
            // RFC 8428 section 5: the alphabet for URLs, no padding. Devices use the other one, too.
            Self::Data(text) => from_base64(&text).map(Value::Opaque),
        }
    }
}

struct JsonRecord(Record<Labelled>);

impl<'de> Deserialize<'de> for JsonRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor).map(Self)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record<Labelled>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut record = Record::default();
        while let Some(label) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            let value = match &*label {
                "bn" => return_none(record.base_name.replace(members.next_value()?), "bn")?,
                "bt" => return_none(record.base_time.replace(members.next_value()?), "bt")?,
                "bver" => return_none(record.base_version.replace(members.next_value()?), "bver")?,
                "n" => return_none(record.name.replace(members.next_value()?), "n")?,
                "t" => return_none(record.time.replace(members.next_value()?), "t")?,
                "v" => Some(Labelled::Number(members.next_value()?)),
                "vs" => Some(Labelled::Text(members.next_value()?)),
                "vb" => Some(Labelled::Boolean(members.next_value()?)),
                "vd" => Some(Labelled::Data(members.next_value()?)),
                "vlo" => Some(Labelled::Link(members.next_value()?)),
                "bv" | "bs" => return Err(de::Error::custom(RecordError::BaseValue)),
                // RFC 8428 section 4.4: who does not know such a label must not read the record.
                must if must.ends_with('_') => {
                    return Err(de::Error::custom(format!("the label {must:?} is not known")));
                }
                _ => members.next_value::<IgnoredAny>().map(|_| None)?,
            };
            if let Some(value) = value {
                record.set_value(value).map_err(de::Error::custom)?;
            }
        }
        Ok(record)
    }
}

/// A label stands in a record once.
fn return_none<T, E: de::Error>(former: Option<T>, label: &'static str) -> Result<Option<Labelled>, E> {
    if former.is_some() { Err(E::duplicate_field(label)) } else { Ok(None) }
}
