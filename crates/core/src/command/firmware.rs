//! Firmware updates as applications see them: the commands, and the events that report the progress of an update.

use serde::{Deserialize, Serialize};

use crate::coap::Code;
use crate::lwm2m::firmware::{State, UpdateResult};
use lwm2m_base::secret::Secret;

use super::{Echo, Origin, Reply};

/// A command about the firmware of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirmwareCommand {
    pub echo: Echo,
    /// The instance of the Firmware Update object.
    pub instance: u16,
    pub action: FirmwareAction,
    pub reply: Option<Box<Reply>>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FirmwareAction {
    Update(Box<UpdateRequest>),
    Activate,
    Cancel,
    Status,
}

/// The data of a `firmware-update`. The names of images and digests are checked by the jobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UpdateRequest {
    pub package: PackageSource,
    pub method: MethodChoice,
    /// Whether the device installs the package when it has it, without another command.
    pub activate: bool,
    /// The version that the device has to run afterwards.
    pub version: Option<String>,
    /// The SHA-256 that the image must have, as hexadecimal digits.
    pub sha256: Option<String>,
    /// Bytes of a block of a push: a power of two from 16 to 1024.
    pub block_size: Option<u16>,
    /// The largest number of times that the transfer is begun.
    pub attempts: u32,
}

/// The source of the package.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PackageSource {
    /// The name of an image of this gateway.
    Image(String),
    /// A URI that is passed on to the device. It may have a password.
    Uri(Secret),
}

/// The transfer method that the application asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MethodChoice {
    /// Pull if the device and the configuration allow it, else push.
    #[default]
    Auto,
    Push,
    Pull,
}

/// The transfer method of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The gateway writes it to the device.
    Push,
    /// The device fetches it.
    Pull,
}

/// The phase of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The gateway waits for a message of the device.
    Waiting,
    Preparing,
    Downloading,
    Downloaded,
    Updating,
    Verifying,
    Succeeded,
    Failed,
    Cancelled,
    Deferred,
}

/// The reason why an update has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateError {
    NoFlash,
    NoMemory,
    ConnectionLost,
    Integrity,
    UnsupportedPackage,
    InvalidUri,
    UpdateFailed,
    UnsupportedProtocol,
    /// Neither a block moved nor the state changed for too long while the device was awake.
    Stalled,
    /// The device refused a request.
    Rejected,
    /// The device runs another version than the command named.
    Version,
    /// The device did not come back.
    Lost,
    /// The file of the image has other content now, or was removed.
    ImageChanged,
    /// The file of the image could not be read for too long.
    ImageUnreadable,
}

/// The content of an event: the progress of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    pub job: JobLabel,
    pub phase: Phase,
    /// `None` until the method is chosen.
    pub method: Option<Method>,
    /// The state that the device reported last.
    pub state: Option<State>,
    pub result: Option<UpdateResult>,
    /// Bytes that the device has; `None` if it does not fetch them from this gateway.
    pub bytes: Option<u64>,
    /// Bytes of the image.
    pub size: Option<u64>,
    pub attempt: u32,
    pub error: Option<UpdateError>,
    /// The code of the device's refusal.
    #[serde(with = "code", default)]
    pub code: Option<Code>,
}

/// A short name of a job for operators. It is not a secret, and gives no access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobLabel([u8; JobLabel::LENGTH]);

impl FirmwareCommand {
    /// Returns the name of the command for metrics.
    pub(crate) fn msg_type(&self) -> &'static str {
        match self.action {
            FirmwareAction::Update(_) => "firmware-update",
            FirmwareAction::Activate => "firmware-activate",
            FirmwareAction::Cancel => "firmware-cancel",
            FirmwareAction::Status => "firmware-status",
        }
    }
}

