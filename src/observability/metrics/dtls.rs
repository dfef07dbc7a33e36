//! The counters of DTLS.

use lwm2m_dtls::handshake::HandshakeError;
use lwm2m_dtls::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};

use super::reports::{Counters, Label, alone, labels};
use super::{Counter, Sample};

/// What DTLS reports.
#[derive(Debug, Default)]
pub struct DtlsMetrics {
    datagrams: Counters<DtlsDatagramOutcome>,
    handshakes_begun: Counter,
    handshakes: Counters<Handshake>,
    flights_repeated: Counter,
    closed: Counters<Closed>,
    moves: Counter,
    restored: Counter,
    not_restored: Counter,
    unsent: Counter,
    keys_not_asked: Counter,
}

impl DtlsMetrics {
    /// Counts a report in exactly one counter.
    pub fn record(&self, report: &DtlsReport) {
        match report {
            DtlsReport::Datagram { verdict, .. } => self.datagrams.increment(*verdict),
            DtlsReport::HandshakeBegun { .. } => self.handshakes_begun.increment(),
            DtlsReport::HandshakeRetransmitted { .. } => self.flights_repeated.increment(),
            DtlsReport::HandshakeCompleted { resumed, .. } => self.handshakes.increment(Handshake::completed(*resumed)),
            DtlsReport::HandshakeFailed { reason, .. } => self.handshakes.increment(Handshake::failed(*reason)),
            DtlsReport::Moved { .. } => self.moves.increment(),
            DtlsReport::Restored { .. } => self.restored.increment(),
            DtlsReport::NotRestored { .. } => self.not_restored.increment(),
            DtlsReport::Unsent { .. } => self.unsent.increment(),
            DtlsReport::KeyNotAsked { .. } => self.keys_not_asked.increment(),
        }
    }

    pub fn closed(&self, reason: AssociationCloseReason) {
        self.closed.increment(Closed::of(reason));
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        [
            self.datagrams.samples("lwm2m_dtls_datagrams_total", "Datagrams of DTLS listeners, each counted once."),
            alone(
                "lwm2m_dtls_handshakes_begun_total",
                "Handshakes that were begun: clients that came back with a cookie.",
                &self.handshakes_begun,
            ),
            self.handshakes.samples("lwm2m_dtls_handshakes_total", "Handshakes that came to their end, by how."),
            alone(
                "lwm2m_dtls_flights_repeated_total",
                "Flights of handshakes that were sent once more.",
                &self.flights_repeated,
            ),
            self.closed.samples("lwm2m_dtls_associations_closed_total", "Associations that are over, by why."),
            alone("lwm2m_dtls_moves_total", "Associations whose device came from another address.", &self.moves),
            alone(
                "lwm2m_dtls_restored_total",
                "Associations of before a restart that were taken up again.",
                &self.restored,
            ),
            alone(
                "lwm2m_dtls_not_restored_total",
                "Associations of before a restart that could not be read.",
                &self.not_restored,
            ),
            alone(
                "lwm2m_dtls_unsent_total",
                "Messages for devices whose association is over: lost, as on the way.",
                &self.unsent,
            ),
            alone(
                "lwm2m_dtls_keys_not_asked_total",
                "Keys that were not asked for: too many others were.",
                &self.keys_not_asked,
            ),
        ]
        .concat()
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    Full,
    Resumed,
    Deadline,
    WrongKey,
    Restarted,
    Evicted,
    Revoked,
    UnknownIdentity,
    KeyUnavailable,
    NoCommonSuite,
    NoCertificate,
    CertificateRefused,
    BadProof,
    Alert,
    Protocol,
    Internal,
}

impl Handshake {
    fn completed(resumed: bool) -> Self {
        if resumed { Self::Resumed } else { Self::Full }
    }

