//! All campaigns, and how they reach devices.
//!
//! 1. A request to begin a campaign is read and checked, and its image is described. Then it is answered.
//! 2. After each event of the gateway [`Campaigns::run`] takes what the [inbox] has for the
//!    campaigns, and carries out what they ask for by commands for the devices.
//! 3. What campaigns tell is reported and published. Their records go to the store.

pub(in crate::gateway) mod client;
pub(in crate::gateway) mod inbox;
pub mod request;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::coap::Code;
use crate::command::AskId;
use crate::command::firmware::JobLabel;
use crate::lwm2m::path::Path;

use super::campaign::member::MemberState;
use super::campaign::record::CampaignRecord;
use super::campaign::spec::{CampaignName, CampaignSpec, Selection};
use super::campaign::view::{CampaignMember, CampaignView};
use super::campaign::{Action, Campaign, CampaignEvent, Moment, ReadAnswer, UpdateAnswer};
use super::config::FirmwareConfig;
use super::image::{Image, ImageError, ImageRequestId};
use crate::gateway::broker::BrokerEvent;
use crate::gateway::commands::final_answer::FinalAnswer;
use crate::gateway::context::Context;
use crate::gateway::devices::RegisteredDevices;
use crate::gateway::operators::console_commands::AnswerOutcome;
use crate::gateway::persistence::record::Change;
use crate::gateway::report::{CampaignReport, Report};

use client::{CampaignClient, CampaignCommand};
use inbox::{CampaignInput, ask_of_campaign};
use request::{CampaignAction, CampaignRefusal, RefusalKind};

/// The campaigns that are kept, those that are over included.
pub(crate) const MOST_CAMPAIGNS: usize = 32;

/// Owns the campaigns.
#[derive(Debug)]
pub(in crate::gateway) struct Campaigns {
    campaigns: BTreeMap<CampaignName, Campaign>,
    /// The campaigns whose image is being described, with the recipients of the answers.
    pending: Vec<(ImageRequestId, CampaignSpec, AskId)>,
    /// The commands without final answer.
    asked: HashMap<AskId, Asked>,
    last_ask: u64,
    /// The names of campaigns that were forgotten, for the store.
    forgotten: Vec<CampaignName>,
    keeps_changes: bool,
    client: CampaignClient,
}

/// A command of a campaign.
#[derive(Debug)]
struct Asked {
    campaign: CampaignName,
    endpoint: Arc<str>,
    kind: AskedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedKind {
    Read,
    Update,
    Cancel,
}

/// Serves the requests of operators.
impl Campaigns {
    /// Begins without campaigns. A client at the broker connects at once, if there is one.
    pub(crate) fn new(config: &FirmwareConfig, now: Instant) -> Self {
        Self {
            campaigns: BTreeMap::new(),
            pending: Vec::new(),
            asked: HashMap::new(),
            last_ask: 0,
            forgotten: Vec::new(),
            keeps_changes: false,
            client: CampaignClient::new(config.login.is_some().then_some(now)),
        }
    }

    /// Takes an event of the client at the broker.
    pub(crate) fn handle_broker(&mut self, context: &mut Context, event: BrokerEvent) {
        let Some((command, asker)) = self.client.handle_broker(context, event) else { return };
        let answer = match command {
            CampaignCommand::Start(json) => {
                let ask = self.client.expect(asker.clone());
                let Err(refusal) = self.start(context, ask, &json) else { return };
                self.client.forget(ask);
                Err(refusal)
            }
            CampaignCommand::Control(name, action) => {
                self.control(&name, action).map(|campaign| ("campaign", campaign.to_json()))
            }
            CampaignCommand::Show(name) => self.view(&name).map(|campaign| ("campaign", campaign.to_json())),
            CampaignCommand::List => {
                Ok(("campaigns", self.campaigns.values().map(|campaign| campaign.view().to_json()).collect()))
            }
        };
        match answer {
            Ok(content) => self.client.answer(context, &asker, "2.05", content),
            Err(refusal) => self.client.refused(context, &asker, &refusal),
        }
    }

