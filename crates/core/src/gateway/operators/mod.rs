//! Requests of people who look at devices and act on them.

pub mod console_commands;
pub(super) mod inspection;
pub mod trace;
pub mod view;

use std::time::Instant;

use crate::command::AskId;
use crate::registry::RegistrationId;
use lwm2m_base::Peer;

use super::firmware::campaign::member::MemberState;
use super::firmware::campaign::view::{CampaignMember, CampaignView};
use super::firmware::campaigns::request::{CampaignAction, CampaignRefusal};
use super::report::LeaveReason;
use super::{Gateway, commands};

use console_commands::{CommandRefusal, CommandState, ConsoleCommand, Withdrawal};
use view::{DevicePage, DeviceRow, DeviceView, PageQuery};

impl Gateway {
    /// Returns devices in the order of their endpoint names. The cost is that of
    /// [`PAGE_EXAMINED`](view::PAGE_EXAMINED) devices at most, however many there are.
    pub fn page(&mut self, now: Instant, query: &PageQuery) -> DevicePage {
        self.context.now = now;
        inspection::page(&self.context, self.registrations.devices().registry(), query)
    }

    /// Returns what is known of the device of this endpoint name; `None` if it is not registered.
    pub fn device(&mut self, now: Instant, endpoint: &str) -> Option<DeviceView> {
        self.context.now = now;
        let device = self.registrations.devices().registry().device_by_endpoint(endpoint)?;
        Some(inspection::device(&self.context, device))
    }

    /// Notes whether a user looks at devices. Without onlookers the stages of commands are not reported.
    pub fn set_onlookers(&mut self, has_onlookers: bool) {
        self.context.has_onlookers = has_onlookers;
    }

    /// Returns the device of this endpoint name as a row of a list; `None` if it is not registered.
    pub fn row(&mut self, now: Instant, endpoint: &str) -> Option<DeviceRow> {
        self.context.now = now;
        let device = self.registrations.devices().registry().device_by_endpoint(endpoint)?;
        Some(inspection::row(&self.context, device))
    }

    /// Returns the registration as which the device of this endpoint name publishes; `None` if it is not registered.
    pub fn publisher_of(&self, endpoint: &str) -> Option<RegistrationId> {
        self.registrations.devices().registry().device_by_endpoint(endpoint).map(|device| device.publishes_as)
    }

    /// Returns the name of the identity that DTLS has authenticated for this peer; `None` over plain UDP.
    pub fn identity_of(&self, peer: Peer) -> Option<String> {
        self.context.identity(peer)?.name().map(str::to_owned)
    }

    /// Ends a registration: its commands get their final answers, and the next Update of the device is answered 4.04.
    /// Returns whether there was one.
    pub fn kick(&mut self, now: Instant, endpoint: &str) -> bool {
        self.context.now = now;
        let devices = self.registrations.devices_mut();
        let Some(id) = devices.registry().id_by_endpoint(endpoint) else { return false };
        devices.leave(&mut self.context, id, LeaveReason::Operator);
        self.handle_coap();
        true
    }
}

/// Firmware campaigns.
impl Gateway {
    /// Begins a campaign, given as JSON. If it is not refused here, an [`Output::Answer`](super::Output::Answer) with
    /// this `ask` follows when its image has been described: with the campaign, or with the reason of the refusal
    /// ([`AnswerOutcome::Refused`](console_commands::AnswerOutcome::Refused)).
    pub fn start_campaign(&mut self, now: Instant, ask: AskId, json: &[u8]) -> Result<(), CampaignRefusal> {
        self.context.now = now;
        self.campaigns.start(&mut self.context, ask, json)
    }

    /// Pauses, resumes or cancels a campaign.
    pub fn control_campaign(
        &mut self,
        now: Instant,
        name: &str,
        action: CampaignAction,
    ) -> Result<CampaignView, CampaignRefusal> {
        self.context.now = now;
        let view = self.campaigns.control(name, action)?;
        self.handle_coap();
        Ok(view)
    }

    /// Returns all campaigns in the order of their names.
    pub fn campaign_list(&self) -> Vec<CampaignView> {
        self.campaigns.list()
    }

    /// Returns a campaign.
    pub fn campaign(&self, name: &str) -> Result<CampaignView, CampaignRefusal> {
        self.campaigns.view(name)
    }

    /// Returns at most `most` devices of a campaign in the order of their endpoint names, after this one.
    pub fn campaign_devices(
        &self,
        name: &str,
        after: Option<&str>,
        state: Option<MemberState>,
        most: usize,
    ) -> Result<Vec<CampaignMember>, CampaignRefusal> {
        self.campaigns.members(name, after, state, most)
    }
}

/// Commands of the console.
impl Gateway {
    /// Takes a command of the console, and returns whether it was sent, waits, or is refused. The final answer to a
    /// command that is not refused is an [`Output::Answer`](super::Output::Answer) with this `ask`.
    pub fn command(
        &mut self,
        now: Instant,
        ask: AskId,
        command: ConsoleCommand,
    ) -> Result<CommandState, CommandRefusal> {
        self.context.now = now;
        let devices = self.registrations.devices_mut();
        let registered = devices.registry().id_by_endpoint(&command.endpoint).and_then(|id| devices.with_commands(id));
        let (device, commands) = registered.ok_or(CommandRefusal::NotRegistered)?;
        let admitted = commands.handle_console(&mut self.context, device, ask, command);
        self.handle_coap();
        admitted
    }

    /// Returns the state of a command that was sent or waits; `None` if it has ended.
    pub fn command_state(&mut self, now: Instant, endpoint: &str, number: u64) -> Option<CommandState> {
        self.context.now = now;
        let device = self.registrations.devices().registry().device_by_endpoint(endpoint)?;
        commands::state(&self.context, device, number)
    }

    /// Removes a pending command of any origin from the queue, and gives it its final answer.
    pub fn withdraw(&mut self, now: Instant, endpoint: &str, number: u64) -> Withdrawal {
        self.context.now = now;
        let devices = self.registrations.devices_mut();
        let registered = devices.registry().id_by_endpoint(endpoint).and_then(|id| devices.with_commands(id));
        let Some((device, commands)) = registered else { return Withdrawal::NotRegistered };
        match commands.withdraw(&mut self.context, device, number) {
            true => Withdrawal::Withdrawn,
            false => Withdrawal::NotPending,
        }
    }

    /// Notes whether this user of the console has an open event stream of this device, which need not be registered.
    /// Observations that last as long as the streams of their user end 60 s after the last one was closed.
    pub fn set_stream_open(&mut self, now: Instant, endpoint: &str, user: &str, is_open: bool) {
        self.context.now = now;
        self.registrations.devices_mut().set_stream_open(now, endpoint, user, is_open);
    }
}
