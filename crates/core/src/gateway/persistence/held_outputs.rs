//! Outputs that wait until the store has what they tell.
//!
//! After a crash the gateway has to know what it has told a device or an application, such as a Location or the end of
//! a handshake. Such an output therefore leaves after the store has confirmed the record behind it:
//!
//! 1. A part of the gateway sends and publishes by
//!    [`Context::tell_when_stored`](crate::gateway::context::Context::tell_when_stored), which marks the record. What it sends
//!    and publishes waits.
//! 2. Later outputs for the same address or the same registration wait behind it, so that their order is kept.
//! 3. The next batch of changes has the record, however many changes there are.
//! 4. The store confirms the batch, or the patience is over: the outputs leave.
//!
//! While the store says that it cannot be written, nothing waits: the wait would end by the patience.
//!
//! Questions to the shell never wait, nor do reports of what was received.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::registry::RegistrationId;
use lwm2m_base::AssociationId;

use super::change_batch::BatchNumber;
use crate::gateway::broker::BrokerCommand;
use crate::gateway::output::Output;

/// The maximum number of outputs that wait. At the next one all of them leave.
const MAX_HELD: usize = 20_000;

/// The record that an output waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Awaited<'a> {
    /// The record of the device of this endpoint name, or its removal.
    Device(&'a str),
    Association(AssociationId),
}

/// A record that has to be in the next batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UrgentRecord {
    Device(Arc<str>),
    Association(AssociationId),
}

impl From<Awaited<'_>> for UrgentRecord {
    fn from(awaited: Awaited<'_>) -> Self {
        match awaited {
            Awaited::Device(endpoint) => Self::Device(endpoint.into()),
            Awaited::Association(id) => Self::Association(id),
        }
    }
}

/// Outputs of one lane leave in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Datagrams to an address, by the number of the socket.
    Address(u16, SocketAddr),
    /// Commands of one registration for the broker.
    Registration(RegistrationId),
    /// Reports of what is told. Other reports do not wait behind them.
    Reports,
}

/// Owns the outputs that wait, and the numbers of the batches that they wait for.
#[derive(Debug, Default)]
pub(in crate::gateway) struct HeldOutputs {
    /// The maximum time that an output waits; `None` if no output waits.
    patience: Option<Duration>,
    /// Whether the outputs that are made now have to wait.
    is_telling: bool,
    /// The store cannot be written: no output waits.
    is_away: bool,
    /// The newest batch that the store was given.
    taken: BatchNumber,
    /// The newest batch that the store has confirmed.
    stored: BatchNumber,
    /// The records that have to be in the next batch.
    urgent: Vec<UrgentRecord>,
    lanes: HashMap<Lane, VecDeque<HeldOutput>>,
    /// The outputs that wait for a batch, in the order in which they were made.
    waits: VecDeque<PendingConfirmation>,
    /// The number of outputs in all lanes.
    len: usize,
    /// The number of outputs that have waited, those that have left included.
    counted: u64,
}

#[derive(Debug)]
struct HeldOutput {
    /// Outputs that leave at the same time leave in this order, whatever their lanes.
    number: u64,
    output: Output,
    /// The batch that it waits for; `None` if it only waits for the outputs before it.
    until: Option<BatchNumber>,
}

#[derive(Clone, Copy, Debug)]
struct PendingConfirmation {
    lane: Lane,
    until: BatchNumber,
    deadline: Instant,
}

impl HeldOutputs {
    /// Holds outputs from now on, each no longer than `patience`.
    pub(super) fn enable(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Returns whether outputs wait, at least while the store can be written.
    pub(in crate::gateway) fn is_enabled(&self) -> bool {
        self.patience.is_some()
    }

    /// Makes the outputs that are made from now on wait for the next batch of changes, which has this record. Returns
    /// whether they did so before; [`HeldOutputs::end`] takes that.
    pub(in crate::gateway) fn begin(&mut self, awaited: Awaited<'_>) -> bool {
        let waits = self.patience.is_some() && !self.is_away;
        if waits {
            self.urgent.push(awaited.into());
        }
        std::mem::replace(&mut self.is_telling, waits)
    }

    pub(in crate::gateway) fn end(&mut self, was_telling: bool) {
        self.is_telling = was_telling;
    }

    /// Returns the output if it does not have to wait; otherwise holds it.
    pub(in crate::gateway) fn pass(&mut self, now: Instant, output: Output) -> Option<Output> {
        if self.lanes.is_empty() && !self.is_telling {
            return Some(output);
        }
        let Some(lane) = Lane::of(&output).filter(|lane| *lane != Lane::Reports || self.is_telling) else {
            return Some(output);
        };
        let number = self.counted;
        if let Some(patience) = self.patience.filter(|_| self.is_telling) {
            let until = self.taken.next();
            self.waits.push_back(PendingConfirmation { lane, until, deadline: now + patience });
            self.lanes.entry(lane).or_default().push_back(HeldOutput { number, output, until: Some(until) });
        } else if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.push_back(HeldOutput { number, output, until: None });
        } else {
            return Some(output);
        }
        self.counted += 1;
        self.len += 1;
        None
    }

    /// Returns whether so many outputs wait that all of them have to leave.
    pub(in crate::gateway) fn is_full(&self) -> bool {
        self.len > MAX_HELD
    }

    /// Returns the number of the next batch, which the store is given now.
    pub(crate) fn next_batch(&mut self) -> BatchNumber {
        self.taken = self.taken.next();
        self.taken
    }

    /// Returns the records that have to be in the next batch.
    pub(super) fn take_urgent(&mut self) -> Vec<UrgentRecord> {
        std::mem::take(&mut self.urgent)
    }

