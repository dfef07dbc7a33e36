//! `bootstrap` commands whose device has executed the bootstrap trigger, and whose session is awaited.
//!
//! 1. The device answers the execution of `/1/x/9`. The command waits for the session of the device.
//! 2. The session finishes or fails, or none comes in time. The outcome is the final answer to the command.
//! 3. The answer is published when the device is registered: many devices leave before they ask for bootstrap.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::coap::Code;
use crate::command::Command;
use crate::lwm2m::operation::Outcome;
use lwm2m_base::deadlines::IdDeadlines;

use super::super::report::BootstrapStep;

/// The time in which a device has to ask for bootstrap, and to register afterwards. Hold-off times are short.
const PATIENCE: Duration = Duration::from_secs(300);

/// A command that waits for the session of its device, or for its registration after the session.
#[derive(Debug)]
pub(in super::super) struct AwaitedBootstrap {
    pub command: Command,
    /// The time at which the trigger was sent.
    pub sent: Instant,
    id: u64,
    outcome: Option<Outcome>,
}

/// The awaited sessions by endpoint name, at most one for each.
#[derive(Debug, Default)]
pub(in super::super) struct AwaitedBootstraps {
    by_endpoint: HashMap<String, AwaitedBootstrap>,
    endpoints: HashMap<u64, String>,
    deadlines: IdDeadlines<u64>,
    /// The endpoint names whose outcome is known and not delivered.
    ended: VecDeque<String>,
    last_id: u64,
}

impl AwaitedBootstraps {
    /// Waits for the session of this endpoint. A command that waits already is returned with its outcome.
    pub fn expect(
        &mut self,
        now: Instant,
        endpoint: &str,
        command: Command,
        sent: Instant,
    ) -> Option<(AwaitedBootstrap, Outcome)> {
        let former = self.take(endpoint);
        self.last_id += 1;
        self.deadlines.set(self.last_id, now + PATIENCE);
        self.endpoints.insert(self.last_id, endpoint.to_owned());
        let awaited = AwaitedBootstrap { command, sent, id: self.last_id, outcome: None };
        self.by_endpoint.insert(endpoint.to_owned(), awaited);
        former.map(|former| (former, failed(Code::CONFLICT, "another bootstrap command followed")))
    }

    /// Notes how the session of an endpoint has ended, and gives the device time to register.
    pub fn ended(&mut self, now: Instant, endpoint: &str, outcome: impl FnOnce() -> Outcome) {
        let Some(awaited) = self.by_endpoint.get_mut(endpoint) else { return };
        if awaited.outcome.replace(outcome()).is_none() {
            self.ended.push_back(endpoint.to_owned());
        }
        self.deadlines.set(awaited.id, now + PATIENCE);
    }

    /// Notes that no session came in time, and forgets the commands of devices that did not return.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_expired(now) {
            let Some(endpoint) = self.endpoints.get(&id).cloned() else { continue };
            if self.by_endpoint.get(&endpoint).is_some_and(|awaited| awaited.outcome.is_some()) {
                self.take(&endpoint);
            } else {
                self.ended(now, &endpoint, || failed(Code::GATEWAY_TIMEOUT, "the device did not ask for bootstrap"));
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Returns the endpoint names whose outcome is known, in the order of the outcomes.
    pub fn take_ended(&mut self) -> Vec<String> {
        self.ended.drain(..).collect()
    }

    /// Takes a command whose outcome is known; `None` if it still waits, or there is none.
    pub fn deliver(&mut self, endpoint: &str) -> Option<(AwaitedBootstrap, Outcome)> {
        self.by_endpoint.get(endpoint)?.outcome.as_ref()?;
        let mut awaited = self.take(endpoint)?;
        let outcome = awaited.outcome.take()?;
        Some((awaited, outcome))
    }

    pub fn len(&self) -> usize {
        self.by_endpoint.len()
    }

    fn take(&mut self, endpoint: &str) -> Option<AwaitedBootstrap> {
        let awaited = self.by_endpoint.remove(endpoint)?;
        self.endpoints.remove(&awaited.id);
        self.deadlines.cancel(awaited.id);
        Some(awaited)
    }
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
