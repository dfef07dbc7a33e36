//! The application: it hears everything, and counts.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Subscriber {
    client: AsyncClient,
    notifications: Rc<Cell<u64>>,
    /// The topics of notifications since they were forgotten last.
    notified: Rc<RefCell<HashSet<String>>>,
    /// The notifications since `record`, in the order in which they came.
    recorded: Rc<RefCell<Option<Vec<Publish>>>>,
    /// Messages that arrived on the topics of answers.
    answers: mpsc::UnboundedReceiver<Publish>,
}

impl Subscriber {
    pub async fn connect(broker: SocketAddr) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new("load", broker.ip().to_string(), broker.port());
        options.set_request_channel_capacity(1024);
        let (client, mut connection) = AsyncClient::new(options, 1024);
        client.subscribe("lwm2m/+/up/#", QoS::AtMostOnce).await?;
        while !matches!(connection.poll().await?, Event::Incoming(Packet::SubAck(_))) {}

        let notifications = Rc::new(Cell::new(0));
        let (sender, answers) = mpsc::unbounded_channel();
        let counted = Rc::clone(&notifications);
        let notified = Rc::new(RefCell::new(HashSet::new()));
        let topics = Rc::clone(&notified);
        let recorded = Rc::new(RefCell::new(None));
        let record = Rc::clone(&recorded);
        spawn_local(async move {
            loop {
                match connection.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) if message.topic.ends_with("/up/notify") => {
                        counted.set(counted.get() + 1);
                        if let Some(record) = &mut *record.borrow_mut() {
                            Vec::push(record, message.clone());
                        }
                        topics.borrow_mut().insert(message.topic);
                    }
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        if sender.send(message).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        eprintln!("load: the application lost the broker: {error}");
                        return;
                    }
                }
            }
        });
        Ok(Self { client, notifications, notified, recorded, answers })
    }

    pub async fn command(&self, endpoint: &str, id: u64, msg_type: &str, path: &str) -> anyhow::Result<()> {
        let command = json!({ "reqID": id, "msgType": msg_type, "data": { "path": path } });
        let topic = format!("lwm2m/{endpoint}/dn");
        self.client.publish(topic, QoS::AtMostOnce, false, command.to_string()).await.context("publishing a command")
    }

    /// Waits for the answer to the command of this id.
    pub async fn answer(&mut self, id: u64) -> anyhow::Result<()> {
        let search = async {
            loop {
                let message = self.answers.recv().await.context("the application lost the broker")?;
                let answer: Value = serde_json::from_slice(&message.payload)?;
                if answer["reqID"] == id && !answer["data"]["code"].is_null() {
                    return Ok(());
                }
            }
        };
        timeout(ANSWER_TIMEOUT, search).await.with_context(|| format!("command {id} was not answered"))?
    }

    /// The next answer that says how a command ended: who gave it, and which command it was.
    pub async fn next_answer(&mut self) -> anyhow::Result<(String, u64)> {
        loop {
            let message = self.answers.recv().await.context("the application lost the broker")?;
            let answer: Value = serde_json::from_slice(&message.payload)?;
            if let (Some(id), "2.05") = (answer["reqID"].as_u64(), answer["data"]["code"].as_str().unwrap_or_default())
            {
                return Ok((message.topic, id));
            }
        }
    }

    /// Discards the messages that have arrived so far.
    pub fn forget(&mut self) {
        self.notified.borrow_mut().clear();
        while self.answers.try_recv().is_ok() {}
    }

    /// Devices of which notifications came.
    pub fn notifying_devices(&self) -> usize {
        self.notified.borrow().len()
    }

    /// Keeps every notification from now on.
    pub fn record(&self) {
        self.recorded.replace(Some(Vec::new()));
    }

    /// Returns the stored messages in the order of arrival.
    pub fn take_recorded(&self) -> Vec<Publish> {
        self.recorded.take().unwrap_or_default()
    }

    pub fn notifications(&self) -> u64 {
        self.notifications.get()
    }
}
