//! Requests of other tasks to the drivers. A driver handles one between two inputs of its event loop, so that an answer
//! proves that it serves devices.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::driver::campaign_ask::CampaignAsk;
use crate::driver::onlookers::Watch;
use crate::observability::snapshot::DriverSnapshot;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::bootstrap::account::PatternAccount;
use lwm2m_core::gateway::config::Limits;
use lwm2m_core::gateway::operators::console_commands::{
    CommandRefusal, CommandState, ConsoleAnswer, ConsoleCommand, Withdrawal,
};
use lwm2m_core::gateway::operators::trace::{TraceId, TraceTarget};
use lwm2m_core::gateway::operators::view::{DevicePage, DeviceView, PageQuery};
use lwm2m_core::lwm2m::model::Model;
use lwm2m_dtls::handshake::Acceptor;

use super::owners::EndpointOwners;
use super::pages;
use super::traced::TraceSender;

/// Maximum time until the driver answers. It needs milliseconds for each input.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
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
    /// Removes the key that the bootstrap server generated for an identity. The answer tells whether there was one.
    RemoveGeneratedKey(PskIdentity, oneshot::Sender<bool>),
    /// Gives a command of the console.
    Command(Box<AskedCommand>),
    /// Asks for the state of a command by its endpoint name and number.
    CommandState(String, u64, oneshot::Sender<Option<CommandState>>),
    /// Sends a request about firmware campaigns.
    Campaign(Box<CampaignAsk>),
    /// Takes a pending command out of the queue of this endpoint name.
    Withdraw(String, u64, oneshot::Sender<Withdrawal>),
    /// Tells whether a user of the console has an event stream of a device.
    StreamOpen { endpoint: String, user: String, is_open: bool },
    /// Begins a trace, whose copies go to this queue. The answer tells whether there was room for one more.
    Trace { id: TraceId, target: TraceTarget, copies: TraceSender, reply: oneshot::Sender<bool> },
    /// Ends a trace.
    EndTrace(TraceId),
    /// Sends the events of devices, from the answer on.
    Watch(Watch, oneshot::Sender<()>),
    /// Removes the watches whose receivers have gone.
    Unwatch,
    /// Applies a change of the settings.
    Change(SettingsChange),
}

/// A change of the settings, which every driver thread applies.
#[derive(Clone, Debug)]
pub enum SettingsChange {
    /// Replaces the object definitions.
    Model(Arc<Model>),
    /// Replaces the credentials of new handshakes.
    Acceptor(Acceptor),
    /// Clears the cached keys. The sessions of `revoked` identities end, because their key was changed or removed;
    /// `identities` have a key in the file.
    Keys { revoked: HashSet<PskIdentity>, identities: HashSet<PskIdentity> },
    /// Replaces the bootstrap accounts.
    BootstrapAccounts(Vec<PatternAccount>),
    /// Replaces the keys of bootstrap accounts, like [`SettingsChange::Keys`].
    BootstrapKeys { revoked: HashSet<PskIdentity>, identities: HashSet<PskIdentity> },
    /// Replaces the limits of the whole program. Entries beyond the new limits are kept.
    Limits(Box<Limits>),
}

/// A command of the console, with the recipients of its answers.
#[derive(Debug)]
pub struct AskedCommand {
    pub command: ConsoleCommand,
    /// Receives whether the command is admitted. If this receiver has gone, the command is not given.
    pub admission: oneshot::Sender<Result<CommandState, CommandRefusal>>,
    /// Receives the final answer to an admitted command.
    pub answer: oneshot::Sender<ConsoleAnswer>,
}

/// Sends requests to the drivers of all threads. Clones reach the same drivers.
#[derive(Clone, Debug)]
pub struct Control {
    /// The queue of each driver thread, at least one.
    threads: Arc<[mpsc::Sender<DriverRequest>]>,
    owners: EndpointOwners,
    patience: Duration,
}

/// The thread that handles requests without a device: about firmware campaigns and unknown devices.
const FIRST_THREAD: usize = 0;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the driver does not answer")]
pub struct DriverSilent;

/// Creates the control of a single driver, and the receiver of its requests.
pub fn control() -> (Control, mpsc::Receiver<DriverRequest>) {
    let (requests, receiver) = mpsc::channel(WAITING);
    let owners = EndpointOwners::default();
    (Control { threads: [requests].into(), owners, patience: ANSWER_TIMEOUT }, receiver)
}

