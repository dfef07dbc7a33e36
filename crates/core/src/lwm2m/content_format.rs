//! The content formats of LwM2M 1.0 to 1.2: their names, their numbers, and what they can hold (OMA LwM2M Core
//! 1.2 section 7.4, RFC 8790 section 5).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::coap::options::format;

use super::path::Path;

/// A content format. It is serialized as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub enum ContentFormat {
    Text,
    Link,
    Opaque,
    Cbor,
    SenmlJson,
    SenmlCbor,
    SenmlEtchJson,
    SenmlEtchCbor,
    Tlv,
    Lwm2mJson,
    Lwm2mCbor,
}

/// Reports a name or a number that is no content format of LwM2M.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown format {name:?}; known are {known}", known = ContentFormat::names())]
pub struct UnknownFormat {
    name: String,
}

/// A line of the table of formats.
struct Row {
    format: ContentFormat,
    name: &'static str,
    number: u16,
    /// The number of the format in drafts of LwM2M 1.0.
    legacy: Option<u16>,
    holds: Holds,
}

/// Tells what a payload can hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Links,
    /// Holds one value of a resource or a resource instance, without its path.
    OneValue,
    /// Holds several values by ids below the path of the request.
    Values,
    /// Holds several values by their whole paths.
    ValuesWithPaths,
    /// Holds the patch records of RFC 8790: values by their whole paths, and removals.
    Patches,
}

const TABLE: [Row; 11] = [
    row(ContentFormat::Text, "text", format::TEXT, Some(format::LEGACY_TEXT), Holds::OneValue),
    row(ContentFormat::Link, "link", format::LINK_FORMAT, None, Holds::Links),
    row(ContentFormat::Opaque, "opaque", format::OCTET_STREAM, Some(format::LEGACY_OPAQUE), Holds::OneValue),
    row(ContentFormat::Cbor, "cbor", format::CBOR, None, Holds::OneValue),
    row(ContentFormat::SenmlJson, "senml-json", format::SENML_JSON, None, Holds::ValuesWithPaths),
    row(ContentFormat::SenmlCbor, "senml-cbor", format::SENML_CBOR, None, Holds::ValuesWithPaths),
    row(ContentFormat::SenmlEtchJson, "senml-etch-json", format::SENML_ETCH_JSON, None, Holds::Patches),
    row(ContentFormat::SenmlEtchCbor, "senml-etch-cbor", format::SENML_ETCH_CBOR, None, Holds::Patches),
    row(ContentFormat::Tlv, "tlv", format::TLV, Some(format::LEGACY_TLV), Holds::Values),
    row(ContentFormat::Lwm2mJson, "lwm2m-json", format::LWM2M_JSON, Some(format::LEGACY_JSON), Holds::ValuesWithPaths),
    row(ContentFormat::Lwm2mCbor, "lwm2m-cbor", format::LWM2M_CBOR, None, Holds::ValuesWithPaths),
];

const fn row(format: ContentFormat, name: &'static str, number: u16, legacy: Option<u16>, holds: Holds) -> Row {
    Row { format, name, number, legacy, holds }
}

impl ContentFormat {
    /// Lists all formats in the order of their declaration.
    pub const ALL: [ContentFormat; TABLE.len()] = [
        Self::Text,
        Self::Link,
        Self::Opaque,
        Self::Cbor,
        Self::SenmlJson,
        Self::SenmlCbor,
        Self::SenmlEtchJson,
        Self::SenmlEtchCbor,
        Self::Tlv,
        Self::Lwm2mJson,
        Self::Lwm2mCbor,
    ];

    /// Returns the format with this number, without those of drafts.
    pub fn from_number(number: u64) -> Result<Self, UnknownFormat> {
        let row = TABLE.iter().find(|row| u64::from(row.number) == number);
        row.map(|row| row.format).ok_or_else(|| UnknownFormat { name: number.to_string() })
    }

    /// Returns the format that a device means by this number, which may be that of a draft of LwM2M 1.0.
    pub(crate) fn from_device(number: u16) -> Option<Self> {
        TABLE.iter().find(|row| row.number == number || row.legacy == Some(number)).map(|row| row.format)
    }

    /// Returns the format with this name.
    pub(crate) fn from_name(name: &str) -> Result<Self, UnknownFormat> {
        let row = TABLE.iter().find(|row| row.name == name);
        row.map(|row| row.format).ok_or_else(|| UnknownFormat { name: name.chars().take(64).collect() })
    }

