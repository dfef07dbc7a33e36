//! The promises of the shared lifecycle over ExProto.

use std::collections::HashSet;

use crate::upstream::client::Devices;
use crate::upstream::client::lifecycle_tests::{LifecycleBroker, Observed, ProbeEnd, lifecycle_tests};

use super::*;

/// Plays EMQX: it reports the tokens of the anchors that it accepts, and answers their calls but for Publish.
struct Emqx {
    scene: ExProtoScene,
    tokens: HashMap<ConnectionId, AnchorToken>,
    /// The anchors whose calls have no answer.
    opened: HashSet<ConnectionId>,
    probes: HashSet<ConnectionId>,
    observed: Vec<Observed>,
}

impl Emqx {
    fn look(&mut self) {
        while let Some(action) = self.scene.devices.poll_action() {
            match action {
                ExProtoAction::Dial { anchor, node, token } => {
                    self.scene.dialed.insert(anchor, node);
                    self.tokens.insert(anchor, token);
                    match self.scene.devices.protocol.by_anchor.get(&anchor) {
                        Some(AnchorOwner::Probe(_)) => drop(self.probes.insert(anchor)),
                        Some(AnchorOwner::Device(_)) | None => self.observed.push(Observed::Dialed(anchor)),
                    }
                }
                ExProtoAction::HangUp { anchor } => {
                    if !self.probes.remove(&anchor) {
                        self.observed.push(Observed::HungUp(anchor));
                    }
                }
                ExProtoAction::Call { anchor, call: AdapterCall::Publish { publication, .. }, .. } => {
                    self.observed.push(Observed::Published(anchor, publication.topic));
                }
                ExProtoAction::Call { anchor, .. } if self.opened.contains(&anchor) => {}
                ExProtoAction::Call { anchor, .. } => self.scene.answer(anchor, CallOutcome::Done),
                ExProtoAction::Emit(event) => self.observed.push(Observed::Told(event)),
            }
        }
    }
}

impl LifecycleBroker for Emqx {
    type Protocol = ExProtoProtocol;

    /// Authenticate or Subscribe is refused.
    const REFUSALS: usize = 2;
    const AVAILABLE: &str = "a is available";

    fn new() -> Self {
        Self {
            scene: ExProtoScene::new(),
            tokens: HashMap::new(),
            opened: HashSet::new(),
            probes: HashSet::new(),
            observed: Vec::new(),
        }
    }

    fn devices(&mut self) -> &mut Devices<ExProtoProtocol> {
        &mut self.scene.devices
    }

    fn now(&self) -> Instant {
        self.scene.now
    }

    fn metrics(&self) -> &UpstreamMetrics {
        &self.scene.metrics
    }

    fn publication(topic: &str) -> Publication {
        publication(topic, UplinkClass::Answer)
    }

    fn command(&mut self, command: BrokerCommand) {
        self.scene.devices.command(self.scene.now, command);
    }

    fn advance(&mut self, time: Duration) {
        self.scene.advance(time);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.scene.devices.next_deadline()
    }

    fn open(&mut self, anchor: ConnectionId) {
        self.look();
        self.opened.insert(anchor);
        self.scene.devices.dialed(self.scene.now, anchor, Ok(()));
        let token = self.tokens[&anchor].clone();
        self.scene.socket_says(&conn(anchor), &token.line());
        self.look();
    }

    fn grant(&mut self, anchor: ConnectionId) {
        self.opened.remove(&anchor);
        self.scene.answer(anchor, CallOutcome::Done);
        self.look();
    }

    fn refuse_device(&mut self, anchor: ConnectionId, way: usize) {
        self.open(anchor);
        for _ in 0..way {
            self.scene.answer(anchor, CallOutcome::Done);
            self.look();
        }
        self.scene.answer(anchor, CallOutcome::Refused("not_authorized".to_owned()));
    }

    fn fail_device(&mut self, anchor: ConnectionId) {
        self.open(anchor);
        self.scene.answer(anchor, CallOutcome::Failed("an error of EMQX".to_owned()));
    }

    fn fail_dial(&mut self, anchor: ConnectionId) {
        self.scene.devices.dialed(self.scene.now, anchor, not_reached());
    }

    fn lack_descriptor(&mut self, anchor: ConnectionId) {
        self.scene.devices.dialed(self.scene.now, anchor, nothing_left());
    }

    fn take_over(&mut self, anchor: ConnectionId) {
        self.scene.socket_closed(&conn(anchor), "{shutdown,discarded}");
    }

    fn probe_all(&mut self) {
        self.scene.devices.probe_all(self.scene.now);
    }

    fn is_probed(&mut self) -> bool {
        self.look();
        !self.probes.is_empty()
    }

    fn end_probe(&mut self, end: ProbeEnd) {
        let anchor = *self.probes.iter().next().expect("a probe");
        match end {
            ProbeEnd::Served => {
                self.scene.devices.dialed(self.scene.now, anchor, Ok(()));
                let token = self.tokens[&anchor].clone();
                self.scene.socket_says(&conn(anchor), &token.line());
            }
            ProbeEnd::NotReached => self.scene.devices.dialed(self.scene.now, anchor, not_reached()),
            ProbeEnd::Closed => {
                self.scene.devices.dialed(self.scene.now, anchor, Ok(()));
                self.scene.devices.anchor_ended(self.scene.now, anchor);
            }
            ProbeEnd::NoDescriptor => self.scene.devices.dialed(self.scene.now, anchor, nothing_left()),
        }
        self.look();
        assert!(!self.probes.contains(&anchor), "a probe that has ended is closed");
    }

    fn recover(&mut self) {
        let begun = self.scene.now;
        while !self.is_probed() {
            self.advance_to_deadline();
        }
        assert!(self.scene.now <= begun + seconds(1));
        self.end_probe(ProbeEnd::Served);
    }

    fn owner(&self, anchor: ConnectionId) -> RegistrationId {
        match self.scene.devices.protocol.by_anchor.get(&anchor) {
            Some(AnchorOwner::Device(device)) => *device,
            other => panic!("{anchor:?} is that of {other:?}"),
        }
    }

    fn acknowledge(&mut self, anchor: ConnectionId) {
        self.scene.answer(anchor, CallOutcome::Done);
    }

    fn refuse(&mut self, anchor: ConnectionId) {
        self.scene.answer(anchor, CallOutcome::Refused("not_authorized".to_owned()));
    }

    fn lose(&mut self, anchor: ConnectionId) {
        self.scene.devices.anchor_ended(self.scene.now, anchor);
    }

    fn observe(&mut self) -> Vec<Observed> {
        self.look();
        std::mem::take(&mut self.observed)
    }
}

/// Names an anchor as EMQX does.
fn conn(anchor: ConnectionId) -> String {
    format!("c{}", anchor.0)
}

lifecycle_tests!(Emqx);
