//! The rules that refuse devices, deny topics and delay answers.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::filters;

/// The credentials of a device in Authenticate.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceCredentials {
    pub clientid: String,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for DeviceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCredentials").field("clientid", &self.clientid).finish_non_exhaustive()
    }
}

/// The rules in force. [`BrokerControl`](super::BrokerControl) sets them.
#[derive(Default)]
pub(super) struct Rules(Mutex<RuleSet>);

pub(super) type RefusalRule = Arc<dyn Fn(&DeviceCredentials) -> bool + Send + Sync>;

#[derive(Default)]
pub(super) struct RuleSet {
    pub(super) refused: Vec<RefusalRule>,
    pub(super) unpublishable: Vec<String>,
    pub(super) unsubscribable: Vec<String>,
    pub(super) delay: Duration,
}

impl Rules {
    pub(super) fn refuses(&self, who: &DeviceCredentials) -> bool {
        let refused = self.read(|rules| rules.refused.clone());
        refused.iter().any(|applies| applies(who))
    }

    pub(super) fn may_publish(&self, topic: &str) -> bool {
        self.read(|rules| !rules.unpublishable.iter().any(|filter| filters::matches(filter, topic)))
    }

    pub(super) fn may_subscribe(&self, wanted: &str) -> bool {
        self.read(|rules| !rules.unsubscribable.iter().any(|filter| filters::matches(filter, wanted)))
    }

    pub(super) fn delay(&self) -> Duration {
        self.read(|rules| rules.delay)
    }

    fn read<T>(&self, look: impl FnOnce(&RuleSet) -> T) -> T {
        look(&self.0.lock().expect("nobody panics while holding the rules"))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut RuleSet)) {
        change(&mut self.0.lock().expect("nobody panics while holding the rules"));
    }
}
