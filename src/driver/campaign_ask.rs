//! The requests of the console about firmware campaigns.

use tokio::sync::oneshot;

use lwm2m_core::gateway::firmware::campaign::member::MemberState;
use lwm2m_core::gateway::firmware::campaign::view::{CampaignMember, CampaignView};
use lwm2m_core::gateway::firmware::campaigns::request::{CampaignAction, CampaignRefusal};
use lwm2m_core::gateway::operators::console_commands::ConsoleAnswer;

/// A request of the console about campaigns.
#[derive(Debug)]
pub enum CampaignAsk {
    /// Begins a campaign. If it is not refused at once, the answer comes when its image has been described.
    Start {
        json: Vec<u8>,
        admission: CampaignReply<()>,
        answer: oneshot::Sender<ConsoleAnswer>,
    },
    Control {
        name: String,
        action: CampaignAction,
        reply: CampaignReply<CampaignView>,
    },
    List(oneshot::Sender<Vec<CampaignView>>),
    Show(String, CampaignReply<CampaignView>),
    Devices(DevicesAsk, CampaignReply<Vec<CampaignMember>>),
}

/// Devices of a campaign in the order of their endpoint names.
#[derive(Debug)]
pub struct DevicesAsk {
    pub name: String,
    /// The endpoint name before the first one that is wanted.
    pub after: Option<String>,
    pub state: Option<MemberState>,
    pub most: usize,
}

type CampaignReply<T> = oneshot::Sender<Result<T, CampaignRefusal>>;
