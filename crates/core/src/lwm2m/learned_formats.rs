//! The content formats that a device has shown to reject or to accept, kept with its registration.

use serde::{Deserialize, Serialize};

use super::content_format::{ContentFormat, FormatSet};

/// Holds the formats that a device has rejected or accepted in its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LearnedFormats {
    /// Formats that are not requested any more, because the device answered 4.06.
    #[serde(skip_serializing_if = "FormatSet::is_empty")]
    pub(super) not_acceptable: FormatSet,
    /// Formats that are not used for writes and creates any more, because the device answered 4.15.
    #[serde(skip_serializing_if = "FormatSet::is_empty")]
    pub(super) unsupported: FormatSet,
    /// Formats that are not used for composite operations any more, because the device answered 4.15.
    #[serde(skip_serializing_if = "FormatSet::is_empty")]
    pub(super) unsupported_in_composites: FormatSet,
    /// The format in which the device accepted several values after it had rejected another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) several: Option<ContentFormat>,
}

impl LearnedFormats {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
