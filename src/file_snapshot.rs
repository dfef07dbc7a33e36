//! Detects changed files by polling.
//!
//! Looking works on every file system, with any number of containers on the machine (inotify has a limit per user), and
//! through the links by which Kubernetes exchanges a whole folder at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The state of files at one moment, including their absence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSnapshot(BTreeMap<PathBuf, Option<Stamp>>);

/// The metadata of a file: device and inode, length, and time of modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
}

impl FileSnapshot {
    /// Reads the state of files and of the entries of folders. Links are followed.
    pub(crate) fn at(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut look = Self::default();
        for path in paths {
            for inside in entries(&path) {
                look.add(inside);
            }
            look.add(path);
        }
        look
    }

    /// Returns the paths of the files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Reads the state of the same files once more.
    pub(crate) fn again(&self) -> Self {
        Self::at(self.paths().cloned())
    }

    /// Returns the part of the snapshot that `FileSnapshot::at` would have returned for these paths.
    pub(crate) fn only(&self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths = BTreeSet::from_iter(paths);
        let is_wanted =
            |path: &Path| paths.contains(path) || path.parent().is_some_and(|folder| paths.contains(folder));
        Self(self.0.iter().filter(|(path, _)| is_wanted(path)).map(|(path, stamp)| (path.clone(), *stamp)).collect())
    }

    /// Adds the files of other snapshots that this one does not have.
    pub(crate) fn extend<'s>(&mut self, others: impl IntoIterator<Item = &'s Self>) {
        for (path, stamp) in others.into_iter().flat_map(|other| &other.0) {
            self.0.entry(path.clone()).or_insert(*stamp);
        }
    }

    /// Adds the state of a file; it is called before the file is read, so that no later change is missed.
    pub(crate) fn add(&mut self, path: PathBuf) {
        let stamp = fs::metadata(&path).ok().map(|metadata| Stamp::of(&metadata));
        self.0.insert(path, stamp);
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Returns the entries of a folder; none if the path is no folder.
fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_written_removed_or_made_again_looks_different() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        let look = || FileSnapshot::at([file.clone()]);
        let absent = look();
        fs::write(&file, "a = 1").unwrap();
        let first = look();
        assert_eq!(first, look());
        fs::write(&file, "a = 12").unwrap();
        let second = look();
        fs::remove_file(&file).unwrap();
        assert_eq!(look(), absent);
        assert!(absent != first && first != second);
    }

    #[test]
    fn a_part_of_a_snapshot_is_that_of_its_paths_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("xml")).unwrap();
        for file in ["keys.psk", "xml/1.xml", "tokens"] {
            fs::write(at(file), "").unwrap();
        }
        let paths = || [at("xml"), at("keys.psk"), at("absent.pem")];
        let whole = FileSnapshot::at(paths().into_iter().chain([at("tokens")]));
        assert_eq!(whole.only(paths()), FileSnapshot::at(paths()));
        assert_eq!(whole.again(), whole);
        assert_ne!(whole.only(paths()), whole);
    }

    #[test]
    fn a_file_more_in_a_folder_looks_different() {
        let folder = tempfile::tempdir().unwrap();
        let look = || FileSnapshot::at([folder.path().to_owned()]);
        fs::write(folder.path().join("1.xml"), "").unwrap();
        let one = look();
        fs::write(folder.path().join("2.xml"), "").unwrap();
        assert_ne!(one, look());
    }

    /// Replays a Kubernetes update: `gateway.toml -> ..data/gateway.toml`, `..data -> ..2025_1/`, and the middle link
    /// is replaced.
    #[test]
    fn a_folder_that_kubernetes_exchanges_looks_different() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..2025_1", "..2025_2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.toml"), "a = 1").unwrap();
        }
        symlink("..2025_1", at("..data")).unwrap();
        symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
        let look = || FileSnapshot::at([at("gateway.toml")]);
        let first = look();
        symlink("..2025_2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_ne!(first, look());
    }
}
