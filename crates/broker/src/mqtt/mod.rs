//! MQTT, versions 3.1.1 and 5 on one port: for applications, and for devices at a listener of its own, which obeys the
//! rules of [`BrokerControl`](super::BrokerControl) and can be stopped. Sessions outlive their connections for as long
//! as the clients ask for, in memory; shared subscriptions work.

mod codec;
mod devices;
mod listener;
mod packet;
mod session;
mod sessions;
mod v311;
mod v5;

pub(super) use self::devices::DeviceListener;
pub(super) use self::listener::{open_context, serve};
