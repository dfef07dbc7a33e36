//! `application/cbor`: one resource as one item (LwM2M 1.1 section 7.4.5), and what all CBOR formats share.

use minicbor::Decoder;
use minicbor::data::{IanaTag, Tag, Type};
use minicbor::decode::Error;

use crate::lwm2m::value::{ResourceType, Value, ValueError, without_blanks};

use super::{DecodeError, Reading};

/// An exponent beyond it makes no number of any mantissa.
const MAX_EXPONENT: i32 = 400;

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

/// A time may be a date, where the definition says that it is a time. (An object link has no type of its own in CBOR,
/// either: that is a matter of [`Value::conform`].)
pub(super) fn typed(item: Value, expected: Option<ResourceType>) -> Result<Value, ValueError> {
    match (item, expected) {
        (Value::String(text), Some(ResourceType::Time)) => match date(&text) {
            Some(seconds) => Ok(Value::Time(seconds)),
            None => Err(ValueError::Type { expected: ResourceType::Time, value: "the text".to_owned() }),
        },
        (item, _) => Ok(item),
    }
}

/// One item that is a value: no array but a decimal fraction, no map, no null.
pub(super) fn scalar(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
    match decoder.datatype()? {
        Type::Bool => decoder.bool().map(Value::Boolean),
        Type::String | Type::StringIndef => text(decoder).map(Value::String),
        Type::Bytes | Type::BytesIndef => bytes(decoder).map(Value::Opaque),
        _ => number(decoder),
    }
}

/// An integer of at most 64 bits, a float of any width or a decimal fraction; or a time, which is a number of seconds
/// (RFC 8949 section 3.4).
pub(super) fn number(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
    let at = decoder.position();
    match decoder.datatype()? {
        Type::Tag => tagged(decoder),
        _ => plain_number(decoder, at),
    }
}

fn tagged(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
    let at = decoder.position();
    let tag = decoder.tag()?;
    if tag == Tag::from(IanaTag::DateTime) {
        let seconds = date(&text(decoder)?).ok_or_else(|| Error::message("the text is no date").at(at))?;
        return Ok(Value::Time(seconds));
    }
    if tag == Tag::from(IanaTag::Decimal) {
        return decimal(decoder);
    }
    if tag != Tag::from(IanaTag::Timestamp) {
        return Err(Error::message("the tag is none of a time or a decimal fraction").at(at));
    }
    // A time with a fraction of a second may be a decimal fraction.
    let at = decoder.position();
    if decoder.datatype()? != Type::Tag {
        return plain_number(decoder, at);
    }
    if decoder.tag()? != Tag::from(IanaTag::Decimal) {
        return Err(Error::message("a time is a number").at(at));
    }
    decimal(decoder)
}

fn plain_number(decoder: &mut Decoder<'_>, at: usize) -> Result<Value, Error> {
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

/// `[exponent, mantissa]`, behind its tag: exact where it is a whole number, else the nearest double.
fn decimal(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
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
    // Before anything is computed: doubles reach from 1e-324 to 1e308, for a mantissa of 20 digits at most.
    let exponent = i32::try_from(exponent).ok().filter(|exponent| (-MAX_EXPONENT..=MAX_EXPONENT).contains(exponent));
    let exponent = exponent.ok_or_else(|| wrong("the exponent is out of range"))?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs());
    let exact = match power {
        Some(power) if exponent >= 0 => mantissa.checked_mul(power),
        Some(power) if mantissa % power == 0 => Some(mantissa / power),
        Some(_) | None => None,
    };
    if let Some(whole) = exact.and_then(Value::whole) {
        return Ok(whole);
    }
    let nearest = format!("{mantissa}e{exponent}").parse().map_err(|_| wrong("the number cannot be read"))?;
    Value::float(nearest).map_err(|_| wrong("the number is too large"))
}

/// Seconds since 1970 of a date as RFC 3339 has it, in any offset from UTC; `None` for a fraction of a second.
pub(super) fn date(text: &str) -> Option<i64> {
    let text = without_blanks(text);
    let (local, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (local, offset_seconds(offset)?)
        }
    };
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let since = local.duration_since(std::time::UNIX_EPOCH).ok().filter(|since| since.subsec_nanos() == 0)?;
    Some(i64::try_from(since.as_secs()).ok()? - offset)
}

/// `+02:00`, `-00:00`: how far local time is before UTC.
fn offset_seconds(text: &str) -> Option<i64> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let number = |text: &str, most: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten().filter(|number| *number <= most)
    };
    let seconds = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
    match text.as_bytes().first() {
        Some(b'+') => Some(seconds),
        Some(b'-') => Some(-seconds),
        Some(_) | None => None,
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
