//! Maps reports of the core to failures of a device, with their reasons in words.

use lwm2m_base::Peer;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::coap::Code;
use lwm2m_core::gateway::report::{BootstrapReport, CommandOutcome, Report};
use lwm2m_dtls::handshake::HandshakeError;
use lwm2m_dtls::{DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};

use crate::observability::log::reasons::{
    credential_problem, dtls_drop_reason, forbidden_reason, handshake_failure, not_restored_reason,
};

use super::{Failure, FailureKind};

const SEND_FORMAT: &str = "the content format of a Send is not supported";
const NOT_AUTHORIZED: &str = "the broker does not authorize this device for the topic";

impl Failure {
    /// Returns the failure that a report contains; `None` if it contains none.
    pub fn of(report: &Report) -> Option<Self> {
        let failure = match report {
            Report::Bootstrap(report) => return Self::of_bootstrap(report),
            Report::Dtls(report) => return Self::of_dtls(report),
            Report::RegisterRejected { peer, endpoint, code, reason } => {
                Self::at(*peer, FailureKind::Register, reason.as_str()).answered(endpoint.as_deref(), *code)
            }
            Report::Forbidden { endpoint, peer, identity, reason } => {
                let failure = Self::at(*peer, FailureKind::Forbidden, forbidden_reason(*reason));
                Self { identity: identity.clone(), ..failure.answered(Some(endpoint), Code::FORBIDDEN) }
            }
            Report::NotRestored { endpoint, reason } => {
                Self::of_device(endpoint, FailureKind::NotRestored, not_restored_reason(*reason))
            }
            Report::Command { endpoint, msg_type, outcome: CommandOutcome::TimedOut, unanswered, .. } => {
                Self::of_unanswered(endpoint, msg_type, unanswered.as_deref())
            }
            Report::UndecodableContent { endpoint, path, reason } => {
                Self::of_device(endpoint, FailureKind::Undecodable, reason.as_str()).about(path)
            }
            Report::Send { peer, endpoint: Some(endpoint), code: code @ Code::UNSUPPORTED_CONTENT_FORMAT } => {
                Self::at(*peer, FailureKind::Undecodable, SEND_FORMAT).answered(Some(endpoint), *code)
            }
            Report::TransferFailed { peer, endpoint, error } => {
                Self { endpoint: endpoint.clone(), ..Self::at(*peer, FailureKind::Transfer, error.to_string()) }
            }
            Report::PublishRefused { endpoint, topic, .. } => {
                Self::of_device(endpoint, FailureKind::Publish, NOT_AUTHORIZED).about(topic)
            }
            Report::Datagram { .. }
            | Report::Retransmitted { .. }
            | Report::DuplicateForgotten { .. }
            | Report::Registered { .. }
            | Report::Updated { .. }
            | Report::AssociationClosed { .. }
            | Report::Restored { .. }
            | Report::Moved { .. }
            | Report::Left { .. }
            | Report::Command { .. }
            | Report::CommandProgress { .. }
            | Report::Notification { .. }
            | Report::Send { .. }
            | Report::AutoObserveCut { .. }
            | Report::AutoObserveSplit { .. }
            | Report::FirmwareUpdate { .. }
            | Report::FirmwareJobsFull { .. }
            | Report::Campaign(_)
            | Report::LinksLeftOut { .. }
            | Report::UndefinedVersions { .. }
            | Report::FormatRejected { .. }
            | Report::ProfilesEvicted { .. }
            | Report::SentBeforeStored { .. } => return None,
        };
        Some(failure)
    }

    fn of_unanswered(endpoint: &str, msg_type: &str, path: Option<&str>) -> Self {
        let reason = format!("no answer to {msg_type} after all retransmissions");
        Self { path: path.map(str::to_owned), ..Self::of_device(endpoint, FailureKind::Timeout, reason) }
    }

