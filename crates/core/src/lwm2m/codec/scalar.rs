//! The values of the formats that carry types of their own, and how they convert to the types of the definitions. This
//! is the one table for both.

use std::borrow::Cow;

use crate::lwm2m::number::Number;
use crate::lwm2m::value::{ObjectLink, ResourceType, Value, ValueError};

use super::date;

/// Holds a value in the terms of its format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Number(Number),
    /// Holds the seconds since 1970 of a date that its tag marks as one (RFC 8949 section 3.4.1).
    Date(i64),
    Text(Cow<'a, str>),
    Boolean(bool),
    Bytes(Cow<'a, [u8]>),
    /// Holds the text of an object link, from the label `vlo` of SenML or `ov` of LwM2M JSON.
    Link(Cow<'a, str>),
}

impl Scalar<'_> {
    /// Returns the value for a resource of this type, or for one without definition. An error means that the payload is
    /// bad.
    pub(crate) fn into_value(self, expected: Option<ResourceType>) -> Result<Value, ValueError> {
        let Some(expected) = expected else { return self.untyped() };
        match (self, expected) {
            (Self::Number(number), expected) => numeric(number, expected),
            (Self::Date(seconds), expected) => numeric(Number::Whole(seconds.into()), expected),
            (Self::Text(text), ResourceType::String) => Ok(Value::String(text.into_owned())),
            (Self::Text(text), ResourceType::CoreLink) => Ok(Value::CoreLink(text.into_owned())),
            (Self::Text(text) | Self::Link(text), ResourceType::ObjectLink) => text.parse().map(Value::ObjectLink),
            (Self::Text(text), ResourceType::Time) => date::parse(&text)
                .map(Value::Time)
                .ok_or_else(|| ValueError::Type { expected, value: "the text".to_owned() }),
            (Self::Boolean(value), ResourceType::Boolean) => Ok(Value::Boolean(value)),
            (Self::Bytes(bytes), ResourceType::Opaque) => Ok(Value::Opaque(bytes.into_owned())),
            (other @ (Self::Text(_) | Self::Boolean(_) | Self::Bytes(_) | Self::Link(_)), expected) => {
                Err(ValueError::Type { expected, value: other.description() })
            }
        }
    }

    fn untyped(self) -> Result<Value, ValueError> {
        match self {
            Self::Number(Number::Whole(value)) => match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => Ok(Value::Integer(value)),
                (Err(_), Ok(value)) => Ok(Value::UnsignedInteger(value)),
                (Err(_), Err(_)) => Err(ValueError::TooLarge),
            },
            Self::Number(Number::Double(value)) => Value::float(value),
            Self::Number(Number::Huge(_)) => Err(ValueError::TooLarge),
            Self::Date(seconds) => Ok(Value::Time(seconds)),
            Self::Text(text) => Ok(Value::String(text.into_owned())),
            Self::Boolean(value) => Ok(Value::Boolean(value)),
            Self::Bytes(bytes) => Ok(Value::Opaque(bytes.into_owned())),
            Self::Link(text) => text.parse().map(Value::ObjectLink),
        }
    }

    /// Describes the value for an error, without its text or bytes.
    fn description(&self) -> String {
        match self {
            Self::Number(number) => description(*number),
            Self::Date(_) => "a date".to_owned(),
            Self::Text(_) => "a text".to_owned(),
            Self::Boolean(value) => value.to_string(),
            Self::Bytes(bytes) => format!("a sequence of {} bytes", bytes.len()),
            Self::Link(_) => "an object link".to_owned(),
        }
    }
}

fn numeric(number: Number, expected: ResourceType) -> Result<Value, ValueError> {
    let whole = number.whole();
    let value = match expected {
        ResourceType::Integer => whole.and_then(|value| i64::try_from(value).ok()).map(Value::Integer),
        ResourceType::Time => whole.and_then(|value| i64::try_from(value).ok()).map(Value::Time),
        ResourceType::UnsignedInteger => whole.and_then(|value| u64::try_from(value).ok()).map(Value::UnsignedInteger),
        ResourceType::Float => return Value::float(number.as_f64()),
        ResourceType::ObjectLink => whole.and_then(packed_link).map(Value::ObjectLink),
        ResourceType::String | ResourceType::CoreLink | ResourceType::Boolean | ResourceType::Opaque => None,
    };
    value.ok_or_else(|| ValueError::Type { expected, value: description(number) })
}

