//! Cuts responses of the gateway for Block2 (RFC 7959 section 2.4). The whole response is made again for each block, so
//! no state is kept.

use crate::coap::options::number;
use crate::coap::{Code, Response};

use super::{Block, BlockSize};

/// Returns the block of the response that the request asked for. If it asked for none, a large response begins with its
/// first block.
pub(crate) fn slice(mut response: Response, asked: Option<Block>, largest: BlockSize) -> Response {
    let size = asked.map_or(largest, |block| block.size.min(largest));
    let number = asked.map_or(0, |block| block.number);
    if (asked.is_none() && response.payload.len() <= size.bytes()) || !response.code.is_success() {
        return response;
    }
    let body = std::mem::take(&mut response.payload);
    // The peer counts in blocks of its own size.
    let begin = asked.map_or(0, Block::offset);
    if begin >= body.len() && number > 0 {
        return Response::new(Code::BAD_REQUEST);
    }
    let end = (begin + size.bytes()).min(body.len());
    let block = Block { number: (begin / size.bytes()) as u32, more: end < body.len(), size };
    block.add_to(&mut response.options, number::BLOCK2);
    response.payload = body[begin..end].to_vec();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: usize) -> Response {
        let mut response = Response::new(Code::CONTENT);
        response.payload = (0..length).map(|at| at as u8).collect();
        response
    }

    fn block(number: u32, more: bool, bytes: usize) -> Block {
        Block { number, more, size: BlockSize::at_most(bytes) }
    }

    #[test]
    fn what_fits_is_not_cut() {
        assert_eq!(slice(answer(64), None, BlockSize::at_most(64)), answer(64));
    }

    #[test]
    fn the_blocks_of_an_answer_are_its_body() {
        let mut body = Vec::new();
        for number in 0..3 {
            let asked = (number > 0).then(|| block(number, false, 64));
            let part = slice(answer(150), asked, BlockSize::at_most(64));
            let is = Block::of(&part.options, number::BLOCK2);
            assert_eq!(is, Ok(Some(block(number, number < 2, 64))));
            body.extend(part.payload);
        }
        assert_eq!(body, answer(150).payload);
    }

    #[test]
    fn a_block_beyond_the_end_is_a_bad_request() {
        assert_eq!(slice(answer(64), Some(block(1, false, 64)), BlockSize::LARGEST).code, Code::BAD_REQUEST);
    }
}
