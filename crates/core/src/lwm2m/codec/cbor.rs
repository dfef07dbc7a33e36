//! `application/cbor`: one resource as one item (LwM2M 1.1 section 7.4.5), and the items that all CBOR formats share
//! (RFC 8949).

use std::borrow::Cow;
use std::convert::Infallible;

use minicbor::data::{IanaTag, Tag, Type};
use minicbor::decode::Error;
use minicbor::{Decoder, Encoder, encode};

use crate::lwm2m::number::Number;
use crate::lwm2m::value::Value;

use super::scalar::Scalar;
use super::{DecodeError, Reading, date};

/// Limits the exponent of a decimal fraction before anything is computed. Doubles reach from 1e-324 to 1e308, for a
/// mantissa of 20 digits at most.
const MAX_EXPONENT: i128 = 400;
/// The number of bytes of an `i128`.
const EXACT_BYTES: usize = 16;

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(payload);
    let item = scalar(&mut decoder)?;
    end(&decoder)?;
    reading.push(reading.single()?, None, item)
}

/// Writes one value. A Time has tag 1, without which Leshan does not read it.
pub(super) fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    let tagged = match value {
        Value::Time(_) => encoder.tag(IanaTag::Timestamp),
        Value::String(_)
        | Value::Integer(_)
        | Value::UnsignedInteger(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Opaque(_)
        | Value::ObjectLink(_)
        | Value::CoreLink(_) => Ok(&mut encoder),
    };
    tagged.and_then(|encoder| write_item(value, encoder)).expect("a vector takes all that is written");
    bytes
}

/// Writes one value as an item without a tag.
pub(super) fn write_item(value: &Value, encoder: &mut Encoder<&mut Vec<u8>>) -> Result<(), encode::Error<Infallible>> {
    match value {
        Value::String(text) | Value::CoreLink(text) => encoder.str(text)?,
        Value::Integer(value) | Value::Time(value) => encoder.i64(*value)?,
        Value::UnsignedInteger(value) => encoder.u64(*value)?,
        Value::Float(value) => encoder.f64(*value)?,
        Value::Boolean(value) => encoder.bool(*value)?,
        Value::Opaque(bytes) => encoder.bytes(bytes)?,
        Value::ObjectLink(link) => encoder.str(&link.to_string())?,
    }
    .ok()
}

/// Returns an error if bytes are left behind the last item.
pub(super) fn end(decoder: &Decoder<'_>) -> Result<(), DecodeError> {
    match decoder.input().len() - decoder.position() {
        0 => Ok(()),
        left => Err(DecodeError::LeftOver(left)),
    }
}

/// Reads one item that is a value: no map, no null, and no array other than a decimal fraction.
pub(super) fn scalar<'b>(decoder: &mut Decoder<'b>) -> Result<Scalar<'b>, Error> {
    loop {
        match decoder.datatype()? {
            Type::Bool => return decoder.bool().map(Scalar::Boolean),
            Type::String | Type::StringIndef => return text(decoder).map(Scalar::Text),
            Type::Bytes | Type::BytesIndef => return bytes(decoder).map(Scalar::Bytes),
            Type::Tag => {
                // Any other tag, such as that of self-described CBOR, does not change the value.
                if let Some(tag) = NumberTag::of(decoder.tag()?) {
                    return tag.read(decoder);
                }
            }
            _ => return plain_number(decoder).map(Scalar::Number),
        }
    }
}

/// Reads a number in any form that a value may have.
pub(super) fn number(decoder: &mut Decoder<'_>) -> Result<Number, Error> {
    let at = decoder.position();
    match scalar(decoder)? {
        Scalar::Number(number) => Ok(number),
        Scalar::Date(seconds) => Ok(Number::Whole(seconds.into())),
        Scalar::Text(_) | Scalar::Boolean(_) | Scalar::Bytes(_) | Scalar::Link(_) => {
            Err(Error::message("the item is not a number").at(at))
        }
    }
}

/// Names the tags whose items are numbers (RFC 8949 section 3.4).
#[derive(Clone, Copy)]
enum NumberTag {
    Date,
    Timestamp,
    PositiveBignum,
    NegativeBignum,
    Decimal,
    /// Stands for a number that no resource has, such as a bigfloat or a rational.
    Other,
}

impl NumberTag {
    fn of(tag: Tag) -> Option<Self> {
        /// The tags of rational numbers, and of decimal fractions and bigfloats with exponents of any size.
        const OTHERS: [u64; 4] = [30, 264, 265, 268];
        let known = [
            (IanaTag::DateTime, Self::Date),
            (IanaTag::Timestamp, Self::Timestamp),
            (IanaTag::PosBignum, Self::PositiveBignum),
            (IanaTag::NegBignum, Self::NegativeBignum),
            (IanaTag::Decimal, Self::Decimal),
            (IanaTag::Bigfloat, Self::Other),
        ];
        let found = known.into_iter().find(|(iana, _)| Tag::from(*iana) == tag).map(|(_, kind)| kind);
        found.or_else(|| OTHERS.contains(&tag.as_u64()).then_some(Self::Other))
    }

