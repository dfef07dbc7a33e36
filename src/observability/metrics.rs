//! Registers every counter and histogram of the program. The sizes of tables and queues are not kept here: the event
//! loop reports them on request (`snapshot`).

#[cfg(feature = "console")]
mod activity;
mod bootstrap;
mod cluster;
mod commands;
mod datagrams;
mod dtls;
mod firmware;
mod images;
mod labels;
mod moves;
mod peers;
mod reloads;
mod reports;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::report::Report;
use lwm2m_dtls::AssociationChange;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::meters::{ResultLabel, counter, counters, gauge, histogram};
use crate::upstream::metrics::UpstreamMetrics;

use images::ImageMetrics;
use labels::{ChangeLabel, DirectionLabel};

#[cfg(feature = "console")]
pub(crate) use activity::ActivityCounts;
pub use cluster::{ClusterMetrics, StoreContactGauges};
pub use moves::MoveMetrics;
pub use peers::PeerMetrics;
pub use reloads::ReloadMetrics;
pub(crate) use reloads::ReloadPart;
pub use reports::CoreMetrics;

/// The metrics of one driver thread. Those of the first thread are also shared by all parts of the program that count
/// and belong to no thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The metrics of the other threads, which the page adds to these.
    others: Vec<Arc<Metrics>>,
    pub core: CoreMetrics,
    pub transport: TransportMetrics,
    pub moves: MoveMetrics,
    pub peers: Arc<PeerMetrics>,
    pub upstream: Arc<UpstreamMetrics>,
    pub store: StoreMetrics,
    pub cluster: ClusterMetrics,
    pub credentials: CredentialMetrics,
    pub images: ImageMetrics,
    pub admin: AdminMetrics,
    pub console: ConsoleMetrics,
    /// Failures of devices.
    pub failures: Counter,
    /// Failures without an entry in the list of failures, because there were too many new ones.
    pub failures_skipped: Counter,
    pub reload: ReloadMetrics,
    /// 1 while handshakes are accepted.
    pub dtls_up: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let skipped = "Failures of devices that are not listed, because there were more than 100 new ones in a second";
        let dtls_up = "1 while DTLS handshakes are accepted; 0 without a DTLS listener or without valid credentials";
        Self {
            core: CoreMetrics::register(&mut registry),
            transport: TransportMetrics::register(&mut registry),
            moves: MoveMetrics::register(&mut registry),
            peers: Arc::new(PeerMetrics::register(&mut registry)),
            upstream: Arc::new(UpstreamMetrics::register(&mut registry)),
            store: StoreMetrics::register(&mut registry),
            cluster: ClusterMetrics::register(&mut registry),
            credentials: CredentialMetrics::register(&mut registry),
            images: ImageMetrics::register(&mut registry),
            admin: AdminMetrics::register(&mut registry),
            console: ConsoleMetrics::register(&mut registry),
            failures: counter(&mut registry, "lwm2m_failures", "Failures of devices, of all kinds"),
            failures_skipped: counter(&mut registry, "lwm2m_failures_skipped", skipped),
            reload: ReloadMetrics::register(&mut registry),
            dtls_up: gauge(&mut registry, "lwm2m_dtls_up", dtls_up),
            registry,
            others: Vec::new(),
        }
    }
}

impl Metrics {
    /// Creates the metrics of so many threads, at least one. The metrics of the first thread include the others on the
    /// page.
    pub fn of_threads(threads: usize) -> Vec<Arc<Self>> {
        let others: Vec<_> = (1..threads).map(|_| Arc::<Self>::default()).collect();
        let first = Self { others: others.clone(), ..Self::default() };
        std::iter::once(Arc::new(first)).chain(others).collect()
    }

    /// Iterates over the registries of all threads, that of the first one first.
    pub(crate) fn registries(&self) -> impl Iterator<Item = &Registry> {
        std::iter::once(&self.registry).chain(self.others.iter().map(|other| &other.registry))
    }

    /// Returns the counts of all threads from which the console makes its rates.
    #[cfg(feature = "console")]
    pub(crate) fn activity(&self) -> ActivityCounts {
        let mut sum = ActivityCounts::default();
        for metrics in std::iter::once(self).chain(self.others.iter().map(Arc::as_ref)) {
            let (failures, publications) = (metrics.failures.get(), metrics.upstream.publishes_ok.get());
            sum += ActivityCounts { failures, publications, ..metrics.core.activity() };
        }
        sum
    }

    /// Counts a report of the core.
    pub fn record(&self, report: &Report) {
        self.core.record(report);
    }

