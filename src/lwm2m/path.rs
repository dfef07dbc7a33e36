//! `/object/instance/resource/resource instance`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A path of none (the root) to four segments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Path {
    ids: [u16; Path::MAX_SEGMENTS],
    length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("{0:?} has more than four segments")]
    TooDeep(String),
    #[error("{0:?} has a segment that is no whole number from 0 to 65535")]
    NotAnId(String),
}

impl Path {
    pub const MAX_SEGMENTS: usize = 4;
    pub const ROOT: Path = Path { ids: [0; Path::MAX_SEGMENTS], length: 0 };

    pub fn segments(&self) -> &[u16] {
        &self.ids[..usize::from(self.length)]
    }

    pub fn object(&self) -> Option<u16> {
        self.segments().first().copied()
    }

    /// One segment longer; `None` for a path of four already.
    pub fn child(&self, id: u16) -> Option<Path> {
        let mut child = *self;
        *child.ids.get_mut(usize::from(self.length))? = id;
        child.length += 1;
        Some(child)
    }
}

/// Slashes at the ends do not matter.
impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self::ROOT);
        }
        trimmed.split('/').try_fold(Self::ROOT, |path, segment| {
            if segment.is_empty() || !segment.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(PathError::NotAnId(text.to_owned()));
            }
            let id = segment.parse().map_err(|_| PathError::NotAnId(text.to_owned()))?;
            path.child(id).ok_or_else(|| PathError::TooDeep(text.to_owned()))
        })
    }
}

/// With a leading slash.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == 0 {
            return f.write_str("/");
        }
        self.segments().iter().try_for_each(|id| write!(f, "/{id}"))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
