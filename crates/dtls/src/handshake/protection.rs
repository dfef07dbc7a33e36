//! Converts records of epoch 1 between the form of the network and the form that OpenSSL knows.

use crate::cipher::{OpenedRecord, RecordKeys, RecordWriter, Sealing};
use crate::record::{ContentType, DtlsRecord, OwnCid, PeerCid};

use super::connection::{OpenSslHandshake, Secrets};

/// The keys of a handshake that is nearly finished, and the connection ids.
pub(super) struct Protection {
    pub keys: RecordKeys,
    pub own_cid: Option<OwnCid>,
    /// The connection id in the gateway's records; `None` if they carry none.
    pub peer_cid: Option<PeerCid>,
}

impl Protection {
    /// Returns the protection of a connection; `None` until the keys are known.
    pub(super) fn of(connection: &OpenSslHandshake) -> Option<Self> {
        let Secrets { master, client_random, server_random } = connection.secrets()?;
        let keys = RecordKeys::derive(connection.suite()?.records(), &master, &client_random, &server_random);
        let (own_cid, peer_cid) = connection.connection_ids().map(|ids| (ids.own, ids.peer)).unzip();
        Some(Self { keys, own_cid, peer_cid: peer_cid.flatten() })
    }

    /// Opens a record of the client if it is authentic. It must have the gateway's connection id if one was agreed on
    /// (RFC 9146 section 3), and otherwise none.
    pub(super) fn open(&self, record: DtlsRecord<'_>) -> Option<OpenedRecord> {
        let cid = self.own_cid.as_ref().map_or(&[][..], |OwnCid(cid)| cid);
        (record.cid == cid).then(|| self.keys.open(RecordWriter::Client, &record).ok()).flatten()
    }

    /// Seals a record of the client again without its connection id and with the same sequence number.
    pub(crate) fn seal_for_openssl(&self, record: DtlsRecord<'_>, opened: &OpenedRecord) -> Vec<u8> {
        if record.content_type != ContentType::Tls12Cid {
            return record.bytes.to_vec();
        }
        self.seal(RecordWriter::Client, record.sequence, &[], opened)
    }

    /// Seals a record of OpenSSL again with the client's connection id and the same sequence number.
    ///
    /// This is done without a connection id, too: OpenSSL's explicit nonce for GCM starts anywhere and could collide
    /// with ours, which is epoch and sequence number.
    pub(crate) fn seal_for_client(&self, record: DtlsRecord<'_>) -> Option<Vec<u8>> {
        let opened = self.keys.open(RecordWriter::Server, &record).ok()?;
        let cid = self.peer_cid.as_ref().map_or(&[][..], PeerCid::as_bytes);
        Some(self.seal(RecordWriter::Server, record.sequence, cid, &opened))
    }

    fn seal(&self, writer: RecordWriter, sequence: u64, cid: &[u8], opened: &OpenedRecord) -> Vec<u8> {
        self.keys.seal(Sealing { writer, content_type: opened.content_type, sequence, cid }, &opened.plaintext)
    }
}
