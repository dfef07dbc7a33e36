//! Outcomes and reasons in words for the log.

use lwm2m_core::gateway::broker::CloseReason;
use lwm2m_core::gateway::report::{CommandOutcome, DatagramOutcome, DropReason, Forbidden, LeaveReason, NotRestored};
use lwm2m_dtls::cipher::Suite;
use lwm2m_dtls::handshake::{CertificateFault, HandshakeError};
use lwm2m_dtls::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, HandshakeFailure};

pub(crate) fn datagram_outcome(outcome: DatagramOutcome) -> String {
    let words = match outcome {
        DatagramOutcome::Request => "request",
        DatagramOutcome::Response => "response",
        DatagramOutcome::Notification => "notification",
        DatagramOutcome::Acknowledgement => "acknowledgement",
        DatagramOutcome::Reset => "reset",
        DatagramOutcome::Ping => "ping",
        DatagramOutcome::Duplicate => "duplicate, the reply was sent again",
        DatagramOutcome::Refused => "request refused",
        DatagramOutcome::Dropped(reason) => return drop_reason(reason),
    };
    words.to_owned()
}

pub(crate) fn drop_reason(reason: DropReason) -> String {
    let words = match reason {
        DropReason::NoMessage(error) => return format!("no CoAP message: {error}"),
        DropReason::Unexpected => "it matches no message of the gateway",
        DropReason::StaleNotification => "a newer notification was received before",
        DropReason::InvalidCodeForType => "the code is not allowed for the message type",
        DropReason::CriticalOption => "unknown critical option",
        DropReason::TooManyRequests => "too many unanswered requests (coap.pending_requests)",
        DropReason::RateLimited => "rate limit of unregistered peers (limits.registers, limits.unregistered)",
        DropReason::DeviceRateLimited => "rate limit of registered devices (limits.registered)",
    };
    words.to_owned()
}

pub(crate) fn command_outcome(outcome: CommandOutcome) -> &'static str {
    match outcome {
        CommandOutcome::Answered => "answered",
        CommandOutcome::Reset => "reset by the device",
        CommandOutcome::TimedOut => "timed out",
        CommandOutcome::Refused => "refused by the gateway",
        CommandOutcome::Expired => "expired while pending",
        CommandOutcome::QueueFull => "queue full",
        CommandOutcome::Withdrawn => "withdrawn by an operator",
        CommandOutcome::DuplicateRetained => "retained command executed before",
        CommandOutcome::Redelivered => "command delivered again by the broker after a restart",
        CommandOutcome::TransferFailed => "block-wise transfer failed",
        CommandOutcome::MalformedAnswer => "malformed answer",
    }
}

pub(crate) fn leave_reason(reason: LeaveReason) -> &'static str {
    match reason {
        LeaveReason::Deregistered => "de-registered",
        LeaveReason::LifetimeOver => "lifetime expired",
        LeaveReason::Replaced => "replaced by a new registration",
        LeaveReason::Evicted => "evicted after a long silence: limits.devices is reached",
        LeaveReason::Operator => "ended by an operator",
        LeaveReason::Broker(CloseReason::Kicked) => "kicked by the broker",
        LeaveReason::Broker(CloseReason::Discarded) => "another client connected with its client ID",
        LeaveReason::Broker(CloseReason::Expired) => "authentication at the broker expired",
        LeaveReason::Broker(CloseReason::Refused) => "refused by the broker",
    }
}

pub(crate) fn not_restored_reason(reason: NotRestored) -> &'static str {
    match reason {
        NotRestored::LifetimeOver => "lifetime expired",
        NotRestored::NoTopics => "the configuration gives no valid topics for this device",
        NotRestored::TooMany => "limits.devices is reached",
        NotRestored::TooLarge => "larger than limits.registration_size",
    }
}

pub(crate) fn forbidden_reason(reason: Forbidden) -> &'static str {
    match reason {
        Forbidden::OtherName => "the DTLS identity belongs to another endpoint name (dtls.identity)",
        Forbidden::OtherIdentity => "the registration belongs to another DTLS identity",
        Forbidden::Unsecured => "the endpoint name is registered over DTLS",
        Forbidden::HasKey => "the endpoint name has a key of its own, and the device does not use DTLS",
        Forbidden::BootstrapOnly => "the listener or the identity is for bootstrap only",
    }
}

/// Returns the problem if a handshake failed because of credentials.
pub(crate) fn credential_problem(reason: HandshakeFailure) -> Option<&'static str> {
    match reason {
        HandshakeFailure::WrongKey => Some("the device has another key for this identity"),
        HandshakeFailure::Revoked => Some("the key of this identity has changed"),
        HandshakeFailure::KeyUnavailable => Some("the key could not be looked up (dtls.psk_http)"),
        HandshakeFailure::Failed(failure) => credential_problem_of(failure),
        HandshakeFailure::Deadline | HandshakeFailure::Evicted | HandshakeFailure::Restarted => None,
    }
}

