//! LwM2M CBOR: maps of ids down to the values (OMA LwM2M Core 1.2 section 7.4).

use std::collections::BTreeMap;

use minicbor::Decoder;
use minicbor::data::Type;

use lwm2m_core::lwm2m::path::Path;

use super::{ReadEntry, cbor};
use crate::value::PayloadValue;

/// Encodes values as one map for each level of their paths. Of two values of one path it keeps the later.
pub(super) fn encode(entries: &[ReadEntry<'_>]) -> Vec<u8> {
    let by_path: BTreeMap<Path, PayloadValue> = entries.iter().map(|entry| (entry.path, entry.value.typed())).collect();
    let level: Vec<(&[u16], &PayloadValue)> = by_path.iter().map(|(path, value)| (path.segments(), value)).collect();
    let mut writer = cbor::CborWriter::new(Vec::new());
    push_level(&mut writer, &level);
    writer.into_writer()
}

/// Decodes a payload into the values of resources and resource instances; `None` when it is not well-formed.
pub(super) fn decode(payload: &[u8]) -> Option<Vec<(Path, PayloadValue)>> {
    let mut decoder = Decoder::new(payload);
    let mut entries = Vec::new();
    level(&mut decoder, Path::ROOT, &mut entries)?;
    cbor::at_end(&decoder).then_some(entries)
}

/// Appends the map of one level, whose entries are in the order of their paths.
fn push_level(writer: &mut cbor::CborWriter, entries: &[(&[u16], &PayloadValue)]) {
    let groups: Vec<_> = entries.chunk_by(|one, next| one.0.first() == next.0.first()).collect();
    writer.map(groups.len() as u64).expect("memory takes it");
    for group in groups {
        let below: Vec<_> =
            group.iter().filter_map(|(ids, value)| ids.split_first().map(|(id, ids)| (*id, (ids, *value)))).collect();
        let Some((id, (ids, value))) = below.first() else { continue };
        writer.u16(*id).expect("memory takes it");
        if ids.is_empty() {
            cbor::push(writer, value);
        } else {
            push_level(writer, &below.iter().map(|(_, entry)| *entry).collect::<Vec<_>>());
        }
    }
}

/// Takes the map below a path. Each key adds an id or more to it, so that there are no more levels than a path has.
fn level(decoder: &mut Decoder<'_>, above: Path, entries: &mut Vec<(Path, PayloadValue)>) -> Option<()> {
    let length = decoder.map().ok()?;
    cbor::each(decoder, length, |decoder| {
        let path = key(decoder, above)?;
        if matches!(decoder.datatype().ok()?, Type::Map | Type::MapIndef) {
            return level(decoder, path, entries);
        }
        let value = cbor::value(decoder)?;
        (path.len() >= 3).then(|| entries.push((path, value)))
    })
}

/// Takes a key: an id, or an array of ids.
fn key(decoder: &mut Decoder<'_>, above: Path) -> Option<Path> {
    if !matches!(decoder.datatype().ok()?, Type::Array | Type::ArrayIndef) {
        return above.child(decoder.u16().ok()?);
    }
    let length = decoder.array().ok()?;
    let mut path = above;
    cbor::each(decoder, length, |decoder| {
        path = path.child(decoder.u16().ok()?)?;
        Some(())
    })?;
    (path != above).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::SimulatedValue;

    fn at(path: &str) -> Path {
        path.parse().expect("a path")
    }

    #[test]
    fn values_are_written_as_one_map_for_each_level() {
        let values = [
            ("/3/0/14", SimulatedValue::from("+02:00")),
            ("/1/0/1", SimulatedValue::Integer(60)),
            ("/1/0/24/0", SimulatedValue::ObjectLink { object: 11, instance: 0 }),
            ("/1/0/6", SimulatedValue::Boolean(false)),
        ];
        let entries: Vec<ReadEntry<'_>> =
            values.iter().map(|(path, value)| ReadEntry { path: at(path), value }).collect();
        let bytes = b"\xa2\x01\xa1\x00\xa3\x01\x18\x3c\x06\xf4\x18\x18\xa1\x00\x6411:0\x03\xa1\x00\xa1\x0e\x66+02:00";
        assert_eq!(encode(&entries), bytes);
        assert_eq!(encode(&[]), b"\xa0");

        let read = decode(bytes).expect("a payload");
        let paths: Vec<String> = read.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(paths, ["/1/0/1", "/1/0/6", "/1/0/24/0", "/3/0/14"]);
    }

    #[test]
    fn a_key_may_be_an_array_of_ids() {
        for payload in [
            &b"\xa1\x83\x03\x00\x09\x18\x51"[..],
            b"\xa1\x03\xa1\x00\xa1\x09\x18\x51",
            b"\xa1\x82\x03\x00\xa1\x09\x18\x51",
            b"\xbf\x9f\x03\x00\xff\xbf\x81\x09\x18\x51\xff\xff",
        ] {
            assert_eq!(decode(payload), Some(vec![(at("/3/0/9"), PayloadValue::Integer(81))]), "{payload:02x?}");
        }
        assert_eq!(decode(b"\xa1\x19\x0c\xe7\xa0"), Some(vec![]));
    }

    #[test]
    fn a_payload_that_has_no_such_form_is_refused() {
        for payload in [
            // A value at an instance.
            &b"\xa1\x82\x03\x00\x18\x51"[..],
            // Five ids.
            b"\xa1\x03\xa1\x00\xa1\x07\xa1\x00\xa1\x01\x05",
            b"\xa1\x03\xa1\x00\xa1\x20\x05",
            b"\xa1\x03\xa1\x00\xa1\x1a\x00\x01\x00\x00\x05",
            b"\xa1\x613\xa1\x00\xa1\x09\x18\x51",
            b"\xa1\x83\x03\x00\x07\x82\x01\x02",
            b"\xa1\x80\xa0",
            b"\xa1\x83\x03\x00\x09\x18\x51\x00",
            b"\xa1",
        ] {
            assert_eq!(decode(payload), None, "{payload:02x?}");
        }
    }
}
