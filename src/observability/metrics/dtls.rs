//! The counters of DTLS.

use lwm2m_dtls::handshake::HandshakeError;
use lwm2m_dtls::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::{ResultLabel, counter, counters};

use super::labels::{DatagramLabels, ReasonLabel};

/// Counts what DTLS reports.
#[derive(Debug)]
pub(crate) struct DtlsMetrics {
    datagrams: DtlsDatagramCounters,
    handshakes_started: Counter,
    handshakes: HandshakeCounters,
    flights_retransmitted: Counter,
    closed: CloseCounters,
    address_changes: Counter,
    restored: Counter,
    not_restored: Counter,
    messages_unsent: Counter,
    key_lookups_skipped: Counter,
}

impl DtlsMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let started = "DTLS handshakes started by clients with a valid cookie";
        let flights = "Retransmitted flights of DTLS handshakes";
        let not_restored = "DTLS associations that could not be restored after a restart";
        let unsent =
            "Messages not sent because the DTLS association of the device is closed or has no free record number";
        let skipped = "Pre-shared key lookups skipped because too many were in flight";
        Self {
            datagrams: DtlsDatagramCounters::register(registry),
            handshakes_started: counter(registry, "lwm2m_dtls_handshakes_started", started),
            handshakes: HandshakeCounters::register(registry),
            flights_retransmitted: counter(registry, "lwm2m_dtls_flights_retransmitted", flights),
            closed: CloseCounters::register(registry),
            address_changes: counter(registry, "lwm2m_dtls_address_changes", "Address changes of DTLS associations"),
            restored: counter(
                registry,
                "lwm2m_dtls_associations_restored",
                "DTLS associations restored after a restart",
            ),
            not_restored: counter(registry, "lwm2m_dtls_associations_not_restored", not_restored),
            messages_unsent: counter(registry, "lwm2m_dtls_messages_unsent", unsent),
            key_lookups_skipped: counter(registry, "lwm2m_dtls_key_lookups_skipped", skipped),
        }
    }

    /// Returns the one counter of a report.
    pub(super) fn of(&self, report: &DtlsReport) -> &Counter {
        match report {
            DtlsReport::Datagram { outcome, .. } => self.datagrams.of(*outcome),
            DtlsReport::HandshakeBegun { .. } => &self.handshakes_started,
            DtlsReport::HandshakeRetransmitted { .. } => &self.flights_retransmitted,
            DtlsReport::HandshakeCompleted { resumed: false, .. } => &self.handshakes.full,
            DtlsReport::HandshakeCompleted { resumed: true, .. } => &self.handshakes.resumed,
            DtlsReport::HandshakeFailed { reason, .. } => self.handshakes.failed(*reason),
            DtlsReport::Moved { .. } => &self.address_changes,
            DtlsReport::Restored { .. } => &self.restored,
            DtlsReport::NotRestored { .. } => &self.not_restored,
            DtlsReport::Unsent { .. } => &self.messages_unsent,
            DtlsReport::KeyNotAsked { .. } => &self.key_lookups_skipped,
        }
    }

    /// Returns the numbers of completed and of failed handshakes.
    #[cfg(feature = "console")]
    pub(super) fn handshake_totals(&self) -> (u64, u64) {
        self.handshakes.totals()
    }

    /// Returns the counter of associations that were closed for this reason.
    pub(super) fn closed(&self, reason: AssociationCloseReason) -> &Counter {
        self.closed.of(reason)
    }
}

#[derive(Debug)]
struct DtlsDatagramCounters {
    data: Counter,
    handshake: Counter,
    cookie_requested: Counter,
    early: Counter,
    alert: Counter,
    last_flight_retransmitted: Counter,
    renegotiation_refused: Counter,
    dropped: DtlsDropCounters,
}

#[derive(Debug)]
struct DtlsDropCounters {
    not_dtls: Counter,
    no_client_hello: Counter,
    unknown_association: Counter,
    unknown_connection_id: Counter,
    forged: Counter,
    replayed: Counter,
    dtls_disabled: Counter,
    too_many_handshakes: Counter,
    too_many_from_address: Counter,
    buffer_full: Counter,
    unexpected: Counter,
}

