//! The digest of a retained command.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Identifies a retained command by a digest of its payload, which is the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandDigest(pub u64);

impl CommandDigest {
    pub fn of(payload: &[u8]) -> Self {
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(payload).into();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_beginning_of_sha_256() {
        assert_eq!(CommandDigest::of(b"reboot"), CommandDigest(0x92bf_8ea8_76da_2855));
        assert_ne!(CommandDigest::of(b"reset"), CommandDigest::of(b"reboot"));
    }
}
