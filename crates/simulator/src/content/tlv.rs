//! Records of type, identifier, length and value (OMA LwM2M 1.0 section 6.4.3), and what they say of the objects.

use std::collections::BTreeMap;

use lwm2m_core::lwm2m::path::Path;

use super::{WrittenChange, WrittenEntry};
use crate::objects::{ResourceAccess, SimulatedInstance, SimulatedResource};
use crate::value::{PayloadValue, SimulatedValue};

/// The type of a record: the upper two bits of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlvKind {
    ObjectInstance,
    ResourceInstance,
    MultipleResource,
    Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TlvRecord<'a> {
    kind: TlvKind,
    id: u16,
    value: &'a [u8],
}

pub(crate) fn encode_instances(instances: &BTreeMap<u16, SimulatedInstance>) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, instance) in instances {
        push(&mut out, TlvKind::ObjectInstance, *id, &encode_instance(instance));
    }
    out
}

/// Returns the resources of an instance that can be read.
pub(crate) fn encode_instance(instance: &SimulatedInstance) -> Vec<u8> {
    instance.iter().flat_map(|(id, resource)| encode_resource(*id, resource)).collect()
}

/// Returns a resource that can be read; nothing for another one.
pub(crate) fn encode_resource(id: u16, resource: &SimulatedResource) -> Vec<u8> {
    let mut out = Vec::new();
    match resource {
        SimulatedResource::Single(ResourceAccess::Read | ResourceAccess::ReadWrite, value) => {
            push(&mut out, TlvKind::Resource, id, &value.bytes());
        }
        SimulatedResource::Multiple(ResourceAccess::Read | ResourceAccess::ReadWrite, values) => {
            let inner: Vec<u8> =
                values.iter().flat_map(|(index, value)| encode_resource_instance(*index, value)).collect();
            push(&mut out, TlvKind::MultipleResource, id, &inner);
        }
        SimulatedResource::Single(ResourceAccess::Write, _)
        | SimulatedResource::Multiple(ResourceAccess::Write, _)
        | SimulatedResource::Executable { .. } => {}
    }
    out
}

pub(crate) fn encode_resource_instance(index: u16, value: &SimulatedValue) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out, TlvKind::ResourceInstance, index, &value.bytes());
    out
}

/// Returns the instance id in the payload of a Create, if there is one; the outer `None` when it is not well-formed.
pub(crate) fn named_instance(payload: &[u8]) -> Option<Option<u16>> {
    match records(payload)?.as_slice() {
        [TlvRecord { kind: TlvKind::ObjectInstance, id, .. }] => Some(Some(*id)),
        _ => Some(None),
    }
}

/// Decodes what a payload writes to an instance, a resource or a resource instance; `None` when it is not well-formed.
pub(super) fn written_entries(target: Path, payload: &[u8]) -> Option<Vec<WrittenEntry>> {
    let records = records(payload)?;
    match (records.as_slice(), target.segments()) {
        ([TlvRecord { kind: TlvKind::ObjectInstance, id, value }], [_, instance]) if id == instance => {
            written_entries(target, value)
        }
        (records, [_, _]) => {
            let entries = records.iter().map(|record| resource_entries(target, *record));
            Some(entries.collect::<Option<Vec<_>>>()?.concat())
        }
        ([record], [_, _, resource]) if record.id == *resource => resource_entries(target.parent(), *record),
        ([record], [_, _, _, index]) if record.id == *index => Some(vec![instance_entry(target.parent(), *record)?]),
        _ => None,
    }
}

fn resource_entries(instance: Path, record: TlvRecord<'_>) -> Option<Vec<WrittenEntry>> {
    let path = instance.child(record.id)?;
    match record.kind {
        TlvKind::Resource => Some(vec![value_entry(path, record)]),
        TlvKind::MultipleResource => {
            let values = records(record.value)?;
            if values.is_empty() {
                return Some(vec![WrittenEntry { path, change: WrittenChange::NoInstances }]);
            }
            values.into_iter().map(|value| instance_entry(path, value)).collect()
        }
        TlvKind::ObjectInstance | TlvKind::ResourceInstance => None,
    }
}

