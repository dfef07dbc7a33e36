//! The messages between the drivers of several threads: datagrams that another thread received than the one that has
//! their device, and devices that move from one thread to another.
//!
//! Each driver has two bounded queues, one for datagrams and one for moves, so that no flood of datagrams delays a
//! move. A datagram that finds no room is dropped, as by the network. A driver that asks for a device reserves the room
//! for the answer in its own queue and sends it along with the question: the driver that gives the device away never
//! finds the queue full, so that no device is lost on its way, and no driver waits for another one.

use std::future::pending;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{Barrier, BarrierWaitResult};

use crate::driver::owners::EndpointOwners;
use lwm2m_base::{Peer, ThreadShards};
use lwm2m_core::gateway::BatchNumber;
use lwm2m_core::gateway::moves::claims::{ClaimAnswer, ClaimPurpose, ClaimQuestion, DeviceName};
use lwm2m_router::{Claim, Flow, Route, Router, RouterConfig};

use super::shares::ThreadShare;

/// Maximum number of datagrams in the queue of a driver.
const DATAGRAMS: usize = 1_024;
/// Maximum number of messages about moves in the queue of a driver, including reserved places.
const MOVES: usize = 1_024;

/// Shows the driver its place among several driver threads.
pub struct DriverThread {
    shards: ThreadShards,
    router: Router,
    owners: EndpointOwners,
    /// The queues of all threads, by number.
    queues: Arc<[ThreadQueues]>,
    datagrams: mpsc::Receiver<DatagramMessage>,
    moves: mpsc::Receiver<MoveMessage>,
    /// The devices that came from other threads and whose records are not stored yet.
    arrived: Vec<ArrivedDevice>,
    /// The barrier that all drivers pass when they have the answers to all commands in flight.
    drained: Arc<Barrier>,
}

struct ThreadQueues {
    datagrams: mpsc::Sender<DatagramMessage>,
    moves: mpsc::Sender<MoveMessage>,
}

/// A message of another thread about datagrams.
pub(super) enum DatagramMessage {
    /// A datagram that belongs to this thread.
    Forwarded { peer: Peer, datagram: Box<[u8]>, from: u8, is_learned: bool },
    /// Tells whether a thread has a device at an address, without an id in its datagrams.
    Learn { flow: Flow, thread: u8, has_device: bool },
}

/// A message of another thread about a device.
pub(super) enum MoveMessage {
    /// A thread asks for a device, and has reserved the room for the answer.
    Release { question: ClaimQuestion, asker: u8, room: OwnedPermit<MoveMessage> },
    /// The answer of the thread that was asked.
    Released { question: ClaimQuestion, answer: ClaimAnswer, from: u8 },
    /// The device of this endpoint was given away, and the store has its new record.
    HandedOver { endpoint: String },
}

/// An input of the driver that comes from another thread.
pub(super) enum ThreadInput {
    Datagram(DatagramMessage),
    Move(MoveMessage),
}

/// A device that came from another thread.
struct ArrivedDevice {
    endpoint: String,
    /// The thread that had it.
    from: u8,
    /// The batch that has its record; `None` until the store has got it.
    stored_by: Option<BatchNumber>,
}

impl DriverThread {
    /// Makes so many threads, at least two. The listener with the number `first_dtls_socket` and all after it speak
    /// DTLS.
    pub fn all(threads: NonZero<u8>, first_dtls_socket: u16, owners: &EndpointOwners) -> Vec<Self> {
        let channels = || (mpsc::channel(DATAGRAMS), mpsc::channel(MOVES));
        let channels: Vec<_> = (0..threads.get()).map(|_| channels()).collect();
        let drained = Arc::new(Barrier::new(channels.len()));
        let (queues, receivers): (Vec<_>, Vec<_>) = channels
            .into_iter()
            .map(|((datagrams, forwarded), (moves, moved))| (ThreadQueues { datagrams, moves }, (forwarded, moved)))
            .unzip();
        let queues: Arc<[ThreadQueues]> = queues.into();
        let shards = (0..threads.get()).filter_map(|thread| ThreadShards::new(thread, threads.get()));
        let thread = |(shards, (datagrams, moves))| Self {
            shards,
            router: Router::new(RouterConfig { shards, first_dtls_socket, flows: Router::FLOWS }),
            owners: owners.clone(),
            queues: Arc::clone(&queues),
            datagrams,
            moves,
            arrived: Vec::new(),
            drained: Arc::clone(&drained),
        };
        shards.zip(receivers).map(thread).collect()
    }

