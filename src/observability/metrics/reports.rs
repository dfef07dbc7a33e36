//! The counters of what the core reports.

use std::marker::PhantomData;

use lwm2m_core::coap::{BlockError, Code, DecodeError};
use lwm2m_core::gateway::broker::CloseReason;
use lwm2m_core::gateway::report::{
    CommandOutcome, DropReason, Forbidden, LeaveReason, NotRestored, NotificationOutcome, Report, Verdict,
};
use lwm2m_core::mqtt::downlink::MSG_TYPES;

use super::dtls::DtlsMetrics;
use super::{Counter, Sample, sample};

/// What the core reports.
#[derive(Debug, Default)]
pub struct CoreMetrics {
    datagrams: Counters<Verdict>,
    retransmissions: Counter,
    duplicates_forgotten: Counter,
    registrations: Counter,
    registrations_rejected: Counters<Rejection>,
    updates: Counter,
    forbidden: Counters<Forbidden>,
    dtls: DtlsMetrics,
    restored: Counter,
    not_restored: Counters<NotRestored>,
    moves: Counter,
    departures: Counters<LeaveReason>,
    commands: CommandCounters,
    notifications: Counters<NotificationOutcome>,
    auto_observe_cut: Counter,
    undecodable_contents: Counter,
    links_left_out: Counter,
    transfers_failed: Counters<BlockError>,
    publications_refused: Counter,
}

impl CoreMetrics {
    /// Counts a report in exactly one counter.
    pub fn record(&self, report: &Report) {
        match report {
            Report::Datagram { verdict, .. } => self.datagrams.increment(*verdict),
            Report::Retransmitted { .. } => self.retransmissions.increment(),
            Report::DuplicateForgotten { .. } => self.duplicates_forgotten.increment(),
            Report::Registered { .. } => self.registrations.increment(),
            Report::RegisterRejected { code, .. } => self.registrations_rejected.increment(Rejection::of(*code)),
            Report::Updated { .. } => self.updates.increment(),
            Report::Forbidden { reason, .. } => self.forbidden.increment(*reason),
            Report::AssociationClosed { reason, .. } => self.dtls.closed(*reason),
            Report::Dtls(report) => self.dtls.record(report),
            Report::Restored { .. } => self.restored.increment(),
            Report::NotRestored { reason, .. } => self.not_restored.increment(*reason),
            Report::Moved { .. } => self.moves.increment(),
            Report::Left { reason, .. } => self.departures.increment(*reason),
            Report::Command { msg_type, outcome, .. } => self.commands.of(msg_type).increment(*outcome),
            Report::Notification { outcome, .. } => self.notifications.increment(*outcome),
            Report::AutoObserveCut { paths, .. } => self.auto_observe_cut.add(*paths as u64),
            Report::UndecodableContent { .. } => self.undecodable_contents.increment(),
            Report::LinksLeftOut { .. } => self.links_left_out.increment(),
            Report::TransferFailed { error, .. } => self.transfers_failed.increment(*error),
            Report::PublishRefused { .. } => self.publications_refused.increment(),
        }
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        [
            self.datagrams.samples(
                "lwm2m_datagrams_total",
                "Messages from devices, each counted once: a datagram over plain UDP.",
            ),
            alone("lwm2m_retransmissions_total", "Confirmable messages sent once more.", &self.retransmissions),
            alone(
                "lwm2m_duplicates_forgotten_total",
                "Messages of devices that were forgotten early for want of room: a duplicate of them passes for new.",
                &self.duplicates_forgotten,
            ),
            alone("lwm2m_registrations_total", "Devices that registered.", &self.registrations),
            self.registrations_rejected
                .samples("lwm2m_registrations_rejected_total", "Registers answered with an error."),
            alone("lwm2m_updates_total", "Updates of registrations.", &self.updates),
            self.forbidden.samples(
                "lwm2m_forbidden_total",
                "Requests from a device with another identity than the registration is for, answered 4.03.",
            ),
            self.dtls.samples(),
            alone("lwm2m_restored_total", "Devices of before a restart that were taken up again.", &self.restored),
            self.not_restored
                .samples("lwm2m_not_restored_total", "Devices of before a restart that were not taken up again."),
            alone("lwm2m_moves_total", "Devices that came from another address.", &self.moves),
            self.departures.samples("lwm2m_departures_total", "Registrations that ended."),
            self.commands.samples("lwm2m_commands_total", "Commands that came to their end, by kind and outcome."),
            self.notifications.samples("lwm2m_notifications_total", "Notifications of observations."),
            alone(
                "lwm2m_auto_observe_left_out_total",
                "Paths that auto_observe left out: more than a device may have observations.",
                &self.auto_observe_cut,
            ),
            alone(
                "lwm2m_undecodable_contents_total",
                "Payloads of devices that could not be understood.",
                &self.undecodable_contents,
            ),
            alone(
                "lwm2m_links_left_out_total",
                "Link lists of which a part could not be understood; the rest was taken.",
                &self.links_left_out,
            ),
            self.transfers_failed.samples("lwm2m_transfers_failed_total", "Block-wise transfers that came to nothing."),
            alone(
                "lwm2m_publications_refused_total",
                "Publications that the broker did not allow.",
                &self.publications_refused,
            ),
        ]
        .concat()
    }
}

