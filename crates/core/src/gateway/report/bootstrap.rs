//! Reports of the bootstrap server. None has a key.

use std::fmt;
use std::time::Duration;

use crate::coap::Code;
use crate::lwm2m::path::Path;
use lwm2m_base::Peer;
use lwm2m_base::identity::PskIdentity;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapReport {
    /// A session has begun.
    Started {
        endpoint: String,
        peer: Peer,
    },
    /// The device accepted all requests of the session.
    Finished {
        endpoint: String,
        peer: Peer,
        took: Duration,
    },
    /// The session has ended at this step.
    Failed {
        endpoint: String,
        peer: Peer,
        step: BootstrapStep,
        /// The answer of the device, if there was one.
        code: Option<Code>,
        reason: String,
    },
    /// A request for a session or for a pack was answered with this code.
    Rejected {
        peer: Peer,
        endpoint: Option<String>,
        code: Code,
        refusal: BootstrapRefusal,
    },
    /// The servers that were read back differ from those that were written.
    Differs {
        endpoint: String,
        reason: String,
    },
    /// An application published the account of an endpoint name.
    AccountSet {
        endpoint: String,
    },
    AccountRemoved {
        endpoint: String,
    },
    /// The account that an application published is invalid. The old account stays in force.
    AccountRejected {
        endpoint: String,
        reason: String,
    },
    /// The end of a session without DTLS was not published, because there were too many.
    StatusDropped {
        endpoint: String,
        peer: Peer,
    },
    /// An operator removed the key that was generated for this identity.
    KeyRemoved {
        identity: PskIdentity,
    },
    /// A device got its whole account in one answer.
    Pack {
        endpoint: String,
        peer: Peer,
    },
}

/// A request of a session. It is written like `PUT /0/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootstrapStep {
    Discover,
    Delete(Path),
    Write(Path),
    Verify,
    Finish,
}

/// The reason why a request for bootstrap is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootstrapRefusal {
    /// The socket does not serve bootstrap.
    Off,
    Method,
    /// The content format in `Accept` is not a format of packs.
    NotAcceptable,
    /// The content format in `pct` is not a format of bootstrap.
    Format,
    Malformed,
    NoEndpoint,
    /// The accounts that applications have published have not come from the broker yet.
    AccountsAwaited,
    NoAccount,
    /// The DTLS identity may not be used for this endpoint name, or not for bootstrap.
    OtherIdentity,
    /// The account has secrets, and the request came without DTLS.
    Plaintext,
    /// The account gives an identity that is for bootstrap.
    SecondKind,
    /// A session over DTLS runs, and the request came without DTLS.
    Secured,
    /// The account does not fit the endpoint name, or the instances of the device.
    Unwritable,
    /// The maximum number of sessions is reached.
    Busy,
    /// The maximum number of generated keys is reached.
    TooManyKeys,
    /// The store has not written the generated key in time.
    Unstored,
    /// The gateway stops.
    Stopping,
}

impl BootstrapReport {
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Started { endpoint, .. }
            | Self::Finished { endpoint, .. }
            | Self::Failed { endpoint, .. }
            | Self::Differs { endpoint, .. }
            | Self::AccountSet { endpoint }
            | Self::AccountRemoved { endpoint }
            | Self::AccountRejected { endpoint, .. }
            | Self::StatusDropped { endpoint, .. }
            | Self::Pack { endpoint, .. } => Some(endpoint),
            Self::Rejected { endpoint, .. } => endpoint.as_deref(),
            Self::KeyRemoved { .. } => None,
        }
    }

    /// Returns the peer that the report is about.
    pub fn peer(&self) -> Option<Peer> {
        match self {
            Self::Started { peer, .. }
            | Self::Finished { peer, .. }
            | Self::Failed { peer, .. }
            | Self::Rejected { peer, .. }
            | Self::StatusDropped { peer, .. }
            | Self::Pack { peer, .. } => Some(*peer),
            Self::Differs { .. }
            | Self::AccountSet { .. }
            | Self::AccountRemoved { .. }
            | Self::AccountRejected { .. }
            | Self::KeyRemoved { .. } => None,
        }
    }
}

impl BootstrapStep {
    /// Returns the kind of the step, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Delete(_) => "delete",
            Self::Write(_) => "write",
            Self::Verify => "verify",
            Self::Finish => "finish",
        }
    }
}

impl fmt::Display for BootstrapStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discover => f.write_str("GET /"),
            Self::Delete(path) => write!(f, "DELETE {path}"),
            Self::Write(path) => write!(f, "PUT {path}"),
            Self::Verify => f.write_str("GET /1"),
            Self::Finish => f.write_str("POST /bs"),
        }
    }
}
