//! Computes the additional data of an AEAD and the prefix of a MAC.

use smallvec::SmallVec;

use super::super::record::{ContentType, RecordHeader, numbers};

/// All but the length, which is the last of it.
pub(super) struct Authenticated {
    bytes: SmallVec<[u8; 48]>,
    numbers: [u8; 8],
}

impl Authenticated {
    pub(super) fn of(header: &RecordHeader<'_>) -> Self {
        let numbers = numbers(header.epoch, header.sequence);
        let mut bytes = SmallVec::new();
        if header.content_type == ContentType::Tls12Cid {
            // RFC 9146 section 5. It cannot be taken for one of RFC 6347: no record of those has this type.
            bytes.extend_from_slice(&[0xff; 8]);
            bytes.extend_from_slice(&[header.content_type.number(), header.cid.len() as u8]);
            bytes.push(header.content_type.number());
            bytes.extend_from_slice(&header.version);
            bytes.extend_from_slice(&numbers);
            bytes.extend_from_slice(header.cid);
        } else {
            // RFC 5246 section 6.2.3.3, with the sequence number of RFC 6347 section 4.1.2.1.
            bytes.extend_from_slice(&numbers);
            bytes.push(header.content_type.number());
            bytes.extend_from_slice(&header.version);
        }
        Self { bytes, numbers }
    }

    /// Appends the length: of the plaintext for an AEAD, of IV and ciphertext for encrypt-then-MAC (RFC 7366 section
    /// 3).
    pub(crate) fn with_length(&self, length: usize) -> SmallVec<[u8; 48]> {
        let mut bytes = self.bytes.clone();
        bytes.extend_from_slice(&(length as u16).to_be_bytes());
        bytes
    }

    /// Returns epoch and sequence number, which are unique for each record that a key protects.
    pub(super) fn numbers(&self) -> [u8; 8] {
        self.numbers
    }
}
