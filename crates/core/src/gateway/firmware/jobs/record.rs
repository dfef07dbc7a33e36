//! Records of jobs for the store. They are separate from those of devices, because a job continues after its device has
//! registered again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::Echo;

use crate::gateway::firmware::job::{JobProgress, JobSpec};

/// The job of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct FirmwareJobRecord {
    pub endpoint: String,
    /// The job; `None` removes the record.
    pub job: Option<Box<JobRecord>>,
}

/// The stored form of a job. It is serialized with the secret of its URI: the file is for the program alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub(super) spec: JobSpec,
    pub(super) progress: JobProgress,
    /// The `firmware-update`.
    pub(super) echo: Echo,
    /// The time at which an update without result fails. Times are those of the wall clock, since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) update_ends: Option<Duration>,
    /// The longest silence of the registered device: its lifetime, and the time that the gateway allows beyond it.
    #[serde(default)]
    pub(super) silence: Duration,
    /// The time at which the job ends if the device does not register again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ends: Option<Duration>,
}
