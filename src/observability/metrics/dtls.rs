//! The counters of DTLS.

use lwm2m_dtls::handshake::Failure;
use lwm2m_dtls::{CloseReason, DropReason, HandshakeFailure, Report, Verdict};

use super::reports::{Counters, Label, alone, labels};
use super::{Counter, Sample};

/// What DTLS reports.
#[derive(Debug, Default)]
pub struct DtlsMetrics {
    datagrams: Counters<Verdict>,
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
    pub fn record(&self, report: &Report) {
        match report {
            Report::Datagram { verdict, .. } => self.datagrams.increment(*verdict),
            Report::HandshakeBegun { .. } => self.handshakes_begun.increment(),
            Report::HandshakeRetransmitted { .. } => self.flights_repeated.increment(),
            Report::HandshakeCompleted { resumed, .. } => self.handshakes.increment(Handshake::completed(*resumed)),
            Report::HandshakeFailed { reason, .. } => self.handshakes.increment(Handshake::failed(*reason)),
            Report::Moved { .. } => self.moves.increment(),
            Report::Restored { .. } => self.restored.increment(),
            Report::NotRestored { .. } => self.not_restored.increment(),
            Report::Unsent { .. } => self.unsent.increment(),
            Report::KeyNotAsked { .. } => self.keys_not_asked.increment(),
        }
    }

    pub fn closed(&self, reason: CloseReason) {
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
            HandshakeFailure::Failed(Failure::UnknownIdentity) => Self::UnknownIdentity,
            HandshakeFailure::Failed(Failure::NoCommonSuite) => Self::NoCommonSuite,
            HandshakeFailure::Failed(Failure::NoCertificate) => Self::NoCertificate,
            HandshakeFailure::Failed(Failure::CertificateRefused(_)) => Self::CertificateRefused,
            HandshakeFailure::Failed(Failure::BadProof) => Self::BadProof,
            HandshakeFailure::Failed(Failure::Alert(_)) => Self::Alert,
            HandshakeFailure::Failed(Failure::BadHello | Failure::LateCookie | Failure::Protocol) => Self::Protocol,
            HandshakeFailure::Failed(Failure::Internal) => Self::Internal,
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
    fn of(reason: CloseReason) -> Self {
        match reason {
            CloseReason::CloseNotify => Self::CloseNotify,
            CloseReason::Alert(_) => Self::Alert,
            CloseReason::Replaced => Self::Replaced,
            CloseReason::Revoked => Self::Revoked,
            CloseReason::Idle => Self::Idle,
            CloseReason::Evicted => Self::Evicted,
            CloseReason::FailedTags => Self::FailedTags,
            CloseReason::SequenceExhausted => Self::SequenceExhausted,
        }
    }
}

labels!(Verdict {
    (Verdict::Data) => r#"verdict="data""#,
    (Verdict::Handshake) => r#"verdict="handshake""#,
    (Verdict::CookieAsked) => r#"verdict="cookie_asked""#,
    (Verdict::Early) => r#"verdict="early""#,
    (Verdict::Alert) => r#"verdict="alert""#,
    (Verdict::LastFlightRepeated) => r#"verdict="last_flight_repeated""#,
    (Verdict::RenegotiationRefused) => r#"verdict="renegotiation_refused""#,
    (Verdict::Dropped(DropReason::NoRecord)) => r#"verdict="dropped",reason="no_record""#,
    (Verdict::Dropped(DropReason::NoHello)) => r#"verdict="dropped",reason="no_hello""#,
    (Verdict::Dropped(DropReason::Unknown)) => r#"verdict="dropped",reason="unknown""#,
    (Verdict::Dropped(DropReason::UnknownConnectionId)) => r#"verdict="dropped",reason="unknown_connection_id""#,
    (Verdict::Dropped(DropReason::Forged)) => r#"verdict="dropped",reason="forged""#,
    (Verdict::Dropped(DropReason::Replayed)) => r#"verdict="dropped",reason="replayed""#,
    (Verdict::Dropped(DropReason::NoAcceptor)) => r#"verdict="dropped",reason="switched_off""#,
    (Verdict::Dropped(DropReason::TooManyHandshakes)) => r#"verdict="dropped",reason="too_many_handshakes""#,
    (Verdict::Dropped(DropReason::TooManyHandshakesFromAddress)) => r#"verdict="dropped",reason="too_many_from_address""#,
    (Verdict::Dropped(DropReason::TooMuchHeld)) => r#"verdict="dropped",reason="too_much_held""#,
    (Verdict::Dropped(DropReason::Unexpected)) => r#"verdict="dropped",reason="unexpected""#,
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
            CloseReason::CloseNotify,
            CloseReason::Alert(40),
            CloseReason::Replaced,
            CloseReason::Revoked,
            CloseReason::Idle,
            CloseReason::Evicted,
            CloseReason::FailedTags,
            CloseReason::SequenceExhausted,
        ] {
            metrics.closed(reason);
        }
        let untouched: Vec<_> = metrics.samples().into_iter().filter(|sample| sample.value != 1).collect();
        assert_eq!(untouched, []);
    }

    fn reports() -> Vec<Report> {
        let association = AssociationId(7);
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 5684));
        let peer = Peer { association: Some(association), ..Peer::udp(1, address) };
        let completed =
            |resumed| Report::HandshakeCompleted { peer, suite: Suite::Aes128Ccm8, connection_id: true, resumed };
        let failures = [
            HandshakeFailure::Deadline,
            HandshakeFailure::Restarted,
            HandshakeFailure::Evicted,
            HandshakeFailure::Revoked,
            HandshakeFailure::WrongKey,
            HandshakeFailure::Failed(Failure::UnknownIdentity),
            HandshakeFailure::KeyUnavailable,
            HandshakeFailure::Failed(Failure::NoCommonSuite),
            HandshakeFailure::Failed(Failure::NoCertificate),
            HandshakeFailure::Failed(Failure::CertificateRefused(CertificateFault::Expired)),
            HandshakeFailure::Failed(Failure::BadProof),
            HandshakeFailure::Failed(Failure::Alert(40)),
            HandshakeFailure::Failed(Failure::Protocol),
            HandshakeFailure::Failed(Failure::Internal),
        ];
        let failed = failures.map(|reason| Report::HandshakeFailed { peer, identity: None, reason });
        let single = [
            Report::HandshakeBegun { peer },
            Report::HandshakeRetransmitted { peer },
            completed(false),
            completed(true),
            Report::Moved { peer, from: address, to: address },
            Report::Restored { peer },
            Report::NotRestored { association },
            Report::Unsent { association },
            Report::KeyNotAsked { identity: PskIdentity::new(b"dev-7").unwrap() },
        ];
        let datagrams = Verdict::ALL.iter().map(|&verdict| Report::Datagram { peer, verdict });
        datagrams.chain(failed).chain(single).collect()
    }
}
