//! The promises of the shared lifecycle over ExProto.

use std::collections::HashSet;

use crate::upstream::client::lifecycle_tests::{LifecycleBroker, Observed, lifecycle_tests};

use super::*;

/// Plays EMQX: it reports the tokens of the anchors that it accepts, and answers their calls but for Publish.
struct Emqx {
    scene: ExProtoScene,
    tokens: HashMap<ConnectionId, AnchorToken>,
    closed: HashSet<ConnectionId>,
    observed: Vec<Observed>,
}

impl Emqx {
    fn look(&mut self) {
        while let Some(action) = self.scene.devices.poll_action() {
            match action {
                ExProtoAction::Dial { anchor, node, token } => {
                    self.scene.dialed.insert(anchor, node);
                    self.tokens.insert(anchor, token);
                    self.observed.push(Observed::Dialed(anchor));
                }
                ExProtoAction::HangUp { anchor } => {
                    self.closed.insert(anchor);
                    self.observed.push(Observed::HungUp(anchor));
                }
                ExProtoAction::Call { anchor, call: AdapterCall::Publish { publication, .. }, .. } => {
                    self.observed.push(Observed::Published(anchor, publication.topic));
                }
                ExProtoAction::Call { anchor, .. } => self.scene.answer(anchor, CallOutcome::Done),
                ExProtoAction::Emit(event) => self.observed.push(Observed::Told(event)),
            }
        }
    }
}

impl LifecycleBroker for Emqx {
    fn new() -> Self {
        let (scene, tokens) = (ExProtoScene::new(), HashMap::new());
        Self { scene, tokens, closed: HashSet::new(), observed: Vec::new() }
    }

    fn now(&self) -> Instant {
        self.scene.now
    }

    fn metrics(&self) -> &UpstreamMetrics {
        &self.scene.metrics
    }

    fn client(clientid: &str) -> ClientInfo {
        client(clientid)
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

    fn accept(&mut self, anchor: ConnectionId) {
        self.look();
        self.scene.devices.dialed(self.scene.now, anchor, Ok(()));
        let token = self.tokens[&anchor].clone();
        self.scene.socket_says(&format!("c{}", anchor.0), &token.line());
        self.look();
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

lifecycle_tests!(Emqx);
