use std::collections::BTreeMap;
use std::time::Duration;

use lwm2m_base::identity::PskIdentity;
use lwm2m_base::{AssociationId, Peer};
use lwm2m_core::coap::{BlockError, Code, MessageDecodeError};
use lwm2m_core::command::MSG_TYPES;
use lwm2m_core::command::firmware::{JobLabel, JobStatus, Phase, UpdateError};
use lwm2m_core::gateway::broker;
use lwm2m_core::gateway::firmware::campaign::CampaignStatus;
use lwm2m_core::gateway::firmware::campaign::member::MemberOutcome;
use lwm2m_core::gateway::firmware::campaign::view::Counts;
use lwm2m_core::gateway::report::{
    CampaignReport, CommandOutcome, DatagramOutcome, DropReason, Forbidden, LeaveReason, NotRestored,
    NotificationOutcome,
};
use lwm2m_core::lwm2m::content_format::ContentFormat;
use lwm2m_core::lwm2m::model::{UndefinedVersion, Version};
use lwm2m_dtls as dtls;
use lwm2m_dtls::HandshakeFailure;
use lwm2m_dtls::cipher::Suite;
use lwm2m_dtls::handshake::{CertificateFault, HandshakeError};
use prometheus_client::encoding::text;

use super::*;

#[test]
fn every_report_counts_in_exactly_one_counter_of_its_own() {
    let metrics = Metrics::default();
    let before = series(&metrics);
    for (report, index) in core_reports().iter().chain(&dtls_reports()).chain(&bootstrap_reports()).zip(1..) {
        metrics.record(report);
        let counted: u64 = counters(&metrics).values().sum();
        assert_eq!(counted, index, "{report:?}");
    }
    // A counter of the core that stays at 0 has no report above.
    let of_the_core = |name: &str| {
        let others = ["socket_", "broker_", "clients_", "node_", "authentications_", "subscriptions_", "publishes_"];
        let others = others.iter().chain(&[
            "publications_dropped",
            "unknown_tokens",
            "store_",
            "psk_",
            "admin_",
            "console_",
            "failures_",
            "image_",
            "reloads",
            "thread_",
            "shard_moves",
            "endpoint_moves",
            "forward",
            "peers_",
            "terms",
        ]);
        !others.into_iter().any(|other| name.starts_with(&format!("lwm2m_{other}")))
    };
    let untouched: Vec<_> =
        counters(&metrics).into_iter().filter(|(name, value)| of_the_core(name) && *value != 1).collect();
    assert_eq!(untouched, []);
    assert_eq!(series(&metrics), before, "every series is there from the start");
}

#[test]
fn a_dropped_datagram_is_counted_by_its_reason() {
    let metrics = Metrics::default();
    let outcome = DatagramOutcome::Dropped(DropReason::NoMessage(MessageDecodeError::Version));
    metrics.record(&Report::Datagram { peer: peer(), outcome });
    let expected = r#"lwm2m_datagrams_total{outcome="dropped",reason="version"}"#;
    assert_eq!(counted(&metrics), [(expected.to_owned(), 1)]);
}

#[test]
fn the_time_of_a_command_is_measured() {
    let metrics = Metrics::default();
    let took = Some(Duration::from_millis(300));
    let (endpoint, outcome) = ("urn:imei:1".to_owned(), CommandOutcome::Answered);
    metrics.record(&Report::Command { endpoint, msg_type: "read", outcome, took, unanswered: None });
    let page = page(&metrics);
    assert!(page.contains("\nlwm2m_exchange_seconds_bucket{le=\"0.25\"} 0\n"), "{page}");
    assert!(page.contains("\nlwm2m_exchange_seconds_bucket{le=\"0.5\"} 1\n"), "{page}");
}

#[test]
fn names_and_labels_are_those_of_the_exposition_format() {
    for name in counters(&Metrics::default()).into_keys() {
        let (name, labels) = name.split_once('{').unwrap_or((&name, "}"));
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'2');
        assert!(plain && name.starts_with("lwm2m_") && name.ends_with("_total"), "{name}");
        let pairs = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (label, value) = pair.split_once('=').unwrap();
            assert!(label.bytes().all(|byte| byte.is_ascii_lowercase()), "{name}{{{labels}");
            assert!(value.len() > 2 && value.starts_with('"') && value.ends_with('"'), "{name}{{{labels}");
        }
    }
}