/// Reads an object link as Zephyr writes it in SenML CBOR: `object << 16 | instance` as a number of 32 bits, signed or
/// not.
fn packed_link(number: i128) -> Option<ObjectLink> {
    let bits = i32::try_from(number).map(i32::cast_unsigned).or_else(|_| u32::try_from(number)).ok()?;
    let [object_high, object_low, instance_high, instance_low] = bits.to_be_bytes();
    Some(ObjectLink {
        object: u16::from_be_bytes([object_high, object_low]),
        instance: u16::from_be_bytes([instance_high, instance_low]),
    })
}

fn description(number: Number) -> String {
    match number {
        Number::Whole(value) => value.to_string(),
        Number::Double(value) | Number::Huge(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: usize = 5;

    /// The values of each kind, and what each type makes of them: `None` is refused. The columns are the types in the
    /// order of [`ResourceType::ALL`], and a resource without definition.
    #[test]
    fn a_value_fits_its_definition_or_is_refused() {
        let link = Value::ObjectLink(ObjectLink { object: 11, instance: 1 });
        let time = Value::Time(1_476_186_613);
        let text = |text: &'static str| Scalar::Text(Cow::Borrowed(text));
        let rows: [(Scalar<'_>, [Option<Value>; 10]); 2 * KINDS] = [
            (
                Scalar::Number(Number::Double(81.0)),
                [
                    None,
                    Some(Value::Integer(81)),
                    Some(Value::UnsignedInteger(81)),
                    Some(Value::Float(81.0)),
                    None,
                    None,
                    Some(Value::Time(81)),
                    Some(Value::ObjectLink(ObjectLink { object: 0, instance: 81 })),
                    None,
                    Some(Value::Float(81.0)),
                ],
            ),
            (
                Scalar::Number(Number::Double(81.5)),
                [None, None, None, Some(Value::Float(81.5)), None, None, None, None, None, Some(Value::Float(81.5))],
            ),
            (
                Scalar::Number(Number::Whole(u64::MAX.into())),
                [
                    None,
                    None,
                    Some(Value::UnsignedInteger(u64::MAX)),
                    Some(Value::Float(18_446_744_073_709_551_616.0)),
                    None,
                    None,
                    None,
                    None,
                    None,
                    Some(Value::UnsignedInteger(u64::MAX)),
                ],
            ),
            (
                Scalar::Number(Number::Huge(1e40)),
                [None, None, None, Some(Value::Float(1e40)), None, None, None, None, None, None],
            ),
            (Scalar::Number(Number::Double(f64::NAN)), [const { None }; 10]),
            (
                text("11:1"),
                [
                    Some(Value::String("11:1".into())),
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    Some(link.clone()),
                    Some(Value::CoreLink("11:1".into())),
                    Some(Value::String("11:1".into())),
                ],
            ),
            (
                text("2016-10-11T11:50:13Z"),
                [
                    Some(Value::String("2016-10-11T11:50:13Z".into())),
                    None,
                    None,
                    None,
                    None,
                    None,
                    Some(time),
                    None,
                    Some(Value::CoreLink("2016-10-11T11:50:13Z".into())),
                    Some(Value::String("2016-10-11T11:50:13Z".into())),
                ],
            ),
            (
                Scalar::Boolean(true),
                [
                    None,
                    None,
                    None,
                    None,
                    Some(Value::Boolean(true)),
                    None,
                    None,
                    None,
                    None,
                    Some(Value::Boolean(true)),
                ],
            ),
            (
                Scalar::Bytes(Cow::Borrowed(b"x")),
                [
                    None,
                    None,
                    None,
                    None,
                    None,
                    Some(Value::Opaque(b"x".to_vec())),
                    None,
                    None,
                    None,
                    Some(Value::Opaque(b"x".to_vec())),
                ],
            ),
            (
                Scalar::Link(Cow::Borrowed("11:1")),
                [None, None, None, None, None, None, None, Some(link.clone()), None, Some(link)],
            ),
        ];
        for (scalar, values) in rows {
            let types = ResourceType::ALL.into_iter().map(Some).chain([None]);
            for (expected, value) in types.zip(values) {
                assert_eq!(scalar.clone().into_value(expected).ok(), value, "{scalar:?} as {expected:?}");
            }
        }
    }

    #[test]
    fn an_object_link_may_be_a_number_of_32_bits() {
        let link = |object, instance| Some(ObjectLink { object, instance });
        for (number, expected) in [
            (0x000b_0001, link(11, 1)),
            (-1, link(65535, 65535)),
            (0xffff_ffff, link(65535, 65535)),
            (i128::from(i32::MIN), link(0x8000, 0)),
            (0x1_0000_0000, None),
            (i128::from(i32::MIN) - 1, None),
        ] {
            assert_eq!(packed_link(number), expected, "{number}");
        }
    }
}
