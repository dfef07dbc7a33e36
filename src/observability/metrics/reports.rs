//! Counts the reports of the core.

use lwm2m_core::coap::{BlockError, Code};
use lwm2m_core::gateway::broker::CloseReason;
use lwm2m_core::gateway::report::{Forbidden, LeaveReason, NotRestored, NotificationOutcome, Report};
use lwm2m_core::lwm2m::content_format::ContentFormat;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::{ResultLabel, counter, counters};

use super::bootstrap::BootstrapMetrics;
use super::commands::CommandMetrics;
use super::datagrams::DatagramCounters;
use super::dtls::DtlsMetrics;
use super::firmware::{CampaignMetrics, FirmwareMetrics};
use super::labels::{CodeLabel, FormatLabel, OutcomeLabel, ReasonLabel};

/// Counts the reports of the core, each report in exactly one counter.
#[derive(Debug)]
pub struct CoreMetrics {
    datagrams: DatagramCounters,
    retransmissions: Counter,
    deduplication_evictions: Counter,
    registrations: Counter,
    rejections: RejectionCounters,
    updates: Counter,
    forbidden: ForbiddenCounters,
    dtls: DtlsMetrics,
    bootstrap: BootstrapMetrics,
    restored: Counter,
    not_restored: NotRestoredCounters,
    address_changes: Counter,
    ended: EndCounters,
    commands: CommandMetrics,
    notifications: NotificationCounters,
    sends: SendCounters,
    auto_observe_skipped: Counter,
    auto_observe_splits: Counter,
    firmware: FirmwareMetrics,
    campaigns: CampaignMetrics,
    format_fallbacks: FormatFallbackCounters,
    undecodable_payloads: Counter,
    malformed_link_lists: Counter,
    undefined_objects: Counter,
    profiles_evicted: Counter,
    sent_before_stored: Counter,
    transfers_failed: TransferFailureCounters,
    publications_refused: Counter,
}

impl CoreMetrics {
    /// Registers the metrics, every series with the value 0.
    pub fn register(registry: &mut Registry) -> Self {
        let evictions = "Deduplication entries evicted early because the table was full";
        let skipped = "Paths that auto_observe skipped because the device has limits.observations observations";
        let splits = "Composite observations of auto_observe that the device did not accept";
        let links = "Link lists of devices with malformed parts, which were ignored";
        let undefined = "Objects that devices announced in a version without definition";
        let evicted = "Object lists by profile ID evicted because there were limits.profiles of them";
        let refused = "Publications that the broker did not authorize";
        let unstored = "Messages sent before their record was stored: the store took longer than store.patience, or was \
                        unavailable";
        Self {
            datagrams: DatagramCounters::register(registry),
            retransmissions: counter(registry, "lwm2m_retransmissions", "Retransmitted confirmable CoAP messages"),
            deduplication_evictions: counter(registry, "lwm2m_deduplication_evictions", evictions),
            registrations: counter(registry, "lwm2m_registrations", "Accepted registrations"),
            rejections: RejectionCounters::register(registry),
            updates: counter(registry, "lwm2m_updates", "Registration updates"),
            forbidden: ForbiddenCounters::register(registry),
            dtls: DtlsMetrics::register(registry),
            bootstrap: BootstrapMetrics::register(registry),
            restored: counter(registry, "lwm2m_devices_restored", "Devices restored after a restart"),
            not_restored: NotRestoredCounters::register(registry),
            address_changes: counter(registry, "lwm2m_address_changes", "Address changes of registered devices"),
            ended: EndCounters::register(registry),
            commands: CommandMetrics::register(registry),
            notifications: NotificationCounters::register(registry),
            sends: SendCounters::register(registry),
            auto_observe_skipped: counter(registry, "lwm2m_auto_observe_paths_skipped", skipped),
            auto_observe_splits: counter(registry, "lwm2m_auto_observe_composite_rejections", splits),
            firmware: FirmwareMetrics::register(registry),
            campaigns: CampaignMetrics::register(registry),
            format_fallbacks: FormatFallbackCounters::register(registry),
            undecodable_payloads: counter(registry, "lwm2m_undecodable_payloads", "Undecodable payloads from devices"),
            malformed_link_lists: counter(registry, "lwm2m_malformed_link_lists", links),
            undefined_objects: counter(registry, "lwm2m_undefined_objects", undefined),
            profiles_evicted: counter(registry, "lwm2m_profile_evictions", evicted),
            sent_before_stored: counter(registry, "lwm2m_store_waits_missed", unstored),
            transfers_failed: TransferFailureCounters::register(registry),
            publications_refused: counter(registry, "lwm2m_publications_refused", refused),
        }
    }

