//! State that OpenSSL's callbacks share with a handshake.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslRef};

use crate::credentials::PskKey;
use crate::record::{OwnCid, PeerCid};

/// Found again in the callbacks by the SSL object. The lock is never waited for: one thread at a time has a handshake,
/// and its callbacks run within its calls.
#[derive(Clone)]
pub(super) struct SharedNegotiation(Arc<Mutex<Negotiation>>);

pub(super) struct Negotiation {
    own_cid: OwnCid,
    /// The connection id that the client offered (RFC 9146 section 3). An empty one asks for records without one.
    offered_cid: Option<Vec<u8>>,
    answered_cid: bool,
    /// The key of the identity that the client named.
    pub key: Option<PskKey>,
    /// The application data of this session's ticket.
    pub ticket_note: Option<Vec<u8>>,
    pub tickets_accepted: bool,
}

/// The connection ids of both sides, where both wanted some.
pub(super) struct ConnectionIds {
    pub own: OwnCid,
    /// The connection id in the gateway's records; `None` if they carry none.
    pub peer: Option<PeerCid>,
}

impl SharedNegotiation {
    pub(super) fn new(own_cid: OwnCid, tickets_accepted: bool) -> Self {
        Self(Arc::new(Mutex::new(Negotiation {
            own_cid,
            offered_cid: None,
            answered_cid: false,
            key: None,
            ticket_note: None,
            tickets_accepted,
        })))
    }

    pub(super) fn attach(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ssl.set_ex_data(index()?, self.clone());
        Ok(())
    }

    pub(super) fn of(ssl: &SslRef) -> Option<&Self> {
        ssl.ex_data(index().ok()?)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Negotiation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Negotiation {
    /// Reads the extension of the ClientHello; `false` if it is malformed.
    pub(crate) fn offer_connection_id(&mut self, extension: &[u8]) -> bool {
        let Some((&length, cid)) = extension.split_first() else { return false };
        let well_formed = usize::from(length) == cid.len();
        self.offered_cid = well_formed.then(|| cid.to_vec());
        well_formed
    }

    /// Returns the extension of the ServerHello, if the client asked for it.
    pub(crate) fn answer_connection_id(&mut self) -> Option<Vec<u8>> {
        self.offered_cid.as_ref()?;
        self.answered_cid = true;
        let OwnCid(own) = self.own_cid;
        let length = u8::try_from(own.len()).ok()?;
        Some([&[length], own.as_slice()].concat())
    }

    pub(super) fn connection_ids(&self) -> Option<ConnectionIds> {
        let offered = self.offered_cid.as_ref().filter(|_| self.answered_cid)?;
        Some(ConnectionIds { own: self.own_cid, peer: PeerCid::new(offered) })
    }
}

/// Returns the index of the negotiation in the extra data of SSL objects, which is allocated once per process.
fn index() -> Result<Index<Ssl, SharedNegotiation>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, SharedNegotiation>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let index = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| index))
}
