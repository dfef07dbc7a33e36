//! The protection of records: RFC 5246 section 6.2.3 as RFC 6347 section 4.1.2 changes it, RFC 7366, RFC 9146 section
//! 5.
//! 5.
//!
//! The key schedule is made anew for each record: to keep it would cost 700 bytes for each direction, to make it costs
//! less than a tenth of a microsecond.

mod aead;
mod authenticated;
mod cbc;
mod direction_keys;
mod open_error;
mod suite;

use std::fmt;

use zeroize::Zeroizing;

use super::prf;
use super::record::{ContentType, DtlsRecord, EPOCH, MAX_PLAINTEXT, RecordHeader, VERSION, write_header};

use authenticated::Authenticated;
use direction_keys::DirectionKeys;
use suite::Mode;

pub use open_error::RecordOpenError;
pub use suite::Suite;

/// The side that wrote a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordWriter {
    Client,
    Server,
}

/// The keys that protect the records of epoch 1 in both directions. They are zeroized on drop, and `Debug` does not
/// show them.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordKeys {
    suite: Suite,
    /// RFC 5246 section 6.3.
    block: Zeroizing<Box<[u8]>>,
}

/// The decrypted content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRecord {
    pub content_type: ContentType,
    pub plaintext: Vec<u8>,
}

/// The parameters of a record to seal, except the keys.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'a> {
    pub writer: RecordWriter,
    /// The type of the content; never `Tls12Cid`.
    pub content_type: ContentType,
    /// Never the same one twice for different plaintexts: that would give the key away (RFC 5288 section 3).
    pub sequence: u64,
    /// An empty connection id makes a record of RFC 6347, any other one a record of RFC 9146.
    pub cid: &'a [u8],
}

impl RecordKeys {
    /// Derives the keys of both directions (RFC 5246 section 6.3): MAC keys, keys and implicit IVs, of the client and
    /// of the server each.
    pub fn derive(suite: Suite, master_secret: &[u8; 48], client_random: &[u8; 32], server_random: &[u8; 32]) -> Self {
        let mut block = Zeroizing::new(vec![0; suite.key_block_length()].into_boxed_slice());
        prf::prf(suite.hash(), master_secret, b"key expansion", &[server_random, client_random], &mut block);
        Self { suite, block }
    }

    /// Keys as [`RecordKeys::block`] gave them; None if they are too few or too many for the suite.
    pub(crate) fn from_block(suite: Suite, block: &[u8]) -> Option<Self> {
        (block.len() == suite.key_block_length()).then(|| Self { suite, block: Zeroizing::new(block.into()) })
    }

    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Returns the keys, for the record in the store.
    pub fn block(&self) -> &[u8] {
        &self.block
    }

    /// Seals a record of epoch 1. `plaintext` is shorter than `MAX_PLAINTEXT`.
    pub fn seal(&self, sealing: Sealing<'_>, plaintext: &[u8]) -> Vec<u8> {
        let Sealing { writer, content_type, sequence, cid } = sealing;
        debug_assert!(plaintext.len() < MAX_PLAINTEXT && content_type != ContentType::Tls12Cid);
        let inner = if cid.is_empty() { &[][..] } else { &[content_type.number()] };
        let outer = if cid.is_empty() { content_type } else { ContentType::Tls12Cid };
        let header = RecordHeader { content_type: outer, version: VERSION, epoch: EPOCH, sequence, cid };
        let length = self.suite.sealed_length(plaintext.len() + inner.len());
        let mut record = Vec::with_capacity(super::record::HEADER + cid.len() + length);
        write_header(&mut record, header, length);
        let authenticated = Authenticated::of(&header);
        let content = [plaintext, inner];
        match self.suite.mode() {
            Mode::Aead(aead) => aead::seal(self.parts(writer), aead, &authenticated, content, &mut record),
            Mode::Cbc(cbc) => cbc::seal(self.parts(writer), cbc, &authenticated, content, &mut record),
        }
        record
    }

    /// Verifies and decrypts a record of epoch 1.
    pub fn open(&self, writer: RecordWriter, record: &DtlsRecord<'_>) -> Result<OpenedRecord, RecordOpenError> {
        if record.epoch != EPOCH || record.version != VERSION {
            return Err(RecordOpenError::Forged);
        }
        let authenticated = Authenticated::of(&RecordHeader {
            content_type: record.content_type,
            version: record.version,
            epoch: record.epoch,
            sequence: record.sequence,
            cid: record.cid,
        });
        let keys = self.parts(writer);
        let plaintext = match self.suite.mode() {
            Mode::Aead(aead) => {
                aead::open(keys, aead, &authenticated, record.fragment).ok_or(RecordOpenError::Forged)?
            }
            Mode::Cbc(cbc) => cbc::open(keys, cbc, &authenticated, record.fragment)?,
        };
        unwrap(record.content_type, plaintext).ok_or(RecordOpenError::Invalid)
    }

    fn parts(&self, writer: RecordWriter) -> DirectionKeys<'_> {
        let suite = self.suite;
        let mut rest = &self.block[..];
        let mut part = |length: usize| {
            let (both, behind) = rest.split_at(2 * length);
            rest = behind;
            let (client, server) = both.split_at(length);
            match writer {
                RecordWriter::Client => client,
                RecordWriter::Server => server,
            }
        };
        DirectionKeys {
            mac: part(suite.mac_key_length()),
            key: part(suite.key_length()),
            iv: part(suite.implicit_iv_length()),
        }
    }
}

impl fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKeys({:?}, ..)", self.suite)
    }
}

/// Unwraps a DTLSInnerPlaintext (RFC 9146 section 4): content, its type, and any number of zeros.
fn unwrap(outer: ContentType, mut plaintext: Vec<u8>) -> Option<OpenedRecord> {
    if plaintext.len() > MAX_PLAINTEXT {
        return None;
    }
    if outer != ContentType::Tls12Cid {
        return Some(OpenedRecord { content_type: outer, plaintext });
    }
    let end = plaintext.iter().rposition(|byte| *byte != 0)?;
    let content_type = ContentType::from_number(plaintext[end]).filter(|inner| *inner != ContentType::Tls12Cid)?;
    plaintext.truncate(end);
    Some(OpenedRecord { content_type, plaintext })
}

#[cfg(test)]
mod tests;
