//! The application: an MQTT client that sends commands, and receives the answers and notifications of all devices.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::journal::Journal;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests to the client that may wait for its connection.
const REQUESTS: usize = 1024;

#[derive(Clone)]
pub struct ApplicationConfig {
    pub broker: SocketAddr,
    pub client_id: String,
    /// The user name and the password. Neither is ever shown.
    pub credentials: Option<(String, String)>,
    pub qos: QoS,
    /// The part of a topic before the endpoint name.
    pub topics: String,
    /// The part of an endpoint name before the number of the device.
    pub prefix: String,
}

impl ApplicationConfig {
    /// Returns an application with the topics of the gateway's defaults, for a fleet with default names.
    pub fn new(broker: SocketAddr) -> Self {
        Self {
            broker,
            client_id: "load".to_owned(),
            credentials: None,
            qos: QoS::AtMostOnce,
            topics: "lwm2m/".to_owned(),
            prefix: "load-".to_owned(),
        }
    }
}

/// A connected application. It needs a `LocalSet`.
pub struct Application {
    client: AsyncClient,
    config: ApplicationConfig,
    heard: Rc<Heard>,
    answers: mpsc::UnboundedReceiver<CommandAnswer>,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAnswer {
    pub device: u32,
    /// The `reqID` of the command.
    pub id: u64,
    /// The response code as the gateway writes it: `2.05`.
    pub code: String,
    pub received: Instant,
}

/// Counts notifications, in the task that reads them.
#[derive(Default)]
struct Heard {
    notifications: Cell<u64>,
    /// The devices that notified since this was cleared last.
    devices: RefCell<HashSet<u32>>,
    /// The reason why the connection to the broker has ended.
    ended: RefCell<Option<String>>,
}

/// The parts of `up/resp` that matter here.
#[derive(Deserialize)]
struct ResponseMessage {
    #[serde(rename = "reqID")]
    id: Option<u64>,
    data: ResponseData,
}

#[derive(Deserialize)]
struct ResponseData {
    code: Option<String>,
}

/// The parts of `up/notify` that matter here.
#[derive(Deserialize)]
struct NotificationMessage {
    data: NotificationData,
}

#[derive(Deserialize)]
struct NotificationData {
    #[serde(default)]
    content: Vec<NotifiedValue>,
}

#[derive(Deserialize)]
struct NotifiedValue {
    value: NotifiedNumber,
}

/// Gateways differ in how they write a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum NotifiedNumber {
    Number(f64),
    Text(String),
}

impl Application {
    /// Connects to the broker and subscribes to everything that the devices say; notifications go into the journal.
    ///
    /// # Errors
    ///
    /// The broker is not there, or it refuses the connection or the subscription.
    pub async fn connect(config: ApplicationConfig, journal: Rc<RefCell<Journal>>) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new(&config.client_id, config.broker.ip().to_string(), config.broker.port());
        options.set_request_channel_capacity(REQUESTS);
        if let Some((username, password)) = &config.credentials {
            options.set_credentials(username, password);
        }
        let (client, mut connection) = AsyncClient::new(options, REQUESTS);
        client.subscribe(format!("{}+/up/#", config.topics), config.qos).await?;
        loop {
            match connection.poll().await.context("connecting to the broker")? {
                Event::Incoming(Packet::SubAck(answer)) => {
                    let refused =
                        |code: &rumqttc::SubscribeReasonCode| matches!(code, rumqttc::SubscribeReasonCode::Failure);
                    if answer.return_codes.iter().any(refused) {
                        bail!("the broker refused the subscription to {}+/up/#", config.topics);
                    }
                    break;
                }
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }

        let heard = Rc::new(Heard::default());
        let (sender, answers) = mpsc::unbounded_channel();
        let reader = ApplicationReader { config: config.clone(), heard: Rc::clone(&heard), answers: sender, journal };
        spawn_local(async move {
            let error = loop {
                match connection.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) => reader.take(&message),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            reader.heard.ended.replace(Some(error.to_string()));
        });
        Ok(Self { client, config, heard, answers })
    }

