//! Serves images to devices: `GET /fw/KEY/NAME`, block by block (RFC 7959 section 2.4).
//!
//! 1. A device asks for a block, any one at any time. An unknown key is answered 4.04, as everything unknown is.
//! 2. If the part of the image was read lately, the block is answered at once; else when the shell has read it. The
//!    endpoint acknowledges a request that waits long, and its response is then a separate one.
//! 3. Each block has an ETag, which is the same as long as the image is, and the size of the image (Size2).
//!
//! A GET has no effect here, so that no message of it is remembered (RFC 7252 section 4.5): a duplicate gets the same
//! block. While the first one waits a duplicate is dropped.

use std::time::Duration;

use crate::coap::options::{format, number};
use crate::coap::{Block, BlockSize, Code, Message, Options, Request, RequestId, Response};

use super::PendingBlock;
use super::uri::PATH;
use crate::gateway::context::Context;
use crate::gateway::diagnostic::unavailable;
use crate::gateway::firmware::ImageEvent;
use crate::gateway::firmware::image::{Image, ImageError};
use crate::gateway::firmware::images::{ImageBytes, ImageConsumer, Wanted};
use crate::gateway::intake::received_request::ReceivedRequest;

/// Max-Age of the answer to a device whose block could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Bytes of the ETag, from the beginning of the digest. An ETag has at most 8 (RFC 7252 section 5.10.6).
const ETAG_LENGTH: usize = 8;

/// Returns whether this message asks for a block of an image that is offered, whoever sends it.
pub(in crate::gateway) fn is_pull(context: &Context, message: &Message) -> bool {
    let mut path = message.options.all(number::URI_PATH);
    let (Some(first), Some(key), Some(_), None) = (path.next(), path.next(), path.next(), path.next()) else {
        return false;
    };
    message.code == Code::GET && first == PATH.as_bytes() && context.pulls.has(key)
}

/// Answers a request for a block, now or when the shell has read it. Returns the event for the job.
pub(in crate::gateway) fn handle(
    context: &mut Context,
    received: ReceivedRequest,
    (key, name): (&str, &str),
) -> Option<ImageEvent> {
    let ReceivedRequest { id, peer, request } = received;
    let identity = context.identity(peer);
    let pull = context.pulls.get(key, identity.as_deref()).filter(|pull| pull.name.as_str() == name);
    let Some((job, image)) = pull.map(|pull| (pull.job, pull.image)) else {
        return refuse(context, id, Code::NOT_FOUND);
    };
    let block = match asked_for(request, BlockSize::at_most(context.config.coap.block_size)) {
        Ok(block) if block.offset() as u64 >= image.size => return refuse(context, id, Code::BAD_REQUEST),
        Ok(block) => block,
        Err(code) => return refuse(context, id, code),
    };
    let message = context.coap.message_of(id)?;
    if context.images.is_waited_for_by(&message) {
        context.coap.drop_request(id);
        return None;
    }
    let pending = PendingBlock { request: id, message, job, block, image };
    let name = name.parse().ok()?;
    let wanted = Wanted { name, image, offset: block.offset() as u64, length: block.size.bytes() };
    match context.read_image(ImageConsumer::Pull(pending), wanted) {
        ImageBytes::Here(bytes) => serve(context, pending, bytes),
        ImageBytes::Later => None,
        ImageBytes::Busy => {
            context.respond(id, unavailable("busy", RETRY_AFTER));
            None
        }
    }
}

/// Answers a request whose block the shell has read, or cannot read. Returns the event for the job.
pub(in crate::gateway) fn have_read(
    context: &mut Context,
    pending: PendingBlock,
    result: Result<Vec<u8>, ImageError>,
) -> Option<ImageEvent> {
    let error = match result {
        Ok(bytes) => return serve(context, pending, bytes),
        Err(error) => error,
    };
    let refusal = match error {
        ImageError::Unreadable => unavailable("unreadable", RETRY_AFTER),
        ImageError::NotFound
        | ImageError::NotRegular
        | ImageError::Empty
        | ImageError::TooLarge
        | ImageError::Changed => Response::new(Code::NOT_FOUND),
    };
    context.respond(pending.request, refusal);
    Some(ImageEvent::PullFailed { job: pending.job, error })
}

/// Answers with a block, unless the offer was withdrawn meanwhile.
fn serve(context: &mut Context, pending: PendingBlock, bytes: Vec<u8>) -> Option<ImageEvent> {
    let PendingBlock { request, job, block, image, .. } = pending;
    let Some(fetched) = context.pulls.fetched(job, block.offset() as u64, bytes.len() as u64) else {
        return refuse(context, request, Code::NOT_FOUND);
    };
    let more = block.offset() as u64 + (bytes.len() as u64) < image.size;
    let mut response = Response::new(Code::CONTENT);
    response.options.add(number::ETAG, etag(&image));
    response.options.add_uint(number::CONTENT_FORMAT, format::OCTET_STREAM.into());
    Block { more, ..block }.add_to(&mut response.options, number::BLOCK2);
    response.options.add_uint(number::SIZE2, u32::try_from(image.size).unwrap_or(u32::MAX));
    response.payload = bytes;
    context.respond(request, response);
    Some(ImageEvent::Pulled { job, fetched })
}

fn refuse(context: &mut Context, request: RequestId, code: Code) -> Option<ImageEvent> {
    context.respond(request, Response::new(code));
    None
}

/// Returns the block that a request asks for: without a Block2 option the first one, of this size.
fn asked_for(request: &Request, size: BlockSize) -> Result<Block, Code> {
    let options = &request.options;
    if options.contains(number::URI_QUERY) {
        return Err(Code::NOT_FOUND);
    }
    if request.method != Code::GET {
        return Err(Code::METHOD_NOT_ALLOWED);
    }
    if options.contains(number::BLOCK1) {
        return Err(Code::BAD_OPTION);
    }
    check_accept(options)?;
    let block = Block::of(options, number::BLOCK2).map_err(|_| Code::BAD_OPTION)?;
    Ok(block.unwrap_or(Block { number: 0, more: false, size }))
}

fn check_accept(options: &Options) -> Result<(), Code> {
    match options.uint(number::ACCEPT) {
        Ok(None) => Ok(()),
        Ok(Some(accept)) if accept == u32::from(format::OCTET_STREAM) => Ok(()),
        Ok(Some(_)) => Err(Code::NOT_ACCEPTABLE),
        Err(_) => Err(Code::BAD_OPTION),
    }
}

fn etag(image: &Image) -> &[u8] {
    image.sha256.as_bytes().get(..ETAG_LENGTH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
