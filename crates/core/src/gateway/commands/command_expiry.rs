//! The expiry of pending commands.
//!
//! 1. A command that has to wait gets the time at which it expires ([`expiry_of`]): after its `ttl`, or after
//!    `limits.command_expiry`.
//! 2. The earliest of these times of a device is a deadline of the scheduler ([`CommandScheduler::watch_expiry`]).
//! 3. At that time the commands that are over are refused, and the applications are told
//!    ([`CommandScheduler::expire`]).

use std::time::{Duration, Instant};

use crate::command::{Command, LONGEST_EXPIRY};
use crate::gateway::context::Context;
use crate::gateway::report::CommandOutcome;
use crate::registry::{Device, PendingCommand};

use super::{CommandScheduler, refuse_command};

/// Returns when a command that arrived now expires. `default_expiry` applies if the command has no `ttl`.
pub(super) fn expiry_of(now: Instant, command: &Command, default_expiry: Duration) -> Instant {
    now + command.expiry.unwrap_or(default_expiry).min(LONGEST_EXPIRY)
}

impl CommandScheduler {
    /// Refuses the pending commands that waited too long.
    pub(crate) fn expire(&mut self, context: &mut Context, device: &mut Device) {
        let expired = device.waiting.take_expired(context.now);
        if !expired.is_empty() {
            context.changed(device);
        }
        for PendingCommand { command, sent_as, .. } in expired {
            let reason = match sent_as {
                None => "expired before the device could take it",
                Some(_) => "sent before a restart of the gateway, which the device may have forgotten: it may be done",
            };
            refuse_command(context, device, &command, CommandOutcome::Expired, reason);
        }
        self.watch_expiry(device);
    }

    /// Sets the time at which the first of the pending commands expires.
    pub(crate) fn watch_expiry(&mut self, device: &Device) {
        match device.waiting.next_expiry() {
            Some(at) => self.expiries.set(device.id, at),
            None => self.expiries.cancel(device.id),
        }
    }
}