    /// Sends a command to a device, by its number.
    pub async fn command(&self, device: u32, id: u64, msg_type: &str, path: &str) -> anyhow::Result<()> {
        self.publish(device, &json!({ "reqID": id, "msgType": msg_type, "data": { "path": path } })).await
    }

    /// Lets a device fetch an image from the gateway. It does not install the image.
    pub(crate) async fn pull(&self, device: u32, id: u64, image: &str) -> anyhow::Result<()> {
        let data = json!({ "image": image, "method": "pull", "activate": false });
        self.publish(device, &json!({ "reqID": id, "msgType": "firmware-update", "data": data })).await
    }

    async fn publish(&self, device: u32, command: &Value) -> anyhow::Result<()> {
        let ApplicationConfig { topics, prefix, qos, .. } = &self.config;
        let topic = format!("{topics}{prefix}{device}/dn");
        self.client.publish(topic, *qos, false, command.to_string()).await.context("publishing a command")
    }

    /// Waits for the answer to the command of this id.
    pub async fn answer(&mut self, id: u64) -> anyhow::Result<CommandAnswer> {
        let search = async {
            loop {
                let answer = self.next_answer().await?;
                if answer.id == id {
                    return Ok(answer);
                }
            }
        };
        timeout(ANSWER_TIMEOUT, search).await.with_context(|| format!("command {id} was not answered"))?
    }

    /// Returns the next answer that says how a command ended.
    pub async fn next_answer(&mut self) -> anyhow::Result<CommandAnswer> {
        self.answers.recv().await.context("the connection to the broker has ended")
    }

    /// Returns the next answer that has arrived already.
    pub(crate) fn try_next_answer(&mut self) -> Option<CommandAnswer> {
        self.answers.try_recv().ok()
    }

    /// Discards the answers that have arrived so far, and forgets which devices have notified.
    pub fn forget(&mut self) {
        self.heard.devices.borrow_mut().clear();
        while self.answers.try_recv().is_ok() {}
    }

    /// Returns the number of devices whose notifications came since `forget`.
    pub fn notifying_devices(&self) -> usize {
        self.heard.devices.borrow().len()
    }

    pub fn notifications(&self) -> u64 {
        self.heard.notifications.get()
    }

    /// Returns why the connection to the broker has ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.heard.ended.borrow().clone()
    }
}

/// The task that reads the connection.
struct ApplicationReader {
    config: ApplicationConfig,
    heard: Rc<Heard>,
    answers: mpsc::UnboundedSender<CommandAnswer>,
    journal: Rc<RefCell<Journal>>,
}

impl ApplicationReader {
    /// Takes a message. Messages of other devices, and those that it cannot read, are ignored.
    fn take(&self, message: &Publish) {
        let Some((device, topic)) = self.device_and_topic(&message.topic) else { return };
        match topic {
            "up/notify" => self.take_notification(device, &message.payload),
            "up/resp" => {
                let Ok(response) = serde_json::from_slice::<ResponseMessage>(&message.payload) else { return };
                if let (Some(id), Some(code)) = (response.id, response.data.code) {
                    // The application may be gone at the end of a run.
                    let _ = self.answers.send(CommandAnswer { device, id, code, received: Instant::now() });
                }
            }
            _ => {}
        }
    }

    fn take_notification(&self, device: u32, payload: &[u8]) {
        self.heard.notifications.set(self.heard.notifications.get() + 1);
        self.heard.devices.borrow_mut().insert(device);
        let Ok(notification) = serde_json::from_slice::<NotificationMessage>(payload) else { return };
        let number = notification.data.content.first().and_then(|content| match &content.value {
            NotifiedNumber::Number(number) => Some(*number),
            NotifiedNumber::Text(text) => text.parse().ok(),
        });
        // 0 is the value before the first notification.
        if let Some(number) = number.filter(|number| *number >= 1.0) {
            self.journal.borrow_mut().received(device, number as u64, Instant::now());
        }
    }

    fn device_and_topic<'t>(&self, topic: &'t str) -> Option<(u32, &'t str)> {
        let (endpoint, topic) = topic.strip_prefix(self.config.topics.as_str())?.split_once('/')?;
        let number = endpoint.strip_prefix(self.config.prefix.as_str())?;
        Some((number.parse().ok()?, topic))
    }
}
