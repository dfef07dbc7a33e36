//! The phases and the end of a job, and the events that report them.

use std::time::Instant;

use crate::coap::Code;
use crate::command::firmware::{Phase, UpdateError};
use crate::lwm2m::firmware::UpdateResult;

use super::{Job, Step};
use crate::gateway::firmware::config::FirmwareConfig;

impl Job {
    /// Enters another phase, and reports it.
    pub(super) fn enter(&mut self, phase: Phase) {
        if self.progress.phase != phase {
            self.progress.phase = phase;
            self.tell();
        }
    }

    pub(super) fn fail(&mut self, error: UpdateError, code: Option<Code>) {
        self.end(Phase::Failed, Some(error), code);
    }

    /// Ends by the result that the device reports.
    pub(super) fn end_by(&mut self, result: UpdateResult) {
        let error = match result {
            UpdateResult::Cancelled => return self.end(Phase::Cancelled, None, None),
            UpdateResult::Deferred => return self.end(Phase::Deferred, None, None),
            UpdateResult::NotEnoughFlash => UpdateError::NoFlash,
            UpdateResult::OutOfMemory => UpdateError::NoMemory,
            UpdateResult::ConnectionLost => UpdateError::ConnectionLost,
            UpdateResult::IntegrityCheckFailed => UpdateError::Integrity,
            UpdateResult::UnsupportedPackage => UpdateError::UnsupportedPackage,
            UpdateResult::InvalidUri => UpdateError::InvalidUri,
            UpdateResult::UpdateFailed => UpdateError::UpdateFailed,
            UpdateResult::UnsupportedProtocol => UpdateError::UnsupportedProtocol,
            UpdateResult::Initial | UpdateResult::Success => return,
        };
        self.fail(error, None);
    }

    pub(super) fn end(&mut self, phase: Phase, error: Option<UpdateError>, code: Option<Code>) {
        if self.is_over() {
            return;
        }
        self.step = Step::Done;
        (self.poll_at, self.update_ends) = (None, None);
        self.progress.phase = phase;
        (self.progress.last.error, self.progress.last.code) = (error, code);
        self.tell();
    }

    /// Reports the progress of the download, if it has changed and the last report is old enough.
    pub(super) fn tell_progress(&mut self, now: Instant, config: &FirmwareConfig) {
        let ((told_at, told), bytes) = (self.told_progress, self.progress.bytes);
        let is_due = told < bytes && told_at + config.progress_interval <= now;
        if self.progress.phase == Phase::Downloading && is_due {
            self.told_progress = (now, bytes);
            self.tell();
        }
    }

    pub(super) fn tell(&mut self) {
        let size = self.size();
        let progress = &mut self.progress;
        let last = &mut progress.last;
        (last.phase, last.method, last.attempt) = (progress.phase, progress.method, progress.attempt);
        (last.state, last.result) = (progress.told.state(), progress.told.result());
        last.size = size;
        last.bytes = size.map(|_| progress.bytes);
        self.events.push(progress.last.clone());
    }
}
