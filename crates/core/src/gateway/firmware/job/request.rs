//! The requests of a job to its device, and the reasons for which a job refuses commands.

use lwm2m_base::secret::Secret;

use crate::lwm2m::path::Path;

/// A URI at which the device can fetch the image from this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct PullOffer {
    pub uri: Secret,
    /// The protocol, as the Firmware Update object numbers it.
    pub protocol: i64,
}

/// A request to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum JobRequest {
    Read(Path),
    Observe(Path),
    /// Writes the Package URI; an empty one brings the object back to idle.
    WriteUri(Path, Secret),
    /// Writes one zero byte as the package, which brings the object back to idle.
    ClearPackage(Path),
    Push(Path, PushFormat),
    Execute(Path),
}

/// The content format of a pushed package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum PushFormat {
    /// The bytes of the image themselves.
    Opaque,
    /// The image as a resource in TLV.
    Tlv,
}

/// The reason for which a job cannot carry out a command now. The text is for the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct JobRefusal(pub &'static str);

impl JobRefusal {
    pub(crate) const NO_JOB: Self = Self("no firmware update of this device runs");
    pub(crate) const NOT_BEGUN: Self = Self("the update has not begun: its image is looked at; try again");
    pub(crate) const NOTHING_DOWNLOADED: Self = Self("nothing is downloaded that could be activated");
    pub(crate) const INSTALLING: Self = Self("the device installs the package already (state 3)");
}
