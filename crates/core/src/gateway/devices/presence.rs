//! The presence of devices, published retained where `translators.status` has a topic, so that a later subscriber knows
//! it too. When the connection of a device is lost, the broker publishes that it is offline: the will.
//!
//! The broker may end a device without publishing its will, such as one that it bans, and then accepts no other message
//! for it. `online` and `asleep` therefore have a Message Expiry Interval (MQTT 5.0 section 3.3.2.3.3). They are
//! published again while the device sends messages, and the broker removes them if the gateway cannot.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::mqtt::uplink;
use crate::registry::{Device, Presence, PublishedPresence};

use crate::gateway::broker::{Publication, UplinkClass};
use crate::gateway::client::allowed_silence;
use crate::gateway::config::GatewayConfig;
use crate::gateway::context::Context;

/// Begins the presence of a device, which is not published yet.
pub(super) fn begin_presence(config: &GatewayConfig, device: &mut Device) {
    if device.topics.has_status() {
        let (presence, since) = (Presence::Online, device.last_heard());
        let expires = *expiry_times(config, device).end();
        device.status = Some(Box::new(PublishedPresence { presence, since, expires }));
    }
}

/// Publishes that a device has another presence.
pub(super) fn change_presence(context: &mut Context, device: &mut Device, presence: Presence, since: Instant) {
    if let Some(status) = &mut device.status {
        (status.presence, status.since) = (presence, since);
        publish_status(context, device);
    }
}

/// Publishes the presence of a device as it is now.
pub(in crate::gateway) fn publish_status(context: &mut Context, device: &mut Device) {
    let expires = *expiry_times(&context.config, device).end();
    let Some((status, topic)) = device.status.as_mut().zip(device.topics.status()) else { return };
    status.expires = expires;
    let expiry = match status.presence {
        Presence::Online | Presence::Asleep => Some(expires.saturating_duration_since(context.now)),
        Presence::Offline => None,
    };
    let payload = uplink::status(status.presence, Some(context.wall_clock.unix_time(status.since)));
    let publication =
        Publication { retain: true, expiry, ..Publication::new(topic, payload, UplinkClass::Registration) };
    context.publish(device.publishes_as, publication);
}

/// Publishes the presence of a device that has sent a message once more, if the broker would otherwise remove it too
/// early, or too late after an Update with a shorter lifetime.
pub(super) fn renew_status(context: &mut Context, device: &mut Device) {
    let Some(status) = &device.status else { return };
    if !expiry_times(&context.config, device).contains(&status.expires) {
        publish_status(context, device);
    }
}

/// Returns the times at which the retained presence may expire: between the end of the lifetime and half a lifetime
/// after it. So it is published once per half a lifetime at most, however many messages the device sends.
fn expiry_times(config: &GatewayConfig, device: &Device) -> RangeInclusive<Instant> {
    let lifetime: Duration = allowed_silence(config, &device.registration);
    let ends = device.last_heard() + lifetime;
    ends..=ends + lifetime / 2
}
