//! Payloads that are small and ask for much: deep nesting, lengths that nothing follows, numbers without end, texts
//! that each record makes longer.

use lwm2m_core::coap::options::format;
use rand::RngExt;
use rand::rngs::StdRng;

type Bomb = fn(usize) -> Vec<u8>;

const CBOR: [Bomb; 10] = [
    |size| vec![0x81; size],
    |size| b"\xa1\x00".repeat(size / 2),
    |size| vec![0x9f; size],
    |size| vec![0xbf; size],
    |size| vec![0xc1; size],
    |size| [&b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"[..], &vec![0; size]].concat(),
    |size| [&b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff"[..], &vec![0; size]].concat(),
    |size| [&b"\x9a\x00\x0f\xff\xff"[..], &b"\xa0".repeat(size)].concat(),
    |size| [&b"\x7f"[..], &b"\x61a".repeat(size / 2)].concat(),
    // SenML: base name after base name.
    |size| [&b"\x9f"[..], &b"\xa2\x21\x66/3/0/9\x02\xfb\x7e\x37\xe4\x3c\x88\x00\x75\x9c".repeat(size / 18)].concat(),
];

const JSON: [Bomb; 8] = [
    |size| vec![b'['; size],
    |size| b"{\"e\":".repeat(size / 5),
    |size| b"[{\"bn\":".repeat(size / 7),
    |size| [&b"[{\"n\":\"/3/0/9\",\"v\":1e"[..], &vec![b'9'; size], b"}]"].concat(),
    |size| [&b"[{\"n\":\"/3/0/9\",\"v\":0."[..], &vec![b'9'; size], b"}]"].concat(),
    |size| [&b"[{\"n\":\"/3/0/0\",\"vs\":\""[..], &b"\\u0000".repeat(size / 6), b"\"}]"].concat(),
    |size| {
        [&b"["[..], &b"{\"bn\":\"/3/0/\",\"n\":\"9\",\"v\":1},".repeat(size / 30), b"{\"n\":\"9\",\"v\":1}]"].concat()
    },
    |size| {
        [&b"{\"bn\":\"/3/0/\",\"e\":["[..], &b"{\"n\":\"9\",\"v\":1},".repeat(size / 16), b"{\"n\":\"9\"}]}"].concat()
    },
];

const TLV: [Bomb; 5] = [
    |size| b"\x08\x00\xff".repeat(size / 3),
    |size| b"\x18\x00\xff\xff\xff".repeat(size / 5),
    |size| b"\xc0".repeat(size),
    |size| b"\x81\x09".repeat(size / 2),
    nested_tlv,
];

const TEXT: [Bomb; 4] = [
    |size| vec![b'9'; size],
    |size| [&b"0."[..], &vec![b'1'; size]].concat(),
    |size| vec![0xff; size],
    |size| b"QUJD\r\n".repeat(size / 6),
];

const LINKS: [Bomb; 6] = [
    |size| vec![b'<'; size],
    |size| b"</3/0>,".repeat(size / 7),
    |size| [&b"</3/0>"[..], &b";a=\"b\"".repeat(size / 6)].concat(),
    |size| [&b"</3/0>;ct=\""[..], &b"110 ".repeat(size / 4)].concat(),
    |size| (0..size / 10).map(|number| format!("</{}/{}>,", number % 65_536, number)).collect::<String>().into_bytes(),
    |size| b",;,\"\\\"".repeat(size / 6),
];

/// Returns a payload and its Content-Format.
pub(super) fn bomb(rng: &mut StdRng, longest: usize) -> (u16, Vec<u8>) {
    let (format, bombs): (u16, &[Bomb]) = match rng.random_range(0..7) {
        0 => (format::SENML_CBOR, &CBOR),
        1 => (format::CBOR, &CBOR),
        2 => (format::SENML_JSON, &JSON),
        3 => (format::LWM2M_JSON, &JSON),
        4 => (format::TLV, &TLV),
        5 => (format::TEXT, &TEXT),
        _ => (format::LINK_FORMAT, &LINKS),
    };
    let size = if rng.random_bool(0.5) { rng.random_range(1..64) } else { rng.random_range(64..longest) };
    let mut payload = bombs[rng.random_range(0..bombs.len())](size);
    payload.truncate(longest);
    (format, payload)
}

/// Returns a command of an application that is one.
pub(super) fn command(rng: &mut StdRng, longest: usize) -> Vec<u8> {
    let size = rng.random_range(1..longest);
    JSON[rng.random_range(0..JSON.len())](size)
}

/// Object instances in object instances, each with its right length.
fn nested_tlv(size: usize) -> Vec<u8> {
    let mut inner = b"\xc1\x09\x64".to_vec();
    while inner.len() < size.min(1_200) {
        let length = (inner.len() as u16).to_be_bytes();
        inner = [&[0x10, 0, length[0], length[1]], &inner[..]].concat();
    }
    inner
}
