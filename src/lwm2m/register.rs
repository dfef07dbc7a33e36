//! The registration interface: what a device says of itself in Register and Update (LwM2M 1.0 section 5.3, 1.1 section 6.2).

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::coap::{Code, Request};
use crate::secret::Secret;

use super::path::Path;

/// What a device said of itself, with all its Updates merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    pub endpoint: String,
    pub lifetime: Duration,
}

/// What an answer 4.xx says, and its diagnostic payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub diagnostic: String,
}

/// What an Update brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectListChange {
    /// The Update had no object list.
    Absent,
    /// The same list again.
    Same,
    Changed,
}

impl Registration {
    /// Reads a Register request; `lifetimes` are the bounds of `lt`.
    pub fn from_register(request: &Request, lifetimes: &RangeInclusive<Duration>) -> Result<Self, Rejection> {
        todo!()
    }

    /// Merges an Update. On an error nothing has changed.
    pub fn update(
        &mut self,
        request: &Request,
        lifetimes: &RangeInclusive<Duration>,
    ) -> Result<ObjectListChange, Rejection> {
        todo!()
    }

    /// Whether the device said that it sleeps: `b` with Q, or the item `Q`.
    pub fn queue_mode(&self) -> bool {
        todo!()
    }

    /// A query item that this program knows nothing of (`imei`, `apn` ...), as text.
    pub fn item(&self, name: &str) -> Option<&str> {
        todo!()
    }

    /// The query item `password`: never in a report.
    pub fn password(&self) -> Option<&Secret> {
        todo!()
    }

    /// `lwm2m` as given; `1.0` when it was not.
    pub fn version(&self) -> &str {
        todo!()
    }

    /// The paths of the object list, in its order; those that are no LwM2M paths left out.
    pub fn object_paths(&self) -> impl Iterator<Item = Path> + '_ {
        std::iter::empty()
    }
}
