//! The folder of the images.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::libc;
use openssl::sha::Sha256;
use tracing::{debug, warn};

use lwm2m_core::gateway::firmware::image::{FileIdentity, Image, ImageDigest, ImageError, ImageName};

use super::ImagesConfig;

/// Bytes that are read at once for a digest.
const CHUNK: usize = 256 * 1024;
/// Digests that are kept.
const MOST_DIGESTS: usize = 256;

/// Opens and reads images.
#[derive(Debug)]
pub(crate) struct ImageFolder {
    config: ImagesConfig,
    /// The digests of files that were described, so that each file is read once only.
    digests: HashMap<(FileIdentity, u64), ImageDigest>,
}

impl ImageFolder {
    pub(super) fn new(config: ImagesConfig) -> Self {
        Self { config, digests: HashMap::new() }
    }

    /// Returns the size, the digest and the identity of an image.
    pub(super) fn describe(&mut self, name: &ImageName) -> Result<Image, ImageError> {
        let (mut file, metadata) = self.open(name)?;
        let (size, identity) = (metadata.len(), identity(&metadata));
        match size {
            0 => return Err(ImageError::Empty),
            size if size > self.config.max_size => return Err(ImageError::TooLarge),
            _ => {}
        }
        let sha256 = self.digest_of(name, &mut file, (identity, size))?;
        Ok(Image { size, sha256, file: identity })
    }

    /// Returns these bytes of an image.
    ///
    /// # Errors
    /// [`ImageError::Changed`] if the file has not the content that was described.
    pub(super) fn read(
        &mut self,
        name: &ImageName,
        image: &Image,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, ImageError> {
        match self.read_once(name, image, offset, length) {
            // A file that is opened again may be readable, such as one of a network file system.
            Err(ImageError::Unreadable) => self.read_once(name, image, offset, length),
            result => result,
        }
    }

    fn read_once(
        &mut self,
        name: &ImageName,
        image: &Image,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, ImageError> {
        // A file of this name that cannot be opened as an image is not the one that was described.
        let (mut file, metadata) = self.open(name).map_err(|error| match error {
            ImageError::Unreadable => error,
            ImageError::NotFound
            | ImageError::NotRegular
            | ImageError::Empty
            | ImageError::TooLarge
            | ImageError::Changed => ImageError::Changed,
        })?;
        let (identity, size) = (identity(&metadata), metadata.len());
        let is_same = size == image.size
            && (identity == image.file || self.digest_of(name, &mut file, (identity, size))? == image.sha256);
        if !is_same {
            return Err(ImageError::Changed);
        }
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ImageError::Changed),
            Err(error) => return Err(unreadable(name, &error)),
        }
        // It may have been written while it was read.
        check_unchanged(name, &file, (identity, size))?;
        Ok(bytes)
    }

    /// Returns the digest of a file of this identity and size, which is computed once.
    fn digest_of(
        &mut self,
        name: &ImageName,
        file: &mut File,
        (identity, size): (FileIdentity, u64),
    ) -> Result<ImageDigest, ImageError> {
        if let Some(sha256) = self.digests.get(&(identity, size)) {
            return Ok(*sha256);
        }
        let sha256 = digest(file, size).map_err(|error| unreadable(name, &error))?.ok_or(ImageError::Changed)?;
        check_unchanged(name, file, (identity, size))?;
        if self.digests.len() >= MOST_DIGESTS {
            self.digests.clear();
        }
        self.digests.insert((identity, size), sha256);
        debug!(image = %name, size, %sha256, "digest of an image computed");
        Ok(sha256)
    }

    /// Opens an image: a regular file in the folder. A symbolic link may stand for another file of the folder.
    fn open(&self, name: &ImageName) -> Result<(File, Metadata), ImageError> {
        let file = self.find(name)?;
        // A pipe would block, and a link may have replaced the file meanwhile.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&file);
        let opened = opened.map_err(|error| not_opened(name, &error))?;
        let metadata = opened.metadata().map_err(|error| unreadable(name, &error))?;
        if metadata.is_file() { Ok((opened, metadata)) } else { Err(ImageError::NotRegular) }
    }

    /// Returns the path of an image, without symbolic links.
    fn find(&self, name: &ImageName) -> Result<PathBuf, ImageError> {
        let folder = self.config.dir.canonicalize().map_err(|error| not_opened(name, &error))?;
        let file = folder.join(name.as_str());
        let metadata = file.symlink_metadata().map_err(|error| not_opened(name, &error))?;
        if !metadata.is_symlink() {
            return Ok(file);
        }
        let target = file.canonicalize().map_err(|error| not_opened(name, &error))?;
        if target.parent() == Some(&folder) {
            Ok(target)
        } else {
            warn!(image = %name, "image refused: it is a symbolic link to a file outside firmware.dir");
            Err(ImageError::NotRegular)
        }
    }
}

/// Reads a file of this size to its end; `None` if it has another size.
fn digest(file: &mut File, size: u64) -> io::Result<Option<ImageDigest>> {
    let (mut sha256, mut chunk, mut rest) = (Sha256::new(), vec![0; CHUNK], size);
    loop {
        let read = match file.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read == 0 {
            return Ok((rest == 0).then(|| ImageDigest::new(sha256.finish())));
        }
        let Some(left) = rest.checked_sub(read as u64) else { return Ok(None) };
        rest = left;
        sha256.update(chunk.get(..read).unwrap_or_default());
    }
}

fn identity(metadata: &Metadata) -> FileIdentity {
    FileIdentity {
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn check_unchanged(name: &ImageName, file: &File, before: (FileIdentity, u64)) -> Result<(), ImageError> {
    let metadata = file.metadata().map_err(|error| unreadable(name, &error))?;
    if (identity(&metadata), metadata.len()) == before { Ok(()) } else { Err(ImageError::Changed) }
}

fn not_opened(name: &ImageName, error: &io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ImageError::NotFound,
        _ => unreadable(name, error),
    }
}

fn unreadable(name: &ImageName, error: &io::Error) -> ImageError {
    warn!(image = %name, %error, "image cannot be read");
    ImageError::Unreadable
}

#[cfg(test)]
mod tests;
