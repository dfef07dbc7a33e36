//! Guards the observations of applications and of `auto_observe` against the commands of the console, and the console's
//! share of the observations of a device.

use crate::command::Command;
use crate::lwm2m::operation::OperationKind;
use crate::registry::{Device, ObservedPaths};

use crate::gateway::context::Context;
use crate::gateway::operators::console_commands::{CONSOLE_OBSERVATIONS, CommandRefusal};

const OBSERVED_ALREADY: &str = "an application or auto_observe observes these paths; force replaces or ends that";

/// Checks a command of the console before it is admitted, with regard to the commands before it.
pub(super) fn check_admission(context: &Context, device: &Device, command: &Command) -> Result<(), CommandRefusal> {
    if !is_about_observation(command) {
        return Ok(());
    }
    let paths = ObservedPaths::of(&command.operation);
    let is_forced = command.origin.console().is_some_and(|console| console.force);
    if !is_forced && will_be_observed_by_others(device, &paths) {
        return Err(CommandRefusal::ObservedAlready(OBSERVED_ALREADY.to_owned()));
    }
    check_observations(context, device, command, &paths).map_err(CommandRefusal::QueueFull)
}

/// Checks a command that is about to be sent: since it was admitted, others may have begun an observation.
pub(super) fn check_sending(
    context: &Context,
    device: &Device,
    command: &Command,
    paths: &ObservedPaths,
) -> Result<(), String> {
    let Some(console) = command.origin.console() else { return Ok(()) };
    if is_about_observation(command) && !console.force && is_observed_by_others(device, paths) {
        return Err(OBSERVED_ALREADY.to_owned());
    }
    check_observations(context, device, command, paths)
}

/// Rejects an observation beyond the console's share.
fn check_observations(
    context: &Context,
    device: &Device,
    command: &Command,
    paths: &ObservedPaths,
) -> Result<(), String> {
    if !begins_observation(command) {
        return Ok(());
    }
    let most = share(CONSOLE_OBSERVATIONS, context.config.limits.observations);
    let others = device.observations.iter().filter(|(_, observation)| observation.paths != *paths);
    let observed = others.filter(|(_, observation)| observation.command.origin.console().is_some()).count();
    if observed < most {
        return Ok(());
    }
    Err(format!("the console has {observed} observations of this device, which is the maximum"))
}

/// Returns the part of a limit that the console may use. At least half is left to applications.
pub(super) fn share(most: usize, limit: usize) -> usize {
    most.min(limit.div_ceil(2))
}

/// Returns the command in flight and the pending ones.
pub(super) fn commands(device: &Device) -> impl Iterator<Item = &Command> {
    let in_flight = device.in_flight().map(|in_flight| &in_flight.command);
    in_flight.into_iter().chain(device.waiting.iter().map(|waiting| &waiting.command))
}

/// Returns whether an application or `auto_observe` observes these paths, or `auto_observe` will.
fn is_observed_by_others(device: &Device, paths: &ObservedPaths) -> bool {
    let observation = device.observations.exchange_of(paths).and_then(|exchange| device.observations.get(exchange));
    let is_scheduled = |path| device.observations.scheduled().any(|scheduled| scheduled == path);
    observation.is_some_and(|observation| observation.command.origin.console().is_none())
        || matches!(paths, ObservedPaths::Single(path) if is_scheduled(*path))
}

/// Returns whether others will observe these paths once all earlier commands are answered.
fn will_be_observed_by_others(device: &Device, paths: &ObservedPaths) -> bool {
    let earlier = commands(device)
        .filter(|command| is_about_observation(command) && ObservedPaths::of(&command.operation) == *paths);
    earlier.fold(is_observed_by_others(device, paths), |observed, command| match command.origin.console() {
        Some(console) => observed && !console.force,
        None => begins_observation(command),
    })
}

fn is_about_observation(command: &Command) -> bool {
    let is_cancellation =
        matches!(command.operation.kind, OperationKind::CancelObserve | OperationKind::CancelObserveComposite { .. });
    is_cancellation || begins_observation(command)
}

fn begins_observation(command: &Command) -> bool {
    matches!(command.operation.kind, OperationKind::Observe | OperationKind::ObserveComposite { .. })
}
