//! The task that owns the state machine of leases: it carries questions to the keeper of the store and commands to the
//! driver, and opens the gate of the driver.

mod showing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::clock::{monotonic_now, unix_time};
use crate::conditions::{Condition, ConditionState};
use crate::observability::metrics::Metrics;
use crate::store::redis::shared::{AnnouncedNode, EngineAnswer, EngineAsk, EngineChannel};
use lwm2m_base::{Shard, ShardSet};
use lwm2m_cluster::engine::{EngineRequest, RoundAnswer};
use lwm2m_cluster::{
    ClusterMember, Ended, EngineContact, MemberCommand, MemberConfig, MemberEvent, Now, Term, WallTime,
};
use lwm2m_cluster::{Directory, Handover, NodeNumber, PeerMessage, TenureEnd};
use lwm2m_core::gateway::moves::shards::ShardContents;
use lwm2m_router::ShardMap;

use super::gate::GateKeeper;
use super::owners::RecentMoves;
use super::peers::{PeerHandle, RunningPeers};
use super::status::ClusterStatus;
use super::{ClusterCommand, DriverReport};

/// Time from the start of a node until it takes a shard. Its terms are above those of an earlier process of the node.
const FIRST_SHARDS: Duration = Duration::from_secs(12);

/// Maximum time in which a node leaves the list of nodes.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Holds what the task is made of.
pub struct MemberParts {
    pub config: MemberConfig,
    /// The name of the node, for people.
    pub name: String,
    pub engine: EngineChannel,
    pub peers: MemberPeers,
    pub commands: UnboundedSender<ClusterCommand>,
    pub reports: UnboundedReceiver<DriverReport>,
    pub gate: GateKeeper,
    pub condition: Condition,
    pub metrics: Arc<Metrics>,
    /// The time for which the node forwards datagrams after it has handed its shards over.
    pub linger: Duration,
    /// Receives the state of the cluster as it is shown to operators.
    pub status: watch::Sender<Arc<ClusterStatus>>,
    /// The URL of the console, if other machines may reach it.
    pub console: Option<String>,
}

/// The channels between the member task and the connections to the other nodes.
pub struct MemberPeers {
    pub running: RunningPeers,
    pub messages: mpsc::Receiver<(NodeNumber, PeerMessage)>,
    /// Receives the addresses of the nodes.
    pub directory: watch::Sender<Arc<Directory>>,
    /// Receives the owners of shards.
    pub owners: watch::Sender<Arc<ShardMap>>,
}

/// The running task.
pub struct RunningMember {
    task: JoinHandle<()>,
    drain: mpsc::Sender<oneshot::Sender<()>>,
    peers: PeerHandle,
    engine: UnboundedSender<EngineAsk>,
    linger: Duration,
}

/// Owns the state machine.
struct MemberTask {
    node: NodeNumber,
    parts: MemberParts,
    member: ClusterMember,
    /// The shards whose records are being read, so that the driver does not serve them yet.
    loading: HashMap<Shard, LoadingShard>,
    /// The shards that the driver was told to drop, and has not dropped yet. Before that they are not read again:
    /// batches of the driver may still have records of theirs, which the keeper then drops.
    dropping: ShardSet,
    /// The moves of shards that the list of a round may not show yet.
    recent: RecentMoves,
    /// Answers the caller that waits until all shards are handed over.
    draining: Option<oneshot::Sender<()>>,
    has_ended: bool,
    /// The state that was logged last.
    shown: Option<EngineContact>,
    /// Whether it was logged that an operator has drained the node.
    is_shown_drained: bool,
    /// The nodes of the last round, the number of registered devices, and the status that was published last.
    nodes: Vec<AnnouncedNode>,
    devices: usize,
    status: ClusterStatus,
}

/// A shard whose records are being read.
struct LoadingShard {
    /// The newest term of the shard.
    term: Term,
    acquired: Instant,
    /// The records that were read while the shard is to be handed over. They are not served.
    unserved: Option<Box<ShardContents>>,
    is_handed_over: bool,
}

enum MemberInput {
    Engine(EngineAnswer),
    Message(NodeNumber, PeerMessage),
    Report(DriverReport),
    Drain(oneshot::Sender<()>),
    Deadline,
}

