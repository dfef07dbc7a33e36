//! Demonstrates the whole loop in a minute: the gateway, the embedded broker, a simulated device on a real UDP socket,
//! and an application that talks to it over MQTT. Each command is explained, and every message is printed.
//!
//! 1. The device registers.
//! 2. The application asks: discover, read, write, observe, cancel, execute.
//! 3. At a terminal it goes on with notifications until Ctrl-C.

mod application;
mod screen;
mod thermometer;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::app::{self, App};
use crate::config::Config;
use crate::observability::logging;
use lwm2m_simulator::SimulatedDeviceConfig;

use application::DemoApplication;
use screen::Screen;
use thermometer::Thermometer;

const ENDPOINT: &str = "demo-thermometer";

/// Maximum time until a command is answered; after it the demonstration fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// Interval of the thermometer's notifications.
const NOTIFICATION_INTERVAL: Duration = Duration::from_secs(2);

/// Notifications that are shown before the observation is cancelled.
const NOTIFICATIONS: usize = 3;

const TEMPERATURE: &str = "/3303/0/5700";

/// Pause between two commands at a terminal.
const READING_TIME: Duration = Duration::from_secs(3);

/// A command of the conversation.
struct DemoStep {
    explanation: &'static str,
    msg_type: &'static str,
    data: Value,
    then: DemoWait,
}

/// The event to wait for after the answer.
enum DemoWait {
    Go,
    Notifications,
    /// The device registers again.
    Registration,
}

/// Limits the log to warnings, unless the configuration sets a level.
pub fn with_quiet_log(mut config: Config) -> Config {
    if config.log == Config::default().log {
        config.log.filter = logging::filter("warn").expect("a level is a filter");
    }
    config
}

/// Runs the demonstration. `once` ends it after the conversation; so does a standard output that is no terminal.
pub async fn run(config: Config, once: bool) -> anyhow::Result<()> {
    let app = app::start(config, true).await?;
    let outcome = tokio::select! {
        outcome = demonstrate(&app, once) => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for Ctrl-C"),
    };
    app.stop().await?;
    outcome
}

async fn demonstrate(app: &App, once: bool) -> anyhow::Result<()> {
    let addresses = app.addresses();
    let server = reachable(*addresses.udp.first().context("the gateway has no UDP listener")?);
    let mqtt = addresses.mqtt.context("the gateway has no embedded broker")?;

    let mut screen = Screen::new();
    screen
        .explain(&format!("The gateway listens for devices on {server} and the broker for applications on {mqtt}."))?;
    screen.explain("An application subscribes lwm2m/#, and a thermometer registers.")?;
    let application = DemoApplication::connect(mqtt).await?;
    let settings = SimulatedDeviceConfig {
        notification_interval: Some(NOTIFICATION_INTERVAL),
        ..SimulatedDeviceConfig::new(ENDPOINT)
    };
    let thermometer = Thermometer::start(server, settings).await.context("the simulated device")?;
    let watched = std::io::stdout().is_terminal();
    let reading_time = if watched { READING_TIME } else { Duration::ZERO };
    let mut conversation = Conversation { screen, application, thermometer, reading_time, last_request: 0 };

    conversation.hold().await?;
    conversation.screen.say_what_next(server, mqtt, ENDPOINT)?;
    if watched && !once {
        conversation.go_on().await?;
    }
    conversation.end().await
}

/// The device, the application, and the screen that shows their messages.
struct Conversation {
    screen: Screen,
    application: DemoApplication,
    thermometer: Thermometer,
    reading_time: Duration,
    /// The id of the last command.
    last_request: u64,
}

impl Conversation {
    async fn hold(&mut self) -> anyhow::Result<()> {
        self.wait_for("registration", |message| message["msgType"] == "register").await?;
        for step in steps() {
            self.give_time_to_read().await?;
            self.screen.explain(step.explanation)?;
            self.ask(step.msg_type, step.data).await?;
            match step.then {
                DemoWait::Go => {}
                DemoWait::Notifications => self.wait_for_notifications().await?,
                DemoWait::Registration => {
                    self.wait_for("registration", |message| message["msgType"] == "register").await?;
                }
            }
        }
        Ok(())
    }