/// Creates the control of the drivers of several threads, and the receivers of their requests. `owners` tells which of
/// them has a device.
pub(crate) fn control_of_threads(threads: u8, owners: EndpointOwners) -> (Control, Vec<mpsc::Receiver<DriverRequest>>) {
    let (requests, receivers): (Vec<_>, _) = (0..threads.max(1)).map(|_| mpsc::channel(WAITING)).unzip();
    (Control { threads: requests.into(), owners, patience: ANSWER_TIMEOUT }, receivers)
}

/// Requests to all threads.
impl Control {
    /// Returns once all drivers have answered.
    pub async fn ping(&self) -> Result<(), DriverSilent> {
        self.ask_all(DriverRequest::Ping).await.map(|_| ())
    }

    /// Returns the sizes of the tables of all threads together.
    pub async fn snapshot(&self) -> Result<DriverSnapshot, DriverSilent> {
        let snapshots = self.ask_all(DriverRequest::Snapshot).await?;
        let sum = snapshots.into_iter().reduce(|mut sum, snapshot| {
            sum.add(snapshot);
            sum
        });
        sum.ok_or(DriverSilent)
    }

    /// Returns devices in the order of their endpoint names.
    pub async fn page(&self, query: PageQuery) -> Result<DevicePage, DriverSilent> {
        if self.threads.len() == 1 {
            return self.ask(|answer| DriverRequest::Page(Box::new(query), answer)).await;
        }
        let of_thread = pages::query_of_thread(&query);
        let asked = self.ask_all(|answer| DriverRequest::Page(Box::new(of_thread.clone()), answer));
        Ok(pages::merged(&query, asked.await?))
    }

    /// Begins a trace, and returns whether there was room for one more.
    pub async fn trace(&self, id: TraceId, target: TraceTarget, copies: TraceSender) -> Result<bool, DriverSilent> {
        let request = |reply| DriverRequest::Trace { id, target: target.clone(), copies: copies.clone(), reply };
        let begun = self.ask_all(request).await?;
        let all = begun.iter().all(|begun| *begun);
        if !all && begun.contains(&true) {
            self.end_trace(id).await?;
        }
        Ok(all)
    }

    /// Ends a trace.
    pub async fn end_trace(&self, id: TraceId) -> Result<(), DriverSilent> {
        self.tell_all(|| DriverRequest::EndTrace(id)).await
    }

    /// Begins a watch. It is in force when this returns.
    pub async fn watch(&self, watch: Watch) -> Result<(), DriverSilent> {
        self.ask_all(|answer| DriverRequest::Watch(watch.clone(), answer)).await.map(|_| ())
    }

    /// Removes the watches whose receivers have gone.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
    pub(crate) async fn unwatch(&self) -> Result<(), DriverSilent> {
        self.tell_all(|| DriverRequest::Unwatch).await
    }

    /// Tells whether a user of the console has an event stream of a device. Observations that were asked for with
    /// `while=stream` end some time after the last one was closed.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
    pub(crate) async fn stream_open(&self, endpoint: String, user: String, is_open: bool) -> Result<(), DriverSilent> {
        let request = || DriverRequest::StreamOpen { endpoint: endpoint.clone(), user: user.clone(), is_open };
        self.tell_all(request).await
    }

    /// Removes the key that the bootstrap server generated for an identity, and returns whether there was one.
    pub async fn remove_generated_key(&self, identity: PskIdentity) -> Result<bool, DriverSilent> {
        let removed = self.ask_all(|answer| DriverRequest::RemoveGeneratedKey(identity.clone(), answer)).await?;
        Ok(removed.contains(&true))
    }

    /// Applies a change of the settings.
    pub async fn change(&self, change: SettingsChange) -> Result<(), DriverSilent> {
        self.tell_all(|| DriverRequest::Change(change.clone())).await
    }

    async fn ask_all<T>(&self, request: impl Fn(oneshot::Sender<T>) -> DriverRequest) -> Result<Vec<T>, DriverSilent> {
        let asking = async {
            let mut answers = Vec::with_capacity(self.threads.len());
            for thread in 0..self.threads.len() {
                let (sender, answer) = oneshot::channel();
                self.send(thread, request(sender)).await?;
                answers.push(answer);
            }
            let mut all = Vec::with_capacity(answers.len());
            for answer in answers {
                all.push(answer.await.map_err(|_| DriverSilent)?);
            }
            Ok(all)
        };
        timeout(self.patience, asking).await.unwrap_or(Err(DriverSilent))
    }

    /// Sends a request without answer to all threads, also if one of them is silent.
    async fn tell_all(&self, request: impl Fn() -> DriverRequest) -> Result<(), DriverSilent> {
        let mut told = Ok(());
        for thread in 0..self.threads.len() {
            told = self.send(thread, request()).await.and(told);
        }
        told
    }
}