/// The commands, by their kind and what became of them.
#[derive(Debug, Default)]
struct CommandCounters {
    by_type: [Counters<CommandOutcome>; MSG_TYPES.len()],
    /// Those that could not be read.
    unread: Counters<CommandOutcome>,
}

impl CommandCounters {
    fn of(&self, msg_type: &str) -> &Counters<CommandOutcome> {
        MSG_TYPES.iter().position(|known| *known == msg_type).map_or(&self.unread, |index| &self.by_type[index])
    }

    fn samples(&self, name: &'static str, meaning: &'static str) -> Vec<Sample> {
        let by_type = MSG_TYPES.iter().zip(&self.by_type).chain([(&"error", &self.unread)]);
        let labelled = |(msg_type, counters): (&&str, &Counters<CommandOutcome>)| {
            let mut samples = counters.samples(name, meaning);
            for sample in &mut samples {
                sample.labels = format!("type=\"{msg_type}\",{}", sample.labels).into();
            }
            samples
        };
        by_type.flat_map(labelled).collect()
    }
}

/// How a Register was refused: the codes that this program gives, and all others together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejection {
    BadRequest,
    BadOption,
    Forbidden,
    PreconditionFailed,
    TooLarge,
    UnsupportedContentFormat,
    TooManyRequests,
    ServiceUnavailable,
    Other,
}

impl Rejection {
    fn of(code: Code) -> Self {
        match code {
            Code::BAD_REQUEST => Self::BadRequest,
            Code::BAD_OPTION => Self::BadOption,
            Code::FORBIDDEN => Self::Forbidden,
            Code::PRECONDITION_FAILED => Self::PreconditionFailed,
            Code::REQUEST_ENTITY_TOO_LARGE => Self::TooLarge,
            Code::UNSUPPORTED_CONTENT_FORMAT => Self::UnsupportedContentFormat,
            Code::TOO_MANY_REQUESTS => Self::TooManyRequests,
            Code::SERVICE_UNAVAILABLE => Self::ServiceUnavailable,
            _ => Self::Other,
        }
    }
}

/// What a counter is split by.
pub(super) trait Label: Copy + PartialEq + 'static {
    /// Every value there is.
    const ALL: &'static [Self];

    fn labels(self) -> &'static str;
}

/// One counter for each value of `L`.
#[derive(Debug)]
pub(super) struct Counters<L> {
    counters: Vec<Counter>,
    label: PhantomData<L>,
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Self {
        Self { counters: L::ALL.iter().map(|_| Counter::default()).collect(), label: PhantomData }
    }
}

impl<L: Label> Counters<L> {
    pub fn increment(&self, value: L) {
        let counter = L::ALL.iter().zip(&self.counters).find(|(label, _)| **label == value);
        let (_, counter) = counter.expect("ALL has every value, by the macro that writes it");
        counter.increment();
    }

    pub fn samples(&self, name: &'static str, meaning: &'static str) -> Vec<Sample> {
        let labelled = L::ALL.iter().zip(&self.counters);
        labelled.map(|(label, counter)| sample(name, meaning, label.labels(), counter)).collect()
    }
}

/// A counter that has its name for itself.
pub(super) fn alone(name: &'static str, meaning: &'static str, counter: &Counter) -> Vec<Sample> {
    vec![sample(name, meaning, "", counter)]
}

/// Writes the list and the `match` from the same lines, so that the compiler finds a value that is in neither.
macro_rules! labels {
    ($type:ty { $($value:tt => $labels:literal,)* }) => {
        impl Label for $type {
            const ALL: &'static [Self] = &[$($value),*];

            #[expect(unused_parens, reason = "the parentheses make one token tree of a value")]
            fn labels(self) -> &'static str {
                match self {
                    $($value => $labels,)*
                }
            }
        }
    };
}

pub(super) use labels;