    /// Returns the registry of all metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Counts datagrams and errors of the device sockets.
#[derive(Debug)]
pub struct TransportMetrics {
    pub datagrams_received: Counter,
    pub datagrams_sent: Counter,
    pub receive_errors: Counter,
    pub send_errors: Counter,
    pub full_batches: Counter,
    forwarded: Counter,
    not_forwarded: Counter,
}

impl TransportMetrics {
    fn register(registry: &mut Registry) -> Self {
        let datagrams =
            counters(registry, "lwm2m_socket_datagrams", "Datagrams received and sent by the device sockets");
        let errors = counters(registry, "lwm2m_socket_errors", "Errors of the device sockets by direction");
        let full_batches = "Full receive batches: a socket had more datagrams than are read at once";
        let forwarded =
            "Datagrams of a device of another driver thread: forwarded to it, or dropped as it was too slow";
        let forwarded = counters(registry, "lwm2m_thread_datagrams", forwarded);
        Self {
            forwarded: forwarded(ResultLabel { result: "forwarded" }),
            not_forwarded: forwarded(ResultLabel { result: "dropped" }),
            datagrams_received: datagrams(DirectionLabel { direction: "in" }),
            datagrams_sent: datagrams(DirectionLabel { direction: "out" }),
            receive_errors: errors(DirectionLabel { direction: "in" }),
            send_errors: errors(DirectionLabel { direction: "out" }),
            full_batches: counter(registry, "lwm2m_socket_full_batches", full_batches),
        }
    }

    /// Returns the counter of datagrams for other driver threads.
    pub fn forwarded(&self, had_room: bool) -> &Counter {
        if had_room { &self.forwarded } else { &self.not_forwarded }
    }
}

/// Upper bounds of the buckets of the time until changes are durable, in seconds.
const STORE_WAITS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0];

/// Counts the writes of the store.
#[derive(Debug)]
pub struct StoreMetrics {
    pub put: Counter,
    pub removed: Counter,
    pub associations_put: Counter,
    pub associations_removed: Counter,
    pub retained_written: Counter,
    pub profiles_written: Counter,
    pub generated_keys_written: Counter,
    pub awaited_bootstraps_written: Counter,
    pub firmware_jobs_written: Counter,
    pub campaigns_written: Counter,
    pub write_errors: Counter,
    pub queue_full: Counter,
    /// 1 while the store cannot be written.
    pub failing: Gauge,
    pub rewrites: Counter,
    /// Time from the hand-over of a batch until it is durable.
    pub wait: Histogram,
}

impl StoreMetrics {
    /// Counts changes that are durable.
    pub fn written<'c>(&self, changes: impl IntoIterator<Item = &'c Change>) {
        for change in changes {
            let counter = match change {
                Change::Put(_) => &self.put,
                Change::Remove { .. } => &self.removed,
                Change::RetainedCommands(_) => &self.retained_written,
                Change::Profile(_) => &self.profiles_written,
                Change::GeneratedKey(_) => &self.generated_keys_written,
                Change::AwaitedBootstrap(_) => &self.awaited_bootstraps_written,
                Change::FirmwareJob(_) => &self.firmware_jobs_written,
                Change::Campaign(_) => &self.campaigns_written,
                Change::Association(AssociationChange::Put(_)) => &self.associations_put,
                Change::Association(AssociationChange::Remove(_)) => &self.associations_removed,
            };
            counter.inc();
        }
    }

    fn register(registry: &mut Registry) -> Self {
        let devices = counters(registry, "lwm2m_store_writes", "Device records written to and removed from the store");
        let associations = "DTLS association records written to and removed from the store";
        let associations = counters(registry, "lwm2m_store_association_writes", associations);
        let retained = "Records of executed retained commands written to or removed from the store";
        let profiles = "Object lists by profile ID written to or removed from the store";
        let generated = "Keys that the bootstrap server generated, written to the store";
        let awaited = "Commands that await a bootstrap session, written to or removed from the store";
        let firmware = "Records of firmware updates written to or removed from the store";
        let campaigns = "Records of firmware campaigns and of their devices written to or removed from the store";
        let rewrites = "Times that all records were written again, because a Redis store had lost some or all of them";
        let wait = "Time from the hand-over of changes to the store until they are durable";
        let failing = "1 while the store cannot be written; a restart would lose recent changes";
        Self {
            put: devices(ChangeLabel { change: "put" }),
            removed: devices(ChangeLabel { change: "removed" }),
            associations_put: associations(ChangeLabel { change: "put" }),
            associations_removed: associations(ChangeLabel { change: "removed" }),
            retained_written: counter(registry, "lwm2m_store_retained_writes", retained),
            profiles_written: counter(registry, "lwm2m_store_profile_writes", profiles),
            generated_keys_written: counter(registry, "lwm2m_store_generated_key_writes", generated),
            awaited_bootstraps_written: counter(registry, "lwm2m_store_awaited_bootstrap_writes", awaited),
            firmware_jobs_written: counter(registry, "lwm2m_store_firmware_writes", firmware),
            campaigns_written: counter(registry, "lwm2m_store_campaign_writes", campaigns),
            write_errors: counter(registry, "lwm2m_store_errors", "Failed store writes; each is retried"),
            queue_full: counter(registry, "lwm2m_store_waits", "Changes delayed because the store was too slow"),
            failing: gauge(registry, "lwm2m_store_failing", failing),
            rewrites: counter(registry, "lwm2m_store_rewrites", rewrites),
            wait: histogram(registry, "lwm2m_store_wait", wait, STORE_WAITS),
        }
    }
}

