//! Requests of the console about firmware campaigns.

use std::time::Instant;

use tokio::sync::oneshot;

use lwm2m_core::gateway::firmware::campaign::view::{CampaignMember, CampaignView};
use lwm2m_core::gateway::firmware::campaigns::request::{CampaignAction, CampaignRefusal, RefusalKind};
use lwm2m_core::gateway::operators::console_commands::ConsoleAnswer;

use super::Driver;
use super::campaign_ask::{CampaignAsk, DevicesAsk};
use super::control::{Control, DriverRequest, DriverSilent};
use super::requests::answer;

impl Driver {
    pub(super) fn handle_campaign(&mut self, now: Instant, ask: CampaignAsk) {
        match ask {
            CampaignAsk::Start { json, admission, answer: final_answer } => {
                if self.thread.is_some() || self.cluster.is_some() {
                    return answer(admission, Err(not_with_threads()));
                }
                let ask = self.askers.add(final_answer);
                let started = self.gateway.start_campaign(now, ask, &json);
                if started.is_err() {
                    self.askers.forget(ask);
                }
                answer(admission, started);
            }
            CampaignAsk::Control { name, action, reply } => {
                answer(reply, self.gateway.control_campaign(now, &name, action));
            }
            CampaignAsk::List(reply) => answer(reply, self.gateway.campaign_list()),
            CampaignAsk::Show(name, reply) => answer(reply, self.gateway.campaign(&name)),
            CampaignAsk::Devices(DevicesAsk { name, after, state, most }, reply) => {
                answer(reply, self.gateway.campaign_devices(&name, after.as_deref(), state, most));
            }
        }
    }
}

/// Returns the refusal of campaigns in a program with several driver threads, and in a node of a cluster.
fn not_with_threads() -> CampaignRefusal {
    let reason = "a campaign needs driver.threads = 1 and no cluster: each thread and each node knows its own devices \
                  only"
        .to_owned();
    CampaignRefusal { kind: RefusalKind::Conflict, reason }
}

impl Control {
    /// Begins a campaign. Returns whether it is refused at once, or else the receiver of its answer.
    pub async fn start_campaign(
        &self,
        json: Vec<u8>,
    ) -> Result<(Result<(), CampaignRefusal>, oneshot::Receiver<ConsoleAnswer>), DriverSilent> {
        let (answer, final_answer) = oneshot::channel();
        let request = |admission| DriverRequest::Campaign(Box::new(CampaignAsk::Start { json, admission, answer }));
        Ok((self.ask(request).await?, final_answer))
    }

    /// Pauses, resumes or cancels a campaign.
    pub async fn control_campaign(
        &self,
        name: String,
        action: CampaignAction,
    ) -> Result<Result<CampaignView, CampaignRefusal>, DriverSilent> {
        self.ask(|reply| DriverRequest::Campaign(Box::new(CampaignAsk::Control { name, action, reply }))).await
    }

    pub async fn campaigns(&self) -> Result<Vec<CampaignView>, DriverSilent> {
        self.ask(|reply| DriverRequest::Campaign(Box::new(CampaignAsk::List(reply)))).await
    }

    pub async fn campaign(&self, name: String) -> Result<Result<CampaignView, CampaignRefusal>, DriverSilent> {
        self.ask(|reply| DriverRequest::Campaign(Box::new(CampaignAsk::Show(name, reply)))).await
    }

    pub async fn campaign_devices(
        &self,
        devices: DevicesAsk,
    ) -> Result<Result<Vec<CampaignMember>, CampaignRefusal>, DriverSilent> {
        self.ask(|reply| DriverRequest::Campaign(Box::new(CampaignAsk::Devices(devices, reply)))).await
    }
}
