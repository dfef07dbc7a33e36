//! Object definitions: what an object's resources are called, what types they have, what can be done with them.

use std::path::Path as FilePath;

#[derive(Clone, Debug, Default)]
pub struct Model {}

/// A definition file that could not be taken.
#[derive(Debug)]
pub struct BrokenFile {
    pub file: String,
    pub reason: String,
}
