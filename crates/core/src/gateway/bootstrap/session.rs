//! A bootstrap session as a state machine without IO (OMA LwM2M Core 1.1 section 6.1): each answer of the device leads
//! to the next request, until the session has finished or failed.
//!
//! 1. Discover: GET `/`.
//! 2. Delete: DELETE of each path of the account.
//! 3. Write: PUT of the instances of the objects 0 and 1 of each server, and of further objects.
//! 4. Verify: GET `/1`, if the account asks for it.
//! 5. Finish: POST `/bs`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bootstrap::account::{Account, ServerAccount};
use crate::bootstrap::resources::{self, DeviceKey, SECURITY, SERVER};
use crate::bootstrap::secret::SecretBytes;
use crate::coap::options::{format, number};
use crate::coap::{Code, Request, Response};
use crate::lwm2m::codec::{self, Assignment};
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::model::Version;
use crate::lwm2m::path::Path;
use lwm2m_base::Peer;
use lwm2m_base::identity::PskIdentity;

use super::discovered::DiscoveredDevice;
use crate::gateway::report::BootstrapStep;

/// Issues the generated key of an identity; `None` if there are too many keys.
pub(super) type IssueKey<'a> = &'a mut dyn FnMut(&PskIdentity, bool) -> Option<SecretBytes>;

/// A session with one device. It may hold keys, so there is no `Debug`.
pub(super) struct Session {
    pub endpoint: Arc<str>,
    pub peer: Peer,
    account: Arc<Account>,
    format: ContentFormat,
    /// The step whose answer is awaited.
    step: BootstrapStep,
    /// The later steps, each with its request.
    rest: VecDeque<(BootstrapStep, Request)>,
    /// The resources of the object 1 that were written.
    written: Vec<Assignment>,
    /// The identities of the generated keys that are written.
    generated: Vec<PskIdentity>,
}

/// The next action after an answer of the device.
pub(super) enum SessionProgress {
    /// Send the next request.
    Send(Request),
    /// Compare the answer to Verify with the written values, then send the next request.
    Compare(Request),
    Finished,
    Failed {
        code: Option<Code>,
        reason: String,
    },
}

/// The reason why an account cannot be written to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error("the identity of the account is longer than 255 bytes for this endpoint name")]
    Identity,
    #[error("security_instance of the account is the instance of the device's bootstrap account")]
    BootstrapAccount,
    #[error("the limit of generated keys is reached (bootstrap.generated_keys)")]
    TooManyKeys,
}

impl Session {
    /// Begins a session, and returns it with its first request. `format` is the format that the device prefers. With
    /// `must_discover` the session begins with a Discover even if the account does not ask for one.
    pub(super) fn begin(
        (endpoint, peer): (Arc<str>, Peer),
        account: Arc<Account>,
        format: Option<ContentFormat>,
        must_discover: bool,
        issue: IssueKey<'_>,
    ) -> Result<(Self, Request), PlanError> {
        let format = format.or(account.format).unwrap_or(ContentFormat::Tlv);
        let discovers = account.discover || must_discover;
        let mut session = Self {
            endpoint,
            peer,
            account,
            format,
            step: BootstrapStep::Discover,
            rest: VecDeque::new(),
            written: Vec::new(),
            generated: Vec::new(),
        };
        if discovers {
            return Ok((session, discover()));
        }
        session.plan(DiscoveredDevice::default(), issue)?;
        let request = session.advance().unwrap_or_else(finish);
        Ok((session, request))
    }