    /// Checks a campaign, and lets its image be described. The answer to one that is not refused here is an
    /// [`Output::Answer`](crate::gateway::Output::Answer).
    pub(crate) fn start(&mut self, context: &mut Context, ask: AskId, json: &[u8]) -> Result<(), CampaignRefusal> {
        let spec = CampaignSpec::read(json).map_err(|error| RefusalKind::Invalid.because(error.to_string()))?;
        let is_pending = self.pending.iter().any(|(_, pending, _)| pending.name == spec.name);
        if is_pending || self.campaigns.contains_key(&spec.name) {
            return Err(RefusalKind::Conflict.because(format!("there is a campaign {} already", spec.name)));
        }
        if context.draining {
            return Err(RefusalKind::Busy.because("the gateway is stopping"));
        }
        let active = self.campaigns.values().filter(|campaign| campaign.listens()).count();
        if active + self.pending.len() >= MOST_CAMPAIGNS {
            return Err(RefusalKind::Busy.because(format!("{MOST_CAMPAIGNS} campaigns run, which is the maximum")));
        }
        let request = context.describe_image(spec.image.clone());
        let request = request.ok_or_else(|| RefusalKind::Busy.because("too many images are looked at; try again"))?;
        self.pending.push((request, spec, ask));
        Ok(())
    }

    /// Begins the campaign that waits for this description, or refuses it.
    pub(crate) fn described(
        &mut self,
        context: &mut Context,
        devices: &RegisteredDevices,
        request: ImageRequestId,
        result: Result<Image, ImageError>,
    ) {
        let Some(position) = self.pending.iter().position(|(pending, ..)| *pending == request) else { return };
        let (_, spec, ask) = self.pending.swap_remove(position);
        let checked = result.map_err(|error| error.to_string()).and_then(|image| spec.check_image(&image));
        if let Err(reason) = checked {
            let answer = FinalAnswer::of(AnswerOutcome::Refused, reason.into());
            return context.answer_console(ask, answer);
        }
        self.make_room();
        let name = spec.name.clone();
        let mut campaign = Campaign::new(moment(context), spec);
        join(&mut campaign, devices);
        let answer = campaign.view().to_json().to_string().into();
        self.campaigns.insert(name, campaign);
        context.answer_console(ask, FinalAnswer::of(AnswerOutcome::Answered, answer));
        self.listen(context);
    }

    /// Pauses, resumes or cancels a campaign.
    pub(crate) fn control(&mut self, name: &str, action: CampaignAction) -> Result<CampaignView, CampaignRefusal> {
        let campaign = self.named_mut(name)?;
        let done = match action {
            CampaignAction::Pause => campaign.pause(),
            CampaignAction::Resume => campaign.resume(),
            CampaignAction::Cancel => campaign.cancel(),
        };
        done.map_err(|reason| RefusalKind::Conflict.because(reason))?;
        Ok(campaign.details())
    }

    /// Returns all campaigns in the order of their names.
    pub(crate) fn list(&self) -> Vec<CampaignView> {
        self.campaigns.values().map(Campaign::view).collect()
    }

    pub(crate) fn view(&self, name: &str) -> Result<CampaignView, CampaignRefusal> {
        Ok(self.named(name)?.details())
    }

    /// Returns devices of a campaign in the order of their endpoint names, after this one.
    pub(crate) fn members(
        &self,
        name: &str,
        after: Option<&str>,
        state: Option<MemberState>,
        most: usize,
    ) -> Result<Vec<CampaignMember>, CampaignRefusal> {
        Ok(self.named(name)?.members(after, state, most))
    }

    fn named(&self, name: &str) -> Result<&Campaign, CampaignRefusal> {
        let campaign = CampaignName::parse(name).and_then(|name| self.campaigns.get(&name));
        campaign.ok_or_else(|| RefusalKind::NotFound.because(format!("there is no campaign {name:?}")))
    }

