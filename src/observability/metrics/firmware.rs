//! The counters of firmware updates.

use lwm2m_core::command::firmware::{JobStatus, Phase, UpdateError};
use lwm2m_core::gateway::firmware::campaign::CampaignStatus;
use lwm2m_core::gateway::firmware::campaign::member::MemberState;
use lwm2m_core::gateway::report::CampaignReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::{counter, counters};

use super::labels::{FirmwareLabels, OutcomeLabel, StatusLabel};

/// Counts the events of firmware updates, by phase, and those that failed by error.
#[derive(Debug)]
pub(crate) struct FirmwareMetrics {
    phases: [Counter; Phase::ALL.len()],
    failures: [Counter; UpdateError::ALL.len()],
    pub refused: Counter,
}

impl FirmwareMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let events = "Events of firmware updates by phase, failures by error";
        let events = counters(registry, "lwm2m_firmware_events", events);
        let refused = "Firmware updates refused because too many run (limit: limits.firmware_jobs)";
        let failed = Phase::Failed.name();
        Self {
            failures: UpdateError::ALL.map(|error| events(FirmwareLabels { phase: failed, error: error.name() })),
            phases: Phase::ALL.map(|phase| match phase {
                // Each of them has an error.
                Phase::Failed => Counter::default(),
                Phase::Waiting
                | Phase::Preparing
                | Phase::Downloading
                | Phase::Downloaded
                | Phase::Updating
                | Phase::Verifying
                | Phase::Succeeded
                | Phase::Cancelled
                | Phase::Deferred => events(FirmwareLabels { phase: phase.name(), error: "none" }),
            }),
            refused: counter(registry, "lwm2m_firmware_updates_refused", refused),
        }
    }

    /// Returns the counter of an event.
    pub(super) fn of(&self, status: &JobStatus) -> &Counter {
        let failure = status.error.and_then(|error| UpdateError::ALL.iter().position(|known| *known == error));
        let phase = || Phase::ALL.iter().position(|known| *known == status.phase).unwrap_or_default();
        match failure {
            Some(failure) => &self.failures[failure],
            None => &self.phases[phase()],
        }
    }
}

/// Counts the devices that campaigns have completed, by outcome, and the changes of the campaigns' status.
#[derive(Debug)]
pub(crate) struct CampaignMetrics {
    outcomes: [Counter; MemberState::ALL.len()],
    statuses: [Counter; CampaignStatus::ALL.len()],
    full: Counter,
}

impl CampaignMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let devices = "Devices completed by firmware campaigns, by outcome";
        let devices = counters(registry, "lwm2m_firmware_campaign_devices", devices);
        let statuses = "Status changes of firmware campaigns";
        let statuses = counters(registry, "lwm2m_firmware_campaign_changes", statuses);
        let full = "Firmware campaigns that reached their maximum number of devices and left others out";
        Self {
            outcomes: MemberState::ALL.map(|state| match state {
                // A device in one of these states has no outcome.
                MemberState::Waiting | MemberState::Updating => Counter::default(),
                MemberState::Succeeded
                | MemberState::Failed
                | MemberState::UpToDate
                | MemberState::FilterMismatch
                | MemberState::Cancelled
                | MemberState::Deferred
                | MemberState::Absent => devices(OutcomeLabel { outcome: state.name() }),
            }),
            statuses: CampaignStatus::ALL.map(|status| statuses(StatusLabel { status: status.name() })),
            full: counter(registry, "lwm2m_firmware_campaigns_full", full),
        }
    }

    /// Returns the counter of a report.
    pub(super) fn of(&self, report: &CampaignReport) -> &Counter {
        match report {
            CampaignReport::Status { status, .. } => &self.statuses[*status as usize],
            CampaignReport::Ended { outcome, .. } => &self.outcomes[outcome.state() as usize],
            CampaignReport::Full { .. } => &self.full,
        }
    }
}
