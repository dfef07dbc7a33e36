//! Reports of firmware campaigns.

use crate::gateway::firmware::campaign::CampaignStatus;
use crate::gateway::firmware::campaign::member::MemberOutcome;
use crate::gateway::firmware::campaign::view::Counts;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CampaignReport {
    /// The campaign has another status. The first one is reported as well.
    Status { campaign: String, status: CampaignStatus, counts: Counts },
    /// The campaign has completed a device: its outcome is final.
    Ended { campaign: String, endpoint: String, outcome: MemberOutcome },
    /// A device does not take part because the campaign has too many. Only the first one is reported.
    Full { campaign: String, endpoint: String },
}

impl CampaignReport {
    /// Returns the endpoint name of the device that the report is about.
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Status { .. } => None,
            Self::Ended { endpoint, .. } | Self::Full { endpoint, .. } => Some(endpoint),
        }
    }
}
