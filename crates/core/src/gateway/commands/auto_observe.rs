//! `auto_observe`: chooses the paths that the gateway observes by itself when a device registers. They wait in
//! [`crate::registry::DeviceObservations`]; the command scheduler asks for them, after the commands of applications:
//!
//! 1. A device of LwM2M 1.0, or without `auto_observe_composite`, is asked for one path after the other.
//! 2. Otherwise it is asked for one composite observation of all paths, or for several of `limits.composite_paths`
//!    each.
//! 3. If it does not accept a composite observation, it is asked for all paths that are left one after the other. That
//!    holds until the device registers again.

use std::collections::{HashMap, HashSet};

use crate::coap::Code;
use crate::command::{Command, Origin};
use crate::lwm2m::model::{Model, Version};
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;
use crate::registry::{Device, Grouping, ScheduledObservation};

use crate::gateway::config::AutoObserve;
use crate::gateway::context::Context;
use crate::gateway::report::Report;

/// Objects that `auto_observe` leaves out: they tell of the device's management, not of what it measures.
const NEVER_AUTO_OBSERVED: [u16; 9] = [0, 1, 2, 4, 5, 6, 7, 9, 15];

/// Lists the codes by which a device tells that it has no composite observations, or none of these paths.
const NOT_COMPOSITE: [Code; 5] = [
    Code::BAD_REQUEST,
    Code::NOT_FOUND,
    Code::METHOD_NOT_ALLOWED,
    Code::UNSUPPORTED_CONTENT_FORMAT,
    Code::NOT_IMPLEMENTED,
];

/// Commands that are kept for further devices.
const KEPT_COMMANDS: usize = 1_024;

/// Keeps the commands that were made last. Those of the same paths are alike for all devices, which share the text
/// that each observation repeats.
#[derive(Debug, Default)]
pub(super) struct AutoObserveCommands(HashMap<ScheduledObservation, Command>);

impl AutoObserveCommands {
    /// Returns the command by which this is asked for.
    pub(super) fn command(&mut self, asked: ScheduledObservation) -> Command {
        if self.0.len() >= KEPT_COMMANDS && !self.0.contains_key(&asked) {
            self.0.clear();
        }
        let make = |asked: &ScheduledObservation| match asked {
            ScheduledObservation::Single(path) => Command::auto_observe(path),
            ScheduledObservation::Composite(paths) => Command::auto_observe_composite(paths.clone()),
        };
        self.0.entry(asked).or_insert_with_key(make).clone()
    }

    /// Lets a command of an earlier process share its text with those of other devices.
    pub(super) fn share(&mut self, command: &mut Command) {
        if command.origin != Origin::AutoObserve {
            return;
        }
        let asked = match command.operation.kind.observed_paths() {
            Some(paths) => ScheduledObservation::Composite(paths.to_vec()),
            None => ScheduledObservation::Single(command.operation.path),
        };
        let common = self.command(asked).echo;
        if common == command.echo {
            command.echo = common;
        }
    }
}

/// Schedules the paths to observe of a device that registers. Returns how many are skipped because a device may not
/// have more observations.
pub(in crate::gateway) fn schedule(context: &Context, device: &mut Device) -> usize {
    let (config, limits) = (&context.config, &context.config.limits);
    let paths = paths(&config.auto_observe, &device.registration, &context.model);
    let (grouping, most) = if config.auto_observe_composite && device.registration.supports(Version::LWM2M_1_1) {
        (Grouping::Composite, limits.observations.saturating_mul(limits.composite_paths))
    } else {
        (Grouping::Single, limits.observations)
    };
    device.observations.schedule(paths, grouping, most)
}

/// Schedules the paths of a composite observation that the device did not accept, each by itself. `answer` is the code
/// of the device; `None` if it gave no usable answer. After any other code nothing follows, as after one to a single
/// observation.
pub(super) fn split(context: &mut Context, device: &mut Device, command: &Command, answer: Option<Code>) {
    let refused = answer.is_none_or(|code| NOT_COMPOSITE.contains(&code));
    let Some(paths) = command.operation.kind.observed_paths() else { return };
    if command.origin != Origin::AutoObserve || !refused {
        return;
    }
    let most = context.config.limits.observations;
    let skipped = device.observations.schedule(paths.iter().copied(), Grouping::Single, most);
    context.changed(device);
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::AutoObserveSplit { endpoint, paths: device.observations.scheduled().len() });
    report_skipped(context, device, skipped);
}

/// Schedules once more what was asked for when the gateway shut down: the next process asks for it.
pub(super) fn ask_again(device: &mut Device, command: &Command) {
    if command.origin == Origin::AutoObserve {
        let single = [command.operation.path];
        let paths = command.operation.kind.observed_paths().unwrap_or(&single);
        let grouping = device.observations.grouping();
        device.observations.schedule(paths.iter().copied(), grouping, usize::MAX);
    }
}

/// Reports the paths that are skipped because a device may not have more observations.
pub(in crate::gateway) fn report_skipped(context: &mut Context, device: &Device, paths: usize) {
    if paths > 0 {
        context.report(Report::AutoObserveCut { endpoint: device.registration.endpoint.clone(), paths });
    }
}

/// Returns the paths to observe, of what the device has.
fn paths(auto_observe: &AutoObserve, registration: &Registration, model: &Model) -> Vec<Path> {
    match auto_observe {
        AutoObserve::Off => Vec::new(),
        AutoObserve::On => instances_or_objects(registration)
            .into_iter()
            .filter(|path| {
                path.object().is_some_and(|object| {
                    !NEVER_AUTO_OBSERVED.contains(&object)
                        && model.object(object, registration.object_version(object)).is_some()
                })
            })
            .collect(),
        AutoObserve::Paths(paths) => {
            let has = |object| registration.object_paths().any(|path| path.object() == object);
            paths.iter().copied().filter(|path| has(path.object())).collect()
        }
    }
}

/// Returns the instances that the object list has, and the objects of which it has none, in its order. An observation
/// of both would tell every value twice.
fn instances_or_objects(registration: &Registration) -> Vec<Path> {
    let with_instances: HashSet<_> =
        registration.object_paths().filter(|path| path.len() > 1).filter_map(|path| path.object()).collect();
    let mut listed = HashSet::new();
    let has_instances = |path: &Path| path.object().is_some_and(|object| with_instances.contains(&object));
    let paths = registration.object_paths().filter(|path| path.len() > 1 || !has_instances(path));
    paths.filter(|path| listed.insert(*path)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::coap::options::number;
    use crate::coap::{Code, Request};

    fn registration(objects: &str) -> Registration {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, "ep=a");
        request.payload = objects.as_bytes().to_vec();
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        Registration::from_register(&request, &lifetimes, None).unwrap()
    }

    #[test]
    fn an_instance_is_observed_once_and_its_object_only_without_instances() {
        let listed = instances_or_objects(&registration("</3303>,</3303/0>,</3303/0>,</3304>"));
        assert_eq!(listed, ["/3303/0", "/3304"].map(|path| path.parse::<Path>().unwrap()));
    }

    #[test]
    fn configured_paths_are_observed_where_the_device_has_their_object() {
        let chosen = AutoObserve::Paths(["/3303/0/5700", "/5/0"].map(|path| path.parse().unwrap()).to_vec());
        let paths = paths(&chosen, &registration("</3303/0>"), &Model::default());
        assert_eq!(paths, ["/3303/0/5700".parse::<Path>().unwrap()]);
    }
}
