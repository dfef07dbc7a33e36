//! Every counter of the program, named once, with its meaning, and the times that are measured. How full things are is
//! not kept here: the driver is asked for it (`vitals`).

mod dtls;
mod reloads;
mod reports;
mod times;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use lwm2m_core::gateway::report::Report;

use super::vitals::Level;

pub use reloads::{Part, ReloadMetrics};
pub use reports::CoreMetrics;
pub use times::{Measured, Times};

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

/// A number that its owner sets.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of the whole program; one of these exists, and everybody counts in it.
#[derive(Debug, Default)]
pub struct Metrics {
    pub core: CoreMetrics,
    pub transport: TransportMetrics,
    pub upstream: UpstreamMetrics,
    pub store: StoreMetrics,
    /// 1 while the store cannot be written.
    pub store_failing: Gauge,
    pub credentials: CredentialMetrics,
    pub admin: AdminMetrics,
    pub reload: ReloadMetrics,
    /// 1 while handshakes are accepted.
    pub dtls_up: Gauge,
    pub times: Times,
}

/// One number, as a page of metrics shows it: `name{labels} value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub name: &'static str,
    pub meaning: &'static str,
    /// `label="value"`, separated by commas; empty for a counter that is alone under its name.
    pub labels: Cow<'static, str>,
    pub value: u64,
}

impl Metrics {
    /// Counts what the core reports.
    pub fn record(&self, report: &Report) {
        self.core.record(report);
        if let Report::Command { took: Some(took), .. } = report {
            self.times.exchange.observe(took.as_secs_f64());
        }
    }

    /// Every counter as it is now; those of one name stand together.
    pub fn snapshot(&self) -> Vec<Sample> {
        [
            self.core.samples(),
            self.transport.samples(),
            self.upstream.samples(),
            self.store.samples(),
            self.credentials.samples(),
            self.admin.samples(),
            self.reload.samples(),
        ]
        .concat()
    }

    /// What is known without the driver, and goes up and down.
    pub fn levels(&self) -> Vec<Level> {
        let dtls = Level {
            name: "lwm2m_dtls_up",
            meaning: "Whether DTLS handshakes are accepted: 0 without a listener for DTLS, or without valid credentials.",
            labels: "",
            value: self.dtls_up.value(),
        };
        let store = Level {
            name: "lwm2m_store_failing",
            meaning: "Whether the last attempt to write the store failed: a restart would forget what changes.",
            labels: "",
            value: self.store_failing.value(),
        };
        [vec![dtls, store], self.reload.levels()].concat()
    }
}