impl DtlsDatagramCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_dtls_datagrams", "Datagrams received by DTLS listeners by outcome");
        let accepted = |outcome| counters(DatagramLabels::accepted(outcome));
        Self {
            data: accepted("data"),
            handshake: accepted("handshake"),
            cookie_requested: accepted("cookie_requested"),
            early: accepted("early"),
            alert: accepted("alert"),
            last_flight_retransmitted: accepted("last_flight_retransmitted"),
            renegotiation_refused: accepted("renegotiation_refused"),
            dropped: DtlsDropCounters::new(|reason| counters(DatagramLabels::dropped(reason))),
        }
    }

    fn of(&self, outcome: DtlsDatagramOutcome) -> &Counter {
        match outcome {
            DtlsDatagramOutcome::Data => &self.data,
            DtlsDatagramOutcome::Handshake => &self.handshake,
            DtlsDatagramOutcome::CookieAsked => &self.cookie_requested,
            DtlsDatagramOutcome::Early => &self.early,
            DtlsDatagramOutcome::Alert => &self.alert,
            DtlsDatagramOutcome::LastFlightRepeated => &self.last_flight_retransmitted,
            DtlsDatagramOutcome::RenegotiationRefused => &self.renegotiation_refused,
            DtlsDatagramOutcome::Dropped(reason) => self.dropped.of(reason),
        }
    }
}

