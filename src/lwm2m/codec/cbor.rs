//! `application/cbor`: one resource as one item (LwM2M 1.1 section 7.4.5), and what all CBOR formats share.

use minicbor::Decoder;
use minicbor::data::{IanaTag, Tag, Type};
use minicbor::decode::Error;

use crate::lwm2m::value::{ResourceType, Value, ValueError};

use super::{DecodeError, Reading};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(payload);
    let item = scalar(&mut decoder)?;
    end(&decoder)?;
    reading.push_value(reading.request, None, |expected| typed(item, expected))
}

/// Nothing may stand behind the last item.
pub(super) fn end(decoder: &Decoder<'_>) -> Result<(), DecodeError> {
    match decoder.input().len() - decoder.position() {
        0 => Ok(()),
        left => Err(DecodeError::LeftOver(left)),
    }
}

/// An object link has no type of its own in CBOR: it is the text `object:instance`.
pub(super) fn typed(item: Value, expected: Option<ResourceType>) -> Result<Value, ValueError> {
    match (item, expected) {
        (Value::String(text), Some(ResourceType::ObjectLink)) => text.parse().map(Value::ObjectLink),
        (item, _) => Ok(item),
    }
}

/// One item that is a value: no array, no map, no null.
pub(super) fn scalar(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
    match decoder.datatype()? {
        Type::Tag if decoder.tag()? == Tag::from(IanaTag::Timestamp) => number(decoder),
        Type::Tag => Err(Error::message("only the tag of an epoch time can stand before a value")),
        Type::Bool => decoder.bool().map(Value::Boolean),
        Type::String | Type::StringIndef => text(decoder).map(Value::String),
        Type::Bytes | Type::BytesIndef => bytes(decoder).map(Value::Opaque),
        _ => number(decoder),
    }
}

/// An integer of at most 64 bits, or a float of any width.
pub(super) fn number(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
    let at = decoder.position();
    match decoder.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            let whole = i128::from(decoder.int()?);
            Value::whole(whole).ok_or_else(|| Error::message("the number has more than 64 bits").at(at))
        }
        Type::F16 | Type::F32 | Type::F64 => {
            Value::float(decoder.f64()?).map_err(|_| Error::message("NaN and infinities are no values").at(at))
        }
        other => Err(Error::type_mismatch(other).at(at)),
    }
}

pub(super) fn text(decoder: &mut Decoder<'_>) -> Result<String, Error> {
    decoder.str_iter()?.collect()
}

pub(super) fn bytes(decoder: &mut Decoder<'_>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for part in decoder.bytes_iter()? {
        bytes.extend_from_slice(part?);
    }
    Ok(bytes)
}

/// Whether an array or a map of this length, or of none that was said, goes on.
pub(super) fn goes_on(decoder: &mut Decoder<'_>, left: &mut Option<u64>) -> Result<bool, Error> {
    match left {
        Some(0) => Ok(false),
        Some(count) => {
            *count -= 1;
            Ok(true)
        }
        None if decoder.datatype()? == Type::Break => {
            decoder.set_position(decoder.position() + 1);
            Ok(false)
        }
        None => Ok(true),
    }
}
