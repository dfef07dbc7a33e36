//! Runs the event loop: it gives input to the [`Gateway`] and carries out its outputs. It owns the core and tells it
//! the time.
//!
//! Nothing here waits while a device or the broker could be served: sending a datagram and handing a command to the
//! link are immediate.

mod askers;
pub(crate) mod campaign_ask;
mod campaigns;
pub mod clustered;
pub mod control;
mod departures;
pub mod forwarding;
mod handover;
mod moving;
mod names;
pub(crate) mod onlookers;
pub mod owners;
mod pages;
mod requests;
pub mod shares;
pub mod threads;
pub mod traced;

use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tracing::{debug, trace, warn};

use crate::clock::{monotonic_now, unix_time};
use crate::credentials::KeyFinder;
use crate::firmware::{ImageAnswer, ImageReader, ImageRequest};
use crate::observability::failures::{Failure, FailureKind, FailureLog};
use crate::observability::log::Log;
use crate::observability::metrics::Metrics;
use crate::process::service::Watchdog;
use crate::store::{Store, StoreEvent};
use crate::transport::{ReceiveBatch, UdpSockets};
use crate::upstream::UpstreamLink;
use lwm2m_core::gateway::report::Report;
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_dtls::credentials::{KeyAnswer, KeyQuestion};
use lwm2m_router::Route;

use askers::Askers;
use clustered::{ClusterInput, ClusterSeat};
use control::DriverRequest;
use onlookers::Onlookers;
use threads::{DriverThread, ThreadInput};
use traced::TraceSender;

/// Interval at which the core learns the wall clock time.
const WALL_CLOCK_EVERY: Duration = Duration::from_secs(60);
/// Maximum number of link events that are handled before devices have their turn.
const LINK_EVENTS: usize = 64;
/// Upper bound on one sleep when no deadline is set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Maximum number of turns in a row for overdue deadlines. After them the loop waits for the next tick of the timer, 1
/// ms, so that a deadline that stays in the past cannot occupy the processor.
const OVERDUE_TURNS: u32 = 64;
/// Minimum interval between two entries for publications that were dropped.
const DROPPED_EVERY: Duration = Duration::from_secs(1);
const DROPPED: &str = "publications dropped: the queue for the broker was full, or the broker was away for too long";

pub struct Driver {
    gateway: Gateway,
    sockets: UdpSockets,
    link: UpstreamLink,
    metrics: Arc<Metrics>,
    log: Log,
    failures: Arc<FailureLog>,
    onlookers: Onlookers,
    /// The time at which dropped publications were last listed.
    dropped_listed: Instant,
    store: Option<Store>,
    keys: KeyFinder,
    images: Option<ImageReader>,
    requests: mpsc::Receiver<DriverRequest>,
    /// `None` if this is the only driver thread.
    thread: Option<DriverThread>,
    /// `None` without a cluster.
    cluster: Option<ClusterSeat>,
    askers: Askers,
    /// Receiver of the copies of traced messages.
    traced: Option<TraceSender>,
    /// Time of the next hand-over of changes to the store.
    next_flush: Option<Instant>,
    watchdog: Option<Watchdog>,
    /// Another process has taken the store.
    is_fenced: bool,
    /// The store cannot be written now.
    is_store_away: bool,
    wall_clock_read: Instant,
    wall_clock_failed: bool,
}

/// An input of the event loop.
enum DriverInput {
    Readable(usize),
    Broker(lwm2m_core::gateway::broker::BrokerEvent),
    Key(KeyQuestion, KeyAnswer),
    Image(ImageAnswer),
    Store(StoreEvent),
    Asked(DriverRequest),
    Thread(ThreadInput),
    Cluster(ClusterInput),
    Deadline,
    Stop,
}

impl Driver {
    /// Creates a driver. Without a store nothing survives the process.
    pub fn new(
        gateway: Gateway,
        sockets: UdpSockets,
        link: UpstreamLink,
        store: Option<Store>,
        requests: mpsc::Receiver<DriverRequest>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let wall_clock_read = monotonic_now();
        let onlookers = Onlookers::new(metrics.console.events_lost.clone());
        let keys = KeyFinder::none(Arc::clone(&metrics));
        Self {
            gateway,
            sockets,
            link,
            metrics,
            log: Log::default(),
            failures: Arc::default(),
            onlookers,
            dropped_listed: wall_clock_read,
            store,
            keys,
            images: None,
            requests,
            thread: None,
            cluster: None,
            askers: Askers::default(),
            traced: None,
            next_flush: None,
            watchdog: None,
            is_fenced: false,
            is_store_away: false,
            wall_clock_read,
            wall_clock_failed: false,
        }
    }

