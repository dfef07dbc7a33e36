//! The versions of objects: the one that a device has, and those that have a definition.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Holds the version of an object or of LwM2M. An object has version 1.0 where its definition names none (LwM2M 1.1
/// section 7.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

/// Tells which version of an object a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectVersion {
    /// The device announced the version (attribute `ver`).
    Announced(Version),
    /// The device announced no version. Its LwM2M version implies this one.
    Implied(Version),
}

/// Names an object that a device announced in a version whose major number has no definition, while other versions of
/// the object have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndefinedVersion {
    pub object: u16,
    pub announced: Version,
    /// Lists the versions that have a definition, the newest first.
    pub defined: Vec<Version>,
}

/// Explains why a path has no definition, as far as the version of its object does. The text continues the words "has
/// no definition", and is empty if the version is not the cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherVersions(pub(super) Option<UndefinedVersion>);

/// Reports a text that is no version. A version is `major.minor` in digits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a version")]
pub struct VersionError(pub String);

/// Lists the core objects whose version depends on that of LwM2M, with their versions in LwM2M 1.0, 1.1 and 1.2 (LwM2M
/// Core 1.0, 1.1.1 and 1.2, appendix E). A device need not announce these.
const CORE_OBJECTS: [(u16, [Version; 3]); 7] = [
    (0, [version(1, 0), version(1, 1), version(1, 2)]),
    (1, [version(1, 0), version(1, 1), version(1, 2)]),
    (2, [version(1, 0), version(1, 0), version(1, 1)]),
    (3, [version(1, 0), version(1, 1), version(1, 2)]),
    (4, [version(1, 0), version(1, 2), version(1, 3)]),
    (5, [version(1, 0), version(1, 0), version(1, 1)]),
    (21, [version(1, 0), version(1, 0), version(2, 0)]),
];

const fn version(major: u16, minor: u16) -> Version {
    Version { major, minor }
}

impl Version {
    pub const FIRST: Version = version(1, 0);
    /// The version 1.1 of LwM2M.
    pub(crate) const LWM2M_1_1: Version = version(1, 1);
    /// The version 1.2 of LwM2M.
    pub(crate) const LWM2M_1_2: Version = version(1, 2);
}

impl ObjectVersion {
    /// Returns the version of an object on a device that registered with this `ver`, or none, and this `lwm2m`. A `ver`
    /// that is no version counts as absent.
    pub fn of(object: u16, ver: Option<&str>, lwm2m: Version) -> Self {
        match ver.and_then(|text| text.parse().ok()) {
            Some(announced) => Self::Announced(announced),
            None => Self::Implied(implied(object, lwm2m)),
        }
    }

    pub fn version(self) -> Version {
        match self {
            Self::Announced(version) | Self::Implied(version) => version,
        }
    }

    /// Returns the major number of the definitions to use, of these that there are, the newest first. A device that
    /// announced no version has the newest definition if none has the implied major number: some objects have no
    /// version 1.
    pub(super) fn major_among(self, defined: impl Iterator<Item = Version> + Clone) -> u16 {
        let wanted = self.version().major;
        match self {
            Self::Implied(_) if !defined.clone().any(|version| version.major == wanted) => {
                defined.into_iter().next().map_or(wanted, |newest| newest.major)
            }
            Self::Announced(_) | Self::Implied(_) => wanted,
        }
    }
}

fn implied(object: u16, lwm2m: Version) -> Version {
    let Some((_, [of_1_0, of_1_1, of_1_2])) = CORE_OBJECTS.iter().find(|(core, _)| *core == object) else {
        return Version::FIRST;
    };
    if lwm2m >= Version::LWM2M_1_2 {
        *of_1_2
    } else if lwm2m >= Version::LWM2M_1_1 {
        *of_1_1
    } else {
        *of_1_0
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError(text.chars().take(32).collect());
        let number = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            if plain { text.parse().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl UndefinedVersion {
    fn defined(&self) -> String {
        self.defined.iter().map(Version::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Writes a short form for lists, such as `3380 3.0 (loaded: 2.0, 1.0)`.
impl fmt::Display for UndefinedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (loaded: {})", self.object, self.announced, self.defined())
    }
}

impl fmt::Display for OtherVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(undefined) = &self.0 else { return Ok(()) };
        let announced = undefined.announced;
        write!(f, " in version {announced}, which the device announced; loaded: {}", undefined.defined())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_object_without_ver_has_the_version_that_lwm2m_implies() {
        for (object, versions) in [
            (0, ["1.0", "1.1", "1.2"]),
            (1, ["1.0", "1.1", "1.2"]),
            (2, ["1.0", "1.0", "1.1"]),
            (3, ["1.0", "1.1", "1.2"]),
            (4, ["1.0", "1.2", "1.3"]),
            (5, ["1.0", "1.0", "1.1"]),
            (6, ["1.0", "1.0", "1.0"]),
            (7, ["1.0", "1.0", "1.0"]),
            (21, ["1.0", "1.0", "2.0"]),
            (23, ["1.0", "1.0", "1.0"]),
            (3303, ["1.0", "1.0", "1.0"]),
        ] {
            let implied = ["1.0", "1.1", "1.2"].map(|lwm2m| {
                let version = ObjectVersion::of(object, None, lwm2m.parse().unwrap());
                assert_eq!(version, ObjectVersion::Implied(version.version()));
                version.version().to_string()
            });
            assert_eq!(implied, versions, "object {object}");
        }
        assert_eq!(ObjectVersion::of(3, None, "1".parse().unwrap()).version(), Version::FIRST);
    }

    #[test]
    fn ver_counts_unless_it_is_no_version() {
        let of = |ver| ObjectVersion::of(3, Some(ver), Version::LWM2M_1_1);
        assert_eq!(of("1.2"), ObjectVersion::Announced(version(1, 2)));
        assert_eq!(of("2"), ObjectVersion::Announced(version(2, 0)));
        for ver in ["", "x", "1.x", "1.", ".1", "1.1.1", "-1.0", "65536.0"] {
            assert_eq!(of(ver), ObjectVersion::Implied(version(1, 1)), "{ver:?}");
        }
    }

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!("1".parse(), Ok(Version::FIRST));
        assert!(version(1, 2) < version(1, 10));
        for text in ["", "1.", ".1", "1.1.1", "a", "-1.0", "1.65536"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