impl Phase {
    pub const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Preparing,
        Self::Downloading,
        Self::Downloaded,
        Self::Updating,
        Self::Verifying,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Deferred,
    ];

    /// Returns the name in events, log lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Downloading => "downloading",
            Self::Downloaded => "downloaded",
            Self::Updating => "updating",
            Self::Verifying => "verifying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Deferred => "deferred",
        }
    }

    /// Returns whether the update is over.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Deferred)
    }
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }
}

impl UpdateError {
    pub const ALL: [Self; 14] = [
        Self::NoFlash,
        Self::NoMemory,
        Self::ConnectionLost,
        Self::Integrity,
        Self::UnsupportedPackage,
        Self::InvalidUri,
        Self::UpdateFailed,
        Self::UnsupportedProtocol,
        Self::Stalled,
        Self::Rejected,
        Self::Version,
        Self::Lost,
        Self::ImageChanged,
        Self::ImageUnreadable,
    ];

    /// Returns the name in events, log lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoFlash => "no_flash",
            Self::NoMemory => "no_memory",
            Self::ConnectionLost => "connection_lost",
            Self::Integrity => "integrity",
            Self::UnsupportedPackage => "unsupported_package",
            Self::InvalidUri => "invalid_uri",
            Self::UpdateFailed => "update_failed",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::Stalled => "stalled",
            Self::Rejected => "rejected",
            Self::Version => "version",
            Self::Lost => "lost",
            Self::ImageChanged => "image_changed",
            Self::ImageUnreadable => "image_unreadable",
        }
    }
}

impl JobStatus {
    /// Returns the part of the image that the device has, in percent.
    pub fn progress(&self) -> Option<u64> {
        let (bytes, size) = (u128::from(self.bytes?), u128::from(self.size?));
        u64::try_from((bytes * 100).checked_div(size)?).ok()
    }
}

impl JobLabel {
    pub const LENGTH: usize = 6;
    /// The characters of a label, without letters and digits that look alike.
    const ALPHABET: &[u8; 32] = b"23456789abcdefghjkmnpqrstuvwxyzA";

    /// Makes a label of random bytes. Five bits of each byte are used.
    pub fn from_random(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes.map(|byte| Self::ALPHABET[usize::from(byte & 0x1f)]))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the characters of a label are ASCII")
    }
}

impl TryFrom<String> for JobLabel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let label: Option<[u8; Self::LENGTH]> = text.as_bytes().try_into().ok();
        let label = label.filter(|label| label.iter().all(|byte| Self::ALPHABET.contains(byte)));
        label.map(Self).ok_or_else(|| format!("{text:?} is not a label of a job"))
    }
}

impl From<JobLabel> for String {
    fn from(label: JobLabel) -> Self {
        label.as_str().to_owned()
    }
}

impl std::fmt::Display for JobLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for JobLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Serializes a code as the number that CoAP has for it.
mod code {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::coap::Code;

    pub(super) fn serialize<S: Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
        code.map(|code| code.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Code>, D::Error> {
        Ok(Option::<u8>::deserialize(deserializer)?.map(Code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_in_whole_percent_of_the_image() {
        let status = |bytes, size| JobStatus {
            job: JobLabel::from_random([7; JobLabel::LENGTH]),
            phase: Phase::Downloading,
            method: None,
            state: None,
            result: None,
            bytes,
            size,
            attempt: 1,
            error: None,
            code: None,
        };
        assert_eq!(status(Some(262_144), Some(1_048_576)).progress(), Some(25));
        assert_eq!(status(Some(1_048_575), Some(1_048_576)).progress(), Some(99));
        assert_eq!(status(None, None).progress(), None);
        assert_eq!(status(Some(0), Some(0)).progress(), None);
    }

    #[test]
    fn a_label_is_read_back_and_another_text_is_none() {
        let label = JobLabel::from_random([0, 31, 32, 77, 200, 255]);
        assert_eq!(JobLabel::try_from(String::from(label)), Ok(label));
        for bad in ["", "2345", "23456l", "2345678"] {
            assert!(JobLabel::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
