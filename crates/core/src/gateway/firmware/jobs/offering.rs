//! The offers of images to devices that fetch them.

use crate::gateway::context::Context;
use crate::lwm2m::firmware::protocol;
use crate::registry::Device;

use super::OwnedJob;
use super::job_id::JobId;
use crate::gateway::firmware::job::{JobSpec, Package, PullOffer};
use crate::gateway::firmware::pulls::uri::UriScheme;
use crate::gateway::firmware::pulls::{Pull, PullProgress, Resumption};

/// Lets the device fetch the image while its job downloads by pull, and no longer.
pub(super) fn offer(context: &mut Context, device: Option<&Device>, id: JobId, owned: &mut OwnedJob) {
    let Some(fetched) = owned.job.pulls() else {
        owned.is_offered = false;
        return context.pulls.withdraw(id);
    };
    let (Some(device), Package::Image { name, image }, false) = (device, &owned.job.spec().package, owned.is_offered)
    else {
        return;
    };
    let resumes = match (owned.job.was_restored(), owned.job.fetched_before()) {
        (true, _) => Some(Resumption::Anywhere),
        (false, 0) => None,
        (false, bytes) => Some(Resumption::UpTo(bytes)),
    };
    let progress = PullProgress::new(fetched, resumes);
    let (name, image, identity) = (name.clone(), *image, device.identity.clone());
    context.pulls.offer(owned.job.spec().key.clone(), Pull { job: id, name, image, identity, progress });
    owned.is_offered = true;
}

/// Returns the URI at which this device can fetch the image of a job: over DTLS if it has registered so.
pub(super) fn pull_offer(context: &Context, device: &Device, spec: &JobSpec) -> Option<PullOffer> {
    let Package::Image { name, .. } = &spec.package else { return None };
    let (scheme, protocol) = match device.peer.association {
        Some(_) => (UriScheme::Coaps, protocol::COAPS),
        None => (UriScheme::Coap, protocol::COAP),
    };
    let public = context.config.firmware.public_uris.of(scheme)?;
    let uri = public.of_image(&spec.key, name).ok()?;
    Some(PullOffer { uri, protocol })
}
