//! The protection of records.

/// How the records of epoch 1 are protected, and which hash the PRF is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    Aes128Ccm8,
    Aes128Ccm,
    Aes128Gcm,
    /// With encrypt-then-MAC (RFC 7366) only.
    Aes128CbcSha256,
    Aes256Ccm8,
    Aes256Ccm,
    /// PRF with SHA-384.
    Aes256Gcm,
    /// With encrypt-then-MAC (RFC 7366) only; PRF with SHA-384.
    Aes256CbcSha384,
}