fn instance_entry(resource: Path, record: TlvRecord<'_>) -> Option<WrittenEntry> {
    (record.kind == TlvKind::ResourceInstance).then_some(())?;
    Some(value_entry(resource.child(record.id)?, record))
}

fn value_entry(path: Path, record: TlvRecord<'_>) -> WrittenEntry {
    WrittenEntry { path, change: WrittenChange::Value(PayloadValue::TlvBytes(record.value.to_vec())) }
}

/// Appends one record. A value has less than 2^24 bytes: more fits no datagram.
fn push(out: &mut Vec<u8>, kind: TlvKind, id: u16, value: &[u8]) {
    let kind_bits = match kind {
        TlvKind::ObjectInstance => 0b0000_0000,
        TlvKind::ResourceInstance => 0b0100_0000,
        TlvKind::MultipleResource => 0b1000_0000,
        TlvKind::Resource => 0b1100_0000,
    };
    let id_bits = if id > 0xff { 0b0010_0000 } else { 0 };
    let length = (value.len() as u32).to_be_bytes();
    let (length_bits, length_bytes) = match value.len() {
        0..=7 => (length[3], &length[4..]),
        8..=0xff => (0b0000_1000, &length[3..]),
        0x100..=0xffff => (0b0001_0000, &length[2..]),
        _ => (0b0001_1000, &length[1..]),
    };
    out.push(kind_bits | id_bits | length_bits);
    out.extend(id.to_be_bytes().iter().skip(usize::from(id <= 0xff)));
    out.extend(length_bytes);
    out.extend(value);
}

/// Returns the records of one level; `None` when the last one is cut short.
fn records(mut bytes: &[u8]) -> Option<Vec<TlvRecord<'_>>> {
    let mut records = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        let kind = match first >> 6 {
            0 => TlvKind::ObjectInstance,
            1 => TlvKind::ResourceInstance,
            2 => TlvKind::MultipleResource,
            _ => TlvKind::Resource,
        };
        let (id, rest) = number(rest, if first & 0b0010_0000 == 0 { 1 } else { 2 })?;
        let (length, rest) = match (first >> 3) & 0b11 {
            0 => (u32::from(first & 0b111), rest),
            size => number(rest, usize::from(size))?,
        };
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        records.push(TlvRecord { kind, id: u16::try_from(id).ok()?, value });
        bytes = rest;
    }
    Some(records)
}

fn number(bytes: &[u8], size: usize) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_at_checked(size)?;
    Some((number.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_what_was_written_whatever_their_length() {
        for length in [0, 7, 8, 255, 256, 70_000] {
            let value = vec![0xab; length];
            let mut bytes = Vec::new();
            push(&mut bytes, TlvKind::Resource, 9, &value);
            push(&mut bytes, TlvKind::ObjectInstance, 5700, &value);

            let expected = [
                TlvRecord { kind: TlvKind::Resource, id: 9, value: &value },
                TlvRecord { kind: TlvKind::ObjectInstance, id: 5700, value: &value },
            ];
            assert_eq!(records(&bytes), Some(expected.to_vec()));
            assert_eq!(records(&bytes[..bytes.len() - usize::from(length > 0)]).is_some(), length == 0);
        }
    }

    /// OMA LwM2M 1.0 section 6.4.3.1: the manufacturer, and the available power sources, of the example device.
    #[test]
    fn the_example_of_the_specification_is_read() {
        let bytes = b"\xc8\x00\x14Open Mobile Alliance\x86\x06\x41\x00\x01\x41\x01\x05";
        let power_sources: &[u8] = b"\x41\x00\x01\x41\x01\x05";
        assert_eq!(
            records(bytes),
            Some(vec![
                TlvRecord { kind: TlvKind::Resource, id: 0, value: b"Open Mobile Alliance" },
                TlvRecord { kind: TlvKind::MultipleResource, id: 6, value: power_sources },
            ])
        );
    }
}
