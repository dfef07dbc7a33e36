//! Why a handshake came to nothing.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::ssl;
use openssl::x509::X509VerifyResult;

/// Why a handshake failed; the client was told by an alert, but for its own alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No key belongs to the PSK identity, or it is none (RFC 4279 section 5.1: UTF-8).
    UnknownIdentity,
    /// The client offers no cipher suite that is both allowed and possible with our credentials. So it is with a client
    /// whose suites all need encrypt-then-MAC (RFC 7366) and which does not offer that.
    NoCommonSuite,
    /// A certificate is required and the client has none.
    NoCertificate,
    CertificateRefused(CertificateFault),
    /// Something that was to prove the client's key, or its Finished, does not.
    BadProof,
    /// The client gave up, with this alert (RFC 5246 section 7.2).
    Alert(u8),
    /// The hello is too large, or not one.
    BadHello,
    /// What the client sent is against the protocol.
    Protocol,
    /// The library could not go on, by no fault of the client.
    Internal,
}

/// What is wrong with a certificate or a raw public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateFault {
    Expired,
    NotYetValid,
    /// No authority that we trust stands behind it.
    UnknownAuthority,
    /// A raw public key that is none of those configured.
    UnknownKey,
    BadSignature,
    /// Not made for clients.
    Purpose,
    Revoked,
    /// Another one, by OpenSSL's number (`X509_V_ERR_`).
    Other(i32),
}

impl CertificateFault {
    pub(super) fn of(result: X509VerifyResult) -> Self {
        match result.as_raw() {
            10 => Self::Expired,
            9 => Self::NotYetValid,
            2 | 18..=21 | 27 => Self::UnknownAuthority,
            RPK_UNTRUSTED => Self::UnknownKey,
            7 => Self::BadSignature,
            26 | 79 => Self::Purpose,
            23 => Self::Revoked,
            other => Self::Other(other),
        }
    }
}

/// `X509_V_ERR_RPK_UNTRUSTED`, of OpenSSL 3.2.
const RPK_UNTRUSTED: i32 = 95;

/// `ERR_LIB_SSL`.
const LIBRARY_SSL: i32 = 20;
/// An alert of the peer is this and its number (`SSL_AD_REASON_OFFSET`).
const REASON_ALERT: i32 = 1000;

impl Failure {
    /// What OpenSSL says about an `accept` that failed, with the result of verifying the client's certificate.
    pub(super) fn of(error: &ssl::Error, verified: X509VerifyResult) -> Self {
        let reasons = error.ssl_error().map(ErrorStack::errors).unwrap_or_default();
        // The first one is the cause, the others are its consequences.
        let first = reasons.iter().find(|reason| reason.library_code() == LIBRARY_SSL);
        let Some(first) = first else { return Self::Internal };
        match first.reason_code() {
            223 => Self::UnknownIdentity,
            // SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, _NO_SUITABLE_SIGNATURE_ALGORITHM, _GROUPS.
            193 | 376 | 118 | 410 => Self::NoCommonSuite,
            199 => Self::NoCertificate,
            134 => Self::CertificateRefused(CertificateFault::of(verified)),
            // SSL_R_DIGEST_CHECK_FAILED, SSL_R_BAD_SIGNATURE.
            149 | 123 => Self::BadProof,
            68 => Self::Internal,
            alert @ REASON_ALERT..=1255 => u8::try_from(alert - REASON_ALERT).map_or(Self::Protocol, Self::Alert),
            _ => Self::Protocol,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownIdentity => f.write_str("unknown PSK identity"),
            Self::NoCommonSuite => f.write_str("no common cipher suite"),
            Self::NoCertificate => f.write_str("no client certificate"),
            Self::CertificateRefused(fault) => write!(f, "client certificate refused: {fault}"),
            Self::BadProof => f.write_str("a signature or the Finished is wrong"),
            Self::Alert(number) => write!(f, "the client gave up with alert {number}"),
            Self::BadHello => f.write_str("bad hello"),
            Self::Protocol => f.write_str("protocol error"),
            Self::Internal => f.write_str("internal error"),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::UnknownAuthority => "unknown authority",
            Self::UnknownKey => "unknown raw public key",
            Self::BadSignature => "bad signature",
            Self::Purpose => "not for clients",
            Self::Revoked => "revoked",
            Self::Other(number) => return write!(f, "verify error {number}"),
        })
    }
}