    fn named_mut(&mut self, name: &str) -> Result<&mut Campaign, CampaignRefusal> {
        let campaign = CampaignName::parse(name).and_then(|name| self.campaigns.get_mut(&name));
        campaign.ok_or_else(|| RefusalKind::NotFound.because(format!("there is no campaign {name:?}")))
    }

    /// Forgets the campaign that has been over longest, if there are too many.
    fn make_room(&mut self) {
        if self.campaigns.len() < MOST_CAMPAIGNS {
            return;
        }
        let over = self.campaigns.values().filter(|campaign| !campaign.listens());
        let oldest = over.min_by_key(|campaign| campaign.ends()).map(|campaign| campaign.spec().name.clone());
        if let Some(name) = oldest {
            self.campaigns.remove(&name);
            self.client.forget_campaign(&name);
            self.forgotten.push(name);
        }
    }
}

/// Events of devices, and time.
impl Campaigns {
    /// Passes the events of devices to campaigns, and carries out the actions of campaigns.
    pub(crate) fn run(&mut self, context: &mut Context, devices: &mut RegisteredDevices) {
        if self.campaigns.is_empty() && context.campaign_inbox.is_empty() {
            return;
        }
        loop {
            for input in context.campaign_inbox.take() {
                self.take(context, input);
            }
            let moment = moment(context);
            self.campaigns.values_mut().for_each(|campaign| campaign.handle_timeout(moment));
            match self.next_action(context, devices) {
                Some((name, action)) => self.act(context, devices, name, action),
                None if context.campaign_inbox.is_empty() => break,
                None => {}
            }
        }
        self.tell(context);
        self.listen(context);
    }

    pub(crate) fn next_deadline(&self, context: &Context) -> Option<Instant> {
        let moment = moment(context);
        let interval = context.config.firmware.progress_interval;
        // A gateway that shuts down begins nothing.
        let campaigns = self.campaigns.iter().filter(|_| !context.draining);
        let deadlines = campaigns.flat_map(|(name, campaign)| {
            let progress = self.client.progress_due(name, campaign.counts(), interval);
            [campaign.next_deadline(moment), progress]
        });
        deadlines.chain([self.client.next_deadline()]).flatten().min()
    }

    /// Connects the client at the broker, if it is time.
    pub(crate) fn handle_timeout(&mut self, context: &mut Context) {
        self.client.handle_timeout(context);
    }

    /// Returns the number of campaigns, and that of their devices.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let devices = self.campaigns.values().map(|campaign| campaign.counts().total()).sum();
        (self.campaigns.len() + self.pending.len(), devices)
    }

    fn take(&mut self, context: &mut Context, input: CampaignInput) {
        match input {
            CampaignInput::Heard { endpoint } => {
                self.campaigns.values_mut().for_each(|campaign| campaign.heard_from(&endpoint));
            }
            CampaignInput::Job { endpoint, status } => {
                self.campaigns.values_mut().for_each(|campaign| campaign.job_event(&endpoint, &status));
            }
            CampaignInput::Answer { ask, answer } => {
                if let Some(asked) = self.asked.remove(&ask) {
                    self.answered(context, &asked, Some(&answer));
                } else {
                    self.client.deliver(context, ask, &answer);
                }
            }
        }
    }

    /// Takes the answer to a command; `None` if it could not be given.
    fn answered(&mut self, context: &Context, asked: &Asked, answer: Option<&FinalAnswer>) {
        let Asked { campaign, endpoint, kind } = asked;
        let Some(campaign) = self.campaigns.get_mut(campaign) else { return };
        match kind {
            AskedKind::Read => campaign.read(endpoint, &answer.map_or(ReadAnswer::Unanswered, read_answer)),
            AskedKind::Update => {
                campaign.begun(context.now, endpoint, answer.map_or(UpdateAnswer::Unanswered, update_answer));
            }
            AskedKind::Cancel if answer.is_none_or(|answer| answer.outcome == AnswerOutcome::Left) => {
                campaign.not_cancelled(endpoint);
            }
            // An update that installs already continues, and its end is reported.
            AskedKind::Cancel => {}
        }
    }

