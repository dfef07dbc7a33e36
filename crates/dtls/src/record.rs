//! Records of DTLS 1.2 as they are on the wire (RFC 6347 section 4.1, RFC 9146 section 4).

use super::hello::CLIENT_HELLO;

/// The content type of a record. A record of `Tls12Cid` hides the type of its content until it is decrypted (RFC 9146
/// section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentType {
    ChangeCipherSpec = 20,
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
    Tls12Cid = 25,
}

impl ContentType {
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            25 => Some(Self::Tls12Cid),
            _ => None,
        }
    }

    pub fn number(self) -> u8 {
        self as u8
    }
}

/// DTLS 1.2.
pub const VERSION: [u8; 2] = [0xfe, 0xfd];
/// DTLS 1.0. A client may begin with it, and a HelloVerifyRequest has it (RFC 6347 section 4.2.1).
pub const VERSION_1_0: [u8; 2] = [0xfe, 0xff];
/// The epoch of all that is protected: there is no renegotiation.
pub const EPOCH: u16 = 1;
/// Sequence numbers are below this (48 bits).
pub const SEQUENCES: u64 = 1 << 48;
/// Bytes of a header without connection id.
pub const HEADER: usize = 13;
/// Bytes of a plaintext, with its type and padding where there is a connection id (RFC 9146 section 5).
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;

/// The connection id that a client puts into its records to us: always this long, so that a record can be read without
/// knowing whose it is (RFC 9146 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnCid(pub [u8; OwnCid::LENGTH]);

impl OwnCid {
    pub const LENGTH: usize = 8;
}

/// The connection id that we put into our records to a client. Not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCid(Box<[u8]>);

impl PeerCid {
    /// Creates a connection id; `None` if it is empty, which means none, or too long for the extension.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=255).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A record in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtlsRecord<'a> {
    pub content_type: ContentType,
    pub version: [u8; 2],
    pub epoch: u16,
    pub sequence: u64,
    /// Empty but with `Tls12Cid`.
    pub cid: &'a [u8],
    pub fragment: &'a [u8],
    /// All of it, as it came.
    pub bytes: &'a [u8],
}

/// Returns the records of a datagram. `cid_length` is the length of the receiver's connection ids.
///
/// A record with a type or a version that is not known is left out, as RFC 6347 section 4.1.2.7 wants it; after one
/// that is cut off there is nothing more.
pub fn records(datagram: &[u8], cid_length: usize) -> impl Iterator<Item = DtlsRecord<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let (record, behind) = split_record(rest, cid_length)?;
            rest = behind;
            if record.is_some() {
                return record;
            }
        }
    })
}

/// Splits off the first record, or `None` in its place if it cannot be one for the gateway.
fn split_record(bytes: &[u8], cid_length: usize) -> Option<(Option<DtlsRecord<'_>>, &[u8])> {
    let content_type = ContentType::from_number(*bytes.first()?);
    let cid_length = if content_type == Some(ContentType::Tls12Cid) { cid_length } else { 0 };
    let (head, rest) = bytes.split_at_checked(HEADER - 2 + cid_length)?;
    let (length, rest) = rest.split_first_chunk()?;
    let (fragment, behind) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (_, head) = head.split_first()?;
    let (version, head) = head.split_first_chunk()?;
    let (numbers, cid) = head.split_first_chunk()?;
    let numbers = u64::from_be_bytes(*numbers);
    let bytes = &bytes[..bytes.len() - behind.len()];
    // RFC 5246 appendix E.1: a server accepts any minor version in the record of a ClientHello. Mbed TLS 2 has 0 there
    // where no lowest version is configured.
    let is_hello = version[0] == VERSION[0] && numbers < SEQUENCES && fragment.first() == Some(&CLIENT_HELLO);
    let greets = is_hello && content_type == Some(ContentType::Handshake);
    let known = content_type.filter(|_| greets || [VERSION, VERSION_1_0].contains(version));
    let record = known.map(|content_type| DtlsRecord {
        content_type,
        version: *version,
        epoch: (numbers >> 48) as u16,
        sequence: numbers % SEQUENCES,
        cid,
        fragment,
        bytes,
    });
    Some((record, behind))
}

