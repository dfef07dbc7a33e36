//! Records of campaigns for the store: one of the campaign, and one of each device that is being updated or has a final
//! outcome. The state of a device without a record follows from the campaign.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::firmware::JobLabel;

use super::member::{Member, MemberOutcome};
use super::spec::CampaignSpec;
use super::{Campaign, CampaignProgress, CampaignStatus};

/// A record of a campaign, or of a device in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampaignRecord {
    pub campaign: String,
    /// The device; `None` for the campaign itself.
    pub endpoint: Option<String>,
    /// The content as JSON. `None` removes the record, and that of a campaign the records of its devices too.
    pub json: Option<String>,
}

/// The stored form of a campaign.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredCampaign {
    spec: CampaignSpec,
    status: CampaignStatus,
    ends: Duration,
    resumed_at: CampaignProgress,
}

/// The stored form of a device in a campaign.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredMember {
    Updating(JobLabel),
    Ended(MemberOutcome),
}

/// Returns whether there is a record of a device in this state.
pub(super) fn is_stored(member: Member) -> bool {
    stored(member).is_some()
}

fn stored(member: Member) -> Option<StoredMember> {
    match member {
        Member::Updating { job, .. } => Some(StoredMember::Updating(job)),
        Member::Ended(outcome) => Some(StoredMember::Ended(outcome)),
        Member::Waiting { .. } | Member::Asking { .. } | Member::Ready { .. } | Member::Starting => None,
    }
}

impl Campaign {
    /// Restores a campaign from the text of its record; `None` if it cannot be read.
    pub fn restored(json: &str) -> Option<Self> {
        let StoredCampaign { spec, status, ends, resumed_at } = serde_json::from_str(json).ok()?;
        let mut campaign = Self::with_status(spec, status, ends);
        campaign.resumed_at = resumed_at;
        Some(campaign)
    }

    /// Restores a device from the text of its record. The state of an update in progress comes later from its job.
    pub(crate) fn restore_member(&mut self, endpoint: &str, json: &str) {
        let Ok(stored) = serde_json::from_str(json) else { return };
        let member = match stored {
            StoredMember::Updating(job) => Member::Updating { job, is_away: false, is_cancelled: false },
            StoredMember::Ended(outcome) => Member::Ended(outcome),
        };
        match self.member(endpoint) {
            Some((key, _)) => self.set(&key, member),
            None => self.insert(endpoint.into(), member),
        }
        self.changed.clear();
    }

    /// Returns the devices that were being updated, with their jobs, after the records were restored.
    pub fn updating(&self) -> Vec<(Arc<str>, JobLabel)> {
        let job = |member: &Member| match member {
            Member::Updating { job, .. } => Some(*job),
            Member::Waiting { .. }
            | Member::Asking { .. }
            | Member::Ready { .. }
            | Member::Starting
            | Member::Ended(_) => None,
        };
        self.members.iter().filter_map(|(key, member)| Some((Arc::clone(key), job(member)?))).collect()
    }

    /// Notes that the store has no job of a device that was being updated: the device takes part again.
    pub(crate) fn lost_job(&mut self, endpoint: &str) {
        let Some((key, Member::Updating { .. })) = self.member(endpoint) else { return };
        if self.begins_nothing() {
            self.end(&key, self.outcome_at_end());
        } else {
            self.set(&key, Member::Waiting { is_queued: false });
        }
    }

    /// Returns the record of the campaign if it has changed, and those of devices that have, at most so many.
    pub fn take_changes(&mut self, most: usize) -> Vec<CampaignRecord> {
        let mut records = Vec::new();
        if most == 0 {
            return records;
        }
        let name = self.spec.name.as_str();
        if std::mem::take(&mut self.has_changed) {
            records.push(CampaignRecord { campaign: name.to_owned(), endpoint: None, json: Some(self.to_record()) });
        }
        let left = self.changed.len().min(most - records.len());
        for key in self.changed.drain(..left) {
            let member = self.members.get(&key).copied().and_then(stored);
            let json = member.map(|member| serde_json::to_string(&member).expect("a state is JSON"));
            records.push(CampaignRecord { campaign: name.to_owned(), endpoint: Some(key.to_string()), json });
        }
        records
    }

    /// Marks the campaign and its devices as changed.
    pub fn change_all(&mut self) {
        self.has_changed = true;
        let stored = self.members.iter().filter(|(_, member)| is_stored(**member)).map(|(key, _)| Arc::clone(key));
        self.changed = stored.collect();
    }

    pub fn has_changes(&self) -> bool {
        self.has_changed || !self.changed.is_empty()
    }

    /// Clears the marks of changes, for a gateway without a store.
    pub(crate) fn forget_changes(&mut self) {
        self.has_changed = false;
        self.changed.clear();
    }

    fn to_record(&self) -> String {
        let (spec, status, ends) = (self.spec.clone(), self.status, self.ends);
        let stored = StoredCampaign { spec, status, ends, resumed_at: self.resumed_at };
        serde_json::to_string(&stored).expect("keys are texts, and numbers are whole")
    }
}
