//! The application of a test: a real MQTT client that sends commands and hears everything that goes up.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use super::device::PATIENCE;

pub(crate) struct Application {
    client: Client,
    heard: Receiver<ApplicationEvent>,
    /// Its own commands come back to it, since it subscribes everything below the mount point.
    own: Vec<(String, Vec<u8>)>,
}

enum ApplicationEvent {
    Subscribed,
    Publication { topic: String, payload: Vec<u8> },
}

impl Application {
    /// Connects to the broker at `host:port` and subscribes everything of these devices.
    pub(crate) fn connect(broker: &str, endpoints: &[&str]) -> Self {
        let (host, port) = broker.rsplit_once(':').expect("host:port");
        let id = format!("application-{}-{}", std::process::id(), endpoints.join("-"));
        let mut options = MqttOptions::new(id, host, port.parse().expect("a port"));
        options.set_keep_alive(Duration::from_secs(30));
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, connection) = Client::new(options, 64);
        let (sender, heard) = channel();
        thread::spawn(move || listen(connection, &sender));
        for endpoint in endpoints {
            client.subscribe(format!("lwm2m/{endpoint}/#"), QoS::AtMostOnce).expect("the client runs");
        }
        let application = Self { client, heard, own: Vec::new() };
        for _ in endpoints {
            assert!(
                matches!(application.next(PATIENCE), Some(ApplicationEvent::Subscribed)),
                "the broker takes the subscription"
            );
        }
        application
    }

    /// Sends a command to `lwm2m/{endpoint}/dn`.
    pub(crate) fn send(&mut self, endpoint: &str, command: &Value) {
        self.send_to(&format!("lwm2m/{endpoint}/dn"), command.to_string().as_bytes());
    }

    pub(crate) fn send_to(&mut self, topic: &str, payload: &[u8]) {
        self.own.push((topic.to_owned(), payload.to_vec()));
        self.client.publish(topic, QoS::AtMostOnce, false, payload).expect("the client runs");
    }

    /// Sends a command that the broker keeps for a device which is not connected.
    pub(crate) fn send_at_least_once(&mut self, endpoint: &str, command: &Value) {
        let (topic, payload) = (format!("lwm2m/{endpoint}/dn"), command.to_string().into_bytes());
        self.own.push((topic.clone(), payload.clone()));
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).expect("the client runs");
    }

    /// The next publication that is not its own.
    pub(crate) fn receive(&mut self) -> (String, Value) {
        let (topic, payload) = self.receive_within(PATIENCE).expect("the gateway publishes");
        let value = serde_json::from_slice(&payload).expect("what is published is JSON");
        (topic, value)
    }

    pub(crate) fn receive_within(&mut self, patience: Duration) -> Option<(String, Vec<u8>)> {
        loop {
            let ApplicationEvent::Publication { topic, payload } = self.next(patience)? else { continue };
            match self.own.iter().position(|(own, command)| *own == topic && *command == payload) {
                Some(at) => self.own.remove(at),
                None => return Some((topic, payload)),
            };
        }
    }

    /// The next publication is this one, but for a `reason`.
    #[track_caller]
    pub(crate) fn expect(&mut self, topic: &str, payload: &Value) {
        let (heard, value) = self.receive();
        assert_eq!(heard, topic, "{value}");
        assert_same(&value, payload);
    }

    fn next(&self, patience: Duration) -> Option<ApplicationEvent> {
        self.heard.recv_timeout(patience).ok()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // A broker that is gone already is no failure of the test.
        drop(self.client.try_disconnect());
    }
}

/// Hands everything on, until the connection or the test ends.
fn listen(mut connection: Connection, heard: &Sender<ApplicationEvent>) {
    for event in connection.iter() {
        let news = match event {
            Ok(Event::Incoming(Packet::SubAck(_))) => ApplicationEvent::Subscribed,
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                ApplicationEvent::Publication { topic: publish.topic, payload: publish.payload.to_vec() }
            }
            Ok(_) => continue,
            Err(_) => return,
        };
        if heard.send(news).is_err() {
            return;
        }
    }
}

/// The answer to a command, as it is expected: the command with other `data`.
pub(crate) fn answer(command: &Value, data: Value) -> Value {
    let mut answer = command.clone();
    answer["data"] = data;
    answer
}

/// The `data` of an answer without content.
pub(crate) fn done(path: &str, code: &str, message: &str) -> Value {
    json!({ "reqPath": path, "code": code, "codeMsg": message })
}

/// The `data` of an answer to a read of one value.
pub(crate) fn content(path: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({ "reqPath": path, "code": "2.05", "codeMsg": "content", "content": [{ "path": path, "value": value }] })
}

/// JSON compares as values, numbers as numbers; a `reason` in the data may be there in addition.
#[track_caller]
pub(crate) fn assert_same(actual: &Value, expected: &Value) {
    let mut reduced = actual.clone();
    if let (Some(data), None) = (reduced.get_mut("data").and_then(Value::as_object_mut), expected["data"].get("reason"))
    {
        data.remove("reason");
    }
    assert!(same(&reduced, expected), "\n   there is {}\nexpected is {}", shown(actual), shown(expected));
}

/// What a person would read of it.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(2000).collect()
}

fn same(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Number(actual), Value::Number(expected)) => actual == expected || actual.as_f64() == expected.as_f64(),
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len()
                && actual.iter().zip(expected).all(|(actual, expected)| same(actual, expected))
        }
        (Value::Object(actual), Value::Object(expected)) => {
            let known = |(key, value): (&String, &Value)| expected.get(key).is_some_and(|other| same(value, other));
            actual.len() == expected.len() && actual.iter().all(known)
        }
        _ => actual == expected,
    }
}
