//! SenML CBOR (RFC 8428 section 6, LwM2M 1.1 section 7.4.4): records are maps with numbers for labels.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, decode, encode};

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{ResourceType, Value, ValueError};

use super::senml::{self, Base, Record, RecordError};
use super::{DecodeError, Reading, cbor};

/// RFC 8428 section 6, table 4.
mod label {
    pub const BASE_SUM: i64 = -6;
    pub const BASE_VALUE: i64 = -5;
    pub const BASE_TIME: i64 = -3;
    pub const BASE_NAME: i64 = -2;
    pub const BASE_VERSION: i64 = -1;
    pub const NAME: i64 = 0;
    pub const VALUE: i64 = 2;
    pub const TEXT: i64 = 3;
    pub const BOOLEAN: i64 = 4;
    pub const TIME: i64 = 6;
    pub const DATA: i64 = 8;
    /// LwM2M 1.1 section 7.4.4: the one label that is a text.
    pub const LINK: &str = "vlo";
}

/// A link is not read before its record is complete.
enum Item {
    Value(Value),
    Link(String),
}

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(payload);
    let mut base = Base::default();
    let mut left = decoder.array()?;
    while cbor::goes_on(&mut decoder, &mut left)? {
        let record = record(&mut decoder)?;
        if let Some((path, time, item)) = base.resolve(record, reading)? {
            reading.push_value(path, time, |expected| item.read(expected))?;
        }
    }
    cbor::end(&decoder)
}

pub(super) fn write(target: Path, values: &[Assignment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let records = senml::records(target, values);
    write_records(&records, &mut Encoder::new(&mut bytes)).expect("a vector takes all that is written");
    bytes
}

impl Item {
    fn read(self, expected: Option<ResourceType>) -> Result<Value, ValueError> {
        match self {
            Self::Value(value) => cbor::typed(value, expected),
            Self::Link(link) => link.parse().map(Value::ObjectLink),
        }
    }
}

fn record(decoder: &mut Decoder<'_>) -> Result<Record<Item>, DecodeError> {
    let mut record = Record::default();
    let mut left = decoder.map()?;
    while cbor::goes_on(decoder, &mut left)? {
        match decoder.datatype()? {
            Type::String | Type::StringIndef => named(decoder, &mut record)?,
            _ => numbered(decoder, &mut record)?,
        }
    }
    Ok(record)
}

fn named(decoder: &mut Decoder<'_>, record: &mut Record<Item>) -> Result<(), DecodeError> {
    let name = cbor::text(decoder)?;
    if name == label::LINK {
        let link = cbor::text(decoder)?;
        return Ok(record.set_value(Item::Link(link))?);
    }
    // RFC 8428 section 4.4: who does not know such a label must not read the record.
    if name.ends_with('_') {
        return Err(decode::Error::message("a label that must be known is not").into());
    }
    Ok(decoder.skip()?)
}

fn numbered(decoder: &mut Decoder<'_>, record: &mut Record<Item>) -> Result<(), DecodeError> {
    let label = decoder.i64()?;
    let former = match label {
        label::BASE_NAME => record.base_name.replace(cbor::text(decoder)?).is_some(),
        label::BASE_TIME => record.base_time.replace(time(decoder)?).is_some(),
        label::BASE_VERSION => record.base_version.replace(decoder.u64()?).is_some(),
        label::NAME => record.name.replace(cbor::text(decoder)?).is_some(),
        label::TIME => record.time.replace(time(decoder)?).is_some(),
        label::VALUE => return Ok(record.set_value(Item::Value(cbor::number(decoder)?))?),
        label::TEXT => return Ok(record.set_value(Item::Value(Value::String(cbor::text(decoder)?)))?),
        label::BOOLEAN => return Ok(record.set_value(Item::Value(Value::Boolean(decoder.bool()?)))?),
        label::DATA => return Ok(record.set_value(Item::Value(Value::Opaque(cbor::bytes(decoder)?)))?),
        label::BASE_VALUE | label::BASE_SUM => return Err(RecordError::BaseValue.into()),
        _ => {
            decoder.skip()?;
            false
        }
    };
    if former { Err(decode::Error::message("a label stands twice in a record").into()) } else { Ok(()) }
}

/// NaN and infinities are refused later, as no times.
fn time(decoder: &mut Decoder<'_>) -> Result<f64, decode::Error> {
    match decoder.datatype()? {
        Type::F16 | Type::F32 | Type::F64 => decoder.f64(),
        Type::Tag => Ok(cbor::number(decoder)?.as_f64().unwrap_or(f64::NAN)),
        _ => Ok(i128::from(decoder.int()?) as f64),
    }
}

fn write_records(
    records: &[Record<&Value>],
    encoder: &mut Encoder<&mut Vec<u8>>,
) -> Result<(), encode::Error<Infallible>> {
    encoder.array(records.len() as u64)?;
    for record in records {
        let count = [record.base_name.is_some(), record.name.is_some(), record.value.is_some()];
        encoder.map(count.into_iter().filter(|present| *present).count() as u64)?;
        if let Some(name) = &record.base_name {
            encoder.i64(label::BASE_NAME)?.str(name)?;
        }
        if let Some(name) = &record.name {
            encoder.i64(label::NAME)?.str(name)?;
        }
        if let Some(value) = record.value {
            write_value(value, encoder)?;
        }
    }
    Ok(())
}

fn write_value(value: &Value, encoder: &mut Encoder<&mut Vec<u8>>) -> Result<(), encode::Error<Infallible>> {
    match value {
        Value::String(text) | Value::CoreLink(text) => encoder.i64(label::TEXT)?.str(text)?,
        Value::Integer(value) | Value::Time(value) => encoder.i64(label::VALUE)?.i64(*value)?,
        Value::UnsignedInteger(value) => encoder.i64(label::VALUE)?.u64(*value)?,
        Value::Float(value) => encoder.i64(label::VALUE)?.f64(*value)?,
        Value::Boolean(value) => encoder.i64(label::BOOLEAN)?.bool(*value)?,
        Value::Opaque(bytes) => encoder.i64(label::DATA)?.bytes(bytes)?,
        Value::ObjectLink(link) => encoder.str(label::LINK)?.str(&link.to_string())?,
    }
    .ok()
}
