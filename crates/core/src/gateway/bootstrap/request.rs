//! Reads and authorizes requests for bootstrap (OMA LwM2M Core 1.1 section 6.1.6.1, 1.2 section 6.1.8).
//! 6.1.8).

use crate::coap::options::number;
use crate::coap::{Code, Message, Request};
use crate::lwm2m::content_format::ContentFormat;
use lwm2m_base::Peer;
use lwm2m_base::identity::Identity;
use lwm2m_dtls::credentials::KeyKind;

use crate::gateway::config::{BootstrapConfig, SocketRole};
use crate::gateway::context::Context;
use crate::gateway::identity::names;
use crate::gateway::report::{BootstrapRefusal, Forbidden};

/// The path of requests for a session.
pub(super) const PATH: &str = "bs";
/// The path of requests for a pack.
const PACK_PATH: &str = "bspack";

/// The maximum length of an endpoint name in bytes, as in a Register.
const LONGEST_NAME: usize = 255;

/// The reason of a session that failed because the store does not have its generated key.
pub(super) const UNSTORED: &str = "the store has not written the generated key";

/// Returns whether a request is for bootstrap.
pub(in crate::gateway) fn is_bootstrap(request: &Request) -> bool {
    request.options.all(number::URI_PATH).eq([PATH.as_bytes()]) || is_pack(request)
}

/// Returns whether a message asks for a session.
pub(in crate::gateway) fn begins_session(message: &Message) -> bool {
    message.code == Code::POST && message.options.all(number::URI_PATH).eq([PATH.as_bytes()])
}

pub(super) fn is_pack(request: &Request) -> bool {
    request.options.all(number::URI_PATH).eq([PACK_PATH.as_bytes()])
}

/// A device's request for bootstrap, checked.
pub(super) struct BootstrapRequest {
    pub endpoint: String,
    /// The format that the device prefers (`pct`).
    pub format: Option<ContentFormat>,
}

impl BootstrapRequest {
    /// Reads the query. The identity of the peer may stand for the endpoint name if the query has none.
    pub(super) fn read(request: &Request, known_as: Option<&str>) -> Result<Self, BootstrapRefusal> {
        let items = request.options.texts(number::URI_QUERY).map_err(|_| BootstrapRefusal::Malformed)?;
        let item = |name: &str| items.iter().find_map(|item| item.strip_prefix(name)?.strip_prefix('='));
        let endpoint = item("ep").or(known_as).ok_or(BootstrapRefusal::NoEndpoint)?;
        if endpoint.is_empty() || endpoint.len() > LONGEST_NAME || endpoint.chars().any(char::is_control) {
            return Err(BootstrapRefusal::Malformed);
        }
        let format = item("pct").map(preferred).transpose()?;
        Ok(Self { endpoint: endpoint.to_owned(), format })
    }
}

fn preferred(number: &str) -> Result<ContentFormat, BootstrapRefusal> {
    let format = number.parse().ok().and_then(|number| ContentFormat::from_number(number).ok());
    format.filter(|format| crate::bootstrap::file::is_writable(*format)).ok_or(BootstrapRefusal::Format)
}

/// Returns the format of a Bootstrap-Pack that the request accepts.
pub(super) fn accepted(request: &Request) -> Result<ContentFormat, BootstrapRefusal> {
    let number = request.options.uint(number::ACCEPT).ok().flatten();
    let format = number.and_then(|number| ContentFormat::from_number(number.into()).ok());
    let is_packed = |format: &ContentFormat| {
        matches!(format, ContentFormat::SenmlJson | ContentFormat::SenmlCbor | ContentFormat::Lwm2mCbor)
    };
    format.filter(is_packed).ok_or(BootstrapRefusal::NotAcceptable)
}

