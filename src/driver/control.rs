//! Requests of other tasks to the driver. The driver handles one between two inputs of the event loop, so that an
//! answer proves that it serves devices.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::driver::campaigns::CampaignAsk;
use crate::driver::onlookers::Watch;
use crate::observability::snapshot::DriverSnapshot;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::bootstrap::account::PatternAccount;
use lwm2m_core::gateway::config::Limits;
use lwm2m_core::gateway::console_commands::{CommandRefusal, CommandState, ConsoleAnswer, ConsoleCommand, Withdrawal};
use lwm2m_core::gateway::trace::{TraceId, TraceTarget};
use lwm2m_core::gateway::view::{DevicePage, DeviceView, PageQuery};
use lwm2m_core::lwm2m::model::Model;
use lwm2m_dtls::handshake::Acceptor;

use super::traced::TraceSender;

/// Maximum time until the driver answers. It needs milliseconds for each input.
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum number of queued requests.
const WAITING: usize = 16;

#[derive(Debug)]
pub enum DriverRequest {
    /// Asks for a sign of life.
    Ping(oneshot::Sender<()>),
    /// Asks for the sizes of all tables and queues.
    Snapshot(oneshot::Sender<DriverSnapshot>),
    /// Asks for devices in the order of their endpoint names. The answer takes a tenth of a millisecond.
    Page(Box<PageQuery>, oneshot::Sender<DevicePage>),
    /// Asks for all that is known of the device of this endpoint name.
    Device(String, oneshot::Sender<Option<Box<DeviceView>>>),
    /// Ends the registration of this endpoint name. The answer tells whether there was one.
    Kick(String, oneshot::Sender<bool>),
    /// Gives a command of the console.
    Command(Box<AskedCommand>),
    /// Asks for the state of a command by its endpoint name and number.
    CommandState(String, u64, oneshot::Sender<Option<CommandState>>),
    /// Asks something of firmware campaigns.
    Campaign(Box<CampaignAsk>),
    /// Takes a pending command out of the queue of this endpoint name.
    Withdraw(String, u64, oneshot::Sender<Withdrawal>),
    /// Tells whether a user of the console has an event stream of a device.
    StreamOpen { endpoint: String, user: String, is_open: bool },
    /// Begins a trace, whose copies go to this queue. The answer tells whether there was room for one more.
    Trace { id: TraceId, target: TraceTarget, copies: TraceSender, reply: oneshot::Sender<bool> },
    /// Ends a trace.
    EndTrace(TraceId),
    /// Shows the events of devices from the answer on.
    Watch(Watch, oneshot::Sender<()>),
    /// Forgets the watches whose receivers have gone.
    Unwatch,
    /// Replaces the object definitions.
    Model(Arc<Model>),
    /// Replaces the credentials of new handshakes.
    Acceptor(Acceptor),
    /// Clears the cached keys. The sessions of `revoked` identities end, because their key was changed or removed;
    /// `identities` have a key in the file.
    Keys { revoked: HashSet<PskIdentity>, identities: HashSet<PskIdentity> },
    /// Replaces the bootstrap accounts.
    BootstrapAccounts(Vec<PatternAccount>),
    /// Replaces the keys of bootstrap accounts, like [`DriverRequest::Keys`].
    BootstrapKeys { revoked: HashSet<PskIdentity>, identities: HashSet<PskIdentity> },
    /// Replaces the limits. What already exceeds them stays.
    Limits(Box<Limits>),
}

/// A command of the console, and who waits for it.
#[derive(Debug)]
pub struct AskedCommand {
    pub command: ConsoleCommand,
    /// Learns whether the command is admitted. If nobody waits for that any more, the command is not given.
    pub admission: oneshot::Sender<Result<CommandState, CommandRefusal>>,
    /// Gets the final answer to an admitted command.
    pub answer: oneshot::Sender<ConsoleAnswer>,
}

/// Sends requests to the driver. Clones reach the same driver.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<DriverRequest>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the driver does not answer")]
pub struct DriverSilent;

/// Creates a control and the receiver of its requests.
pub fn control() -> (Control, mpsc::Receiver<DriverRequest>) {
    let (requests, receiver) = mpsc::channel(WAITING);
    (Control { requests, patience: PATIENCE }, receiver)
}

