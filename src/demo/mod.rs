//! Demonstrates the whole loop in a minute: the gateway, the embedded broker, simulated devices on real UDP sockets,
//! and an application that talks to them over MQTT. Each command is explained, and every message is printed.
//!
//! 1. A device of LwM2M 1.0 registers. The application asks: discover, read, write, observe, cancel, execute.
//! 2. A device of LwM2M 1.1 registers. It shows composite reads and writes, a Send with a history, and a firmware
//!    update.
//! 3. A device of LwM2M 1.2 registers. It shows a composite observation.
//! 4. With `--bootstrap` the first device has no server: the gateway gives it one.
//! 5. At a terminal it goes on with notifications until Ctrl-C.

mod application;
mod bootstrap;
mod firmware;
mod screen;
mod script;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::app::{self, App};
use crate::clock::unix_time;
use crate::config::Config;
use crate::observability::logging;
use crate::simulation::{self, RunningDevice};
use lwm2m_simulator::DeviceEvent;

use application::DemoApplication;
use bootstrap::DemoAccounts;
use firmware::DemoImages;
use screen::Screen;
use script::{DemoAction, DemoStep, DemoWait, TEMPERATURE};

/// Maximum time until a command is answered; after it the demonstration fails.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Notifications that are shown before the observation is cancelled.
const NOTIFICATIONS: usize = 3;

/// Pause between two commands at a terminal.
const READING_TIME: Duration = Duration::from_secs(3);

/// Something that the demonstration shows.
enum DemoHappening {
    /// A message of the application's side.
    Message(Value),
    Device(DeviceEvent),
}

/// Limits the log to warnings, unless the configuration sets a level.
pub(crate) fn with_quiet_log(mut config: Config) -> Config {
    if config.log == Config::default().log {
        config.log.filter = logging::filter("warn").expect("a level is a filter");
    }
    config
}

/// Runs the demonstration. `once` ends it after the conversation; so does a standard output that is no terminal. With
/// `bootstrap` the first device is given its server before.
pub(crate) async fn run(mut config: Config, once: bool, bootstrap: bool) -> anyhow::Result<()> {
    let accounts = bootstrap.then(|| DemoAccounts::write(&mut config)).transpose()?;
    let _images = DemoImages::write(&mut config)?;
    let app = app::start(config, true).await?;
    let outcome = tokio::select! {
        outcome = demonstrate(&app, once, accounts.is_some()) => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for Ctrl-C"),
    };
    app.stop().await?;
    outcome
}

async fn demonstrate(app: &App, once: bool, bootstrap: bool) -> anyhow::Result<()> {
    let addresses = app.addresses();
    let server = simulation::reachable(*addresses.udp.first().context("the gateway has no UDP listener")?);
    let mqtt = addresses.mqtt.context("the gateway has no embedded broker")?;

    let watched = std::io::stdout().is_terminal();
    let mut screen = Screen::new();
    screen
        .explain(&format!("The gateway listens for devices on {server} and the broker for applications on {mqtt}."))?;
    screen.explain("An application subscribes lwm2m/#.")?;
    let mut application = DemoApplication::connect(mqtt).await?;
    let mut acts = script::acts(bootstrap).into_iter().zip(1..).peekable();
    while let Some((act, number)) = acts.next() {
        screen.explain(act.explanation)?;
        let endpoint = act.device.endpoint.clone();
        let thermometer = RunningDevice::start(server, act.device, number).await.context("the simulated device")?;
        let mut conversation = Conversation {
            screen: &mut screen,
            application: &mut application,
            thermometer,
            command_topic: format!("lwm2m/{endpoint}/dn"),
            reading_time: if watched { READING_TIME } else { Duration::ZERO },
            last_request: 0,
        };
        conversation.hold(act.steps).await?;
        if acts.peek().is_none() {
            conversation.screen.say_what_next(server, mqtt, &endpoint)?;
            if watched && !once {
                conversation.go_on().await?;
            }
        }
        conversation.end().await?;
    }
    Ok(())
}

/// Joins one device, the application, and the screen that shows their messages.
struct Conversation<'a> {
    screen: &'a mut Screen,
    application: &'a mut DemoApplication,
    thermometer: RunningDevice,
    command_topic: String,
    reading_time: Duration,
    /// The id of the last command.
    last_request: u64,
}

