//! Reads and writes OMA TLV (LwM2M 1.0 section 6.4.3, 1.1 section 7.4.3): a tree of at most three levels with values.

use std::borrow::Cow;

use thiserror::Error;

use crate::lwm2m::path::Path;
use crate::lwm2m::value::{ObjectLink, ResourceType, Value, ValueError};

use super::{Assignment, DecodeError, Reading};

/// Limits the bytes of an element, whose length is a number of three bytes.
pub(crate) const MAX_LENGTH: usize = 0x00ff_ffff;

const OBJECT_INSTANCE: u8 = 0b0000_0000;
const RESOURCE_INSTANCE: u8 = 0b0100_0000;
const MULTIPLE_RESOURCE: u8 = 0b1000_0000;
const RESOURCE: u8 = 0b1100_0000;
const KIND: u8 = 0b1100_0000;
const WIDE_ID: u8 = 0b0010_0000;
const LENGTH_BYTES: u8 = 0b0001_1000;
const SHORT_LENGTH: u8 = 0b0000_0111;

/// Holds one element. An object instance contains resources, a multiple resource contains resource instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tlv<'a> {
    ObjectInstance { id: u16, items: Vec<Tlv<'a>> },
    MultipleResource { id: u16, items: Vec<Tlv<'a>> },
    Resource { id: u16, value: Cow<'a, [u8]> },
    ResourceInstance { id: u16, value: Cow<'a, [u8]> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TlvError {
    #[error("an element is cut short")]
    Cut,
    #[error("an object instance can hold resources only")]
    InInstance,
    #[error("a multiple resource can hold resource instances only")]
    InResource,
    #[error("element {0} does not name the instance or resource that it belongs to")]
    NoPlace(u16),
}

/// Reads a list of elements to the last byte.
pub fn parse(bytes: &[u8]) -> Result<Vec<Tlv<'_>>, TlvError> {
    let mut elements = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (element, behind) = element(rest)?;
        elements.push(element);
        rest = behind;
    }
    Ok(elements)
}

/// Writes a list of elements, each of at most `MAX_LENGTH` bytes.
pub fn encode(elements: &[Tlv<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    elements.iter().for_each(|element| element.write(&mut bytes));
    bytes
}

/// Returns what stands before the value of a resource of so many bytes; `None` if an element cannot have so many.
pub(crate) fn resource_header(id: u16, length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    write_header(RESOURCE, id, length, &mut bytes);
    (length <= MAX_LENGTH).then_some(bytes)
}

/// Returns the bytes of a value. Whole numbers are two's complement in the fewest of 1, 2, 4 or 8 bytes. This holds for
/// an Unsigned Integer too, so that readers which know only signed ones read the same.
pub(crate) fn encode_value(value: &Value) -> Cow<'_, [u8]> {
    match value {
        Value::String(text) | Value::CoreLink(text) => Cow::Borrowed(text.as_bytes()),
        Value::Integer(value) | Value::Time(value) => Cow::Owned(shortest(*value)),
        Value::UnsignedInteger(value) => {
            Cow::Owned(i64::try_from(*value).map_or_else(|_| value.to_be_bytes().to_vec(), shortest))
        }
        Value::Float(value) => Cow::Owned(value.to_be_bytes().to_vec()),
        Value::Boolean(value) => Cow::Owned(vec![u8::from(*value)]),
        Value::Opaque(bytes) => Cow::Borrowed(bytes),
        Value::ObjectLink(link) => Cow::Owned([link.object.to_be_bytes(), link.instance.to_be_bytes()].concat()),
    }
}

/// Reads the bytes of a resource of this type.
pub(crate) fn decode_value(expected: ResourceType, bytes: &[u8]) -> Result<Value, ValueError> {
    let length = || ValueError::Length { expected, length: bytes.len() };
    match expected {
        ResourceType::String => text(bytes).map(Value::String),
        ResourceType::CoreLink => text(bytes).map(Value::CoreLink),
        ResourceType::Integer => signed(bytes).map(Value::Integer).ok_or_else(length),
        ResourceType::Time => signed(bytes).map(Value::Time).ok_or_else(length),
        ResourceType::UnsignedInteger => unsigned(bytes).map(Value::UnsignedInteger).ok_or_else(length),
        ResourceType::Float => Value::float(float(bytes).ok_or_else(length)?),
        ResourceType::Boolean => match bytes {
            [0] => Ok(Value::Boolean(false)),
            [1] => Ok(Value::Boolean(true)),
            [other] => Err(ValueError::Type { expected, value: other.to_string() }),
            _ => Err(length()),
        },
        ResourceType::Opaque => Ok(Value::Opaque(bytes.to_vec())),
        ResourceType::ObjectLink => match bytes {
            [a, b, c, d] => Ok(Value::ObjectLink(ObjectLink {
                object: u16::from_be_bytes([*a, *b]),
                instance: u16::from_be_bytes([*c, *d]),
            })),
            _ => Err(length()),
        },
    }
}

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    parse(payload)?.iter().try_for_each(|element| place(element, reading))
}

