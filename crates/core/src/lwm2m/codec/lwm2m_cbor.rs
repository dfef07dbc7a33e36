//! LwM2M CBOR (LwM2M 1.2 section 7.4.7): maps in maps, whose keys are ids or arrays of ids.

use std::collections::HashSet;
use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, decode, encode};

use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

use super::{Assignment, DecodeError, Patch, Reading, cbor};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(payload);
    level(&mut decoder, Path::ROOT, reading)?;
    cbor::end(&decoder)
}

/// Reads one map. Every level makes the path longer, so that there are four at most.
fn level(decoder: &mut Decoder<'_>, above: Path, reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut paths = HashSet::new();
    let mut left = decoder.map()?;
    while cbor::goes_on(decoder, &mut left)? {
        let path = key(decoder, above)?;
        if !paths.insert(path) {
            return Err(decode::Error::message("a map has a key twice").into());
        }
        match decoder.datatype()? {
            Type::Map | Type::MapIndef if path.len() < Path::MAX_SEGMENTS => level(decoder, path, reading)?,
            _ => reading.push(path, None, cbor::scalar(decoder)?)?,
        }
    }
    Ok(())
}

fn key(decoder: &mut Decoder<'_>, above: Path) -> Result<Path, DecodeError> {
    if !matches!(decoder.datatype()?, Type::Array | Type::ArrayIndef) {
        return segment(decoder, above);
    }
    let mut path = above;
    let mut left = decoder.array()?;
    while cbor::goes_on(decoder, &mut left)? {
        path = segment(decoder, path)?;
    }
    if path == above { Err(decode::Error::message("a key has no ids").into()) } else { Ok(path) }
}

fn segment(decoder: &mut Decoder<'_>, above: Path) -> Result<Path, DecodeError> {
    let id = decoder.u16()?;
    above.child(id).ok_or(DecodeError::NoResource(above))
}

/// Writes the values of a write or a create under one key, the path of the request.
pub(super) fn write(target: Path, values: &[Assignment]) -> Vec<u8> {
    let mut root = PathNode::default();
    values.iter().for_each(|assignment| root.insert(ids_below(&assignment.path, target), &assignment.value));
    written(|encoder| {
        encoder.map(1)?;
        if let [object] = target.segments() {
            encoder.u16(*object)?;
        } else {
            encoder.array(target.len() as u64)?;
            for id in target.segments() {
                encoder.u16(*id)?;
            }
        }
        root.write(encoder)
    })
}

/// Writes the values of a composite write in maps from the object id down. The format holds no removals.
pub(super) fn write_patches(patches: &[Patch]) -> Vec<u8> {
    let mut root = PathNode::default();
    for Patch { path, value } in patches {
        if let Some(value) = value {
            root.insert(path.segments(), value);
        }
    }
    written(|encoder| root.write(encoder))
}

type WriteResult = Result<(), encode::Error<Infallible>>;

fn written(write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> WriteResult) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Encoder::new(&mut bytes)).expect("a vector takes all that is written");
    bytes
}

fn ids_below(path: &Path, base: Path) -> &[u16] {
    path.segments().get(base.len()..).unwrap_or(&[])
}

/// Holds a value, or a map of what is below an id, with the ids in the order of their first appearance.
#[derive(Default)]
struct PathNode<'v> {
    value: Option<&'v Value>,
    below: Vec<(u16, PathNode<'v>)>,
}

impl<'v> PathNode<'v> {
    fn insert(&mut self, ids: &[u16], value: &'v Value) {
        let Some((first, rest)) = ids.split_first() else {
            self.value = Some(value);
            return;
        };
        let at = self.below.iter().position(|(id, _)| id == first).unwrap_or_else(|| {
            self.below.push((*first, PathNode::default()));
            self.below.len() - 1
        });
        self.below[at].1.insert(rest, value);
    }

    fn write(&self, encoder: &mut Encoder<&mut Vec<u8>>) -> WriteResult {
        if let Some(value) = self.value {
            return cbor::write_item(value, encoder);
        }
        encoder.map(self.below.len() as u64)?;
        for (id, node) in &self.below {
            encoder.u16(*id)?;
            node.write(encoder)?;
        }
        Ok(())
    }
}
