//! Whoever got a cookie says to a handshake whatever it likes: hellos and key exchanges in pieces, records that are not
//! authentic, alerts.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use lwm2m_dtls::credentials::PskKey;
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig, Handshake, HandshakeOutput};
use lwm2m_dtls::record::{ContentType, OwnCid, VERSION, write_plain};

#[derive(Arbitrary, Debug)]
enum Said<'a> {
    Record(&'a [u8]),
    /// A fragment of a message that is none, with what is said about it.
    Fragment {
        kind: u8,
        length: u16,
        sequence: u8,
        offset: u16,
        body: &'a [u8],
    },
    KeyExchange {
        identity: &'a [u8],
        cut: u8,
    },
    Retransmit,
    Key(Option<[u8; 4]>),
}

/// A hello with PSK-AES128-CCM8, with the extensions that the fuzzer thinks of.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![0xfe, 0xfd];
    body.extend([7; 32]);
    body.extend([0, 2, 1, 2, 0, 4, 0xc0, 0xa8, 0x00, 0xae, 1, 0]);
    let extensions = &extensions[..extensions.len().min(400)];
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    fragment(1, body.len() as u16, 1, 0, &body)
}

fn fragment(kind: u8, length: u16, sequence: u8, offset: u16, body: &[u8]) -> Vec<u8> {
    let [l1, l0] = length.to_be_bytes();
    let [o1, o0] = offset.to_be_bytes();
    let [b1, b0] = (body.len() as u16).to_be_bytes();
    let header = [kind, 0, l1, l0, 0, sequence, 0, o1, o0, 0, b1, b0];
    write_plain(ContentType::Handshake, VERSION, u64::from(sequence), &[&header[..], body].concat())
}

fn acceptor() -> &'static Acceptor {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    ACCEPTOR.get_or_init(|| Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing"))
}

fn poll(handshake: &mut Handshake) {
    while let Some(step) = handshake.poll() {
        assert!(!matches!(step, HandshakeOutput::Established(_)), "nobody here knows a key");
    }
}

fuzz_target!(|input: (bool, &[u8], Vec<Said>)| {
    let (is_hello, first, said) = input;
    let first = if is_hello { hello(first) } else { first.to_vec() };
    let mut handshake = Handshake::accept(acceptor(), &first, OwnCid([9; 8]));
    poll(&mut handshake);
    for said in said {
        match said {
            Said::Record(record) => drop(handshake.handle_record(record)),
            Said::Fragment { kind, length, sequence, offset, body } => {
                let body = &body[..body.len().min(2_000)];
                handshake.handle_record(&fragment(kind, length, sequence, offset, body));
            }
            Said::KeyExchange { identity, cut } => {
                let identity = &identity[..identity.len().min(1_000)];
                let body = [&(identity.len() as u16).to_be_bytes()[..], identity].concat();
                let (head, tail) = body.split_at(usize::from(cut).min(body.len()));
                let length = body.len() as u16;
                handshake.handle_record(&fragment(16, length, 2, 0, head));
                handshake.handle_record(&fragment(16, length, 2, head.len() as u16, tail));
            }
            Said::Retransmit => handshake.retransmit(),
            Said::Key(key) => handshake.handle_key(key.and_then(PskKey::new).as_ref()),
        }
        poll(&mut handshake);
    }
});