labels!(Verdict {
    (Verdict::Request) => r#"verdict="request""#,
    (Verdict::Response) => r#"verdict="response""#,
    (Verdict::Notification) => r#"verdict="notification""#,
    (Verdict::Acknowledgement) => r#"verdict="acknowledgement""#,
    (Verdict::Reset) => r#"verdict="reset""#,
    (Verdict::Ping) => r#"verdict="ping""#,
    (Verdict::Duplicate) => r#"verdict="duplicate""#,
    (Verdict::Refused) => r#"verdict="refused""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::TooShort))) => r#"verdict="dropped",reason="too_short""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::Version))) => r#"verdict="dropped",reason="version""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::TokenLength))) => r#"verdict="dropped",reason="token_length""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::NonEmptyEmpty))) => r#"verdict="dropped",reason="non_empty_empty""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::EmptyPayload))) => r#"verdict="dropped",reason="empty_payload""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::ReservedClass))) => r#"verdict="dropped",reason="reserved_class""#,
    (Verdict::Dropped(DropReason::NoMessage(DecodeError::Malformed))) => r#"verdict="dropped",reason="malformed""#,
    (Verdict::Dropped(DropReason::Unexpected)) => r#"verdict="dropped",reason="unexpected""#,
    (Verdict::Dropped(DropReason::StaleNotification)) => r#"verdict="dropped",reason="stale_notification""#,
    (Verdict::Dropped(DropReason::Senseless)) => r#"verdict="dropped",reason="senseless""#,
    (Verdict::Dropped(DropReason::CriticalOption)) => r#"verdict="dropped",reason="critical_option""#,
    (Verdict::Dropped(DropReason::TooManyRequests)) => r#"verdict="dropped",reason="too_many_requests""#,
    (Verdict::Dropped(DropReason::RateLimited)) => r#"verdict="dropped",reason="rate_limited""#,
    (Verdict::Dropped(DropReason::DeviceRateLimited)) => r#"verdict="dropped",reason="device_rate_limited""#,
});

labels!(BlockError {
    (BlockError::Malformed) => r#"reason="malformed""#,
    (BlockError::OutOfOrder) => r#"reason="out_of_order""#,
    (BlockError::Changed) => r#"reason="changed""#,
    (BlockError::TooLarge) => r#"reason="too_large""#,
    (BlockError::TooMany) => r#"reason="too_many""#,
    (BlockError::NoRoom) => r#"reason="no_room""#,
    (BlockError::Evicted) => r#"reason="evicted""#,
    (BlockError::Unfinished) => r#"reason="unfinished""#,
    (BlockError::Superseded) => r#"reason="superseded""#,
});

labels!(Rejection {
    (Rejection::BadRequest) => r#"code="4.00""#,
    (Rejection::BadOption) => r#"code="4.02""#,
    (Rejection::Forbidden) => r#"code="4.03""#,
    (Rejection::PreconditionFailed) => r#"code="4.12""#,
    (Rejection::TooLarge) => r#"code="4.13""#,
    (Rejection::UnsupportedContentFormat) => r#"code="4.15""#,
    (Rejection::TooManyRequests) => r#"code="4.29""#,
    (Rejection::ServiceUnavailable) => r#"code="5.03""#,
    (Rejection::Other) => r#"code="other""#,
});

labels!(Forbidden {
    (Forbidden::OtherName) => r#"reason="other_name""#,
    (Forbidden::OtherIdentity) => r#"reason="other_identity""#,
    (Forbidden::Unsecured) => r#"reason="unsecured""#,
    (Forbidden::HasKey) => r#"reason="has_key""#,
});

labels!(LeaveReason {
    (LeaveReason::Deregistered) => r#"reason="deregistered""#,
    (LeaveReason::LifetimeOver) => r#"reason="lifetime_over""#,
    (LeaveReason::Replaced) => r#"reason="replaced""#,
    (LeaveReason::Evicted) => r#"reason="evicted""#,
    (LeaveReason::Broker(CloseReason::Kicked)) => r#"reason="kicked""#,
    (LeaveReason::Broker(CloseReason::Discarded)) => r#"reason="discarded""#,
    (LeaveReason::Broker(CloseReason::Expired)) => r#"reason="expired""#,
    (LeaveReason::Broker(CloseReason::Refused)) => r#"reason="refused""#,
});

labels!(NotRestored {
    (NotRestored::LifetimeOver) => r#"reason="lifetime_over""#,
    (NotRestored::NoTopics) => r#"reason="no_topics""#,
    (NotRestored::TooMany) => r#"reason="too_many""#,
    (NotRestored::TooLarge) => r#"reason="too_large""#,
});

labels!(CommandOutcome {
    (CommandOutcome::Answered) => r#"outcome="answered""#,
    (CommandOutcome::Reset) => r#"outcome="reset""#,
    (CommandOutcome::TimedOut) => r#"outcome="timed_out""#,
    (CommandOutcome::Refused) => r#"outcome="refused""#,
    (CommandOutcome::Expired) => r#"outcome="expired""#,
    (CommandOutcome::QueueFull) => r#"outcome="queue_full""#,
    (CommandOutcome::DuplicateRetained) => r#"outcome="obeyed_before""#,
    (CommandOutcome::TransferFailed) => r#"outcome="transfer_failed""#,
    (CommandOutcome::MalformedAnswer) => r#"outcome="malformed_answer""#,
});