fn credential_problem_of(failure: HandshakeError) -> Option<&'static str> {
    match failure {
        HandshakeError::UnknownIdentity => Some("no key is known for this identity"),
        HandshakeError::NoCommonSuite => Some("no cipher suite in common (dtls.ciphers)"),
        HandshakeError::NoCertificate => Some("the device has no certificate"),
        HandshakeError::CertificateVerifyFailed => Some("the device does not have the key of its certificate"),
        HandshakeError::CertificateRefused(fault) => Some(match fault {
            CertificateFault::Expired => "the certificate of the device has expired",
            CertificateFault::NotYetValid => "the certificate of the device is not valid yet",
            CertificateFault::UnknownAuthority => "the certificate of the device is from an unknown authority",
            CertificateFault::UnknownKey => "the public key of the device is unknown (dtls.pinned)",
            CertificateFault::BadSignature => "the signature of the device's certificate is wrong",
            CertificateFault::Purpose => "the certificate of the device is not for clients",
            CertificateFault::Revoked => "the certificate of the device is revoked",
            CertificateFault::Other(_) => "the certificate of the device was refused",
        }),
        HandshakeError::Alert(_)
        | HandshakeError::BadHello
        | HandshakeError::LateCookie
        | HandshakeError::Protocol
        | HandshakeError::Internal => None,
    }
}

/// Returns the reason of a failed handshake, whichever side caused it.
pub(crate) fn handshake_failure(failure: HandshakeFailure) -> String {
    let words = match failure {
        HandshakeFailure::Deadline => "timed out",
        HandshakeFailure::WrongKey => "the device has another key for this identity",
        HandshakeFailure::Restarted => "the client started another handshake",
        HandshakeFailure::Evicted => "evicted for another handshake (dtls.handshakes)",
        HandshakeFailure::Revoked => "the key of this identity has changed",
        HandshakeFailure::KeyUnavailable => "the key could not be looked up (dtls.psk_http)",
        HandshakeFailure::Failed(error) => return error.to_string(),
    };
    words.to_owned()
}

pub(crate) fn dtls_datagram_outcome(outcome: DtlsDatagramOutcome) -> &'static str {
    match outcome {
        DtlsDatagramOutcome::Data => "data",
        DtlsDatagramOutcome::Handshake => "handshake",
        DtlsDatagramOutcome::CookieAsked => "hello without a valid cookie, a cookie was sent",
        DtlsDatagramOutcome::Early => "kept until the handshake is complete",
        DtlsDatagramOutcome::Alert => "alert",
        DtlsDatagramOutcome::LastFlightRepeated => "last flight sent again",
        DtlsDatagramOutcome::RenegotiationRefused => "renegotiation refused",
        DtlsDatagramOutcome::Dropped(reason) => dtls_drop_reason(reason),
    }
}

pub(crate) fn dtls_drop_reason(reason: DtlsDropReason) -> &'static str {
    match reason {
        DtlsDropReason::NoRecord => "no DTLS record",
        DtlsDropReason::NoHello => "malformed ClientHello",
        DtlsDropReason::Unknown => "it belongs to no association and no handshake",
        DtlsDropReason::UnknownConnectionId => "unknown connection ID",
        DtlsDropReason::Forged => "not authentic",
        DtlsDropReason::Replayed => "received before, or too old",
        DtlsDropReason::NoAcceptor => "DTLS is disabled",
        DtlsDropReason::TooManyHandshakes => "too many handshakes",
        DtlsDropReason::TooManyHandshakesFromAddress => "too many handshakes from this address",
        DtlsDropReason::TooMuchHeld => "too much was sent before the end of the handshake",
        DtlsDropReason::Unexpected => "unexpected record",
    }
}

pub(crate) fn close_reason(reason: AssociationCloseReason) -> String {
    let words = match reason {
        AssociationCloseReason::CloseNotify => "closed by the device",
        AssociationCloseReason::Alert(number) => return format!("fatal alert {number} of the device"),
        AssociationCloseReason::Replaced => "replaced by a newer association",
        AssociationCloseReason::Revoked => "the key of the device was revoked",
        AssociationCloseReason::Idle => "idle (dtls.idle_timeout)",
        AssociationCloseReason::Evicted => "evicted for a newer association (dtls.associations)",
        AssociationCloseReason::TooManyForged => "too many records that are not authentic",
        AssociationCloseReason::SequenceExhausted => "sequence numbers exhausted",
    };
    words.to_owned()
}

/// Returns the name of a suite without its key exchange.
pub(crate) fn suite_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes128Ccm8 => "AES_128_CCM_8",
        Suite::Aes128Ccm => "AES_128_CCM",
        Suite::Aes128Gcm => "AES_128_GCM_SHA256",
        Suite::Aes128CbcSha256 => "AES_128_CBC_SHA256",
        Suite::Aes256Ccm8 => "AES_256_CCM_8",
        Suite::Aes256Ccm => "AES_256_CCM",
        Suite::Aes256Gcm => "AES_256_GCM_SHA384",
        Suite::Aes256CbcSha384 => "AES_256_CBC_SHA384",
    }
}