/// Counts the lookups of pre-shared keys.
#[derive(Debug)]
pub struct CredentialMetrics {
    pub keys_of_file: Counter,
    pub keys_of_service: Counter,
    pub keys_unknown: Counter,
    pub keys_failed: Counter,
    pub keys_refused: Counter,
}

impl CredentialMetrics {
    fn register(registry: &mut Registry) -> Self {
        let help = "Pre-shared key lookups by result; refused: too many lookups at the key service in flight";
        let lookups = counters(registry, "lwm2m_psk_lookups", help);
        let lookup = |result| lookups(ResultLabel { result });
        Self {
            keys_of_file: lookup("file"),
            keys_of_service: lookup("service"),
            keys_unknown: lookup("unknown"),
            keys_failed: lookup("failed"),
            keys_refused: lookup("refused"),
        }
    }
}

/// Counts the requests for metrics and health.
#[derive(Debug)]
pub struct AdminMetrics {
    pub requests_answered: Counter,
    pub requests_refused: Counter,
    pub connections_aborted: Counter,
}

impl AdminMetrics {
    fn register(registry: &mut Registry) -> Self {
        let requests = counters(registry, "lwm2m_admin_requests", "Requests to the admin listener by result");
        let aborted = "Admin connections that broke, took too long, or were closed for a newer one";
        Self {
            requests_answered: requests(ResultLabel { result: "answered" }),
            requests_refused: requests(ResultLabel { result: "refused" }),
            connections_aborted: counter(registry, "lwm2m_admin_connections_aborted", aborted),
        }
    }
}

/// Counts the requests to the console.
#[derive(Debug)]
pub struct ConsoleMetrics {
    pub requests_answered: Counter,
    pub requests_refused: Counter,
    pub connections_aborted: Counter,
    pub commands_sent: Counter,
    pub commands_pending: Counter,
    pub commands_refused: Counter,
    pub commands_rate_limited: Counter,
    /// The records of commands that made room before their time.
    pub commands_forgotten: Counter,
    /// Event streams that are open.
    pub streams: Gauge,
    /// Events that found no room in a stream.
    pub events_lost: Counter,
    /// The time that the driver took for requests of the console.
    pub driver_seconds: Counter<f64, AtomicU64>,
    /// Traces that run.
    pub traces: Gauge,
    /// Messages that a trace does not have.
    pub traced_lost: Counter,
}

impl ConsoleMetrics {
    fn register(registry: &mut Registry) -> Self {
        let requests = counters(registry, "lwm2m_console_requests", "Requests to the console by result");
        let commands = counters(registry, "lwm2m_console_commands", "Commands by the console by result");
        let forgotten = "Commands of the console whose answer was dropped before its time, to make room for others";
        let aborted = "Console connections that broke, took too long, or found all connections in use";
        let lost = "Messages that a trace does not have, beyond 200 in a second or because the console was too slow";
        let events_lost = "Events that the console did not show, because a stream had no room or there were too many";
        let (help, driver_seconds) = ("Time that the event loop spent on requests of the console", Counter::default());
        registry.register_with_unit("lwm2m_console_driver", help, Unit::Seconds, driver_seconds.clone());
        Self {
            requests_answered: requests(ResultLabel { result: "answered" }),
            requests_refused: requests(ResultLabel { result: "refused" }),
            connections_aborted: counter(registry, "lwm2m_console_connections_aborted", aborted),
            commands_sent: commands(ResultLabel { result: "sent" }),
            commands_pending: commands(ResultLabel { result: "pending" }),
            commands_refused: commands(ResultLabel { result: "refused" }),
            commands_rate_limited: commands(ResultLabel { result: "rate_limited" }),
            commands_forgotten: counter(registry, "lwm2m_console_commands_forgotten", forgotten),
            streams: gauge(registry, "lwm2m_console_streams", "Open event streams of the console"),
            events_lost: counter(registry, "lwm2m_console_events_lost", events_lost),
            driver_seconds,
            traces: gauge(registry, "lwm2m_console_traces", "Running traces of the console"),
            traced_lost: counter(registry, "lwm2m_console_traced_lost", lost),
        }
    }
}

#[cfg(test)]
mod tests;
