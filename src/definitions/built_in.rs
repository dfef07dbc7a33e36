//! The object definitions that are part of the program, so that it runs from any folder: the files of `xml/`.

/// The name of each file, and its content. The build script lists the folder.
pub(super) const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/definition_files.rs"));