/// Returns why this peer may not ask bootstrap for an endpoint name.
pub(super) fn forbids(
    config: &BootstrapConfig,
    endpoint: &str,
    (context, peer, identity): (&Context, Peer, Option<&Identity>),
) -> Option<BootstrapRefusal> {
    let Some(identity) = identity else {
        // The association was closed between its last record and this answer.
        return peer.association.map(|_| BootstrapRefusal::OtherIdentity);
    };
    let is_for_bootstrap = is_for_bootstrap(context, peer, identity);
    let is_allowed = is_for_bootstrap && config.identity.allows(identity, endpoint);
    (!is_allowed).then_some(BootstrapRefusal::OtherIdentity)
}

/// Returns whether the credentials of a peer are for bootstrap only: a key of `bootstrap.psk_file`, or a certificate or
/// raw public key that `bootstrap.certificates` names.
pub(in crate::gateway) fn is_for_bootstrap(context: &Context, peer: Peer, identity: &Identity) -> bool {
    match identity {
        Identity::Psk(_) => context.key_kind(peer) == Some(KeyKind::Bootstrap),
        Identity::Certificate { .. } | Identity::RawPublicKey { .. } => {
            let patterns = context.config.bootstrap.as_ref().map(|config| config.certificates.as_slice());
            names(identity).any(|name| patterns.unwrap_or_default().iter().any(|pattern| pattern.matches(name)))
        }
        Identity::Unknown => false,
    }
}

/// Returns why a peer may not send this request, which is not for bootstrap: its socket or its credentials are for
/// bootstrap only.
pub(in crate::gateway) fn forbids_other(context: &Context, peer: Peer) -> Option<Forbidden> {
    let identity = context.identity(peer);
    let is_for_bootstrap = identity.is_some_and(|identity| is_for_bootstrap(context, peer, &identity));
    let is_elsewhere = context.config.role_of(peer.socket) == SocketRole::Bootstrap;
    (is_for_bootstrap || is_elsewhere).then_some(Forbidden::BootstrapOnly)
}

impl BootstrapRefusal {
    /// Returns the code of the answer to a request for a session.
    pub(super) fn code(self) -> Code {
        match self {
            Self::Off | Self::NotAcceptable => Code::NOT_FOUND,
            Self::Method => Code::METHOD_NOT_ALLOWED,
            Self::Format => Code::UNSUPPORTED_CONTENT_FORMAT,
            Self::Malformed
            | Self::NoEndpoint
            | Self::NoAccount
            | Self::OtherIdentity
            | Self::Plaintext
            | Self::SecondKind
            | Self::Secured
            | Self::Unwritable => Code::BAD_REQUEST,
            Self::AccountsAwaited | Self::Busy | Self::TooManyKeys | Self::Unstored | Self::Stopping => {
                Code::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Returns the code of the answer to a request for a pack, where it differs.
    pub(super) fn code_of_pack(self) -> Code {
        match self {
            Self::Off => Code::NOT_IMPLEMENTED,
            Self::NotAcceptable => Code::NOT_ACCEPTABLE,
            Self::NoAccount => Code::NOT_FOUND,
            // The device asks for a session then, whose first answer proves its address.
            Self::TooManyKeys => Code::NOT_IMPLEMENTED,
            other => other.code(),
        }
    }

    /// Returns the reason as a text for the device and the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Off => "bootstrap is off",
            Self::Method => "the method is not allowed",
            Self::NotAcceptable => "a pack is SenML CBOR, SenML JSON or LwM2M CBOR",
            Self::Format => "pct is not a format of bootstrap",
            Self::Malformed => "the query is malformed",
            Self::NoEndpoint => "the query item ep is missing",
            Self::AccountsAwaited => "the accounts have not come from the broker yet",
            Self::NoAccount => "no account for this endpoint name",
            Self::OtherIdentity => "the identity is not for this endpoint name, or not for bootstrap",
            Self::Plaintext => "the account has secrets: use DTLS",
            Self::SecondKind => "the account has an identity of bootstrap.psk_file",
            Self::Secured => "a session over DTLS is running",
            Self::Unwritable => "the account does not fit this endpoint name",
            Self::Busy => "too many sessions",
            Self::TooManyKeys => "too many generated keys",
            Self::Unstored => UNSTORED,
            Self::Stopping => "the gateway is stopping",
        }
    }
}
