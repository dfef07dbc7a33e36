//! Generates Rust from the protocol file of ExProto, without a system `protoc`, the list of the built-in object
//! definitions from the files of `xml/`, and the files of the page of the console, without comments and types.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

const PROTOCOL: &str = "proto/exproto.proto";
const DEFINITIONS: &str = "xml";
const PAGE: &str = "src/console/page";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    // The payload is shared with the queue of publications instead of copied into the message.
    tonic_prost_build::configure().bytes(".emqx.exproto.v1.PublishRequest.payload").compile_fds(descriptors)?;

    println!("cargo::rerun-if-changed={DEFINITIONS}");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let definitions = list(&files(&root.join(DEFINITIONS), &["xml"])?)?;
    fs::write(out.join("definition_files.rs"), definitions)?;

    println!("cargo::rerun-if-changed={PAGE}");
    let page = minified(&files(&root.join(PAGE), &["html", "css", "js"])?, &out.join("page"))?;
    fs::write(out.join("page_files.rs"), list(&page)?)?;
    Ok(())
}

/// Returns the files of a folder that have one of these extensions, in the order of their names.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let files = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = files.collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|own| extensions.iter().any(|extension| own == *extension)));
    files.sort();
    Ok(files)
}

/// Returns a Rust array with the name and the content of each file.
fn list(files: &[PathBuf]) -> Result<String, Box<dyn Error>> {
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.file_name().ok_or("a file without a name")?;
        writeln!(list, "    ({name:?}, include_bytes!({file:?})),")?;
    }
    list.push_str("]\n");
    Ok(list)
}

/// Writes the files of the page into a folder without what a browser does not need, and returns the new files.
fn minified(files: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut written = Vec::new();
    for file in files {
        let text = fs::read_to_string(file)?;
        let small = match file.extension().and_then(OsStr::to_str) {
            Some("js") => minifier::js::minify(&text)?.to_string(),
            Some("css") => minifier::css::minify(&text)?.to_string(),
            _ => text,
        };
        let new = folder.join(file.file_name().ok_or("a file without a name")?);
        fs::write(&new, small)?;
        written.push(new);
    }
    Ok(written)
}
