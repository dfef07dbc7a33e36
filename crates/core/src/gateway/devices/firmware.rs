//! Firmware updates of registered devices: what happens to their images, and when a job is due.

use crate::coap::ExchangeId;
use crate::registry::RegistrationId;

use super::{RegisteredDevices, device_of, heard_from};
use crate::gateway::commands::answer_left;
use crate::gateway::context::Context;
use crate::gateway::firmware::ImageEvent;
use crate::gateway::firmware::image::ImageError;
use crate::gateway::firmware::jobs::record::FirmwareJobRecord;

/// Firmware updates.
impl RegisteredDevices {
    /// Passes the result of reading an image to its firmware update.
    pub(crate) fn image_event(&mut self, context: &mut Context, event: ImageEvent) {
        match event {
            ImageEvent::Described { request, result } => {
                for pending in self.commands.jobs.described(request) {
                    match self.registry.device_by_endpoint_mut(&pending.endpoint) {
                        Some(device) => self.commands.begin_described(context, device, pending, result),
                        None => answer_left(context, &pending),
                    }
                }
            }
            ImageEvent::Read { part, result } => {
                let Self { registry, commands, .. } = self;
                // Without a device the push was given up meanwhile.
                if let Some(device) = device_of(registry, commands, part.exchange) {
                    commands.image_read(context, device, part, result);
                }
            }
            ImageEvent::Pulled { job, fetched } => {
                let Self { registry, commands, queue_mode, .. } = self;
                let registration = commands.jobs.registration_of(job);
                let Some(device) = registration.and_then(|id| registry.device_mut(id)) else {
                    return commands.jobs.pulled(context, None, job, fetched);
                };
                let was_awake = device.is_awake(context.now);
                // A peer that knows the secret of the URI is the device.
                heard_from(context, queue_mode, commands, device);
                commands.jobs.pulled(context, Some(device), job, fetched);
                if !was_awake {
                    commands.send_next(context, device);
                }
            }
            ImageEvent::PullFailed { job, error } => {
                match error {
                    // The disk may recover, and the device asks again.
                    ImageError::Unreadable => self.commands.jobs.image_unreadable(context, job),
                    ImageError::NotFound
                    | ImageError::NotRegular
                    | ImageError::Empty
                    | ImageError::TooLarge
                    | ImageError::Changed => self.commands.jobs.lost_image(job),
                }
                match self.commands.jobs.registration_of(job).and_then(|id| self.registry.device_mut(id)) {
                    Some(device) => self.commands.settle_job(context, device),
                    None => self.commands.jobs.handle_timeout_unregistered(context, job),
                }
            }
        }
    }

    /// Reads the bytes that the push of an image needs next. A device that has answered a block is awake.
    pub(crate) fn body_wanted(
        &mut self,
        context: &mut Context,
        exchange: ExchangeId,
        (offset, length): (usize, usize),
        is_answered: bool,
    ) {
        let Self { registry, commands, queue_mode, .. } = self;
        let Some(device) = device_of(registry, commands, exchange) else { return };
        if is_answered {
            heard_from(context, queue_mode, commands, device);
        }
        commands.body_wanted(context, device, (exchange, offset, length));
    }

    /// Continues the firmware update of a device that has registered.
    pub(crate) fn resume_job(&mut self, context: &mut Context, id: RegistrationId) {
        if let Some(device) = self.registry.device(id) {
            self.commands.jobs.registered(context, device);
            context.campaign_inbox.heard_from(&device.registration.endpoint);
        }
    }

    /// Restores the job of an earlier process.
    pub(crate) fn restore_job(&mut self, context: &mut Context, record: FirmwareJobRecord) {
        let FirmwareJobRecord { endpoint, job } = record;
        let device = self.registry.device_by_endpoint(&endpoint);
        if let Some(job) = job {
            self.commands.jobs.restore(context, device, &endpoint, *job);
        }
    }

    pub(super) fn check_job(&mut self, context: &mut Context) {
        let Some(job) = self.commands.jobs.pop_expired(context.now) else { return };
        match self.commands.jobs.registration_of(job).and_then(|id| self.registry.device_mut(id)) {
            Some(device) => self.commands.job_timed_out(context, device),
            None => self.commands.jobs.handle_timeout_unregistered(context, job),
        }
    }
}
