//! The presence of devices, published retained where `translators.status` has a topic, so that a later subscriber knows
//! it too. When the connection of a device is lost, the broker publishes that it is offline: the will.

use crate::mqtt::uplink;
use crate::registry::{Device, Presence, Topics};

use super::broker::{Publication, UplinkClass, Will};
use super::context::Context;

/// Publishes the presence of a device as it is now.
pub(super) fn publish_status(context: &mut Context, device: &Device) {
    let Some(((presence, since), topic)) = device.status.zip(device.topics.status.clone()) else { return };
    let payload = uplink::status(presence, Some(context.wall_clock.unix_time(since)));
    let publication = Publication { retain: true, ..Publication::new(topic, payload, UplinkClass::Report) };
    context.publish(device.session, publication);
}

/// Publishes that a device that leaves is offline.
pub(super) fn go_offline(context: &mut Context, device: &mut Device) {
    if let Some(status) = &mut device.status {
        *status = (Presence::Offline, context.now);
        publish_status(context, device);
    }
}

pub(super) fn will(topics: &Topics) -> Option<Will> {
    let topic = topics.status.clone()?;
    Some(Will { topic: topic.name, qos: topic.qos, payload: uplink::status(Presence::Offline, None) })
}
