//! The suites whose records can be made here.

use super::super::prf::Hash;
use super::aead::{self, Aead};
use super::cbc::{self, Cbc};

/// Selects the protection of the records of epoch 1 and the hash of the PRF. The key exchange belongs to the
/// handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    Aes128Ccm8,
    Aes128Ccm,
    Aes128Gcm,
    /// Requires encrypt-then-MAC (RFC 7366).
    Aes128CbcSha256,
    Aes256Ccm8,
    Aes256Ccm,
    /// PRF with SHA-384.
    Aes256Gcm,
    /// Requires encrypt-then-MAC (RFC 7366); PRF with SHA-384.
    Aes256CbcSha384,
}

impl Suite {
    pub const ALL: [Self; 8] = [
        Self::Aes128Ccm8,
        Self::Aes128Ccm,
        Self::Aes128Gcm,
        Self::Aes128CbcSha256,
        Self::Aes256Ccm8,
        Self::Aes256Ccm,
        Self::Aes256Gcm,
        Self::Aes256CbcSha384,
    ];

    /// Returns the suite of a cipher suite number in IANA's registry. Key exchanges: PSK, DHE_PSK, ECDHE_PSK,
    /// ECDHE_ECDSA, ECDHE_RSA.
    pub(crate) fn from_iana(number: u16) -> Option<Self> {
        match number {
            0xC0A8 | 0xC0AA | 0xD003 | 0xC0AE => Some(Self::Aes128Ccm8),
            0xC0A4 | 0xC0A6 | 0xD005 | 0xC0AC => Some(Self::Aes128Ccm),
            0x00A8 | 0x00AA | 0xD001 | 0xC02B | 0xC02F => Some(Self::Aes128Gcm),
            0x00AE | 0x00B2 | 0xC037 | 0xC023 | 0xC027 => Some(Self::Aes128CbcSha256),
            0xC0A9 | 0xC0AB | 0xC0AF => Some(Self::Aes256Ccm8),
            0xC0A5 | 0xC0A7 | 0xC0AD => Some(Self::Aes256Ccm),
            0x00A9 | 0x00AB | 0xD002 | 0xC02C | 0xC030 => Some(Self::Aes256Gcm),
            0x00AF | 0x00B3 | 0xC038 | 0xC024 | 0xC028 => Some(Self::Aes256CbcSha384),
            _ => None,
        }
    }

    pub(crate) fn is_cbc(self) -> bool {
        matches!(self.mode(), Mode::Cbc(_))
    }

    pub(in super::super) fn hash(self) -> Hash {
        match self {
            Self::Aes256Gcm | Self::Aes256CbcSha384 => Hash::Sha384,
            Self::Aes128Ccm8 | Self::Aes128Ccm | Self::Aes128Gcm | Self::Aes128CbcSha256 => Hash::Sha256,
            // RFC 6655 section 3.
            Self::Aes256Ccm8 | Self::Aes256Ccm => Hash::Sha256,
        }
    }

    pub(in super::super) fn key_block_length(self) -> usize {
        2 * (self.mac_key_length() + self.key_length() + self.implicit_iv_length())
    }

    pub(super) fn mode(self) -> Mode {
        match self {
            Self::Aes128Ccm8 => Mode::Aead(Aead::Aes128Ccm8),
            Self::Aes128Ccm => Mode::Aead(Aead::Aes128Ccm),
            Self::Aes128Gcm => Mode::Aead(Aead::Aes128Gcm),
            Self::Aes128CbcSha256 => Mode::Cbc(Cbc::Aes128Sha256),
            Self::Aes256Ccm8 => Mode::Aead(Aead::Aes256Ccm8),
            Self::Aes256Ccm => Mode::Aead(Aead::Aes256Ccm),
            Self::Aes256Gcm => Mode::Aead(Aead::Aes256Gcm),
            Self::Aes256CbcSha384 => Mode::Cbc(Cbc::Aes256Sha384),
        }
    }

    pub(super) fn mac_key_length(self) -> usize {
        match self.mode() {
            Mode::Aead(_) => 0,
            Mode::Cbc(cbc) => cbc.tag_length(),
        }
    }

    pub(super) fn key_length(self) -> usize {
        match self {
            Self::Aes128Ccm8 | Self::Aes128Ccm | Self::Aes128Gcm | Self::Aes128CbcSha256 => 16,
            Self::Aes256Ccm8 | Self::Aes256Ccm | Self::Aes256Gcm | Self::Aes256CbcSha384 => 32,
        }
    }

    /// Returns the length of the nonce's salt (RFC 5288 section 3, RFC 6655 section 3); a record of CBC carries its IV.
    pub(super) fn implicit_iv_length(self) -> usize {
        match self.mode() {
            Mode::Aead(_) => aead::IMPLICIT_IV,
            Mode::Cbc(_) => 0,
        }
    }

    /// Bytes of a fragment with so many bytes in it.
    pub(super) fn sealed_length(self, plaintext: usize) -> usize {
        match self.mode() {
            Mode::Aead(aead) => aead::EXPLICIT_NONCE + plaintext + aead.tag_length(),
            Mode::Cbc(cbc) => cbc::BLOCK + cbc::padded(plaintext) + cbc.tag_length(),
        }
    }
}

/// The two shapes of a fragment.
pub(super) enum Mode {
    Aead(Aead),
    Cbc(Cbc),
}
