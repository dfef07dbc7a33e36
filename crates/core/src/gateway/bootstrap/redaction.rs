//! Removes secrets from the bootstrap server's messages before traces show them.

use crate::coap::options::number;
use crate::coap::{Code, Message};

/// Returns a message as traces may show it, without the bytes that a bootstrap server writes or packs, because they may
/// contain keys.
pub(in crate::gateway) fn without_secrets(datagram: &[u8]) -> Option<Vec<u8>> {
    let mut message = Message::decode(datagram).ok()?;
    let writes_instance = message.code == Code::PUT && message.options.all(number::URI_PATH).count() == 2;
    let is_pack = message.code == Code::CONTENT;
    if !(writes_instance || is_pack) || message.payload.is_empty() {
        return None;
    }
    message.options.remove(number::CONTENT_FORMAT);
    message.payload = Vec::new();
    Some(message.encode())
}