impl Control {
    /// Returns once the driver has answered.
    pub async fn ping(&self) -> Result<(), DriverSilent> {
        self.ask(DriverRequest::Ping).await
    }

    pub async fn snapshot(&self) -> Result<DriverSnapshot, DriverSilent> {
        self.ask(DriverRequest::Snapshot).await
    }

    /// Returns devices in the order of their endpoint names.
    pub async fn page(&self, query: PageQuery) -> Result<DevicePage, DriverSilent> {
        self.ask(|answer| DriverRequest::Page(Box::new(query), answer)).await
    }

    /// Returns what is known of the device of this endpoint name; `None` if it is not registered.
    pub async fn device(&self, endpoint: String) -> Result<Option<Box<DeviceView>>, DriverSilent> {
        self.ask(|answer| DriverRequest::Device(endpoint, answer)).await
    }

    /// Ends the registration of this endpoint name, and returns whether there was one.
    pub async fn kick(&self, endpoint: String) -> Result<bool, DriverSilent> {
        self.ask(|answer| DriverRequest::Kick(endpoint, answer)).await
    }

    /// Gives a command of the console. Returns whether it is admitted, and where its final answer comes.
    pub async fn command(
        &self,
        command: ConsoleCommand,
    ) -> Result<(Result<CommandState, CommandRefusal>, oneshot::Receiver<ConsoleAnswer>), DriverSilent> {
        let (answer, final_answer) = oneshot::channel();
        let request = |admission| DriverRequest::Command(Box::new(AskedCommand { command, admission, answer }));
        Ok((self.ask(request).await?, final_answer))
    }

    /// Returns the state of a command; `None` if it has ended.
    pub async fn command_state(&self, endpoint: String, number: u64) -> Result<Option<CommandState>, DriverSilent> {
        self.ask(|answer| DriverRequest::CommandState(endpoint, number, answer)).await
    }

    /// Takes a pending command out of the queue of its device.
    pub async fn withdraw(&self, endpoint: String, number: u64) -> Result<Withdrawal, DriverSilent> {
        self.ask(|answer| DriverRequest::Withdraw(endpoint, number, answer)).await
    }

    /// Tells whether a user of the console has an event stream of a device. Observations that were asked for with
    /// `while=stream` end some time after the last one was closed.
    pub async fn stream_open(&self, endpoint: String, user: String, is_open: bool) -> Result<(), DriverSilent> {
        self.send(DriverRequest::StreamOpen { endpoint, user, is_open }).await
    }

    /// Begins a trace, and returns whether there was room for one more.
    pub async fn trace(&self, id: TraceId, target: TraceTarget, copies: TraceSender) -> Result<bool, DriverSilent> {
        self.ask(|reply| DriverRequest::Trace { id, target, copies, reply }).await
    }

    /// Ends a trace.
    pub async fn end_trace(&self, id: TraceId) -> Result<(), DriverSilent> {
        self.send(DriverRequest::EndTrace(id)).await
    }

    /// Begins a watch. It is in force when this returns.
    pub async fn watch(&self, watch: Watch) -> Result<(), DriverSilent> {
        self.ask(|answer| DriverRequest::Watch(watch, answer)).await
    }

    /// Sends a request that has no answer.
    pub async fn send(&self, request: DriverRequest) -> Result<(), DriverSilent> {
        timeout(self.patience, self.requests.send(request)).await.map_err(|_| DriverSilent)?.map_err(|_| DriverSilent)
    }

    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> DriverRequest,
    ) -> Result<T, DriverSilent> {
        let (sender, answer) = oneshot::channel();
        let asking = async {
            self.send(request(sender)).await?;
            answer.await.map_err(|_| DriverSilent)
        };
        timeout(self.patience, asking).await.unwrap_or(Err(DriverSilent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_that_does_nothing_is_silent() {
        let (mut control, _requests) = control();
        control.patience = Duration::from_millis(1);
        assert_eq!(control.ping().await, Err(DriverSilent));
        for _ in 1..WAITING {
            assert_eq!(control.snapshot().await, Err(DriverSilent));
        }
        // Now there is no room for one more, and nobody waits for ever.
        assert_eq!(control.ping().await, Err(DriverSilent));
    }

    #[tokio::test]
    async fn a_driver_that_has_ended_is_silent() {
        let (control, requests) = control();
        drop(requests);
        assert_eq!(control.ping().await, Err(DriverSilent));
    }
}