/// Writes an unprotected record.
pub fn write_plain(content_type: ContentType, version: [u8; 2], sequence: u64, fragment: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + fragment.len());
    write_header(&mut record, RecordHeader { content_type, version, epoch: 0, sequence, cid: &[] }, fragment.len());
    record.extend_from_slice(fragment);
    record
}

/// The header of a record, which precedes the fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader<'a> {
    pub content_type: ContentType,
    pub version: [u8; 2],
    pub epoch: u16,
    pub sequence: u64,
    pub cid: &'a [u8],
}

pub(super) fn write_header(record: &mut Vec<u8>, header: RecordHeader<'_>, length: usize) {
    debug_assert!(header.sequence < SEQUENCES);
    record.push(header.content_type.number());
    record.extend_from_slice(&header.version);
    record.extend_from_slice(&numbers(header.epoch, header.sequence));
    record.extend_from_slice(header.cid);
    record.extend_from_slice(&(length as u16).to_be_bytes());
}

/// Returns epoch and sequence number as one field.
pub(super) fn numbers(epoch: u16, sequence: u64) -> [u8; 8] {
    (u64::from(epoch) << 48 | sequence).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_into_its_records() {
        let mut datagram = write_plain(ContentType::Handshake, VERSION_1_0, 7, b"hello");
        datagram.extend(write_plain(ContentType::Alert, VERSION, SEQUENCES - 1, b""));
        datagram.extend([25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0xc1, 0xc2, 0, 3, 4, 5, 6]);

        let split: Vec<DtlsRecord<'_>> = records(&datagram, 2).collect();

        assert_eq!(split.len(), 3);
        assert_eq!((split[0].content_type, split[0].version), (ContentType::Handshake, VERSION_1_0));
        assert_eq!((split[0].epoch, split[0].sequence, split[0].fragment), (0, 7, &b"hello"[..]));
        assert_eq!((split[1].sequence, split[1].fragment, split[1].cid), (SEQUENCES - 1, &b""[..], &b""[..]));
        assert_eq!((split[2].epoch, split[2].sequence), (1, 9));
        assert_eq!((split[2].cid, split[2].fragment), (&[0xc1, 0xc2][..], &[4, 5, 6][..]));
        assert_eq!(split.iter().flat_map(|record| record.bytes).copied().collect::<Vec<_>>(), datagram);
    }

    /// RFC 5246 appendix E.1, and what Mbed TLS 2 sends.
    #[test]
    fn a_client_hello_may_have_any_minor_version_in_its_record() {
        for minor in 0..=255 {
            let record = write_plain(ContentType::Handshake, [0xfe, minor], 0, &[CLIENT_HELLO, 0, 0]);
            assert_eq!(records(&record, 8).count(), 1, "{minor}");
        }
        let of_tls = write_plain(ContentType::Handshake, [3, 0], 0, &[CLIENT_HELLO, 0, 0]);
        let of_alert = write_plain(ContentType::Alert, [0xfe, 0], 0, &[CLIENT_HELLO, 0]);
        let mut of_epoch_1 = write_plain(ContentType::Handshake, [0xfe, 0], 0, &[CLIENT_HELLO, 0, 0]);
        of_epoch_1[4] = 1;
        for record in [of_tls, of_alert, of_epoch_1] {
            assert_eq!(records(&record, 8).count(), 0, "{record:02x?}");
        }
    }

    #[test]
    fn what_is_cut_off_ends_the_datagram_and_what_is_foreign_is_left_out() {
        let record = write_plain(ContentType::Handshake, VERSION, 1, b"hello");
        for length in 0..record.len() {
            assert_eq!(records(&record[..length], 8).count(), 0, "{length} bytes");
        }
        let mut datagram = write_plain(ContentType::Handshake, [3, 3], 1, b"TLS");
        datagram.extend(write_plain(ContentType::Handshake, [0xfe, 0], 1, b"hello"));
        let mut heartbeat = write_plain(ContentType::Handshake, VERSION, 1, b"pulse");
        heartbeat[0] = 24;
        datagram.extend(heartbeat);
        datagram.extend(&record);
        datagram.extend(b"\x16\xfe");
        assert_eq!(records(&datagram, 8).map(|record| record.bytes.to_vec()).collect::<Vec<_>>(), [record]);
    }
}
