//! Reads the id in a datagram that names its shard.

use lwm2m_base::Shard;

/// The id in a datagram that names its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'d> {
    /// A connection ID, a location, a key of an image or a token of the gateway, in this shard.
    Shard(Shard),
    /// The endpoint name of a Register.
    Endpoint(&'d str),
    /// Nothing that the gateway gave out: an empty message, a record without connection ID, a malformed datagram.
    Nothing,
}

/// RFC 9146 section 4: type, version, epoch and sequence number stand before the connection ID.
const CID_OFFSET: usize = 11;
/// Bytes of the connection IDs that the gateway gives out.
const CID_LENGTH: usize = 8;
/// The content type `tls12_cid` (RFC 9146 section 10).
const TLS12_CID: u8 = 25;
/// RFC 7252 section 3: version 1 in the two highest bits.
const COAP_VERSION: u8 = 1;
const HEADER: usize = 4;
const MAX_TOKEN: usize = 8;
const POST: u8 = 0x02;
const PAYLOAD_MARKER: u8 = 0xff;
const URI_PATH: u32 = 11;
const URI_QUERY: u32 = 15;

impl<'d> Named<'d> {
    /// Reads the first record of a DTLS datagram. The records of a datagram are of one association.
    pub(crate) fn by_record(datagram: &'d [u8]) -> Self {
        match datagram.get(CID_OFFSET..CID_OFFSET + CID_LENGTH) {
            Some([first, ..]) if datagram.first() == Some(&TLS12_CID) => Self::Shard(Shard::new(*first)),
            Some(_) | None => Self::Nothing,
        }
    }

    /// Reads a CoAP message, only as far as it names something. A malformed one names nothing.
    pub(crate) fn by_message(datagram: &'d [u8]) -> Self {
        Self::in_message(datagram).unwrap_or(Self::Nothing)
    }

    fn in_message(datagram: &'d [u8]) -> Option<Self> {
        let ([first, code, _, _], rest) = datagram.split_first_chunk::<HEADER>()?;
        let token_length = usize::from(first & 0xf);
        if first >> 6 != COAP_VERSION || token_length > MAX_TOKEN {
            return None;
        }
        let (token, options) = rest.split_at_checked(token_length)?;
        // RFC 7252 section 3: the class stands in the upper three bits of the code.
        match code >> 5 {
            0 if *code != 0 => Self::in_request(*code, OptionIter { rest: options, number: 0 }),
            2 | 4 | 5 => token.first().map(|first| Self::Shard(Shard::new(*first))),
            _ => None,
        }
    }

    fn in_request(code: u8, options: OptionIter<'d>) -> Option<Self> {
        let (mut path, mut depth) = ([b"".as_slice(); 2], 0);
        let mut endpoint = None;
        for (number, value) in options {
            match number {
                URI_PATH => {
                    if let Some(segment) = path.get_mut(depth) {
                        *segment = value;
                    }
                    depth += 1;
                }
                URI_QUERY if endpoint.is_none() => endpoint = value.strip_prefix(b"ep="),
                ..=URI_QUERY => {}
                _ => break,
            }
        }
        match (path, depth) {
            ([b"rd", _], 1) if code == POST => std::str::from_utf8(endpoint?).ok().map(Self::Endpoint),
            ([b"rd", location], 2) => Shard::of_text(location).map(Self::Shard),
            ([b"fw", key], 2..) => Shard::of_text(key).map(Self::Shard),
            _ => None,
        }
    }
}

/// Returns whether a datagram is an acknowledgement or a Reset that is empty (RFC 7252 sections 4.1 to 4.3): it has no
/// token, and only its message ID tells what it answers.
pub(crate) fn is_empty_reply(datagram: &[u8]) -> bool {
    // Version 1, type 2 or 3, a token of no bytes; the code 0.00.
    matches!(datagram, [0x60 | 0x70, 0, _, _])
}

/// The options of a message in their order (RFC 7252 section 3.1), up to the first malformed one.
struct OptionIter<'d> {
    rest: &'d [u8],
    number: u32,
}

impl<'d> Iterator for OptionIter<'d> {
    type Item = (u32, &'d [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.rest.split_first().filter(|(first, _)| **first != PAYLOAD_MARKER)?;
        let (delta, rest) = extended(first >> 4, rest)?;
        let (length, rest) = extended(first & 0xf, rest)?;
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.number = self.number.checked_add(delta)?;
        self.rest = rest;
        Some((self.number, value))
    }
}

/// Reads the extension of a delta or of a length: 13 and 14 stand for a byte and for two bytes more.
fn extended(nibble: u8, bytes: &[u8]) -> Option<(u32, &[u8])> {
    match nibble {
        0..=12 => Some((u32::from(nibble), bytes)),
        13 => {
            let (byte, rest) = bytes.split_first()?;
            Some((u32::from(*byte) + 13, rest))
        }
        14 => {
            let (pair, rest) = bytes.split_first_chunk::<2>()?;
            Some((u32::from(u16::from_be_bytes(*pair)) + 269, rest))
        }
        _ => None,
    }
}
