use std::collections::HashMap;

use proptest::prelude::*;

use super::super::record::records;
use super::*;

const PLAINTEXT: &[u8] = b"urn:imei:490154203237518";
const SEQUENCE: u64 = 0x0001_0203_0405;
const CID: &[u8] = &[0xc0, 0xff, 0xee];

/// Made by `tests/python/dtls_vectors.py`, which knows nothing of the code here. (RFC 9146 has no vectors of bytes.)
struct Vector {
    suite: Suite,
    block: Vec<u8>,
    without_cid: Vec<u8>,
    with_cid: Vec<u8>,
    /// The plaintext with three zeros behind the type.
    padded: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let suites: HashMap<String, Suite> = Suite::ALL.map(|suite| (format!("{suite:?}"), suite)).into();
    let lines: Vec<&str> = include_str!("vectors.txt").lines().collect();
    let vector = |lines: &[&str]| {
        let (name, block) = lines[0].split_once(' ').unwrap();
        Vector {
            suite: suites[name],
            block: bytes(block),
            without_cid: bytes(lines[1]),
            with_cid: bytes(lines[2]),
            padded: bytes(lines[3]),
        }
    };
    lines.chunks(4).map(vector).collect()
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn keys(suite: Suite) -> RecordKeys {
    let master_secret = std::array::from_fn(|at| at as u8);
    RecordKeys::derive(suite, &master_secret, &[0xc1; 32], &[0x5e; 32])
}

fn sealing(cid: &[u8]) -> Sealing<'_> {
    Sealing { writer: RecordWriter::Client, content_type: ContentType::ApplicationData, sequence: SEQUENCE, cid }
}

fn open(keys: &RecordKeys, bytes: &[u8], cid_length: usize) -> Result<OpenedRecord, RecordOpenError> {
    let mut records = records(bytes, cid_length);
    let record = records.next().ok_or(RecordOpenError::Forged)?;
    keys.open(RecordWriter::Client, &record)
}

#[test]
fn there_is_a_vector_for_each_suite() {
    assert_eq!(vectors().iter().map(|vector| vector.suite).collect::<Vec<_>>(), Suite::ALL);
}

#[test]
fn key_blocks_are_those_of_rfc_5246() {
    for Vector { suite, block, .. } in vectors() {
        assert_eq!(keys(suite).block(), block, "{suite:?}");
        assert_eq!(RecordKeys::from_block(suite, &block), Some(keys(suite)));
        assert_eq!(RecordKeys::from_block(suite, &block[1..]), None);
    }
}

#[test]
fn records_are_sealed_as_another_hand_seals_them() {
    for Vector { suite, without_cid, with_cid, .. } in vectors() {
        assert_eq!(keys(suite).seal(sealing(&[]), PLAINTEXT), without_cid, "{suite:?}");
        assert_eq!(keys(suite).seal(sealing(CID), PLAINTEXT), with_cid, "{suite:?} with a connection id");
    }
}

#[test]
fn records_of_another_hand_are_opened_and_padding_is_taken_off() {
    let expected = OpenedRecord { content_type: ContentType::ApplicationData, plaintext: PLAINTEXT.to_vec() };
    for Vector { suite, without_cid, with_cid, padded, .. } in vectors() {
        for record in [without_cid, with_cid, padded] {
            assert_eq!(open(&keys(suite), &record, CID.len()).as_ref(), Ok(&expected), "{suite:?}");
        }
    }
}

#[test]
fn no_bit_of_a_record_can_be_turned() {
    for Vector { suite, without_cid, with_cid, .. } in vectors() {
        for record in [without_cid, with_cid] {
            for bit in 0..record.len() * 8 {
                let mut mutated = record.clone();
                mutated[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    open(&keys(suite), &mutated, CID.len()),
                    Err(RecordOpenError::Forged),
                    "{suite:?}, bit {bit}"
                );
            }
        }
    }
}

