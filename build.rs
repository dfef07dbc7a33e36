//! Generates Rust from the protocol file of ExProto, without a system `protoc`, and the list of the built-in object
//! definitions from the files of `xml/`.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

const PROTOCOL: &str = "proto/exproto.proto";
const DEFINITIONS: &str = "xml";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;

    println!("cargo::rerun-if-changed={DEFINITIONS}");
    let list = definitions(&Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(DEFINITIONS))?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("definition_files.rs"), list)?;
    Ok(())
}

/// Returns a Rust array with the name and the content of each file of a folder, in the order of their names.
fn definitions(folder: &Path) -> Result<String, Box<dyn Error>> {
    let files = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = files.collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "xml"));
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.file_name().ok_or("a file without a name")?;
        writeln!(list, "    ({name:?}, include_bytes!({file:?})),")?;
    }
    list.push_str("]\n");
    Ok(list)
}
