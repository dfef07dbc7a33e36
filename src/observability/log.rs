//! Logs the reports of the core; those about a device carry its endpoint name in a span.
//!
//! A text that a device chooses is recorded as text, never with `%`: it is shown in quotes, and a line break in an
//! endpoint name cannot forge a line.

pub(crate) mod reasons;

use std::time::{Duration, Instant};

use tracing::{Level, debug, enabled, error, error_span, info, trace, warn};

use lwm2m_base::Peer;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::command::firmware::{JobStatus, Method, Phase};
use lwm2m_core::gateway::firmware::campaign::CampaignStatus;
use lwm2m_core::gateway::firmware::campaign::member::MemberState;
use lwm2m_core::gateway::report::{BootstrapReport, CampaignReport, DatagramOutcome, NotificationOutcome, Report};
use lwm2m_core::lwm2m::model::UndefinedVersion;
use lwm2m_dtls as dtls;
use lwm2m_dtls::HandshakeFailure;

use super::repeats::{Again, Repeats};

use reasons::{
    close_reason, command_outcome, credential_problem, datagram_outcome, drop_reason, dtls_datagram_outcome,
    dtls_drop_reason, forbidden_reason, handshake_failure, leave_reason, not_restored_reason, suite_name,
};

const REJECTED: &str = "registration rejected";
const FORBIDDEN: &str = "request forbidden";
const BOOTSTRAP_FAILED: &str = "bootstrap failed";
const BOOTSTRAP_REJECTED: &str = "bootstrap rejected";
const HANDSHAKE: &str = "DTLS handshake failed";
const PAYLOAD: &str = "payload not understood";

/// Logs the reports of the core.
#[derive(Debug, Default)]
pub(crate) struct Log {
    repeats: Repeats,
}

impl Log {
    /// Logs a report: registrations at `info`, and what prevents a device from being served once for each device and
    /// minute. All other mistakes of devices are logged at `debug`.
    pub(crate) fn log(&mut self, now: Instant, report: &Report) {
        // At the highest level, so that no filter removes the endpoint from a line; but no span for each notification,
        // which is hardly ever logged.
        let seen = enabled!(Level::TRACE) || !matches!(report, Report::Notification { .. });
        let _device = report.endpoint().filter(|_| seen).map(|endpoint| error_span!("device", endpoint).entered());
        match report {
            Report::RegisterRejected { peer, endpoint, code, reason } => {
                let device = endpoint.clone().unwrap_or_else(|| peer.address.ip().to_string());
                if self.repeats.is_first(now, REJECTED, &device, reason) {
                    info!(peer = %peer.address, %code, reason, "{REJECTED}");
                } else {
                    debug!(peer = %peer.address, %code, reason, "{REJECTED}");
                }
            }
            Report::Forbidden { peer, endpoint, identity, reason } => {
                let why = forbidden_reason(*reason);
                if self.repeats.is_first(now, FORBIDDEN, endpoint, why) {
                    info!(peer = %peer.address, identity, reason = why, "{FORBIDDEN}");
                } else {
                    debug!(peer = %peer.address, identity, reason = why, "{FORBIDDEN}");
                }
            }
            Report::Bootstrap(report) => self.log_bootstrap(now, report),
            Report::Dtls(dtls::DtlsReport::HandshakeFailed { peer, identity, reason }) => {
                self.log_handshake(now, *peer, identity.as_ref().map(PskIdentity::as_str), *reason);
            }
            Report::UndecodableContent { endpoint, path, reason } => {
                if self.repeats.is_first(now, PAYLOAD, endpoint, reason) {
                    warn!(path, reason, "{PAYLOAD}");
                } else {
                    debug!(path, reason, "{PAYLOAD}");
                }
            }
            other => log_once(other),
        }
    }

