//! One device in a campaign.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::coap::Code;
use crate::command::firmware::{JobLabel, Phase, UpdateError};

/// The state of a device in a campaign. It is small: a campaign has many thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// The device has not been asked. `is_queued` tells that it has sent a message since, and waits for its turn.
    Waiting { is_queued: bool },
    /// The campaign reads the resources of the filter and the version; `step` counts them.
    Asking { step: u8 },
    /// The device is to be updated. With `is_queued` it waits for its turn, otherwise it sleeps.
    Ready { is_queued: bool },
    /// The `firmware-update` was given.
    Starting,
    /// The update runs. `is_away` is set while it waits for a message of the device, `is_cancelled` if it was
    /// cancelled.
    Updating { job: JobLabel, is_away: bool, is_cancelled: bool },
    /// The outcome of the device is final.
    Ended(MemberOutcome),
}

/// The outcome of a device in its campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberOutcome {
    /// The device was updated, and runs the version.
    Succeeded,
    /// The device ran the version before the campaign.
    UpToDate,
    /// A resource has another value than the filter asks for.
    FilterMismatch,
    Failed(UpdateError),
    /// The update was refused before anything was sent.
    Refused(#[serde(with = "code")] Code),
    /// The update or the campaign was cancelled.
    Cancelled,
    /// The device has deferred the update.
    Deferred,
    /// The campaign ended before the device could take part.
    Absent,
}

/// The states as they are shown and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    Waiting,
    Updating,
    Succeeded,
    Failed,
    UpToDate,
    FilterMismatch,
    Cancelled,
    Deferred,
    Absent,
}

impl Member {
    pub fn state(self) -> MemberState {
        match self {
            Self::Waiting { .. } | Self::Asking { .. } | Self::Ready { .. } => MemberState::Waiting,
            Self::Starting | Self::Updating { .. } => MemberState::Updating,
            Self::Ended(outcome) => outcome.state(),
        }
    }

    /// Returns whether the device counts among those that are updated at once.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Updating { is_away: false, .. })
    }

    pub fn outcome(self) -> Option<MemberOutcome> {
        match self {
            Self::Ended(outcome) => Some(outcome),
            Self::Waiting { .. }
            | Self::Asking { .. }
            | Self::Ready { .. }
            | Self::Starting
            | Self::Updating { .. } => None,
        }
    }
}

impl MemberOutcome {
    /// Returns the outcome of an update that has ended in this phase; `None` if the update continues.
    pub fn of(phase: Phase, error: Option<UpdateError>) -> Option<Self> {
        match phase {
            Phase::Succeeded => Some(Self::Succeeded),
            Phase::Failed => Some(Self::Failed(error.unwrap_or(UpdateError::UpdateFailed))),
            Phase::Cancelled => Some(Self::Cancelled),
            Phase::Deferred => Some(Self::Deferred),
            Phase::Waiting
            | Phase::Preparing
            | Phase::Downloading
            | Phase::Downloaded
            | Phase::Updating
            | Phase::Verifying => None,
        }
    }

    pub fn state(self) -> MemberState {
        match self {
            Self::Succeeded => MemberState::Succeeded,
            Self::UpToDate => MemberState::UpToDate,
            Self::FilterMismatch => MemberState::FilterMismatch,
            Self::Failed(_) | Self::Refused(_) => MemberState::Failed,
            Self::Cancelled => MemberState::Cancelled,
            Self::Deferred => MemberState::Deferred,
            Self::Absent => MemberState::Absent,
        }
    }

    /// Returns the reason of a failure, as it is shown: that of the update, or the code of the refusal.
    pub fn error(self) -> Option<String> {
        match self {
            Self::Failed(error) => Some(error.name().to_owned()),
            Self::Refused(code) => Some(format!("refused {code}")),
            Self::Succeeded
            | Self::UpToDate
            | Self::FilterMismatch
            | Self::Cancelled
            | Self::Deferred
            | Self::Absent => None,
        }
    }
}

impl MemberState {
    pub const ALL: [Self; 9] = [
        Self::Waiting,
        Self::Updating,
        Self::Succeeded,
        Self::Failed,
        Self::UpToDate,
        Self::FilterMismatch,
        Self::Cancelled,
        Self::Deferred,
        Self::Absent,
    ];

    /// Returns the name in events, in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Updating => "updating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::UpToDate => "up_to_date",
            Self::FilterMismatch => "filter_mismatch",
            Self::Cancelled => "cancelled",
            Self::Deferred => "deferred",
            Self::Absent => "absent",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Serializes a code as the number that CoAP has for it.
mod code {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::coap::Code;

    pub(super) fn serialize<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(code.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
        u8::deserialize(deserializer).map(Code)
    }
}
