//! Checks a `firmware-update` before its job begins: mistakes are answered before a message is sent to the device.

use std::sync::Arc;

use lwm2m_base::secret::Secret;
use rand::RngExt;

use crate::coap::Code;
use crate::command::firmware::{JobLabel, MethodChoice, PackageSource, UpdateRequest};
use crate::command::{Echo, Origin, Reply};
use crate::lwm2m::firmware::OBJECT;
use crate::registry::{CommandDigest, Device};

use crate::gateway::context::Context;
use crate::gateway::firmware::image::{Image, ImageDigest, ImageError, ImageName};
use crate::gateway::firmware::job::{JobSpec, Package};
use crate::gateway::firmware::pulls::uri::{PublicUri, PullKey, UriScheme};

/// Blocks of a body, at the most (RFC 7959 section 2.2: the number of a block has 20 bits).
const MOST_BLOCKS: u64 = 1 << 20;

/// An update that waits for the description of its image.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::gateway) struct PendingUpdate {
    pub endpoint: Arc<str>,
    pub echo: Echo,
    pub reply: Option<Box<Reply>>,
    pub origin: Origin,
    pub instance: u16,
    pub request: UpdateRequest,
    pub name: ImageName,
    /// The digest of a retained command.
    pub retained: Option<CommandDigest>,
}

/// The reason why an update does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct UpdateRefusal {
    pub code: Code,
    pub reason: String,
}

impl UpdateRefusal {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(crate) fn of_image(error: ImageError) -> Self {
        let code = match error {
            ImageError::NotFound => Code::NOT_FOUND,
            ImageError::Unreadable => Code::SERVICE_UNAVAILABLE,
            ImageError::NotRegular | ImageError::Empty | ImageError::TooLarge | ImageError::Changed => {
                Code::BAD_REQUEST
            }
        };
        Self::new(code, error.to_string())
    }

    fn bad(reason: impl Into<String>) -> Self {
        Self::new(Code::BAD_REQUEST, reason)
    }
}

/// Returns an error if the device does not have this instance of the object. A device that named no objects is asked.
pub(in crate::gateway) fn check_object(device: &Device, instance: u16) -> Result<(), UpdateRefusal> {
    let registration = &device.registration;
    if registration.objects().is_none() {
        return Ok(());
    }
    let mut listed = registration.object_paths().filter(|path| path.object() == Some(OBJECT)).peekable();
    if listed.peek().is_none() {
        return Err(UpdateRefusal::new(Code::NOT_FOUND, "the device has no Firmware Update object (5)"));
    }
    // A device may list the object without its instances.
    let instances: Vec<u16> = listed.filter_map(|path| path.instance()).collect();
    if instances.is_empty() || instances.contains(&instance) {
        return Ok(());
    }
    Err(UpdateRefusal::new(Code::NOT_FOUND, format!("the device has no instance /{OBJECT}/{instance}")))
}

/// Checks what does not depend on the image. Returns its name, or the URI of a package elsewhere.
pub(in crate::gateway) fn check_request(request: &UpdateRequest) -> Result<Result<ImageName, Secret>, UpdateRefusal> {
    match &request.package {
        PackageSource::Image(name) => {
            let name = name.parse::<ImageName>().map_err(|error| UpdateRefusal::bad(error.to_string()))?;
            digest(request)?;
            Ok(Ok(name))
        }
        PackageSource::Uri(uri) => {
            if request.method == MethodChoice::Push {
                return Err(UpdateRefusal::bad("a device fetches the package of a URI by itself: method is not push"));
            }
            if request.sha256.is_some() {
                return Err(UpdateRefusal::bad("sha256 is checked for images of this gateway, not for a URI"));
            }
            let text = uri.reveal();
            if text.len() > PublicUri::LONGEST || !text.contains("://") || text.contains(char::is_control) {
                let longest = PublicUri::LONGEST;
                return Err(UpdateRefusal::bad(format!("uri is not a URI of at most {longest} bytes")));
            }
            Ok(Err(uri.clone()))
        }
    }
}

/// Checks the image, and returns the specification of the job.
pub(in crate::gateway) fn spec_of_image(
    context: &mut Context,
    device: &Device,
    (instance, request): (u16, UpdateRequest),
    (name, image): (ImageName, Image),
) -> Result<JobSpec, UpdateRefusal> {
    if let Some(wanted) = digest(&request)?
        && wanted != image.sha256
    {
        return Err(UpdateRefusal::bad(format!("the image has the SHA-256 {}, not {wanted}", image.sha256)));
    }
    let config = &context.config;
    let block_size = request.block_size.map_or(config.coap.block_size as u64, u64::from).clamp(16, 1024);
    let scheme = if device.peer.association.is_some() { UriScheme::Coaps } else { UriScheme::Coap };
    let is_offered = config.firmware.public_uris.of(scheme).is_some();
    let is_pushed = request.method == MethodChoice::Push || request.method == MethodChoice::Auto && !is_offered;
    if is_pushed && image.size > MOST_BLOCKS * block_size {
        return Err(UpdateRefusal::bad(format!("the image has more than {MOST_BLOCKS} blocks of {block_size} bytes")));
    }
    let spec = spec(context, instance, request, Package::Image { name: name.clone(), image });
    match context.config.firmware.public_uris.of(scheme) {
        Some(public) if spec.method != MethodChoice::Push => {
            public.of_image(&spec.key, &name).map_err(|error| UpdateRefusal::bad(error.to_string()))?;
        }
        None if spec.method == MethodChoice::Pull => {
            let reason = format!("firmware.public_uri has no URI with {scheme}, by which this device could pull");
            return Err(UpdateRefusal::bad(reason));
        }
        Some(_) | None => {}
    }
    Ok(spec)
}

/// Returns the specification of a job whose device fetches the package from elsewhere.
pub(in crate::gateway) fn spec_of_uri(
    context: &mut Context,
    instance: u16,
    request: UpdateRequest,
    uri: Secret,
) -> JobSpec {
    spec(context, instance, request, Package::Uri(uri))
}

fn spec(context: &mut Context, instance: u16, request: UpdateRequest, package: Package) -> JobSpec {
    let UpdateRequest { method, activate, version, block_size, attempts, .. } = request;
    let label = JobLabel::from_random(context.rng.random());
    let key = PullKey::from_random(context.rng.random(), context.config.coap.shards);
    JobSpec { label, key, instance, package, method, activate, version, block_size, attempts }
}

fn digest(request: &UpdateRequest) -> Result<Option<ImageDigest>, UpdateRefusal> {
    let digest = request.sha256.as_deref().map(str::parse::<ImageDigest>).transpose();
    digest.map_err(|error| UpdateRefusal::bad(error.to_string()))
}
