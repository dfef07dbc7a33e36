//! Plain records, cut and numbered.

use crate::record::{ContentType, DtlsRecord, write_plain};

const RECORD_HEADER: usize = 13;
const MESSAGE_HEADER: usize = 12;

/// Sets the sequence number, of a record of epoch 0.
pub(super) fn number(record: &mut [u8], next: &mut u64) {
    if record[3..5] == [0, 0] {
        record[5..11].copy_from_slice(&next.to_be_bytes()[2..]);
        *next += 1;
    }
}

/// The messages of a record in fragments, so that no record is longer than `mtu`. What is no handshake message stays
/// whole.
pub(crate) fn fragmented(record: &DtlsRecord<'_>, mtu: usize) -> Vec<Vec<u8>> {
    if record.content_type != ContentType::Handshake || record.bytes.len() <= mtu {
        return vec![record.bytes.to_vec()];
    }
    let mut pieces = Vec::new();
    let mut rest = record.fragment;
    while !rest.is_empty() {
        let (header, behind) = rest.split_at(MESSAGE_HEADER);
        let length = number_of(&header[9..12]);
        let (body, behind) = behind.split_at(length);
        rest = behind;
        let start = number_of(&header[6..9]);
        for (piece, body) in body.chunks(mtu - RECORD_HEADER - MESSAGE_HEADER).enumerate() {
            let offset = start + piece * (mtu - RECORD_HEADER - MESSAGE_HEADER);
            let fragment = [&header[..6], &offset.to_be_bytes()[5..], &body.len().to_be_bytes()[5..], body].concat();
            pieces.push(write_plain(ContentType::Handshake, record.version, 0, &fragment));
        }
    }
    pieces
}

fn number_of(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
