//! Firmware updates: the Firmware Update object (LwM2M Core 1.1 appendix E.6, object 5).
//!
//! - [`image`] names and describes images, the files that devices get. The shell reads them, and `images` has what the
//!   shell is asked for.
//! - [`pulls`] has the images that devices may fetch now, each at a URI with a secret ([`pulls::uri`]). It answers their
//!   requests (`pulls::serving`), which wait while other messages come (`pulls::deferral`).
//! - `job` is the update of one device as a state machine, and [`jobs`] has those of all devices. `jobs::update` checks
//!   what an application asks for, and [`jobs::record`] is what the store has of a job.
//! - [`campaign`] updates many devices, one job each, as a state machine. [`campaigns`] has all campaigns: what operators
//!   ask of them ([`campaigns::request`]), what happens to their devices (`campaigns::inbox`), and the client that
//!   speaks with the broker for them (`campaigns::client`).
//! - [`config`] has the settings.

pub mod campaign;
pub mod campaigns;
pub mod config;
pub mod image;
pub(in crate::gateway) mod images;
pub(in crate::gateway) mod job;
pub mod jobs;
pub mod pulls;

use image::{Image, ImageError, ImageRequestId};
use images::PendingPart;
use jobs::job_id::JobId;
use pulls::Fetched;

/// Events of images for jobs.
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
