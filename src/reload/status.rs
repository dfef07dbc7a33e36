//! The results of the last reloads, for the console.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::observability::metrics::ReloadPart;
use lwm2m_core::lwm2m::model::BrokenFile;

/// The results, which the reloading writes. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReloadStatus(Arc<Mutex<ReloadResults>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReloadResults {
    /// The time of the last reload, since 1970; `None` before the first one.
    pub at: Option<Duration>,
    /// The parts whose last reload failed, with the reasons. Their previous state is in force.
    pub failed: BTreeMap<&'static str, String>,
    /// The files of object definitions that were rejected when they were read last.
    pub broken: Vec<BrokenFile>,
}

impl ReloadStatus {
    pub(crate) fn results(&self) -> ReloadResults {
        self.lock().clone()
    }

    pub(crate) fn set_broken(&self, broken: Vec<BrokenFile>) {
        self.lock().broken = broken;
    }

    /// Notes the result of a part: the reason if it failed.
    pub(crate) fn note(&self, at: Duration, part: ReloadPart, failure: Option<String>) {
        let mut results = self.lock();
        results.at = Some(at);
        match failure {
            Some(reason) => results.failed.insert(part.name(), reason),
            None => results.failed.remove(part.name()),
        };
    }

    // A panic while the results are locked cannot leave them half changed.
    fn lock(&self) -> MutexGuard<'_, ReloadResults> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_until_its_part_is_read_again() {
        let status = ReloadStatus::default();
        let second = Duration::from_secs(1);
        status.note(second, ReloadPart::Keys, Some("no such file".to_owned()));
        status.note(second * 2, ReloadPart::Settings, None);
        let failed = BTreeMap::from([("keys", "no such file".to_owned())]);
        assert_eq!(status.results(), ReloadResults { at: Some(second * 2), failed, broken: Vec::new() });
        status.note(second * 3, ReloadPart::Keys, None);
        assert_eq!(status.results(), ReloadResults { at: Some(second * 3), ..ReloadResults::default() });
    }
}
