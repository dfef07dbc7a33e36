//! Everything at once: a broker, the built program, one device, and an application that hears all of the device.

use std::time::Duration;

use lwm2m_core::coap::Code;
use serde_json::{Value, json};

use super::application::{Application, answer, content};
use super::broker::TestBroker;
use super::device::Device;
use super::gateway::Gateway;

/// The object list that a device of a test registers with, if the test does not care.
pub(crate) const LINKS: &str = "</1/0>,</3/0>,</3303/0>";

pub(crate) struct ProgramScene {
    pub endpoint: String,
    pub device: Device,
    pub application: Application,
    pub gateway: Gateway,
    pub broker: TestBroker,
}

impl ProgramScene {
    /// A device that is not registered.
    pub(crate) async fn start(endpoint: &str) -> Self {
        Self::start_with(endpoint, "").await
    }

    /// The same with these lines of configuration (`a.b = value`).
    pub(crate) async fn start_with(endpoint: &str, lines: &str) -> Self {
        let broker = TestBroker::start().await;
        let gateway = Gateway::start_with(&broker.addresses, 1, lines);
        Self {
            endpoint: endpoint.to_owned(),
            device: Device::new(gateway.address()),
            application: Application::connect(&broker.addresses.mqtt, &[endpoint]),
            gateway,
            broker,
        }
    }

    /// A device that is registered, as LwM2M 1.0, and whose report was heard.
    pub(crate) async fn registered(endpoint: &str) -> Self {
        Self::registered_with(endpoint, "").await
    }

    pub(crate) async fn registered_with(endpoint: &str, lines: &str) -> Self {
        let mut scene = Self::start_with(endpoint, lines).await;
        scene.register("lt=300&lwm2m=1.0", LINKS);
        scene
    }

    /// Registers with this query besides the endpoint name, and hears the report.
    pub(crate) fn register(&mut self, query: &str, links: &str) -> Value {
        self.device.register(&format!("ep={}&{query}", self.endpoint), links);
        self.hear("up/resp", "register")
    }

    /// The next publication is of this kind, on this topic of the device.
    #[track_caller]
    pub(crate) fn hear(&mut self, topic: &str, kind: &str) -> Value {
        let (heard, payload) = self.application.receive();
        assert_eq!((heard, &payload["msgType"]), (self.topic(topic), &json!(kind)), "{payload}");
        payload
    }

    /// The next publication is this one, on this topic of the device.
    #[track_caller]
    pub(crate) fn expect(&mut self, topic: &str, payload: &Value) {
        self.application.expect(&self.topic(topic), payload);
    }

    pub(crate) fn command(&mut self, command: &Value) {
        self.application.send(&self.endpoint, command);
    }

    /// A whole read of `/3/0/0`, from the application to the device and back. What the gateway sends to a device and
    /// publishes for it keeps its order: so there was nothing else before.
    #[track_caller]
    pub(crate) fn nothing_more(&mut self) {
        let command = json!({ "reqID": "nothing more", "msgType": "read", "data": { "path": "/3/0/0" } });
        self.command(&command);
        let request = self.device.expect_request(Code::GET, "/3/0/0");
        self.device.answer_text(&request, "Acme");
        self.expect("up/resp", &answer(&command, content("/3/0/0", "Acme")));
    }

    /// Waits in real time, and hears nothing on either side meanwhile.
    #[track_caller]
    pub(crate) fn silence(&mut self, duration: Duration) {
        assert_eq!(self.device.receive_within(duration), None);
        assert_eq!(self.application.receive_within(Duration::from_millis(1)), None);
    }

    fn topic(&self, below: &str) -> String {
        format!("lwm2m/{}/{below}", self.endpoint)
    }
}
