//! Awaited bootstrap sessions: each `bootstrap` command whose device has executed the bootstrap trigger waits for the
//! session of the device.
//!
//! 1. The device answers the execution of `/1/x/9`. The command waits for the session of the device.
//! 2. The session finishes or fails, or none comes in time. The outcome is the final answer to the command.
//! 3. The answer is published when the device is registered: many devices leave before they ask for bootstrap.
//!
//! Without DTLS anybody may ask for bootstrap under any endpoint name. Such a session or pack ends the wait only if it
//! went to the IP address that the trigger was sent to; the port may be another one, because devices have a socket for
//! each server.
//!
//! The store has the commands, so that a restart loses no answer. A session does not outlive the process: its device
//! asks again, and has the whole time for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::coap::Code;
use crate::command::{Command, Echo, Origin, Reply, ResponseTopic};
use crate::lwm2m::operation::{Operation, OperationKind, Outcome};
use crate::lwm2m::path::Path;
use lwm2m_base::Peer;
use lwm2m_base::deadlines::IdDeadlines;

use crate::gateway::persistence::record::{Change, milliseconds};
use crate::gateway::report::BootstrapStep;
use crate::gateway::wall_clock::WallClock;

/// The longest time from the trigger to the request for bootstrap, and from the session to the registration. Hold-off
/// times are short.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(300);

/// A command that waits for the session of its device, or for its registration after the session.
#[derive(Debug)]
pub(in crate::gateway) struct AwaitedBootstrap {
    pub command: Command,
    /// The time at which the trigger was sent.
    pub sent: Instant,
    /// The IP address that the trigger was sent to; `None` in records of earlier versions.
    address: Option<IpAddr>,
    id: u64,
    outcome: Option<Outcome>,
    /// Whether an earlier process received the command.
    is_restored: bool,
}

/// The awaited session of one endpoint, for the store.
#[derive(Clone, Debug, PartialEq)]
pub struct AwaitedBootstrapRecord {
    pub endpoint: String,
    /// The command; `None` removes the record.
    pub awaited: Option<Box<AwaitedCommandRecord>>,
}

/// The stored form of a command that awaits a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AwaitedCommandRecord {
    command: Echo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<Box<ResponseTopic>>,
    #[serde(default, skip_serializing_if = "Origin::is_application")]
    origin: Origin,
    /// The time at which the trigger was sent, since 1970.
    #[serde(with = "milliseconds")]
    sent: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeRecord>,
}

/// The stored form of the outcome of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OutcomeRecord {
    /// The class and the detail of the response code.
    code: (u8, u8),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The awaited sessions by endpoint name, at most one for each.
#[derive(Debug, Default)]
pub(in crate::gateway) struct AwaitedBootstraps {
    by_endpoint: HashMap<String, AwaitedBootstrap>,
    endpoints: HashMap<u64, String>,
    deadlines: IdDeadlines<u64>,
    /// The endpoint names whose outcome is known and not delivered.
    ended: VecDeque<String>,
    last_id: u64,
    /// Whether there is a store.
    keeps_changes: bool,
    /// The endpoint names whose record in the store is out of date.
    changes: BTreeSet<String>,
}

impl AwaitedBootstraps {
    /// Waits for the session of the device to which the trigger was sent at this address and time. A command of the
    /// endpoint that waits already is returned with its outcome.
    pub(crate) fn expect(
        &mut self,
        now: Instant,
        (endpoint, peer): (&str, Peer),
        command: Command,
        sent: Instant,
    ) -> Option<(AwaitedBootstrap, Outcome)> {
        let former = self.take(endpoint);
        // The process ended between the records of this command and of its device, so that the device executed the
        // trigger twice.
        let is_same = |former: &AwaitedBootstrap| former.is_restored && former.command.echo == command.echo;
        let former = former.filter(|former| !is_same(former));
        let address = Some(address_of(peer));
        let awaited = AwaitedBootstrap { command, sent, address, id: 0, outcome: None, is_restored: false };
        self.insert(now, endpoint, awaited);
        former.map(|former| (former, failed(Code::CONFLICT, "another bootstrap command followed")))
    }

    /// Keeps what changes from now on for [`AwaitedBootstraps::take_changes`].
    pub(crate) fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    /// Marks every command as changed.
    pub(crate) fn change_all(&mut self) {
        if self.keeps_changes {
            self.changes.extend(self.by_endpoint.keys().cloned());
        }
    }

    /// Restores a command of an earlier process under this number. One that cannot be read is removed from the store.
    pub(crate) fn restore(&mut self, now: Instant, clock: WallClock, number: u64, record: AwaitedBootstrapRecord) {
        let AwaitedBootstrapRecord { endpoint, awaited } = record;
        let Some(awaited) = awaited else { return };
        let AwaitedCommandRecord { command, reply, origin, sent, address, outcome } = *awaited;
        let Some(path) = command.request_path().and_then(|path| path.parse::<Path>().ok()) else {
            return self.changed(&endpoint);
        };
        let operation = Operation::new(path, Vec::new(), OperationKind::TriggerBootstrap);
        let reply = reply.map(|topic| Box::new(Reply::Topic(*topic)));
        let command = Command { number, echo: command, operation, expiry: None, reply, origin };
        let outcome = outcome.map(|OutcomeRecord { code: (class, detail), reason }| Outcome {
            code: Code::of(class & 7, detail),
            content: None,
            location: None,
            reason,
        });
        if outcome.is_some() {
            self.ended.push_back(endpoint.clone());
        }
        let sent = clock.moment(sent).min(now);
        let awaited = AwaitedBootstrap { command, sent, address, id: 0, outcome, is_restored: true };
        self.insert(now, &endpoint, awaited);
    }

