//! The shapes of traces in the API. They are made of messages whose secrets are covered.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use utoipa::ToSchema;

use crate::console::http::parameters::IpAddressText;
use crate::console::time::Timestamp;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Header, Kind, Message, MessageDecodeError};
use lwm2m_core::gateway::operators::trace::{Direction, TraceId, TraceTarget};
use lwm2m_core::lwm2m::model::Model;

use super::covering::DatagramParts;
use super::record::{DtlsEntry, EntryContent, MessageEntry, TraceEntry, TraceRecord};
use super::values::{EntryDocument, Readable};

/// The traces.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TraceList {
    pub traces: Vec<TraceDocument>,
}

/// A trace. It has one of `endpoint`, `address` and `identity`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TraceDocument {
    #[schema(example = "5f01c3a94be27d10")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<IpAddressText>, inline)]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Name of the token that began it.
    by: String,
    begun: Timestamp,
    ends: Timestamp,
    /// Whether it still copies messages.
    running: bool,
    /// Number of entries that are kept.
    count: usize,
    /// Number of older entries that are not kept any more.
    gone: u64,
    /// Number of messages that were not copied, because there were more than 200 in a second.
    left_out: u64,
}

/// A trace with its messages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TraceMessages {
    #[serde(flatten)]
    pub trace: TraceDocument,
    /// The oldest first.
    pub messages: Vec<TraceEntryDocument>,
}

/// An entry of a trace: a CoAP message, or something that happened in DTLS.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TraceEntryDocument {
    Coap(Box<CoapDocument>),
    Dtls(Box<DtlsDocument>),
}

/// A CoAP message. Stars stand for covered bytes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CoapDocument {
    /// Counts in the trace.
    n: u64,
    at: Timestamp,
    #[schema(inline)]
    direction: DirectionName,
    /// Address of the device.
    #[schema(value_type = String, example = "10.0.0.9:56830")]
    peer: SocketAddr,
    /// Whether the message came over DTLS, or goes over it.
    secured: bool,
    /// Length of the message.
    bytes: usize,
    /// `CON`, `NON`, `ACK` or `RST`; absent, as are the code and the message ID, if the bytes are not a CoAP message.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(example = "CON")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2.05")]
    code: Option<String>,
    /// Name of the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Content")]
    name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid: Option<u16>,
    /// The token in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    options: Vec<OptionDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<PayloadDocument>,
    /// The bytes of a datagram that is not a CoAP message, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    /// Outcome of a message of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "notification")]
    outcome: Option<String>,
    /// The `n` of the request, or of the message that is acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<u64>,
    /// Whether the message is a retransmission or a duplicate.
    again: bool,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum DirectionName {
    In,
    Out,
}

/// An option of a message.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OptionDocument {
    number: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Content-Format")]
    name: Option<&'static str>,
    /// Numbers are decimal, a block is `NUMBER/MORE/SIZE`, and bytes that are no text are hexadecimal digits.
    #[schema(example = "11542")]
    value: String,
}

/// A payload.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PayloadDocument {
    bytes: usize,
    /// The bytes in hexadecimal digits.
    hex: String,
    /// The values; absent if there are none, or if they cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<EntryDocument>>,
    /// True if each byte is covered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
}

/// Something that happened in DTLS.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DtlsDocument {
    /// Counts in the trace.
    n: u64,
    at: Timestamp,
    /// Always true.
    dtls: bool,
    /// `handshakeBegun`, `handshakeCompleted`, `handshakeFailed`, `handshakeRetransmitted`, `dropped`, `datagram`,
    /// `moved` or `closed`.
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "10.0.0.9:56830")]
    peer: Option<SocketAddr>,
    /// The identity that the device has proved, or named.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suite: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    /// The address before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    from: Option<SocketAddr>,
}

