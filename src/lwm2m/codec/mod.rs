//! Content formats: from a device's payload to a flat list of entries, and from values to a payload (mapping contract,
//! section 4). Nothing here trusts the payload: every path must lie where the request went, every value must be of its
//! resource's type, and what is left over is an error.

pub mod tlv;

use thiserror::Error;

use super::operation::{Assignment, Context};
use super::path::Path;
use super::value::Value;

/// One resource or resource instance of a payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub path: Path,
    pub value: Value,
    /// Seconds since 1970, when the payload has a time for it.
    pub time: Option<f64>,
    /// There is no definition: the value is the bytes as they came.
    pub undefined: bool,
}

#[derive(Clone, Debug, PartialEq, Error)]
pub enum DecodeError {
    #[error("x")]
    X,
}

/// Reads the payload of an answer to a request of this path. Without a content format it is text.
pub fn decode(
    request: Path,
    content_format: Option<u16>,
    payload: &[u8],
    context: Context<'_>,
) -> Result<Vec<Entry>, DecodeError> {
    todo!()
}

pub fn encode(target: Path, values: &[Assignment], announced: &[u16]) -> (u16, Vec<u8>) {
    todo!()
}

pub fn best_to_read(path: Path, announced: &[u16]) -> Option<u16> {
    todo!()
}