    /// Returns at most so many records that have changed.
    pub(crate) fn take_changes(&mut self, clock: WallClock, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(endpoint) = self.changes.pop_first()
        {
            let awaited = self.by_endpoint.get(&endpoint).map(|awaited| Box::new(awaited.record(clock)));
            changes.push(Change::AwaitedBootstrap(AwaitedBootstrapRecord { endpoint, awaited }));
        }
        changes
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Notes how the session or pack of an endpoint has ended, and gives the device time to register. A peer without
    /// DTLS at another address than that of the trigger does not end the wait.
    pub(crate) fn ended(&mut self, now: Instant, (endpoint, peer): (&str, Peer), outcome: impl FnOnce() -> Outcome) {
        if self.by_endpoint.get(endpoint).is_some_and(|awaited| awaited.may_be_ended_by(peer)) {
            self.end(now, endpoint, outcome);
        }
    }

    fn end(&mut self, now: Instant, endpoint: &str, outcome: impl FnOnce() -> Outcome) {
        let Some(awaited) = self.by_endpoint.get_mut(endpoint) else { return };
        if awaited.outcome.replace(outcome()).is_none() {
            self.ended.push_back(endpoint.to_owned());
        }
        self.deadlines.set(awaited.id, now + BOOTSTRAP_TIMEOUT);
        self.changed(endpoint);
    }

    /// Notes that no session came in time, and forgets the commands of devices that did not return.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_expired(now) {
            let Some(endpoint) = self.endpoints.get(&id).cloned() else { continue };
            if self.by_endpoint.get(&endpoint).is_some_and(|awaited| awaited.outcome.is_some()) {
                self.take(&endpoint);
            } else {
                self.end(now, &endpoint, || failed(Code::GATEWAY_TIMEOUT, "the device did not ask for bootstrap"));
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Returns the endpoint names whose outcome is known, in the order of the outcomes.
    pub(crate) fn take_ended(&mut self) -> Vec<String> {
        self.ended.drain(..).collect()
    }

    /// Takes a command whose outcome is known; `None` if it still waits, or there is none.
    pub(crate) fn deliver(&mut self, endpoint: &str) -> Option<(AwaitedBootstrap, Outcome)> {
        self.by_endpoint.get(endpoint)?.outcome.as_ref()?;
        let mut awaited = self.take(endpoint)?;
        let outcome = awaited.outcome.take()?;
        Some((awaited, outcome))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_endpoint.len()
    }

    fn insert(&mut self, now: Instant, endpoint: &str, awaited: AwaitedBootstrap) {
        self.last_id += 1;
        self.deadlines.set(self.last_id, now + BOOTSTRAP_TIMEOUT);
        self.endpoints.insert(self.last_id, endpoint.to_owned());
        self.by_endpoint.insert(endpoint.to_owned(), AwaitedBootstrap { id: self.last_id, ..awaited });
        self.changed(endpoint);
    }

    fn take(&mut self, endpoint: &str) -> Option<AwaitedBootstrap> {
        let awaited = self.by_endpoint.remove(endpoint)?;
        self.endpoints.remove(&awaited.id);
        self.deadlines.cancel(awaited.id);
        self.changed(endpoint);
        Some(awaited)
    }

    fn changed(&mut self, endpoint: &str) {
        if self.keeps_changes {
            self.changes.insert(endpoint.to_owned());
        }
    }
}

impl AwaitedBootstrap {
    fn may_be_ended_by(&self, peer: Peer) -> bool {
        peer.association.is_some() || self.address.is_none_or(|address| address == address_of(peer))
    }

    fn record(&self, clock: WallClock) -> AwaitedCommandRecord {
        let Self { command, sent, address, outcome, .. } = self;
        let outcome = outcome.as_ref().map(|outcome| OutcomeRecord {
            code: (outcome.code.class(), outcome.code.detail()),
            reason: outcome.reason.clone(),
        });
        AwaitedCommandRecord {
            command: command.echo.clone(),
            reply: command.reply.as_deref().and_then(Reply::topic).cloned().map(Box::new),
            origin: command.origin.clone(),
            sent: clock.unix_time(*sent),
            address: *address,
            outcome,
        }
    }
}

/// Returns the IP address of a peer, which is the same at a socket for IPv4 and at one for both versions of IP.
fn address_of(peer: Peer) -> IpAddr {
    peer.address.ip().to_canonical()
}

/// Returns the outcome of a session that has finished.
pub(super) fn finished() -> Outcome {
    Outcome { code: Code::CHANGED, content: None, location: None, reason: None }
}

/// Returns the outcome of a session that has failed at this step.
pub(super) fn failed_at(step: BootstrapStep, code: Option<Code>, reason: &str) -> Outcome {
    let code = code.filter(|code| !code.is_success()).unwrap_or(Code::GATEWAY_TIMEOUT);
    failed(code, &format!("bootstrap failed at {step}: {reason}"))
}

fn failed(code: Code, reason: &str) -> Outcome {
    Outcome { code, content: None, location: None, reason: Some(reason.to_owned()) }
}
