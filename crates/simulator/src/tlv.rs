//! Records of type, identifier, length and value (OMA LwM2M 1.0 section 6.4.3).

/// The type of a record: the upper two bits of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlvKind {
    ObjectInstance,
    ResourceInstance,
    MultipleResource,
    Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlvRecord<'a> {
    pub kind: TlvKind,
    pub id: u16,
    pub value: &'a [u8],
}

/// Appends one record. A value has less than 2^24 bytes: more fits no datagram.
pub(super) fn push(out: &mut Vec<u8>, kind: TlvKind, id: u16, value: &[u8]) {
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

/// The records of one level; `None` when the last one is cut short.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<TlvRecord<'_>>> {
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
