//! Datagrams, payloads and commands that are valid: what is mutated begins with one of them.

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};

/// A payload and its Content-Format, as an answer to a read of `/3/0`, `/3/0/9` or the like.
pub(super) const CONTENTS: [(u16, &[u8]); 16] = [
    (format::TEXT, b"21.5"),
    (format::TEXT, b"Open Mobile Alliance"),
    (format::OCTET_STREAM, b"\x01\x02\x03\x04"),
    (format::LINK_FORMAT, b"</3/0>;pmin=10;pmax=60,</3/0/1>,</3/0/9>;gt=5"),
    (format::TLV, b"\xc8\x00\x14Open Mobile Alliance"),
    (format::TLV, b"\xc8\x00\x04Acme\xc1\x09\x64\x86\x06\x41\x00\x01\x41\x01\x05"),
    (format::TLV, b"\x08\x00\x07\xc3\x00abc\xc1\x09\x64"),
    (format::LWM2M_JSON, br#"{"bn":"/3/0/","e":[{"n":"0","sv":"Acme"},{"n":"9","v":100},{"n":"4","bv":true}]}"#),
    (
        format::LWM2M_JSON,
        br#"{"bt":25462634,"bn":"/3303/0/","e":[{"n":"5700","v":22.9,"t":-5},{"n":"5700","v":22.4,"t":0}]}"#,
    ),
    (format::SENML_JSON, br#"[{"bn":"/3/0/","n":"0","vs":"Acme"},{"n":"9","v":95},{"n":"22","vlo":"66:1"}]"#),
    (format::SENML_JSON, br#"[{"bn":"/3303/0/","bt":1700000000,"n":"5700","v":22.5,"t":-5},{"n":"5700","v":23}]"#),
    (
        format::SENML_CBOR,
        b"\x83\xa3\x21\x65/3/0/\x00\x61\x30\x03\x64Acme\xa2\x00\x619\x02\x18\x5f\xa2\x00\x62\x32\x32\x63vlo\x6466:1",
    ),
    (format::SENML_CBOR, b"\x81\xa2\x00\x6c/3303/0/5700\x02\xfb\x40\x36\x80\x00\x00\x00\x00\x00"),
    (format::CBOR, b"\xfb\x40\x36\x80\x00\x00\x00\x00\x00"),
    (format::CBOR, b"\x18\x64"),
    (format::LWM2M_CBOR, b"\xa1\x03\xa1\x00\xa2\x00\x64Acme\x09\x18\x64"),
];

/// What applications send, on any device.
pub(super) const COMMANDS: [&str; 16] = [
    r#"{"reqID":1,"msgType":"read","data":{"path":"/3/0/0"}}"#,
    r#"{"reqID":2,"msgType":"read","data":{"path":"/3/0"}}"#,
    r#"{"reqID":3,"msgType":"read","data":{"path":"/3"}}"#,
    r#"{"reqID":4,"msgType":"read","data":{"path":"/3303/0/5700"}}"#,
    r#"{"reqID":5,"msgType":"discover","data":{"path":"/3/0"}}"#,
    r#"{"reqID":6,"msgType":"observe","data":{"path":"/3303/0/5700"}}"#,
    r#"{"reqID":7,"msgType":"observe","data":{"path":"/3/0"}}"#,
    r#"{"reqID":8,"msgType":"observe","data":{"path":"/3303"}}"#,
    r#"{"reqID":9,"msgType":"cancel-observe","data":{"path":"/3303/0/5700"}}"#,
    r#"{"reqID":10,"msgType":"write","data":{"path":"/3/0/14","type":"String","value":"+02"}}"#,
    r#"{"reqID":11,"msgType":"write","data":{"basePath":"/1/0/","content":[{"path":"1","type":"Integer","value":"60"}]}}"#,
    r#"{"reqID":12,"msgType":"execute","data":{"path":"/3/0/4","args":"0"}}"#,
    r#"{"reqID":13,"msgType":"write-attr","data":{"path":"/3303/0/5700","pmin":"1","pmax":"60"}}"#,
    r#"{"reqID":14,"msgType":"create","data":{"basePath":"/3303","content":[{"path":"/1/5700","type":"Float","value":"1"}]}}"#,
    r#"{"reqID":15,"msgType":"delete","data":{"path":"/3303/1"}}"#,
    r#"{"reqID":16,"msgType":"read","mheaders":{"ttl":60},"data":{"path":"/3/0/9"}}"#,
];

const LISTS: [&str; 4] = [
    "</1/0>,</3/0>,</3303/0>",
    "</>;rt=\"oma.lwm2m\";ct=110,</1>;ver=1.1,</1/0>,</3/0>,</3303/0>,</6/0>",
    "</lwm2m>;rt=\"oma.lwm2m\";ct=\"110 112 11542\",</lwm2m/1/0>,</lwm2m/3/0>,</lwm2m/3303/0>",
    "</3/0>,</5/0>,</3303/0>;pmin=1;title=\"a, b\",</3303/1>",
];

/// Registers, in one message or as the first block of several.
pub(super) fn register(endpoint: &str, number: usize, id: MessageId) -> Message {
    let version = if number.is_multiple_of(2) { "lwm2m=1.0" } else { "lwm2m=1.1" };
    let binding = ["b=U", "b=UQ", "b=UQS", "Q"][number / 2 % 4];
    let mut message = request(Code::POST, &["rd"], &[&format!("ep={endpoint}"), "lt=600", version, binding], id);
    message.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    message.payload = LISTS[number % LISTS.len()].as_bytes().to_vec();
    message
}

pub(super) fn update(location: &str, query: &[&str], id: MessageId) -> Message {
    request(Code::POST, &["rd", location], query, id)
}

/// Returns messages that belong to no registration.
pub(super) fn of_unregistered_peers() -> Vec<Message> {
    let id = MessageId(0x1234);
    let with = |mut message: Message, options: &[(u16, u32)], payload: &[u8]| {
        options.iter().for_each(|(number, value)| message.options.add_uint(*number, *value));
        message.payload = payload.to_vec();
        message
    };
    let answer = |kind, options: &[(u16, u32)], payload: &[u8]| {
        with(
            Message { kind, code: Code::CONTENT, token: Token::new(b"12345678"), ..Message::empty(kind, id) },
            options,
            payload,
        )
    };
    let block1 = |number: u32, more: bool| (number::BLOCK1, number << 4 | u32::from(more) << 3 | 2);
    vec![
        Message::empty(Kind::Confirmable, id),
        Message::empty(Kind::Reset, id),
        Message::empty(Kind::Acknowledgement, id),
        request(Code::GET, &[".well-known", "core"], &[], id),
        request(Code::GET, &["rd", "nowhere"], &[], id),
        request(Code::DELETE, &["rd", "nowhere"], &[], id),
        update("nowhere", &["lt=60"], id),
        register("somebody", 0, id),
        register("somebody", 1, id),
        register("somebody", 6, id),
        with(register("in-blocks", 0, id), &[block1(0, true)], &[b'<'; 64]),
        with(register("in-blocks", 0, id), &[block1(1, true)], &[b'<'; 64]),
        with(register("in-blocks", 0, id), &[block1(2, false)], b"</3/0>"),
        with(request(Code::POST, &["dp"], &[], id), &[(number::CONTENT_FORMAT, 110)], CONTENTS[9].1),
        with(request(Code::POST, &["bs"], &["ep=somebody"], id), &[], b""),
        with(request(Code::of(0, 5), &["rd"], &[], id), &[(number::ACCEPT, 110)], b""),
        answer(Kind::NonConfirmable, &[(number::OBSERVE, 17), (number::CONTENT_FORMAT, 11542)], CONTENTS[4].1),
        answer(Kind::Confirmable, &[(number::OBSERVE, 18), (number::CONTENT_FORMAT, 0)], b"21.5"),
        answer(Kind::Acknowledgement, &[(number::CONTENT_FORMAT, 110), (number::BLOCK2, 0x0e)], &[b'['; 1024]),
        answer(Kind::Acknowledgement, &[(number::BLOCK2, 0xffff_ff0e), (number::SIZE2, u32::MAX)], b"x"),
    ]
}

pub(super) fn request(method: Code, path: &[&str], query: &[&str], id: MessageId) -> Message {
    let mut options = Options::new();
    path.iter().for_each(|segment| options.add_text(number::URI_PATH, segment));
    query.iter().for_each(|item| options.add_text(number::URI_QUERY, item));
    Message {
        kind: Kind::Confirmable,
        code: method,
        id,
        token: Token::new(&id.0.to_be_bytes()),
        options,
        payload: Vec::new(),
    }
}