/// Requests to the thread that has the device.
impl Control {
    /// Returns what is known of the device of this endpoint name; `None` if it is not registered.
    pub async fn device(&self, endpoint: String) -> Result<Option<Box<DeviceView>>, DriverSilent> {
        let thread = self.thread_of(&endpoint);
        self.ask_thread(thread, |answer| DriverRequest::Device(endpoint, answer)).await
    }

    /// Ends the registration of this endpoint name, and returns whether there was one.
    pub async fn kick(&self, endpoint: String) -> Result<bool, DriverSilent> {
        let thread = self.thread_of(&endpoint);
        self.ask_thread(thread, |answer| DriverRequest::Kick(endpoint, answer)).await
    }

    /// Gives a command of the console. Returns whether it is admitted, and the receiver of its final answer.
    pub async fn command(
        &self,
        command: ConsoleCommand,
    ) -> Result<(Result<CommandState, CommandRefusal>, oneshot::Receiver<ConsoleAnswer>), DriverSilent> {
        let thread = self.thread_of(&command.endpoint);
        let (answer, final_answer) = oneshot::channel();
        let request = |admission| DriverRequest::Command(Box::new(AskedCommand { command, admission, answer }));
        Ok((self.ask_thread(thread, request).await?, final_answer))
    }

    /// Returns the state of a command; `None` if it has ended.
    pub async fn command_state(&self, endpoint: String, number: u64) -> Result<Option<CommandState>, DriverSilent> {
        let thread = self.thread_of(&endpoint);
        self.ask_thread(thread, |answer| DriverRequest::CommandState(endpoint, number, answer)).await
    }

    /// Takes a pending command out of the queue of its device.
    pub async fn withdraw(&self, endpoint: String, number: u64) -> Result<Withdrawal, DriverSilent> {
        let thread = self.thread_of(&endpoint);
        self.ask_thread(thread, |answer| DriverRequest::Withdraw(endpoint, number, answer)).await
    }

    /// Asks the first thread, which handles requests without a device.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> DriverRequest,
    ) -> Result<T, DriverSilent> {
        self.ask_thread(FIRST_THREAD, request).await
    }

    fn thread_of(&self, endpoint: &str) -> usize {
        self.owners.find(endpoint).map_or(FIRST_THREAD, usize::from)
    }

    async fn ask_thread<T>(
        &self,
        thread: usize,
        request: impl FnOnce(oneshot::Sender<T>) -> DriverRequest,
    ) -> Result<T, DriverSilent> {
        let (sender, answer) = oneshot::channel();
        let asking = async {
            self.send(thread, request(sender)).await?;
            answer.await.map_err(|_| DriverSilent)
        };
        timeout(self.patience, asking).await.unwrap_or(Err(DriverSilent))
    }

    async fn send(&self, thread: usize, request: DriverRequest) -> Result<(), DriverSilent> {
        let requests = self.threads.get(thread).ok_or(DriverSilent)?;
        timeout(self.patience, requests.send(request)).await.map_err(|_| DriverSilent)?.map_err(|_| DriverSilent)
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
    async fn all_threads_are_asked_and_one_that_is_silent_is_enough_to_be_silent() {
        let (mut control, mut requests) = control_of_threads(2, EndpointOwners::default());
        control.patience = Duration::from_millis(100);
        let silent = requests.pop().unwrap();
        let mut answering = requests.pop().unwrap();
        tokio::spawn(async move {
            while let Some(request) = answering.recv().await {
                match request {
                    DriverRequest::Ping(reply) => reply.send(()).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        });
        assert_eq!(control.ping().await, Err(DriverSilent));
        drop(silent);
        assert_eq!(control.ping().await, Err(DriverSilent));
    }

    #[tokio::test]
    async fn the_answers_of_all_threads_are_added_up() {
        let (control, requests) = control_of_threads(3, EndpointOwners::default());
        for (mut requests, asleep) in requests.into_iter().zip([1, 10, 100]) {
            tokio::spawn(async move {
                while let Some(request) = requests.recv().await {
                    match request {
                        DriverRequest::Snapshot(reply) => {
                            reply.send(DriverSnapshot { asleep, ..DriverSnapshot::default() }).unwrap();
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        assert_eq!(control.snapshot().await.map(|snapshot| snapshot.asleep), Ok(111));
    }

    #[tokio::test]
    async fn a_driver_that_has_ended_is_silent() {
        let (control, requests) = control();
        drop(requests);
        assert_eq!(control.ping().await, Err(DriverSilent));
    }
}