    /// Logs a report of the bootstrap server. None has a key.
    fn log_bootstrap(&mut self, now: Instant, report: &BootstrapReport) {
        match report {
            BootstrapReport::Rejected { peer, endpoint, code, refusal } => {
                let device = endpoint.clone().unwrap_or_else(|| peer.address.ip().to_string());
                let reason = refusal.reason();
                if self.repeats.is_first(now, BOOTSTRAP_REJECTED, &device, reason) {
                    info!(peer = %peer.address, %code, reason, "{BOOTSTRAP_REJECTED}");
                } else {
                    debug!(peer = %peer.address, %code, reason, "{BOOTSTRAP_REJECTED}");
                }
            }
            BootstrapReport::Failed { endpoint, peer, step, code, reason } => {
                // Without DTLS anybody can use any endpoint name.
                let device = match peer.association {
                    Some(_) => endpoint.clone(),
                    None => peer.address.ip().to_string(),
                };
                let code = code.map(|code| code.to_string());
                if self.repeats.is_first(now, BOOTSTRAP_FAILED, &device, reason) {
                    warn!(peer = %peer.address, %step, code, reason, "{BOOTSTRAP_FAILED}");
                } else {
                    debug!(peer = %peer.address, %step, code, reason, "{BOOTSTRAP_FAILED}");
                }
            }
            other => log_bootstrap_once(other),
        }
    }

    /// Logs mismatched credentials at `info`, and failures that the network or an attacker causes at `debug`.
    fn log_handshake(&mut self, now: Instant, peer: Peer, identity: Option<&str>, reason: HandshakeFailure) {
        let why = credential_problem(reason);
        let address = peer.address.ip().to_string();
        match why {
            Some(why) if self.repeats.is_first(now, HANDSHAKE, identity.unwrap_or(&address), why) => {
                info!(peer = %peer.address, identity, reason = why, "{HANDSHAKE}");
            }
            Some(_) | None => {
                debug!(peer = %peer.address, identity, reason = handshake_failure(reason), "{HANDSHAKE}");
            }
        }
    }

    /// Returns the time at which [`Log::handle_timeout`] has to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.repeats.next_end()
    }

    /// Logs how often the lines of the last minute were repeated.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(Again { kind, device, times, reason }) = self.repeats.pop_ended(now) {
            if kind == PAYLOAD {
                warn!(device, times, reason, "{kind} again");
            } else {
                info!(device, times, reason, "{kind} again");
            }
        }
    }
}

/// Logs a report that cannot repeat without the device being served in between.
fn log_once(report: &Report) {
    match report {
        Report::Datagram { peer, outcome } => log_datagram(peer, *outcome),
        Report::Retransmitted { peer } => debug!(peer = %peer.address, "message retransmitted"),
        Report::DuplicateForgotten { peer } => {
            trace!(peer = %peer.address, "deduplication entry evicted early: the table is full")
        }
        Report::AutoObserveCut { paths, .. } => {
            warn!(paths, "auto_observe skips paths: the device has its maximum of observations");
        }
        Report::FirmwareUpdate { status, .. } => log_firmware(status),
        Report::Campaign(report) => log_campaign(report),
        Report::FirmwareJobsFull { .. } => warn!("firmware update refused: limits.firmware_jobs"),
        Report::AutoObserveSplit { paths, .. } => {
            debug!(paths, "composite observation not accepted; auto_observe observes each path");
        }
        Report::Registered { peer, lifetime, .. } => log_registered(peer, *lifetime),
        Report::Updated { .. } => debug!("registration updated"),
        Report::AssociationClosed { peer, reason } => log_closed_association(peer, *reason),
        Report::Dtls(report) => log_dtls(report),
        Report::Restored { peer, .. } => debug!(peer = %peer.address, "device restored"),
        Report::NotRestored { reason, .. } => info!(reason = not_restored_reason(*reason), "device not restored"),
        Report::Moved { from, to, .. } => log_moved(from, to),
        Report::Left { reason, .. } => info!(reason = leave_reason(*reason), "registration ended"),
        Report::Command { msg_type, outcome, .. } => {
            debug!(msg_type, outcome = command_outcome(*outcome), "command completed");
        }
        // Completed commands are logged.
        Report::CommandProgress { .. } => {}
        Report::Notification { endpoint, outcome } => log_notification(endpoint, *outcome),
        Report::LinksLeftOut { reason, first: true, .. } => info!(reason, "part of a link list ignored"),
        Report::LinksLeftOut { reason, first: false, .. } => debug!(reason, "part of a link list ignored"),
        Report::SentBeforeStored { outputs } => debug!(outputs, "answers sent before they were stored"),
        Report::ProfilesEvicted { profiles } => debug!(profiles, "object lists of profiles evicted: limits.profiles"),
        Report::UndefinedVersions { versions, .. } => {
            info!(objects = first_of(versions), "object version has no definition");
        }
        Report::Send { peer, code, .. } => debug!(peer = %peer.address, %code, "Send answered"),
        Report::FormatRejected { format, .. } => debug!(%format, "content format rejected, another one is tried"),
        Report::TransferFailed { peer, error, .. } => {
            debug!(peer = %peer.address, %error, "block-wise transfer failed")
        }
        Report::PublishRefused { topic, first, .. } => log_refused_publication(topic, *first),
        // These repeat: see `Log::log`.
        Report::RegisterRejected { .. }
        | Report::Forbidden { .. }
        | Report::UndecodableContent { .. }
        | Report::Bootstrap(_) => {}
    }
}