impl RunningMember {
    /// Starts the task on the current runtime.
    pub fn start(parts: MemberParts) -> Self {
        let (drain, asked_to_drain) = mpsc::channel(1);
        let (member, node) = (ClusterMember::new(parts.config, now()), parts.config.process.node);
        let (peers, engine, linger) = (parts.peers.running.handle(), parts.engine.asks.clone(), parts.linger);
        let task = MemberTask {
            node,
            parts,
            member,
            loading: HashMap::new(),
            dropping: ShardSet::EMPTY,
            recent: RecentMoves::new(node),
            draining: None,
            has_ended: false,
            shown: None,
            is_shown_drained: false,
            nodes: Vec::new(),
            devices: 0,
            status: ClusterStatus::default(),
        };
        Self { task: tokio::spawn(task.run(asked_to_drain)), drain, peers, engine, linger }
    }

    /// Hands all shards over, as far as that is possible within `patience`: the other nodes serve them. The leases of
    /// the rest expire. After that the node still forwards datagrams for a while, until the balancer sends it no more,
    /// and leaves the list of nodes.
    pub async fn drain(&self, patience: Duration) {
        let end = monotonic_now() + patience;
        let (done, drained) = oneshot::channel();
        let asked = async { self.drain.send(done).await.is_ok() && drained.await.is_ok() };
        match timeout_at(end.into(), asked).await {
            Ok(true) => info!("all shards were handed over"),
            // The task has ended.
            Ok(false) => return,
            Err(_) => {
                return warn!(
                    ?patience,
                    "not all shards were handed over in time: the other nodes take the rest when its leases expire"
                );
            }
        }
        if !self.peers.connected().is_empty() {
            sleep(self.linger).await;
        }
        let (done, left) = oneshot::channel();
        if self.engine.send(EngineAsk::Leave(done)).is_ok() && timeout(LEAVE_TIMEOUT, left).await.is_err() {
            warn!("the store does not answer: the other nodes show this node as silent for a day");
        }
    }

    /// Ends the task, after the driver has ended.
    pub fn stop(self) {
        self.task.abort();
    }
}

impl Drop for MemberTask {
    /// This runs also after a panic: without its leases the node serves nothing, and `/readyz` has to say so.
    fn drop(&mut self) {
        if !self.has_ended {
            self.parts.condition.set(ConditionState::Down, "the task of the leases has ended");
        }
    }
}

impl MemberTask {
    async fn run(mut self, mut asked_to_drain: mpsc::Receiver<oneshot::Sender<()>>) {
        while !self.has_ended {
            self.member.handle_timeout(now());
            self.carry_out_commands();
            let deadline = self.member.next_deadline();
            let input = tokio::select! {
                Some(answer) = self.parts.engine.answers.recv() => MemberInput::Engine(answer),
                Some((from, message)) = self.parts.peers.messages.recv() => MemberInput::Message(from, message),
                Some(report) = self.parts.reports.recv() => MemberInput::Report(report),
                Some(done) = asked_to_drain.recv() => MemberInput::Drain(done),
                () = sleep_until(deadline.into()) => MemberInput::Deadline,
            };
            match input {
                MemberInput::Engine(EngineAnswer::Event(event)) => {
                    if let MemberEvent::Round(answer) = &event {
                        // They are published even if they are the same, because the driver has changed its copy by
                        // messages of single nodes.
                        self.publish_owners(answer.asked, owners(answer));
                        self.note_round(answer);
                    }
                    self.handle(event);
                }
                MemberInput::Engine(EngineAnswer::Nodes(nodes)) => {
                    publish(&self.parts.peers.directory, directory(&nodes));
                    self.nodes = nodes;
                }
                MemberInput::Message(from, message) => self.message(from, message),
                MemberInput::Engine(EngineAnswer::Loaded { shard, contents }) => {
                    self.loaded(shard, contents);
                }
                MemberInput::Engine(EngineAnswer::Name(answer)) => self.command(ClusterCommand::Name(answer)),
                MemberInput::Report(DriverReport::NeedsTerm(shard)) => self.handle(MemberEvent::NeedsTerm(shard)),
                MemberInput::Report(DriverReport::WoundDown { shard, handover }) => {
                    self.handle(MemberEvent::WoundDown { shard, handover });
                }
                MemberInput::Report(DriverReport::Settled(shard)) => self.handle(MemberEvent::Settled(shard)),
                MemberInput::Report(DriverReport::Dropped(shard)) => self.dropped(shard),
                MemberInput::Report(DriverReport::Devices(devices)) => self.devices = devices,
                MemberInput::Drain(done) => {
                    self.draining = Some(done);
                    self.handle(MemberEvent::Drain);
                }
                MemberInput::Deadline => {}
            }
        }
    }

