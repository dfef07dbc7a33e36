//! Nothing is opened but what was sealed.

#![no_main]

use std::hash::{DefaultHasher, Hash, Hasher};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use lwm2m_dtls::cipher::{RecordKeys, RecordWriter, Sealing, Suite};
use lwm2m_dtls::record::{ContentType, SEQUENCES, records};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    suite: u8,
    sequence: u64,
    cid: [u8; 8],
    has_cid: bool,
    plaintext: &'a [u8],
    /// What is made of the sealed record: at each place another byte.
    mutations: Vec<(u16, u8)>,
    length: Option<u16>,
    /// Something else altogether.
    foreign: &'a [u8],
}

fuzz_target!(|input: Input| {
    let suite = Suite::ALL[usize::from(input.suite) % Suite::ALL.len()];
    // Each record has keys of its own: libFuzzer remembers what was compared, and gives a record of an earlier input
    // back as a foreign one, that would be authentic under the same keys.
    let mut hasher = DefaultHasher::new();
    (input.sequence, input.cid, input.has_cid, input.plaintext).hash(&mut hasher);
    let mut client_random = [2; 32];
    client_random[..8].copy_from_slice(&hasher.finish().to_be_bytes());
    let keys = RecordKeys::derive(suite, &[1; 48], &client_random, &[3; 32]);
    let cid = if input.has_cid { &input.cid[..] } else { &[] };
    let (writer, content_type) = (RecordWriter::Client, ContentType::ApplicationData);
    let plaintext = &input.plaintext[..input.plaintext.len().min(2_000)];
    let sealing = Sealing { writer, content_type, sequence: input.sequence % SEQUENCES, cid };
    let sealed = keys.seal(sealing, plaintext);
    let opens = |bytes: &[u8]| records(bytes, 8).any(|record| keys.open(writer, &record).is_ok());

    let record = records(&sealed, 8).next().expect("it is one record");
    let opened = keys.open(writer, &record).expect("it is authentic");
    assert_eq!((opened.content_type, opened.plaintext.as_slice()), (content_type, plaintext));

    let mut mutated = sealed.clone();
    for (at, byte) in input.mutations {
        let at = usize::from(at) % mutated.len();
        mutated[at] = byte;
    }
    mutated.truncate(input.length.map_or(mutated.len(), usize::from));
    assert!(mutated == sealed || !opens(&mutated));
    assert!(input.foreign.windows(sealed.len()).any(|window| window == sealed) || !opens(input.foreign));
});
