//! Handshake messages and their fragments (RFC 6347 section 4.2.2).

/// ClientHello.
pub(super) const CLIENT_HELLO: u8 = 1;
/// ClientKeyExchange.
pub(super) const CLIENT_KEY_EXCHANGE: u8 = 16;

const HEADER: usize = 12;
/// RFC 6347 section 4.3.1: type, version, epoch, sequence number, length.
const RECORD_HEADER: usize = 13;

/// A fragment of a handshake message. An unfragmented message is a single fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment<'a> {
    pub kind: u8,
    /// Bytes of the whole message.
    pub length: usize,
    /// Returns `message_seq`.
    pub sequence: u16,
    pub offset: usize,
    pub body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Splits the first fragment off a record's payload; `None` if it is malformed.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let number = |at: usize| header.get(at..at + 3).map(big_endian);
        let body_length = number(9)?;
        let (body, rest) = rest.split_at_checked(body_length)?;
        let sequence = u16::from_be_bytes(header.get(4..6)?.try_into().ok()?);
        let fragment = Self { kind: *header.first()?, length: number(1)?, sequence, offset: number(6)?, body };
        (fragment.offset + body_length <= fragment.length).then_some((fragment, rest))
    }
}

/// Returns the fragments of a record, up to the first malformed one.
pub(super) fn fragments(mut payload: &[u8]) -> impl Iterator<Item = Fragment<'_>> {
    std::iter::from_fn(move || {
        let (fragment, rest) = Fragment::split(payload)?;
        payload = rest;
        Some(fragment)
    })
}

/// A message that comes in fragments, in any order and more than once.
#[derive(Debug)]
pub(super) struct Reassembly {
    kind: u8,
    sequence: u16,
    body: Vec<u8>,
    /// Whether each byte has arrived.
    there: Vec<bool>,
    missing: usize,
}

impl Reassembly {
    /// Starts the reassembly of a message; `None` if it is longer than `most` bytes.
    pub(super) fn begin(fragment: &Fragment, most: usize) -> Option<Self> {
        let length = Some(fragment.length).filter(|length| *length <= most)?;
        let (body, there) = (vec![0; length], vec![false; length]);
        let mut message = Self { kind: fragment.kind, sequence: fragment.sequence, body, there, missing: length };
        message.add(fragment);
        Some(message)
    }

    /// Adds a fragment. Fragments of other messages are ignored, and bytes that have already arrived are kept.
    pub(super) fn add(&mut self, fragment: &Fragment) {
        let own = (self.kind, self.sequence, self.body.len());
        if (fragment.kind, fragment.sequence, fragment.length) != own {
            return;
        }
        let places = self.body.iter_mut().zip(&mut self.there).skip(fragment.offset);
        for ((place, there), byte) in places.zip(fragment.body).filter(|((_, there), _)| !**there) {
            (*place, *there) = (*byte, true);
            self.missing -= 1;
        }
    }

    /// Returns whether it is a fragment of this message.
    pub(super) fn has(&self, fragment: &Fragment) -> bool {
        let own = (self.kind, self.sequence, self.body.len());
        let bytes = self.body.get(fragment.offset..).and_then(|rest| rest.get(..fragment.body.len()));
        (fragment.kind, fragment.sequence, fragment.length) == own && bytes == Some(fragment.body)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.missing == 0
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns `message_seq`.
    pub(super) fn sequence(&self) -> u16 {
        self.sequence
    }

    /// Returns the message in one record of epoch 0, without its sequence number.
    pub(super) fn record(&self) -> Vec<u8> {
        let length = u24(self.body.len());
        let mut record = Vec::with_capacity(RECORD_HEADER + HEADER + self.body.len());
        record.extend([22, 0xfe, 0xfd]);
        record.extend([0; 8]);
        record.extend(u24(HEADER + self.body.len()).iter().skip(1));
        record.push(self.kind);
        record.extend(length);
        record.extend(self.sequence.to_be_bytes());
        record.extend([0; 3]);
        record.extend(length);
        record.extend(&self.body);
        record
    }
}

/// Returns the low three bytes: messages here are far shorter.
fn u24(number: usize) -> [u8; 3] {
    let [.., high, middle, low] = number.to_be_bytes();
    [high, middle, low]
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Returns the identity in a ClientKeyExchange of a PSK suite: the first field, with two bytes of length (RFC 4279
/// sections 2 and 3, RFC 5489 section 2). `None` if it is malformed.
pub(super) fn psk_identity(key_exchange: &[u8]) -> Option<&[u8]> {
    let (length, rest) = key_exchange.split_at_checked(2)?;
    rest.get(..big_endian(length))
}

/// Returns whether a ClientHello has an extension; `false` if it is malformed, and OpenSSL then rejects it.
pub(super) fn hello_offers(hello: &[u8], wanted: u16) -> bool {
    extensions(hello).is_some_and(|extensions| has_extension(extensions, wanted))
}

/// Returns the extensions of a ClientHello (RFC 5246 section 7.4.1.2, with the cookie of RFC 6347 section 4.2.1).
fn extensions(hello: &[u8]) -> Option<&[u8]> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    let (_, rest) = hello.split_at_checked(VERSION_AND_RANDOM)?;
    let (_session_id, rest) = split_vector(rest, 1)?;
    let (_cookie, rest) = split_vector(rest, 1)?;
    let (_cipher_suites, rest) = split_vector(rest, 2)?;
    let (_compressions, rest) = split_vector(rest, 1)?;
    Some(split_vector(rest, 2)?.0)
}

fn has_extension(mut extensions: &[u8], wanted: u16) -> bool {
    while let Some((kind, rest)) = extensions.split_at_checked(2) {
        if kind == wanted.to_be_bytes() {
            return true;
        }
        let Some((_, rest)) = split_vector(rest, 2) else { return false };
        extensions = rest;
    }
    false
}

/// Splits off a vector whose length has this many bytes.
fn split_vector(bytes: &[u8], length_bytes: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(length_bytes)?;
    rest.split_at_checked(big_endian(length))
}
