//! The jobs that the store has: what changed about them, and those of an earlier process or of another gateway.

use std::time::Instant;

use crate::gateway::context::Context;
use crate::gateway::persistence::record::Change;
use crate::registry::Device;

use super::record::{FirmwareJobRecord, JobRecord};
use super::{FirmwareJobs, OwnedJob};
use crate::gateway::firmware::job::Job;

impl FirmwareJobs {
    pub(crate) fn keep_changes(&mut self) {
        self.changes.keep();
    }

    /// Marks every job as changed.
    pub(crate) fn change_all(&mut self) {
        self.jobs.values().for_each(|owned| self.changes.mark(&owned.endpoint));
    }

    /// Marks the job of an endpoint as changed, if there is one.
    pub(crate) fn change(&mut self, endpoint: &str) {
        if self.status_of(endpoint).is_some() {
            self.changes.mark(endpoint);
        }
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Returns at most `most` records that have changed.
    pub(crate) fn take_changes(&mut self, context: &Context, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(endpoint) = self.changes.take()
        {
            let job = self.by_endpoint.get(&endpoint).and_then(|id| self.jobs.get(id));
            let job = job.map(|owned| Box::new(record(context, owned)));
            changes.push(Change::FirmwareJob(FirmwareJobRecord { endpoint: endpoint.to_string(), job }));
        }
        changes
    }

    /// Takes the job of an endpoint that another gateway has now.
    pub(crate) fn release(&mut self, context: &mut Context, endpoint: &str) -> Option<FirmwareJobRecord> {
        let id = self.by_endpoint.get(endpoint).copied()?;
        let job = self.jobs.get(&id).map(|owned| Box::new(record(context, owned)));
        self.forget(context, id);
        // The record in the store is that of the other gateway.
        self.changes.take_one(endpoint);
        Some(FirmwareJobRecord { endpoint: endpoint.to_owned(), job })
    }

    /// Restores the job of an earlier process. `device` is its device, if it is registered.
    pub(crate) fn restore(
        &mut self,
        context: &mut Context,
        device: Option<&Device>,
        endpoint: &str,
        record: JobRecord,
    ) {
        let JobRecord { spec, progress, echo, update_ends, silence, ends } = record;
        // The device may have ended its update while the gateway did not run: there is time to ask it.
        let soonest = context.now + context.config.firmware.stall_timeout;
        let update_ends = update_ends.map(|at| context.wall_clock.moment(at).max(soonest));
        let job = Job::restored(context.now, spec, progress, update_ends);
        let id = self.insert(endpoint.into(), job, echo);
        match device {
            Some(device) => self.attach(context, device, id),
            None => {
                if let Some(owned) = self.jobs.get_mut(&id) {
                    owned.job.left(context.now);
                    // Its registration may have ended while the gateway did not run.
                    let twice = context.now + silence + silence;
                    owned.ends = Some(ends.map_or(twice, |at| context.wall_clock.moment(at)));
                    owned.silence = silence;
                }
                self.schedule(context, id);
            }
        }
    }
}

fn record(context: &Context, owned: &OwnedJob) -> JobRecord {
    let OwnedJob { job, echo, silence, ends, .. } = owned;
    let unix_time = |at: Instant| context.wall_clock.unix_time(at);
    JobRecord {
        spec: job.spec().clone(),
        progress: job.progress().clone(),
        echo: echo.clone(),
        update_ends: job.update_ends().map(unix_time),
        silence: *silence,
        ends: ends.map(unix_time),
    }
}
