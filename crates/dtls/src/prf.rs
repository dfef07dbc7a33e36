//! The pseudorandom function of TLS 1.2 (RFC 5246 section 5).

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384};
use zeroize::Zeroizing;

/// The hash that a suite makes its PRF of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
}

/// Fills `output` with PRF(secret, label, seed). The seed is given in parts.
pub(super) fn prf(hash: Hash, secret: &[u8], label: &[u8], seed: &[&[u8]], output: &mut [u8]) {
    let seed: Vec<u8> = [&[label], seed].concat().concat();
    match hash {
        Hash::Sha256 => p_hash::<Hmac<Sha256>>(secret, &seed, output),
        Hash::Sha384 => p_hash::<Hmac<Sha384>>(secret, &seed, output),
    }
}

fn p_hash<M: Mac + KeyInit + Clone>(secret: &[u8], seed: &[u8], output: &mut [u8]) {
    let keyed = <M as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
    let mac = |parts: [&[u8]; 2]| parts.iter().fold(keyed.clone(), |mac, part| mac.chain_update(part)).finalize();
    let mut a = mac([seed, &[]]).into_bytes();
    for part in output.chunks_mut(a.len()) {
        let block = Zeroizing::new(mac([&a, seed]).into_bytes().to_vec());
        part.copy_from_slice(&block[..part.len()]);
        a = mac([&a, &[]]).into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the vectors of the working group's list for TLS 1.2 (draft-ietf-tls-rfc4346-bis; msg03416 of its
    /// archive).
    #[test]
    fn the_known_vectors_come_out() {
        let sha256 = "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af\
                      0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701\
                      87347b66";
        let sha384 = "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0\
                      e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425\
                      9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e099070\
                      3d73e56f";
        for (hash, secret, seed, output) in [
            (Hash::Sha256, "9bbe436ba940f017b17652849a71db35", "a0ba9f936cda311827a6f796ffd5198c", sha256),
            (Hash::Sha384, "b80b733d6ceefcdc71566ea48e5567df", "cd665cf6a8447dd6ff8b27555edb7465", sha384),
        ] {
            let mut result = vec![0; output.len() / 2];
            prf(hash, &bytes(secret), b"test label", &[&bytes(seed)], &mut result);
            assert_eq!(result, bytes(output), "{hash:?}");
        }
    }

    fn bytes(digits: &str) -> Vec<u8> {
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }
}
