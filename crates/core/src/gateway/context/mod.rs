//! State that several parts of the gateway share: the time, the configuration, the object definitions, the CoAP
//! endpoint, the queue of outputs, and tables that more than one part writes, such as generated keys and awaited
//! bootstrap sessions.
//!
//! A part is given the context with each event; it keeps no reference to it. The context knows how a message reaches a
//! device (CoAP, and DTLS below it) and in which order outputs leave. The registered devices are not in it.

mod answers;
mod keys;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::{CoapOutput, Endpoint, Response, Transmit};
use crate::lwm2m::codec::DecodeContext;
use crate::lwm2m::model::Model;
use crate::lwm2m::operation::{Content, Operation, Outcome};
use crate::lwm2m::register::Registration;
use crate::mqtt::downlink::CommandContext;
use crate::registry::Device;
use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_base::{Peer, ShardSet};
use lwm2m_dtls::credentials::KeyQuestion;
use lwm2m_dtls::{DtlsReport, DtlsTableSizes};

use super::bootstrap::awaited_bootstraps::AwaitedBootstraps;
use super::bootstrap::generated_keys::GeneratedKeys;
use super::bootstrap::redaction::without_secrets;
use super::broker::{BrokerCommand, MessageReceipt};
use super::config::GatewayConfig;
use super::dtls::DtlsLayer;
use super::firmware::campaigns::inbox::CampaignInbox;
use super::firmware::image::{ImageError, ImageName, ImageRequestId};
use super::firmware::images::{ImageBytes, ImageConsumer, Images, ReadBytes, Wanted};
use super::firmware::pulls::Pulls;
use super::firmware::pulls::uri::cover_keys_in;
use super::moves::claims::ClaimQuestions;
use super::operators::trace::{PeerFacts, TracedPeer, Traces};
use super::output::Output;
use super::persistence::change_batch::BatchNumber;
use super::persistence::held_outputs::{Awaited, HeldOutputs, Recipients};
use super::persistence::outbox::Outbox;
use super::persistence::pending_changes::PendingChanges;
use super::report::Report;
use super::wall_clock::WallClock;

pub(super) struct Context {
    /// The time of the event that is handled.
    pub now: Instant,
    pub config: GatewayConfig,
    pub model: Arc<Model>,
    pub rng: StdRng,
    pub coap: Endpoint,
    pub dtls: Option<DtlsLayer>,
    /// The keys that the bootstrap server generated, for registrations.
    pub generated_keys: GeneratedKeys,
    /// The `bootstrap` commands whose session is awaited.
    pub awaited_bootstraps: AwaitedBootstraps,
    /// The identities whose keys are for bootstrap only.
    pub bootstrap_identities: HashSet<PskIdentity>,
    /// The endpoints whose record in the store is out of date.
    pub changes: PendingChanges,
    /// The messages that wait until it is known which gateway has their device.
    pub claims: ClaimQuestions,
    /// The outputs that wait for the store.
    pub held: HeldOutputs,
    /// The final answers that the broker may not have yet.
    pub outbox: Outbox,
    pub wall_clock: WallClock,
    /// The program shuts down: no new work begins.
    pub draining: bool,
    /// The shards that are about to be handed over: commands for their devices wait.
    pub winding: ShardSet,
    /// Whether a user looks at devices: then the stages of commands are reported.
    pub has_onlookers: bool,
    pub traces: Traces,
    pub images: Images,
    pub pulls: Pulls,
    /// The events of devices that firmware campaigns have not handled yet.
    pub campaign_inbox: CampaignInbox,
    outputs: VecDeque<Output>,
}

impl Context {
    /// Creates the shared state of a gateway without devices. `seed` is the source of all randomness.
    pub(super) fn new(config: GatewayConfig, model: Arc<Model>, seed: [u8; 32], wall_clock: WallClock) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            now: wall_clock.compared(),
            coap: Endpoint::new(config.coap.clone(), rng.random()),
            dtls: None,
            generated_keys: GeneratedKeys::default(),
            awaited_bootstraps: AwaitedBootstraps::default(),
            bootstrap_identities: HashSet::new(),
            config,
            model,
            rng,
            changes: PendingChanges::default(),
            claims: ClaimQuestions::default(),
            held: HeldOutputs::default(),
            outbox: Outbox::default(),
            wall_clock,
            draining: false,
            winding: ShardSet::EMPTY,
            has_onlookers: false,
            traces: Traces::default(),
            images: Images::default(),
            pulls: Pulls::default(),
            campaign_inbox: CampaignInbox::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Appends an output. Outputs leave in the order in which they were made, so those of the CoAP endpoint are flushed
    /// first.
    pub(super) fn push(&mut self, output: Output) {
        self.flush_coap();
        self.emit(output);
    }