    fn message(&mut self, from: NodeNumber, message: PeerMessage) {
        if let PeerMessage::Yours { shard } = message {
            self.comes(shard);
        }
        self.handle(MemberEvent::Message { from, message });
    }

    /// Publishes the owners of shards of a round.
    fn publish_owners(&mut self, asked: Instant, mut owners: ShardMap) {
        self.recent.correct(monotonic_now(), asked, &mut owners, |shard| self.member.holds(shard).is_some());
        self.parts.peers.owners.send_replace(Arc::new(owners));
    }

    /// Notes that a shard comes to this node. Its datagrams wait here until it is served.
    fn comes(&mut self, shard: Shard) {
        self.recent.comes(monotonic_now(), shard);
        self.parts.peers.owners.send_modify(|owners| Arc::make_mut(owners).set_owner(shard, Some(self.node)));
    }

    fn handle(&mut self, event: MemberEvent) {
        self.member.handle(event, now());
        self.carry_out_commands();
    }

    /// Carries out the commands of the state machine, and opens the gate after that.
    fn carry_out_commands(&mut self) {
        while let Some(command) = self.member.poll_command() {
            match command {
                MemberCommand::Ask(request) => {
                    if let EngineRequest::Round { .. } = request {
                        self.tell_of_itself();
                    }
                    self.ask(EngineAsk::Request(request));
                }
                MemberCommand::Send { to, message } => self.parts.peers.running.handle().send(to, message),
                MemberCommand::Load { shard, term } => {
                    self.parts.metrics.cluster.acquired.inc();
                    let acquired = monotonic_now();
                    let loading = LoadingShard { term, acquired, unserved: None, is_handed_over: false };
                    self.loading.insert(shard, loading);
                    self.comes(shard);
                    if !self.dropping.contains(shard) {
                        self.ask(EngineAsk::Load { shard, term });
                    }
                }
                MemberCommand::UseTerm { shard, term } => self.use_term(shard, term),
                // The gate suspends the whole node.
                MemberCommand::Suspend(_) => {}
                MemberCommand::Resume(shard) => self.resume(shard),
                MemberCommand::HandOver { shard, handover, to } => self.hand_over(shard, handover, to),
                MemberCommand::Drop { shard, end } => self.drop_shard(shard, end),
                MemberCommand::Drained => self.drained(),
                MemberCommand::End(reason) => self.end(reason),
            }
        }
        self.parts.metrics.cluster.shards.set(self.read_shards() as i64);
        let age = self.member.lease_age(monotonic_now()).unwrap_or_default();
        self.parts.metrics.cluster.lease_age.set(age.as_secs_f64());
        self.show();
        self.parts.gate.open_until(self.member.may_serve_until());
    }

    fn use_term(&mut self, shard: Shard, term: Term) {
        self.parts.metrics.cluster.terms.inc();
        match self.loading.get_mut(&shard) {
            Some(loading) => loading.term = term,
            None => self.command(ClusterCommand::UseTerm { shard, term }),
        }
    }

    fn loaded(&mut self, shard: Shard, contents: Box<ShardContents>) {
        match self.loading.get_mut(&shard) {
            Some(loading) if loading.is_handed_over => loading.unserved = Some(contents),
            Some(_) => self.serve(shard, contents),
            // The shard was lost meanwhile.
            None => {}
        }
    }

    /// Commands the driver to serve a shard whose records were read.
    fn serve(&mut self, shard: Shard, contents: Box<ShardContents>) {
        let Some(LoadingShard { term, acquired, .. }) = self.loading.remove(&shard) else { return };
        let took = monotonic_now().saturating_duration_since(acquired);
        self.parts.metrics.cluster.takeover.observe(took.as_secs_f64());
        self.command(ClusterCommand::Serve { shard, term, contents });
    }

