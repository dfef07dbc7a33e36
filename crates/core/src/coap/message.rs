//! A CoAP message and its encoding. The library coap-lite reads and writes the packet; this module adds the checks that
//! RFC 7252 requires beyond it.

use std::fmt;

use coap_lite::{MessageClass, MessageType, Packet};
use thiserror::Error;

use lwm2m_base::Shard;

use super::code::Code;
use super::options::{Options, first_option};

/// The type of a message (RFC 7252 section 4), which decides how the message layer treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Confirmable,
    NonConfirmable,
    Acknowledgement,
    Reset,
}

/// Matches an acknowledgement or a reset to its message, and shows a duplicate (RFC 7252 section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u16);

/// Matches a response to its request (RFC 7252 section 5.3.1). It has at most eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Token {
    length: u8,
    bytes: [u8; Token::MAX_LENGTH],
}

impl Token {
    pub(crate) const MAX_LENGTH: usize = 8;
    pub const EMPTY: Token = Token { length: 0, bytes: [0; Token::MAX_LENGTH] };

    /// Makes a token of the first eight bytes. A longer token cannot be decoded in the first place.
    pub fn new(value: &[u8]) -> Self {
        let length = value.len().min(Self::MAX_LENGTH);
        let mut bytes = [0; Self::MAX_LENGTH];
        bytes[..length].copy_from_slice(&value[..length]);
        Self { length: length as u8, bytes }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Returns the shard of the gateway's token that has these bytes: its first byte. The empty token has none.
    pub fn shard(&self) -> Option<Shard> {
        self.as_bytes().first().copied().map(Shard::new)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub code: Code,
    pub id: MessageId,
    pub token: Token,
    pub options: Options,
    pub payload: Vec<u8>,
}

/// A request without the fields of the message layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Code,
    pub options: Options,
    pub payload: Vec<u8>,
}

impl Request {
    pub fn new(method: Code) -> Self {
        Self { method, options: Options::new(), payload: Vec::new() }
    }

    /// Writes the datagram of a confirmable message with this request.
    pub(super) fn encode(&self, id: MessageId, token: Token) -> Vec<u8> {
        let Self { method, options, payload } = self;
        encode((Kind::Confirmable, *method, id, token), options, payload)
    }
}

/// A response without the fields of the message layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub code: Code,
    pub options: Options,
    pub payload: Vec<u8>,
}

impl Response {
    pub fn new(code: Code) -> Self {
        Self { code, options: Options::new(), payload: Vec::new() }
    }

    /// Returns a response with a diagnostic payload: short plain text for people (RFC 7252 section 5.5.2).
    pub(crate) fn with_diagnostic(code: Code, text: &str) -> Self {
        Self { code, options: Options::new(), payload: text.as_bytes().to_vec() }
    }

    /// Writes the datagram of a message with this response.
    pub(super) fn encode(&self, kind: Kind, id: MessageId, token: Token) -> Vec<u8> {
        encode((kind, self.code, id, token), &self.options, &self.payload)
    }
}

/// The reason why a datagram is not a CoAP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum MessageDecodeError {
    #[error("shorter than the four bytes of the header")]
    TooShort,
    #[error("version is not 1")]
    Version,
    #[error("token length 9 to 15 is reserved")]
    TokenLength,
    #[error("an empty message with token, options or payload")]
    MalformedEmpty,
    #[error("a payload marker without payload")]
    EmptyPayload,
    #[error("code class 1, 3, 6 or 7 is reserved")]
    ReservedClass,
    #[error("an option, or the token, is cut short or malformed")]
    Malformed,
}

/// The fields of a message that stand before its options. They may be readable where the rest is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub code: Code,
    pub id: MessageId,
    /// `None` where the token length is reserved, or the datagram ends within the token.
    pub token: Option<Token>,
}