impl Conversation<'_> {
    async fn hold(&mut self, steps: Vec<DemoStep>) -> anyhow::Result<()> {
        self.wait_for_message("registration", "register").await?;
        for step in steps {
            self.give_time_to_read().await?;
            self.screen.explain(step.explanation)?;
            match step.action {
                DemoAction::Command { msg_type, data } => self.ask(msg_type, data).await?,
                DemoAction::Send => self.send_history().await?,
            }
            match step.then {
                DemoWait::Go => {}
                DemoWait::Notifications => {
                    for _ in 0..NOTIFICATIONS {
                        self.wait_for_message("notification", "notify").await?;
                    }
                }
                DemoWait::Registration => self.wait_for_message("registration", "register").await?,
                DemoWait::FirmwareUpdate => self.wait_for_update().await?,
            }
        }
        Ok(())
    }

    /// Shows the events of a firmware update up to its end.
    async fn wait_for_update(&mut self) -> anyhow::Result<()> {
        const ENDS: [&str; 4] = ["succeeded", "failed", "cancelled", "deferred"];
        let end = |happening| match happening {
            DemoHappening::Message(message) => {
                let is_end = message["data"]["phase"].as_str().is_some_and(|phase| ENDS.contains(&phase));
                (message["msgType"] == "firmware-status" && is_end).then_some(message)
            }
            DemoHappening::Device(_) => None,
        };
        let end = self.wait_for("end of the firmware update", end).await?;
        if end["data"]["phase"] != "succeeded" {
            bail!("the firmware update ended: {}", end["data"]);
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
        let command = json!({ "reqID": id, "msgType": msg_type, "data": data });
        self.screen.show_message(&self.command_topic, &command)?;
        self.application.publish(&self.command_topic, &command).await?;
        // The answer echoes the command. A message without a code is the command itself, or the acknowledgement of the
        // device.
        let answer = |happening| match happening {
            DemoHappening::Message(message) if message["reqID"] == id && !message["data"]["code"].is_null() => {
                Some(message)
            }
            DemoHappening::Message(_) | DemoHappening::Device(_) => None,
        };
        let answer = self.wait_for(&format!("answer to {msg_type}"), answer).await?;
        match answer["data"]["code"].as_str() {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => bail!("{msg_type} was answered {}", answer["data"]),
        }
    }

    /// Makes the device send, and shows what passes until the application has the values and the device its answer.
    async fn send_history(&mut self) -> anyhow::Result<()> {
        self.thermometer.send(&script::history(unix_time()?))?;
        let (mut published, mut answer) = (false, None);
        let found = |happening| {
            match happening {
                DemoHappening::Message(message) => published |= message["msgType"] == "send",
                DemoHappening::Device(DeviceEvent::SendAnswered { code }) => answer = Some(code),
                DemoHappening::Device(_) => {}
            }
            let succeeded = matches!(answer, Some(Some(code)) if code.is_success());
            answer.filter(|_| published || !succeeded)
        };
        match self.wait_for("message of the Send", found).await? {
            Some(code) if code.is_success() => Ok(()),
            Some(code) => bail!("the Send was answered {code}"),
            None => bail!("the Send was not answered"),
        }
    }

    async fn wait_for_message(&mut self, what: &str, msg_type: &str) -> anyhow::Result<()> {
        let is_wanted = |happening| match happening {
            DemoHappening::Message(message) => (message["msgType"] == msg_type).then_some(()),
            DemoHappening::Device(_) => None,
        };
        self.wait_for(what, is_wanted).await
    }

    /// Shows what passes until something is found in it.
    async fn wait_for<T>(&mut self, what: &str, mut find: impl FnMut(DemoHappening) -> Option<T>) -> anyhow::Result<T> {
        let search = async {
            loop {
                if let Some(found) = find(self.show_next().await?) {
                    return Ok(found);
                }
            }
        };
        timeout(ANSWER_TIMEOUT, search).await.unwrap_or_else(|_| bail!("no {what} came within {ANSWER_TIMEOUT:?}"))
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

    /// Shows the next thing that happens, and returns it.
    async fn show_next(&mut self) -> anyhow::Result<DemoHappening> {
        tokio::select! {
            message = self.application.next_message() => {
                let (topic, payload) = message?;
                // The demo's own commands were printed when they were sent; those of other applications are printed
                // here.
                if !topic.contains("/dn") || payload["reqID"] != self.last_request {
                    self.screen.show_message(&topic, &payload)?;
                }
                Ok(DemoHappening::Message(payload))
            }
            event = self.thermometer.next_event() => {
                let event = event.context("the simulated device ended")?;
                self.screen.show_device(&event)?;
                Ok(DemoHappening::Device(event))
            }
        }
    }
}
