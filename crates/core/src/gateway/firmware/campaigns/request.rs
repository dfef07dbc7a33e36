//! Requests of operators about campaigns, and the reasons for which they are refused.

/// A request to change the state of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignAction {
    /// Begin no further updates. Updates in progress continue.
    Pause,
    /// Begin updates again, and count failures from zero.
    Resume,
    /// Begin no further updates, and cancel those in progress.
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
    /// The campaign is not JSON, or one of its members is invalid.
    Invalid,
    NotFound,
    /// The name is taken, or the state of the campaign does not allow it.
    Conflict,
    /// There are too many campaigns, or the gateway shuts down.
    Busy,
}

impl RefusalKind {
    pub(super) fn because(self, reason: impl Into<String>) -> CampaignRefusal {
        CampaignRefusal { kind: self, reason: reason.into() }
    }
}
