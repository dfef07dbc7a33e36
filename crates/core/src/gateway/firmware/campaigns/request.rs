//! Requests of operators about campaigns, and the reasons for which they are refused.

/// A request to change the state of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignAction {
    /// No update begins. Those that run go on.
    Pause,
    /// Updates begin again, and failures are counted from zero.
    Resume,
    /// Nothing begins any more, and the updates that run are cancelled.
    Cancel,
}

/// The reason why a request is refused. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampaignRefusal {
    pub kind: RefusalKind,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The campaign is no JSON, or a member of it is wrong.
    Invalid,
    NotFound,
    /// The name is taken, or the state of the campaign does not allow it.
    Conflict,
    /// There are too many, or the gateway stops.
    Busy,
}

impl RefusalKind {
    pub(super) fn because(self, reason: impl Into<String>) -> CampaignRefusal {
        CampaignRefusal { kind: self, reason: reason.into() }
    }
}
