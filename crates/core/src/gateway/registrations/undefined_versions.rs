//! Reports of objects that a device announced in a version without definition. An object that is defined in no version
//! is not reported: its values are used without definition. Each Update looks again, since the definitions may have
//! been replaced: a whole fleet is not looked through at once.

use crate::lwm2m::model::{Model, UndefinedVersion};
use crate::lwm2m::register::Registration;
use crate::registry::Device;

use crate::gateway::context::Context;
use crate::gateway::report::Report;

/// Reports those objects of the device that were not reported before.
pub(super) fn report_undefined_versions(context: &mut Context, device: &mut Device) {
    let versions = undefined(&device.registration, &context.model);
    let objects = versions.iter().map(|version| version.object).collect();
    let known = std::mem::replace(&mut device.undefined_versions, objects);
    let versions: Vec<_> = versions.into_iter().filter(|version| !known.contains(&version.object)).collect();
    if !versions.is_empty() {
        context.report(Report::UndefinedVersions { endpoint: device.registration.endpoint.clone(), versions });
    }
}

/// Notes the objects of a restored device, which were reported before the restart.
pub(in crate::gateway) fn note_undefined_versions(context: &Context, device: &mut Device) {
    let versions = undefined(&device.registration, &context.model);
    device.undefined_versions = versions.iter().map(|version| version.object).collect();
}

fn undefined(registration: &Registration, model: &Model) -> Vec<UndefinedVersion> {
    let objects = registration.versioned_objects();
    objects.filter_map(|object| model.undefined_version(object, registration.object_version(object))).collect()
}