    /// Feeds this watchdog from the event loop.
    pub fn watched_by(self, watchdog: Option<Watchdog>) -> Self {
        Self { watchdog, ..self }
    }

    /// Lists the failures of devices there.
    pub(crate) fn with_failures(self, failures: Arc<FailureLog>) -> Self {
        Self { failures, ..self }
    }

    /// Looks up the keys of devices here.
    pub fn with_keys(self, keys: Option<KeyFinder>) -> Self {
        Self { keys: keys.unwrap_or(self.keys), ..self }
    }

    /// Reads firmware images here. Without a reader there are none.
    pub(crate) fn with_images(self, images: ImageReader) -> Self {
        Self { images: Some(images), ..self }
    }

    /// Shares the devices with the drivers of other threads.
    pub fn beside(self, thread: Option<DriverThread>) -> Self {
        Self { thread, ..self }
    }

    /// Serves the shards of a node of a cluster.
    pub fn in_cluster(self, cluster: Option<ClusterSeat>) -> Self {
        Self { cluster, ..self }
    }

    /// Runs until `stop` completes, and then shuts down within `patience`: half of it is for the answers to commands in
    /// flight, all of it for what the store has to write and the link has to publish.
    pub async fn run(mut self, stop: impl Future<Output = ()>, patience: Duration) {
        self.run_until(stop, |_| false).await;
        if self.is_fenced {
            // The devices belong to another process now: neither they nor the broker are informed.
            return;
        }
        let end = monotonic_now() + patience;
        let now = self.now();
        self.gateway.drain(now);
        let drained_by = end - patience / 2;
        self.run_until(sleep_until(drained_by.into()), Gateway::is_drained).await;
        if let Some(thread) = &self.thread {
            // Devices of other threads may be reached by the sockets of this thread.
            let others = tokio::time::timeout_at(drained_by.into(), thread.all_drained());
            self.run_until(async { drop(others.await) }, |_| false).await;
        }
        if self.is_fenced {
            return;
        }
        let now = self.now();
        self.gateway.end(now);
        // Answers that the broker gets now need not be published again by the next process.
        self.run_until(sleep_until(drained_by.into()), |gateway| !gateway.has_unpublished_answers()).await;
        if self.is_fenced {
            return;
        }
        let now = self.now();
        let Self { gateway, link, store, mut watchdog, .. } = self;
        let left = end.saturating_duration_since(now);
        let closing = async {
            if let Some(store) = store {
                store.close(now, gateway, left).await;
            }
        };
        let closed = async { tokio::join!(closing, link.shut_down(left)) };
        tokio::select! {
            _ = closed => {}
            () = feed_on(watchdog.as_mut()) => {}
        }
        if let Some(watchdog) = watchdog {
            watchdog.end();
        }
    }

    /// Runs until `stop` completes, or the gateway is `done`.
    async fn run_until(&mut self, stop: impl Future<Output = ()>, done: impl Fn(&Gateway) -> bool) {
        tokio::pin!(stop);
        // The number of turns in a row that were for a deadline.
        let mut overdue_turns = 0;
        loop {
            if self.cluster.is_some() {
                tokio::select! {
                    () = self.may_serve() => {}
                    () = &mut stop => return,
                }
                if self.is_fenced {
                    return;
                }
            }
            let deadline = self.carry_out_all();
            if done(&self.gateway) {
                return;
            }
            let deadline = self.next_wake(deadline);
            // The timer rounds up to its ticks: work that continues in the next turn would wait up to 1 ms for it.
            let overdue = overdue_turns < OVERDUE_TURNS && deadline <= monotonic_now();
            let input = tokio::select! {
                index = self.sockets.readable() => DriverInput::Readable(index),
                event = self.link.event() => DriverInput::Broker(event),
                (question, answer) = self.keys.answer() => DriverInput::Key(question, answer),
                answer = image_answer(self.images.as_mut()) => DriverInput::Image(answer),
                event = store_event(self.store.as_mut()) => DriverInput::Store(event),
                Some(request) = self.requests.recv() => DriverInput::Asked(request),
                input = thread_input(self.thread.as_mut()) => DriverInput::Thread(input),
                input = cluster_input(self.cluster.as_mut()) => DriverInput::Cluster(input),
                () = take_turns(overdue_turns), if overdue => DriverInput::Deadline,
                () = sleep_until(deadline.into()), if !overdue => DriverInput::Deadline,
                () = &mut stop => DriverInput::Stop,
            };
            overdue_turns = if matches!(input, DriverInput::Deadline) && overdue { overdue_turns + 1 } else { 0 };
            let now = self.now();
            if self.handle_input(now, input).is_break() {
                return;
            }
            self.end_turn(now);
        }
    }

