//! The options of a message, and the numbers and content formats that this program uses.

use std::fmt;

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

/// The options of a message in the order of their numbers; options of one number are in the order in which they were
/// given. Each observation keeps the options of its request, so they are kept in the compact form of RFC 7252 section
/// 3.1, in one piece of memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options(EncodedOptions);

/// Differences of option numbers, lengths and values. Those of most messages need no memory of their own.
type EncodedOptions = SmallVec<[u8; 24]>;

/// An option value that does not have its format (RFC 7252 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OptionError {
    #[error("option {0} is longer than its format allows")]
    TooLong(u16),
    #[error("option {0} is not UTF-8")]
    NotText(u16),
}

impl Options {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, number: u16, value: &[u8]) {
        let last = self.iter().last().map_or(0, |(number, _)| number);
        if last <= number {
            return self.append(number - last, value);
        }
        let (before, behind): (Vec<_>, Vec<_>) = self.iter().partition(|(own, _)| *own <= number);
        *self = Self::from_sorted(before.into_iter().chain([(number, value)]).chain(behind));
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
        *self = Self::from_sorted(self.iter().filter(|(own, _)| *own != number));
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let (mut rest, mut number) = (self.0.as_slice(), 0_u16);
        std::iter::from_fn(move || {
            let (delta, value, behind) = first_option(rest)?;
            rest = behind;
            number = number.checked_add(delta)?;
            Some((number, value))
        })
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

    /// Returns the first option of this number as an unsigned integer of at most four bytes.
    pub fn uint(&self, number: u16) -> Result<Option<u32>, OptionError> {
        let Some(value) = self.first(number) else { return Ok(None) };
        if value.len() > 4 {
            return Err(OptionError::TooLong(number));
        }
        Ok(Some(value.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))))
    }

    /// Returns every option of this number as text.
    pub fn texts(&self, number: u16) -> Result<Vec<&str>, OptionError> {
        self.all(number).map(|value| std::str::from_utf8(value).map_err(|_| OptionError::NotText(number))).collect()
    }

    /// Returns the Content-Format if there is one and it is well-formed (RFC 7252 section 5.10.3).
    pub fn content_format(&self) -> Option<u16> {
        self.uint(number::CONTENT_FORMAT).ok().flatten().and_then(|value| u16::try_from(value).ok())
    }

    /// Takes options that are in the order of their numbers.
    pub(super) fn from_sorted<'a>(options: impl Iterator<Item = (u16, &'a [u8])>) -> Self {
        let (mut sorted, mut last) = (Self::new(), 0);
        for (number, value) in options {
            sorted.append(number - last, value);
            last = number;
        }
        sorted
    }

    /// Writes an option behind the last one, whose number is smaller by `delta`.
    fn append(&mut self, delta: u16, value: &[u8]) {
        // No value is longer: all values come from datagrams, or have limits of their own.
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        let (delta, delta_extension) = shortened(delta);
        let (length, length_extension) = shortened(value.len() as u16);
        self.0.push(delta << 4 | length);
        self.0.extend_from_slice(&delta_extension);
        self.0.extend_from_slice(&length_extension);
        self.0.extend_from_slice(value);
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Reads the first option of these bytes: how much larger its number is than that of the option before, its value, and
/// the bytes behind it. Returns `None` if there is none, or if it is malformed.
pub(super) fn first_option(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (delta, rest) = extended(first >> 4, rest)?;
    let (length, rest) = extended(first & 0x0f, rest)?;
    let (value, rest) = rest.split_at_checked(usize::from(length))?;
    Some((delta, value, rest))
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