/// Writes the counters and their samples from the same lines: name, meaning, and the counters under that name.
macro_rules! counters {
    ($(#[$doc:meta])* $type:ident { $($name:literal: $meaning:literal [$($counter:ident $labels:literal),+])* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $type {
            $($(#[doc = $meaning] pub $counter: Counter,)+)*
        }

        impl $type {
            fn samples(&self) -> Vec<Sample> {
                [$($(sample($name, $meaning, $labels, &self.$counter)),+),*].to_vec()
            }
        }
    };
}

counters! {
    /// The devices' sockets.
    TransportMetrics {
        "lwm2m_socket_datagrams_total": "Datagrams that the sockets took in and sent out." [
            datagrams_received r#"direction="in""#,
            datagrams_sent r#"direction="out""#
        ]
        "lwm2m_socket_errors_total": "Errors of the sockets; a datagram that was not sent is lost on its way to the device." [
            receive_errors r#"direction="in""#,
            send_errors r#"direction="out""#
        ]
        "lwm2m_socket_full_batches_total": "Times that a socket had as many datagrams as are taken at once: others had their turn first." [
            full_batches ""
        ]
    }
}

counters! {
    /// The way up to the broker.
    UpstreamMetrics {
        "lwm2m_anchors_dialed_total": "Connections to the broker's listener that were begun." [anchors_dialed ""]
        "lwm2m_anchors_failed_total": "Connections that the broker's listener did not take." [anchors_failed ""]
        "lwm2m_anchors_unopened_total": "Connections to the broker that this machine could not open: no file descriptor, port or memory left." [
            anchors_unopened ""
        ]
        "lwm2m_anchors_lost_total": "Connections that ended without the broker's or our will, after the broker knew the device." [
            anchors_lost ""
        ]
        "lwm2m_clients_connected_total": "Devices that became clients of the broker." [connected ""]
        "lwm2m_clients_reconnected_total": "Devices that became clients again after their connection was lost." [
            reconnected ""
        ]
        "lwm2m_clients_moved_total": "Devices that became clients again at another node of the broker." [moved ""]
        "lwm2m_broker_referrals_total": "Times that a broker sent a device to another server." [referrals ""]
        "lwm2m_node_changes_total": "Nodes of the broker that were found not to serve, and to serve again." [
            nodes_failed r#"state="down""#,
            nodes_recovered r#"state="up""#
        ]
        "lwm2m_node_probes_total": "Probes of the nodes of the broker." [probes ""]
        "lwm2m_clients_closed_total": "Clients that the broker ended for good: kicked, discarded, expired or refused." [
            closed ""
        ]
        "lwm2m_authentications_total": "What the broker said to a device; unavailable is no verdict." [
            authenticate_ok r#"result="ok""#,
            authenticate_refused r#"result="refused""#,
            authenticate_unavailable r#"result="unavailable""#
        ]
        "lwm2m_subscriptions_refused_total": "Devices that may not subscribe their command topic." [subscribe_refused ""]
        "lwm2m_publishes_total": "Publish calls; a failed one is made again, unless the broker rejects it as a mistake." [
            publishes_ok r#"result="ok""#,
            publishes_refused r#"result="refused""#,
            publishes_failed r#"result="failed""#
        ]
        "lwm2m_publications_dropped_total": "Publications that were given up: no room, no connection in time, or too many failures." [
            dropped_reports r#"class="report""#,
            dropped_answers r#"class="answer""#,
            dropped_notifications r#"class="notification""#
        ]
        "lwm2m_broker_events_total": "Calls of the broker to the handler, those for strangers included." [
            events_socket_created r#"event="socket_created""#,
            events_socket_closed r#"event="socket_closed""#,
            events_received_bytes r#"event="received_bytes""#,
            events_timer_timeout r#"event="timer_timeout""#,
            events_received_messages r#"event="received_messages""#
        ]
        "lwm2m_broker_messages_dropped_total": "Messages of the broker for no device, or too many before it was subscribed." [
            messages_dropped ""
        ]
        "lwm2m_unknown_tokens_total": "Lines on connections of the listener that are no token: strangers." [unknown_tokens ""]
        "lwm2m_broker_event_waits_total": "Events of the broker that had to wait because the queue to the core was full." [
            handler_queue_waits ""
        ]
    }
}

counters! {
    /// The keys of devices.
    CredentialMetrics {
        "lwm2m_psk_lookups_total": "Keys that handshakes asked for; refused were those beyond the questions that the service is asked at once." [
            keys_of_file r#"result="file""#,
            keys_of_service r#"result="service""#,
            keys_unknown r#"result="unknown""#,
            keys_failed r#"result="failed""#,
            keys_refused r#"result="refused""#
        ]
    }
}

counters! {
    /// What outlives the process.
    StoreMetrics {
        "lwm2m_store_writes_total": "Records of devices that the store has written, and those that it has removed." [
            put r#"change="put""#,
            removed r#"change="removed""#
        ]
        "lwm2m_store_association_writes_total": "Records of DTLS associations that the store has written, and those that it has removed." [
            associations_put r#"change="put""#,
            associations_removed r#"change="removed""#
        ]
        "lwm2m_store_retained_writes_total": "Records of the retained commands of a device that the store has written or removed." [
            obeyed_written ""
        ]
        "lwm2m_store_errors_total": "Attempts to write the store that failed; each is made again." [write_errors ""]
        "lwm2m_store_waits_total": "Times that changes had to wait because the store was too slow." [queue_full ""]
    }
}

counters! {
    /// The page of metrics and the answers about health.
    AdminMetrics {
        "lwm2m_admin_requests_total": "Requests for metrics and health." [
            requests_answered r#"result="answered""#,
            requests_refused r#"result="refused""#
        ]
        "lwm2m_admin_connections_cut_total": "Connections of the admin listener that broke, or took too long." [
            connections_cut ""
        ]
    }
}

fn sample(
    name: &'static str,
    meaning: &'static str,
    labels: impl Into<Cow<'static, str>>,
    counter: &Counter,
) -> Sample {
    Sample { name, meaning, labels: labels.into(), value: counter.value() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_with_its_labels_is_there_once() {
        let samples = Metrics::default().snapshot();
        let names: BTreeSet<_> = samples.iter().map(|sample| (sample.name, &sample.labels)).collect();
        assert_eq!(names.len(), samples.len());
    }

    #[test]
    fn the_samples_of_one_name_stand_together_and_mean_the_same() {
        let mut families = Metrics::default().snapshot();
        families.dedup_by_key(|sample| (sample.name, sample.meaning));
        let names: BTreeSet<_> = families.iter().map(|sample| sample.name).collect();
        assert_eq!(names.len(), families.len());
    }

    #[test]
    fn names_and_labels_are_those_of_the_exposition_format() {
        for sample in Metrics::default().snapshot() {
            let plain = sample.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'2');
            assert!(plain && sample.name.starts_with("lwm2m_") && sample.name.ends_with("_total"), "{sample:?}");
            let pairs = sample.labels.split(',').filter(|pair| !pair.is_empty());
            for pair in pairs {
                let (label, value) = pair.split_once('=').unwrap();
                assert!(label.bytes().all(|byte| byte.is_ascii_lowercase()), "{sample:?}");
                assert!(value.len() > 2 && value.starts_with('"') && value.ends_with('"'), "{sample:?}");
            }
        }
    }

    #[test]
    fn a_counter_shows_in_its_own_sample() {
        let metrics = Metrics::default();
        metrics.upstream.publishes_refused.add(3);
        metrics.transport.send_errors.increment();
        let counted: Vec<_> = metrics.snapshot().into_iter().filter(|sample| sample.value != 0).collect();
        let shown: Vec<_> = counted.iter().map(|sample| (sample.name, &*sample.labels, sample.value)).collect();
        let errors = ("lwm2m_socket_errors_total", r#"direction="out""#, 1);
        assert_eq!(shown, [errors, ("lwm2m_publishes_total", r#"result="refused""#, 3)]);
    }
}