    /// Handles an input of the loop. Breaks if the driver ends.
    fn handle_input(&mut self, now: Instant, input: DriverInput) -> ControlFlow<()> {
        match input {
            DriverInput::Readable(index) => self.receive(now, index),
            DriverInput::Broker(event) => self.gateway.handle_broker(now, event),
            DriverInput::Key(question, answer) => self.gateway.handle_key(now, &question, answer),
            DriverInput::Image(answer) => self.handle_image(now, answer),
            DriverInput::Store(StoreEvent::Fenced) => {
                self.is_fenced = true;
                return ControlFlow::Break(());
            }
            DriverInput::Store(event) => self.handle_store(now, event),
            DriverInput::Asked(request) => self.handle_request(now, request),
            DriverInput::Thread(input) => self.handle_thread(now, input),
            DriverInput::Cluster(ClusterInput::Command(command)) => self.handle_cluster_command(command),
            DriverInput::Cluster(ClusterInput::Peer(input)) => self.handle_peers(now, input),
            DriverInput::Deadline => self.gateway.handle_timeout(now),
            DriverInput::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Does what is due after each input.
    fn end_turn(&mut self, now: Instant) {
        self.log.handle_timeout(now);
        self.list_dropped(now);
        self.flush(now);
        self.hand_over_records();
        if self.cluster.is_some() {
            self.hand_on_held(now);
            self.handle_moves(now);
            self.ask_for_terms();
            self.advance_handovers(now);
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.feed(now);
        }
    }

    /// Returns the earliest of this deadline of the gateway and those of the store, the log and the watchdog.
    fn next_wake(&mut self, gateway: Instant) -> Instant {
        let watchdog = self.watchdog.as_ref().map(Watchdog::next);
        let (held, handovers) = match &self.cluster {
            Some(seat) => (seat.next_deadline(), seat.handovers.next_deadline(monotonic_now())),
            None => (None, None),
        };
        [self.plan_flush(), self.log.next_deadline(), watchdog, held, handovers]
            .into_iter()
            .flatten()
            .fold(gateway, Instant::min)
    }

    /// Carries out the outputs of the gateway and hands work to the connections of the link, so that whatever is ready
    /// leaves before the loop sleeps. Returns the next deadline of the gateway.
    fn carry_out_all(&mut self) -> Instant {
        let mut deadline = self.carry_out();
        for _ in 0..LINK_EVENTS {
            let Some(event) = self.link.poll_event() else { break };
            let now = self.now();
            self.gateway.handle_broker(now, event);
            deadline = self.carry_out();
        }
        deadline
    }

    /// Carries out the outputs of the gateway, and returns its next deadline.
    fn carry_out(&mut self) -> Instant {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    trace!(peer = %transmit.peer.address, bytes = transmit.datagram.len(), "datagram out");
                    match &mut self.cluster {
                        None => self.sockets.queue(transmit.peer, transmit.datagram),
                        Some(seat) => {
                            let (now, places) = (monotonic_now(), (&self.gateway, &mut self.sockets));
                            seat.forwarding.transmit(now, places, transmit.peer, transmit.datagram);
                        }
                    }
                }
                Output::Broker(command) => {
                    self.onlookers.broker_command(&command);
                    self.link.submit(command);
                }
                Output::FindKey(question) => {
                    if let Some(answer) = self.keys.find(&question) {
                        let now = self.now();
                        self.gateway.handle_key(now, &question, answer);
                    }
                }
                Output::Claim(question) if self.cluster.is_some() => self.ask_for_name(question),
                Output::Claim(question) => self.ask_for_device(question),
                Output::Unclaim { endpoint } => {
                    if let Some(thread) = &self.thread {
                        thread.unclaim(&endpoint);
                    }
                    self.give_name_back(endpoint);
                }
                Output::DescribeImage { request, name } => self.ask_for_image(ImageRequest::Describe { request, name }),
                Output::ReadImage { request, name, image, offset, length } => {
                    self.ask_for_image(ImageRequest::Read { request, name, image, offset, length });
                }
                Output::Answer(answer) => self.askers.answer(answer),
                Output::Report(report) => self.report(&report),
                Output::Idle(deadline) => {
                    self.send_queued();
                    self.hand_over_traced();
                    return deadline.unwrap_or_else(|| monotonic_now() + LONGEST_SLEEP);
                }
            }
        }
    }

    /// Hands a request for an image to the threads that read.
    fn ask_for_image(&mut self, request: ImageRequest) {
        match &mut self.images {
            Some(images) => images.submit(request),
            None => {
                let now = self.now();
                self.handle_image(now, request.not_found());
            }
        }
    }

    fn handle_store(&mut self, now: Instant, event: StoreEvent) {
        match event {
            StoreEvent::Stored { version } => {
                self.gateway.handle_stored(now, version);
                if let Some(thread) = &mut self.thread {
                    thread.note_stored(Some(version));
                }
                self.note_stored_shards(now, version);
            }
            StoreEvent::Away => self.set_store_away(now, true),
            StoreEvent::Back => self.set_store_away(now, false),
            StoreEvent::Leased { until } => self.gateway.lease_until(until),
            StoreEvent::ContentsLost => self.gateway.rewrite_store(),
            // The event ends the loop.
            StoreEvent::Fenced => {}
        }
    }

    fn set_store_away(&mut self, now: Instant, is_away: bool) {
        self.is_store_away = is_away;
        self.gateway.set_store_away(now, is_away);
    }

    fn handle_image(&mut self, now: Instant, answer: ImageAnswer) {
        match answer {
            ImageAnswer::Described(request, result) => self.gateway.image_described(now, request, result),
            ImageAnswer::Read(request, result) => self.gateway.image_read(now, request, result),
        }
    }

    /// Hands the copies of traced messages to the console.
    fn hand_over_traced(&mut self) {
        while let Some(traced) = self.gateway.poll_trace() {
            if let Some(sender) = &self.traced {
                sender.send(traced);
            }
        }
    }

    /// Plans the next hand-over to the store: changes within its interval are written together. Those that a device or
    /// an application waits for are handed over at once.
    fn plan_flush(&mut self) -> Option<Instant> {
        let Self { gateway, store: Some(store), next_flush, .. } = self else { return None };
        if gateway.has_urgent_changes() && store.has_room() {
            *next_flush = store.flush(monotonic_now(), gateway);
        }
        if next_flush.is_none() {
            *next_flush = store.next_flush(monotonic_now(), gateway);
        }
        *next_flush
    }

    fn flush(&mut self, now: Instant) {
        if self.next_flush.is_some_and(|at| at <= now) {
            self.next_flush = self.store.as_mut().and_then(|store| store.flush(now, &mut self.gateway));
        }
    }

    /// Counts a report, logs it, shows it to onlookers, and lists it if it is a failure.
    fn report(&mut self, report: &Report) {
        let now = monotonic_now();
        self.metrics.record(report);
        self.log.log(now, report);
        self.onlookers.report(now, &mut self.gateway, report);
        let Some(failure) = Failure::of(report) else { return };
        let failure = self.with_identity(failure, report);
        self.list(now, failure, 1);
    }

    /// Lists a failure and shows it to onlookers.
    fn list(&mut self, now: Instant, failure: Failure, count: u64) {
        self.metrics.failures.inc_by(count);
        // While the clock is not set, failures have a time in 1970.
        let at = unix_time().unwrap_or_default();
        match self.failures.record(now, at, failure, count) {
            Some(failure) => self.onlookers.failure(now, &failure),
            None => drop(self.metrics.failures_skipped.inc_by(count)),
        }
    }

    /// Lists the publications that were dropped since the last call as one failure.
    fn list_dropped(&mut self, now: Instant) {
        if now - self.dropped_listed < DROPPED_EVERY {
            return;
        }
        self.dropped_listed = now;
        let dropped = self.link.take_dropped();
        if dropped > 0 {
            self.list(now, Failure::new(FailureKind::Publish, DROPPED), dropped);
        }
    }

    /// Adds the identity that the peer has proved.
    fn with_identity(&self, failure: Failure, report: &Report) -> Failure {
        let Report::RegisterRejected { peer, .. } = report else { return failure };
        Failure { identity: self.gateway.identity_of(*peer), ..failure }
    }

    fn receive(&mut self, now: Instant, index: usize) {
        let Self { gateway, sockets, metrics, thread, cluster, .. } = self;
        let mut forwarding = cluster.as_mut().map(|ClusterSeat { forwarding, .. }| {
            let around = forwarding.surroundings(gateway);
            (forwarding, around)
        });
        let received = sockets.receive(index, |peer, datagram| {
            trace!(peer = %peer.address, bytes = datagram.len(), "datagram in");
            metrics.transport.datagrams_received.inc();
            if let Some((forwarding, around)) = &mut forwarding {
                return forwarding.receive(now, gateway, (peer, datagram), around);
            }
            let Some(thread) = thread else { return gateway.handle_datagram(now, peer, datagram) };
            match thread.route(now, peer, datagram) {
                Route::Own => gateway.handle_datagram(now, peer, datagram),
                Route::Thread { thread: other, is_learned } => {
                    metrics.transport.forwarded(thread.forward(other, peer, datagram, is_learned)).inc();
                }
            }
        });
        // The error belongs to an earlier datagram of the gateway, such as an ICMP message. The device has deadlines of
        // its own.
        match received {
            Ok(ReceiveBatch::Emptied) => {}
            Ok(ReceiveBatch::Full) => {
                self.metrics.transport.full_batches.inc();
            }
            Err(error) => {
                self.metrics.transport.receive_errors.inc();
                debug!(%error, "receiving failed");
            }
        }
    }

    /// Sends the datagrams that the gateway has put out, all of them together.
    fn send_queued(&mut self) {
        let Self { sockets, metrics, .. } = self;
        let sent = sockets.flush(|error| {
            metrics.transport.send_errors.inc();
            debug!(%error, "a datagram was not sent");
        });
        metrics.transport.datagrams_sent.inc_by(sent as u64);
    }

    /// Passes the wall clock time to the core. While the clock shows a time before 1970, the core continues from the
    /// last valid time.
    fn read_wall_clock(&mut self, now: Instant) {
        let unix_time = unix_time();
        let failed_before = std::mem::replace(&mut self.wall_clock_failed, unix_time.is_err());
        match unix_time {
            Ok(unix_time) => self.gateway.set_unix_time(now, unix_time),
            Err(error) if !failed_before => warn!(%error, "wall clock ignored: its last valid time is used"),
            Err(_) => {}
        }
    }

    fn now(&mut self) -> Instant {
        let now = monotonic_now();
        if now - self.wall_clock_read >= WALL_CLOCK_EVERY {
            self.wall_clock_read = now;
            self.read_wall_clock(now);
        }
        now
    }
}

/// Waits for the next answer of the threads that read images.
async fn image_answer(images: Option<&mut ImageReader>) -> ImageAnswer {
    match images {
        Some(images) => images.answer().await,
        None => pending().await,
    }
}

async fn thread_input(thread: Option<&mut DriverThread>) -> ThreadInput {
    match thread {
        Some(thread) => thread.input().await,
        None => pending().await,
    }
}

async fn cluster_input(cluster: Option<&mut ClusterSeat>) -> ClusterInput {
    match cluster {
        Some(seat) => seat.input().await,
        None => pending().await,
    }
}

async fn store_event(store: Option<&mut Store>) -> StoreEvent {
    match store {
        Some(store) => store.event().await,
        None => pending().await,
    }
}

/// Completes at once, or lets other input go first if the turn before was for a deadline, too.
async fn take_turns(overdue_turns: u32) {
    if overdue_turns > 0 {
        yield_now().await;
    }
}

/// Feeds the watchdog while the driver's task waits for the store and the link to close, which have a deadline.
async fn feed_on(watchdog: Option<&mut Watchdog>) {
    let Some(watchdog) = watchdog else { return pending().await };
    loop {
        sleep_until(watchdog.next().into()).await;
        watchdog.feed(monotonic_now());
    }
}
