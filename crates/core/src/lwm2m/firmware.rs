//! The Firmware Update object, id 5 (OMA LwM2M Core 1.1 appendix E.6): its resources, and what their values mean.

use serde::{Deserialize, Serialize};

use super::path::Path;

pub(crate) const OBJECT: u16 = 5;

/// The resources of an instance of the object.
pub(crate) mod resource {
    pub(crate) const PACKAGE: u16 = 0;
    pub(crate) const PACKAGE_URI: u16 = 1;
    pub(crate) const UPDATE: u16 = 2;
    pub(crate) const STATE: u16 = 3;
    pub(crate) const UPDATE_RESULT: u16 = 5;
    pub(crate) const PACKAGE_VERSION: u16 = 7;
    pub(crate) const PROTOCOLS: u16 = 8;
    pub(crate) const DELIVERY_METHOD: u16 = 9;
    /// Version 1.1 of the object has it.
    pub(crate) const CANCEL: u16 = 10;
}

/// Values of the resource Firmware Update Protocol Support.
pub(crate) mod protocol {
    pub(crate) const COAP: i64 = 0;
    pub(crate) const COAPS: i64 = 1;
}

/// Returns the path of an instance of the object.
pub(crate) fn instance_path(instance: u16) -> Path {
    Path::of(&[OBJECT, instance]).expect("two ids are a path")
}

/// Returns the path of the Firmware Version of the Device object (appendix E.4).
pub(crate) fn firmware_version_path() -> Path {
    Path::of(&[3, 0, 3]).expect("three ids are a path")
}

/// The State of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Idle,
    Downloading,
    Downloaded,
    Updating,
}

/// The Update Result of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateResult {
    /// The update has no result yet.
    Initial,
    Success,
    NotEnoughFlash,
    OutOfMemory,
    ConnectionLost,
    IntegrityCheckFailed,
    UnsupportedPackage,
    InvalidUri,
    UpdateFailed,
    UnsupportedProtocol,
    Cancelled,
    Deferred,
}

/// The delivery methods that a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub pull: bool,
    pub push: bool,
}

impl State {
    const ALL: [Self; 4] = [Self::Idle, Self::Downloading, Self::Downloaded, Self::Updating];

    /// Returns the state that a device names by this number; `None` for a number that the object does not have.
    pub fn of(number: i64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|place| Self::ALL.get(place)).copied()
    }

    pub fn number(self) -> u8 {
        self as u8
    }
}

impl UpdateResult {
    const ALL: [Self; 12] = [
        Self::Initial,
        Self::Success,
        Self::NotEnoughFlash,
        Self::OutOfMemory,
        Self::ConnectionLost,
        Self::IntegrityCheckFailed,
        Self::UnsupportedPackage,
        Self::InvalidUri,
        Self::UpdateFailed,
        Self::UnsupportedProtocol,
        Self::Cancelled,
        Self::Deferred,
    ];

    /// Returns the result that a device names by this number; `None` for a number that the object does not have.
    pub fn of(number: i64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|place| Self::ALL.get(place)).copied()
    }

    pub fn number(self) -> u8 {
        self as u8
    }
}

impl Delivery {
    /// Returns the methods that the number of the resource Firmware Update Delivery Method names. Without the resource,
    /// and for an unknown number, a device is taken to have both.
    pub(crate) fn of(number: Option<i64>) -> Self {
        Self { pull: number != Some(1), push: number != Some(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_results_have_the_numbers_of_the_object() {
        assert_eq!(State::of(2), Some(State::Downloaded));
        assert_eq!(UpdateResult::of(5), Some(UpdateResult::IntegrityCheckFailed));
        assert_eq!(UpdateResult::of(11), Some(UpdateResult::Deferred));
        for number in 0..12 {
            assert_eq!(UpdateResult::of(number).map(|result| i64::from(result.number())), Some(number));
        }
        for number in [-1, 4, 12, i64::MAX] {
            assert_eq!(State::of(number), None);
            assert!(number == 4 || UpdateResult::of(number).is_none());
        }
    }

    #[test]
    fn a_device_that_names_no_delivery_method_has_both() {
        let both = Delivery { pull: true, push: true };
        assert_eq!(
            [None, Some(0), Some(1), Some(2), Some(9)].map(Delivery::of),
            [both, Delivery { pull: true, push: false }, Delivery { pull: false, push: true }, both, both,]
        );
    }
}
