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
            warn!(paths, "auto_observe skips paths: limits.observations is reached");
        }
        Report::FirmwareUpdate { status, .. } => log_firmware(status),
        Report::Campaign(report) => log_campaign(report),
        Report::FirmwareJobsFull { .. } => warn!("firmware update refused: limits.firmware_jobs is reached"),
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
        Report::ProfilesEvicted { profiles } => debug!(profiles, "object lists evicted: limits.profiles is reached"),
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
            warn!(reason, "after its bootstrap the device does not have the values that were written");
        }
        BootstrapReport::AccountSet { .. } => info!("bootstrap account received"),
        BootstrapReport::AccountRemoved { .. } => info!("bootstrap account removed"),
        BootstrapReport::AccountRejected { reason, .. } => {
            warn!(reason, "bootstrap account rejected; the old one stays in force");
        }
        BootstrapReport::Pack { peer, .. } => info!(peer = %peer.address, "bootstrap pack sent"),
        BootstrapReport::KeyRemoved { identity } => {
            info!(identity = identity.as_str(), "generated key removed by an operator");
        }
        BootstrapReport::StatusDropped { peer, .. } => {
            debug!(peer = %peer.address, "result of a bootstrap session not published: too many without DTLS");
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
            info!(campaign, outcome, error, "firmware campaign completed a device");
        }
        CampaignReport::Full { campaign, .. } => {
            warn!(campaign, "firmware campaign reached its maximum number of devices; other devices are left out");
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
            debug!(
                association = association.0,
                "message not sent: DTLS association closed or without a free record number"
            );
        }
    }
}

#[cfg(test)]
mod tests;