fn log_moved(from: &Peer, to: &Peer) {
    info!(from = %from.address, peer = %to.address, "device address changed");
}

fn log_registered(peer: &Peer, lifetime: Duration) {
    let lifetime = humantime::format_duration(Duration::from_secs(lifetime.as_secs()));
    info!(peer = %peer.address, %lifetime, "device registered");
}

/// Logs a report of the bootstrap server that does not repeat.
fn log_bootstrap_once(report: &BootstrapReport) {
    match report {
        // Anybody can begin a session without DTLS, under any name.
        BootstrapReport::Started { peer, .. } if peer.association.is_none() => {
            debug!(peer = %peer.address, "bootstrap started");
        }
        BootstrapReport::Started { peer, .. } => info!(peer = %peer.address, "bootstrap started"),
        BootstrapReport::Finished { peer, took, .. } => {
            let took =
                humantime::format_duration(Duration::from_millis(took.as_millis().try_into().unwrap_or(u64::MAX)));
            info!(peer = %peer.address, %took, "bootstrap finished");
        }
        BootstrapReport::Differs { reason, .. } => {
            warn!(reason, "the device has other values than bootstrap has written");
        }
        BootstrapReport::AccountSet { .. } => info!("bootstrap account received"),
        BootstrapReport::AccountRemoved { .. } => info!("bootstrap account removed"),
        BootstrapReport::AccountRejected { reason, .. } => {
            warn!(reason, "bootstrap account rejected; the former one stays in force");
        }
        BootstrapReport::Pack { peer, .. } => info!(peer = %peer.address, "bootstrap pack sent"),
        BootstrapReport::KeyRemoved { identity } => {
            info!(identity = identity.as_str(), "generated key removed by an operator");
        }
        BootstrapReport::StatusDropped { peer, .. } => {
            debug!(peer = %peer.address, "end of a bootstrap session not published: too many without DTLS");
        }
        // These repeat: see `Log::log_bootstrap`.
        BootstrapReport::Rejected { .. } | BootstrapReport::Failed { .. } => {}
    }
}

fn log_datagram(peer: &Peer, outcome: DatagramOutcome) {
    match outcome {
        DatagramOutcome::Dropped(reason) => {
            debug!(peer = %peer.address, reason = drop_reason(reason), "datagram dropped");
        }
        outcome => trace!(peer = %peer.address, outcome = datagram_outcome(outcome), "datagram"),
    }
}

fn log_closed_association(peer: &Peer, reason: dtls::AssociationCloseReason) {
    let (association, reason) = (peer.association.map(|id| id.0), close_reason(reason));
    debug!(peer = %peer.address, association, reason, "DTLS association closed");
}

fn log_notification(endpoint: &str, outcome: NotificationOutcome) {
    match outcome {
        NotificationOutcome::Published => trace!("notification"),
        NotificationOutcome::Ended => debug!(endpoint, "observation ended by the device"),
        NotificationOutcome::Superseded => trace!("notification superseded"),
    }
}

/// Logs a refused publication. Only the first one of a registration is a warning.
fn log_refused_publication(topic: &str, first: bool) {
    if first {
        warn!(topic, "publication refused: the broker does not authorize this device for the topic");
    } else {
        debug!(topic, "publication refused");
    }
}