    /// Returns the share of the limits of the program that each thread has.
    pub fn share(&self) -> ThreadShare {
        ThreadShare::of_threads(self.shards.threads())
    }

    /// Returns the number of the thread, counted from 0.
    pub fn number(&self) -> u8 {
        self.shards.thread()
    }

    /// Notes that a thread has restored an association without connection ID at this address.
    pub fn restore(&mut self, flow: Flow, thread: u8) {
        self.router.restore(flow, thread);
    }

    pub fn owners(&self) -> &EndpointOwners {
        &self.owners
    }

    /// Returns the number of addresses that the router remembers.
    pub fn flows(&self) -> usize {
        self.router.flows()
    }

    /// Returns the number of addresses that the router has evicted.
    pub fn evicted_flows(&self) -> u64 {
        self.router.evicted_flows()
    }

    /// Returns the next message of another thread. Cancel-safe.
    pub(super) async fn input(&mut self) -> ThreadInput {
        // Each thread has senders of all queues, so that no queue is closed.
        tokio::select! {
            Some(message) = self.moves.recv() => ThreadInput::Move(message),
            Some(message) = self.datagrams.recv() => ThreadInput::Datagram(message),
            else => pending().await,
        }
    }

    /// Returns a message that has come already.
    pub(super) fn next_datagram(&mut self) -> Option<DatagramMessage> {
        self.datagrams.try_recv().ok()
    }

    /// Waits until all drivers have answered what was in flight.
    pub(super) fn all_drained(&self) -> impl Future<Output = BarrierWaitResult> + use<> {
        let drained = Arc::clone(&self.drained);
        async move { drained.wait().await }
    }
}

/// Datagrams.
impl DriverThread {
    /// Decides which thread handles a datagram that this thread has received.
    pub(super) fn route(&mut self, now: Instant, peer: Peer, datagram: &[u8]) -> Route {
        let Self { router, owners, .. } = self;
        router.route(now, flow_of(peer), datagram, |endpoint| owners.find(endpoint))
    }

    /// Hands a datagram to another thread. Returns whether there was room.
    pub(super) fn forward(&self, thread: u8, peer: Peer, datagram: &[u8], is_learned: bool) -> bool {
        let from = self.number();
        self.send_datagram(thread, DatagramMessage::Forwarded { peer, datagram: datagram.into(), from, is_learned })
    }

    /// Tells the thread that received a datagram whether this thread has a device at its address. A message without
    /// room is repeated after the next datagram.
    pub(super) fn teach(&self, thread: u8, peer: Peer, has_device: bool) {
        let message = DatagramMessage::Learn { flow: flow_of(peer), thread: self.number(), has_device };
        let (true | false) = self.send_datagram(thread, message);
    }

    /// Takes the message of another thread about an address.
    pub(super) fn learn(&mut self, now: Instant, flow: Flow, thread: u8, has_device: bool) {
        if has_device {
            self.router.learn(now, flow, thread);
        } else {
            self.router.forget(flow, thread);
        }
    }

    fn send_datagram(&self, thread: u8, message: DatagramMessage) -> bool {
        self.queues.get(usize::from(thread)).is_some_and(|queues| queues.datagrams.try_send(message).is_ok())
    }
}

/// Moves of devices.
impl DriverThread {
    /// Answers a question at once if no other thread has the device; otherwise asks that thread.
    pub(super) fn ask(&self, question: ClaimQuestion) -> Option<(ClaimQuestion, ClaimAnswer)> {
        let other = match self.owner(&question) {
            Ok(other) => other,
            Err(answer) => return Some((question, answer)),
        };
        let busy = |question| Some((question, ClaimAnswer::Unknown));
        let own = self.queues.get(usize::from(self.number())).map(|queues| queues.moves.clone().try_reserve_owned());
        let (Some(Ok(room)), Some(queues)) = (own, self.queues.get(usize::from(other))) else { return busy(question) };
        let asker = self.number();
        match queues.moves.try_send(MoveMessage::Release { question, asker, room }) {
            Ok(()) => None,
            Err(error) => match error.into_inner() {
                MoveMessage::Release { question, .. } => busy(question),
                MoveMessage::Released { .. } | MoveMessage::HandedOver { .. } => None,
            },
        }
    }