    fn failed(reason: HandshakeFailure) -> Self {
        match reason {
            HandshakeFailure::Deadline => Self::Deadline,
            HandshakeFailure::Restarted => Self::Restarted,
            HandshakeFailure::Evicted => Self::Evicted,
            HandshakeFailure::Revoked => Self::Revoked,
            HandshakeFailure::WrongKey => Self::WrongKey,
            HandshakeFailure::KeyUnavailable => Self::KeyUnavailable,
            HandshakeFailure::Failed(HandshakeError::UnknownIdentity) => Self::UnknownIdentity,
            HandshakeFailure::Failed(HandshakeError::NoCommonSuite) => Self::NoCommonSuite,
            HandshakeFailure::Failed(HandshakeError::NoCertificate) => Self::NoCertificate,
            HandshakeFailure::Failed(HandshakeError::CertificateRefused(_)) => Self::CertificateRefused,
            HandshakeFailure::Failed(HandshakeError::BadProof) => Self::BadProof,
            HandshakeFailure::Failed(HandshakeError::Alert(_)) => Self::Alert,
            HandshakeFailure::Failed(
                HandshakeError::BadHello | HandshakeError::LateCookie | HandshakeError::Protocol,
            ) => Self::Protocol,
            HandshakeFailure::Failed(HandshakeError::Internal) => Self::Internal,
        }
    }
}

/// Why an association is over, without the number of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    CloseNotify,
    Alert,
    Replaced,
    Revoked,
    Idle,
    Evicted,
    FailedTags,
    SequenceExhausted,
}

impl Closed {
    fn of(reason: AssociationCloseReason) -> Self {
        match reason {
            AssociationCloseReason::CloseNotify => Self::CloseNotify,
            AssociationCloseReason::Alert(_) => Self::Alert,
            AssociationCloseReason::Replaced => Self::Replaced,
            AssociationCloseReason::Revoked => Self::Revoked,
            AssociationCloseReason::Idle => Self::Idle,
            AssociationCloseReason::Evicted => Self::Evicted,
            AssociationCloseReason::FailedTags => Self::FailedTags,
            AssociationCloseReason::SequenceExhausted => Self::SequenceExhausted,
        }
    }
}

labels!(DtlsDatagramOutcome {
    (DtlsDatagramOutcome::Data) => r#"verdict="data""#,
    (DtlsDatagramOutcome::Handshake) => r#"verdict="handshake""#,
    (DtlsDatagramOutcome::CookieAsked) => r#"verdict="cookie_asked""#,
    (DtlsDatagramOutcome::Early) => r#"verdict="early""#,
    (DtlsDatagramOutcome::Alert) => r#"verdict="alert""#,
    (DtlsDatagramOutcome::LastFlightRepeated) => r#"verdict="last_flight_repeated""#,
    (DtlsDatagramOutcome::RenegotiationRefused) => r#"verdict="renegotiation_refused""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::NoRecord)) => r#"verdict="dropped",reason="no_record""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::NoHello)) => r#"verdict="dropped",reason="no_hello""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::Unknown)) => r#"verdict="dropped",reason="unknown""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::UnknownConnectionId)) => r#"verdict="dropped",reason="unknown_connection_id""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged)) => r#"verdict="dropped",reason="forged""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::Replayed)) => r#"verdict="dropped",reason="replayed""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::NoAcceptor)) => r#"verdict="dropped",reason="switched_off""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::TooManyHandshakes)) => r#"verdict="dropped",reason="too_many_handshakes""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::TooManyHandshakesFromAddress)) => r#"verdict="dropped",reason="too_many_from_address""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::TooMuchHeld)) => r#"verdict="dropped",reason="too_much_held""#,
    (DtlsDatagramOutcome::Dropped(DtlsDropReason::Unexpected)) => r#"verdict="dropped",reason="unexpected""#,
});

