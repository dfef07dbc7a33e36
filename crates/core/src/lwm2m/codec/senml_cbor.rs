//! SenML CBOR (RFC 8428 section 6, LwM2M 1.1 section 7.4.4): records are maps with numbers for labels.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, encode};

use crate::lwm2m::value::Value;

use super::scalar::Scalar;
use super::senml::{Label, Record, RecordContent, Records, WrittenRecord};
use super::{DecodeError, Reading, cbor};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(payload);
    let mut records = Records::new(reading);
    let mut left = decoder.array()?;
    while cbor::goes_on(&mut decoder, &mut left)? {
        records.add(record(&mut decoder)?)?;
    }
    cbor::end(&decoder)
}

fn record<'b>(decoder: &mut Decoder<'b>) -> Result<Record<'b>, DecodeError> {
    let mut record = Record::default();
    let mut left = decoder.map()?;
    while cbor::goes_on(decoder, &mut left)? {
        match label(decoder, &mut record)? {
            Some(label) => {
                record.see(label)?;
                match label {
                    Label::BaseUnit | Label::Unit | Label::UpdateTime | Label::BaseSum | Label::Sum => {
                        cbor::skip(decoder)?;
                    }
                    Label::BaseTime | Label::Time | Label::BaseValue | Label::BaseVersion => {
                        record.set(label, Scalar::Number(cbor::number(decoder)?))?;
                    }
                    Label::BaseName
                    | Label::Name
                    | Label::Value
                    | Label::Text
                    | Label::Boolean
                    | Label::Data
                    | Label::Link => record.set(label, cbor::scalar(decoder)?)?,
                }
            }
            None => cbor::skip(decoder)?,
        }
    }
    Ok(record)
}

/// Reads a label, and notes an unknown one.
fn label(decoder: &mut Decoder<'_>, record: &mut Record<'_>) -> Result<Option<Label>, DecodeError> {
    if matches!(decoder.datatype()?, Type::String | Type::StringIndef) {
        let text = cbor::text(decoder)?;
        // In CBOR the other labels are numbers; such a text is unknown.
        let label = Label::of_text(&text).filter(|label| label.number().is_none());
        if label.is_none() {
            record.see_other(&text)?;
        }
        return Ok(label);
    }
    let number = i128::from(decoder.int()?);
    let label = i64::try_from(number).ok().and_then(Label::of_number);
    if label.is_none() {
        record.see_other(&format!("label {number}"))?;
    }
    Ok(label)
}

/// Writes the array of these records.
pub(super) fn write<'a>(records: impl ExactSizeIterator<Item = WrittenRecord<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_records(records, &mut Encoder::new(&mut bytes)).expect("a vector takes all that is written");
    bytes
}

fn write_records<'a>(
    records: impl ExactSizeIterator<Item = WrittenRecord<'a>>,
    encoder: &mut Encoder<&mut Vec<u8>>,
) -> Result<(), encode::Error<Infallible>> {
    encoder.array(records.len() as u64)?;
    for WrittenRecord { base_name, name, content } in records {
        let fields = [base_name.is_some(), name.is_some(), !matches!(content, RecordContent::Path)];
        encoder.map(fields.into_iter().filter(|present| *present).count() as u64)?;
        if let Some(name) = &base_name {
            write_label(Label::BaseName, encoder)?;
            encoder.str(name)?;
        }
        if let Some(name) = &name {
            write_label(Label::Name, encoder)?;
            encoder.str(name)?;
        }
        match content {
            RecordContent::Value(value) => {
                write_label(label_of(value), encoder)?;
                cbor::write_item(value, encoder)?;
            }
            RecordContent::Removal => {
                write_label(Label::Value, encoder)?;
                encoder.null()?;
            }
            RecordContent::Path => {}
        }
    }
    Ok(())
}

/// Returns the label under which a value is written.
pub(super) fn label_of(value: &Value) -> Label {
    match value {
        Value::String(_) | Value::CoreLink(_) => Label::Text,
        Value::Integer(_) | Value::UnsignedInteger(_) | Value::Float(_) | Value::Time(_) => Label::Value,
        Value::Boolean(_) => Label::Boolean,
        Value::Opaque(_) => Label::Data,
        Value::ObjectLink(_) => Label::Link,
    }
}

fn write_label(label: Label, encoder: &mut Encoder<&mut Vec<u8>>) -> Result<(), encode::Error<Infallible>> {
    match label.number() {
        Some(number) => encoder.i64(number)?,
        None => encoder.str(label.text())?,
    }
    .ok()
}
