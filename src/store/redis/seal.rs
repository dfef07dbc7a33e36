//! Seals the records: they have passwords and DTLS keys in them, and the server is not the only one that has its
//! memory.
//!
//! A sealed value is a byte for the version, the term of the process that sealed it, a nonce, the ciphertext, and the
//! tag of AES-256-GCM. Each hash and term has a key of its own, by HKDF from the key of the file, so that random nonces
//! do not collide. The name of the hash and the field are authenticated, so that a value is of use at its place only.

use std::collections::HashMap;

use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey::Id;
use openssl::pkey_ctx::{HkdfMode, PkeyCtx};
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;
const HEADER: usize = 1 + 8 + NONCE;
const SALT: &[u8] = b"lwm2m-gateway store";

pub(crate) type SealKey = Zeroizing<[u8; 32]>;

/// The keys of the settings.
#[derive(Clone)]
pub(crate) struct SealKeys {
    /// The key that seals records, and opens them.
    pub sealing: SealKey,
    /// Another key that opens records, while the key is changed.
    pub other: Option<SealKey>,
}

pub(crate) struct Seal {
    key: SealKey,
    /// The term of this process.
    term: u64,
    /// The newest term and key of each hash.
    keys: HashMap<String, (u64, SealKey)>,
}

impl SealKeys {
    /// Opens a sealed value; `None` if it was sealed at another place or with a key that is none of these.
    pub(super) fn open(&self, hash: &str, field: &[u8], bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let opened = Seal::open(&self.sealing, hash, field, bytes);
        opened.or_else(|| Seal::open(self.other.as_ref()?, hash, field, bytes))
    }

    /// Returns the fingerprints of the keys, that of the sealing one first, with a space between them.
    pub(super) fn fingerprints(&self) -> Result<String, ErrorStack> {
        let sealing = Seal::fingerprint(&self.sealing)?;
        match &self.other {
            Some(other) => Ok(format!("{sealing} {}", Seal::fingerprint(other)?)),
            None => Ok(sealing),
        }
    }
}

impl Seal {
    pub(super) fn new(key: SealKey, term: u64) -> Self {
        Self { key, term, keys: HashMap::new() }
    }

    /// Reads the key from 64 hexadecimal digits.
    pub(crate) fn parse_key(text: &str) -> Option<SealKey> {
        let digits = text.trim().as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut key = Zeroizing::new([0; 32]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
        }
        Some(key)
    }