labels!(Handshake {
    (Handshake::Full) => r#"result="full""#,
    (Handshake::Resumed) => r#"result="resumed""#,
    (Handshake::Deadline) => r#"result="deadline""#,
    (Handshake::WrongKey) => r#"result="wrong_key""#,
    (Handshake::Restarted) => r#"result="restarted""#,
    (Handshake::Evicted) => r#"result="evicted""#,
    (Handshake::Revoked) => r#"result="revoked""#,
    (Handshake::UnknownIdentity) => r#"result="unknown_identity""#,
    (Handshake::KeyUnavailable) => r#"result="key_unavailable""#,
    (Handshake::NoCommonSuite) => r#"result="no_common_suite""#,
    (Handshake::NoCertificate) => r#"result="no_certificate""#,
    (Handshake::CertificateRefused) => r#"result="certificate_refused""#,
    (Handshake::BadProof) => r#"result="bad_proof""#,
    (Handshake::Alert) => r#"result="alert""#,
    (Handshake::Protocol) => r#"result="protocol""#,
    (Handshake::Internal) => r#"result="internal""#,
});

labels!(Closed {
    (Closed::CloseNotify) => r#"reason="close_notify""#,
    (Closed::Alert) => r#"reason="alert""#,
    (Closed::Replaced) => r#"reason="replaced""#,
    (Closed::Revoked) => r#"reason="revoked""#,
    (Closed::Idle) => r#"reason="idle""#,
    (Closed::Evicted) => r#"reason="evicted""#,
    (Closed::FailedTags) => r#"reason="failed_tags""#,
    (Closed::SequenceExhausted) => r#"reason="sequence_exhausted""#,
});

#[cfg(test)]
mod tests {
    use super::*;
    use lwm2m_base::{AssociationId, Peer};
    use lwm2m_dtls::cipher::Suite;
    use lwm2m_dtls::credentials::PskIdentity;
    use lwm2m_dtls::handshake::CertificateFault;

    #[test]
    fn every_report_counts_in_exactly_one_counter_of_its_own() {
        let metrics = DtlsMetrics::default();
        for (report, index) in reports().iter().zip(1..) {
            metrics.record(report);
            let counted: u64 = metrics.samples().iter().map(|sample| sample.value).sum();
            assert_eq!(counted, index, "{report:?}");
        }
        for reason in [
            AssociationCloseReason::CloseNotify,
            AssociationCloseReason::Alert(40),
            AssociationCloseReason::Replaced,
            AssociationCloseReason::Revoked,
            AssociationCloseReason::Idle,
            AssociationCloseReason::Evicted,
            AssociationCloseReason::FailedTags,
            AssociationCloseReason::SequenceExhausted,
        ] {
            metrics.closed(reason);
        }
        let untouched: Vec<_> = metrics.samples().into_iter().filter(|sample| sample.value != 1).collect();
        assert_eq!(untouched, []);
    }

    fn reports() -> Vec<DtlsReport> {
        let association = AssociationId(7);
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 5684));
        let peer = Peer { association: Some(association), ..Peer::udp(1, address) };
        let completed =
            |resumed| DtlsReport::HandshakeCompleted { peer, suite: Suite::Aes128Ccm8, connection_id: true, resumed };
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
            HandshakeFailure::Failed(HandshakeError::BadProof),
            HandshakeFailure::Failed(HandshakeError::Alert(40)),
            HandshakeFailure::Failed(HandshakeError::Protocol),
            HandshakeFailure::Failed(HandshakeError::Internal),
        ];
        let failed = failures.map(|reason| DtlsReport::HandshakeFailed { peer, identity: None, reason });
        let single = [
            DtlsReport::HandshakeBegun { peer },
            DtlsReport::HandshakeRetransmitted { peer },
            completed(false),
            completed(true),
            DtlsReport::Moved { peer, from: address, to: address },
            DtlsReport::Restored { peer },
            DtlsReport::NotRestored { association },
            DtlsReport::Unsent { association },
            DtlsReport::KeyNotAsked { identity: PskIdentity::new(b"dev-7").unwrap() },
        ];
        let datagrams = DtlsDatagramOutcome::ALL.iter().map(|&verdict| DtlsReport::Datagram { peer, verdict });
        datagrams.chain(failed).chain(single).collect()
    }
}
