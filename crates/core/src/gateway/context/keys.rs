//! Pre-shared keys and identities of peers: what the bootstrap server generated, and what DTLS has proved.

use std::sync::Arc;

use lwm2m_base::Peer;
use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_dtls::credentials::{KeyAnswer, KeyKind, KeyQuestion};

use super::Context;
use crate::gateway::config::SocketRole;

impl Context {
    /// Returns the generated key of an identity; `None` if there is none, or if the socket is for bootstrap. At a
    /// socket for both an identity is of one kind: a key of `bootstrap.psk_file` comes before a generated one.
    pub(crate) fn generated_key(&self, question: &KeyQuestion) -> Option<KeyAnswer> {
        let holds = match SocketRole::of_realm(question.realm) {
            SocketRole::Registration => true,
            SocketRole::All => !self.bootstrap_identities.contains(&question.identity),
            SocketRole::Bootstrap => false,
        };
        if holds { self.generated_keys.answer(&question.identity) } else { None }
    }

    /// Returns whether a look-up that began earlier answers with a key of another kind than the identity has now.
    pub(crate) fn is_second_kind(&self, question: &KeyQuestion, answer: &KeyAnswer) -> bool {
        let is_bootstrap = self.bootstrap_identities.contains(&question.identity);
        let is_shared = SocketRole::of_realm(question.realm) == SocketRole::All;
        match answer {
            KeyAnswer::Found { key, .. } => is_shared && is_bootstrap != (key.kind == KeyKind::Bootstrap),
            KeyAnswer::Unknown { .. } | KeyAnswer::Unavailable => false,
        }
    }

    /// Notes that a device has registered over this peer. If it uses a rotated key, the former one ends, and so do the
    /// associations that were made with it.
    pub(crate) fn has_registered(&mut self, peer: Peer) {
        let Some(dtls) = &self.dtls else { return };
        let Some(used) = peer.association.and_then(|association| dtls.server.key_use(association)) else { return };
        if self.generated_keys.registered(used) {
            let identity = used.identity.clone();
            self.forget_key(&identity);
            self.close_former_associations(&identity);
        }
    }

    /// Closes the associations of an identity that were made with a generated key which is no longer valid.
    pub(in crate::gateway) fn close_former_associations(&mut self, identity: &PskIdentity) {
        let Some(dtls) = &mut self.dtls else { return };
        dtls.server.revoke_of(identity, |used| self.generated_keys.is_former(used));
        self.flush_dtls();
    }

    /// Returns the kind of the pre-shared key that this peer has proved; `None` without one.
    pub(in crate::gateway) fn key_kind(&self, peer: Peer) -> Option<KeyKind> {
        self.dtls.as_ref()?.server.key_kind(peer.association?)
    }

    /// Makes the DTLS server look up the key of an identity again.
    pub(in crate::gateway) fn forget_key(&mut self, identity: &PskIdentity) {
        let Some(dtls) = &mut self.dtls else { return };
        for role in [SocketRole::All, SocketRole::Registration] {
            dtls.server.forget_key(&KeyQuestion { identity: identity.clone(), realm: role.realm() });
        }
    }

    /// Returns whether a DTLS socket serves both registrations and bootstrap.
    pub(crate) fn has_shared_dtls_socket(&self) -> bool {
        let Some(dtls) = &self.dtls else { return false };
        let roles = self.config.roles.get(usize::from(dtls.first_socket())..).unwrap_or_default();
        roles.is_empty() || roles.contains(&SocketRole::All)
    }

    /// Returns the identity that this peer's DTLS handshake authenticated; `None` over plain UDP.
    pub(in crate::gateway) fn identity(&self, peer: Peer) -> Option<Arc<Identity>> {
        self.dtls.as_ref()?.identity(peer.association?)
    }
}