pub(super) fn write(target: Path, values: &[Assignment]) -> Vec<u8> {
    let mut elements = Vec::new();
    for assignment in values {
        match (target.len(), assignment.path.instance(), assignment.path.resource_instance()) {
            (0 | 1, Some(instance), _) => add_resource(instance_of(&mut elements, instance), assignment),
            (4, _, Some(id)) => elements.push(Tlv::ResourceInstance { id, value: encode_value(&assignment.value) }),
            _ => add_resource(&mut elements, assignment),
        }
    }
    encode(&elements)
}

/// Adds the values of an element at the top. Its path is relative to the request, as far as its kind tells. Drafts of
/// LwM2M 1.0 let a device omit the level of instances for an object that has only one.
fn place(element: &Tlv<'_>, reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let asked = reading.single()?;
    let asked = if asked.len() == 1 && !matches!(element, Tlv::ObjectInstance { .. }) {
        reading.only_instance().unwrap_or(asked)
    } else {
        asked
    };
    let (above, id) = match element {
        Tlv::ObjectInstance { id, .. } => (asked.segments().get(..1), *id),
        Tlv::MultipleResource { id, .. } | Tlv::Resource { id, .. } => (asked.segments().get(..2), *id),
        Tlv::ResourceInstance { id, .. } => (asked.segments().get(..3), *id),
    };
    let path = above.and_then(Path::of).and_then(|above| above.child(id)).ok_or(TlvError::NoPlace(id))?;
    push(element, path, reading)
}

/// Adds the values of an element. The grammar of [`element`] bounds the recursion to three levels.
fn push(element: &Tlv<'_>, path: Path, reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    match element {
        Tlv::ObjectInstance { items, .. } | Tlv::MultipleResource { items, .. } => {
            if items.is_empty() && !reading.single()?.is_at_or_below(&path) {
                reading.check_requested(path)?;
            }
            items.iter().try_for_each(|item| {
                let below = path.child(item.id()).ok_or(DecodeError::NoResource(path))?;
                push(item, below, reading)
            })
        }
        Tlv::Resource { value, .. } | Tlv::ResourceInstance { value, .. } => {
            reading.push_bytes(path, value, decode_value)
        }
    }
}

/// Adds a resource, or adds a resource instance to the others of its resource. A shorter path has no value.
fn add_resource<'a>(elements: &mut Vec<Tlv<'a>>, assignment: &'a Assignment) {
    let Some(id) = assignment.path.resource() else { return };
    let value = encode_value(&assignment.value);
    match assignment.path.resource_instance() {
        None => elements.push(Tlv::Resource { id, value }),
        Some(instance) => instances_of(elements, id).push(Tlv::ResourceInstance { id: instance, value }),
    }
}

fn instance_of<'e, 'a>(elements: &'e mut Vec<Tlv<'a>>, id: u16) -> &'e mut Vec<Tlv<'a>> {
    let known =
        elements.iter().position(|element| matches!(element, Tlv::ObjectInstance { id: own, .. } if *own == id));
    items_at(elements, known, || Tlv::ObjectInstance { id, items: Vec::new() })
}

fn instances_of<'e, 'a>(elements: &'e mut Vec<Tlv<'a>>, id: u16) -> &'e mut Vec<Tlv<'a>> {
    let known =
        elements.iter().position(|element| matches!(element, Tlv::MultipleResource { id: own, .. } if *own == id));
    items_at(elements, known, || Tlv::MultipleResource { id, items: Vec::new() })
}

fn items_at<'e, 'a>(
    elements: &'e mut Vec<Tlv<'a>>,
    known: Option<usize>,
    new: impl FnOnce() -> Tlv<'a>,
) -> &'e mut Vec<Tlv<'a>> {
    let at = known.unwrap_or_else(|| {
        elements.push(new());
        elements.len() - 1
    });
    match &mut elements[at] {
        Tlv::ObjectInstance { items, .. } | Tlv::MultipleResource { items, .. } => items,
        Tlv::Resource { .. } | Tlv::ResourceInstance { .. } => unreachable!("the element was chosen by its kind"),
    }
}

