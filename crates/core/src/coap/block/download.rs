//! A large body of a peer, fetched by Block2 (RFC 7959 section 2.4): each block by a request of its own.
//!
//! 1. The first response says that there is more; each further block is asked for in turn.
//! 2. Where the ETag or the Content-Format of a block differs from that of the earlier ones, the body is another one
//!    now: it is fetched from its first block, once. An option that is absent makes no statement (RFC 7252 section
//!    5.10.6.1).
//! 3. A body that becomes longer than is allowed is fetched to its end all the same, and discarded on the way: some
//!    devices take no other request before.
//!
//! The body of a FETCH names what is asked for, as the URI does for a GET (RFC 8132 section 2): each request of a
//! further block repeats it. A device that makes the answer anew for each block needs it, and one that keeps the answer
//! passes over it. A FETCH whose own body went by Block1 repeats none (RFC 7959 section 3.3): its device has kept the
//! body.

use crate::coap::options::number;
use crate::coap::{ExchangeError, Options, Request, Response};

use super::{Block, BlockError, without_blocks};

/// The number of bytes after which a discarded body is given up.
const LONGEST_DISCARDED: usize = 16 * 1024 * 1024;

/// A body that is not complete.
#[derive(Debug)]
pub(crate) struct Download {
    /// The request of every further block: that of the first one, without Observe (RFC 7959 section 2.6).
    request: Request,
    /// The first response. Its body is what has arrived so far, and empty once that exceeds the limit.
    response: Response,
    /// The number of bytes that have arrived so far.
    received: usize,
    limit: usize,
    begun_again: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) enum DownloadStep {
    /// Ask for the next block by this request.
    Next(Request),
    /// The whole response, as if it had come in one message.
    Complete(Response),
}

/// The first response to a request.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The response has the whole body.
    Complete(Response),
    /// The body has more blocks. The request asks for the next one.
    Partial(Download, Request),
}

impl Download {
    /// Begins with the first response. `request` makes the request that it answers, with the payload that the requests
    /// of further blocks repeat. `limit` is the longest body that is kept, in bytes.
    pub(crate) fn begin(
        request: impl FnOnce() -> Request,
        response: Response,
        limit: usize,
    ) -> Result<Begun, ExchangeError> {
        let Some(block) = Block::of(&response.options, number::BLOCK2)? else {
            return Ok(Begun::Complete(response));
        };
        if block.number != 0 {
            return Err(BlockError::OutOfOrder.into());
        }
        let request = request();
        let mut options = without_blocks(&request.options);
        options.remove(number::OBSERVE);
        let request = Request { options, ..request };
        let Response { code, options, payload } = response;
        let response = Response { code, options, payload: Vec::new() };
        let mut download = Self { request, response, received: 0, limit, begun_again: false };
        Ok(match download.append(payload, block)? {
            DownloadStep::Next(next) => Begun::Partial(download, next),
            DownloadStep::Complete(response) => Begun::Complete(response),
        })
    }

    /// Takes the response to the request of the next block.
    pub(crate) fn answered(&mut self, response: Response) -> Result<DownloadStep, ExchangeError> {
        let Some(block) = Block::of(&response.options, number::BLOCK2)? else {
            // The device sends the whole body in one message after all, or an error instead of a block.
            return Ok(DownloadStep::Complete(response));
        };
        if !response.code.is_success() {
            return Ok(DownloadStep::Complete(response));
        }
        if [number::ETAG, number::CONTENT_FORMAT].iter().any(|option| self.contradicts(&response.options, *option)) {
            return self.begin_again(response, block);
        }
        if block.offset() != self.received {
            return Err(BlockError::OutOfOrder.into());
        }
        self.learn(&response.options);
        self.append(response.payload, block)
    }

    /// Returns the payload that the request of each further block repeats.
    pub(crate) fn repeated_payload(&self) -> &[u8] {
        &self.request.payload
    }

    /// Returns the bytes that are kept of the body.
    pub(crate) fn held(&self) -> usize {
        self.response.payload.len()
    }

    /// Returns whether the blocks have an ETag, so that a block of another state of the resource would be noticed.
    pub(crate) fn has_etag(&self) -> bool {
        self.response.options.contains(number::ETAG)
    }

    fn contradicts(&self, options: &Options, option: u16) -> bool {
        let (earlier, later) = (self.response.options.first(option), options.first(option));
        earlier.zip(later).is_some_and(|(earlier, later)| earlier != later)
    }

    /// Adds the options that only a later block states.
    fn learn(&mut self, later: &Options) {
        for option in [number::ETAG, number::CONTENT_FORMAT] {
            if let (None, Some(value)) = (self.response.options.first(option), later.first(option)) {
                self.response.options.add(option, value);
            }
        }
    }

    /// Fetches the body from its first block again, because it has changed (RFC 7959 section 2.4). This is done once.
    fn begin_again(&mut self, response: Response, block: Block) -> Result<DownloadStep, ExchangeError> {
        if std::mem::replace(&mut self.begun_again, true) {
            return Err(BlockError::Changed.into());
        }
        let Response { code, options, payload } = response;
        self.response = Response { code, options, payload: Vec::new() };
        self.received = 0;
        if block.number == 0 {
            return self.append(payload, block);
        }
        Ok(DownloadStep::Next(self.request_of(Block { number: 0, more: false, size: block.size })))
    }

    fn append(&mut self, payload: Vec<u8>, block: Block) -> Result<DownloadStep, ExchangeError> {
        if block.more && payload.len() != block.size.bytes() || payload.len() > block.size.bytes() {
            return Err(BlockError::OutOfOrder.into());
        }
        self.received += payload.len();
        if self.received > self.limit {
            self.response.payload = Vec::new();
        } else {
            self.response.payload.extend(payload);
        }
        if !block.more {
            return self.complete();
        }
        let number = (self.received / block.size.bytes()) as u32;
        if number > Block::MAX_NUMBER || self.received >= LONGEST_DISCARDED.max(self.limit) {
            return Err(BlockError::TooLarge.into());
        }
        Ok(DownloadStep::Next(self.request_of(Block { number, more: false, size: block.size })))
    }

    fn complete(&mut self) -> Result<DownloadStep, ExchangeError> {
        if self.received > self.limit {
            return Err(ExchangeError::Discarded { size: self.received, limit: self.limit });
        }
        let code = self.response.code;
        let mut response = std::mem::replace(&mut self.response, Response::new(code));
        response.options.remove(number::BLOCK2);
        response.options.remove(number::SIZE2);
        Ok(DownloadStep::Complete(response))
    }

    fn request_of(&self, block: Block) -> Request {
        let mut request = self.request.clone();
        block.add_to(&mut request.options, number::BLOCK2);
        request
    }
}