impl Header {
    /// Reads the beginning of a datagram. Returns `None` for a datagram that is shorter than a header, and for another
    /// version of CoAP: RFC 7252 section 3 wants such a message to be ignored.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let [first, code, high, low, rest @ ..] = datagram else { return None };
        if first >> 6 != 1 {
            return None;
        }
        let kind = match first >> 4 & 0x03 {
            0 => Kind::Confirmable,
            1 => Kind::NonConfirmable,
            2 => Kind::Acknowledgement,
            _ => Kind::Reset,
        };
        let length = usize::from(first & 0x0f);
        let token = rest.get(..length).filter(|_| length <= Token::MAX_LENGTH).map(Token::new);
        Some(Self { kind, code: Code(*code), id: MessageId(u16::from_be_bytes([*high, *low])), token })
    }
}

impl Message {
    /// Creates the empty message that acknowledges or resets `id` (RFC 7252 section 4.1).
    pub fn empty(kind: Kind, id: MessageId) -> Self {
        Self { kind, code: Code::EMPTY, id, token: Token::EMPTY, options: Options::new(), payload: Vec::new() }
    }

    /// Reads one datagram (RFC 7252 section 3).
    pub fn decode(datagram: &[u8]) -> Result<Self, MessageDecodeError> {
        // coap-lite takes any version, an empty message with a body, and a marker with nothing behind it.
        let [first, code, ..] = datagram else { return Err(MessageDecodeError::TooShort) };
        if datagram.len() < 4 {
            return Err(MessageDecodeError::TooShort);
        }
        if first >> 6 != 1 {
            return Err(MessageDecodeError::Version);
        }
        if first & 0x0f > 8 {
            return Err(MessageDecodeError::TokenLength);
        }
        let code = Code(*code);
        if code == Code::EMPTY && datagram.len() != 4 {
            return Err(MessageDecodeError::MalformedEmpty);
        }
        if code != Code::EMPTY && !code.is_request() && !code.is_response() {
            return Err(MessageDecodeError::ReservedClass);
        }
        let packet = Packet::from_bytes(datagram).map_err(|_| MessageDecodeError::Malformed)?;
        if packet.payload.is_empty() && ends_with_marker(datagram) {
            return Err(MessageDecodeError::EmptyPayload);
        }
        Ok(Self::from_packet(code, packet))
    }

    pub fn encode(&self) -> Vec<u8> {
        encode((self.kind, self.code, self.id, self.token), &self.options, &self.payload)
    }

    fn from_packet(code: Code, packet: Packet) -> Self {
        let kind = match packet.header.get_type() {
            MessageType::Confirmable => Kind::Confirmable,
            MessageType::NonConfirmable => Kind::NonConfirmable,
            MessageType::Acknowledgement => Kind::Acknowledgement,
            MessageType::Reset => Kind::Reset,
        };
        let options =
            packet.options().flat_map(|(number, values)| values.iter().map(|value| (*number, value.as_slice())));
        let options = Options::from_sorted(options);
        let token = Token::new(packet.get_token());
        Self { kind, code, id: MessageId(packet.header.message_id), token, options, payload: packet.payload }
    }
}

/// Writes a datagram. The payload is copied once: coap-lite would take a copy of its own.
fn encode((kind, code, id, token): (Kind, Code, MessageId, Token), options: &Options, payload: &[u8]) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.message_id = id.0;
    packet.header.code = MessageClass::from(code.0);
    packet.header.set_type(match kind {
        Kind::Confirmable => MessageType::Confirmable,
        Kind::NonConfirmable => MessageType::NonConfirmable,
        Kind::Acknowledgement => MessageType::Acknowledgement,
        Kind::Reset => MessageType::Reset,
    });
    packet.set_token(token.as_bytes().to_vec());
    for (number, value) in options.iter() {
        packet.add_option(number.into(), value.to_vec());
    }
    let mut datagram = packet
        .to_bytes_with_limit(usize::MAX)
        .expect("a token of at most eight bytes, and a limit that nothing reaches, leave no error");
    if !payload.is_empty() {
        datagram.reserve_exact(1 + payload.len());
        datagram.push(PAYLOAD_MARKER);
        datagram.extend_from_slice(payload);
    }
    datagram
}

/// The byte between the options and the payload (RFC 7252 section 3).
const PAYLOAD_MARKER: u8 = 0xff;

