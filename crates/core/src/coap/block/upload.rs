//! A large body of the gateway, sent by Block1 (RFC 7959 section 2.3 and 2.9).
//!
//! 1. The first block, with the size of the whole as Size1.
//! 2. 2.31 asks for the next one; the peer may ask for smaller blocks from there on.
//! 3. 4.13 to the first block with a smaller size, and 4.08 once, begin again.
//! 4. A success without Block1 before the last block, or 2.31 to the last one, means that the peer has not got the
//!    whole.
//! 5. Anything else is the answer.
//!
//! A body that is supplied part by part waits at each block whose bytes are not there: [`UploadStep::Wait`].
//!
//! 4.13 to a request that was sent in one message asks for blocks, too (section 2.9.3): [`smaller_size`].

use crate::coap::options::number;
use crate::coap::{Code, Request, Response};

use super::body::Body;
use super::{Block, BlockError, BlockSize, without_blocks};

/// A body that is sent. It is kept once, or supplied part by part; each block is a copy of its part.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The request, without a payload.
    request: Request,
    body: Body,
    /// The offset of the block in flight, in bytes.
    offset: usize,
    size: BlockSize,
    begun_again: bool,
}

/// The next step after a response to a block.
#[derive(Debug, PartialEq)]
pub(crate) enum UploadStep {
    /// Send this request next.
    Next(Request),
    /// The bytes of the next block are needed first.
    Wait(WantedPart),
    /// The response is the answer to the whole.
    Answer,
}

/// Bytes that the owner of a supplied body has to supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedPart {
    pub offset: usize,
    pub length: usize,
}

impl Upload {
    pub(crate) fn new(request: Request, size: BlockSize) -> Self {
        let Request { method, options, payload } = request;
        Self::of(Request { method, options, payload: Vec::new() }, Body::Whole(payload), size)
    }

    /// Sends this body, whatever the payload of the request is.
    pub(crate) fn of(request: Request, body: Body, size: BlockSize) -> Self {
        Self { request, body, offset: 0, size, begun_again: false }
    }

    /// Returns the request that carries the block at the offset, or the bytes that are needed for it.
    pub(crate) fn block(&self) -> UploadStep {
        let end = self.end();
        let payload = match self.body.get(self.offset, end) {
            Ok(payload) => payload,
            Err(offset) => {
                let length = self.body.supplied_before(end).saturating_sub(offset);
                return UploadStep::Wait(WantedPart { offset, length });
            }
        };
        let mut options = without_blocks(&self.request.options);
        let number = (self.offset / self.size.bytes()) as u32;
        Block { number, more: end < self.body.len(), size: self.size }.add_to(&mut options, number::BLOCK1);
        if self.offset == 0 {
            options.add_uint(number::SIZE1, u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        }
        UploadStep::Next(Request { method: self.request.method, options, payload })
    }

    /// Takes the bytes that the block at the offset waits for, and returns the next step.
    pub(crate) fn supply(&mut self, bytes: &[u8]) -> UploadStep {
        if let Err(missing) = self.body.get(self.offset, self.end()) {
            self.body.supply(missing, bytes, self.offset);
        }
        self.block()
    }

    /// Returns whether the next block waits for the bytes of a supplied body from this offset on.
    pub(crate) fn waits_at(&self, offset: usize) -> bool {
        self.body.get(self.offset, self.end()).is_err_and(|missing| missing == offset)
    }

    /// Returns the number of bytes of a supplied body that the peer has.
    pub(crate) fn sent(&self) -> usize {
        self.body.supplied_before(self.offset)
    }

    /// Returns whether the block at the offset is the first one.
    pub(crate) fn is_at_beginning(&self) -> bool {
        self.offset == 0
    }

    /// Takes the response to the block in flight, and returns the next step.
    pub(crate) fn answered(&mut self, response: &Response) -> Result<UploadStep, BlockError> {
        let block = Block::of(&response.options, number::BLOCK1)?;
        let smaller = block.map(|block| block.size).filter(|size| *size < self.size);
        let last = self.end() == self.body.len();
        match response.code {
            Code::REQUEST_ENTITY_TOO_LARGE if self.offset == 0 && smaller.is_some() => Ok(self.begin_again(smaller)),
            Code::REQUEST_ENTITY_INCOMPLETE if !self.begun_again => {
                self.begun_again = true;
                Ok(self.begin_again(smaller))
            }
            // A peer without atomic transfer answers each block with the code of success (RFC 7959 section 2.3).
            code if !last && (code == Code::CONTINUE || (code.is_success() && block.is_some())) => {
                self.offset = self.end();
                self.size = smaller.unwrap_or(self.size);
                if self.offset / self.size.bytes() > Block::MAX_NUMBER as usize {
                    return Err(BlockError::TooLarge);
                }
                Ok(self.block())
            }
            Code::CONTINUE => Err(BlockError::Unfinished),
            code if !last && code.is_success() => Err(BlockError::Unfinished),
            _ => Ok(UploadStep::Answer),
        }
    }

    fn begin_again(&mut self, smaller: Option<BlockSize>) -> UploadStep {
        self.offset = 0;
        self.size = smaller.unwrap_or(self.size);
        self.block()
    }

    fn end(&self) -> usize {
        (self.offset + self.size.bytes()).min(self.body.len())
    }
}

/// Returns the block size for a body of this many bytes that was too large for one message: the one that the response
/// proposes, or half of the size that was sent. Returns `None` if blocks do not help: the body is as small as the
/// smallest block, or the peer states by Size1 that it cannot take this many bytes in blocks either.
pub(crate) fn smaller_size(length: usize, response: &Response) -> Option<BlockSize> {
    let fits = |size: &BlockSize| size.bytes() < length;
    let hint = Block::of(&response.options, number::BLOCK1).ok().flatten().map(|block| block.size);
    let most = response.options.uint(number::SIZE1).ok().flatten();
    if hint.is_none() && most.is_some_and(|most| (most as usize) < length) {
        return None;
    }
    hint.filter(fits).or_else(|| Some(BlockSize::at_most(length / 2)).filter(fits))
}
