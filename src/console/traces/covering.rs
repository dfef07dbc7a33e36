//! Covers secrets in a datagram with stars, byte for byte, so that its length and its other bytes stay as they are:
//! passwords in query items, the Locations of registrations, the keys of firmware images, payloads that are hidden, and
//! whatever cannot be read.

use std::ops::Range;

use lwm2m_core::coap::options::number;
use lwm2m_core::gateway::firmware::pulls::uri::{PullKey, cover_keys};
use lwm2m_core::gateway::operators::trace::Direction;
use lwm2m_core::lwm2m::register::PASSWORD_ITEM;

/// Takes the place of each covered byte.
const STAR: u8 = b'*';
/// Begins of the paths of Locations and of firmware images, which are followed by a secret.
const BEFORE_SECRETS: [&[u8]; 2] = [b"rd", b"fw"];
/// The same within one segment of a device that does not split its path.
const BEFORE_SECRETS_JOINED: [&[u8]; 2] = [b"rd/", b"fw/"];
/// Lengths of a Location and of the key of an image.
const SECRET_LENGTHS: [usize; 2] = [12, PullKey::LENGTH];
/// Length of the header of a CoAP message (RFC 7252 section 3).
const HEADER: usize = 4;
const PAYLOAD_MARKER: u8 = 0xff;

/// The places of the parts of a datagram, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatagramParts {
    options: Vec<(u16, Range<usize>)>,
    pub payload: Range<usize>,
    /// Everything from the first byte that cannot be read.
    unreadable: Range<usize>,
}

impl DatagramParts {
    /// Reads a datagram up to its end or to its first mistake (RFC 7252 section 3).
    pub(super) fn of(datagram: &[u8]) -> Self {
        let end = datagram.len();
        let mut parts = Self { options: Vec::new(), payload: end..end, unreadable: end..end };
        let Some(first) = datagram.first().filter(|first| **first >> 6 == 1) else {
            parts.unreadable = HEADER.min(end)..end;
            return parts;
        };
        let token = usize::from(first & 0x0f);
        let (mut at, mut number) = (HEADER + token, 0);
        if token > 8 || at > end {
            parts.unreadable = HEADER.min(end)..end;
            return parts;
        }
        while let Some(head) = datagram.get(at) {
            if *head == PAYLOAD_MARKER {
                parts.payload = at + 1..end;
                break;
            }
            let Some((delta, value)) = option(datagram, at) else {
                parts.unreadable = at..end;
                break;
            };
            let Some(next) = u16::try_from(delta).ok().and_then(|delta| delta.checked_add(number)) else {
                parts.unreadable = at..end;
                break;
            };
            (at, number) = (value.end, next);
            parts.options.push((number, value));
        }
        parts
    }

    /// Covers the secrets of a message that the gateway has received or sends.
    pub(crate) fn cover(&self, datagram: &mut [u8], direction: Direction, covers_payload: bool) {
        self.cover_options(datagram, direction);
        fill(datagram, self.unreadable.clone());
        match datagram.get_mut(self.payload.clone()) {
            Some(payload) if covers_payload => payload.fill(STAR),
            // The URI of an image that is written to a device, or read from it.
            Some(payload) => cover_keys(payload),
            None => {}
        }
    }

    fn cover_options(&self, datagram: &mut [u8], direction: Direction) {
        let (mut of, mut behind_begin) = (0, false);
        for (number, place) in &self.options {
            if of != *number {
                (of, behind_begin) = (*number, false);
            }
            let Some(value) = datagram.get(place.clone()) else { continue };
            let is_path = matches!(of, number::URI_PATH | number::LOCATION_PATH);
            let behind = |begin: &[u8]| find(value, begin).map(|at| at + begin.len());
            let joined = BEFORE_SECRETS_JOINED.into_iter().filter_map(behind).min();
            // A device may have lost the first segment.
            let is_alone = is_path && direction == Direction::In && looks_like_secret(value);
            let whole = (is_path && behind_begin || is_alone).then_some(0);
            let from = [whole, joined, password(value)].into_iter().flatten().min();
            behind_begin |= is_path && (BEFORE_SECRETS.contains(&value) || joined.is_some());
            if let Some(from) = from {
                fill(datagram, place.start + from..place.end);
            }
        }
    }
}

