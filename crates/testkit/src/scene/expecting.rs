//! What a test expects the gateway to say, one thing after the other.

use lwm2m_base::Peer;
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::broker::{BrokerCommand, ClientInfo, RegistrationId};
use lwm2m_core::gateway::operators::console_commands::ConsoleAnswer;
use serde_json::{Value, json};

use super::{Said, Scene, class_of, location_of, outcome, path_of};

impl Scene {
    /// Lets every memory of duplicates expire and asserts that then nothing is left to wait for.
    pub fn expect_nothing_left_behind(&mut self) {
        self.expect_nothing_more();
        self.advance(250.0);
        self.expect_nothing_more();
        assert_eq!((self.gateway.table_sizes().devices, self.deadline), (0, None));
    }

    pub fn expect_sent(&mut self) -> (Peer, Message) {
        match self.said.pop_front() {
            Some(Said::ToDevice(peer, message)) => (peer, message),
            other => panic!("expected a datagram, not {other:?}"),
        }
    }

    pub fn expect_message(&mut self, message: &Message) {
        self.expect_message_to(self.peer, message);
    }

    pub fn expect_message_to(&mut self, peer: Peer, message: &Message) {
        assert_eq!(self.expect_sent(), (peer, message.clone()));
    }

    pub fn expect_reset(&mut self, of: &Message) {
        self.expect_message(&Message::empty(Kind::Reset, of.id));
    }

    pub fn expect_acknowledgement(&mut self, of: &Message) {
        self.expect_message(&Message::empty(Kind::Acknowledgement, of.id));
    }

    /// Expects a confirmable request to the device.
    pub fn expect_request(&mut self, method: Code, path: &str) -> Message {
        let (peer, message) = self.expect_sent();
        assert_eq!(peer, self.peer);
        assert_eq!((message.kind, message.code, path_of(&message).as_str()), (Kind::Confirmable, method, path));
        message
    }

    /// Expects a piggybacked answer to a request of the device.
    pub fn expect_reply(&mut self, peer: Peer, request: &Message, code: Code) -> Message {
        let (to, message) = self.expect_sent();
        assert_eq!((to, message.kind, message.id), (peer, Kind::Acknowledgement, request.id));
        assert_eq!((message.code, message.token), (code, request.token));
        message
    }

    pub fn expect_created(&mut self, register: &Message) {
        let created = self.expect_reply(self.peer, register, Code::CREATED);
        self.location = location_of(&created);
    }

    pub fn expect_broker_command(&mut self) -> BrokerCommand {
        match self.said.pop_front() {
            Some(Said::ToBroker(command)) => command,
            other => panic!("expected a command to the broker, not {other:?}"),
        }
    }

    /// Expects a Connect; its registration becomes the scene's.
    pub fn expect_connect(&mut self) -> ClientInfo {
        match self.expect_broker_command() {
            BrokerCommand::Connect { registration: device, client } => {
                self.device = device;
                client
            }
            other => panic!("expected Connect, not {other:?}"),
        }
    }

    pub fn expect_disconnect(&mut self, expected: RegistrationId) {
        assert_eq!(self.expect_broker_command(), BrokerCommand::Disconnect { registration: expected });
    }

    /// Expects any publication for this device on this topic below `lwm2m/ENDPOINT/`.
    pub fn expect_any_published(&mut self, topic: &str) -> Value {
        let device = self.device;
        match self.expect_broker_command() {
            BrokerCommand::Publish { registration: of, publication } => {
                let payload = serde_json::from_slice(&publication.payload).expect("JSON");
                assert_eq!((of, publication.topic.as_str()), (device, topic), "{payload}");
                assert_eq!(publication.class, class_of(&payload), "{payload}");
                payload
            }
            other => panic!("expected a publication on {topic}, not {other:?}"),
        }
    }

    pub fn expect_published(&mut self, topic: &str, payload: &Value) {
        assert_eq!(&self.expect_any_published(&format!("lwm2m/dev-7/{topic}")), payload);
    }

    /// Expects a `register` or an `update`, and returns its `data`.
    pub fn expect_reported(&mut self, msg_type: &str) -> Value {
        let mut payload = self.expect_any_published("lwm2m/dev-7/up/resp");
        assert_eq!(payload["msgType"], msg_type, "{payload}");
        payload["data"].take()
    }

    /// Expects the final answer: the command's object with its `data` replaced.
    pub fn expect_answer(&mut self, command: &Value, data: Value) {
        let mut answer = command.clone();
        answer["data"] = data;
        self.expect_published("up/resp", &answer);
    }

    /// Expects `coap_timeout` or `coap_reset`: the command's object with another `msgType`.
    pub fn expect_returned(&mut self, command: &Value, msg_type: &str) {
        let mut returned = command.clone();
        returned["msgType"] = json!(msg_type);
        self.expect_published("up/resp", &returned);
    }

    /// Expects a 4.00 of the gateway itself, and returns the reason.
    pub fn expect_refused(&mut self, command: &Value) -> String {
        let mut payload = self.expect_any_published("lwm2m/dev-7/up/resp");
        let reason = payload["data"].as_object_mut().and_then(|data| data.remove("reason")).expect("a reason");
        let mut refused = command.clone();
        refused["data"] = outcome("4.00", "bad_request", &command["data"]["path"]);
        assert_eq!(payload, refused);
        reason.as_str().expect("text").to_owned()
    }

    /// Expects the final answer to a command of the console.
    pub fn expect_console_answer(&mut self) -> ConsoleAnswer {
        match self.said.pop_front() {
            Some(Said::ToConsole(answer)) => answer,
            other => panic!("expected an answer for the console, not {other:?}"),
        }
    }

    pub fn expect_nothing_more(&mut self) {
        assert_eq!(self.said, []);
    }
}
