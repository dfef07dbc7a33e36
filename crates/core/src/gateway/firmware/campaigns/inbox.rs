//! Events of devices for campaigns. Other parts of the gateway add them, and campaigns take them after each event of
//! the gateway.

use crate::command::AskId;
use crate::command::firmware::JobStatus;
use crate::gateway::commands::final_answer::FinalAnswer;

/// Tells the commands of campaigns from those of the console, which count from 1.
const OF_CAMPAIGN: u64 = 1 << 63;

/// Holds the events that campaigns have not taken. It stays empty while no campaign needs them.
#[derive(Debug, Default)]
pub(in crate::gateway) struct CampaignInbox {
    is_open: bool,
    inputs: Vec<CampaignInput>,
}

#[derive(Debug)]
pub(in crate::gateway) enum CampaignInput {
    /// The device has registered, or sent a message.
    Heard { endpoint: String },
    /// The firmware update of a device has made progress.
    Job { endpoint: String, status: Box<JobStatus> },
    /// The final answer to a command of a campaign.
    Answer { ask: AskId, answer: FinalAnswer },
}

impl CampaignInbox {
    pub(crate) fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    pub(crate) fn heard_from(&mut self, endpoint: &str) {
        if self.is_open {
            self.inputs.push(CampaignInput::Heard { endpoint: endpoint.to_owned() });
        }
    }

    pub(crate) fn job_event(&mut self, endpoint: &str, status: &JobStatus) {
        if self.is_open {
            let (endpoint, status) = (endpoint.to_owned(), Box::new(status.clone()));
            self.inputs.push(CampaignInput::Job { endpoint, status });
        }
    }

    pub(crate) fn answer(&mut self, ask: AskId, answer: FinalAnswer) {
        self.inputs.push(CampaignInput::Answer { ask, answer });
    }

    pub(crate) fn take(&mut self) -> Vec<CampaignInput> {
        std::mem::take(&mut self.inputs)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }
}

/// Returns the name of a command of a campaign.
pub(in crate::gateway) fn ask_of_campaign(number: u64) -> AskId {
    AskId(OF_CAMPAIGN | number)
}

pub(in crate::gateway) fn is_of_campaign(ask: AskId) -> bool {
    ask.0 & OF_CAMPAIGN != 0
}