impl TraceDocument {
    pub(crate) fn of(record: &TraceRecord) -> Self {
        let (endpoint, address, identity) = match &record.target {
            TraceTarget::Endpoint(endpoint) => (Some(endpoint.clone()), None, None),
            TraceTarget::Address(address) => (None, Some(*address), None),
            TraceTarget::Identity(identity) => (None, None, Some(identity.clone())),
        };
        Self {
            id: name_of(record.id),
            endpoint,
            address,
            identity,
            by: record.by.clone(),
            begun: record.begun,
            ends: record.ends,
            running: record.runs,
            count: record.len(),
            gone: record.gone(),
            left_out: record.left_out,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl TraceEntryDocument {
    /// Decodes an entry, with the names of these definitions.
    pub(crate) fn of(entry: &TraceEntry, model: &Model) -> Self {
        let TraceEntry { n, at, content } = entry;
        match content {
            EntryContent::Message(message) => {
                Self::Coap(Box::new(CoapDocument::of(*n, Timestamp(*at), message, model)))
            }
            EntryContent::Dtls(dtls) => Self::Dtls(Box::new(DtlsDocument::of(*n, Timestamp(*at), dtls))),
        }
    }

    /// Returns the name of the event that has it.
    pub(crate) fn event(&self) -> &'static str {
        match self {
            Self::Coap(_) => "coap",
            Self::Dtls(_) => "dtls",
        }
    }
}

impl CoapDocument {
    fn of(n: u64, at: Timestamp, entry: &MessageEntry, model: &Model) -> Self {
        let header = entry.header;
        let decoded: Result<Message, MessageDecodeError> = Message::decode(&entry.datagram);
        let message = decoded.as_ref().ok();
        let options = message.map(|message| message.options.iter().map(OptionDocument::of).collect());
        Self {
            n,
            at,
            direction: match entry.direction {
                Direction::In => DirectionName::In,
                Direction::Out => DirectionName::Out,
            },
            peer: entry.address,
            secured: entry.peer.association.is_some(),
            bytes: entry.datagram.len(),
            kind: header.map(|Header { kind, .. }| match kind {
                Kind::Confirmable => "CON",
                Kind::NonConfirmable => "NON",
                Kind::Acknowledgement => "ACK",
                Kind::Reset => "RST",
            }),
            code: header.map(|header| header.code.to_string()),
            name: header.and_then(|header| code_name(header.code)),
            mid: header.map(|header| header.id.0),
            token: header.and_then(|header| header.token).map(|token| hex(token.as_bytes())),
            options: options.unwrap_or_default(),
            payload: message.and_then(|message| PayloadDocument::of(entry, message, at, model)),
            hex: message.is_none().then(|| hex(&entry.datagram)),
            outcome: entry.outcome.clone(),
            answers: entry.answers,
            again: entry.again,
        }
    }
}

impl PayloadDocument {
    fn of(entry: &MessageEntry, message: &Message, at: Timestamp, model: &Model) -> Option<Self> {
        let payload = entry.datagram.get(DatagramParts::of(&entry.datagram).payload)?;
        if payload.is_empty() {
            return None;
        }
        let subject = entry.subject.as_deref().filter(|_| !entry.hidden);
        let entries = subject.and_then(|subject| Readable { message, subject, model, at: at.0 }.entries());
        Some(Self { bytes: payload.len(), hex: hex(payload), entries, hidden: entry.hidden })
    }
}

impl OptionDocument {
    fn of((number, value): (u16, &[u8])) -> Self {
        Self { number, name: option_name(number), value: option_value(number, value) }
    }
}

impl DtlsDocument {
    fn of(n: u64, at: Timestamp, entry: &DtlsEntry) -> Self {
        let DtlsEntry { address, event, identity, reason, suite, connection_id, resumed, from } = entry.clone();
        Self { n, at, dtls: true, event, peer: address, identity, reason, suite, connection_id, resumed, from }
    }
}

/// Writes an option value by its format (RFC 7252 section 5.10, RFC 7641 section 2, RFC 7959 section 2.1).
fn option_value(number: u16, value: &[u8]) -> String {
    let uint = || value.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    match number {
        number::BLOCK1 | number::BLOCK2 if value.len() <= 3 => {
            let block = uint();
            format!("{}/{}/{}", block >> 4, block >> 3 & 1, 1_u32 << (4 + (block & 7)))
        }
        number::OBSERVE
        | number::URI_PORT
        | number::CONTENT_FORMAT
        | number::MAX_AGE
        | number::ACCEPT
        | number::SIZE1
        | number::SIZE2
            if value.len() <= 4 =>
        {
            uint().to_string()
        }
        number::URI_HOST
        | number::LOCATION_PATH
        | number::URI_PATH
        | number::URI_QUERY
        | LOCATION_QUERY
        | PROXY_URI => String::from_utf8_lossy(value).into_owned(),
        _ => hex(value),
    }
}

const IF_MATCH: u16 = 1;
const IF_NONE_MATCH: u16 = 5;
const LOCATION_QUERY: u16 = 20;
const PROXY_URI: u16 = 35;

fn option_name(number: u16) -> Option<&'static str> {
    Some(match number {
        IF_MATCH => "If-Match",
        number::URI_HOST => "Uri-Host",
        number::ETAG => "ETag",
        IF_NONE_MATCH => "If-None-Match",
        number::OBSERVE => "Observe",
        number::URI_PORT => "Uri-Port",
        number::LOCATION_PATH => "Location-Path",
        number::URI_PATH => "Uri-Path",
        number::CONTENT_FORMAT => "Content-Format",
        number::MAX_AGE => "Max-Age",
        number::URI_QUERY => "Uri-Query",
        number::ACCEPT => "Accept",
        LOCATION_QUERY => "Location-Query",
        number::BLOCK2 => "Block2",
        number::BLOCK1 => "Block1",
        number::SIZE2 => "Size2",
        PROXY_URI => "Proxy-Uri",
        number::SIZE1 => "Size1",
        _ => return None,
    })
}

/// Returns the name of a code (RFC 7252 section 12.1, RFC 7959 section 2.9, RFC 8132 section 6, RFC 8516 section 4).
fn code_name(code: Code) -> Option<&'static str> {
    Some(match (code.class(), code.detail()) {
        (0, 0) => "Empty",
        (0, 1) => "GET",
        (0, 2) => "POST",
        (0, 3) => "PUT",
        (0, 4) => "DELETE",
        (0, 5) => "FETCH",
        (0, 6) => "PATCH",
        (0, 7) => "iPATCH",
        (2, 1) => "Created",
        (2, 2) => "Deleted",
        (2, 3) => "Valid",
        (2, 4) => "Changed",
        (2, 5) => "Content",
        (2, 31) => "Continue",
        (4, 0) => "Bad Request",
        (4, 1) => "Unauthorized",
        (4, 2) => "Bad Option",
        (4, 3) => "Forbidden",
        (4, 4) => "Not Found",
        (4, 5) => "Method Not Allowed",
        (4, 6) => "Not Acceptable",
        (4, 8) => "Request Entity Incomplete",
        (4, 9) => "Conflict",
        (4, 12) => "Precondition Failed",
        (4, 13) => "Request Entity Too Large",
        (4, 15) => "Unsupported Content-Format",
        (4, 22) => "Unprocessable Entity",
        (4, 29) => "Too Many Requests",
        (5, 0) => "Internal Server Error",
        (5, 1) => "Not Implemented",
        (5, 2) => "Bad Gateway",
        (5, 3) => "Service Unavailable",
        (5, 4) => "Gateway Timeout",
        (5, 5) => "Proxying Not Supported",
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}")).expect("a string takes everything");
    text
}

/// Returns the name of a trace in paths.
pub(crate) fn name_of(TraceId(number): TraceId) -> String {
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_by_their_formats() {
        let text = |number, value: &[u8]| option_value(number, value);
        assert_eq!(text(number::CONTENT_FORMAT, &[0x2d, 0x16]), "11542");
        assert_eq!(text(number::OBSERVE, &[]), "0");
        assert_eq!(text(number::BLOCK2, &[0x1e]), "1/1/1024");
        assert_eq!(text(number::URI_PATH, b"rd"), "rd");
        assert_eq!(text(number::ETAG, &[0xff, 1]), "ff01");
        assert_eq!(text(number::OBSERVE, &[1, 2, 3, 4, 5]), "0102030405");
        assert_eq!(text(2_000, b"ab"), "6162");
    }
}
