//! Handles the requests of other tasks to the driver.

use std::collections::HashSet;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::debug;

use crate::clock::monotonic_now;
use crate::observability::snapshot::DriverSnapshot;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::gateway::Gateway;
use lwm2m_dtls::credentials::{KeyKind, KeyUse};

use super::Driver;
use super::clustered::ClusterSeat;
use super::control::{AskedCommand, DriverRequest, SettingsChange};
use super::shares::ThreadShare;
use super::threads::DriverThread;

impl Driver {
    pub(super) fn handle_request(&mut self, now: Instant, request: DriverRequest) {
        match request {
            DriverRequest::Ping(reply) => answer(reply, ()),
            DriverRequest::Snapshot(reply) => answer(reply, self.snapshot()),
            DriverRequest::Page(query, reply) => self.answer_onlooker(reply, |gateway| gateway.page(now, &query)),
            DriverRequest::Device(endpoint, reply) => {
                self.answer_onlooker(reply, |gateway| gateway.device(now, &endpoint).map(Box::new));
            }
            DriverRequest::Kick(endpoint, reply) => self.answer_onlooker(reply, |gateway| gateway.kick(now, &endpoint)),
            DriverRequest::RemoveGeneratedKey(identity, reply) => {
                self.answer_onlooker(reply, |gateway| gateway.remove_generated_key(now, &identity));
            }
            DriverRequest::Command(asked) => self.give_command(now, *asked),
            DriverRequest::CommandState(endpoint, number, reply) => {
                self.answer_onlooker(reply, |gateway| gateway.command_state(now, &endpoint, number));
            }
            DriverRequest::Campaign(ask) => self.handle_campaign(now, *ask),
            DriverRequest::Withdraw(endpoint, number, reply) => {
                self.answer_onlooker(reply, |gateway| gateway.withdraw(now, &endpoint, number));
            }
            DriverRequest::StreamOpen { endpoint, user, is_open } => {
                self.gateway.set_stream_open(now, &endpoint, &user, is_open);
            }
            DriverRequest::Trace { id, target, copies, reply } => {
                self.traced = Some(copies);
                answer(reply, self.gateway.trace(now, id, target));
            }
            DriverRequest::EndTrace(id) => self.gateway.end_trace(id),
            DriverRequest::Watch(watch, reply) => {
                self.onlookers.watch(&self.gateway, watch);
                self.gateway.set_onlookers(true);
                answer(reply, ());
            }
            DriverRequest::Unwatch => {
                self.onlookers.forget_closed();
                self.gateway.set_onlookers(!self.onlookers.is_empty());
            }
            DriverRequest::Change(change) => self.apply(now, change),
        }
    }

    fn apply(&mut self, now: Instant, change: SettingsChange) {
        match change {
            SettingsChange::Model(model) => self.gateway.set_model(model),
            SettingsChange::Acceptor(acceptor) => self.gateway.set_acceptor(Some(acceptor)),
            SettingsChange::Keys { revoked, identities } => {
                self.gateway.set_keyed_identities(identities);
                self.revoke(now, KeyKind::Registration, &revoked);
            }
            SettingsChange::BootstrapAccounts(accounts) => self.gateway.set_bootstrap_accounts(now, accounts),
            SettingsChange::BootstrapKeys { revoked, identities } => {
                self.gateway.set_bootstrap_identities(now, identities);
                self.revoke(now, KeyKind::Bootstrap, &revoked);
            }
            SettingsChange::Limits(limits) => {
                let share = self.thread.as_ref().map_or(ThreadShare::WHOLE, DriverThread::share);
                self.gateway.set_limits(share.limits(&limits));
                if let Some(seat) = &mut self.cluster {
                    seat.forwarding.set_unregistered(limits.unregistered);
                }
                if let Some(thread) = &self.thread {
                    thread.owners().set_most(limits.devices);
                }
            }
        }
    }

    /// Answers a request of the console, and counts the time that the answer took before it is sent.
    fn answer_onlooker<T>(&mut self, reply: oneshot::Sender<T>, make: impl FnOnce(&mut Gateway) -> T) {
        let begun = monotonic_now();
        let made = make(&mut self.gateway);
        let took = monotonic_now().saturating_duration_since(begun);
        self.metrics.console.driver_seconds.inc_by(took.as_secs_f64());
        answer(reply, made);
    }

    /// Clears the cached keys, and ends the sessions of identities whose key of this kind was changed or removed.
    fn revoke(&mut self, now: Instant, revoked_kind: KeyKind, revoked: &HashSet<PskIdentity>) {
        self.gateway.forget_keys();
        self.gateway.revoke(now, |KeyUse { identity, kind, .. }| kind == revoked_kind && revoked.contains(identity));
    }

    /// Gives a command of the console, unless its sender has gone.
    fn give_command(&mut self, now: Instant, asked: AskedCommand) {
        let AskedCommand { command, admission, answer: final_answer } = asked;
        if admission.is_closed() {
            return log_unanswered();
        }
        let ask = self.askers.add(final_answer);
        let admitted = self.gateway.command(now, ask, command);
        if admitted.is_err() {
            self.askers.forget(ask);
        }
        answer(admission, admitted);
    }

    /// Returns the part of the maximum number of devices that this thread reports: the first one reports all of it.
    fn devices_limit(&self) -> usize {
        match &self.thread {
            None => self.gateway.devices_limit(),
            Some(thread) if thread.number() == 0 => thread.owners().most().unwrap_or_default(),
            Some(_) => 0,
        }
    }

    fn snapshot(&self) -> DriverSnapshot {
        let (forwarded_addresses, evicted_addresses) = match (&self.thread, &self.cluster) {
            (Some(thread), _) => (thread.flows(), thread.evicted_flows()),
            (None, Some(ClusterSeat { forwarding, .. })) => (forwarding.flows(), forwarding.evicted_flows()),
            (None, None) => (0, 0),
        };
        DriverSnapshot {
            gateway: self.gateway.table_sizes(),
            asleep: self.gateway.sleeping_devices(),
            devices_limit: self.devices_limit(),
            forwarded_addresses,
            evicted_addresses,
            command_bytes_limit: self.gateway.command_bytes_limit(),
            upstream: self.link.table_sizes(),
        }
    }
}

pub(super) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        log_unanswered();
    }
}

fn log_unanswered() {
    debug!("nobody waited for the answer to a request to the event loop");
}