    /// Returns the counts of this thread's core from which the console makes its rates.
    #[cfg(feature = "console")]
    pub(super) fn activity(&self) -> super::ActivityCounts {
        let (commands, commands_timed_out) = self.commands.totals();
        let (handshakes, handshakes_failed) = self.dtls.handshake_totals();
        super::ActivityCounts {
            registrations: self.registrations.get(),
            updates: self.updates.get(),
            notifications: self.notifications.total(),
            commands,
            commands_timed_out,
            handshakes,
            handshakes_failed,
            ..super::ActivityCounts::default()
        }
    }

    /// Counts a report in exactly one counter.
    pub fn record(&self, report: &Report) {
        let counter = match report {
            Report::Datagram { outcome, .. } => self.datagrams.of(*outcome),
            Report::Retransmitted { .. } => &self.retransmissions,
            Report::DuplicateForgotten { .. } => &self.deduplication_evictions,
            Report::Registered { .. } => &self.registrations,
            Report::RegisterRejected { code, .. } => self.rejections.of(*code),
            Report::Updated { .. } => &self.updates,
            Report::Forbidden { reason, .. } => self.forbidden.of(*reason),
            Report::AssociationClosed { reason, .. } => self.dtls.closed(*reason),
            Report::Dtls(report) => self.dtls.of(report),
            Report::Bootstrap(report) => self.bootstrap.of(report),
            Report::Restored { .. } => &self.restored,
            Report::NotRestored { reason, .. } => self.not_restored.of(*reason),
            Report::Moved { .. } => &self.address_changes,
            Report::Left { reason, .. } => self.ended.of(*reason),
            Report::Command { msg_type, outcome, took, .. } => return self.commands.record(msg_type, *outcome, *took),
            // The command is counted when it is completed.
            Report::CommandProgress { .. } => return,
            Report::Notification { outcome, .. } => self.notifications.of(*outcome),
            Report::Send { code, .. } => self.sends.of(*code),
            Report::AutoObserveCut { paths, .. } => {
                self.auto_observe_skipped.inc_by(*paths as u64);
                return;
            }
            Report::AutoObserveSplit { .. } => &self.auto_observe_splits,
            Report::FirmwareUpdate { status, .. } => self.firmware.of(status),
            Report::Campaign(report) => self.campaigns.of(report),
            Report::FirmwareJobsFull { .. } => &self.firmware.refused,
            Report::FormatRejected { format, .. } => self.format_fallbacks.of(*format),
            Report::UndecodableContent { .. } => &self.undecodable_payloads,
            Report::LinksLeftOut { .. } => &self.malformed_link_lists,
            Report::UndefinedVersions { versions, .. } => {
                self.undefined_objects.inc_by(versions.len() as u64);
                return;
            }
            Report::ProfilesEvicted { profiles } => {
                self.profiles_evicted.inc_by(*profiles as u64);
                return;
            }
            Report::SentBeforeStored { outputs } => {
                self.sent_before_stored.inc_by(*outputs as u64);
                return;
            }
            Report::TransferFailed { error, .. } => self.transfers_failed.of(*error),
            Report::PublishRefused { .. } => &self.publications_refused,
        };
        counter.inc();
    }
}

/// Rejected registrations: by the codes that this program gives, and all others together.
#[derive(Debug)]
struct RejectionCounters {
    bad_request: Counter,
    bad_option: Counter,
    forbidden: Counter,
    precondition_failed: Counter,
    too_large: Counter,
    unsupported_content_format: Counter,
    too_many_requests: Counter,
    service_unavailable: Counter,
    other: Counter,
}

