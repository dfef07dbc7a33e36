//! The options of a message, and the numbers and content formats that this program uses.

use smallvec::SmallVec;
use thiserror::Error;

/// Option numbers (RFC 7252 section 5.10, RFC 7641, RFC 7959).
pub mod number {
    pub const URI_HOST: u16 = 3;
    pub const ETAG: u16 = 4;
    pub const OBSERVE: u16 = 6;
    pub const URI_PORT: u16 = 7;
    pub const LOCATION_PATH: u16 = 8;
    pub const URI_PATH: u16 = 11;
    pub const CONTENT_FORMAT: u16 = 12;
    pub const MAX_AGE: u16 = 14;
    pub const URI_QUERY: u16 = 15;
    pub const ACCEPT: u16 = 17;
    pub const BLOCK2: u16 = 23;
    pub const BLOCK1: u16 = 27;
    pub const SIZE2: u16 = 28;
    pub const SIZE1: u16 = 60;
}

/// Content formats (RFC 7252 section 12.3, RFC 8790 section 5 and OMA LwM2M Core 1.2 section 7.4; 1541 to 1544 are
/// those of drafts of LwM2M 1.0).
pub mod format {
    pub const TEXT: u16 = 0;
    pub const LINK_FORMAT: u16 = 40;
    pub const OCTET_STREAM: u16 = 42;
    pub const CBOR: u16 = 60;
    pub const SENML_JSON: u16 = 110;
    pub const SENML_CBOR: u16 = 112;
    pub const SENML_ETCH_JSON: u16 = 320;
    pub const SENML_ETCH_CBOR: u16 = 322;
    pub const LEGACY_TEXT: u16 = 1541;
    pub const LEGACY_TLV: u16 = 1542;
    pub(crate) const LEGACY_JSON: u16 = 1543;
    pub(crate) const LEGACY_OPAQUE: u16 = 1544;
    pub const TLV: u16 = 11542;
    pub const LWM2M_JSON: u16 = 11543;
    pub const LWM2M_CBOR: u16 = 11544;
}

/// Options in the order of their numbers; those of one number in the order in which they were given.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Options(Vec<(u16, OptionValue)>);

type OptionValue = SmallVec<[u8; 16]>;

/// The byte between the options and the payload (RFC 7252 section 3).
pub(super) const PAYLOAD_MARKER: u8 = 0xff;

/// The bytes of an option before its value, if both its number and its length are extended by two bytes.
const LONGEST_OPTION_HEADER: usize = 5;

/// An option value that is not of its format (RFC 7252 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OptionError {
    #[error("option {0} is longer than its format allows")]
    TooLong(u16),
    #[error("option {0} is not UTF-8")]
    NotText(u16),
}