    /// A failed session has its step as path.
    fn of_bootstrap(report: &BootstrapReport) -> Option<Self> {
        match report {
            BootstrapReport::Rejected { peer, endpoint, code, refusal } => {
                let failure = Self::at(*peer, FailureKind::Bootstrap, refusal.reason());
                Some(failure.answered(endpoint.as_deref(), *code))
            }
            BootstrapReport::Failed { endpoint, peer, step, code, reason } => {
                let failure = Self::at(*peer, FailureKind::Bootstrap, reason.as_str()).about(&step.to_string());
                Some(Self { endpoint: Some(endpoint.clone()), code: *code, ..failure })
            }
            BootstrapReport::AccountRejected { endpoint, reason } => {
                Some(Self::of_device(endpoint, FailureKind::Bootstrap, format!("account rejected: {reason}")))
            }
            BootstrapReport::Started { .. }
            | BootstrapReport::Finished { .. }
            | BootstrapReport::Differs { .. }
            | BootstrapReport::AccountSet { .. }
            | BootstrapReport::AccountRemoved { .. }
            | BootstrapReport::Pack { .. }
            | BootstrapReport::StatusDropped { .. }
            | BootstrapReport::KeyRemoved { .. } => None,
        }
    }

    /// Returns the failure of a DTLS report. Its reason distinguishes an unknown identity, a wrong key, no common
    /// cipher suite and a bad certificate.
    fn of_dtls(report: &DtlsReport) -> Option<Self> {
        let named = |identity: &PskIdentity| Some(identity.as_str().to_owned());
        match report {
            DtlsReport::HandshakeFailed { peer, identity, reason } => {
                let words = handshake_reason(*reason);
                let identity = identity.as_ref().and_then(named);
                Some(Self { identity, ..Self::at(*peer, FailureKind::Handshake, words) })
            }
            DtlsReport::KeyNotAsked { identity } => {
                let reason = "the key could not be looked up: too many lookups are in flight";
                Some(Self { identity: named(identity), ..Self::new(FailureKind::Handshake, reason) })
            }
            DtlsReport::Datagram { peer, outcome: DtlsDatagramOutcome::Dropped(DtlsDropReason::NoAcceptor) } => {
                Some(Self::at(*peer, FailureKind::Handshake, dtls_drop_reason(DtlsDropReason::NoAcceptor)))
            }
            DtlsReport::Datagram { .. }
            | DtlsReport::HandshakeBegun { .. }
            | DtlsReport::HandshakeRetransmitted { .. }
            | DtlsReport::HandshakeCompleted { .. }
            | DtlsReport::Moved { .. }
            | DtlsReport::Restored { .. }
            | DtlsReport::NotRestored { .. }
            | DtlsReport::Unsent { .. } => None,
        }
    }

    fn at(peer: Peer, kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { address: Some(peer.address), ..Self::new(kind, reason) }
    }

    /// Adds the device that got an answer with this code.
    fn answered(self, endpoint: Option<&str>, code: Code) -> Self {
        Self { endpoint: endpoint.map(str::to_owned), code: Some(code), ..self }
    }

    /// Adds the path or the topic.
    fn about(self, path: &str) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    fn of_device(endpoint: &str, kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { endpoint: Some(endpoint.to_owned()), ..Self::new(kind, reason) }
    }
}

fn handshake_reason(reason: HandshakeFailure) -> String {
    if let HandshakeFailure::Failed(HandshakeError::Alert(number)) = reason {
        return format!("the device gave up: {} (alert {number})", alert_words(number));
    }
    credential_problem(reason).map_or_else(|| handshake_failure(reason), str::to_owned)
}

/// Returns the meaning of an alert that a device ends a handshake with (RFC 5246 section 7.2, RFC 4279 section 2).
fn alert_words(number: u8) -> &'static str {
    match number {
        20 | 51 => "it has another key, or the handshake was damaged",
        40 => "it finds no parameters in common",
        42 | 43 | 44 | 46 | 47 => "it does not accept the certificate of the gateway",
        45 => "the certificate of the gateway has expired",
        48 => "it does not trust the authority of the gateway's certificate",
        70 => "it needs another version of DTLS",
        71 => "it demands other cipher suites",
        80 => "an internal error of the device",
        90 => "the handshake was cancelled",
        110 => "it does not know an extension",
        115 => "it does not know the identity",
        _ => "no reason is known",
    }
}