    /// Returns whether outputs wait for the next batch.
    pub(crate) fn is_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Returns the outputs that waited for this batch and those before it.
    pub(in crate::gateway) fn handle_stored(&mut self, version: BatchNumber) -> Vec<Output> {
        self.stored = self.stored.max(version);
        let mut released = Vec::new();
        while let Some(wait) = self.waits.front().copied().filter(|wait| wait.until <= self.stored) {
            self.waits.pop_front();
            self.release(wait.lane, false, &mut released);
        }
        in_order(released)
    }

    /// Notes whether the store can be written. While it cannot, no output waits.
    pub(crate) fn set_away(&mut self, is_away: bool) {
        self.is_away = is_away;
        if is_away {
            // They are marked as changed, and are in a batch when it is their turn.
            self.urgent.clear();
        }
    }

    /// Returns whether outputs leave unstored that would wait if the store could be written.
    pub(crate) fn is_missed(&self) -> bool {
        self.is_away && self.patience.is_some()
    }

    /// Returns the outputs whose patience is over, and how many of them the store has not confirmed.
    pub(in crate::gateway) fn handle_timeout(&mut self, now: Instant) -> (Vec<Output>, usize) {
        self.overdue(|wait| wait.deadline <= now)
    }

    /// Returns all outputs, and how many of them the store has not confirmed.
    pub(crate) fn release_all(&mut self) -> (Vec<Output>, usize) {
        self.overdue(|_| true)
    }

    /// Drops the held outputs for these recipients, and returns their number.
    pub(in crate::gateway) fn withdraw(&mut self, recipients: &Recipients) -> usize {
        let before = self.len;
        self.lanes.retain(|lane, held| {
            let is_withdrawn = recipients.have(*lane);
            self.len -= if is_withdrawn { held.len() } else { 0 };
            !is_withdrawn
        });
        self.waits.retain(|wait| self.lanes.contains_key(&wait.lane));
        before - self.len
    }

    pub(in crate::gateway) fn next_deadline(&self) -> Option<Instant> {
        self.waits.front().map(|wait| wait.deadline)
    }

    /// Returns the number of outputs that wait.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.len
    }

    fn overdue(&mut self, is_over: impl Fn(&PendingConfirmation) -> bool) -> (Vec<Output>, usize) {
        let (mut released, mut missed) = (Vec::new(), 0);
        while let Some(wait) = self.waits.front().copied().filter(&is_over) {
            self.waits.pop_front();
            self.release(wait.lane, true, &mut released);
            missed += 1;
        }
        (in_order(released), missed)
    }

    /// Moves the first outputs of a lane out, up to the first one that has to wait. With `is_over` the first one that
    /// waits for a batch does not have to wait any longer.
    fn release(&mut self, lane: Lane, is_over: bool, released: &mut Vec<HeldOutput>) {
        let Entry::Occupied(mut entry) = self.lanes.entry(lane) else { return };
        let mut is_over = is_over;
        while let Some(first) = entry.get().front() {
            let waits = first.until.is_some_and(|until| until > self.stored);
            if waits && !std::mem::take(&mut is_over) {
                return;
            }
            is_over &= first.until.is_none();
            released.extend(entry.get_mut().pop_front());
            self.len -= 1;
        }
        entry.remove();
    }
}

/// Recipients of outputs: addresses of devices, and the broker's side of registrations.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Recipients(HashSet<Lane>);

impl Recipients {
    pub(in crate::gateway) fn add_address(&mut self, socket: u16, address: SocketAddr) {
        self.0.insert(Lane::Address(socket, address));
    }

    pub(in crate::gateway) fn add_registration(&mut self, registration: RegistrationId) {
        self.0.insert(Lane::Registration(registration));
    }

    /// Iterates over the addresses of devices.
    pub(in crate::gateway) fn addresses(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        self.0.iter().filter_map(|lane| match lane {
            Lane::Address(socket, address) => Some((*socket, *address)),
            Lane::Registration(_) | Lane::Reports => None,
        })
    }

    /// Returns whether an output goes to one of them.
    pub(in crate::gateway) fn get(&self, output: &Output) -> bool {
        Lane::of(output).is_some_and(|lane| self.have(lane))
    }

    fn have(&self, lane: Lane) -> bool {
        self.0.contains(&lane)
    }
}

impl Lane {
    /// Returns the lane of an output; `None` if it never waits.
    fn of(output: &Output) -> Option<Self> {
        match output {
            Output::Transmit(transmit) => Some(Self::Address(transmit.peer.socket, transmit.peer.address)),
            Output::Broker(command) => Some(Self::Registration(registration(command))),
            Output::Report(_) => Some(Self::Reports),
            Output::FindKey(_)
            | Output::Claim(_)
            | Output::Unclaim { .. }
            | Output::DescribeImage { .. }
            | Output::ReadImage { .. }
            | Output::Answer(_)
            | Output::Idle(_) => None,
        }
    }
}

fn in_order(mut released: Vec<HeldOutput>) -> Vec<Output> {
    released.sort_unstable_by_key(|held| held.number);
    released.into_iter().map(|held| held.output).collect()
}

fn registration(command: &BrokerCommand) -> RegistrationId {
    match command {
        BrokerCommand::Connect { registration, .. }
        | BrokerCommand::Resume { registration, .. }
        | BrokerCommand::Publish { registration, .. }
        | BrokerCommand::Confirm { registration, .. }
        | BrokerCommand::SetLifetime { registration, .. }
        | BrokerCommand::HandOver { registration }
        | BrokerCommand::Abandon { registration }
        | BrokerCommand::Disconnect { registration } => *registration,
    }
}