#[test]
fn every_name_has_one_help_text() {
    let page = page(&Metrics::default());
    let names: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn a_counter_shows_in_its_own_series() {
    let metrics = Metrics::default();
    metrics.upstream.publishes_refused.inc_by(3);
    metrics.transport.send_errors.inc();
    let expected = [
        (r#"lwm2m_publishes_total{result="refused"}"#.to_owned(), 3),
        (r#"lwm2m_socket_errors_total{direction="out"}"#.to_owned(), 1),
    ];
    assert_eq!(counted(&metrics), expected);
}

/// Returns one report for every counter of the core except those of DTLS.
fn core_reports() -> Vec<Report> {
    let endpoint = || "urn:imei:1".to_owned();
    let codes = [(4, 0), (4, 2), (4, 3), (4, 12), (4, 13), (4, 15), (4, 29), (5, 3), (5, 0)]
        .map(|(class, detail)| Code::of(class, detail));
    let datagrams = datagram_outcomes().into_iter().map(|outcome| Report::Datagram { peer: peer(), outcome });
    let rejections = codes.into_iter().map(|code| Report::RegisterRejected {
        peer: peer(),
        endpoint: None,
        code,
        reason: String::new(),
    });
    let departures = [
        LeaveReason::Deregistered,
        LeaveReason::LifetimeOver,
        LeaveReason::Replaced,
        LeaveReason::Evicted,
        LeaveReason::Operator,
        LeaveReason::Broker(broker::CloseReason::Kicked),
        LeaveReason::Broker(broker::CloseReason::Discarded),
        LeaveReason::Broker(broker::CloseReason::Expired),
        LeaveReason::Broker(broker::CloseReason::Refused),
    ]
    .map(|reason| Report::Left { endpoint: endpoint(), reason });
    let outcomes = [
        CommandOutcome::Answered,
        CommandOutcome::Reset,
        CommandOutcome::TimedOut,
        CommandOutcome::Refused,
        CommandOutcome::Expired,
        CommandOutcome::QueueFull,
        CommandOutcome::Withdrawn,
        CommandOutcome::DuplicateRetained,
        CommandOutcome::Redelivered,
        CommandOutcome::TransferFailed,
        CommandOutcome::MalformedAnswer,
    ];
    let kinds = MSG_TYPES.iter().copied().chain(["error"]);
    let commands = kinds.flat_map(|msg_type| {
        outcomes.map(|outcome| Report::Command {
            endpoint: endpoint(),
            msg_type,
            outcome,
            took: None,
            unanswered: None,
        })
    });
    let notifications = [NotificationOutcome::Published, NotificationOutcome::Ended, NotificationOutcome::Superseded]
        .map(|outcome| Report::Notification { endpoint: endpoint(), outcome });
    let sends = [Code::CHANGED, Code::BAD_REQUEST].map(|code| Report::Send { peer: peer(), endpoint: None, code });
    let transfers = [
        BlockError::Malformed,
        BlockError::OutOfOrder,
        BlockError::Changed,
        BlockError::TooLarge,
        BlockError::TooMany,
        BlockError::NoRoom,
        BlockError::Evicted,
        BlockError::Unfinished,
        BlockError::Superseded,
    ]
    .map(|error| Report::TransferFailed { peer: peer(), endpoint: None, error });
    let not_restored = [NotRestored::LifetimeOver, NotRestored::NoTopics, NotRestored::TooMany, NotRestored::TooLarge]
        .map(|reason| Report::NotRestored { endpoint: endpoint(), reason });
    let forbidden = [
        Forbidden::OtherName,
        Forbidden::OtherIdentity,
        Forbidden::Unsecured,
        Forbidden::HasKey,
        Forbidden::BootstrapOnly,
    ]
    .map(|reason| Report::Forbidden { endpoint: endpoint(), peer: peer(), identity: None, reason });
    let undefined_version =
        UndefinedVersion { object: 3, announced: Version { major: 2, minor: 0 }, defined: vec![Version::FIRST] };
    let formats = ContentFormat::ALL.map(|format| Report::FormatRejected { endpoint: endpoint(), format });
    let firmware = Phase::ALL.map(|phase| (phase, None));
    let failures = UpdateError::ALL.map(|error| (Phase::Failed, Some(error)));
    let firmware = firmware.into_iter().filter(|(phase, _)| *phase != Phase::Failed).chain(failures);
    let firmware = firmware.map(|(phase, error)| Report::FirmwareUpdate {
        endpoint: endpoint(),
        status: Box::new(JobStatus {
            job: JobLabel::from_random([0; JobLabel::LENGTH]),
            phase,
            method: None,
            state: None,
            result: None,
            bytes: None,
            size: None,
            attempt: 1,
            error,
            code: None,
        }),
    });
    let campaign = || "spring".to_owned();
    let statuses = CampaignStatus::ALL.map(|status| CampaignReport::Status {
        campaign: campaign(),
        status,
        counts: Counts::default(),
    });
    let outcomes = [
        MemberOutcome::Succeeded,
        MemberOutcome::UpToDate,
        MemberOutcome::FilterMismatch,
        MemberOutcome::Failed(UpdateError::Stalled),
        MemberOutcome::Cancelled,
        MemberOutcome::Deferred,
        MemberOutcome::Absent,
    ];
    let outcomes =
        outcomes.map(|outcome| CampaignReport::Ended { campaign: campaign(), endpoint: endpoint(), outcome });
    let full = CampaignReport::Full { campaign: campaign(), endpoint: endpoint() };
    let campaigns = statuses.into_iter().chain(outcomes).chain([full]).map(Report::Campaign);
    let single = [
        Report::FirmwareJobsFull { endpoint: endpoint() },
        Report::Retransmitted { peer: peer() },
        Report::DuplicateForgotten { peer: peer() },
        Report::AutoObserveCut { endpoint: endpoint(), paths: 1 },
        Report::AutoObserveSplit { endpoint: endpoint(), paths: 1 },
        Report::Registered { endpoint: endpoint(), peer: peer(), lifetime: Duration::from_secs(300) },
        Report::Updated { endpoint: endpoint() },
        Report::Restored { endpoint: endpoint(), peer: peer() },
        Report::Moved { endpoint: endpoint(), from: peer(), to: peer() },
        Report::UndecodableContent { endpoint: endpoint(), path: "/3/0".to_owned(), reason: String::new() },
        Report::LinksLeftOut { endpoint: endpoint(), reason: String::new(), first: true },
        Report::ProfilesEvicted { profiles: 1 },
        Report::SentBeforeStored { outputs: 1 },
        Report::UndefinedVersions { endpoint: endpoint(), versions: vec![undefined_version] },
        Report::PublishRefused { endpoint: endpoint(), topic: "up/resp".to_owned(), first: true },
    ];
    datagrams
        .chain(rejections)
        .chain(forbidden)
        .chain(departures)
        .chain(not_restored)
        .chain(commands)
        .chain(notifications)
        .chain(sends)
        .chain(transfers)
        .chain(formats)
        .chain(firmware)
        .chain(campaigns)
        .chain(single)
        .collect()
}

fn datagram_outcomes() -> Vec<DatagramOutcome> {
    let undecodable = [
        MessageDecodeError::TooShort,
        MessageDecodeError::Version,
        MessageDecodeError::TokenLength,
        MessageDecodeError::MalformedEmpty,
        MessageDecodeError::EmptyPayload,
        MessageDecodeError::ReservedClass,
        MessageDecodeError::Malformed,
    ]
    .map(DropReason::NoMessage);
    let dropped = [
        DropReason::Unexpected,
        DropReason::StaleNotification,
        DropReason::InvalidCodeForType,
        DropReason::CriticalOption,
        DropReason::TooManyRequests,
        DropReason::RateLimited,
        DropReason::DeviceRateLimited,
    ];
    let taken = [
        DatagramOutcome::Request,
        DatagramOutcome::Response,
        DatagramOutcome::Notification,
        DatagramOutcome::Acknowledgement,
        DatagramOutcome::Reset,
        DatagramOutcome::Ping,
        DatagramOutcome::Duplicate,
        DatagramOutcome::Refused,
    ];
    taken.into_iter().chain(undecodable.into_iter().chain(dropped).map(DatagramOutcome::Dropped)).collect()
}

fn bootstrap_reports() -> Vec<Report> {
    bootstrap::reports().into_iter().map(Report::Bootstrap).collect()
}

/// Returns one report for every counter of DTLS.
fn dtls_reports() -> Vec<Report> {
    let association = AssociationId(7);
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 5684));
    let peer = Peer { association: Some(association), ..Peer::udp(1, address) };
    let completed =
        |resumed| dtls::DtlsReport::HandshakeCompleted { peer, suite: Suite::Aes128Ccm8, connection_id: true, resumed };
    let failures = [
        HandshakeFailure::Deadline,
        HandshakeFailure::Restarted,
        HandshakeFailure::Evicted,
        HandshakeFailure::Revoked,
        HandshakeFailure::WrongKey,
        HandshakeFailure::Failed(HandshakeError::UnknownIdentity),
        HandshakeFailure::KeyUnavailable,
        HandshakeFailure::Failed(HandshakeError::NoCommonSuite),
        HandshakeFailure::Failed(HandshakeError::NoCertificate),
        HandshakeFailure::Failed(HandshakeError::CertificateRefused(CertificateFault::Expired)),
        HandshakeFailure::Failed(HandshakeError::CertificateVerifyFailed),
        HandshakeFailure::Failed(HandshakeError::Alert(40)),
        HandshakeFailure::Failed(HandshakeError::Protocol),
        HandshakeFailure::Failed(HandshakeError::Internal),
    ];
    let failed = failures.map(|reason| dtls::DtlsReport::HandshakeFailed { peer, identity: None, reason });
    let single = [
        dtls::DtlsReport::HandshakeBegun { peer },
        dtls::DtlsReport::HandshakeRetransmitted { peer },
        completed(false),
        completed(true),
        dtls::DtlsReport::Moved { peer, from: address, to: address },
        dtls::DtlsReport::Restored { peer },
        dtls::DtlsReport::NotRestored { association },
        dtls::DtlsReport::Unsent { association },
        dtls::DtlsReport::KeyNotAsked { identity: PskIdentity::new(b"dev-7").unwrap() },
    ];
    let datagrams = dtls_datagram_outcomes().into_iter().map(|outcome| dtls::DtlsReport::Datagram { peer, outcome });
    let closed = [
        dtls::AssociationCloseReason::CloseNotify,
        dtls::AssociationCloseReason::Alert(40),
        dtls::AssociationCloseReason::Replaced,
        dtls::AssociationCloseReason::Revoked,
        dtls::AssociationCloseReason::Idle,
        dtls::AssociationCloseReason::Evicted,
        dtls::AssociationCloseReason::TooManyForged,
        dtls::AssociationCloseReason::SequenceExhausted,
    ]
    .map(|reason| Report::AssociationClosed { peer, reason });
    datagrams.chain(failed).chain(single).map(Report::Dtls).chain(closed).collect()
}

fn dtls_datagram_outcomes() -> Vec<dtls::DtlsDatagramOutcome> {
    let dropped = [
        dtls::DtlsDropReason::NoRecord,
        dtls::DtlsDropReason::NoHello,
        dtls::DtlsDropReason::Unknown,
        dtls::DtlsDropReason::UnknownConnectionId,
        dtls::DtlsDropReason::Forged,
        dtls::DtlsDropReason::Replayed,
        dtls::DtlsDropReason::NoAcceptor,
        dtls::DtlsDropReason::TooManyHandshakes,
        dtls::DtlsDropReason::TooManyHandshakesFromAddress,
        dtls::DtlsDropReason::TooMuchHeld,
        dtls::DtlsDropReason::Unexpected,
    ];
    let taken = [
        dtls::DtlsDatagramOutcome::Data,
        dtls::DtlsDatagramOutcome::Handshake,
        dtls::DtlsDatagramOutcome::CookieAsked,
        dtls::DtlsDatagramOutcome::Early,
        dtls::DtlsDatagramOutcome::Alert,
        dtls::DtlsDatagramOutcome::LastFlightRepeated,
        dtls::DtlsDatagramOutcome::RenegotiationRefused,
    ];
    taken.into_iter().chain(dropped.map(dtls::DtlsDatagramOutcome::Dropped)).collect()
}

fn peer() -> Peer {
    Peer::udp(0, ([192, 0, 2, 1], 56830).into())
}

fn page(metrics: &Metrics) -> String {
    let mut text = String::new();
    text::encode(&mut text, metrics.registry()).unwrap();
    text
}

/// Returns the series of all counters with their values.
fn counters(metrics: &Metrics) -> BTreeMap<String, u64> {
    let page = page(metrics);
    let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let counters = series.filter(|(name, _)| name.split('{').next().unwrap().ends_with("_total"));
    counters.map(|(name, value)| (name.to_owned(), value.parse::<f64>().unwrap() as u64)).collect()
}

/// Returns the counters that are not zero.
fn counted(metrics: &Metrics) -> Vec<(String, u64)> {
    counters(metrics).into_iter().filter(|(_, value)| *value != 0).collect()
}

fn series(metrics: &Metrics) -> Vec<String> {
    let mut series: Vec<_> =
        page(metrics).lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect();
    series.sort();
    series
}