#[cfg(test)]
mod tests {
    use lwm2m_core::gateway::report::{BootstrapStep, NotificationOutcome};

    use super::*;

    fn peer() -> Peer {
        Peer::udp(0, ([192, 0, 2, 1], 56830).into())
    }

    #[test]
    fn a_failed_handshake_tells_a_wrong_key_an_unknown_identity_and_foreign_suites_apart() {
        let reason_of = |reason| {
            let identity = PskIdentity::new(b"dev-7");
            let report = Report::Dtls(DtlsReport::HandshakeFailed { peer: peer(), identity, reason });
            let failure = Failure::of(&report).unwrap();
            assert_eq!((failure.kind, failure.identity.as_deref()), (FailureKind::Handshake, Some("dev-7")));
            assert_eq!(failure.address, Some(peer().address));
            failure.reason
        };
        assert_eq!(reason_of(HandshakeFailure::WrongKey), "the device has another key for this identity");
        let failed = |error| reason_of(HandshakeFailure::Failed(error));
        assert_eq!(failed(HandshakeError::UnknownIdentity), "no key is known for this identity");
        assert_eq!(failed(HandshakeError::NoCommonSuite), "no cipher suite in common (dtls.ciphers)");
        assert_eq!(
            failed(HandshakeError::Alert(51)),
            "the device gave up: it has another key, or the handshake was damaged (alert 51)"
        );
        assert_eq!(reason_of(HandshakeFailure::Deadline), "timed out");
    }

    #[test]
    fn a_rejected_register_has_its_address_its_code_and_the_reason() {
        let report = Report::RegisterRejected {
            peer: peer(),
            endpoint: Some("ep1".to_owned()),
            code: Code::BAD_REQUEST,
            reason: "ep is missing".to_owned(),
        };
        let expected = Failure {
            endpoint: Some("ep1".to_owned()),
            address: Some(peer().address),
            code: Some(Code::BAD_REQUEST),
            ..Failure::new(FailureKind::Register, "ep is missing")
        };
        assert_eq!(Failure::of(&report), Some(expected));
    }

    #[test]
    fn a_failed_bootstrap_session_has_its_step_its_code_and_the_reason() {
        let report = Report::Bootstrap(BootstrapReport::Failed {
            endpoint: "ep1".to_owned(),
            peer: peer(),
            step: BootstrapStep::Finish,
            code: Some(Code::NOT_ACCEPTABLE),
            reason: "the device found the account inconsistent".to_owned(),
        });
        let expected = Failure {
            endpoint: Some("ep1".to_owned()),
            address: Some(peer().address),
            code: Some(Code::NOT_ACCEPTABLE),
            path: Some("POST /bs".to_owned()),
            ..Failure::new(FailureKind::Bootstrap, "the device found the account inconsistent")
        };
        assert_eq!(Failure::of(&report), Some(expected));
    }

    #[test]
    fn a_command_without_answer_has_its_path() {
        let report = Report::Command {
            endpoint: "ep1".to_owned(),
            msg_type: "read",
            outcome: CommandOutcome::TimedOut,
            took: None,
            unanswered: Some("/3/0/9".into()),
        };
        let expected = Failure {
            endpoint: Some("ep1".to_owned()),
            path: Some("/3/0/9".to_owned()),
            ..Failure::new(FailureKind::Timeout, "no answer to read after all retransmissions")
        };
        assert_eq!(Failure::of(&report), Some(expected));
    }

    #[test]
    fn what_goes_well_is_no_failure() {
        let endpoint = || "ep1".to_owned();
        let outcome = CommandOutcome::Answered;
        let answered =
            Report::Command { endpoint: endpoint(), msg_type: "read", outcome, took: None, unanswered: None };
        let published = Report::Notification { endpoint: endpoint(), outcome: NotificationOutcome::Published };
        for report in [answered, published, Report::Updated { endpoint: endpoint() }] {
            assert_eq!(Failure::of(&report), None);
        }
    }
}
