//! Finds out what the OpenSSL that `openssl-sys` found or built supports.

use std::env;

/// OpenSSL 3.2, the first with raw public keys (RFC 7250).
const RAW_PUBLIC_KEYS: u64 = 0x3020_0000;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(raw_public_keys)");
    let version = env::var("DEP_OPENSSL_VERSION_NUMBER").unwrap_or_default();
    if u64::from_str_radix(&version, 16).is_ok_and(|version| version >= RAW_PUBLIC_KEYS) {
        println!("cargo::rustc-cfg=raw_public_keys");
    }
}