impl Options {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Reads the options of a message from the bytes behind its token (RFC 7252 section 3.1). Returns them with what is
    /// behind the payload marker, if there is a marker; `None` if an option is malformed.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<(Self, Option<&[u8]>)> {
        let mut options = Vec::new();
        let mut number: u16 = 0;
        while let [first, rest @ ..] = bytes {
            if *first == PAYLOAD_MARKER {
                return Some((Self(options), Some(rest)));
            }
            let (delta, rest) = extended(first >> 4, rest)?;
            let (length, rest) = extended(first & 0x0f, rest)?;
            let (value, rest) = rest.split_at_checked(usize::from(length))?;
            number = number.checked_add(delta)?;
            options.push((number, OptionValue::from_slice(value)));
            bytes = rest;
        }
        Some((Self(options), None))
    }

    /// Writes the options behind the token of a message.
    pub(super) fn encode(&self, datagram: &mut Vec<u8>) {
        let mut before = 0;
        for (number, value) in &self.0 {
            // No value is longer: all of them come from datagrams, or have limits of their own.
            let value = &value[..value.len().min(usize::from(u16::MAX))];
            let (delta, delta_extension) = shortened(number - before);
            let (length, length_extension) = shortened(value.len() as u16);
            datagram.push(delta << 4 | length);
            datagram.extend_from_slice(&delta_extension);
            datagram.extend_from_slice(&length_extension);
            datagram.extend_from_slice(value);
            before = *number;
        }
    }

    /// Returns an upper bound of the bytes that [`encode`](Self::encode) writes.
    pub(super) fn encoded_length(&self) -> usize {
        self.0.iter().map(|(_, value)| LONGEST_OPTION_HEADER + value.len()).sum()
    }

    pub fn add(&mut self, number: u16, value: &[u8]) {
        let at = self.0.partition_point(|(n, _)| *n <= number);
        self.0.insert(at, (number, OptionValue::from_slice(value)));
    }

    pub fn add_text(&mut self, number: u16, value: &str) {
        self.add(number, value.as_bytes());
    }

    /// Adds an unsigned integer in its shortest form: zero is no byte (RFC 7252 section 3.2).
    pub fn add_uint(&mut self, number: u16, value: u32) {
        let bytes = value.to_be_bytes();
        let leading = value.leading_zeros() as usize / 8;
        self.add(number, &bytes[leading..]);
    }

    pub fn remove(&mut self, number: u16) {
        self.0.retain(|(n, _)| *n != number);
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.0.iter().map(|(number, value)| (*number, value.as_slice()))
    }

    pub fn all(&self, number: u16) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(n, _)| *n == number).map(|(_, value)| value)
    }

    pub fn first(&self, number: u16) -> Option<&[u8]> {
        self.all(number).next()
    }

    pub fn contains(&self, number: u16) -> bool {
        self.first(number).is_some()
    }

    /// The first option of this number as an unsigned integer of at most four bytes.
    pub fn uint(&self, number: u16) -> Result<Option<u32>, OptionError> {
        let Some(value) = self.first(number) else { return Ok(None) };
        if value.len() > 4 {
            return Err(OptionError::TooLong(number));
        }
        Ok(Some(value.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))))
    }

    /// Every option of this number as text.
    pub fn texts(&self, number: u16) -> Result<Vec<&str>, OptionError> {
        self.all(number).map(|value| std::str::from_utf8(value).map_err(|_| OptionError::NotText(number))).collect()
    }

    /// Content-Format, when there is one and it is well-formed (RFC 7252 section 5.10.3).
    pub fn content_format(&self) -> Option<u16> {
        self.uint(number::CONTENT_FORMAT).ok().flatten().and_then(|value| u16::try_from(value).ok())
    }
}

/// Reads an option delta or an option length, which one or two bytes extend (RFC 7252 section 3.1). Returns it with the
/// bytes behind them; `None` if it is reserved, cut short, or beyond any option.
fn extended(nibble: u8, bytes: &[u8]) -> Option<(u16, &[u8])> {
    match (nibble, bytes) {
        (0..ONE_BYTE, bytes) => Some((nibble.into(), bytes)),
        (ONE_BYTE, [low, bytes @ ..]) => Some((FROM_ONE_BYTE + u16::from(*low), bytes)),
        (TWO_BYTES, [high, low, bytes @ ..]) => {
            Some((u16::from_be_bytes([*high, *low]).checked_add(FROM_TWO_BYTES)?, bytes))
        }
        _ => None,
    }
}

/// Returns the nibble of an option delta or an option length, and the bytes that extend it.
fn shortened(value: u16) -> (u8, SmallVec<[u8; 2]>) {
    match value {
        0..FROM_ONE_BYTE => (value as u8, SmallVec::new()),
        FROM_ONE_BYTE..FROM_TWO_BYTES => (ONE_BYTE, SmallVec::from_slice(&[(value - FROM_ONE_BYTE) as u8])),
        FROM_TWO_BYTES.. => (TWO_BYTES, SmallVec::from_slice(&(value - FROM_TWO_BYTES).to_be_bytes())),
    }
}

/// The nibbles that one byte or two bytes extend, and the values from which they do.
const ONE_BYTE: u8 = 13;
const TWO_BYTES: u8 = 14;
const FROM_ONE_BYTE: u16 = 13;
const FROM_TWO_BYTES: u16 = 269;
