//! The campaigns' own client at the broker: it receives what applications ask of campaigns, and publishes how they go.
//!
//! 1. The client connects, and subscribes to `lwm2m-firmware/command`. The link reconnects it.
//! 2. A message asks for an action. The answer is published to `lwm2m-firmware/answer`, and to the Response Topic.
//! 3. The status of a campaign and its progress are published to `lwm2m-firmware/campaigns/NAME`, and so is the outcome
//!    of each device.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::command::{AskId, ResponseTopic};
use crate::mqtt::downlink::usable_reply;
use crate::registry::RegistrationId;

use super::inbox::ask_of_campaign;
use super::request::{CampaignAction, CampaignRefusal, RefusalKind};
use crate::gateway::broker::BrokerEvent;
use crate::gateway::commands::final_answer::FinalAnswer;
use crate::gateway::context::Context;
use crate::gateway::firmware::campaign::Campaign;
use crate::gateway::firmware::campaign::member::MemberOutcome;
use crate::gateway::firmware::campaign::spec::CampaignName;
use crate::gateway::firmware::campaign::view::{CampaignView, Counts};
use crate::gateway::own_client::OwnClient;

pub(in crate::gateway) const SESSION: RegistrationId = RegistrationId::CAMPAIGNS;

const PREFIX: &str = "lwm2m-firmware";
const COMMANDS: &str = "lwm2m-firmware/command";
const ANSWERS: &str = "lwm2m-firmware/answer";
/// The largest message, in bytes: a campaign with a long list of devices.
const LARGEST: usize = 4 * 1024 * 1024;

/// The client by which applications control campaigns and receive their progress.
#[derive(Debug)]
pub(in crate::gateway) struct CampaignClient {
    connection: OwnClient,
    /// The requests that are answered when an image has been described.
    asked: HashMap<AskId, Asker>,
    /// The progress of each campaign that was published last.
    told: BTreeMap<CampaignName, (Instant, Counts)>,
    last_ask: u64,
}

/// The recipient of an answer.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Asker {
    request: Value,
    action: &'static str,
    reply: Option<ResponseTopic>,
}

/// A command about campaigns, read from a message.
#[derive(Debug)]
pub(in crate::gateway) enum CampaignCommand {
    /// Begins a campaign, whose JSON this is.
    Start(Vec<u8>),
    Control(String, CampaignAction),
    Show(String),
    List,
}

/// A message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CommandText<'a> {
    #[serde(default, rename = "reqID")]
    request: Value,
    action: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, borrow)]
    campaign: Option<&'a RawValue>,
}

/// The connection.
impl CampaignClient {
    /// Creates a client that connects at this time; with `None` it never connects.
    pub(crate) fn new(connects_at: Option<Instant>) -> Self {
        let connection = OwnClient::new(SESSION, connects_at);
        Self { connection, asked: HashMap::new(), told: BTreeMap::new(), last_ask: 0 }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.connection.next_deadline()
    }

    /// Connects, if it is time.
    pub(crate) fn handle_timeout(&mut self, context: &mut Context) {
        let login = context.config.firmware.login.clone();
        self.connection.handle_timeout(context, login, PREFIX, COMMANDS.to_owned());
    }

    /// Takes an event of the session. Returns what a message asks for.
    pub(crate) fn handle_broker(
        &mut self,
        context: &mut Context,
        event: BrokerEvent,
    ) -> Option<(CampaignCommand, Asker)> {
        match event {
            BrokerEvent::Message { payload, properties, .. } => {
                let reply = usable_reply(properties.reply);
                let (command, asker) = read(&payload, reply);
                // A retained message would be carried out again at each start.
                let command = match command {
                    Ok(_) if properties.retained => Err("a retained message is not carried out".to_owned()),
                    command => command,
                };
                match command {
                    Ok(command) => return Some((command, asker)),
                    Err(reason) => self.refuse(context, &asker, "4.00", &reason),
                }
            }
            BrokerEvent::Closed { .. } | BrokerEvent::ConnectFailed { .. } => {
                self.connection.closed(context.now);
            }
            BrokerEvent::Connected { .. }
            | BrokerEvent::Reconnected { .. }
            | BrokerEvent::Published { .. }
            | BrokerEvent::Queued { .. }
            | BrokerEvent::Unpublished { .. }
            | BrokerEvent::PublishRefused { .. } => {}
        }
        None
    }
}

/// Answers.
impl CampaignClient {
    /// Remembers the recipient of the answer that follows when the image of a campaign has been described.
    pub(crate) fn expect(&mut self, asker: Asker) -> AskId {
        self.last_ask += 1;
        // These numbers count down, so that they differ from those of the commands of campaigns, which count up from 1.
        let ask = ask_of_campaign(u64::MAX / 2 - self.last_ask);
        self.asked.insert(ask, asker);
        ask
    }

    /// Forgets the recipient, because the campaign was refused at once.
    pub(crate) fn forget(&mut self, ask: AskId) {
        self.asked.remove(&ask);
    }

    /// Publishes the answer to a start.
    pub(crate) fn deliver(&mut self, context: &mut Context, ask: AskId, answer: &FinalAnswer) {
        let Some(asker) = self.asked.remove(&ask) else { return };
        match serde_json::from_slice::<Value>(&answer.payload) {
            Ok(campaign) if campaign.is_object() => self.answer(context, &asker, "2.01", ("campaign", campaign)),
            Ok(_) | Err(_) => self.refuse(context, &asker, "4.00", &String::from_utf8_lossy(&answer.payload)),
        }
    }

