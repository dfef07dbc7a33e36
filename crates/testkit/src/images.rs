//! The folder of firmware images, as the shell would read it.

use std::collections::HashMap;
use std::time::Instant;

use lwm2m_core::gateway::firmware::image::{FileIdentity, Image, ImageDigest, ImageError, ImageName};
use lwm2m_core::gateway::{Gateway, Output};
use sha2::{Digest, Sha256};

/// Files by name. Each time that one is written, it is another file.
#[derive(Debug, Default)]
pub struct MemoryImages {
    files: HashMap<String, (Vec<u8>, FileIdentity)>,
    written: u64,
    /// The disk reports an error at each read.
    pub is_broken: bool,
}

impl MemoryImages {
    /// Writes a file, and returns its description.
    ///
    /// # Panics
    /// If the name is not that of an image.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Image {
        self.written += 1;
        let file = FileIdentity { inode: self.written, modified: (1_700_000_000, 0), changed: (0, 0) };
        self.files.insert(name.to_owned(), (bytes.to_vec(), file));
        self.describe(&name.parse().expect("the name of an image")).expect("the file was just written")
    }

    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// Returns what the shell answers to a request for a description.
    pub fn describe(&self, name: &ImageName) -> Result<Image, ImageError> {
        if self.is_broken {
            return Err(ImageError::Unreadable);
        }
        let (bytes, file) = self.files.get(name.as_str()).ok_or(ImageError::NotFound)?;
        let sha256 = ImageDigest::new(Sha256::digest(bytes).into());
        Ok(Image { size: bytes.len() as u64, sha256, file: *file })
    }

    /// Answers a request for an image as the shell would.
    ///
    /// # Panics
    /// If the output is no request for an image.
    pub fn answer(&self, gateway: &mut Gateway, now: Instant, request: Output) {
        match request {
            Output::DescribeImage { request, name } => gateway.image_described(now, request, self.describe(&name)),
            Output::ReadImage { request, name, image, offset, length } => {
                gateway.image_read(now, request, self.read(&name, &image, offset, length));
            }
            other => panic!("no request for an image: {other:?}"),
        }
    }

    /// Returns what the shell answers to a request for a part.
    pub fn read(&self, name: &ImageName, image: &Image, offset: u64, length: usize) -> Result<Vec<u8>, ImageError> {
        if self.is_broken {
            return Err(ImageError::Unreadable);
        }
        let (bytes, file) = self.files.get(name.as_str()).ok_or(ImageError::NotFound)?;
        let begin = usize::try_from(offset).map_err(|_| ImageError::Unreadable)?;
        let part = bytes.get(begin..begin + length).filter(|_| *file == image.file);
        part.map(<[u8]>::to_vec).ok_or(ImageError::Changed)
    }
}
