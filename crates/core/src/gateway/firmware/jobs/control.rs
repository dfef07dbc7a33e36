//! Applications and campaigns begin, activate, cancel and look at jobs, and wait for the description of an image.

use std::sync::Arc;

use crate::coap::Code;
use crate::command::firmware::JobStatus;
use crate::gateway::context::Context;
use crate::registry::Device;

use super::update::PendingUpdate;
use super::{FirmwareJobs, OwnedJob};
use crate::gateway::firmware::image::{ImageName, ImageRequestId};
use crate::gateway::firmware::job::{Job, JobRefusal};

impl FirmwareJobs {
    /// Installs the package that the device has, by the job of this instance.
    pub(crate) fn activate(&mut self, device: &Device, instance: u16) -> Result<(), JobRefusal> {
        self.active_mut(device, instance).ok_or(JobRefusal::NOTHING_DOWNLOADED)?.activate()
    }

    /// Ends the job of this instance.
    pub(crate) fn cancel(&mut self, device: &Device, instance: u16) -> Result<(), (Code, JobRefusal)> {
        if self.pending_endpoints.contains(device.registration.endpoint.as_str()) {
            return Err((Code::CONFLICT, JobRefusal::NOT_BEGUN));
        }
        let job = self.active_mut(device, instance).ok_or((Code::NOT_FOUND, JobRefusal::NO_JOB))?;
        job.cancel().map_err(|reason| (Code::CONFLICT, reason))
    }

    /// Returns the last event of the job of this instance.
    pub(crate) fn status(&self, device: &Device, instance: u16) -> Option<&JobStatus> {
        let OwnedJob { job, is_left_over, .. } = self.of(device.id)?;
        (job.spec().instance == instance && !is_left_over).then(|| job.status())
    }

    /// Returns whether an update of this device runs, or waits for the description of its image.
    pub(crate) fn is_busy(&self, device: &Device) -> bool {
        self.pending_endpoints.contains(device.registration.endpoint.as_str())
            || self.of(device.id).is_some_and(|owned| !owned.job.is_over())
    }

    /// Lets an update wait for the description of its image. Returns whether it may: not if too many images are
    /// described.
    pub(crate) fn wait_for_image(&mut self, context: &mut Context, name: &ImageName, update: PendingUpdate) -> bool {
        let endpoint = Arc::clone(&update.endpoint);
        if let Some((_, updates)) = self.pending.get_mut(name) {
            updates.push(update);
        } else {
            let Some(request) = context.describe_image(name.clone()) else { return false };
            self.pending.insert(name.clone(), (request, vec![update]));
        }
        self.pending_endpoints.insert(endpoint);
        true
    }

    /// Takes the updates that waited for this description.
    pub(crate) fn described(&mut self, request: ImageRequestId) -> Vec<PendingUpdate> {
        let name = self.pending.iter().find(|(_, (own, _))| *own == request).map(|(name, _)| name.clone());
        let updates = name.and_then(|name| self.pending.remove(&name)).map(|(_, updates)| updates).unwrap_or_default();
        for update in &updates {
            self.pending_endpoints.remove(&update.endpoint);
        }
        updates
    }

    fn active_mut(&mut self, device: &Device, instance: u16) -> Option<&mut Job> {
        let job = &mut self.of_mut(device.id)?.job;
        (job.spec().instance == instance && !job.is_over()).then_some(job)
    }
}