impl<'a> Tlv<'a> {
    pub fn id(&self) -> u16 {
        match self {
            Self::ObjectInstance { id, .. }
            | Self::MultipleResource { id, .. }
            | Self::Resource { id, .. }
            | Self::ResourceInstance { id, .. } => *id,
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let (kind, value) = match self {
            Self::ObjectInstance { items, .. } => (OBJECT_INSTANCE, Cow::Owned(encode(items))),
            Self::MultipleResource { items, .. } => (MULTIPLE_RESOURCE, Cow::Owned(encode(items))),
            Self::Resource { value, .. } => (RESOURCE, Cow::Borrowed(&**value)),
            Self::ResourceInstance { value, .. } => (RESOURCE_INSTANCE, Cow::Borrowed(&**value)),
        };
        write_header(kind, self.id(), value.len(), bytes);
        bytes.extend_from_slice(&value);
    }
}

fn write_header(kind: u8, id: u16, length: usize, bytes: &mut Vec<u8>) {
    let wide = if id > 0xff { WIDE_ID } else { 0 };
    let length_bytes = match length {
        0..=7 => 0,
        8..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 3,
    };
    let short = if length_bytes == 0 { length as u8 } else { 0 };
    bytes.push(kind | wide | (length_bytes << 3) | short);
    bytes.extend_from_slice(&id.to_be_bytes()[usize::from(wide == 0)..]);
    bytes.extend_from_slice(&(length as u32).to_be_bytes()[4 - usize::from(length_bytes)..]);
}

/// Reads the first element, and returns the bytes behind it.
fn element(bytes: &[u8]) -> Result<(Tlv<'_>, &[u8]), TlvError> {
    let (header, rest) = bytes.split_first().ok_or(TlvError::Cut)?;
    let (id, rest) = number(rest, if header & WIDE_ID == 0 { 1 } else { 2 })?;
    let (length, rest) = match (header & LENGTH_BYTES) >> 3 {
        0 => (usize::from(header & SHORT_LENGTH), rest),
        bytes => number(rest, usize::from(bytes))?,
    };
    let (value, behind) = rest.split_at_checked(length).ok_or(TlvError::Cut)?;
    let id = u16::try_from(id).expect("an id was read from two bytes at most");
    Ok((content(header & KIND, id, value)?, behind))
}

fn content(kind: u8, id: u16, value: &[u8]) -> Result<Tlv<'_>, TlvError> {
    match kind {
        OBJECT_INSTANCE => {
            let is_resource = |bytes: &[u8]| matches!(bytes, [first, ..] if first & MULTIPLE_RESOURCE != 0);
            Ok(Tlv::ObjectInstance { id, items: items(value, is_resource, TlvError::InInstance)? })
        }
        MULTIPLE_RESOURCE => {
            let is_instance = |bytes: &[u8]| matches!(bytes, [first, ..] if first & KIND == RESOURCE_INSTANCE);
            Ok(Tlv::MultipleResource { id, items: items(value, is_instance, TlvError::InResource)? })
        }
        RESOURCE => Ok(Tlv::Resource { id, value: Cow::Borrowed(value) }),
        _ => Ok(Tlv::ResourceInstance { id, value: Cow::Borrowed(value) }),
    }
}

/// Reads the elements inside another one. Their kind is checked before they are read, which bounds the depth.
fn items(bytes: &[u8], allowed: impl Fn(&[u8]) -> bool, error: TlvError) -> Result<Vec<Tlv<'_>>, TlvError> {
    let mut items = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if !allowed(rest) {
            return Err(error);
        }
        let (item, behind) = element(rest)?;
        items.push(item);
        rest = behind;
    }
    Ok(items)
}

fn number(bytes: &[u8], length: usize) -> Result<(usize, &[u8]), TlvError> {
    let (digits, rest) = bytes.split_at_checked(length).ok_or(TlvError::Cut)?;
    Ok((digits.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest))
}

fn shortest(value: i64) -> Vec<u8> {
    let length = match value {
        -0x80..=0x7f => 1,
        -0x8000..=0x7fff => 2,
        -0x8000_0000..=0x7fff_ffff => 4,
        _ => 8,
    };
    value.to_be_bytes()[8 - length..].to_vec()
}

/// Reads a number of up to 8 bytes, because devices omit redundant leading bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.first()? & 0x80 != 0;
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value.get_mut(8_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i64::from_be_bytes(value))
}

fn unsigned(bytes: &[u8]) -> Option<u64> {
    matches!(bytes.len(), 1..=8).then(|| bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

fn float(bytes: &[u8]) -> Option<f64> {
    match bytes.len() {
        4 => Some(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        8 => Some(f64::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

fn text(bytes: &[u8]) -> Result<String, ValueError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ValueError::NotText)
}