    pub(crate) fn refused(&self, context: &mut Context, asker: &Asker, refusal: &CampaignRefusal) {
        let code = match refusal.kind {
            RefusalKind::Invalid => "4.00",
            RefusalKind::NotFound => "4.04",
            RefusalKind::Conflict => "4.09",
            RefusalKind::Busy => "5.03",
        };
        self.refuse(context, asker, code, &refusal.reason);
    }

    pub(crate) fn answer(&self, context: &mut Context, asker: &Asker, code: &str, (member, content): (&str, Value)) {
        let mut data = json!({ "code": code });
        data[member] = content;
        self.publish_answer(context, asker, data);
    }

    fn refuse(&self, context: &mut Context, asker: &Asker, code: &str, reason: &str) {
        self.publish_answer(context, asker, json!({ "code": code, "reason": reason }));
    }

    fn publish_answer(&self, context: &mut Context, asker: &Asker, data: Value) {
        let mut answer = json!({ "action": asker.action, "data": data });
        if !asker.request.is_null() {
            answer["reqID"] = asker.request.clone();
        }
        let payload = Bytes::from(answer.to_string());
        if let Some(reply) = &asker.reply {
            context.publish_reply(SESSION, 1, reply, payload.clone());
        }
        self.connection.publish(context, ANSWERS.to_owned(), payload, None);
    }
}

/// Events.
impl CampaignClient {
    /// Publishes that a campaign has another status.
    pub(crate) fn tell_status(&mut self, context: &mut Context, name: &CampaignName, view: &CampaignView) {
        self.told.insert(name.clone(), (context.now, view.counts));
        self.tell(context, name, "campaign", view.to_json());
    }

    /// Publishes the progress of a campaign, if it has changed, at most once per `firmware.progress_interval`.
    pub(crate) fn tell_progress(&mut self, context: &mut Context, name: &CampaignName, campaign: &Campaign) {
        let interval = context.config.firmware.progress_interval;
        let is_due = |told: &(Instant, Counts)| told.1 != *campaign.counts() && context.now >= told.0 + interval;
        if self.connection.is_connected() && self.told.get(name).is_none_or(is_due) {
            self.tell_status(context, name, &campaign.view());
        }
    }

    /// Returns when the progress of a campaign is to be published.
    pub(crate) fn progress_due(&self, name: &CampaignName, counts: &Counts, interval: Duration) -> Option<Instant> {
        let (at, told) = self.told.get(name)?;
        (self.connection.is_connected() && told != counts).then(|| *at + interval)
    }

    /// Publishes the outcome of a device.
    pub(crate) fn tell_device(
        &self,
        context: &mut Context,
        name: &CampaignName,
        endpoint: &str,
        outcome: MemberOutcome,
    ) {
        let mut data = json!({ "name": name.as_str(), "ep": endpoint, "state": outcome.state().name() });
        if let Some(error) = outcome.error() {
            data["error"] = json!(error);
        }
        self.tell(context, name, "campaign-device", data);
    }

    pub(crate) fn forget_campaign(&mut self, name: &CampaignName) {
        self.told.remove(name);
    }

    fn tell(&self, context: &mut Context, name: &CampaignName, msg_type: &str, data: Value) {
        let payload = json!({ "msgType": msg_type, "data": data }).to_string().into();
        self.connection.publish(context, format!("{PREFIX}/campaigns/{name}"), payload, None);
    }
}

/// Reads a message.
fn read(payload: &[u8], reply: Option<ResponseTopic>) -> (Result<CampaignCommand, String>, Asker) {
    let mut asker = Asker { request: Value::Null, action: "error", reply };
    if payload.len() > LARGEST {
        return (Err(format!("more than {LARGEST} bytes")), asker);
    }
    let text: CommandText<'_> = match serde_json::from_slice(payload) {
        Ok(text) => text,
        Err(error) => return (Err(error.to_string()), asker),
    };
    asker.request = text.request.clone();
    (command(text, &mut asker.action), asker)
}

fn command(text: CommandText<'_>, known: &mut &'static str) -> Result<CampaignCommand, String> {
    let CommandText { action, name, campaign, .. } = text;
    let actions = ["start", "pause", "resume", "cancel", "show", "list"];
    let Some(action) = actions.into_iter().find(|known| *known == action) else {
        return Err("action: expected \"start\", \"pause\", \"resume\", \"cancel\", \"show\" or \"list\"".to_owned());
    };
    *known = action;
    let name = name.ok_or_else(|| "name: expected the name of a campaign".to_owned());
    match action {
        "start" => {
            let campaign = campaign.ok_or_else(|| "campaign: expected the campaign".to_owned())?;
            Ok(CampaignCommand::Start(campaign.get().as_bytes().to_vec()))
        }
        "pause" => Ok(CampaignCommand::Control(name?, CampaignAction::Pause)),
        "resume" => Ok(CampaignCommand::Control(name?, CampaignAction::Resume)),
        "cancel" => Ok(CampaignCommand::Control(name?, CampaignAction::Cancel)),
        "show" => Ok(CampaignCommand::Show(name?)),
        _ => Ok(CampaignCommand::List),
    }
}