    /// Holds what `tell` sends and publishes until the store has confirmed the present record of `awaited`, which is
    /// marked as changed, because after a crash the gateway has to know what it has sent. Without a store, or if
    /// outputs are not held, they leave at once.
    pub(super) fn tell_when_stored<T>(&mut self, awaited: Awaited<'_>, tell: impl FnOnce(&mut Self) -> T) -> T {
        self.flush_coap();
        match awaited {
            Awaited::Device(endpoint) => self.changes.mark(endpoint),
            Awaited::Association(association) => {
                if let Some(dtls) = &mut self.dtls {
                    dtls.server.mark_changed(association);
                }
            }
        }
        let (was_telling, before) = (self.held.begin(awaited), self.outputs.len());
        let told = tell(self);
        self.flush_coap();
        self.held.end(was_telling);
        let made = self.outputs.len() - before;
        if made > 0 && self.held.is_missed() {
            self.push_report(Report::SentBeforeStored { outputs: made });
        }
        told
    }

    /// Confirms a command to the broker: at once, or when the changed record of its device is stored.
    pub(super) fn confirm(&mut self, device: &Device, receipt: MessageReceipt) {
        let (registration, endpoint) = (device.id, &device.registration.endpoint);
        let confirmation = BrokerCommand::Confirm { registration, receipt };
        if self.changes.is_marked(endpoint) {
            self.tell_when_stored(Awaited::Device(endpoint), |context| context.command_broker(confirmation));
        } else {
            self.command_broker(confirmation);
        }
    }

    /// Notes whether the store can be written. While it cannot, nothing waits for it.
    pub(super) fn set_store_away(&mut self, is_away: bool) {
        self.held.set_away(is_away);
        if is_away {
            self.release_held();
        }
    }

    /// Takes the confirmation of the store.
    pub(super) fn handle_stored(&mut self, version: BatchNumber) {
        self.outputs.extend(self.held.handle_stored(version));
    }

    /// Lets the outputs leave that have waited for the store for too long.
    pub(crate) fn release_overdue(&mut self) {
        let (outputs, missed) = self.held.handle_timeout(self.now);
        self.released(outputs, missed);
    }

    /// Lets all outputs leave that wait for the store.
    pub(crate) fn release_held(&mut self) {
        let (outputs, missed) = self.held.release_all();
        self.released(outputs, missed);
    }

    /// Drops all outputs for these recipients.
    pub(crate) fn withdraw(&mut self, recipients: &Recipients) {
        self.flush_coap();
        self.held.withdraw(recipients);
        self.outputs.retain(|output| !recipients.get(output));
    }

    pub(crate) fn pop_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the number of outputs that were not polled yet.
    pub(super) fn outputs(&self) -> usize {
        self.outputs.len()
    }

    pub(super) fn report(&mut self, report: Report) {
        self.flush_coap();
        self.trace_report(&report);
        self.emit(Output::Report(report));
    }

    /// Returns whether commands for a device have to wait, even if it is awake.
    pub(crate) fn keeps_commands_of(&self, device: &Device) -> bool {
        self.draining || !self.winding.is_empty() && self.winding.contains(device.shard())
    }

