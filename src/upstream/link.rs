//! The loop that drives the connections to the broker. It connects the state machine of the devices, which decides,
//! with the sockets and calls, which act. Both upstreams share it; [`LinkIo`] says what differs.

use std::io;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::info;

use crate::clock::monotonic_now;
use crate::conditions::{Condition, ConditionState};
use crate::upstream::UpstreamTableSizes;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::registry::RegistrationId;

use super::client::targets::TargetsHealth;
use super::client::{Devices, Protocol};

/// The sockets and calls of one upstream. Each runs in a task of its own, shares no state with the link, and reports
/// back with an event or with the value that the task returns.
pub trait LinkIo: Sized {
    type Protocol: Protocol;
    /// An event that arrives while tasks run.
    type Event;
    /// The result of a task.
    type TaskEnd: Send + 'static;

    /// Begins an action of the devices. Returns it if it is an event for the core.
    fn perform(
        &mut self,
        devices: &mut Devices<Self::Protocol>,
        tasks: &mut JoinSet<Self::TaskEnd>,
        action: <Self::Protocol as Protocol>::Action,
    ) -> Option<BrokerEvent>;

    /// Tells the devices what has arrived.
    fn arrived(&mut self, now: Instant, devices: &mut Devices<Self::Protocol>, event: Self::Event);

    /// Tells the devices how a task ended.
    fn task_ended(
        &mut self,
        now: Instant,
        devices: &mut Devices<Self::Protocol>,
        tasks: &mut JoinSet<Self::TaskEnd>,
        end: Self::TaskEnd,
    );

    /// Returns whether a shutdown has to wait for a task although no device is left.
    fn has_bytes_to_write(&self, tasks: &JoinSet<Self::TaskEnd>) -> bool;
}

/// The link to the broker. Its state lives in the task that polls it.
pub struct BrokerLink<Io: LinkIo> {
    pub(super) io: Io,
    devices: Devices<Io::Protocol>,
    events: mpsc::Receiver<Io::Event>,
    tasks: JoinSet<Io::TaskEnd>,
    condition: Condition,
}

/// An input of the link.
enum LinkInput<Io: LinkIo> {
    Event(Io::Event),
    TaskEnded(Result<Io::TaskEnd, JoinError>),
    Deadline,
}

impl<Io: LinkIo> BrokerLink<Io> {
    /// Creates the link. The caller has begun the first probes, and started the tasks that run from the beginning.
    pub(super) fn new(
        io: Io,
        devices: Devices<Io::Protocol>,
        events: mpsc::Receiver<Io::Event>,
        tasks: JoinSet<Io::TaskEnd>,
        condition: Condition,
    ) -> Self {
        Self { io, devices, events, tasks, condition }
    }

    /// Takes a command of the core. Never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        self.devices.command(monotonic_now(), command);
    }

    /// Returns how full the tables are. The cost does not depend on the number of devices.
    pub fn table_sizes(&self) -> UpstreamTableSizes {
        self.devices.table_sizes()
    }

    /// Returns whether a registration is a client of the broker.
    pub(crate) fn is_connected(&self, id: RegistrationId) -> bool {
        self.devices.is_ready(id)
    }

    /// Returns whether the link has a registration, also one that leaves and still publishes.
    pub(crate) fn has(&self, id: RegistrationId) -> bool {
        self.devices.state(id).is_some()
    }

    /// Returns the number of publications that were dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        self.devices.take_dropped()
    }

    /// Returns the next event for the core. This drives the link, so it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        loop {
            if let Some(event) = self.poll_event() {
                return event;
            }
            let input = self.input().await;
            self.take(input);
        }
    }

    /// Publishes what is queued, then closes the connections. Gives up at the deadline.
    pub async fn shut_down(mut self, deadline: Duration) {
        self.devices.disconnect_all(monotonic_now());
        let closing = async {
            loop {
                while self.poll_event().is_some() {}
                if self.devices.is_empty() && !self.io.has_bytes_to_write(&self.tasks) {
                    return;
                }
                let input = self.input().await;
                self.take(input);
            }
        };
        if tokio::time::timeout(deadline, closing).await.is_err() {
            info!("shut down with unsent publications");
        }
    }

    /// Performs the actions of the devices, up to the next event for the core.
    pub fn poll_event(&mut self) -> Option<BrokerEvent> {
        if let Some(TargetsHealth { serving, detail }) = self.devices.take_health() {
            self.condition.set(if serving { ConditionState::Up } else { ConditionState::Down }, detail);
        }
        while let Some(action) = self.devices.poll_action() {
            let event = self.io.perform(&mut self.devices, &mut self.tasks, action);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    async fn input(&mut self) -> LinkInput<Io> {
        let deadline = self.devices.next_deadline().map(tokio::time::Instant::from_std);
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(event) = self.events.recv() => LinkInput::Event(event),
            Some(ended) = self.tasks.join_next() => LinkInput::TaskEnded(ended),
            () = timer => LinkInput::Deadline,
        }
    }

    fn take(&mut self, input: LinkInput<Io>) {
        let (now, devices) = (monotonic_now(), &mut self.devices);
        match input {
            LinkInput::Event(event) => self.io.arrived(now, devices, event),
            LinkInput::TaskEnded(Ok(end)) => self.io.task_ended(now, devices, &mut self.tasks, end),
            // The task of a connection that was closed on purpose.
            LinkInput::TaskEnded(Err(error)) if error.is_cancelled() => {}
            LinkInput::TaskEnded(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            LinkInput::Deadline => devices.handle_timeout(now),
        }
    }
}

/// Returns a generator that is seeded by the system.
///
/// # Errors
/// The system has no randomness.
pub(super) fn random_generator() -> io::Result<StdRng> {
    StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)
}