    /// Returns the next action of a campaign.
    fn next_action(&mut self, context: &Context, devices: &RegisteredDevices) -> Option<(CampaignName, Action)> {
        if context.draining {
            return None;
        }
        let registry = devices.registry();
        let is_awake =
            |endpoint: &str| registry.device_by_endpoint(endpoint).is_some_and(|device| device.is_awake(context.now));
        let moment = moment(context);
        self.campaigns
            .iter_mut()
            .find_map(|(name, campaign)| Some((name.clone(), campaign.next_action(moment, is_awake)?)))
    }

    fn act(&mut self, context: &mut Context, devices: &mut RegisteredDevices, campaign: CampaignName, action: Action) {
        let Some(running) = self.campaigns.get(&campaign) else { return };
        let spec = running.spec();
        let (endpoint, kind, command) = match action {
            Action::Read { endpoint, path } => (endpoint, AskedKind::Read, read_of(path)),
            Action::Update { endpoint } => (endpoint, AskedKind::Update, spec.command()),
            Action::Cancel { endpoint } => (endpoint, AskedKind::Cancel, spec.cancel_command()),
        };
        self.last_ask += 1;
        let ask = ask_of_campaign(self.last_ask);
        let asked = Asked { campaign, endpoint, kind };
        let registered = devices.registry().id_by_endpoint(&asked.endpoint).and_then(|id| devices.with_commands(id));
        let is_given =
            registered.is_some_and(|(device, commands)| commands.handle_campaign(context, device, ask, &command));
        if is_given {
            self.asked.insert(ask, asked);
        } else {
            self.answered(context, &asked, None);
        }
    }

    /// Reports and publishes the events of campaigns.
    fn tell(&mut self, context: &mut Context) {
        let Self { campaigns, client, .. } = self;
        for (name, campaign) in campaigns {
            if !self.keeps_changes {
                campaign.forget_changes();
            }
            for event in campaign.take_events() {
                let (text, counts) = (name.to_string(), *campaign.counts());
                let report = match event {
                    CampaignEvent::Status(status) => {
                        client.tell_status(context, name, &campaign.view());
                        CampaignReport::Status { campaign: text, status, counts }
                    }
                    CampaignEvent::Ended { endpoint, outcome } => {
                        client.tell_device(context, name, &endpoint, outcome);
                        CampaignReport::Ended { campaign: text, endpoint: endpoint.to_string(), outcome }
                    }
                    CampaignEvent::Full { endpoint } => {
                        CampaignReport::Full { campaign: text, endpoint: endpoint.to_string() }
                    }
                };
                context.report(Report::Campaign(report));
            }
            client.tell_progress(context, name, campaign);
        }
    }

    fn listen(&self, context: &mut Context) {
        context.campaign_inbox.set_open(self.campaigns.values().any(Campaign::listens));
    }
}

/// The store.
impl Campaigns {
    pub(crate) fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    /// Marks every campaign and every device in one as changed.
    pub(crate) fn change_all(&mut self) {
        self.campaigns.values_mut().for_each(Campaign::change_all);
    }

    pub(crate) fn has_changes(&self) -> bool {
        self.keeps_changes && (!self.forgotten.is_empty() || self.campaigns.values().any(Campaign::has_changes))
    }