impl DtlsDropCounters {
    fn new(dropped: impl Fn(&'static str) -> Counter) -> Self {
        Self {
            not_dtls: dropped("not_dtls"),
            no_client_hello: dropped("no_client_hello"),
            unknown_association: dropped("unknown_association"),
            unknown_connection_id: dropped("unknown_connection_id"),
            forged: dropped("forged"),
            replayed: dropped("replayed"),
            dtls_disabled: dropped("dtls_disabled"),
            too_many_handshakes: dropped("too_many_handshakes"),
            too_many_from_address: dropped("too_many_from_address"),
            buffer_full: dropped("buffer_full"),
            unexpected: dropped("unexpected"),
        }
    }

    fn of(&self, reason: DtlsDropReason) -> &Counter {
        match reason {
            DtlsDropReason::NoRecord => &self.not_dtls,
            DtlsDropReason::NoHello => &self.no_client_hello,
            DtlsDropReason::Unknown => &self.unknown_association,
            DtlsDropReason::UnknownConnectionId => &self.unknown_connection_id,
            DtlsDropReason::Forged => &self.forged,
            DtlsDropReason::Replayed => &self.replayed,
            DtlsDropReason::NoAcceptor => &self.dtls_disabled,
            DtlsDropReason::TooManyHandshakes => &self.too_many_handshakes,
            DtlsDropReason::TooManyHandshakesFromAddress => &self.too_many_from_address,
            DtlsDropReason::TooMuchHeld => &self.buffer_full,
            DtlsDropReason::Unexpected => &self.unexpected,
        }
    }
}

#[derive(Debug)]
struct HandshakeCounters {
    full: Counter,
    resumed: Counter,
    timed_out: Counter,
    wrong_key: Counter,
    restarted: Counter,
    evicted: Counter,
    revoked: Counter,
    unknown_identity: Counter,
    key_unavailable: Counter,
    no_common_suite: Counter,
    no_certificate: Counter,
    certificate_refused: Counter,
    certificate_verify_failed: Counter,
    alert: Counter,
    protocol: Counter,
    internal: Counter,
}

impl HandshakeCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_dtls_handshakes", "Completed and failed DTLS handshakes by result");
        let result = |result| counters(ResultLabel { result });
        Self {
            full: result("full"),
            resumed: result("resumed"),
            timed_out: result("timed_out"),
            wrong_key: result("wrong_key"),
            restarted: result("restarted"),
            evicted: result("evicted"),
            revoked: result("revoked"),
            unknown_identity: result("unknown_identity"),
            key_unavailable: result("key_unavailable"),
            no_common_suite: result("no_common_suite"),
            no_certificate: result("no_certificate"),
            certificate_refused: result("certificate_refused"),
            certificate_verify_failed: result("certificate_verify_failed"),
            alert: result("alert"),
            protocol: result("protocol"),
            internal: result("internal"),
        }
    }

    /// Returns the numbers of completed and of failed handshakes.
    #[cfg(feature = "console")]
    fn totals(&self) -> (u64, u64) {
        let Self { full, resumed, timed_out, wrong_key, restarted, evicted, revoked, unknown_identity, .. } = self;
        let Self { key_unavailable, no_common_suite, no_certificate, certificate_refused, .. } = self;
        let Self { certificate_verify_failed, alert, protocol, internal, .. } = self;
        let ended = [timed_out, restarted, evicted, revoked, alert, protocol, internal];
        let keys = [wrong_key, unknown_identity, key_unavailable, no_common_suite];
        let certificates = [no_certificate, certificate_refused, certificate_verify_failed];
        let failed = ended.into_iter().chain(keys).chain(certificates);
        (full.get() + resumed.get(), failed.map(Counter::get).sum())
    }

    fn failed(&self, reason: HandshakeFailure) -> &Counter {
        match reason {
            HandshakeFailure::Deadline => &self.timed_out,
            HandshakeFailure::Restarted => &self.restarted,
            HandshakeFailure::Evicted => &self.evicted,
            HandshakeFailure::Revoked => &self.revoked,
            HandshakeFailure::WrongKey => &self.wrong_key,
            HandshakeFailure::KeyUnavailable => &self.key_unavailable,
            HandshakeFailure::Failed(HandshakeError::UnknownIdentity) => &self.unknown_identity,
            HandshakeFailure::Failed(HandshakeError::NoCommonSuite) => &self.no_common_suite,
            HandshakeFailure::Failed(HandshakeError::NoCertificate) => &self.no_certificate,
            HandshakeFailure::Failed(HandshakeError::CertificateRefused(_)) => &self.certificate_refused,
            HandshakeFailure::Failed(HandshakeError::CertificateVerifyFailed) => &self.certificate_verify_failed,
            HandshakeFailure::Failed(HandshakeError::Alert(_)) => &self.alert,
            HandshakeFailure::Failed(
                HandshakeError::BadHello | HandshakeError::LateCookie | HandshakeError::Protocol,
            ) => &self.protocol,
            HandshakeFailure::Failed(HandshakeError::Internal) => &self.internal,
        }
    }
}

#[derive(Debug)]
struct CloseCounters {
    close_notify: Counter,
    alert: Counter,
    replaced: Counter,
    revoked: Counter,
    idle: Counter,
    evicted: Counter,
    too_many_forged: Counter,
    sequence_exhausted: Counter,
}

impl CloseCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_dtls_associations_closed", "Closed DTLS associations by reason");
        let reason = |reason| counters(ReasonLabel { reason });
        Self {
            close_notify: reason("close_notify"),
            alert: reason("alert"),
            replaced: reason("replaced"),
            revoked: reason("revoked"),
            idle: reason("idle"),
            evicted: reason("evicted"),
            too_many_forged: reason("too_many_forged"),
            sequence_exhausted: reason("sequence_exhausted"),
        }
    }

    fn of(&self, reason: AssociationCloseReason) -> &Counter {
        match reason {
            AssociationCloseReason::CloseNotify => &self.close_notify,
            AssociationCloseReason::Alert(_) => &self.alert,
            AssociationCloseReason::Replaced => &self.replaced,
            AssociationCloseReason::Revoked => &self.revoked,
            AssociationCloseReason::Idle => &self.idle,
            AssociationCloseReason::Evicted => &self.evicted,
            AssociationCloseReason::TooManyForged => &self.too_many_forged,
            AssociationCloseReason::SequenceExhausted => &self.sequence_exhausted,
        }
    }
}
