//! LwM2M CBOR (LwM2M 1.2 section 7.4.7): maps in maps, their keys are ids or arrays of ids.

use minicbor::Decoder;
use minicbor::data::Type;

use crate::lwm2m::path::Path;

use super::{DecodeError, Reading, cbor};

pub(super) fn read(payload: &[u8], reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(payload);
    level(&mut decoder, Path::ROOT, reading)?;
    cbor::end(&decoder)
}

/// Every level makes the path longer, so that there are four at most.
fn level(decoder: &mut Decoder<'_>, above: Path, reading: &mut Reading<'_>) -> Result<(), DecodeError> {
    let mut left = decoder.map()?;
    while cbor::goes_on(decoder, &mut left)? {
        let path = key(decoder, above)?;
        match decoder.datatype()? {
            Type::Map | Type::MapIndef if path.len() < Path::MAX_SEGMENTS => level(decoder, path, reading)?,
            _ => {
                let item = cbor::scalar(decoder)?;
                reading.push_value(path, None, |expected| cbor::typed(item, expected))?;
            }
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
    if path == above { Err(minicbor::decode::Error::message("a key without ids").into()) } else { Ok(path) }
}

fn segment(decoder: &mut Decoder<'_>, above: Path) -> Result<Path, DecodeError> {
    let id = decoder.u16()?;
    above.child(id).ok_or(DecodeError::NoResource(above))
}