    /// Returns at most `most` records that have changed.
    pub(crate) fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let mut records = Vec::new();
        while records.len() < most
            && let Some(name) = self.forgotten.pop()
        {
            records.push(CampaignRecord { campaign: name.to_string(), endpoint: None, json: None });
        }
        for campaign in self.campaigns.values_mut() {
            let left = most - records.len();
            records.extend(campaign.take_changes(left));
        }
        records.into_iter().filter(|_| self.keeps_changes).map(Change::Campaign).collect()
    }

    /// Restores the campaigns of an earlier process, and joins the devices that are registered.
    pub(crate) fn restore(&mut self, context: &mut Context, devices: &RegisteredDevices, records: Vec<CampaignRecord>) {
        let (campaigns, members): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.endpoint.is_none());
        for json in campaigns.into_iter().filter_map(|record| record.json) {
            if let Some(campaign) = Campaign::restored(&json) {
                self.campaigns.insert(campaign.spec().name.clone(), campaign);
            }
        }
        for CampaignRecord { campaign, endpoint, json } in members {
            let campaign = CampaignName::parse(&campaign).and_then(|name| self.campaigns.get_mut(&name));
            if let (Some(campaign), Some(endpoint), Some(json)) = (campaign, endpoint, json) {
                campaign.restore_member(&endpoint, &json);
            }
        }
        for campaign in self.campaigns.values_mut() {
            for (endpoint, job) in campaign.updating() {
                match devices.commands().jobs.status_of(&endpoint).filter(|status| status.job == job) {
                    Some(status) => campaign.job_event(&endpoint, status),
                    None => campaign.lost_job(&endpoint),
                }
            }
            join(campaign, devices);
        }
        self.listen(context);
    }
}

/// Tells a campaign which devices are registered.
fn join(campaign: &mut Campaign, devices: &RegisteredDevices) {
    let registry = devices.registry();
    match &campaign.spec().who {
        Selection::Endpoints(endpoints) => {
            let endpoints = endpoints.clone();
            let registered = endpoints.iter().filter(|endpoint| registry.id_by_endpoint(endpoint).is_some());
            registered.for_each(|endpoint| campaign.heard_from(endpoint));
        }
        Selection::Pattern(_) => {
            registry.devices().for_each(|device| campaign.heard_from(&device.registration.endpoint));
        }
    }
}

fn moment(context: &Context) -> Moment {
    Moment { now: context.now, unix: context.wall_clock.unix_time(context.now) }
}

fn read_of(path: Path) -> Value {
    json!({ "msgType": "read", "data": { "path": path.to_string() } })
}

/// Reads the answer to a read from the JSON that applications get.
fn read_answer(answer: &FinalAnswer) -> ReadAnswer {
    match answer.outcome {
        AnswerOutcome::Answered => {
            let payload: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
            match &payload["data"]["content"][0]["value"] {
                Value::String(text) => ReadAnswer::Value(text.clone()),
                value @ (Value::Number(_) | Value::Bool(_)) => ReadAnswer::Value(value.to_string()),
                Value::Null | Value::Array(_) | Value::Object(_) => ReadAnswer::Refused,
            }
        }
        AnswerOutcome::Refused | AnswerOutcome::TransferFailed => ReadAnswer::Refused,
        AnswerOutcome::Reset
        | AnswerOutcome::TimedOut
        | AnswerOutcome::Expired
        | AnswerOutcome::Withdrawn
        | AnswerOutcome::Left => ReadAnswer::Unanswered,
    }
}

/// Reads the answer to a `firmware-update` from the JSON that applications get.
fn update_answer(answer: &FinalAnswer) -> UpdateAnswer {
    if answer.outcome == AnswerOutcome::Left {
        return UpdateAnswer::Unanswered;
    }
    let payload: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    let data = &payload["data"];
    let job = data["job"].as_str().and_then(|job| JobLabel::try_from(job.to_owned()).ok());
    match (job, data["code"].as_str().and_then(code)) {
        (Some(job), _) => UpdateAnswer::Begun(job),
        (None, Some(code)) => UpdateAnswer::Refused(code),
        (None, None) => UpdateAnswer::Unanswered,
    }
}

/// Reads a code such as `4.04`.
fn code(text: &str) -> Option<Code> {
    let (class, detail) = text.split_once('.')?;
    let (class, detail): (u8, u8) = (class.parse().ok()?, detail.parse().ok()?);
    (class < 8 && detail < 32).then_some(Code(class << 5 | detail))
}