labels!(NotificationOutcome {
    (NotificationOutcome::Published) => r#"outcome="published""#,
    (NotificationOutcome::Ended) => r#"outcome="ended""#,
    (NotificationOutcome::Superseded) => r#"outcome="superseded""#,
});

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use lwm2m_base::Peer;

    #[test]
    fn every_report_counts_in_exactly_one_counter_of_its_own() {
        let metrics = CoreMetrics::default();
        let reports = reports();
        for (report, index) in reports.iter().zip(1..) {
            metrics.record(report);
            let counted: u64 = metrics.samples().iter().map(|sample| sample.value).sum();
            assert_eq!(counted, index, "{report:?}");
        }
        // Those of DTLS are in a test of their own.
        let untouched = |sample: &Sample| sample.value != 1 && !sample.name.starts_with("lwm2m_dtls_");
        let untouched: Vec<_> = metrics.samples().into_iter().filter(untouched).collect();
        assert_eq!(untouched, []);
    }

    #[test]
    fn a_dropped_datagram_is_counted_by_its_reason() {
        let metrics = CoreMetrics::default();
        let verdict = Verdict::Dropped(DropReason::NoMessage(DecodeError::Version));
        metrics.record(&Report::Datagram { peer: peer(), verdict });
        let counted: Vec<_> = metrics.samples().into_iter().filter(|sample| sample.value != 0).collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].name, "lwm2m_datagrams_total");
        assert_eq!(counted[0].labels, r#"verdict="dropped",reason="version""#);
    }

    /// One report for every counter of the core.
    fn reports() -> Vec<Report> {
        let endpoint = || "urn:imei:1".to_owned();
        let codes = [(4, 0), (4, 2), (4, 3), (4, 12), (4, 13), (4, 15), (4, 29), (5, 3), (5, 0)]
            .map(|(class, detail)| Code::of(class, detail));
        let datagrams = Verdict::ALL.iter().map(|&verdict| Report::Datagram { peer: peer(), verdict });
        let rejections = codes.into_iter().map(|code| Report::RegisterRejected {
            peer: peer(),
            endpoint: None,
            code,
            reason: String::new(),
        });
        let departures = LeaveReason::ALL.iter().map(|&reason| Report::Left { endpoint: endpoint(), reason });
        let kinds = MSG_TYPES.iter().copied().chain(["error"]);
        let outcomes = kinds.flat_map(|msg_type| CommandOutcome::ALL.iter().map(move |&outcome| (msg_type, outcome)));
        let commands =
            outcomes.map(|(msg_type, outcome)| Report::Command { endpoint: endpoint(), msg_type, outcome, took: None });
        let notifications =
            NotificationOutcome::ALL.iter().map(|&outcome| Report::Notification { endpoint: endpoint(), outcome });
        let transfers = BlockError::ALL.iter().map(|&error| Report::TransferFailed { peer: peer(), error });
        let not_restored = NotRestored::ALL.iter().map(|&reason| Report::NotRestored { endpoint: endpoint(), reason });
        let forbidden = Forbidden::ALL.iter().map(|&reason| Report::Forbidden {
            endpoint: endpoint(),
            peer: peer(),
            identity: None,
            reason,
        });
        let single = [
            Report::Retransmitted { peer: peer() },
            Report::DuplicateForgotten { peer: peer() },
            Report::AutoObserveCut { endpoint: endpoint(), paths: 1 },
            Report::Registered { endpoint: endpoint(), peer: peer(), lifetime: Duration::from_secs(300) },
            Report::Updated { endpoint: endpoint() },
            Report::Restored { endpoint: endpoint(), peer: peer() },
            Report::Moved { endpoint: endpoint(), from: peer(), to: peer() },
            Report::UndecodableContent { endpoint: endpoint(), path: "/3/0".to_owned(), reason: String::new() },
            Report::LinksLeftOut { endpoint: endpoint(), reason: String::new(), first: true },
            Report::PublishRefused { endpoint: endpoint(), topic: "up/resp".to_owned(), first: true },
        ];
        datagrams
            .chain(rejections)
            .chain(forbidden)
            .chain(departures)
            .chain(not_restored)
            .chain(commands)
            .chain(notifications)
            .chain(transfers)
            .chain(single)
            .collect()
    }

    fn peer() -> Peer {
        Peer::udp(0, ([192, 0, 2, 1], 56830).into())
    }
}
