//! Settings of firmware updates.

use std::time::Duration;

use super::pulls::uri::PublicUris;
use crate::gateway::broker::BrokerLogin;

/// The settings that the core needs. The folder of the images, and the largest size of one, are the shell's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareConfig {
    /// The beginnings of the URIs at which devices fetch images from this gateway. Without any, images are pushed.
    pub public_uris: PublicUris,
    /// Shortest time between two events of the progress of one download.
    pub progress_interval: Duration,
    /// Interval at which State and Update Result are read if the device cannot be observed.
    pub poll_interval: Duration,
    /// Time without progress, while the device is awake, after which a job fails.
    pub stall_timeout: Duration,
    /// Longest time from the Update command to the Update Result.
    pub update_timeout: Duration,
    /// The client at the broker by which applications control campaigns; `None` if there is none.
    pub login: Option<BrokerLogin>,
}

/// The defaults. The program's configuration reads them from here.
impl Default for FirmwareConfig {
    fn default() -> Self {
        Self {
            public_uris: PublicUris::default(),
            progress_interval: Duration::from_secs(10),
            poll_interval: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(600),
            update_timeout: Duration::from_secs(1800),
            login: None,
        }
    }
}
