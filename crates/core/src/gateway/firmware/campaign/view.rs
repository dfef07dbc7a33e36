//! Views of campaigns, for operators.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::CampaignStatus;
use super::member::MemberState;

/// A campaign as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct CampaignView {
    pub name: String,
    pub status: CampaignStatus,
    pub image: String,
    pub version: String,
    /// The time since 1970 after which no update begins.
    pub ends: Duration,
    pub counts: Counts,
    /// The specification with its defaults; null in a list and in events.
    pub spec: Value,
}

/// A device of a campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampaignMember {
    pub endpoint: String,
    pub state: MemberState,
    /// The reason of a failure.
    pub error: Option<String>,
}

/// The devices of a campaign by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([usize; MemberState::ALL.len()]);

impl CampaignView {
    /// Returns the campaign as JSON: that of the API and of events.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "status": self.status.name(),
            "image": self.image,
            "version": self.version,
            "ends": self.ends.as_secs(),
            "devices": self.counts.to_json(),
        })
    }
}

impl Counts {
    pub fn of(&self, state: MemberState) -> usize {
        self.0[state as usize]
    }

    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// Returns the numbers by the names of the states, with those that are zero.
    pub fn to_json(&self) -> Value {
        let numbers = MemberState::ALL.iter().map(|state| (state.name().to_owned(), self.of(*state).into()));
        Value::Object(numbers.collect::<Map<String, Value>>())
    }

    pub(super) fn add(&mut self, state: MemberState) {
        self.0[state as usize] += 1;
    }

    pub(super) fn remove(&mut self, state: MemberState) {
        self.0[state as usize] -= 1;
    }
}