    /// Reads the item behind the tag.
    fn read<'b>(self, decoder: &mut Decoder<'b>) -> Result<Scalar<'b>, Error> {
        let at = decoder.position();
        let number = match self {
            Self::Date => {
                let seconds = date::parse(&text(decoder)?);
                return seconds.map(Scalar::Date).ok_or_else(|| Error::message("the text is not a date").at(at));
            }
            Self::Timestamp => timestamp(decoder)?,
            Self::PositiveBignum => bignum(&bytes(decoder)?, false),
            Self::NegativeBignum => bignum(&bytes(decoder)?, true),
            Self::Decimal => decimal(decoder)?,
            Self::Other => return Err(Error::message("the tag is that of a number which no resource has").at(at)),
        };
        Ok(Scalar::Number(number))
    }
}

/// Reads the number of a time, which may be a decimal fraction.
fn timestamp(decoder: &mut Decoder<'_>) -> Result<Number, Error> {
    let at = decoder.position();
    if decoder.datatype()? != Type::Tag {
        return plain_number(decoder);
    }
    match NumberTag::of(decoder.tag()?) {
        Some(NumberTag::Decimal) => decimal(decoder),
        Some(_) | None => Err(Error::message("a time is a number").at(at)),
    }
}

fn plain_number(decoder: &mut Decoder<'_>) -> Result<Number, Error> {
    let at = decoder.position();
    match decoder.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            Ok(Number::Whole(i128::from(decoder.int()?)))
        }
        Type::F16 | Type::F32 | Type::F64 => Ok(Number::Double(decoder.f64()?)),
        other => Err(Error::type_mismatch(other).at(at)),
    }
}

/// Reads `[exponent, mantissa]` behind its tag.
fn decimal(decoder: &mut Decoder<'_>) -> Result<Number, Error> {
    let at = decoder.position();
    let wrong = |why| Error::message(why).at(at);
    let mut left = decoder.array()?;
    let mut part = |decoder: &mut Decoder<'_>| {
        let there = goes_on(decoder, &mut left)?;
        if there { Ok(i128::from(decoder.int()?)) } else { Err(wrong("a decimal fraction has two parts")) }
    };
    let (exponent, mantissa) = (part(decoder)?, part(decoder)?);
    if goes_on(decoder, &mut left)? {
        return Err(wrong("a decimal fraction has two parts"));
    }
    let exponent = i32::try_from(exponent).ok().filter(|exponent| i128::from(exponent.unsigned_abs()) <= MAX_EXPONENT);
    let exponent = exponent.ok_or_else(|| wrong("the exponent is out of range"))?;
    Number::decimal(mantissa, exponent).ok_or_else(|| wrong("the number is too large"))
}

/// Returns the whole number that these bytes represent, or -1 minus it.
fn bignum(bytes: &[u8], negative: bool) -> Number {
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = &bytes[leading..];
    let (first, rest) = digits.split_at(digits.len().min(EXACT_BYTES));
    let magnitude = first.iter().fold(0_u128, |value, byte| (value << 8) | u128::from(*byte));
    if rest.is_empty()
        && let Ok(magnitude) = i128::try_from(magnitude)
    {
        return Number::Whole(if negative { -1 - magnitude } else { magnitude });
    }
    // Rounding looks at the highest bits and at whether there is anything behind them.
    let sticky = u128::from(rest.iter().any(|byte| *byte != 0));
    let scale = i32::try_from(rest.len()).map_or(f64::INFINITY, |bytes| 256_f64.powi(bytes));
    let nearest = (magnitude | sticky) as f64 * scale;
    Number::Huge(if negative { -nearest } else { nearest })
}

pub(super) fn text<'b>(decoder: &mut Decoder<'b>) -> Result<Cow<'b, str>, Error> {
    match decoder.datatype()? {
        Type::StringIndef => decoder.str_iter()?.collect::<Result<String, Error>>().map(Cow::Owned),
        _ => decoder.str().map(Cow::Borrowed),
    }
}

pub(super) fn bytes<'b>(decoder: &mut Decoder<'b>) -> Result<Cow<'b, [u8]>, Error> {
    match decoder.datatype()? {
        Type::BytesIndef => {
            let mut bytes = Vec::new();
            for part in decoder.bytes_iter()? {
                bytes.extend_from_slice(part?);
            }
            Ok(Cow::Owned(bytes))
        }
        _ => decoder.bytes().map(Cow::Borrowed),
    }
}

/// Skips one item, whatever it is, without recursion.
pub(super) fn skip(decoder: &mut Decoder<'_>) -> Result<(), Error> {
    let at = decoder.position();
    match decoder.datatype()? {
        Type::Break => Err(Error::message("an item is missing").at(at)),
        _ => decoder.skip(),
    }
}

/// Returns whether an array or a map continues. `left` counts its remaining items, or is `None` for one of indefinite
/// length.
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
