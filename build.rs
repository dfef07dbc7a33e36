//! Turns the protocol file of ExProto into Rust, without a `protoc` of the system, and looks at what OpenSSL can do.

use std::env;
use std::error::Error;

const PROTOCOL: &str = "proto/exproto.proto";

/// OpenSSL 3.2, the first with raw public keys (RFC 7250).
const RAW_PUBLIC_KEYS: u64 = 0x3020_0000;

fn main() -> Result<(), Box<dyn Error>> {
    look_at_openssl();
    println!("cargo::rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

/// `openssl-sys` tells the version of the library that it found or built.
fn look_at_openssl() {
    println!("cargo::rustc-check-cfg=cfg(raw_public_keys)");
    let version = env::var("DEP_OPENSSL_VERSION_NUMBER").unwrap_or_default();
    if u64::from_str_radix(&version, 16).is_ok_and(|version| version >= RAW_PUBLIC_KEYS) {
        println!("cargo::rustc-cfg=raw_public_keys");
    }
}
