//! Firmware updates: the Firmware Update object (LwM2M Core 1.1 appendix E.6, object 5).
//!
//! - [`image`] names and describes images, the files that devices get. The shell reads them.
//! - `images` has what the shell is asked for, and `part_cache` what it has read last.
//! - [`pull_uri`] makes the URI at which a device fetches its image from this gateway, and the secret in it.
//! - `pulls` has the images that devices may fetch now, and `serving` answers their requests.
//! - `deferral` lets them wait while other messages come.
//! - `job` is the update of one device as a state machine, and `jobs` has those of all devices. `update` checks what an
//!   application asks for, and [`record`] is what the store has of a job.
//! - [`campaign`] updates many devices, one job each. `campaigns` has all campaigns, [`campaign_request`] what
//!   operators ask of them, `campaign_inbox` what happens to their devices, and `campaign_client` speaks with the
//!   broker for them.
//! - [`config`] has the settings.

pub mod campaign;
pub(in crate::gateway) mod campaign_client;
pub(in crate::gateway) mod campaign_inbox;
pub mod campaign_request;
pub(in crate::gateway) mod campaigns;
pub mod config;
pub(in crate::gateway) mod deferral;
pub mod image;
mod image_part;
pub(in crate::gateway) mod images;
pub(in crate::gateway) mod job;
pub(in crate::gateway) mod job_id;
pub(in crate::gateway) mod jobs;
mod part_cache;
pub mod pull_uri;
pub(in crate::gateway) mod pulls;
pub mod record;
pub(in crate::gateway) mod serving;
pub(in crate::gateway) mod update;

use image::{Image, ImageError, ImageRequestId};
use images::PendingPart;
use job_id::JobId;
use pulls::Fetched;

/// News about images for jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum ImageEvent {
    /// The shell has answered [`images::Images::describe`].
    Described { request: ImageRequestId, result: Result<Image, ImageError> },
    /// The bytes that a push waited for.
    Read { part: PendingPart, result: Result<Vec<u8>, ImageError> },
    /// The device has fetched a block.
    Pulled { job: JobId, fetched: Fetched },
    /// A block that the device asked for could not be read.
    PullFailed { job: JobId, error: ImageError },
}
