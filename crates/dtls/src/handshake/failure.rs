//! Handshake failure reasons.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::ssl::{self, ErrorCode};
use openssl::x509::X509VerifyResult;
use openssl_sys as sys;

/// The reason of a failed handshake. The client received an alert, unless it sent one itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeError {
    /// No key belongs to the PSK identity, or it is none (RFC 4279 section 5.1: UTF-8).
    UnknownIdentity,
    /// The client offers no cipher suite that is both allowed and possible with our credentials. So it is with a client
    /// whose suites all need encrypt-then-MAC (RFC 7366) and which does not offer that.
    NoCommonSuite,
    /// A certificate is required and the client has none.
    NoCertificate,
    CertificateRefused(CertificateFault),
    /// Something that was to prove the client's key, or its Finished, does not.
    CertificateVerifyFailed,
    /// The client gave up, with this alert (RFC 5246 section 7.2).
    Alert(u8),
    /// The hello is too large, or not one.
    BadHello,
    /// The client had to be asked for a cookie twice, because its first cookie was of another process or two minutes
    /// old. OpenSSL cannot continue its numbers from there; the client gets an alert, so that it begins again at once.
    LateCookie,
    /// The client violated the protocol.
    Protocol,
    /// OpenSSL failed, through no fault of the client.
    Internal,
}

/// The reason why a certificate or a raw public key is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateFault {
    Expired,
    NotYetValid,
    /// No authority that we trust stands behind it.
    UnknownAuthority,
    /// A raw public key that is none of those configured.
    UnknownKey,
    BadSignature,
    /// The certificate is not made for clients.
    Purpose,
    Revoked,
    /// Another one, by OpenSSL's number (`X509_V_ERR_`).
    Other(i32),
}

impl HandshakeError {
    /// Translates the error of a failed `accept` and the result of verifying the client's certificate.
    pub(super) fn of(error: &ssl::Error, verified: X509VerifyResult) -> Self {
        if error.code() == ErrorCode::ZERO_RETURN {
            return Self::Alert(CLOSE_NOTIFY);
        }
        let reasons = error.ssl_error().map(ErrorStack::errors).unwrap_or_default();
        // The first one is the cause, the others are its consequences.
        let cause = reasons.iter().find(|reason| reason.library_code() == LIBRARY_SSL);
        let Some(cause) = cause else { return Self::Internal };
        match cause.reason_code() {
            reason::PSK_IDENTITY_NOT_FOUND => Self::UnknownIdentity,
            reason::NO_SHARED_CIPHER
            | reason::NO_SHARED_SIGNATURE_ALGORITHMS
            | reason::NO_SUITABLE_SIGNATURE_ALGORITHM
            | reason::NO_SHARED_GROUPS => Self::NoCommonSuite,
            reason::PEER_DID_NOT_RETURN_A_CERTIFICATE => Self::NoCertificate,
            reason::CERTIFICATE_VERIFY_FAILED => Self::CertificateRefused(CertificateFault::of(verified)),
            reason::DIGEST_CHECK_FAILED | reason::BAD_SIGNATURE => Self::CertificateVerifyFailed,
            reason::INTERNAL_ERROR => Self::Internal,
            alert @ sys::SSL_AD_REASON_OFFSET.. => {
                u8::try_from(alert - sys::SSL_AD_REASON_OFFSET).map_or(Self::Protocol, Self::Alert)
            }
            _ => Self::Protocol,
        }
    }
}

impl CertificateFault {
    fn of(result: X509VerifyResult) -> Self {
        match result.as_raw() {
            sys::X509_V_ERR_CERT_HAS_EXPIRED => Self::Expired,
            sys::X509_V_ERR_CERT_NOT_YET_VALID => Self::NotYetValid,
            sys::X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
            | sys::X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
            | sys::X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
            | sys::X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
            | sys::X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
            | sys::X509_V_ERR_CERT_UNTRUSTED => Self::UnknownAuthority,
            RAW_PUBLIC_KEY_UNTRUSTED => Self::UnknownKey,
            sys::X509_V_ERR_CERT_SIGNATURE_FAILURE => Self::BadSignature,
            sys::X509_V_ERR_INVALID_PURPOSE | sys::X509_V_ERR_INVALID_CA => Self::Purpose,
            sys::X509_V_ERR_CERT_REVOKED => Self::Revoked,
            other => Self::Other(other),
        }
    }
}

/// `ERR_LIB_SSL`
const LIBRARY_SSL: i32 = 20;
/// `X509_V_ERR_RPK_UNTRUSTED`, of OpenSSL 3.2.
const RAW_PUBLIC_KEY_UNTRUSTED: i32 = 95;
/// The alert (RFC 5246 section 7.2.1).
const CLOSE_NOTIFY: u8 = 0;

/// `SSL_R_`: the reasons that OpenSSL gives (`sslerr.h`).
mod reason {
    pub(super) const INTERNAL_ERROR: i32 = 68;
    pub(crate) const NO_SUITABLE_SIGNATURE_ALGORITHM: i32 = 118;
    pub(crate) const BAD_SIGNATURE: i32 = 123;
    pub(crate) const CERTIFICATE_VERIFY_FAILED: i32 = 134;
    pub(crate) const DIGEST_CHECK_FAILED: i32 = 149;
    pub(crate) const NO_SHARED_CIPHER: i32 = 193;
    pub(crate) const PEER_DID_NOT_RETURN_A_CERTIFICATE: i32 = 199;
    pub(crate) const PSK_IDENTITY_NOT_FOUND: i32 = 223;
    pub(crate) const NO_SHARED_SIGNATURE_ALGORITHMS: i32 = 376;
    pub(crate) const NO_SHARED_GROUPS: i32 = 410;
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownIdentity => f.write_str("unknown PSK identity"),
            Self::NoCommonSuite => f.write_str("no common cipher suite"),
            Self::NoCertificate => f.write_str("no client certificate"),
            Self::CertificateRefused(fault) => write!(f, "client certificate refused: {fault}"),
            Self::CertificateVerifyFailed => f.write_str("a signature or the Finished is wrong"),
            Self::Alert(number) => write!(f, "the client gave up with alert {number}"),
            Self::BadHello => f.write_str("bad hello"),
            Self::LateCookie => f.write_str("the cookie came too late"),
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
