//! The forms of fields and values: bytes of keys, digests and associations.

use lwm2m_core::bootstrap::secret::SecretBytes;
use lwm2m_core::gateway::persistence::record::KeyPairRecord;
use lwm2m_core::registry::CommandDigest;
use serde::Serialize;

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("keys are texts, and numbers are finite")
}

pub(super) fn command_field(endpoint: &str, serial: u64) -> Vec<u8> {
    [endpoint.as_bytes(), &[0], &serial.to_be_bytes()].concat()
}

pub(super) fn command_digests(bytes: &[u8]) -> Vec<CommandDigest> {
    bytes.as_chunks().0.iter().map(|digest| CommandDigest(u64::from_be_bytes(*digest))).collect()
}

pub(super) fn command_field_parts(field: &[u8]) -> Option<(String, u64)> {
    let (endpoint, serial) = field.split_at_checked(field.len().checked_sub(9)?)?;
    Some((String::from_utf8(endpoint.to_vec()).ok()?, u64::from_be_bytes(*serial.last_chunk()?)))
}

/// The length of the first key in two bytes, the first key, and the one that is to replace it.
pub(super) fn key_pair(KeyPairRecord { key, next }: &KeyPairRecord) -> Vec<u8> {
    let length = u16::try_from(key.reveal().len()).expect("a generated key is short");
    let next = next.as_ref().map(SecretBytes::reveal).unwrap_or_default();
    [&length.to_be_bytes(), key.reveal(), next].concat()
}

pub(super) fn key_pair_parts(bytes: &[u8]) -> Option<KeyPairRecord> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (key, next) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let next = (!next.is_empty()).then(|| SecretBytes::new(next));
    Some(KeyPairRecord { key: SecretBytes::new(key), next })
}

/// The names of the listeners, each with a zero byte behind it, and what DTLS saved.
pub(super) fn association(made_at: &str, reached_by: &str, bytes: &[u8]) -> Vec<u8> {
    [made_at.as_bytes(), &[0], reached_by.as_bytes(), &[0], bytes].concat()
}

pub(super) fn association_parts(value: &[u8]) -> Option<(&str, &str, &[u8])> {
    let mut parts = value.splitn(3, |byte| *byte == 0);
    let name = |bytes| std::str::from_utf8(bytes).ok();
    Some((name(parts.next()?)?, name(parts.next()?)?, parts.next()?))
}
