#![no_main]
//! The handshake of DTLS under whatever a client sends: fragments of messages in records, and bytes that are no records.

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use lwm2m_gateway::dtls::credentials::PskKey;
use lwm2m_gateway::dtls::handshake::{Acceptor, AcceptorSettings, Handshake, Step};
use lwm2m_gateway::dtls::record::{ContentType, OwnCid, VERSION, write_plain};

/// A handshake says a flight, a question and an end in answer to one thing; a flight here has few datagrams.
const MOST_STEPS: usize = 16;

#[derive(Arbitrary, Debug)]
struct Run<'a> {
    hello: Hello<'a>,
    events: Vec<Event<'a>>,
}

/// Of a client with PSK, so that OpenSSL takes it when the fuzzer does not want otherwise.
#[derive(Arbitrary, Debug)]
struct Hello<'a> {
    cipher_suite: u8,
    connection_id: Option<&'a [u8]>,
    extensions: &'a [u8],
    fragment: Option<u8>,
}

#[derive(Arbitrary, Debug)]
enum Event<'a> {
    Bytes(&'a [u8]),
    Message { kind: u8, sequence: u8, length: u8, offset: u8, body: &'a [u8] },
    KeyExchange { identity: &'a [u8], length: Option<u16> },
    ChangeCipherSpec,
    Alert { level: u8, description: u8 },
    Protected { content_type: u8, cid: bool, sequence: u8, fragment: &'a [u8] },
    Key { known: bool },
    Retransmit,
}

fuzz_target!(|run: Run| {
    const CID: OwnCid = OwnCid(*b"gateway1");
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    let acceptor = ACCEPTOR.get_or_init(|| Acceptor::new(&AcceptorSettings::default()).expect("PSK needs nothing"));
    let hello = run.hello.message();
    let first = run.hello.fragment.map_or(hello.len(), |length| usize::from(length).min(hello.len()));
    let mut handshake = Handshake::accept(acceptor, &message(1, 1, hello.len(), 0, &hello[..first]), CID);
    drain(&mut handshake);
    if first < hello.len() {
        handshake.handle_record(&message(1, 1, hello.len(), first, &hello[first..]));
        drain(&mut handshake);
    }
    for event in run.events {
        apply(&mut handshake, event, CID);
        drain(&mut handshake);
    }
});

fn apply(handshake: &mut Handshake, event: Event, OwnCid(cid): OwnCid) {
    match event {
        Event::Bytes(bytes) => drop(handshake.handle_record(bytes)),
        Event::Message { kind, sequence, length, offset, body } => {
            handshake.handle_record(&message(kind, sequence.into(), length.into(), offset.into(), body));
        }
        Event::KeyExchange { identity, length } => {
            let length = length.unwrap_or(identity.len() as u16);
            let body = [&length.to_be_bytes()[..], identity].concat();
            handshake.handle_record(&message(16, 2, body.len(), 0, &body));
        }
        Event::ChangeCipherSpec => {
            handshake.handle_record(&write_plain(ContentType::ChangeCipherSpec, VERSION, 3, &[1]));
        }
        Event::Alert { level, description } => {
            handshake.handle_record(&write_plain(ContentType::Alert, VERSION, 4, &[level, description]));
        }
        Event::Protected { content_type, cid: with_cid, sequence, fragment } => {
            let (content_type, cid) = if with_cid { (25, &cid[..]) } else { (content_type, &[][..]) };
            let numbers = [0, 1, 0, 0, 0, 0, 0, sequence];
            let length = (fragment.len() as u16).to_be_bytes();
            let header = [&[content_type][..], &VERSION, &numbers, cid, &length].concat();
            handshake.handle_record(&[&header, fragment].concat());
        }
        Event::Key { known } => handshake.handle_key(PskKey::new(*b"key").filter(|_| known).as_ref()),
        Event::Retransmit => handshake.retransmit(),
    }
}

/// Nothing authentic can come from who has no key: no such handshake is established.
fn drain(handshake: &mut Handshake) {
    let mut steps = 0;
    while let Some(step) = handshake.poll() {
        steps += 1;
        assert!(steps <= MOST_STEPS, "it does not come to an end");
        assert!(!matches!(step, Step::Established(_)), "established without a key");
    }
}

impl Hello<'_> {
    fn message(&self) -> Vec<u8> {
        let suite = [[0xc0, 0xa8], [0x00, 0xa8], [0x00, 0xae], [0xc0, 0x37]][usize::from(self.cipher_suite % 4)];
        let mut extensions = self.extensions.to_vec();
        if let Some(cid) = self.connection_id.filter(|cid| cid.len() < 256) {
            let length = cid.len() as u16;
            extensions.extend([&[0, 54][..], &(length + 1).to_be_bytes(), &[length as u8], cid].concat());
        }
        let length = (extensions.len() as u16).to_be_bytes();
        let cookie = b"\x06cookie";
        [&VERSION[..], &[7; 32], &[0], cookie, &[0, 2], &suite, &[1, 0], &length, &extensions].concat()
    }
}

fn message(kind: u8, sequence: u16, length: usize, offset: usize, body: &[u8]) -> Vec<u8> {
    let u24 = |number: usize| [(number >> 16) as u8, (number >> 8) as u8, number as u8];
    let header = [&[kind][..], &u24(length), &sequence.to_be_bytes(), &u24(offset), &u24(body.len())].concat();
    write_plain(ContentType::Handshake, VERSION, 1, &[&header, body].concat())
}