/// Returns whether the last byte of a datagram without payload is the payload marker. It may also be the last byte of
/// an option, so the options are passed over (RFC 7252 section 3.1). The datagram is well-formed otherwise.
fn ends_with_marker(datagram: &[u8]) -> bool {
    let [first, _, _, _, rest @ ..] = datagram else { return false };
    let mut options = rest.get(usize::from(first & 0x0f)..).unwrap_or_default();
    while let [head, ..] = options {
        if *head == PAYLOAD_MARKER {
            return true;
        }
        options = first_option(options).map(|(_, _, behind)| behind).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::options::number;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    #[test]
    fn a_message_is_what_was_written() {
        let mut options = Options::new();
        options.add_text(number::URI_PATH, "rd");
        options.add_uint(number::CONTENT_FORMAT, 11542);
        options.add_uint(number::OBSERVE, 0);
        let message = Message {
            kind: Kind::Confirmable,
            code: Code::POST,
            id: MessageId(0xcafe),
            token: Token::new(&[1, 2, 3, 4, 5, 6, 7, 8]),
            options,
            payload: b"</1>".to_vec(),
        };
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_reason() {
        for (bytes, error) in [
            ("", MessageDecodeError::TooShort),
            ("400100", MessageDecodeError::TooShort),
            ("80010001", MessageDecodeError::Version),
            ("49010001010203040506070809", MessageDecodeError::TokenLength),
            ("4100000101", MessageDecodeError::MalformedEmpty),
            ("40000001ff01", MessageDecodeError::MalformedEmpty),
            ("40010001ff", MessageDecodeError::EmptyPayload),
            ("40010001b3616263ff", MessageDecodeError::EmptyPayload),
            ("40200001", MessageDecodeError::ReservedClass),
            ("40e00001", MessageDecodeError::ReservedClass),
            ("4801000101", MessageDecodeError::Malformed),
            ("40010001b5", MessageDecodeError::Malformed),
            ("40010001f0", MessageDecodeError::Malformed),
        ] {
            assert_eq!(Message::decode(&hex(bytes)), Err(error), "{bytes}");
        }
    }

    #[test]
    fn the_header_and_the_token_are_read_where_the_rest_is_malformed() {
        let header = |kind, code, token: Option<&[u8]>| {
            Some(Header { kind, code, id: MessageId(0x2002), token: token.map(Token::new) })
        };
        for (bytes, expected) in [
            ("40452002c0ff", header(Kind::Confirmable, Code::CONTENT, Some(&[]))),
            ("524520020102ff", header(Kind::NonConfirmable, Code::CONTENT, Some(&[1, 2]))),
            ("61e0200201f0", header(Kind::Acknowledgement, Code::of(7, 0), Some(&[1]))),
            ("7000200201", header(Kind::Reset, Code::EMPTY, Some(&[]))),
            ("4d0220020102030405060708090a0b0c0d", header(Kind::Confirmable, Code::POST, None)),
            ("4202200201", header(Kind::Confirmable, Code::POST, None)),
            ("80452002", None),
            ("404520", None),
            ("", None),
        ] {
            assert_eq!(Header::of(&hex(bytes)), expected, "{bytes}");
        }
    }

    #[test]
    fn an_option_value_may_end_in_the_byte_of_the_marker() {
        let message = Message::decode(&hex("40010001b3 6162ff".replace(' ', "").as_str())).expect("well-formed");
        assert_eq!(message.options.first(number::URI_PATH), Some(&[0x61, 0x62, 0xff][..]));
    }

    #[test]
    fn the_marker_is_told_from_the_end_of_an_option_of_any_length() {
        for (number, length) in [(11, 1), (11, 12), (11, 13), (15, 268), (300, 269), (65_000, 600), (20, 0xff + 269)] {
            let mut message = Message { code: Code::POST, ..Message::empty(Kind::Confirmable, MessageId(1)) };
            message.options.add(number::URI_PATH, b"rd");
            message.options.add(number, &vec![0xff; length]);
            let mut datagram = message.encode();
            assert_eq!(Message::decode(&datagram), Ok(message), "{number} {length}");
            datagram.push(0xff);
            assert_eq!(Message::decode(&datagram), Err(MessageDecodeError::EmptyPayload), "{number} {length}");
        }
    }
}