/// Logs an event of a firmware update: its phases at `info`, the progress of its download at `debug`.
fn log_firmware(status: &JobStatus) {
    let JobStatus { job, phase, method, attempt, bytes, error, .. } = status;
    let (phase, method) = (phase.name(), method.map(Method::name));
    match error {
        Some(error) => {
            let (error, code) = (error.name(), status.code.map(tracing::field::display));
            warn!(%job, method, attempt, error, code, "firmware update failed");
        }
        None if bytes.is_some_and(|bytes| bytes > 0) && status.phase == Phase::Downloading => {
            debug!(%job, phase, method, attempt, bytes, "firmware update");
        }
        None => info!(%job, phase, method, attempt, "firmware update"),
    }
}

fn log_campaign(report: &CampaignReport) {
    match report {
        CampaignReport::Status { campaign, status: CampaignStatus::Stopped, counts } => {
            let failed = counts.of(MemberState::Failed);
            warn!(campaign, failed, "firmware campaign stopped: too many updates failed");
        }
        CampaignReport::Status { campaign, status, counts } => {
            let devices = counts.total();
            info!(campaign, status = status.name(), devices, "firmware campaign");
        }
        CampaignReport::Ended { campaign, outcome, .. } => {
            let (outcome, error) = (outcome.state().name(), outcome.error());
            info!(campaign, outcome, error, "firmware campaign is done with a device");
        }
        CampaignReport::Full { campaign, .. } => {
            warn!(campaign, "firmware campaign has its maximum of devices; others do not take part");
        }
    }
}

/// Lists the first few versions, since a device decides how many there are.
fn first_of(versions: &[UndefinedVersion]) -> String {
    const MOST: usize = 8;
    let mut texts: Vec<_> = versions.iter().take(MOST).map(UndefinedVersion::to_string).collect();
    if versions.len() > MOST {
        texts.push(format!("and {} more", versions.len() - MOST));
    }
    texts.join(", ")
}

