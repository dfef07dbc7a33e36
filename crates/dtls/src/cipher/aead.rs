//! CCM (RFC 6655) and GCM (RFC 5288): an explicit part of the nonce, ciphertext, tag.

use aes::{Aes128Enc, Aes256Enc};
use aes_gcm::AesGcm;
use ccm::Ccm;
use ccm::aead::array::Array;
use ccm::aead::{AeadInOut, KeyInit};
use ccm::consts::{U8, U12, U16};

use super::authenticated::Authenticated;
use super::direction_keys::DirectionKeys;

pub(crate) const IMPLICIT_IV: usize = 4;
pub(crate) const EXPLICIT_NONCE: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aead {
    Aes128Ccm8,
    Aes128Ccm,
    Aes128Gcm,
    Aes256Ccm8,
    Aes256Ccm,
    Aes256Gcm,
}

impl Aead {
    pub(crate) fn tag_length(self) -> usize {
        match self {
            Self::Aes128Ccm8 | Self::Aes256Ccm8 => 8,
            Self::Aes128Ccm | Self::Aes256Ccm | Self::Aes128Gcm | Self::Aes256Gcm => 16,
        }
    }
}

/// Appends the fragment. The explicit part of the nonce is epoch and sequence number, which are never used twice.
pub(super) fn seal(
    keys: DirectionKeys<'_>,
    aead: Aead,
    authenticated: &Authenticated,
    content: [&[u8]; 2],
    record: &mut Vec<u8>,
) {
    let explicit = authenticated.numbers();
    record.extend_from_slice(&explicit);
    let start = record.len();
    content.iter().for_each(|part| record.extend_from_slice(part));
    let nonce = nonce(keys, explicit);
    let plaintext = &mut record[start..];
    let additional = authenticated.with_length(plaintext.len());
    let call = AeadCall { key: keys.key, nonce: &nonce, additional: &additional };
    let tag = match aead {
        Aead::Aes128Ccm8 => call.seal::<Ccm<Aes128Enc, U8, U12>>(plaintext),
        Aead::Aes128Ccm => call.seal::<Ccm<Aes128Enc, U16, U12>>(plaintext),
        Aead::Aes128Gcm => call.seal::<AesGcm<Aes128Enc, U12>>(plaintext),
        Aead::Aes256Ccm8 => call.seal::<Ccm<Aes256Enc, U8, U12>>(plaintext),
        Aead::Aes256Ccm => call.seal::<Ccm<Aes256Enc, U16, U12>>(plaintext),
        Aead::Aes256Gcm => call.seal::<AesGcm<Aes256Enc, U12>>(plaintext),
    };
    record.extend_from_slice(&tag);
}

/// Returns the plaintext if the record is authentic.
pub(super) fn open(
    keys: DirectionKeys<'_>,
    aead: Aead,
    authenticated: &Authenticated,
    fragment: &[u8],
) -> Option<Vec<u8>> {
    let (explicit, rest) = fragment.split_first_chunk::<EXPLICIT_NONCE>()?;
    let length = rest.len().checked_sub(aead.tag_length())?;
    let (ciphertext, tag) = rest.split_at(length);
    let nonce = nonce(keys, *explicit);
    let additional = authenticated.with_length(length);
    let call = AeadCall { key: keys.key, nonce: &nonce, additional: &additional };
    let mut plaintext = ciphertext.to_vec();
    let authentic = match aead {
        Aead::Aes128Ccm8 => call.open::<Ccm<Aes128Enc, U8, U12>>(&mut plaintext, tag),
        Aead::Aes128Ccm => call.open::<Ccm<Aes128Enc, U16, U12>>(&mut plaintext, tag),
        Aead::Aes128Gcm => call.open::<AesGcm<Aes128Enc, U12>>(&mut plaintext, tag),
        Aead::Aes256Ccm8 => call.open::<Ccm<Aes256Enc, U8, U12>>(&mut plaintext, tag),
        Aead::Aes256Ccm => call.open::<Ccm<Aes256Enc, U16, U12>>(&mut plaintext, tag),
        Aead::Aes256Gcm => call.open::<AesGcm<Aes256Enc, U12>>(&mut plaintext, tag),
    };
    authentic.then_some(plaintext)
}

fn nonce(keys: DirectionKeys<'_>, explicit: [u8; EXPLICIT_NONCE]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..keys.iv.len()].copy_from_slice(keys.iv);
    nonce[keys.iv.len()..].copy_from_slice(&explicit);
    nonce
}

struct AeadCall<'a> {
    key: &'a [u8],
    nonce: &'a [u8; 12],
    additional: &'a [u8],
}

impl AeadCall<'_> {
    /// Encrypts in place, and gives the tag.
    fn seal<A: AeadInOut<NonceSize = U12> + KeyInit>(&self, plaintext: &mut [u8]) -> Vec<u8> {
        let tag = self.cipher::<A>().encrypt_inout_detached(&Array(*self.nonce), self.additional, plaintext.into());
        tag.expect("a record is shorter than an AEAD allows").to_vec()
    }

    /// Decrypts in place, and returns whether the record is authentic.
    fn open<A: AeadInOut<NonceSize = U12> + KeyInit>(&self, ciphertext: &mut [u8], tag: &[u8]) -> bool {
        let Ok(tag) = tag.try_into() else { return false };
        let cipher = self.cipher::<A>();
        cipher.decrypt_inout_detached(&Array(*self.nonce), self.additional, ciphertext.into(), tag).is_ok()
    }

    fn cipher<A: KeyInit>(&self) -> A {
        A::new_from_slice(self.key).expect("keys are cut by the suite")
    }
}
