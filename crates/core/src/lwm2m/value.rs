//! Defines the values of resources and their types (LwM2M 1.1 appendix C).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_PAD_INDIFFERENT};
use thiserror::Error;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    String(String),
    Integer(i64),
    UnsignedInteger(u64),
    /// A finite number.
    Float(f64),
    Boolean(bool),
    Opaque(Vec<u8>),
    /// Counts seconds since 1970.
    Time(i64),
    ObjectLink(ObjectLink),
    CoreLink(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceType {
    String,
    Integer,
    UnsignedInteger,
    Float,
    Boolean,
    Opaque,
    Time,
    ObjectLink,
    CoreLink,
}

/// Points to an object instance. `65535:65535` points nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectLink {
    pub object: u16,
    pub instance: u16,
}

/// Tells why a value is not of its type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValueError {
    #[error("{value} is not a valid {expected}")]
    Type { expected: ResourceType, value: String },
    #[error("{length} bytes are not a valid {expected}")]
    Length { expected: ResourceType, length: usize },
    #[error("the text is not UTF-8")]
    NotText,
    #[error("NaN and infinities are not values")]
    NotFinite,
    #[error("the text is not base64")]
    NotBase64,
    #[error("the number has more than 64 bits")]
    TooLarge,
}

/// Reports that no LwM2M type has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown type {0:?}")]
pub struct UnknownType(pub String);

impl Value {
    pub fn resource_type(&self) -> ResourceType {
        match self {
            Self::String(_) => ResourceType::String,
            Self::Integer(_) => ResourceType::Integer,
            Self::UnsignedInteger(_) => ResourceType::UnsignedInteger,
            Self::Float(_) => ResourceType::Float,
            Self::Boolean(_) => ResourceType::Boolean,
            Self::Opaque(_) => ResourceType::Opaque,
            Self::Time(_) => ResourceType::Time,
            Self::ObjectLink(_) => ResourceType::ObjectLink,
            Self::CoreLink(_) => ResourceType::CoreLink,
        }
    }

    /// Returns a Float, or an error for NaN and infinities.
    pub fn float(value: f64) -> Result<Self, ValueError> {
        if value.is_finite() { Ok(Self::Float(value)) } else { Err(ValueError::NotFinite) }
    }

    /// Returns the nearest double of a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(value) | Self::Time(value) => Some(*value as f64),
            Self::UnsignedInteger(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::String(_) | Self::Boolean(_) | Self::Opaque(_) | Self::ObjectLink(_) | Self::CoreLink(_) => None,
        }
    }
}

/// Reads base64 in either alphabet, with or without padding. Blanks and line breaks are ignored.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, ValueError> {
    let blank = |character: char| character.is_ascii_whitespace();
    let text = if text.contains(blank) { Cow::Owned(text.replace(blank, "")) } else { Cow::Borrowed(text) };
    let other_alphabet = text.contains(['-', '_']);
    let alphabet = if other_alphabet { &URL_SAFE_PAD_INDIFFERENT } else { &STANDARD_PAD_INDIFFERENT };
    alphabet.decode(&*text).map_err(|_| ValueError::NotBase64)
}

/// Removes the blanks around the text of a number, a boolean or a link, and the NUL of a C string.
pub(crate) fn without_blanks(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_ascii_whitespace() || character == '\0')
}

impl ResourceType {
    pub const ALL: [ResourceType; 9] = [
        Self::String,
        Self::Integer,
        Self::UnsignedInteger,
        Self::Float,
        Self::Boolean,
        Self::Opaque,
        Self::Time,
        Self::ObjectLink,
        Self::CoreLink,
    ];

    /// Returns the name that object definitions use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::Integer => "Integer",
            Self::UnsignedInteger => "Unsigned Integer",
            Self::Float => "Float",
            Self::Boolean => "Boolean",
            Self::Opaque => "Opaque",
            Self::Time => "Time",
            Self::ObjectLink => "Objlnk",
            Self::CoreLink => "Corelnk",
        }
    }

    /// Returns whether a value of one type can stand for one of the other if nothing of it is lost: numbers for
    /// numbers, text for text.
    pub(crate) fn is_related_to(self, other: ResourceType) -> bool {
        self.family() == other.family()
    }

    const fn family(self) -> u8 {
        match self {
            Self::Integer | Self::UnsignedInteger | Self::Time | Self::Float => 0,
            Self::String | Self::CoreLink => 1,
            Self::Boolean => 2,
            Self::Opaque => 3,
            Self::ObjectLink => 4,
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Parses the name of a type. Its case does not matter.
impl FromStr for ResourceType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownType(text.chars().take(64).collect()))
    }
}

impl fmt::Display for ObjectLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.object, self.instance)
    }
}

impl FromStr for ObjectLink {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let id = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let link = without_blanks(text)
            .split_once(':')
            .and_then(|(object, instance)| Some(Self { object: id(object)?, instance: id(instance)? }));
        let shown = || text.chars().take(32).collect::<String>();
        link.ok_or_else(|| ValueError::Type { expected: ResourceType::ObjectLink, value: format!("{:?}", shown()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_by_its_name_in_any_case() {
        for kind in ResourceType::ALL {
            assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        }
        assert_eq!("Unsigned".parse::<ResourceType>(), Err(UnknownType("Unsigned".into())));
    }

    #[test]
    fn an_object_link_is_two_ids_with_a_colon() {
        for text in ["3:65535", " 3:65535\n", "3:65535\0"] {
            assert_eq!(text.parse(), Ok(ObjectLink { object: 3, instance: 65535 }), "{text:?}");
        }
        for text in ["", "3", "3:", ":0", "+3:0", "3:65536", "3:0:1", "3/0"] {
            assert!(text.parse::<ObjectLink>().is_err(), "{text}");
        }
    }

    #[test]
    fn base64_may_have_blanks_either_alphabet_and_no_padding() {
        for text in ["++//yv4=", "--__yv4=", "++//yv4", "++//\r\nyv4=\n", " ++ //\tyv4 = "] {
            assert_eq!(from_base64(text), Ok(vec![0xfb, 0xef, 0xff, 0xca, 0xfe]), "{text:?}");
        }
        for text in ["*", "yv4==", "y", "+_8="] {
            assert_eq!(from_base64(text), Err(ValueError::NotBase64), "{text:?}");
        }
        assert_eq!(from_base64(""), Ok(vec![]));
    }
}