/// Logs a report of DTLS. Any client chooses an identity: it is shown in quotes.
fn log_dtls(report: &dtls::DtlsReport) {
    match report {
        dtls::DtlsReport::Datagram { peer, outcome: dtls::DtlsDatagramOutcome::Dropped(reason) } => {
            debug!(peer = %peer.address, reason = dtls_drop_reason(*reason), "DTLS datagram dropped");
        }
        dtls::DtlsReport::Datagram { peer, outcome } => {
            trace!(peer = %peer.address, outcome = dtls_datagram_outcome(*outcome), "DTLS datagram");
        }
        dtls::DtlsReport::HandshakeBegun { peer } => trace!(peer = %peer.address, "DTLS handshake started"),
        dtls::DtlsReport::HandshakeRetransmitted { peer } => debug!(peer = %peer.address, "DTLS flight retransmitted"),
        dtls::DtlsReport::HandshakeCompleted { peer, suite, connection_id, resumed } => {
            let association = peer.association.map(|id| id.0);
            let suite = suite_name(*suite);
            debug!(peer = %peer.address, association, suite, connection_id, resumed, "DTLS association established");
        }
        // This repeats: see `Log::log`.
        dtls::DtlsReport::HandshakeFailed { .. } => {}
        dtls::DtlsReport::Moved { peer, from, to } => {
            debug!(association = peer.association.map(|id| id.0), %from, %to, "DTLS association address changed");
        }
        dtls::DtlsReport::Restored { peer } => {
            trace!(peer = %peer.address, association = peer.association.map(|id| id.0), "DTLS association restored");
        }
        dtls::DtlsReport::NotRestored { association } => {
            error!(
                association = association.0,
                "DTLS association not restored: its record cannot be read; the device needs a new handshake"
            );
        }
        dtls::DtlsReport::KeyNotAsked { identity } => {
            debug!(identity = identity.as_str(), "key lookup skipped: too many in flight");
        }
        dtls::DtlsReport::Unsent { association } => {
            debug!(association = association.0, "message not sent: the DTLS association is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::filter::LevelFilter;

    use super::*;
    use crate::observability::repeats::PERIOD;
    use lwm2m_core::coap::{Code, MessageDecodeError};
    use lwm2m_core::gateway::report::{BootstrapStep, DropReason, Forbidden, LeaveReason};
    use lwm2m_core::lwm2m::model::Version;

    #[test]
    fn the_life_of_a_device_is_logged_at_info() {
        let line = logged(LevelFilter::INFO, &left());
        assert_eq!(line, "INFO device{endpoint=\"urn:imei:1\"}: registration ended reason=\"lifetime expired\"\n");
    }

    #[test]
    fn an_endpoint_name_cannot_forge_a_line() {
        let report = Report::Updated { endpoint: "a\nERROR all is lost".to_owned() };
        let line = logged(LevelFilter::DEBUG, &report);
        assert_eq!(line, "DEBUG device{endpoint=\"a\\nERROR all is lost\"}: registration updated\n");
    }

    #[test]
    fn mistakes_of_an_unregistered_peer_fill_no_log() {
        let peer = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
        let outcome = DatagramOutcome::Dropped(DropReason::NoMessage(MessageDecodeError::Version));
        let report = Report::Datagram { peer, outcome };
        assert_eq!(logged(LevelFilter::INFO, &report), "");
        let line = logged(LevelFilter::DEBUG, &report);
        assert_eq!(line, "DEBUG datagram dropped peer=192.0.2.1:56830 reason=\"no CoAP message: version is not 1\"\n");
    }

    #[test]
    fn only_the_first_refused_publication_of_a_device_is_a_warning() {
        let refused =
            |first| Report::PublishRefused { endpoint: "urn:imei:1".to_owned(), topic: "up".to_owned(), first };
        assert!(logged(LevelFilter::INFO, &refused(true)).starts_with("WARN"));
        assert_eq!(logged(LevelFilter::INFO, &refused(false)), "");
    }

    #[test]
    fn only_the_first_odd_link_list_of_a_registration_is_seen_at_info() {
        let odd = |first| Report::LinksLeftOut { endpoint: "ep1".to_owned(), reason: "byte 5".to_owned(), first };
        let line = logged(LevelFilter::INFO, &odd(true));
        assert_eq!(line, "INFO device{endpoint=\"ep1\"}: part of a link list ignored reason=\"byte 5\"\n");
        assert_eq!(logged(LevelFilter::INFO, &odd(false)), "");
    }

    #[test]
    fn versions_without_definition_are_one_line_with_the_first_few() {
        let version = |major| Version { major, minor: 0 };
        let undefined =
            |object| UndefinedVersion { object, announced: version(3), defined: vec![version(2), version(1)] };
        let report = |objects| Report::UndefinedVersions {
            endpoint: "ep1".to_owned(),
            versions: (1..=objects).map(undefined).collect(),
        };
        let line = logged(LevelFilter::INFO, &report(1));
        let expected =
            "INFO device{endpoint=\"ep1\"}: object version has no definition objects=\"1 3.0 (loaded: 2.0, 1.0)\"\n";
        assert_eq!(line, expected);
        let line = logged(LevelFilter::INFO, &report(10));
        assert!(line.ends_with("8 3.0 (loaded: 2.0, 1.0), and 2 more\"\n"), "{line}");
    }

    #[test]
    fn a_payload_that_is_not_understood_is_a_warning() {
        let report = Report::UndecodableContent {
            endpoint: "urn:imei:1".to_owned(),
            path: "/3/0".to_owned(),
            reason: "cut short".to_owned(),
        };
        let line = logged(LevelFilter::WARN, &report);
        assert_eq!(
            line,
            "WARN device{endpoint=\"urn:imei:1\"}: payload not understood path=\"/3/0\" reason=\"cut short\"\n"
        );
    }

    #[test]
    fn a_payload_that_is_not_understood_is_a_warning_once_in_a_minute_and_then_how_often() {
        let report = |reason: &str| Report::UndecodableContent {
            endpoint: "ep1".to_owned(),
            path: "/3/0".to_owned(),
            reason: reason.to_owned(),
        };
        let (mut log, now) = (Log::default(), Instant::now());
        let text = captured(LevelFilter::WARN, || {
            ["cut short", "cut short", "no TLV"].into_iter().for_each(|reason| log.log(now, &report(reason)));
            log.handle_timeout(now + PERIOD);
        });
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let expected = [
            "WARN device{endpoint=\"ep1\"}: payload not understood path=\"/3/0\" reason=\"cut short\"",
            "WARN payload not understood again device=\"ep1\" times=2 reason=\"no TLV\"",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_keeps_devices_out_is_told_once_in_a_minute_and_then_how_often() {
        let peer = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
        let identity = || Some("dev-7".to_owned());
        let rejected = Report::RegisterRejected {
            peer,
            endpoint: Some("ep1".to_owned()),
            code: Code::FORBIDDEN,
            reason: "Authenticate: not_authorized".to_owned(),
        };
        let forbidden =
            Report::Forbidden { endpoint: "ep1".to_owned(), peer, identity: identity(), reason: Forbidden::OtherName };
        let failed = |reason| {
            Report::Dtls(dtls::DtlsReport::HandshakeFailed { peer, identity: PskIdentity::new(b"dev-7"), reason })
        };
        let wrong_key = failed(HandshakeFailure::WrongKey);
        let (mut log, now) = (Log::default(), Instant::now());
        let text = captured(LevelFilter::INFO, || {
            for report in [&rejected, &forbidden, &wrong_key, &failed(HandshakeFailure::Deadline)] {
                (0..3).for_each(|_| log.log(now, report));
            }
            assert_eq!(log.next_deadline(), Some(now + PERIOD));
            log.handle_timeout(now + PERIOD);
        });
        let expected = [
            "INFO device{endpoint=\"ep1\"}: registration rejected peer=192.0.2.1:56830 code=4.03 \
             reason=\"Authenticate: not_authorized\"",
            "INFO device{endpoint=\"ep1\"}: request forbidden peer=192.0.2.1:56830 identity=\"dev-7\" reason=\"the \
             DTLS identity belongs to another endpoint name (dtls.identity)\"",
            "INFO DTLS handshake failed peer=192.0.2.1:56830 identity=\"dev-7\" reason=\"the device has another key \
             for this identity\"",
            "INFO registration rejected again device=\"ep1\" times=2 reason=\"Authenticate: not_authorized\"",
            "INFO request forbidden again device=\"ep1\" times=2 reason=\"the DTLS identity belongs to another \
             endpoint name (dtls.identity)\"",
            "INFO DTLS handshake failed again device=\"dev-7\" times=2 reason=\"the device has another key for this \
             identity\"",
        ];
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn failed_sessions_without_dtls_are_told_once_in_a_minute_for_each_address_whatever_their_names_are() {
        let failed = |endpoint: &str, peer| {
            Report::Bootstrap(BootstrapReport::Failed {
                endpoint: endpoint.to_owned(),
                peer,
                step: BootstrapStep::Discover,
                code: None,
                reason: "the device did not answer".to_owned(),
            })
        };
        let plain = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
        let secured = Peer { association: Some(lwm2m_base::AssociationId(7)), ..plain };
        let (mut log, now) = (Log::default(), Instant::now());
        let text = captured(LevelFilter::INFO, || {
            for (endpoint, peer) in [("a", plain), ("b", plain), ("c", secured), ("d", secured), ("d", secured)] {
                log.log(now, &Report::Bootstrap(BootstrapReport::Started { endpoint: endpoint.to_owned(), peer }));
                log.log(now, &failed(endpoint, peer));
            }
            log.handle_timeout(now + PERIOD);
        });
        let told = |line: &str| line.trim_start().split(" peer=").next().unwrap_or_default().to_owned();
        let started = |endpoint: &str| format!("INFO device{{endpoint=\"{endpoint}\"}}: bootstrap started");
        let failed = |endpoint: &str| format!("WARN device{{endpoint=\"{endpoint}\"}}: bootstrap failed");
        let again = |device: &str| {
            format!("INFO bootstrap failed again device=\"{device}\" times=1 reason=\"the device did not answer\"")
        };
        let expected = [
            failed("a"),
            started("c"),
            failed("c"),
            started("d"),
            failed("d"),
            started("d"),
            again("192.0.2.1"),
            again("d"),
        ];
        assert_eq!(text.lines().map(told).collect::<Vec<_>>(), expected);
    }

    fn left() -> Report {
        Report::Left { endpoint: "urn:imei:1".to_owned(), reason: LeaveReason::LifetimeOver }
    }

    /// Returns the lines that a report makes in a log of this level.
    fn logged(level: LevelFilter, report: &Report) -> String {
        captured(level, || Log::default().log(Instant::now(), report)).trim_start().to_owned()
    }

    fn captured(level: LevelFilter, logging: impl FnOnce()) -> String {
        let lines = CapturedLog::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, logging);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
