//! Turns the protocol file of ExProto into Rust, without a `protoc` of the system.

use std::error::Error;

const PROTOCOL: &str = "proto/exproto.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