    /// Commands the driver to serve a shard again that is not handed over any more.
    fn resume(&mut self, shard: Shard) {
        if let Some(loading) = self.loading.get_mut(&shard) {
            loading.is_handed_over = false;
            if let Some(contents) = loading.unserved.take() {
                self.serve(shard, contents);
            }
        } else if let Some(term) = self.member.holds(shard) {
            self.command(ClusterCommand::Resume { shard, term });
        }
    }

    fn hand_over(&mut self, shard: Shard, handover: Handover, to: Option<NodeNumber>) {
        match self.loading.get_mut(&shard) {
            Some(loading) => {
                // The driver does not have the shard.
                loading.is_handed_over = true;
                self.member.handle(MemberEvent::WoundDown { shard, handover }, now());
            }
            None => self.command(ClusterCommand::HandOver { shard, handover, to }),
        }
    }

    fn drop_shard(&mut self, shard: Shard, end: TenureEnd) {
        let cluster = &self.parts.metrics.cluster;
        match end {
            TenureEnd::HandedOver { .. } => cluster.handed_over.inc(),
            TenureEnd::Lost => cluster.lost.inc(),
        };
        if let TenureEnd::HandedOver { to: Some(to) } = end {
            // Datagrams that have come for its devices meanwhile are forwarded at once.
            self.recent.given(monotonic_now(), shard, to);
            self.parts.peers.owners.send_modify(|owners| Arc::make_mut(owners).give(shard, to));
        }
        if self.loading.remove(&shard).is_none() {
            self.dropping.insert(shard);
            self.command(ClusterCommand::Drop(shard));
        } else if !self.dropping.contains(shard) {
            self.ask(EngineAsk::Discard(shard));
        }
    }

    /// Makes the keeper drop the batches of a shard that the driver has handed over, and confirm them. If the node has
    /// acquired the shard again, its records are read now.
    fn dropped(&mut self, shard: Shard) {
        self.dropping.remove(shard);
        self.ask(EngineAsk::Discard(shard));
        if let Some(LoadingShard { term, .. }) = self.loading.get(&shard) {
            self.ask(EngineAsk::Load { shard, term: *term });
        }
    }

    /// Reports that all shards are handed over.
    fn drained(&mut self) {
        if let Some(done) = self.draining.take() {
            // The caller may have given up.
            let (Ok(()) | Err(())) = done.send(());
        }
    }

    fn end(&mut self, reason: Ended) {
        let name = &self.parts.name;
        match reason {
            Ended::Replaced => error!(name, "a newer process of this node has started: this one ends"),
            Ended::Occupied(by) => {
                error!(name, by = by.0, "another process of this node or of its number is alive: this one ends")
            }
        }
        self.parts.condition.set(ConditionState::Down, "another process of this node is alive");
        self.command(ClusterCommand::End);
        self.has_ended = true;
    }

    fn ask(&self, ask: EngineAsk) {
        // The keeper ends after the driver, at the shutdown.
        let (Ok(()) | Err(_)) = self.parts.engine.asks.send(ask);
    }

    fn command(&self, command: ClusterCommand) {
        // A driver that has ended serves nothing.
        let (Ok(()) | Err(_)) = self.parts.commands.send(command);
    }
}

/// Returns the owners of shards as the engine lists them. An owner that does not renew its lease may still serve.
fn owners(round: &RoundAnswer) -> ShardMap {
    round.leases.iter().filter_map(|(shard, lease)| Some((*shard, lease.owner()?.node))).collect()
}

/// Returns the addresses of the nodes.
fn directory(nodes: &[AnnouncedNode]) -> Directory {
    nodes.iter().map(|node| (node.entry.process.node, node.address.clone())).collect()
}

/// Replaces what others watch, if it is another one.
fn publish<T: PartialEq>(watched: &watch::Sender<Arc<T>>, value: T) {
    watched.send_if_modified(|before| {
        let has_changed = **before != value;
        if has_changed {
            *before = Arc::new(value);
        }
        has_changed
    });
}

/// Returns the time of both clocks. A wall clock before 1970 agrees with no server.
fn now() -> Now {
    let wall = unix_time().unwrap_or_default();
    Now { monotonic: monotonic_now(), wall: WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
}
