//! The connections to the broker, over both upstreams and with the broker that is part of the program.

pub(crate) mod embedded_broker;
mod exproto_link;
pub(crate) mod mqtt_link;
mod outage;
pub(crate) mod presence;
