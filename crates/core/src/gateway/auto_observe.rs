//! `auto_observe`: chooses the paths that the gateway observes by itself when a device registers. They wait in
//! [`crate::registry::DeviceObservations`]; the command scheduler sends them one at a time, after the commands of
//! applications.

use std::collections::{HashSet, VecDeque};

use crate::lwm2m::model::Model;
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;

use super::config::AutoObserve;

/// Objects that `auto_observe` leaves out: they tell of the device's management, not of what it measures.
const NEVER_AUTO_OBSERVED: [u16; 9] = [0, 1, 2, 4, 5, 6, 7, 9, 15];

/// Returns the paths to observe, of what the device has.
pub(super) fn paths(auto_observe: &AutoObserve, registration: &Registration, model: &Model) -> VecDeque<Path> {
    match auto_observe {
        AutoObserve::Off => VecDeque::new(),
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
        Registration::from_register_of(&request, &lifetimes, None).unwrap()
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
