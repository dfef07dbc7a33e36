//! The keys of the records that one side writes.

/// The keys of one direction. `mac` is empty with AEAD, `iv` with CBC.
#[derive(Clone, Copy)]
pub(crate) struct DirectionKeys<'a> {
    pub mac: &'a [u8],
    pub key: &'a [u8],
    pub iv: &'a [u8],
}
