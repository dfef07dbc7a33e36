//! The notification attributes of `write-attr`, `observe` and `observe-composite` (LwM2M 1.2 section 7.3.2).

use serde_json::{Map, Value as Json};

use crate::lwm2m::number::Number;

use super::error::{CommandError, MAX_QUERY_ITEM};

/// Lists the attributes in the order in which they are sent.
const ATTRIBUTES: [(&str, AttributeKind); 10] = [
    ("con", AttributeKind::Switch),
    ("edge", AttributeKind::Switch),
    ("epmax", AttributeKind::Whole),
    ("epmin", AttributeKind::Whole),
    ("gt", AttributeKind::Decimal),
    ("hqmax", AttributeKind::Whole),
    ("lt", AttributeKind::Decimal),
    ("pmax", AttributeKind::Whole),
    ("pmin", AttributeKind::Whole),
    ("st", AttributeKind::Positive),
];

/// Tells what the value of an attribute may be.
#[derive(Clone, Copy)]
enum AttributeKind {
    /// A whole number from 0.
    Whole,
    /// Any number.
    Decimal,
    /// A number above 0.
    Positive,
    /// The number 0 or 1.
    Switch,
}

/// Returns the attributes in `data` as query items. An attribute with an empty text has no value, which removes it at
/// the device. An attribute that is `null` is left out.
pub(super) fn items(data: &Map<String, Json>) -> Result<Vec<String>, CommandError> {
    let given = ATTRIBUTES
        .into_iter()
        .filter_map(|(name, kind)| data.get(name).filter(|value| !value.is_null()).map(|value| (name, kind, value)));
    given.map(|(name, kind, value)| item(name, kind, value)).collect()
}

fn item(name: &'static str, kind: AttributeKind, value: &Json) -> Result<String, CommandError> {
    let wrong = CommandError::Member { member: name, expected: kind.expected() };
    let number = match value {
        Json::String(text) if text.is_empty() => return Ok(name.to_owned()),
        Json::String(text) => Number::parse(text),
        Json::Number(number) => Number::parse(&number.to_string()),
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    };
    let Some(text) = number.and_then(|number| kind.text(number)) else { return Err(wrong) };
    let item = format!("{name}={text}");
    if item.len() <= MAX_QUERY_ITEM { Ok(item) } else { Err(wrong) }
}

impl AttributeKind {
    const fn expected(self) -> &'static str {
        match self {
            Self::Whole => "a whole number from 0, or its text",
            Self::Decimal => "a number or its text",
            Self::Positive => "a number above 0, or its text",
            Self::Switch => "0 or 1",
        }
    }

    /// Returns the number as text without an exponent, because devices read decimals. Returns `None` for a number that
    /// the attribute cannot have.
    fn text(self, number: Number) -> Option<String> {
        let whole = number.whole();
        let allowed = match self {
            Self::Whole => whole.is_some_and(|value| value >= 0),
            Self::Decimal => true,
            Self::Positive => number.as_f64() > 0.0,
            Self::Switch => matches!(whole, Some(0 | 1)),
        };
        let text = whole.map_or_else(|| number.as_f64().to_string(), |value| value.to_string());
        allowed.then_some(text)
    }
}
