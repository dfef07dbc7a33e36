//! CBC with encrypt-then-MAC (RFC 7366): IV, ciphertext, MAC of both. MAC-then-encrypt is not supported: the timing of
//! its padding check reveals plaintext.

use aes::cipher::{Block, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes256};
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384};

use super::authenticated::Authenticated;
use super::direction_keys::DirectionKeys;
use super::open_error::RecordOpenError;

pub(super) const BLOCK: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cbc {
    Aes128Sha256,
    Aes256Sha384,
}

impl Cbc {
    /// Returns the length of the MAC, which is the length of its key too.
    pub(crate) fn tag_length(self) -> usize {
        match self {
            Self::Aes128Sha256 => 32,
            Self::Aes256Sha384 => 48,
        }
    }
}

/// Appends the fragment.
pub(super) fn seal(
    keys: DirectionKeys<'_>,
    cbc: Cbc,
    authenticated: &Authenticated,
    content: [&[u8]; 2],
    record: &mut Vec<u8>,
) {
    let start = record.len();
    let iv = iv(keys, cbc, authenticated);
    record.extend_from_slice(&iv);
    content.iter().for_each(|part| record.extend_from_slice(part));
    let length = record.len() - start - BLOCK;
    let padding = padded(length) - length;
    record.resize(record.len() + padding, (padding - 1) as u8);
    let blocks = &mut record[start + BLOCK..];
    match cbc {
        Cbc::Aes256Sha384 => encrypt::<cbc::Encryptor<Aes256>>(keys, &iv, blocks),
        Cbc::Aes128Sha256 => encrypt::<cbc::Encryptor<Aes128>>(keys, &iv, blocks),
    }
    let mac = mac(keys, cbc, &[&authenticated.with_length(record.len() - start), &record[start..]]);
    record.extend_from_slice(&mac);
}

/// Verifies the MAC and then decrypts: nothing is decrypted that is not authentic.
pub(super) fn open(
    keys: DirectionKeys<'_>,
    cbc: Cbc,
    authenticated: &Authenticated,
    fragment: &[u8],
) -> Result<Vec<u8>, RecordOpenError> {
    let length = fragment.len().checked_sub(cbc.tag_length()).ok_or(RecordOpenError::Forged)?;
    let (encrypted, tag) = fragment.split_at(length);
    if !is_mac(keys, cbc, &[&authenticated.with_length(length), encrypted], tag) {
        return Err(RecordOpenError::Forged);
    }
    let (iv, ciphertext) = encrypted.split_first_chunk::<BLOCK>().ok_or(RecordOpenError::Invalid)?;
    if ciphertext.len() % BLOCK != 0 {
        return Err(RecordOpenError::Invalid);
    }
    let mut plaintext = ciphertext.to_vec();
    match cbc {
        Cbc::Aes256Sha384 => decrypt::<cbc::Decryptor<Aes256>>(keys, iv, &mut plaintext),
        Cbc::Aes128Sha256 => decrypt::<cbc::Decryptor<Aes128>>(keys, iv, &mut plaintext),
    }
    strip_padding(&mut plaintext).ok_or(RecordOpenError::Invalid)?;
    Ok(plaintext)
}

/// Returns the length with padding: at least one byte, which tells how many more there are.
pub(super) fn padded(length: usize) -> usize {
    (length + 1).next_multiple_of(BLOCK)
}

/// Removes the padding (RFC 5246 section 6.2.3.2).
fn strip_padding(plaintext: &mut Vec<u8>) -> Option<()> {
    let padding = *plaintext.last()?;
    let length = plaintext.len().checked_sub(usize::from(padding) + 1)?;
    plaintext[length..].iter().all(|byte| *byte == padding).then(|| plaintext.truncate(length))
}

fn encrypt<E: BlockModeEncrypt + KeyIvInit>(keys: DirectionKeys<'_>, iv: &[u8; BLOCK], bytes: &mut [u8]) {
    let mut cipher = E::new_from_slices(keys.key, iv).expect("keys are cut by the suite");
    for block in bytes.chunks_exact_mut(BLOCK) {
        cipher.encrypt_block(<&mut Block<E>>::try_from(block).expect("AES has blocks of 16 bytes"));
    }
}

fn decrypt<D: BlockModeDecrypt + KeyIvInit>(keys: DirectionKeys<'_>, iv: &[u8; BLOCK], bytes: &mut [u8]) {
    let mut cipher = D::new_from_slices(keys.key, iv).expect("keys are cut by the suite");
    for block in bytes.chunks_exact_mut(BLOCK) {
        cipher.decrypt_block(<&mut Block<D>>::try_from(block).expect("AES has blocks of 16 bytes"));
    }
}

/// Computes an IV that nobody can predict (RFC 5246 section 6.2.3.2): a keyed hash of a number that is never used
/// twice. The input of a MAC begins with the epoch, 1, or with 0xff, and so never with these letters.
fn iv(keys: DirectionKeys<'_>, cbc: Cbc, authenticated: &Authenticated) -> [u8; BLOCK] {
    let hash = mac(keys, cbc, &[b"IV", &authenticated.numbers()]);
    *hash.first_chunk().expect("a MAC is longer than a block")
}

fn mac(keys: DirectionKeys<'_>, cbc: Cbc, parts: &[&[u8]]) -> Vec<u8> {
    match cbc {
        Cbc::Aes256Sha384 => hashed::<Hmac<Sha384>>(keys, parts).finalize().into_bytes().to_vec(),
        Cbc::Aes128Sha256 => hashed::<Hmac<Sha256>>(keys, parts).finalize().into_bytes().to_vec(),
    }
}

/// Takes as long for a wrong one as for the right one.
fn is_mac(keys: DirectionKeys<'_>, cbc: Cbc, parts: &[&[u8]], tag: &[u8]) -> bool {
    match cbc {
        Cbc::Aes256Sha384 => hashed::<Hmac<Sha384>>(keys, parts).verify_slice(tag).is_ok(),
        Cbc::Aes128Sha256 => hashed::<Hmac<Sha256>>(keys, parts).verify_slice(tag).is_ok(),
    }
}

fn hashed<M: Mac + KeyInit>(keys: DirectionKeys<'_>, parts: &[&[u8]]) -> M {
    let mut mac = <M as KeyInit>::new_from_slice(keys.mac).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}
