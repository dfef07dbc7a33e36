//! Every counter of the program, named once, with its meaning.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of the whole program; one of these exists, and everybody counts in it.
#[derive(Debug, Default)]
pub struct Metrics {
    pub upstream: UpstreamMetrics,
}

/// The way up to the broker.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Anchors that were begun: connections to the broker's listener.
    pub anchors_dialed: Counter,
    /// Anchors that the listener did not take.
    pub anchors_failed: Counter,
    /// Connections that ended without the broker's or our will, after it knew the device.
    pub anchors_lost: Counter,
    /// Devices that became clients of the broker.
    pub connected: Counter,
    /// Devices that became so again after their connection was lost.
    pub reconnected: Counter,
    /// Connections that the broker ended for good: kicked, discarded, expired, or refused when made again.
    pub closed: Counter,
    /// Devices that the broker authenticated.
    pub authenticate_ok: Counter,
    /// Devices that the broker did not want.
    pub authenticate_refused: Counter,
    /// Authentications that ended without a verdict.
    pub authenticate_unavailable: Counter,
    /// Devices that may not subscribe their command topic.
    pub subscribe_refused: Counter,
    /// Publications that the broker took.
    pub publishes_ok: Counter,
    /// Publications that the broker did not allow.
    pub publishes_refused: Counter,
    /// Publish calls that failed; the publication is sent again, unless the broker rejects it as a mistake.
    pub publishes_failed: Counter,
    /// Registration reports that were given up: no room, no connection in time, or too many failures.
    pub dropped_reports: Counter,
    /// Answers to commands that were given up.
    pub dropped_answers: Counter,
    /// Notifications that were given up.
    pub dropped_notifications: Counter,
    /// `OnSocketCreated` calls of the broker, those for strangers included.
    pub events_socket_created: Counter,
    /// `OnSocketClosed` calls of the broker.
    pub events_socket_closed: Counter,
    /// `OnReceivedBytes` calls of the broker.
    pub events_received_bytes: Counter,
    /// `OnTimerTimeout` calls of the broker; the gateway sets no timer.
    pub events_timer_timeout: Counter,
    /// `OnReceivedMessages` calls of the broker, each with one message or more.
    pub events_received_messages: Counter,
    /// Messages of the broker that belong to no device, or came in too great a number before it was subscribed.
    pub messages_dropped: Counter,
    /// Lines on connections of the listener that are no token: strangers.
    pub unknown_tokens: Counter,
    /// Events of the broker that had to wait because the queue to the core was full.
    pub handler_queue_waits: Counter,
}