    pub fn number(self) -> u16 {
        self.row().number
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns whether a payload can hold the values of everything at or below this path. An object or an instance has
    /// several values.
    pub(crate) fn holds_values_of(self, path: Path) -> bool {
        match self.row().holds {
            Holds::OneValue => path.len() >= 3,
            Holds::Values | Holds::ValuesWithPaths => true,
            Holds::Links | Holds::Patches => false,
        }
    }

    /// Returns whether a payload can hold several values.
    pub(crate) fn holds_several_values(self) -> bool {
        matches!(self.row().holds, Holds::Values | Holds::ValuesWithPaths)
    }

    /// Returns whether a payload names the whole path of each value, as the answers to composite operations must.
    pub(crate) fn names_paths(self) -> bool {
        self.row().holds == Holds::ValuesWithPaths
    }

    /// Returns whether a payload can list paths without values, as the requests of composite operations do.
    pub(crate) fn lists_paths(self) -> bool {
        self.is_senml()
    }

    /// Returns whether a payload consists of the records of RFC 8428 or RFC 8790.
    pub(crate) fn is_senml(self) -> bool {
        match self {
            Self::SenmlJson | Self::SenmlCbor | Self::SenmlEtchJson | Self::SenmlEtchCbor => true,
            Self::Text | Self::Link | Self::Opaque | Self::Cbor | Self::Tlv | Self::Lwm2mJson | Self::Lwm2mCbor => {
                false
            }
        }
    }
    /// Returns SenML for SenML-ETCH, which no answer may have, and any other format itself.
    pub(crate) fn of_answers(self) -> Self {
        match self {
            Self::SenmlEtchJson => Self::SenmlJson,
            Self::SenmlEtchCbor => Self::SenmlCbor,
            Self::Text
            | Self::Link
            | Self::Opaque
            | Self::Cbor
            | Self::SenmlJson
            | Self::SenmlCbor
            | Self::Tlv
            | Self::Lwm2mJson
            | Self::Lwm2mCbor => self,
        }
    }

    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.format == self).expect("the table has a row for each format")
    }

    fn names() -> String {
        TABLE.map(|row| row.name).join(", ")
    }
}

impl From<ContentFormat> for u16 {
    fn from(format: ContentFormat) -> Self {
        format.number()
    }
}

impl TryFrom<u16> for ContentFormat {
    type Error = UnknownFormat;

    fn try_from(number: u16) -> Result<Self, UnknownFormat> {
        Self::from_number(number.into())
    }
}

impl fmt::Display for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Holds a set of formats. It is serialized as a list of their numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u16>", from = "Vec<u16>")]
pub struct FormatSet(u16);

impl FormatSet {
    pub fn insert(&mut self, format: ContentFormat) {
        self.0 |= Self::bit(format);
    }

    pub fn contains(self, format: ContentFormat) -> bool {
        self.0 & Self::bit(format) != 0
    }

    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = ContentFormat> {
        TABLE.iter().map(|row| row.format).filter(move |format| self.contains(*format))
    }

    const fn bit(format: ContentFormat) -> u16 {
        1 << (format as u16)
    }
}

impl FromIterator<ContentFormat> for FormatSet {
    fn from_iter<I: IntoIterator<Item = ContentFormat>>(formats: I) -> Self {
        let mut set = Self::default();
        formats.into_iter().for_each(|format| set.insert(format));
        set
    }
}

/// Reads numbers, and ignores those of unknown formats.
impl From<Vec<u16>> for FormatSet {
    fn from(numbers: Vec<u16>) -> Self {
        numbers.into_iter().filter_map(ContentFormat::from_device).collect()
    }
}

impl From<FormatSet> for Vec<u16> {
    fn from(set: FormatSet) -> Self {
        set.iter().map(ContentFormat::number).collect()
    }
}

impl fmt::Debug for FormatSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_a_name_a_number_and_perhaps_one_of_a_draft() {
        for (format, name, number, legacy) in [
            (ContentFormat::Text, "text", 0, Some(1541)),
            (ContentFormat::Opaque, "opaque", 42, Some(1544)),
            (ContentFormat::SenmlEtchCbor, "senml-etch-cbor", 322, None),
            (ContentFormat::Tlv, "tlv", 11542, Some(1542)),
            (ContentFormat::Lwm2mCbor, "lwm2m-cbor", 11544, None),
        ] {
            assert_eq!((format.name(), format.number(), format.to_string()), (name, number, name.to_owned()));
            assert_eq!(ContentFormat::from_name(name), Ok(format));
            assert_eq!(ContentFormat::from_number(number.into()), Ok(format));
            assert_eq!(ContentFormat::from_device(number), Some(format));
            if let Some(legacy) = legacy {
                assert_eq!(ContentFormat::from_device(legacy), Some(format));
                assert!(ContentFormat::from_number(legacy.into()).is_err());
            }
        }
        assert!(
            ContentFormat::from_name("xml").unwrap_err().to_string().starts_with("unknown format \"xml\"; known are")
        );
        assert!(ContentFormat::from_number(50).is_err());
    }

    #[test]
    fn a_set_is_kept_as_numbers() {
        let set = FormatSet::from(vec![112, 9999, 1542, 0]);
        assert!(set.contains(ContentFormat::Tlv) && !set.contains(ContentFormat::SenmlJson));
        assert_eq!(serde_json::to_string(&set).unwrap(), "[0,112,11542]");
        assert_eq!(serde_json::from_str::<FormatSet>("[0,112,11542]").unwrap(), set);
        assert!(FormatSet::default().is_empty());
    }
}
