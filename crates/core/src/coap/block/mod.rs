//! Block-wise transfer (RFC 7959): a body in parts, in both directions and both roles.
//!
//! `upload` sends a large body of ours by Block1 (`body` has its bytes), `download` fetches a large one by Block2,
//! `assembly` puts together what peers send by Block1, `concluded` remembers what such a body was answered, and `slice`
//! cuts our answers for Block2. Each is a plain state; `Endpoint` moves the messages.

mod assembly;
mod body;
mod classes;
mod concluded;
mod download;
mod slice;
mod upload;

pub(crate) use assembly::{Assembled, Assemblies};
pub(super) use body::Body;
pub(crate) use body::SuppliedBody;
pub(crate) use concluded::{Concluded, LastBlock, Repeated};
pub(super) use download::Begun;
pub(crate) use download::{Download, DownloadStep};
pub(super) use slice::slice;
pub(crate) use upload::{Upload, UploadStep, WantedPart, smaller_size};

use thiserror::Error;

use super::Options;
use super::options::number;

/// The value of a Block1 or Block2 option (RFC 7959 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Below 2^20.
    pub number: u32,
    pub more: bool,
    pub size: BlockSize,
}

/// 16 to 1024 bytes, as the exponent of two that the option carries: SZX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockSize(u8);

/// The reason for the failure of a block-wise transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum BlockError {
    #[error("a block option is malformed")]
    Malformed,
    #[error("a block is missing, or does not have the size that its option states")]
    OutOfOrder,
    #[error("the body changed while it was fetched, twice")]
    Changed,
    #[error("the body is larger than the limit")]
    TooLarge,
    #[error("too many block-wise transfers are in progress")]
    TooMany,
    #[error("the bodies in transfer from all devices exceed coap.block_transfer_bytes")]
    NoRoom,
    /// The oldest body of a peer that is not registered makes room for a newer one.
    #[error("the body was evicted for a newer one")]
    Evicted,
    #[error("the device answered before it had the whole body")]
    Unfinished,
    #[error("newer notifications come faster than the body of one can be fetched")]
    Superseded,
}

impl BlockSize {
    pub(crate) const LARGEST: BlockSize = BlockSize(6);

    /// Returns the largest block size of at most so many bytes; 16 bytes at the least.
    pub(crate) fn at_most(bytes: usize) -> Self {
        let exponent = bytes.clamp(16, 1024).ilog2() - 4;
        Self(exponent as u8)
    }

    pub(crate) const fn bytes(self) -> usize {
        16 << self.0
    }
}

impl Block {
    pub(crate) const MAX_NUMBER: u32 = (1 << 20) - 1;

    /// Reads the option of this number, if it is there.
    pub(crate) fn of(options: &Options, option: u16) -> Result<Option<Self>, BlockError> {
        let Some(value) = options.uint(option).map_err(|_| BlockError::Malformed)? else { return Ok(None) };
        let (number, exponent) = (value >> 4, (value & 0x07) as u8);
        // The option has at most three bytes, and SZX 7 is reserved.
        if number > Self::MAX_NUMBER || exponent > BlockSize::LARGEST.0 {
            return Err(BlockError::Malformed);
        }
        Ok(Some(Self { number, more: value & 0x08 != 0, size: BlockSize(exponent) }))
    }

    pub(crate) fn add_to(self, options: &mut Options, option: u16) {
        options.add_uint(option, (self.number << 4) | (u32::from(self.more) << 3) | u32::from(self.size.0));
    }

    /// Returns the offset of the block in the body, in bytes.
    pub(crate) fn offset(self) -> usize {
        self.number as usize * self.size.bytes()
    }
}

/// Returns the options without those of block-wise transfer.
fn without_blocks(options: &Options) -> Options {
    let mut options = options.clone();
    for option in [number::BLOCK1, number::BLOCK2, number::SIZE1, number::SIZE2] {
        options.remove(option);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_option_is_number_more_and_size() {
        let mut options = Options::new();
        let block = Block { number: 3, more: true, size: BlockSize::at_most(128) };
        block.add_to(&mut options, number::BLOCK1);
        assert_eq!(options.first(number::BLOCK1), Some(&[0x3b][..]));
        assert_eq!(Block::of(&options, number::BLOCK1), Ok(Some(block)));
        assert_eq!(block.offset(), 384);
    }

    #[test]
    fn the_reserved_size_and_a_number_beyond_20_bits_are_malformed() {
        for value in [0x07, 0x0f, 1 << 24, u32::MAX] {
            let mut options = Options::new();
            options.add_uint(number::BLOCK2, value);
            assert_eq!(Block::of(&options, number::BLOCK2), Err(BlockError::Malformed), "{value:#x}");
        }
    }

    #[test]
    fn a_size_is_the_power_of_two_that_fits() {
        for (bytes, size) in [(0, 16), (16, 16), (100, 64), (1023, 512), (1024, 1024), (5000, 1024)] {
            assert_eq!(BlockSize::at_most(bytes).bytes(), size, "{bytes}");
        }
    }
}
