//! The control of a campaign by operators, and its figures for them.

use std::ops::Bound;
use std::time::Duration;

use serde_json::Value;

use super::member::{Member, MemberOutcome, MemberState};
use super::spec::CampaignSpec;
use super::view::{CampaignMember, CampaignView, Counts};
use super::{Campaign, CampaignEvent, CampaignProgress, CampaignStatus};

/// The reason why a campaign cannot be paused, resumed or cancelled.
pub(crate) type ControlRefusal = &'static str;

impl Campaign {
    /// Stops beginning updates. Updates in progress continue.
    pub fn pause(&mut self) -> Result<(), ControlRefusal> {
        match self.status {
            CampaignStatus::Running => {
                self.set_status(CampaignStatus::Paused);
                Ok(())
            }
            CampaignStatus::Paused => Err("the campaign is paused already"),
            CampaignStatus::Stopped => Err("the campaign has stopped already, because too many updates failed"),
            CampaignStatus::Cancelled | CampaignStatus::Completed => Err(OVER),
        }
    }

    /// Resumes the campaign after a pause, or after too many failures, which are counted from zero again.
    pub fn resume(&mut self) -> Result<(), ControlRefusal> {
        match self.status {
            CampaignStatus::Paused | CampaignStatus::Stopped => {
                self.resumed_at = CampaignProgress::of(&self.counts);
                self.set_status(CampaignStatus::Running);
                Ok(())
            }
            CampaignStatus::Running => Err("the campaign runs already"),
            CampaignStatus::Cancelled | CampaignStatus::Completed => Err(OVER),
        }
    }

    /// Ends the campaign: no update begins, and updates in progress are cancelled, except of devices that install
    /// already.
    pub fn cancel(&mut self) -> Result<(), ControlRefusal> {
        if self.is_over() {
            return Err(OVER);
        }
        self.set_status(CampaignStatus::Cancelled);
        self.end_waiting(MemberOutcome::Cancelled);
        let running = self.members.iter().filter(|(_, member)| matches!(member, Member::Updating { .. }));
        let running: Vec<_> = running.map(|(key, _)| key.clone()).collect();
        running.iter().for_each(|key| self.cancel_update(key));
        Ok(())
    }

    /// Notes that the update of a device could not be cancelled because the device was not registered: it is tried
    /// again with its next message.
    pub(crate) fn not_cancelled(&mut self, endpoint: &str) {
        if let Some((key, Member::Updating { job, is_away, .. })) = self.member(endpoint) {
            self.set(&key, Member::Updating { job, is_away, is_cancelled: false });
        }
    }

    pub(crate) fn take_events(&mut self) -> Vec<CampaignEvent> {
        std::mem::take(&mut self.events)
    }

    pub fn spec(&self) -> &CampaignSpec {
        &self.spec
    }

    pub fn status(&self) -> CampaignStatus {
        self.status
    }

    /// Returns the time since 1970 after which no update begins.
    pub fn ends(&self) -> Duration {
        self.ends
    }

    /// Returns whether no update begins any more.
    pub fn is_over(&self) -> bool {
        matches!(self.status, CampaignStatus::Cancelled | CampaignStatus::Completed)
    }

    /// Returns whether the campaign has to be told of the messages of devices.
    pub fn listens(&self) -> bool {
        !self.is_over() || self.counts.of(MemberState::Updating) > 0
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the campaign with its specification.
    pub fn details(&self) -> CampaignView {
        CampaignView { spec: serde_json::to_value(&self.spec).unwrap_or_default(), ..self.view() }
    }

    /// Returns the campaign without its specification, which may be long.
    pub fn view(&self) -> CampaignView {
        let spec = &self.spec;
        CampaignView {
            name: spec.name.as_str().to_owned(),
            status: self.status,
            image: String::from(spec.image.clone()),
            version: spec.version.clone(),
            ends: self.ends,
            counts: self.counts,
            spec: Value::Null,
        }
    }

    /// Returns at most `most` devices in the order of their endpoint names, after this one.
    pub fn members(&self, after: Option<&str>, state: Option<MemberState>, most: usize) -> Vec<CampaignMember> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let members = self.members.range::<str, _>((first, Bound::Unbounded));
        let members = members.filter(|(_, member)| state.is_none_or(|state| member.state() == state));
        let members = members.map(|(endpoint, member)| CampaignMember {
            endpoint: endpoint.to_string(),
            state: member.state(),
            error: member.outcome().and_then(MemberOutcome::error),
        });
        members.take(most).collect()
    }
}

const OVER: ControlRefusal = "the campaign is over";

impl CampaignStatus {
    pub const ALL: [Self; 5] = [Self::Running, Self::Paused, Self::Stopped, Self::Cancelled, Self::Completed];

    /// Returns the name in events, in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
        }
    }
}
