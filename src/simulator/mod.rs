//! A simulated LwM2M device: what `demo` shows, what the load generator multiplies, and what behaviour tests talk to.
//!
//! It is a state machine like the core: the time, the datagrams and the seed come in, outputs come out. It shares the
//! messages of `coap` with the gateway and nothing above them: its message layer and its content are its own, so that a
//! fault of the gateway does not meet the same fault at the other end.
//!
//! 1. [`Device::start`]: Register, again and again until a server takes it.
//! 2. Requests of the server are answered, observed values notified, Updates sent before the lifetime ends.
//! 3. [`Device::stop`]: De-register.

mod device;
mod messages;
mod objects;
mod observations;
mod registration;
mod tlv;
mod value;

pub use device::{Device, DeviceEvent, Output};
pub use objects::{Access, Objects, Resource};
pub use registration::{DeviceSettings, Wave};
pub use value::Value;