impl RejectionCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_registrations_rejected", "Rejected registrations by response code");
        let code = |code| counters(CodeLabel { code });
        Self {
            bad_request: code("4.00"),
            bad_option: code("4.02"),
            forbidden: code("4.03"),
            precondition_failed: code("4.12"),
            too_large: code("4.13"),
            unsupported_content_format: code("4.15"),
            too_many_requests: code("4.29"),
            service_unavailable: code("5.03"),
            other: code("other"),
        }
    }

    fn of(&self, code: Code) -> &Counter {
        match code {
            Code::BAD_REQUEST => &self.bad_request,
            Code::BAD_OPTION => &self.bad_option,
            Code::FORBIDDEN => &self.forbidden,
            Code::PRECONDITION_FAILED => &self.precondition_failed,
            Code::REQUEST_ENTITY_TOO_LARGE => &self.too_large,
            Code::UNSUPPORTED_CONTENT_FORMAT => &self.unsupported_content_format,
            Code::TOO_MANY_REQUESTS => &self.too_many_requests,
            Code::SERVICE_UNAVAILABLE => &self.service_unavailable,
            _ => &self.other,
        }
    }
}

#[derive(Debug)]
struct ForbiddenCounters {
    other_name: Counter,
    other_identity: Counter,
    unsecured: Counter,
    has_key: Counter,
    bootstrap_only: Counter,
}

impl ForbiddenCounters {
    fn register(registry: &mut Registry) -> Self {
        let help = "Requests answered 4.03 because of the identity of the device, by reason";
        let counters = counters(registry, "lwm2m_forbidden_requests", help);
        let reason = |reason| counters(ReasonLabel { reason });
        Self {
            other_name: reason("other_name"),
            other_identity: reason("other_identity"),
            unsecured: reason("unsecured"),
            has_key: reason("has_key"),
            bootstrap_only: reason("bootstrap_only"),
        }
    }

    fn of(&self, reason: Forbidden) -> &Counter {
        match reason {
            Forbidden::OtherName => &self.other_name,
            Forbidden::OtherIdentity => &self.other_identity,
            Forbidden::Unsecured => &self.unsecured,
            Forbidden::HasKey => &self.has_key,
            Forbidden::BootstrapOnly => &self.bootstrap_only,
        }
    }
}

#[derive(Debug)]
struct NotRestoredCounters {
    lifetime_expired: Counter,
    invalid_topics: Counter,
    device_limit: Counter,
    too_large: Counter,
}

impl NotRestoredCounters {
    fn register(registry: &mut Registry) -> Self {
        let help = "Devices not restored after a restart, by reason";
        let counters = counters(registry, "lwm2m_devices_not_restored", help);
        let reason = |reason| counters(ReasonLabel { reason });
        Self {
            lifetime_expired: reason("lifetime_expired"),
            invalid_topics: reason("invalid_topics"),
            device_limit: reason("device_limit"),
            too_large: reason("too_large"),
        }
    }

    fn of(&self, reason: NotRestored) -> &Counter {
        match reason {
            NotRestored::LifetimeOver => &self.lifetime_expired,
            NotRestored::NoTopics => &self.invalid_topics,
            NotRestored::TooMany => &self.device_limit,
            NotRestored::TooLarge => &self.too_large,
        }
    }
}

#[derive(Debug)]
struct EndCounters {
    deregistered: Counter,
    lifetime_expired: Counter,
    replaced: Counter,
    evicted: Counter,
    operator: Counter,
    kicked: Counter,
    discarded: Counter,
    expired: Counter,
    refused: Counter,
}