    /// Shows notifications until the user presses Ctrl-C.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        self.screen.explain("The temperature is observed until you press Ctrl-C.")?;
        self.ask("observe", json!({ "path": TEMPERATURE })).await?;
        loop {
            self.show_next().await?;
        }
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.screen.explain("The thermometer de-registers.")?;
        self.thermometer.stop();
        while let Some(event) = self.thermometer.next_event().await {
            self.screen.show_device(&event)?;
        }
        Ok(())
    }

    /// Publishes a command and shows what passes until it is answered.
    async fn ask(&mut self, msg_type: &str, data: Value) -> anyhow::Result<()> {
        self.last_request += 1;
        let id = self.last_request;
        let topic = format!("lwm2m/{ENDPOINT}/dn");
        let command = json!({ "reqID": id, "msgType": msg_type, "data": data });
        self.screen.show_message(&topic, &command)?;
        self.application.publish(&topic, &command).await?;
        // The answer echoes the command; what has no code is the command itself, or the device's word that it has it.
        let is_answer = |message: &Value| message["reqID"] == id && !message["data"]["code"].is_null();
        let answer = self.wait_for(&format!("answer to {msg_type}"), is_answer).await?;
        match answer["data"]["code"].as_str() {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => bail!("{msg_type} was answered {}", answer["data"]),
        }
    }

    async fn wait_for_notifications(&mut self) -> anyhow::Result<()> {
        for _ in 0..NOTIFICATIONS {
            self.wait_for("notification", |message| message["msgType"] == "notify").await?;
        }
        Ok(())
    }

    async fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let search = async {
            loop {
                if let Some(message) = self.show_next().await?
                    && wanted(&message)
                {
                    return Ok(message);
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| bail!("no {what} came within {PATIENCE:?}"))
    }

    /// Pauses for the reader, and shows what the device does meanwhile.
    async fn give_time_to_read(&mut self) -> anyhow::Result<()> {
        let reading_time = self.reading_time;
        let happenings = async {
            loop {
                self.show_next().await?;
            }
        };
        timeout(reading_time, happenings).await.unwrap_or(Ok(()))
    }

    /// Shows the next thing that happens; gives it when it is a message of the application's side.
    async fn show_next(&mut self) -> anyhow::Result<Option<Value>> {
        tokio::select! {
            message = self.application.next_message() => {
                let (topic, payload) = message?;
                // A command of our own was shown when it left; those of other applications are news.
                if !topic.contains("/dn") || payload["reqID"] != self.last_request {
                    self.screen.show_message(&topic, &payload)?;
                }
                Ok(Some(payload))
            }
            event = self.thermometer.next_event() => {
                self.screen.show_device(&event.context("the simulated device ended")?)?;
                Ok(None)
            }
        }
    }
}

fn steps() -> Vec<DemoStep> {
    let step = |explanation, msg_type, data| DemoStep { explanation, msg_type, data, then: DemoWait::Go };
    vec![
        step("Discover: what does its device object have?", "discover", json!({ "path": "/3/0" })),
        step("Read one resource, the manufacturer.", "read", json!({ "path": "/3/0/0" })),
        step(
            "Read the whole object instance: the device sends TLV, the application gets JSON.",
            "read",
            json!({ "path": "/3/0" }),
        ),
        step("Write the UTC offset.", "write", json!({ "path": "/3/0/14", "type": "String", "value": "+02:00" })),
        DemoStep {
            explanation: "Observe the temperature: the first answer is its value, then the device notifies.",
            msg_type: "observe",
            data: json!({ "path": TEMPERATURE }),
            then: DemoWait::Notifications,
        },
        step("Cancel the observation.", "cancel-observe", json!({ "path": TEMPERATURE })),
        DemoStep {
            explanation: "Execute the reboot: the device registers again.",
            msg_type: "execute",
            data: json!({ "path": "/3/0/4" }),
            then: DemoWait::Registration,
        },
    ]
}

/// Returns the address by which a device on this machine reaches a socket.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut address = bound;
    if bound.ip().is_unspecified() {
        address.set_ip(if bound.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}
