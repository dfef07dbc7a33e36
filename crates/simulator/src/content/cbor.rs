//! The CBOR items that are values (RFC 8949), alone or inside SenML and LwM2M CBOR.

use minicbor::data::{IanaTag, Type};
use minicbor::{Decoder, Encoder};

use crate::value::{PayloadValue, SimulatedValue};

/// Writes into memory, which cannot fail.
pub(super) type CborWriter = Encoder<Vec<u8>>;

/// Encodes one value as a payload of its own.
pub(super) fn encode(value: &SimulatedValue) -> Vec<u8> {
    let mut writer = CborWriter::new(Vec::new());
    push(&mut writer, &value.typed());
    writer.into_writer()
}

/// Decodes a payload that is one value; `None` when it is anything else.
pub(super) fn decode(payload: &[u8]) -> Option<PayloadValue> {
    let mut decoder = Decoder::new(payload);
    let value = value(&mut decoder)?;
    at_end(&decoder).then_some(value)
}

/// Appends a value: a number in its shortest form, but a Float always as a double.
pub(super) fn push(writer: &mut CborWriter, value: &PayloadValue) {
    let written = match value {
        PayloadValue::Integer(number) => match i64::try_from(*number) {
            Ok(number) => writer.i64(number),
            Err(_) => writer.i128(*number),
        },
        PayloadValue::Float(number) => writer.f64(*number),
        PayloadValue::Boolean(truth) => writer.bool(*truth),
        PayloadValue::Text(text) | PayloadValue::Link(text) | PayloadValue::PlainText(text) => writer.str(text),
        PayloadValue::Bytes(bytes) | PayloadValue::TlvBytes(bytes) => writer.bytes(bytes),
    };
    written.expect("the resource types have CBOR forms, and memory takes all of them");
}

/// Takes the next item, when it is a value. Of the tags it knows only the one of a time.
pub(super) fn value(decoder: &mut Decoder<'_>) -> Option<PayloadValue> {
    match decoder.datatype().ok()? {
        Type::Tag => {
            let tag = decoder.tag().ok()?;
            (tag == IanaTag::Timestamp).then_some(())?;
            decoder.int().ok().map(|seconds| PayloadValue::Integer(seconds.into()))
        }
        Type::F16 | Type::F32 | Type::F64 => number(decoder).map(PayloadValue::Float),
        Type::Bool => decoder.bool().ok().map(PayloadValue::Boolean),
        Type::String | Type::StringIndef => text(decoder).map(PayloadValue::Text),
        Type::Bytes | Type::BytesIndef => {
            let pieces: Result<Vec<&[u8]>, _> = decoder.bytes_iter().ok()?.collect();
            pieces.ok().map(|pieces| PayloadValue::Bytes(pieces.concat()))
        }
        _ => decoder.int().ok().map(|number| PayloadValue::Integer(number.into())),
    }
}

/// Takes the next item, when it is a number.
pub(super) fn number(decoder: &mut Decoder<'_>) -> Option<f64> {
    match decoder.datatype().ok()? {
        Type::F16 => decoder.f16().ok().map(f64::from),
        Type::F32 => decoder.f32().ok().map(f64::from),
        Type::F64 => decoder.f64().ok(),
        _ => decoder.int().ok().map(|number| i128::from(number) as f64),
    }
}

/// Takes the next item, when it is a text, in one piece or in several.
pub(super) fn text(decoder: &mut Decoder<'_>) -> Option<String> {
    let pieces: Result<Vec<&str>, _> = decoder.str_iter().ok()?.collect();
    pieces.ok().map(|pieces| pieces.concat())
}

/// Takes the elements of an array or the entries of a map; without a length they end with a break.
pub(super) fn each<'b>(
    decoder: &mut Decoder<'b>,
    length: Option<u64>,
    mut element: impl FnMut(&mut Decoder<'b>) -> Option<()>,
) -> Option<()> {
    if let Some(length) = length {
        return (0..length).try_for_each(|_| element(decoder));
    }
    while decoder.datatype().ok()? != Type::Break {
        element(decoder)?;
    }
    decoder.set_position(decoder.position() + 1);
    Some(())
}

pub(super) fn at_end(decoder: &Decoder<'_>) -> bool {
    decoder.position() == decoder.input().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_shortest_form_and_a_float_is_a_double() {
        let link = SimulatedValue::ObjectLink { object: 11, instance: 1 };
        for (value, bytes) in [
            (SimulatedValue::Integer(81), &b"\x18\x51"[..]),
            (SimulatedValue::Integer(3600), b"\x19\x0e\x10"),
            (SimulatedValue::Integer(i64::MIN), b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff"),
            (SimulatedValue::Float(21.0), b"\xfb\x40\x35\x00\x00\x00\x00\x00\x00"),
            (SimulatedValue::Boolean(false), b"\xf4"),
            (SimulatedValue::from("ACME"), b"\x64ACME"),
            (SimulatedValue::Opaque(vec![0, 0xff, 0xfe]), b"\x43\x00\xff\xfe"),
            (link, b"\x6411:1"),
        ] {
            assert_eq!(encode(&value), bytes);
            assert_eq!(decode(bytes).and_then(|read| value.same_type_from(&read)), Some(value));
        }
    }

    #[test]
    fn a_time_may_be_tagged_and_a_text_may_come_in_pieces() {
        assert_eq!(decode(b"\xc1\x1a\x57\xfc\xd1\xf5"), Some(PayloadValue::Integer(1_476_186_613)));
        assert_eq!(decode(b"\x7f\x63+02\x63:00\xff"), Some(PayloadValue::Text("+02:00".to_owned())));
        assert_eq!(decode(b"\xf9\xbe\x00"), Some(PayloadValue::Float(-1.5)));
    }

    #[test]
    fn a_payload_that_is_not_one_value_is_refused() {
        for payload in
            [&b""[..], b"\x18\x51\x18\x52", b"\x82\x01\x02", b"\xa0", b"\xf6", b"\xc2\x41\x01", b"\x18", b"\x61\xff"]
        {
            assert_eq!(decode(payload), None, "{payload:02x?}");
        }
    }
}
