//! A large body of a peer, fetched by Block2 (RFC 7959 section 2.4): each block by a request of its own.

use crate::coap::options::number;
use crate::coap::{Request, Response};

use super::{Block, BlockError, without_blocks};

/// A body that is not complete.
#[derive(Debug)]
pub struct Download {
    /// The request of every further block: that of the first one, without Observe (RFC 7959 section 2.6) and body.
    request: Request,
    /// The first response; its body is what has come up to now.
    response: Response,
    limit: usize,
    begun_again: bool,
}

#[derive(Debug, PartialEq)]
pub enum Fetched {
    /// Ask for the next block so.
    Next(Request),
    /// The whole response, as if it had come in one message.
    Complete(Response),
}

impl Download {
    /// Begins with a first response; one without further blocks is complete at once. `limit` is of the body, in bytes.
    pub fn begin(request: &Request, response: Response, limit: usize) -> Result<(Self, Fetched), BlockError> {
        let mut options = without_blocks(&request.options);
        options.remove(number::OBSERVE);
        let request = Request { method: request.method, options, payload: Vec::new() };
        let mut download = Self { request, response: Response::new(response.code), limit, begun_again: false };
        let fetched = download.first(response)?;
        Ok((download, fetched))
    }

    /// The response to the request of the next block.
    pub fn answered(&mut self, response: Response) -> Result<Fetched, BlockError> {
        let Some(block) = Block::of(&response.options, number::BLOCK2)? else {
            // The whole body in one message after all, or an error in the place of a block.
            return Ok(Fetched::Complete(response));
        };
        if !response.code.is_success() {
            return Ok(Fetched::Complete(response));
        }
        let tag = |response: &Response| response.options.first(number::ETAG).map(<[u8]>::to_vec);
        if tag(&response) != tag(&self.response) {
            return self.begin_again(response, block);
        }
        if block.offset() != self.response.payload.len() {
            return Err(BlockError::OutOfOrder);
        }
        self.append(response.payload, block)
    }

    fn first(&mut self, response: Response) -> Result<Fetched, BlockError> {
        let Some(block) = Block::of(&response.options, number::BLOCK2)? else {
            return Ok(Fetched::Complete(response));
        };
        if block.number != 0 {
            return Err(BlockError::OutOfOrder);
        }
        let Response { code, options, payload } = response;
        self.response = Response { code, options, payload: Vec::new() };
        self.append(payload, block)
    }

    /// The body is another one now (RFC 7959 section 2.4): from its first block, once.
    fn begin_again(&mut self, response: Response, block: Block) -> Result<Fetched, BlockError> {
        if std::mem::replace(&mut self.begun_again, true) {
            return Err(BlockError::Changed);
        }
        if block.number == 0 {
            return self.first(response);
        }
        let Response { code, options, .. } = response;
        self.response = Response { code, options, payload: Vec::new() };
        Ok(Fetched::Next(self.request_of(Block { number: 0, more: false, size: block.size })))
    }

    fn append(&mut self, payload: Vec<u8>, block: Block) -> Result<Fetched, BlockError> {
        if block.more && payload.len() != block.size.bytes() || payload.len() > block.size.bytes() {
            return Err(BlockError::OutOfOrder);
        }
        if self.response.payload.len() + payload.len() > self.limit {
            return Err(BlockError::TooLarge);
        }
        self.response.payload.extend(payload);
        if !block.more {
            return Ok(Fetched::Complete(self.take_response()));
        }
        let number = (self.response.payload.len() / block.size.bytes()) as u32;
        if number > Block::MAX_NUMBER {
            return Err(BlockError::TooLarge);
        }
        Ok(Fetched::Next(self.request_of(Block { number, more: false, size: block.size })))
    }

    fn request_of(&self, block: Block) -> Request {
        let mut request = self.request.clone();
        block.add_to(&mut request.options, number::BLOCK2);
        request
    }

    fn take_response(&mut self) -> Response {
        let code = self.response.code;
        let mut response = std::mem::replace(&mut self.response, Response::new(code));
        response.options.remove(number::BLOCK2);
        response.options.remove(number::SIZE2);
        response
    }
}
