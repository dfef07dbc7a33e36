//! Defines the path `/object/instance/resource/resource instance`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Holds a path of zero (the root) to four segments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Path {
    ids: [u16; Path::MAX_SEGMENTS],
    length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("{0:?} has more than four segments")]
    TooDeep(String),
    #[error("{0:?} has a segment that is not a whole number from 0 to 65535")]
    NotAnId(String),
    #[error("{0:?} names a device behind a gateway; the LwM2M gateway object (25) is not supported")]
    BehindGateway(String),
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

    /// Returns the path of these ids, or `None` for more than four.
    pub fn of(ids: &[u16]) -> Option<Path> {
        ids.iter().try_fold(Self::ROOT, |path, id| path.child(*id))
    }

    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn instance(&self) -> Option<u16> {
        self.segments().get(1).copied()
    }

    pub fn resource(&self) -> Option<u16> {
        self.segments().get(2).copied()
    }

    pub fn resource_instance(&self) -> Option<u16> {
        self.segments().get(3).copied()
    }

    /// Returns the path without its last segment. The parent of the root is the root.
    pub fn parent(&self) -> Path {
        Self::of(&self.segments()[..self.len().saturating_sub(1)]).unwrap_or(Self::ROOT)
    }

    /// Returns whether this path equals the other one or lies below it.
    pub fn is_at_or_below(&self, other: &Path) -> bool {
        self.segments().starts_with(other.segments())
    }

    /// Returns the path with one more segment, or `None` if it has four already.
    pub fn child(&self, id: u16) -> Option<Path> {
        let mut child = *self;
        *child.ids.get_mut(usize::from(self.length))? = id;
        child.length += 1;
        Some(child)
    }
}

/// Parses a path. Slashes at its ends do not matter.
impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self::ROOT);
        }
        let path = trimmed.split('/').try_fold(Self::ROOT, |path, segment| {
            let id = id(segment).ok_or_else(|| PathError::NotAnId(text.to_owned()))?;
            path.child(id).ok_or_else(|| PathError::TooDeep(text.to_owned()))
        });
        path.map_err(|error| match error {
            PathError::NotAnId(text) if names_device_behind_gateway(trimmed) => PathError::BehindGateway(text),
            other => other,
        })
    }
}

fn id(segment: &str) -> Option<u16> {
    let digits = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    if digits { segment.parse().ok() } else { None }
}

/// Returns whether a path begins with the prefix of a device behind a gateway (OMA LwM2M Gateway 1.1, object 25,
/// resource 1), and has ids behind it.
fn names_device_behind_gateway(path: &str) -> bool {
    const MAX_PREFIX: usize = 64;
    let Some((prefix, rest)) = path.split_once('/') else { return false };
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let is_prefix = prefix.len() <= MAX_PREFIX && prefix.bytes().all(is_unreserved) && !is_number;
    is_prefix && rest.split('/').take(Path::MAX_SEGMENTS + 1).all(|segment| id(segment).is_some())
}

/// Reads the form with a leading slash.
impl TryFrom<String> for Path {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.to_string()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_ends_do_not_matter() {
        for text in ["/3/0/22/1", "3/0/22/1", "3/0/22/1/", "//3/0/22/1//"] {
            assert_eq!(text.parse::<Path>().map(|path| path.to_string()), Ok("/3/0/22/1".to_owned()), "{text}");
        }
        assert_eq!("/".parse(), Ok(Path::ROOT));
        assert_eq!("".parse(), Ok(Path::ROOT));
    }

    #[test]
    fn a_segment_is_a_whole_number_of_sixteen_bits() {
        assert_eq!("/65535".parse::<Path>().map(|path| path.object()), Ok(Some(65535)));
        for text in ["/65536", "/-1", "/+1", "/a", "/3//0", "/3/ 0", "/\u{664}"] {
            assert_eq!(text.parse::<Path>(), Err(PathError::NotAnId(text.into())), "{text}");
        }
    }

    #[test]
    fn a_path_of_a_device_behind_a_gateway_is_refused_with_that_reason() {
        let prefix = "x".repeat(64);
        for text in ["/dev1/3303/0/5700", "d-1._~/3", &format!("/{prefix}/1/2/3/4")] {
            assert_eq!(text.parse::<Path>(), Err(PathError::BehindGateway(text.into())));
        }
        for text in ["/dev1", "/dev 1/3/0", "/3/dev1/0", "/dev1/dev2/3", "/dev1//3", &format!("/{prefix}x/3")] {
            assert_eq!(text.parse::<Path>(), Err(PathError::NotAnId(text.into())));
        }
    }

    #[test]
    fn a_path_has_four_segments_at_most() {
        assert_eq!("/1/2/3/4/5".parse::<Path>(), Err(PathError::TooDeep("/1/2/3/4/5".into())));
        assert_eq!("/1/2/3/4".parse::<Path>().map(|path| path.child(5)), Ok(None));
    }

    #[test]
    fn a_path_is_below_those_that_it_begins_with() {
        let path = |text: &str| text.parse::<Path>().unwrap();
        assert!(path("/3/0/1").is_at_or_below(&path("/3/0")));
        assert!(path("/3/0/1").is_at_or_below(&path("/3/0/1")));
        assert!(path("/3/0/1").is_at_or_below(&Path::ROOT));
        assert!(!path("/3/0").is_at_or_below(&path("/3/0/1")));
        assert!(!path("/30/0").is_at_or_below(&path("/3")));
        assert_eq!(path("/3/0").parent(), path("/3"));
        assert_eq!(Path::ROOT.parent(), Path::ROOT);
    }
}