    /// Returns the fingerprint of a key, which distinguishes keys without revealing them.
    fn fingerprint(key: &SealKey) -> Result<String, ErrorStack> {
        let derived = derive(key, b"fingerprint")?;
        Ok(derived[..8].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Seals the value of a field. `nonce` is random.
    pub(super) fn seal(
        &mut self,
        hash: &str,
        field: &[u8],
        nonce: [u8; NONCE],
        value: &[u8],
    ) -> Result<Vec<u8>, ErrorStack> {
        self.seal_in_term(self.term, hash, field, nonce, value)
    }

    /// Seals the value of a field of a hash that has a term of its own.
    pub(super) fn seal_in_term(
        &mut self,
        term: u64,
        hash: &str,
        field: &[u8],
        nonce: [u8; NONCE],
        value: &[u8],
    ) -> Result<Vec<u8>, ErrorStack> {
        if self.keys.get(hash).is_none_or(|(known, _)| *known != term) {
            self.keys.insert(hash.to_owned(), (term, derive(&self.key, &info(hash, term))?));
        }
        let (_, key) = &self.keys[hash];
        let mut tag = [0; TAG];
        let sealed = encrypt_aead(Cipher::aes_256_gcm(), &key[..], Some(&nonce), &place(hash, field), value, &mut tag)?;
        let mut bytes = Vec::with_capacity(HEADER + sealed.len() + TAG);
        bytes.push(VERSION);
        bytes.extend(term.to_be_bytes());
        bytes.extend(nonce);
        bytes.extend(sealed);
        bytes.extend(tag);
        Ok(bytes)
    }

    /// Returns the term in which a value was sealed; `None` if the value is not sealed.
    pub(super) fn term(bytes: &[u8]) -> Option<u64> {
        bytes.get(1..)?.first_chunk().map(|term| u64::from_be_bytes(*term))
    }

    /// Opens a sealed value; `None` if it was not sealed at this place with this key.
    pub(super) fn open(key: &SealKey, hash: &str, field: &[u8], bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let (sealed, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let (version, header) = header.split_first()?;
        let (term, nonce) = header.split_first_chunk()?;
        if *version != VERSION {
            return None;
        }
        let key = derive(key, &info(hash, u64::from_be_bytes(*term))).ok()?;
        let opened = decrypt_aead(Cipher::aes_256_gcm(), &key[..], Some(nonce), &place(hash, field), sealed, tag);
        opened.ok().map(Zeroizing::new)
    }
}

fn info(hash: &str, term: u64) -> Vec<u8> {
    [b"seal".as_slice(), &term.to_be_bytes(), hash.as_bytes()].concat()
}

fn place(hash: &str, field: &[u8]) -> Vec<u8> {
    [hash.as_bytes(), &[0], field].concat()
}

fn derive(key: &SealKey, info: &[u8]) -> Result<SealKey, ErrorStack> {
    let mut context = PkeyCtx::new_id(Id::HKDF)?;
    context.derive_init()?;
    context.set_hkdf_mode(HkdfMode::EXTRACT_THEN_EXPAND)?;
    context.set_hkdf_md(Md::sha256())?;
    context.set_hkdf_salt(SALT)?;
    context.set_hkdf_key(&key[..])?;
    context.add_hkdf_info(info)?;
    let mut derived = Zeroizing::new([0; 32]);
    context.derive(Some(&mut derived[..]))?;
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn a_value_is_opened_with_its_key_at_its_place_only() {
        let mut seal = Seal::new(key(1), 7);
        let sealed = seal.seal("gw:{3}:d", b"ep", [9; NONCE], b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(Seal::open(&key(1), "gw:{3}:d", b"ep", &sealed).unwrap().as_slice(), b"secret");
        assert!(Seal::open(&key(2), "gw:{3}:d", b"ep", &sealed).is_none());
        assert!(Seal::open(&key(1), "gw:{4}:d", b"ep", &sealed).is_none());
        assert!(Seal::open(&key(1), "gw:{3}:d", b"other", &sealed).is_none());
        for length in 0..sealed.len() {
            assert!(Seal::open(&key(1), "gw:{3}:d", b"ep", &sealed[..length]).is_none());
        }
        let other_term = Seal::new(key(1), 8).seal("gw:{3}:d", b"ep", [9; NONCE], b"secret").unwrap();
        assert_ne!(other_term[HEADER..], sealed[HEADER..], "each term has a key of its own");
    }

    #[test]
    fn while_the_key_is_changed_both_keys_open() {
        let sealed = |byte| Seal::new(key(byte), 7).seal("gw:{3}:d", b"ep", [9; NONCE], b"secret").unwrap();
        let keys = SealKeys { sealing: key(2), other: Some(key(1)) };
        let opens = |keys: &SealKeys, byte| keys.open("gw:{3}:d", b"ep", &sealed(byte)).is_some();
        assert!(opens(&keys, 1) && opens(&keys, 2) && !opens(&keys, 3));
        let alone = SealKeys { sealing: key(2), other: None };
        assert!(!opens(&alone, 1) && opens(&alone, 2));
        let [new, old] = [2, 1].map(|byte| Seal::fingerprint(&key(byte)).unwrap());
        assert_eq!((keys.fingerprints().unwrap(), alone.fingerprints().unwrap()), (format!("{new} {old}"), new));
        assert_eq!(Seal::term(&sealed(1)), Some(7));
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert_eq!(Seal::parse_key(&format!("{}\n", "0a".repeat(32))).unwrap()[..], [10; 32]);
        for wrong in ["", "0a", &"0".repeat(65), &"zz".repeat(32), &"é".repeat(32)] {
            assert!(Seal::parse_key(wrong).is_none(), "{wrong}");
        }
        assert_ne!(Seal::fingerprint(&key(1)).unwrap(), Seal::fingerprint(&key(2)).unwrap());
    }
}
