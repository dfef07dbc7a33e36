//! A simulated LwM2M device of version 1.0, 1.1 or 1.2, for the demo, the load generator and the behaviour tests.
//!
//! It is a state machine like the core: it takes datagrams, the time and a seed, and returns outputs.
//!
//! 1. [`SimulatedDevice::start`] registers, again and again until a server takes it. A device that is to be
//!    bootstrapped asks for its servers first ([`DeviceEvent::Bootstrapped`]), and registers when its owner has reached
//!    one of them ([`SimulatedDevice::register_at`]).
//! 2. It answers requests of the server, notifies observed values and sends Updates before the lifetime ends.
//!    [`SimulatedDevice::send`] reports values, with their times, that nobody observes.
//! 3. With [`SimulatedFirmwareConfig`] it updates its firmware, by push and by pull, with the faults that it is given.
//! 4. [`SimulatedDevice::stop`] de-registers.
//!
//! # What this crate guarantees
//!
//! - The same seed and the same inputs give the same outputs: it reads no clock, opens no socket and draws no
//!   randomness.
//! - Its message layer (RFC 7252 section 4), its codecs and its objects are its own. It shares only the CoAP message
//!   format and the type of a path with the gateway, so that a fault of the gateway does not meet the same fault at the
//!   other end.
//! - A request that arrives twice is executed once.
//!
//! # What it does not know
//!
//! DTLS (the owner puts its datagrams into records), block-wise transfer of anything but firmware, LwM2M JSON, an
//! alternate path and bootstrap packs.
//! Of the attributes it obeys `pmin`, `pmax` and `con`; it keeps the others and shows them in Discover.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod bootstrap;
mod content;
mod device;
mod firmware;
mod messages;
mod objects;
mod observations;
mod registration;
mod value;

pub use bootstrap::SimulatedServer;
pub use device::{
    DeviceEvent, SimulatedDevice, SimulatedDeviceOutput, SimulatedSample, SimulatedSend, SimulatedSendError,
};
pub use firmware::{FirmwareFault, SimulatedFirmwareConfig};
pub use objects::{Objects, ResourceAccess, SimulatedResource};
pub use registration::{SimulatedDeviceConfig, SimulatedVersion, Wave};
pub use value::SimulatedValue;

#[cfg(test)]
mod tests;