    pub(crate) fn command_broker(&mut self, command: BrokerCommand) {
        self.push(Output::Broker(command));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let dtls = self.dtls.as_ref().and_then(|dtls| dtls.server.next_deadline());
        let deadlines =
            [self.coap.next_deadline(), dtls, self.awaited_bootstraps.next_deadline(), self.held.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn associations(&self) -> DtlsTableSizes {
        self.dtls.as_ref().map(|dtls| dtls.server.table_sizes()).unwrap_or_default()
    }

    /// Moves what the CoAP endpoint has to send and to report to the outputs.
    pub(crate) fn flush_coap(&mut self) {
        while let Some(output) = self.coap.poll_output() {
            let report = match output {
                CoapOutput::Transmit(transmit) => {
                    self.transmit(transmit);
                    continue;
                }
                CoapOutput::Retransmitted(peer) => Report::Retransmitted { peer },
                CoapOutput::Evicted(peer) => Report::DuplicateForgotten { peer },
            };
            self.push_report(report);
        }
    }

    /// Moves what the DTLS server has to send and to report to the outputs.
    pub(crate) fn flush_dtls(&mut self) {
        let mut missed = 0;
        while let Some((awaited, output)) = self.dtls.as_mut().and_then(DtlsLayer::poll_output) {
            match output {
                Output::Report(report) => self.push_report(report),
                Output::FindKey(question) => self.find_key(question),
                output => match awaited {
                    Some(association) => {
                        let was_telling = self.held.begin(Awaited::Association(association));
                        missed += usize::from(self.held.is_missed());
                        self.emit(output);
                        self.held.end(was_telling);
                    }
                    None => self.emit(output),
                },
            }
        }
        if missed > 0 {
            self.push_report(Report::SentBeforeStored { outputs: missed });
        }
    }

    /// Returns what traces need to know of a peer.
    pub(crate) fn peer_facts(&self, peer: Peer) -> PeerFacts {
        let address = peer.association.and_then(|association| self.dtls.as_ref()?.server.address(association));
        let address = address.unwrap_or(peer.address);
        PeerFacts { peer, address, identity: self.identity(peer), endpoints: Vec::new() }
    }

    /// Returns the time of the event that is handled, and what the wall clock says then.
    pub(crate) fn trace_time(&self) -> (Instant, Duration) {
        (self.now, self.wall_clock.unix_time(self.now))
    }

    /// Asks the shell to describe an image. The answer is an [`ImageEvent::Described`](super::firmware::ImageEvent)
    /// with the id that is returned; `None` if too many descriptions are open.
    pub(crate) fn describe_image(&mut self, name: ImageName) -> Option<ImageRequestId> {
        let (request, output) = self.images.describe(name)?;
        self.push(output);
        Some(request)
    }

    /// Returns bytes of an image, now or when the shell has read them.
    pub(crate) fn read_image(&mut self, reader: ImageConsumer, wanted: Wanted) -> ImageBytes {
        let (bytes, output) = self.images.read(reader, wanted, self.config.image_readers());
        output.into_iter().for_each(|output| self.push(output));
        bytes
    }

    /// Takes what the shell has read. Returns what each reader gets.
    pub(crate) fn have_read(&mut self, request: ImageRequestId, result: Result<Vec<u8>, ImageError>) -> Vec<ReadBytes> {
        let (answers, next) = self.images.have_read(request, result);
        next.into_iter().for_each(|output| self.push(output));
        answers
    }

    /// Marks that the record of this device is out of date.
    pub(super) fn changed(&mut self, device: &Device) {
        self.changes.mark(&device.registration.endpoint);
    }

    /// Returns what is needed to interpret the commands for a device.
    pub(super) fn command_context<'a>(&'a self, registration: &'a Registration) -> CommandContext<'a> {
        let composite_paths = self.config.limits.composite_paths;
        CommandContext { registration, model: &self.model, composite_paths }
    }

    /// Returns what is needed to interpret a payload of a device that comes now.
    pub(super) fn decode_context<'a>(&'a self, registration: &'a Registration) -> DecodeContext<'a> {
        DecodeContext {
            registration,
            model: &self.model,
            undefined: self.config.undefined_resources,
            unix_time: self.wall_clock.unix_time(self.now),
            max_entries: self.config.limits.entries,
        }
    }

    /// Returns the meaning of a response of this device for an operation, by the current definitions.
    pub(super) fn outcome(&self, device: &Device, operation: &Operation, response: &Response) -> Outcome {
        let mut outcome = operation.outcome(response, self.decode_context(&device.registration));
        if let Some(Content::Entries(entries)) = &mut outcome.content {
            cover_keys_in(entries);
        }
        outcome
    }

    /// Answers a handshake with a generated key, or asks the shell.
    fn find_key(&mut self, question: KeyQuestion) {
        let now = self.now;
        match (self.generated_key(&question), &mut self.dtls) {
            (Some(answer), Some(dtls)) => dtls.server.handle_key(now, &question, answer),
            (Some(_) | None, _) => self.outputs.push_back(Output::FindKey(question)),
        }
    }

    /// Sends a CoAP message: as it is over UDP, as a record over DTLS.
    fn transmit(&mut self, transmit: Transmit) {
        if !self.traces.is_empty() {
            let facts = self.peer_facts(transmit.peer);
            let shown = without_secrets(&transmit.datagram);
            let shown = shown.as_deref().unwrap_or(&transmit.datagram);
            self.traces.sent(self.trace_time(), &facts, shown);
        }
        match (transmit.peer.association, &mut self.dtls) {
            (Some(association), Some(dtls)) => {
                let record = dtls.server.seal(association, &transmit.datagram);
                self.flush_dtls();
                if let Some((peer, datagram)) = record {
                    self.emit(Output::Transmit(Transmit { peer, datagram }));
                }
            }
            // The device was restored, and DTLS is off now. Another device may have its address.
            (Some(association), None) => {
                self.push_report(Report::Dtls(DtlsReport::Unsent { association }));
            }
            (None, _) => self.emit(Output::Transmit(transmit)),
        }
    }

    /// Appends an output, unless it has to wait for the store.
    fn emit(&mut self, output: Output) {
        self.outputs.extend(self.held.pass(self.now, output));
        if self.held.is_full() {
            self.release_held();
        }
    }

    fn released(&mut self, outputs: Vec<Output>, missed: usize) {
        self.outputs.extend(outputs);
        if missed > 0 {
            self.push_report(Report::SentBeforeStored { outputs: missed });
        }
    }

    /// Appends a report that never waits for the store.
    fn push_report(&mut self, report: Report) {
        self.trace_report(&report);
        self.outputs.push_back(Output::Report(report));
    }

    fn trace_report(&mut self, report: &Report) {
        if !self.traces.is_empty() {
            let facts = self.traced_peer(report);
            self.traces.report(self.trace_time(), facts.as_ref(), report);
        }
    }

    /// Returns what is known of the peer that a report is about, for traces.
    fn traced_peer(&self, report: &Report) -> Option<PeerFacts> {
        let TracedPeer { peer, identity } = report.traced_peer()?;
        let mut facts = self.peer_facts(peer);
        if let Some(identity) = identity {
            facts.identity = Some(Arc::new(Identity::Psk(identity)));
        }
        if let (Report::Dtls(_), Some(identity)) = (report, facts.identity.as_deref()) {
            facts.endpoints = self.config.identity.endpoints_of(identity).map(str::to_owned).collect();
        }
        Some(facts)
    }
}