/// Returns the delta of the option at this place, and the place of its value (RFC 7252 section 3.1).
fn option(datagram: &[u8], at: usize) -> Option<(usize, Range<usize>)> {
    let head = *datagram.get(at)?;
    let mut next = at + 1;
    let mut extended = |nibble: u8| {
        let (extension, base) = match nibble {
            0..=12 => return Some(usize::from(nibble)),
            13 => (1, 13),
            14 => (2, 269),
            _ => return None,
        };
        let bytes = datagram.get(next..next + extension)?;
        next += extension;
        Some(base + bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let (delta, length) = (extended(head >> 4)?, extended(head & 0x0f)?);
    let value = next..next.checked_add(length)?;
    datagram.get(value.clone())?;
    Some((delta, value))
}

/// Returns the place behind the name of a password, wherever it stands: a device may join its query items.
fn password(value: &[u8]) -> Option<usize> {
    let name = [PASSWORD_ITEM.as_bytes(), b"="].concat();
    let found = value.windows(name.len()).position(|part| part.eq_ignore_ascii_case(&name));
    found.map(|at| at + name.len())
}

fn looks_like_secret(value: &[u8]) -> bool {
    SECRET_LENGTHS.contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

fn find(value: &[u8], wanted: &[u8]) -> Option<usize> {
    value.windows(wanted.len()).position(|part| part == wanted)
}

fn fill(datagram: &mut [u8], place: Range<usize>) {
    if let Some(bytes) = datagram.get_mut(place) {
        bytes.fill(STAR);
    }
}

#[cfg(test)]
mod tests {
    use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};

    use super::*;

    const LOCATION_TEXT: &str = "abcDEF123-_Z";

    fn message(options: &[(u16, &str)], payload: &[u8]) -> Vec<u8> {
        let mut list = Options::new();
        options.iter().for_each(|(number, value)| list.add_text(*number, value));
        let (kind, code, id, token) = (Kind::Confirmable, Code::POST, MessageId(7), Token::new(b"tok"));
        Message { kind, code, id, token, options: list, payload: payload.to_vec() }.encode()
    }

    fn covered(datagram: &[u8], direction: Direction, covers_payload: bool) -> Vec<u8> {
        let mut covered = datagram.to_vec();
        DatagramParts::of(datagram).cover(&mut covered, direction, covers_payload);
        assert_eq!(covered.len(), datagram.len());
        covered
    }

    #[test]
    fn a_password_and_a_location_are_covered_and_nothing_else() {
        let register = message(
            &[
                (number::URI_PATH, "rd"),
                (number::URI_QUERY, "ep=password"),
                (number::URI_QUERY, "password=secret"),
                (number::URI_QUERY, "lt=3"),
            ],
            b"</1/0>",
        );
        let expected = message(
            &[
                (number::URI_PATH, "rd"),
                (number::URI_QUERY, "ep=password"),
                (number::URI_QUERY, "password=******"),
                (number::URI_QUERY, "lt=3"),
            ],
            b"</1/0>",
        );
        assert_eq!(covered(&register, Direction::In, false), expected);

        let stars = "*".repeat(LOCATION_TEXT.len());
        for (option, direction) in [(number::URI_PATH, Direction::In), (number::LOCATION_PATH, Direction::Out)] {
            let of = |location: &str| message(&[(option, "rd"), (option, location)], b"");
            assert_eq!(covered(&of(LOCATION_TEXT), direction, false), of(&stars));
        }
        let instance = message(&[(number::LOCATION_PATH, "3303"), (number::LOCATION_PATH, "1")], b"");
        assert_eq!(covered(&instance, Direction::In, false), instance);
    }

    #[test]
    fn the_key_of_an_image_is_covered_in_its_path_and_in_its_uri() {
        let key = "abcDEF123-_Zabcd";
        let get = |key: &str, name: &str| {
            message(&[(number::URI_PATH, "fw"), (number::URI_PATH, key), (number::URI_PATH, name)], b"")
        };
        // The name is covered along with it, as everything behind a Location is.
        assert_eq!(covered(&get(key, "a.bin"), Direction::In, false), get(&"*".repeat(16), "*****"));
        let write = |key: &str| {
            let uri = format!("coap://gw:5683/fw/{key}/a.bin");
            message(&[(number::URI_PATH, "5"), (number::URI_PATH, "0"), (number::URI_PATH, "1")], uri.as_bytes())
        };
        assert_eq!(covered(&write(key), Direction::Out, false), write(&"*".repeat(16)));
    }

    #[test]
    fn a_payload_is_covered_as_a_whole() {
        let write = message(&[(number::URI_PATH, "0")], b"key");
        assert_eq!(covered(&write, Direction::Out, true), message(&[(number::URI_PATH, "0")], b"***"));
        assert_eq!(covered(&write, Direction::Out, false), write);
    }

    #[test]
    fn whatever_a_device_does_wrong_with_its_path_and_query_shows_no_secret() {
        let joined = format!("/rd/{LOCATION_TEXT}");
        let uri = format!("coap://gateway/rd/{LOCATION_TEXT}?password=secret");
        for options in [
            vec![(number::URI_PATH, joined.as_str())],
            vec![(number::URI_PATH, ""), (number::URI_PATH, "rd"), (number::URI_PATH, LOCATION_TEXT)],
            vec![(number::URI_PATH, "rd"), (number::URI_PATH, ""), (number::URI_PATH, LOCATION_TEXT)],
            vec![(number::URI_PATH, LOCATION_TEXT)],
            vec![(number::URI_PATH, "rd?ep=a&password=secret&lt=1")],
            vec![(number::URI_QUERY, "ep=a&password=secret")],
            vec![(number::URI_QUERY, "PassWord=secret")],
            vec![(35, uri.as_str())],
            vec![(3, "host"), (2_000, "password=secret"), (60_000, joined.as_str())],
        ] {
            let covered = covered(&message(&options, b""), Direction::In, false);
            let text = String::from_utf8_lossy(&covered);
            assert!(!text.contains("secret") && !text.contains(LOCATION_TEXT), "{options:?}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_covered_from_the_first_mistake_on() {
        let good = message(&[(number::URI_PATH, "rd")], b"");
        for (rest, readable) in [(&b"\xf0secret"[..], good.len()), (&b"\x4esecret"[..], good.len())] {
            let bad = [&good, rest].concat();
            let covered = covered(&bad, Direction::In, false);
            assert_eq!(covered[..readable], good[..]);
            assert!(covered[readable..].iter().all(|byte| *byte == STAR), "{covered:?}");
        }
        for bad in [&b"\x80\x02\x00\x01secret"[..], b"\x49\x02\x00\x01secret", b"\x48\x02\x00\x01secret"] {
            let covered = covered(bad, Direction::In, false);
            assert_eq!(covered, [&bad[..4], b"******"].concat());
        }
        for short in [&b""[..], b"\x40", b"\x40\x02\x00"] {
            assert_eq!(covered(short, Direction::In, true), short);
        }
    }

    #[test]
    fn the_parts_are_those_of_the_message_whatever_their_sizes() {
        for (number, length) in [(11, 1), (11, 12), (11, 13), (15, 268), (300, 269), (65_000, 600)] {
            let value = "v".repeat(length);
            let datagram = message(&[(3, "h"), (number, &value)], b"payload");
            let parts = DatagramParts::of(&datagram);
            let options: Vec<_> =
                parts.options.iter().map(|(number, place)| (*number, &datagram[place.clone()])).collect();
            assert_eq!(options, [(3, &b"h"[..]), (number, value.as_bytes())]);
            assert_eq!(&datagram[parts.payload.clone()], b"payload");
        }
    }

    #[test]
    fn any_bytes_keep_their_length() {
        let mut seed = 1_u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        };
        for length in 0..2_000 {
            let datagram: Vec<u8> =
                (0..length % 64).map(|at| if at == 0 { 0x40 | next() & 0x0f } else { next() }).collect();
            covered(&datagram, Direction::In, true);
        }
    }
}