    /// Returns the other thread that has the device, or the answer if there is none.
    fn owner(&self, ClaimQuestion { device, purpose, .. }: &ClaimQuestion) -> Result<u8, ClaimAnswer> {
        let Some(mut owners) = self.owners.lock() else { return Err(ClaimAnswer::Mine) };
        let owner = match (device, purpose) {
            (DeviceName::Endpoint(endpoint), ClaimPurpose::Register) => match owners.claim(endpoint, self.number()) {
                Claim::Mine => return Err(ClaimAnswer::Mine),
                Claim::At(thread) => Some(thread),
                Claim::Unknown => return Err(ClaimAnswer::Unknown),
            },
            (DeviceName::Endpoint(endpoint), ClaimPurpose::Request | ClaimPurpose::Handshake) => owners.find(endpoint),
            (DeviceName::Location(location), _) => owners.find_location(location),
        };
        owner.filter(|owner| *owner != self.number()).ok_or(ClaimAnswer::Absent)
    }

    /// Gives a device, or its name, to the thread that asked for it, after this driver has carried out all outputs.
    pub(super) fn give(
        &self,
        question: ClaimQuestion,
        answer: ClaimAnswer,
        (asker, room): (u8, OwnedPermit<MoveMessage>),
    ) {
        let answer = match (answer, self.owners.lock()) {
            (ClaimAnswer::Arrived(moved), Some(mut owners)) => {
                owners.place(&moved.record.registration.endpoint, &moved.record.location, asker);
                ClaimAnswer::Arrived(moved)
            }
            // The device has left before the question came.
            (ClaimAnswer::Absent, Some(mut owners)) if question.purpose == ClaimPurpose::Register => {
                match &question.device {
                    DeviceName::Endpoint(endpoint) if owners.claim(endpoint, asker) == Claim::Mine => ClaimAnswer::Mine,
                    DeviceName::Endpoint(_) | DeviceName::Location(_) => ClaimAnswer::Absent,
                }
            }
            (answer, _) => answer,
        };
        room.send(MoveMessage::Released { question, answer, from: self.number() });
    }

    /// Returns the claim of an endpoint name.
    pub(super) fn unclaim(&self, endpoint: &str) {
        if let Some(mut owners) = self.owners.lock() {
            owners.unclaim(endpoint, self.number());
        }
    }

    /// Notes that a device has come from another thread.
    pub(super) fn note_arrival(&mut self, endpoint: String, from: u8) {
        self.arrived.push(ArrivedDevice { endpoint, from, stored_by: None });
    }

    /// Notes which batch has the records of devices that have come, after batches up to `last` were handed over.
    /// `waits` returns whether the record of an endpoint is in none of them.
    pub(super) fn note_flushed(&mut self, last: BatchNumber, waits: impl Fn(&str) -> bool) {
        for arrived in self.arrived.iter_mut().filter(|arrived| arrived.stored_by.is_none()) {
            arrived.stored_by = (!waits(&arrived.endpoint)).then_some(last);
        }
    }

    /// Tells the threads that had devices before that the store has the new records. Without a store they are told at
    /// once.
    pub(super) fn note_stored(&mut self, version: Option<BatchNumber>) {
        let queues = &self.queues;
        self.arrived.retain(|ArrivedDevice { endpoint, from, stored_by }| {
            let is_stored = match version {
                Some(version) => stored_by.is_some_and(|stored_by| stored_by <= version),
                None => true,
            };
            let message = MoveMessage::HandedOver { endpoint: endpoint.clone() };
            // Without room in the queue the record of the former thread is removed later.
            !is_stored || queues.get(usize::from(*from)).is_some_and(|queues| queues.moves.try_send(message).is_err())
        });
    }
}

pub(super) fn flow_of(Peer { socket, address, .. }: Peer) -> Flow {
    Flow { socket, address }
}

#[cfg(test)]
mod tests;
