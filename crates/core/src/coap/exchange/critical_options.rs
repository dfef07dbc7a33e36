//! The critical options that the gateway understands. A message with another one is rejected (RFC 7252 section 5.4.1).

use crate::coap::options::number;
use crate::coap::{Code, Message};

/// The critical options that a request may have here.
const REQUEST_OPTIONS: &[u16] = &[
    number::URI_HOST,
    number::URI_PORT,
    number::URI_PATH,
    number::URI_QUERY,
    number::ACCEPT,
    number::BLOCK1,
    number::BLOCK2,
];
/// The critical options that a response may have here.
const RESPONSE_OPTIONS: &[u16] = &[number::BLOCK1, number::BLOCK2];
/// The options Proxy-Uri and Proxy-Scheme: the gateway is not a proxy (RFC 7252 section 5.10.2).
const PROXY_OPTIONS: &[u16] = &[35, 39];

/// Returns the first critical option of a request that is not understood.
pub(crate) fn unknown_in_request(message: &Message) -> Option<u16> {
    unknown(message, REQUEST_OPTIONS)
}

/// Returns the first critical option of a response that is not understood.
pub(crate) fn unknown_in_response(message: &Message) -> Option<u16> {
    unknown(message, RESPONSE_OPTIONS)
}

/// Returns the code of the answer to a request with this option.
pub(crate) fn refusal_of(option: u16) -> Code {
    if PROXY_OPTIONS.contains(&option) { Code::PROXYING_NOT_SUPPORTED } else { Code::BAD_OPTION }
}

/// Returns the first critical option that is not known. The number of a critical option is odd.
fn unknown(message: &Message, known: &[u16]) -> Option<u16> {
    message.options.iter().map(|(number, _)| number).find(|number| number % 2 == 1 && !known.contains(number))
}
