//! The subscribers of a topic filter, each by itself or in a group that shares its messages.

use std::cell::Cell;
use std::collections::BTreeMap;

/// Names a member of the bus. No other member gets it while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SubscriptionOptions {
    pub(super) max_qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retained: Retained,
}

/// Tells when a Subscribe delivers retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retained {
    Always,
    /// Delivers them at the first Subscribe of a filter only, as EMQX does.
    #[default]
    OnNew,
    Never,
}

/// The subscribers of one filter.
#[derive(Default)]
pub(super) struct Subscribers {
    pub(super) each: BTreeMap<MemberId, SubscriptionOptions>,
    pub(super) groups: BTreeMap<String, SharedGroup>,
}

/// A shared subscription. Its members receive messages in turn.
#[derive(Default)]
pub(super) struct SharedGroup {
    pub(super) members: BTreeMap<MemberId, SubscriptionOptions>,
    pub(super) turn: Cell<usize>,
}

impl Subscribers {
    pub(super) fn is_empty(&self) -> bool {
        self.each.is_empty() && self.groups.is_empty()
    }
}