#[test]
fn a_record_belongs_to_its_writer_and_its_connection_id() {
    for suite in Suite::ALL {
        let own = keys(suite).seal(Sealing { writer: RecordWriter::Server, ..sealing(&[]) }, PLAINTEXT);
        assert_eq!(open(&keys(suite), &own, 0), Err(RecordOpenError::Forged), "{suite:?}: our own record comes back");

        // Three bytes of the connection id, read as two and a longer fragment ... and the other way.
        let with_cid = keys(suite).seal(sealing(CID), PLAINTEXT);
        assert_eq!(open(&keys(suite), &with_cid, 2), Err(RecordOpenError::Forged));
        assert_eq!(open(&keys(suite), &with_cid, 4), Err(RecordOpenError::Forged));
    }
}

#[test]
fn an_inner_plaintext_without_a_type_is_no_record() {
    for suite in Suite::ALL {
        let keys = keys(suite);
        let typed = |content: &[u8], last: u8| {
            // The type is the last byte that is not zero: one of those in the content, when it has none of its own.
            let mut forged = content.to_vec();
            forged.push(last);
            unwrap(ContentType::Tls12Cid, forged)
        };
        assert_eq!(typed(&[0; 20], 0), None);
        assert_eq!(typed(b"content", 25), None);
        assert_eq!(typed(b"content", 99), None);
        assert_eq!(typed(&[], 21), Some(OpenedRecord { content_type: ContentType::Alert, plaintext: Vec::new() }));
        assert!(keys.seal(sealing(CID), &[]).len() > 16);
    }
}

#[test]
fn sequence_numbers_have_48_bits_and_epochs_are_not_mixed() {
    for suite in Suite::ALL {
        let last = Sealing { sequence: super::super::record::SEQUENCES - 1, ..sealing(&[]) };
        let mut record = keys(suite).seal(last, PLAINTEXT);
        assert!(open(&keys(suite), &record, 0).is_ok());
        record[4] = 2;
        assert_eq!(open(&keys(suite), &record, 0), Err(RecordOpenError::Forged));
    }
}

#[test]
fn keys_are_not_in_a_debug_print() {
    assert_eq!(format!("{:?}", keys(Suite::Aes128Ccm8)), "RecordKeys(Aes128Ccm8, ..)");
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(
        suite in proptest::sample::select(&Suite::ALL[..]),
        plaintext in proptest::collection::vec(any::<u8>(), 0..600),
        cid in proptest::collection::vec(any::<u8>(), 0..20),
        sequence in 0..super::super::record::SEQUENCES,
        content_type in proptest::sample::select(&[ContentType::Alert, ContentType::ApplicationData][..]),
    ) {
        let keys = keys(suite);
        let sealing = Sealing { writer: RecordWriter::Client, content_type, sequence, cid: &cid };
        let record = keys.seal(sealing, &plaintext);
        let mut split = records(&record, cid.len());
        let parsed = split.next().unwrap();
        prop_assert_eq!((parsed.sequence, parsed.cid), (sequence, &cid[..]));
        prop_assert_eq!(keys.open(RecordWriter::Client, &parsed), Ok(OpenedRecord { content_type, plaintext }));
        prop_assert!(split.next().is_none());
    }

    #[test]
    fn nothing_mutated_is_opened(
        suite in proptest::sample::select(&Suite::ALL[..]),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        cid in proptest::sample::select(vec![&[][..], CID]),
    ) {
        let keys = keys(suite);
        let record = keys.seal(sealing(cid), PLAINTEXT);
        let mut mutated = record.clone();
        for (at, byte) in mutations {
            let at = at.index(mutated.len());
            mutated[at] = byte;
        }
        if let Some(cut) = cut {
            mutated.truncate(cut.index(record.len()));
        }
        prop_assume!(mutated != record);
        prop_assert_eq!(open(&keys, &mutated, CID.len()), Err(RecordOpenError::Forged));
    }
}
