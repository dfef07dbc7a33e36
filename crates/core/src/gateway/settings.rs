//! Replaces parts of the configuration while the gateway runs. They hold for what comes after.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bootstrap::account::PatternAccount;
use crate::lwm2m::model::Model;
use lwm2m_base::AssociationId;
use lwm2m_base::identity::PskIdentity;
use lwm2m_dtls::credentials::{KeyKind, KeyUse};
use lwm2m_dtls::handshake::Acceptor;

use super::Gateway;
use super::config::{Limits, SocketRole};
use super::context::Context;
use super::wall_clock::WallClock;

impl Gateway {
    /// Sets the wall clock time at `now`. The shell calls this from time to time, because an operator may set the wall
    /// clock.
    pub fn set_unix_time(&mut self, now: Instant, unix_time: Duration) {
        self.context.wall_clock = WallClock::new(now, unix_time);
    }

    /// Replaces the object definitions that payloads and commands are read by.
    pub fn set_model(&mut self, model: Arc<Model>) {
        self.context.model = model;
    }

    /// Replaces the limits. Devices, commands and observations beyond the new limits are kept.
    pub fn set_limits(&mut self, mut limits: Limits) {
        let config = &mut self.context.config;
        // The size of the endpoint's table is fixed at the start. The requests of registered devices keep their room in
        // it.
        limits.pending_registrations =
            limits.pending_registrations.min(config.coap.pending_requests.saturating_sub(1)).max(1);
        self.intake.set_limits(&limits);
        config.limits = limits;
    }

    /// Replaces the gateway's own DTLS credentials. Without credentials handshakes are rejected; associations continue.
    pub fn set_acceptor(&mut self, acceptor: Option<Acceptor>) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.set_acceptor(acceptor);
        }
    }

    /// Clears the cache of the keys of devices: they may have changed.
    pub fn forget_keys(&mut self) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.forget_keys();
        }
    }

    /// Closes the associations whose key was changed or removed. The registrations stay, and their devices cannot use
    /// them before they have the new keys.
    pub fn revoke(&mut self, now: Instant, is_revoked: impl Fn(KeyUse<'_>) -> bool) {
        self.with_dtls_server(now, |server| server.revoke(is_revoked));
    }

    /// Closes those of these associations whose key was changed or removed, as [`Gateway::revoke`] does.
    pub fn revoke_among(&mut self, now: Instant, ids: &[AssociationId], is_revoked: impl Fn(KeyUse<'_>) -> bool) {
        self.with_dtls_server(now, |server| server.revoke_among(ids, is_revoked));
    }

    /// Replaces the accounts of patterns of endpoint names. Sessions in progress continue with the old accounts. A
    /// generated key that no account generates any more is removed.
    pub fn set_bootstrap_accounts(&mut self, now: Instant, accounts: Vec<PatternAccount>) {
        self.context.now = now;
        self.bootstrap.set_accounts(&mut self.context, accounts);
        self.handle_dtls();
    }

    /// Removes the key that the bootstrap server generated for an identity, with its DTLS sessions. Returns whether
    /// there was one.
    pub fn remove_generated_key(&mut self, now: Instant, identity: &PskIdentity) -> bool {
        self.context.now = now;
        let was_there = self.bootstrap.remove_generated_key(&mut self.context, identity);
        self.handle_dtls();
        was_there
    }

    /// Replaces the list of identities that have a key for bootstrap. At a socket for both registrations and bootstrap
    /// such an identity has no other key: its associations that were made there with another key are closed.
    pub fn set_bootstrap_identities(&mut self, now: Instant, identities: HashSet<PskIdentity>) {
        self.context.bootstrap_identities = identities;
        self.context.now = now;
        let Context { dtls: Some(dtls), bootstrap_identities, .. } = &mut self.context else { return };
        dtls.server.forget_keys();
        dtls.server.revoke(|KeyUse { identity, kind, realm, .. }| {
            let is_shared = SocketRole::of_realm(realm) == SocketRole::All;
            is_shared && kind != KeyKind::Bootstrap && bootstrap_identities.contains(identity)
        });
        self.handle_dtls();
    }

    /// Replaces the list of identities that have a key of their own: their devices need no plain UDP.
    pub fn set_keyed_identities(&mut self, identities: HashSet<PskIdentity>) {
        self.registrations.access_mut().set_keyed_identities(identities);
    }
}