    /// Takes the answer to the request of the current step.
    pub(super) fn answered(&mut self, response: &Response, issue: IssueKey<'_>) -> SessionProgress {
        let code = response.code;
        match self.step {
            BootstrapStep::Discover => self.discovered(response, issue),
            // OMA LwM2M Core 1.1 section 6.1.6.4: a missing instance need not be deleted.
            BootstrapStep::Delete(_) if code == Code::DELETED || code == Code::NOT_FOUND => self.proceed(),
            // Some clients answer the write of a new instance like a create.
            BootstrapStep::Write(_) if code == Code::CHANGED || code == Code::CREATED => self.proceed(),
            BootstrapStep::Verify if code == Code::CONTENT => {
                let next = self.advance();
                next.map_or(SessionProgress::Finished, SessionProgress::Compare)
            }
            // LwM2M 1.0 has no Bootstrap-Read.
            BootstrapStep::Verify if code == Code::METHOD_NOT_ALLOWED => self.proceed(),
            BootstrapStep::Finish if code == Code::CHANGED => SessionProgress::Finished,
            BootstrapStep::Finish if code == Code::BAD_REQUEST || code == Code::NOT_ACCEPTABLE => {
                refused(code, "the device found the account inconsistent")
            }
            BootstrapStep::Delete(_) | BootstrapStep::Write(_) | BootstrapStep::Verify | BootstrapStep::Finish => {
                refused(code, "the device refused the request")
            }
        }
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    pub(super) fn step(&self) -> BootstrapStep {
        self.step
    }

    pub(super) fn format(&self) -> ContentFormat {
        self.format
    }

    /// Returns the resources of the object 1 that were written.
    pub(super) fn written(&self) -> &[Assignment] {
        &self.written
    }

    /// Returns the identities of the generated keys that the session writes.
    pub(super) fn generated(&self) -> &[PskIdentity] {
        &self.generated
    }

    fn discovered(&mut self, response: &Response, issue: IssueKey<'_>) -> SessionProgress {
        let device = match response.code {
            Code::CONTENT => match DiscoveredDevice::read(&response.payload) {
                Ok(device) => device,
                Err(error) => return SessionProgress::Failed { code: Some(response.code), reason: error.to_string() },
            },
            // In LwM2M 1.0 Discover is optional, and some clients do not have it at all.
            Code::NOT_FOUND | Code::METHOD_NOT_ALLOWED | Code::NOT_IMPLEMENTED => DiscoveredDevice::default(),
            other => return refused(other, "the device refused the request"),
        };
        match self.plan(device, issue) {
            Ok(()) => self.proceed(),
            Err(error) => SessionProgress::Failed { code: None, reason: error.to_string() },
        }
    }

    /// Moves to the next step.
    fn proceed(&mut self) -> SessionProgress {
        self.advance().map_or(SessionProgress::Finished, SessionProgress::Send)
    }

    fn advance(&mut self) -> Option<Request> {
        let (step, request) = self.rest.pop_front()?;
        self.step = step;
        Some(request)
    }

    /// Plans the steps after Discover.
    fn plan(&mut self, mut device: DiscoveredDevice, issue: IssueKey<'_>) -> Result<(), PlanError> {
        let account = Arc::clone(&self.account);
        device.delete(&account.delete);
        for path in &account.delete {
            self.rest.push_back((BootstrapStep::Delete(*path), request(Code::DELETE, *path)));
        }
        self.generated = account.generated_identities(&self.endpoint);
        let has_1_1 = has_1_1(self.format, device.version);
        for (instance, values) in instances(&account, &self.endpoint, &mut device, has_1_1, issue)? {
            if instance.object() == Some(SERVER) {
                self.written.extend(values.iter().cloned());
            }
            self.rest.push_back((BootstrapStep::Write(instance), write(self.format, instance, &values)));
        }
        if account.verify {
            self.rest.push_back((BootstrapStep::Verify, verify(self.format)));
        }
        self.rest.push_back((BootstrapStep::Finish, finish()));
        Ok(())
    }
}

/// Returns a Bootstrap-Pack (OMA LwM2M Core 1.2 section 6.1.8): all instances of an account in one payload. The
/// instances of the device's accounts are unknown, so the first instances of the object 0 are left to its bootstrap
/// account.
pub(super) fn pack(
    account: &Account,
    endpoint: &str,
    format: ContentFormat,
    issue: IssueKey<'_>,
) -> Result<Vec<u8>, PlanError> {
    let instances = instances(account, endpoint, &mut DiscoveredDevice::not_asked(), true, issue)?;
    let values = instances.into_iter().flat_map(|(_, values)| values);
    let patches: Vec<codec::Patch> =
        values.map(|Assignment { path, value }| codec::Patch { path, value: Some(value) }).collect();
    Ok(codec::encode_patches(format, "", &patches))
}

/// Returns the instances that an account writes, in their order, with their resources.
fn instances(
    account: &Account,
    endpoint: &str,
    device: &mut DiscoveredDevice,
    has_1_1: bool,
    issue: IssueKey<'_>,
) -> Result<Vec<(Path, Vec<Assignment>)>, PlanError> {
    let mut instances = Vec::new();
    // The fixed places are taken first, so that no other server gets one of them.
    for server in &account.servers {
        if let Some(instance) = server.security_instance {
            device.accounts.retain(|_, id| *id != Some(server.short_server_id));
            if device.accounts.insert(instance, Some(server.short_server_id)) == Some(None) {
                return Err(PlanError::BootstrapAccount);
            }
        }
    }
    for (server, position) in account.servers.iter().zip(0..) {
        let place = device.place(server.short_server_id);
        let key = device_key(server, endpoint, account.rotate, issue)?;
        let security = resources::security(server, place, key.as_ref()).ok_or(PlanError::Identity)?;
        instances.push((path(SECURITY, place), security));
        instances.push((path(SERVER, position), resources::server(server, position, has_1_1)));
    }
    instances.extend(account.objects.iter().map(|object| (object.path, object.values.clone())));
    Ok(instances)
}

fn device_key(
    server: &ServerAccount,
    endpoint: &str,
    rotate: bool,
    issue: IssueKey<'_>,
) -> Result<Option<DeviceKey>, PlanError> {
    let Some((identity, given)) = server.key() else { return Ok(None) };
    let identity = identity.of(endpoint).ok_or(PlanError::Identity)?;
    let secret = match given {
        Some(given) => given.clone(),
        None => issue(&identity, rotate).ok_or(PlanError::TooManyKeys)?,
    };
    Ok(Some(DeviceKey { identity, secret }))
}

/// Returns whether the device has the resources of LwM2M 1.1: it says so, or it prefers a format of that version.
fn has_1_1(format: ContentFormat, version: Option<Version>) -> bool {
    format != ContentFormat::Tlv || version.is_some_and(|version| version >= Version::LWM2M_1_1)
}

fn path(object: u16, instance: u16) -> Path {
    Path::of(&[object, instance]).unwrap_or_default()
}

fn refused(code: Code, reason: &str) -> SessionProgress {
    SessionProgress::Failed { code: Some(code), reason: reason.to_owned() }
}

fn request(method: Code, path: Path) -> Request {
    let mut request = Request::new(method);
    for segment in path.segments() {
        request.options.add_text(number::URI_PATH, &segment.to_string());
    }
    request
}

fn discover() -> Request {
    let mut discover = request(Code::GET, Path::ROOT);
    discover.options.add_uint(number::ACCEPT, format::LINK_FORMAT.into());
    discover
}

fn write(format: ContentFormat, instance: Path, values: &[Assignment]) -> Request {
    let mut write = request(Code::PUT, instance);
    write.options.add_uint(number::CONTENT_FORMAT, format.number().into());
    write.payload = codec::encode(format, "", instance, values);
    write
}

fn verify(format: ContentFormat) -> Request {
    let mut verify = request(Code::GET, path_of_servers());
    verify.options.add_uint(number::ACCEPT, format.number().into());
    verify
}

/// Returns the path that Verify reads.
pub(super) fn path_of_servers() -> Path {
    Path::of(&[SERVER]).unwrap_or_default()
}

fn finish() -> Request {
    let mut finish = Request::new(Code::POST);
    finish.options.add_text(number::URI_PATH, super::request::PATH);
    finish
}
