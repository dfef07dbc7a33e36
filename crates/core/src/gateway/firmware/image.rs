//! Images: the files that devices get. The core knows an image by its name, its size, its digest and the identity of
//! its file; the shell has the file, and reads it at the core's request.
//!
//! 1. A command names an image: [`Output::DescribeImage`](crate::gateway::Output::DescribeImage). The shell answers by
//!    [`Gateway::image_described`](crate::gateway::Gateway::image_described).
//! 2. A device needs a part of it: [`Output::ReadImage`](crate::gateway::Output::ReadImage). The shell answers by
//!    [`Gateway::image_read`](crate::gateway::Gateway::image_read), and by [`ImageError::Changed`] if the file is
//!    another one than was described.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Limits the descriptions that the shell works on at once. Each of them may have to read the whole file.
pub const MOST_DESCRIPTIONS: usize = 1024;

/// Limits the reads that the shell works on at once.
pub const MOST_READS: usize = 64;

/// Bytes of one read, at the most. It is a multiple of every block size of CoAP, and reads begin at its multiples.
pub(crate) const READ_LENGTH: usize = 32 * 1024;

/// Identifies a description or a read that the shell was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRequestId(pub(crate) u64);

/// The name of an image: that of a file in the folder of the images. It consists of letters, digits, `.`, `_` and `-`,
/// so that it is a segment of a URI path as it is, and names nothing outside the folder.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(Arc<str>);

/// A text that is no name of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ImageNameError {
    #[error("the name of an image is empty")]
    Empty,
    #[error("the name of an image is longer than {} bytes", ImageName::MAX)]
    TooLong,
    #[error("an image is a file in firmware.dir: its name has letters, digits, '.', '_' and '-' only")]
    Character,
    #[error("\".\" and \"..\" are folders, not images")]
    Dots,
}

/// An image as it was when its file was read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// Bytes of the file, at least one.
    pub size: u64,
    pub sha256: ImageDigest,
    pub file: FileIdentity,
}

/// Tells whether a file is the one that was described: the same inode, not written since. Together with the size of
/// [`Image`] it identifies the content of which the digest was computed. A file with another identity is the same image
/// if it has the same digest. The number of the file system is not included, because it changes when the file system is
/// mounted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    pub inode: u64,
    /// Time of the last modification: seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
    /// Time of the last change of the file or of its inode. Programs can set the time of the modification, but not this
    /// one.
    #[serde(default)]
    pub changed: (i64, i64),
}

/// The SHA-256 of an image. It is shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub struct ImageDigestError;

/// Reasons why the shell has no image, or no part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ImageError {
    #[error("there is no such image in firmware.dir")]
    NotFound,
    #[error("the image is not a regular file in firmware.dir")]
    NotRegular,
    #[error("the image is empty")]
    Empty,
    #[error("the image is larger than firmware.max_size")]
    TooLarge,
    #[error("the file of the image has other content now")]
    Changed,
    #[error("the file of the image cannot be read")]
    Unreadable,
}

impl ImageName {
    /// Bytes of a name, at the most. A URI of a package has at most 255 bytes, and needs room for the rest.
    pub const MAX: usize = 200;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match text {
            "" => Err(ImageNameError::Empty),
            "." | ".." => Err(ImageNameError::Dots),
            text if text.len() > Self::MAX => Err(ImageNameError::TooLong),
            text if !text.bytes().all(fits) => Err(ImageNameError::Character),
            text => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageNameError;

    fn try_from(text: String) -> Result<Self, ImageNameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl ImageDigest {
    pub const LENGTH: usize = 32;

    pub const fn new(digest: [u8; Self::LENGTH]) -> Self {
        Self(digest)
    }

    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl FromStr for ImageDigest {
    type Err = ImageDigestError;

    fn from_str(text: &str) -> Result<Self, ImageDigestError> {
        let mut digest = [0; Self::LENGTH];
        if text.len() != 2 * Self::LENGTH || !text.is_ascii() {
            return Err(ImageDigestError);
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ImageDigestError)?;
            // The parser of numbers accepts a sign, which is not a digit.
            if digits.starts_with('+') {
                return Err(ImageDigestError);
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ImageDigestError)?;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = ImageDigestError;

    fn try_from(text: String) -> Result<Self, ImageDigestError> {
        text.parse()
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_letters_digits_dots_underscores_and_hyphens() {
        for name in ["app-2.1.0.bin", "a", "..bin", "A_b", "0", &"x".repeat(200)] {
            assert_eq!(name.parse::<ImageName>().map(String::from), Ok(name.to_owned()));
        }
        let refused = [
            ("", ImageNameError::Empty),
            (".", ImageNameError::Dots),
            ("..", ImageNameError::Dots),
            ("../app.bin", ImageNameError::Character),
            ("a/b", ImageNameError::Character),
            ("a\\b", ImageNameError::Character),
            ("a b", ImageNameError::Character),
            ("a\0", ImageNameError::Character),
            ("a%2e", ImageNameError::Character),
            ("ü", ImageNameError::Character),
            (&"x".repeat(201), ImageNameError::TooLong),
        ];
        for (name, problem) in refused {
            assert_eq!(name.parse::<ImageName>(), Err(problem), "{name}");
        }
    }

    #[test]
    fn a_digest_is_64_hexadecimal_digits_of_either_case() {
        let digits = "00ff10".to_owned() + &"ab".repeat(29);
        let digest: ImageDigest = digits.parse().unwrap();
        assert_eq!(digest.as_bytes()[..3], [0, 0xff, 0x10]);
        assert_eq!(digest.to_string(), digits);
        assert_eq!(digits.to_uppercase().parse(), Ok(digest));
        for bad in ["", "ab", &digits[1..], &digits.replace("ff", "fg"), &digits.replace("ff", "+f"), &"ü".repeat(32)]
        {
            assert_eq!(bad.parse::<ImageDigest>(), Err(ImageDigestError), "{bad}");
        }
    }
}
