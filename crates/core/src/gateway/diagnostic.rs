//! Reasons for devices: diagnostic payloads are short plain text for people (RFC 7252 section 5.5.2).
//!
//! An answer to an unregistered peer is no larger than its request, because its address may be forged. A reason that
//! does not fit is shortened.

use std::time::Duration;

use crate::coap::options::number;
use crate::coap::{Code, Request, Response};

/// The length of a reason that fits into every answer, in bytes.
const MIN_REASON: usize = 12;
/// The maximum length of a reason, in bytes.
const MAX_REASON: usize = 128;
/// The length of the options of the answer (Max-Age) and of the payload marker, in bytes.
const OVERHEAD: usize = 6;

/// Returns how many bytes of a reason the answer to this request may have. It counts the options of the request as
/// short as they can be encoded.
pub(super) fn room(request: &Request) -> usize {
    let options: usize = request.options.iter().map(|(_, value)| value.len() + 1).sum();
    (options + request.payload.len()).saturating_sub(OVERHEAD).clamp(MIN_REASON, MAX_REASON)
}

/// Returns the whole reason where it fits, or else the word that stands for it, or else the beginning of the reason.
pub(super) fn fitting<'r>(reason: &'r str, word: &'r str, room: usize) -> &'r str {
    if reason.len() <= room {
        return reason;
    }
    if !word.is_empty() {
        return word;
    }
    let whole = (0..=room).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or_default();
    reason.get(..whole).unwrap_or_default()
}

/// Returns a 5.03 with a few words, and with the time after which the device may try again (RFC 7252 section 5.9.3.4).
pub(super) fn unavailable(reason: &str, retry_after: Duration) -> Response {
    let mut response = Response::with_diagnostic(Code::SERVICE_UNAVAILABLE, reason);
    add_max_age(&mut response, retry_after);
    response
}

/// Adds the time after which the device may try again, in whole seconds.
pub(super) fn add_max_age(response: &mut Response, retry_after: Duration) {
    let seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX);
    response.options.add_uint(number::MAX_AGE, seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_as_much_room_as_the_request_took() {
        let mut request = Request::new(Code::POST);
        assert_eq!(room(&request), MIN_REASON);
        request.options.add_text(number::URI_PATH, "rd");
        request.options.add_text(number::URI_QUERY, "ep=urn:imei:123456789012345");
        assert_eq!(room(&request), 3 + 28 - OVERHEAD);
        request.payload = vec![b'x'; 1000];
        assert_eq!(room(&request), MAX_REASON);
    }

    #[test]
    fn a_reason_that_does_not_fit_is_a_word_or_its_beginning() {
        assert_eq!(fitting("not authorized", "refused", 20), "not authorized");
        assert_eq!(fitting("not authorized", "refused", 12), "refused");
        assert_eq!(fitting("ep hält \"x\"", "", 5), "ep h");
    }
}
