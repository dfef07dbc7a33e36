//! The beginning of a ClientHello (RFC 6347 section 4.2): as much as a cookie needs. A hello may be in fragments, and
//! nothing is kept for an unknown peer to put them together.

/// Types of handshake messages.
pub(crate) const CLIENT_HELLO: u8 = 1;
pub(crate) const HELLO_VERIFY_REQUEST: u8 = 3;
pub(crate) const FINISHED: u8 = 20;

/// Bytes before the body of a handshake message (RFC 6347 section 4.2.2).
pub(crate) const MESSAGE_HEADER: usize = 12;

/// The first fragment of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello<'a> {
    pub message_sequence: [u8; 2],
    pub random: &'a [u8; 32],
    /// Version and random: what a client repeats with the cookie. RFC 6347 section 4.2.1 has the session id, too, but
    /// Mbed TLS 2.28 makes a new one for each hello with a session ticket.
    pub parameters: &'a [u8],
    /// Empty in a first hello.
    pub cookie: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Parses a fragment; `None` unless it is complete up to the cookie.
    pub(crate) fn parse(fragment: &'a [u8]) -> Option<Self> {
        let (header, body) = fragment.split_first_chunk::<MESSAGE_HEADER>()?;
        let [kind, _, _, _, s0, s1, o0, o1, o2, l0, l1, l2] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        if kind != CLIENT_HELLO || [o0, o1, o2] != [0; 3] || usize::try_from(length).ok()? != body.len() {
            return None;
        }
        let (version, rest) = body.split_first_chunk::<2>()?;
        let (random, rest) = rest.split_first_chunk::<32>()?;
        let parameters = &body[..body.len() - rest.len()];
        let (_session_id, rest) = short_vector(rest, 32)?;
        let (cookie, _) = short_vector(rest, 255)?;
        (version[0] == 0xfe).then_some(Self { message_sequence: [s0, s1], random, parameters, cookie })
    }
}

/// Reads a vector: its length in one byte, and its bytes. Returns them and the bytes that follow.
fn short_vector(bytes: &[u8], most: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    if *length > most {
        return None;
    }
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a ClientHello as far as it matters here.
    pub(crate) fn hello(random: u8, cookie: &[u8]) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([random; 32]);
        body.extend([4, 1, 2, 3, 4, cookie.len() as u8]);
        body.extend(cookie);
        body.extend([0, 2, 0xc0, 0xa8, 1, 0]);
        let length = [0, 0, body.len() as u8];
        let sequence = [0, u8::from(!cookie.is_empty())];
        [&[CLIENT_HELLO][..], &length, &sequence, &[0; 3], &length, &body].concat()
    }

    #[test]
    fn a_hello_is_read_up_to_its_cookie() {
        let message = hello(7, b"cookie");
        let hello = ClientHello::parse(&message).unwrap();
        assert_eq!((hello.message_sequence, hello.random, hello.cookie), ([0, 1], &[7; 32], &b"cookie"[..]));
        assert_eq!(hello.parameters, &message[12..12 + 2 + 32]);
    }

    #[test]
    fn nothing_is_read_of_another_message_or_of_a_part_without_the_cookie() {
        let message = hello(7, b"cookie");
        for length in 0..message.len() {
            assert_eq!(ClientHello::parse(&message[..length]), None, "the length of the fragment is not {length}");
        }
        for (at, byte) in [(0, 2), (8, 1), (12, 3), (12 + 34, 33), (12 + 34 + 5, 200)] {
            let mut mutated = message.clone();
            mutated[at] = byte;
            assert_eq!(ClientHello::parse(&mutated), None, "byte {at}");
        }
    }
}