impl EndCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_registrations_ended", "Ended registrations by reason");
        let reason = |reason| counters(ReasonLabel { reason });
        Self {
            deregistered: reason("deregistered"),
            lifetime_expired: reason("lifetime_expired"),
            replaced: reason("replaced"),
            evicted: reason("evicted"),
            operator: reason("operator"),
            kicked: reason("kicked"),
            discarded: reason("discarded"),
            expired: reason("expired"),
            refused: reason("refused"),
        }
    }

    fn of(&self, reason: LeaveReason) -> &Counter {
        match reason {
            LeaveReason::Deregistered => &self.deregistered,
            LeaveReason::LifetimeOver => &self.lifetime_expired,
            LeaveReason::Replaced => &self.replaced,
            LeaveReason::Evicted => &self.evicted,
            LeaveReason::Operator => &self.operator,
            LeaveReason::Broker(CloseReason::Kicked) => &self.kicked,
            LeaveReason::Broker(CloseReason::Discarded) => &self.discarded,
            LeaveReason::Broker(CloseReason::Expired) => &self.expired,
            LeaveReason::Broker(CloseReason::Refused) => &self.refused,
        }
    }
}

#[derive(Debug)]
struct NotificationCounters {
    published: Counter,
    ended: Counter,
    superseded: Counter,
}

impl NotificationCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_notifications", "Notifications of observations by outcome");
        let outcome = |outcome| counters(OutcomeLabel { outcome });
        Self { published: outcome("published"), ended: outcome("ended"), superseded: outcome("superseded") }
    }

    fn of(&self, outcome: NotificationOutcome) -> &Counter {
        match outcome {
            NotificationOutcome::Published => &self.published,
            NotificationOutcome::Ended => &self.ended,
            NotificationOutcome::Superseded => &self.superseded,
        }
    }

    /// Returns the number of notifications with any outcome.
    #[cfg(feature = "console")]
    fn total(&self) -> u64 {
        let Self { published, ended, superseded } = self;
        [published, ended, superseded].into_iter().map(Counter::get).sum()
    }
}

/// Requests to the Send resource, by whether their values were published.
#[derive(Debug)]
struct SendCounters {
    published: Counter,
    refused: Counter,
}

impl SendCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_sends", "Sends of devices by result");
        let result = |result| counters(ResultLabel { result });
        Self { published: result("published"), refused: result("refused") }
    }

    fn of(&self, code: Code) -> &Counter {
        if code.is_success() { &self.published } else { &self.refused }
    }
}

/// Requests that were repeated in another content format, by the rejected one.
#[derive(Debug)]
struct FormatFallbackCounters([Counter; ContentFormat::ALL.len()]);

impl FormatFallbackCounters {
    fn register(registry: &mut Registry) -> Self {
        let help = "Requests repeated in another content format, by the format that the device rejected";
        let counters = counters(registry, "lwm2m_format_fallbacks", help);
        Self(ContentFormat::ALL.map(|format| counters(FormatLabel { format: format.name() })))
    }

    fn of(&self, format: ContentFormat) -> &Counter {
        &self.0[format as usize]
    }
}

#[derive(Debug)]
struct TransferFailureCounters {
    malformed: Counter,
    out_of_order: Counter,
    changed: Counter,
    too_large: Counter,
    too_many: Counter,
    no_room: Counter,
    evicted: Counter,
    unfinished: Counter,
    superseded: Counter,
}

impl TransferFailureCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_transfers_failed", "Failed block-wise transfers by reason");
        let reason = |reason| counters(ReasonLabel { reason });
        Self {
            malformed: reason("malformed"),
            out_of_order: reason("out_of_order"),
            changed: reason("changed"),
            too_large: reason("too_large"),
            too_many: reason("too_many"),
            no_room: reason("no_room"),
            evicted: reason("evicted"),
            unfinished: reason("unfinished"),
            superseded: reason("superseded"),
        }
    }

    fn of(&self, error: BlockError) -> &Counter {
        match error {
            BlockError::Malformed => &self.malformed,
            BlockError::OutOfOrder => &self.out_of_order,
            BlockError::Changed => &self.changed,
            BlockError::TooLarge => &self.too_large,
            BlockError::TooMany => &self.too_many,
            BlockError::NoRoom => &self.no_room,
            BlockError::Evicted => &self.evicted,
            BlockError::Unfinished => &self.unfinished,
            BlockError::Superseded => &self.superseded,
        }
    }
}
