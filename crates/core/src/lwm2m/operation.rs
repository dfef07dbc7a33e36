//! Operations of applications on devices: their CoAP requests, and the answers that follow from CoAP responses.

use crate::coap::options::number;
use crate::coap::{Code, Request, Response};

use super::codec::{self, Assignment, DecodeContext, Entry, Patch, Requested};
use super::content_format::ContentFormat;
use super::formats::Formats;
use super::link;
use super::path::Path;
use super::register::Registration;

/// Describes what an application wants from a device. The object definitions have been applied to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Addresses the object, instance, resource or resource instance, below the alternate path of the device. It is the
    /// root for composite operations.
    pub path: Path,
    /// Keeps the query items: those that the application wrote behind the path, then attributes and others.
    pub query: Vec<String>,
    pub kind: OperationKind,
    pub formats: Formats,
}

/// Distinguishes the operations of the device management and information reporting interfaces (LwM2M 1.2 sections 6.3
/// and 6.4).
#[derive(Clone, Debug, PartialEq)]
pub enum OperationKind {
    Read,
    Discover,
    /// Writes to an instance, a resource or a resource instance. The values have at most `codec::tlv::MAX_LENGTH`
    /// bytes in all.
    Write {
        values: Vec<Assignment>,
        mode: WriteMode,
    },
    /// Sets the attributes that are items of the query.
    WriteAttributes,
    Execute {
        arguments: String,
    },
    /// Executes a bootstrap trigger: the device asks for bootstrap afterwards (LwM2M 1.1 appendix E.2).
    TriggerBootstrap,
    /// Creates instances of one object. The limit on the length of the values is that of a write.
    Create {
        values: Vec<Assignment>,
        /// Tells that the paths of the values have the instance id 0 in the place of one that the device will choose.
        device_chooses_id: bool,
    },
    Delete,
    Observe,
    CancelObserve,
    ReadComposite {
        paths: Vec<Path>,
    },
    WriteComposite {
        patches: Vec<Patch>,
    },
    ObserveComposite {
        paths: Vec<Path>,
    },
    CancelObserveComposite {
        paths: Vec<Path>,
    },
}

/// Tells what a write does to the resources, or the resource instances, that it does not name (LwM2M 1.1 section
/// 6.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Keeps them.
    Update,
    /// Removes them.
    Replace,
}

/// Describes the answer to the application.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Holds the response code of the device, or 4.00 if its payload cannot be decoded.
    pub code: Code,
    pub content: Option<Content>,
    /// Holds the path of a created instance, as the device named it.
    pub location: Option<String>,
    /// Explains a code that the gateway set itself, or names what the content omits.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Holds one entry for each resource or resource instance, in the order of the payload.
    Entries(Vec<Entry>),
    /// Holds the links as the device wrote them.
    Links(Vec<String>),
}

impl Operation {
    pub fn new(path: Path, query: Vec<String>, kind: OperationKind) -> Self {
        Self { path, query, kind, formats: Formats::default() }
    }

    /// Returns the same operation with the formats that the command names.
    pub(crate) fn with_formats(self, formats: Formats) -> Self {
        Self { formats, ..self }
    }

    /// Returns the request to the device in these formats. Its path begins with the alternate path.
    pub fn request_in(&self, formats: Formats, registration: &Registration) -> Request {
        let mut request = Request::new(self.method());
        registration.alternate_segments().for_each(|segment| request.options.add_text(number::URI_PATH, segment));
        for id in self.path.segments() {
            request.options.add_text(number::URI_PATH, &id.to_string());
        }
        for item in &self.query {
            request.options.add_text(number::URI_QUERY, item);
        }
        if let Some(observe) = self.kind.observe() {
            request.options.add_uint(number::OBSERVE, observe);
        }
        if let Some(accept) = formats.accept {
            request.options.add_uint(number::ACCEPT, accept.number().into());
        }
        if let Some(format) = formats.format {
            request.options.add_uint(number::CONTENT_FORMAT, format.number().into());
            request.payload = self.payload(format, &registration.alternate_prefix());
        }
        request
    }

    /// Returns the answer that follows from a response, or from a notification of the observation.
    pub fn outcome(&self, response: &Response, context: DecodeContext<'_>) -> Outcome {
        if response.code == Code::CREATED && matches!(self.kind, OperationKind::Create { .. }) {
            let location = location(response, context.registration);
            return Outcome { location, ..Outcome::of(response.code) };
        }
        if response.code != Code::CONTENT {
            return Outcome::of(response.code);
        }
        let content = match &self.kind {
            OperationKind::Read | OperationKind::Observe | OperationKind::CancelObserve => {
                entries(Requested::Path(self.path), response, context).map(|content| (Some(content), None))
            }
            OperationKind::ReadComposite { paths }
            | OperationKind::ObserveComposite { paths }
            | OperationKind::CancelObserveComposite { paths } => {
                entries(Requested::Paths(paths), response, context).map(|content| (Some(content), None))
            }
            OperationKind::Discover => links(response).map(|(content, left_out)| (Some(content), left_out)),
            OperationKind::Write { .. }
            | OperationKind::WriteAttributes
            | OperationKind::Execute { .. }
            | OperationKind::TriggerBootstrap
            | OperationKind::Create { .. }
            | OperationKind::Delete
            | OperationKind::WriteComposite { .. } => Ok((None, None)),
        };
        match content {
            Ok((content, reason)) => Outcome { content, reason, ..Outcome::of(response.code) },
            Err(reason) => Outcome::refused(reason),
        }
    }

    fn payload(&self, format: ContentFormat, alternate_path: &str) -> Vec<u8> {
        match &self.kind {
            OperationKind::Write { values, .. } => codec::encode(format, alternate_path, self.path, values),
            OperationKind::Create { values, device_chooses_id } => {
                // Resources without an instance around them: TLV alone can say it.
                let unnamed = if *device_chooses_id { self.path.child(0) } else { None };
                codec::encode(format, alternate_path, unnamed.unwrap_or(self.path), values)
            }
            OperationKind::Execute { arguments } => arguments.as_bytes().to_vec(),
            OperationKind::ReadComposite { paths }
            | OperationKind::ObserveComposite { paths }
            | OperationKind::CancelObserveComposite { paths } => codec::encode_paths(format, alternate_path, paths),
            OperationKind::WriteComposite { patches } => codec::encode_patches(format, alternate_path, patches),
            OperationKind::Read
            | OperationKind::Discover
            | OperationKind::WriteAttributes
            | OperationKind::TriggerBootstrap
            | OperationKind::Delete
            | OperationKind::Observe
            | OperationKind::CancelObserve => Vec::new(),
        }
    }

    fn method(&self) -> Code {
        match &self.kind {
            OperationKind::Read | OperationKind::Discover | OperationKind::Observe | OperationKind::CancelObserve => {
                Code::GET
            }
            OperationKind::Write { mode: WriteMode::Update, .. } => Code::POST,
            OperationKind::Write { mode: WriteMode::Replace, .. } | OperationKind::WriteAttributes => Code::PUT,
            OperationKind::Execute { .. } | OperationKind::TriggerBootstrap | OperationKind::Create { .. } => {
                Code::POST
            }
            OperationKind::Delete => Code::DELETE,
            OperationKind::ReadComposite { .. }
            | OperationKind::ObserveComposite { .. }
            | OperationKind::CancelObserveComposite { .. } => Code::FETCH,
            OperationKind::WriteComposite { .. } => Code::IPATCH,
        }
    }
}

impl OperationKind {
    /// Returns whether the operation is one of those on a list of paths (LwM2M 1.1 sections 6.3.8 to 6.3.10).
    pub fn is_composite(&self) -> bool {
        match self {
            Self::ReadComposite { .. }
            | Self::WriteComposite { .. }
            | Self::ObserveComposite { .. }
            | Self::CancelObserveComposite { .. } => true,
            Self::Read
            | Self::Discover
            | Self::Write { .. }
            | Self::WriteAttributes
            | Self::Execute { .. }
            | Self::TriggerBootstrap
            | Self::Create { .. }
            | Self::Delete
            | Self::Observe
            | Self::CancelObserve => false,
        }
    }

    /// Returns the paths of a composite observation that the operation begins or cancels.
    pub fn observed_paths(&self) -> Option<&[Path]> {
        match self {
            Self::ObserveComposite { paths } | Self::CancelObserveComposite { paths } => Some(paths),
            Self::Read
            | Self::Discover
            | Self::Write { .. }
            | Self::WriteAttributes
            | Self::Execute { .. }
            | Self::TriggerBootstrap
            | Self::Create { .. }
            | Self::Delete
            | Self::Observe
            | Self::CancelObserve
            | Self::ReadComposite { .. }
            | Self::WriteComposite { .. } => None,
        }
    }

    /// Returns whether the operation sends values that need a format for several of them.
    pub(super) fn has_several_values(&self, target: Path) -> bool {
        match self {
            Self::Write { values, .. } | Self::Create { values, .. } => {
                !matches!(&values[..], [one] if one.path == target)
            }
            Self::Read
            | Self::Discover
            | Self::WriteAttributes
            | Self::Execute { .. }
            | Self::TriggerBootstrap
            | Self::Delete
            | Self::Observe
            | Self::CancelObserve
            | Self::ReadComposite { .. }
            | Self::WriteComposite { .. }
            | Self::ObserveComposite { .. }
            | Self::CancelObserveComposite { .. } => false,
        }
    }

    /// Returns the value of the Observe option (RFC 7641 section 2).
    fn observe(&self) -> Option<u32> {
        match self {
            Self::Observe | Self::ObserveComposite { .. } => Some(0),
            Self::CancelObserve | Self::CancelObserveComposite { .. } => Some(1),
            Self::Read
            | Self::Discover
            | Self::Write { .. }
            | Self::WriteAttributes
            | Self::Execute { .. }
            | Self::TriggerBootstrap
            | Self::Create { .. }
            | Self::Delete
            | Self::ReadComposite { .. }
            | Self::WriteComposite { .. } => None,
        }
    }
}

impl Outcome {
    /// Returns the answer that has nothing but the code of the device.
    pub fn of(code: Code) -> Self {
        Self { code, content: None, location: None, reason: None }
    }

    /// Returns the answer 4.00 of the gateway itself.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::of(Code::BAD_REQUEST) }
    }
}

fn entries(requested: Requested<'_>, response: &Response, context: DecodeContext<'_>) -> Result<Content, String> {
    let content_format = content_format(response)?;
    let entries = codec::decode(requested, content_format, &response.payload, context);
    entries.map(Content::Entries).map_err(|error| error.to_string())
}

/// Returns the links, and the count of what could not be read. Some devices declare their list as plain text.
fn links(response: &Response) -> Result<(Content, Option<String>), String> {
    let format = content_format(response)?;
    match format.map(|number| (number, ContentFormat::from_device(number))) {
        None | Some((_, Some(ContentFormat::Link | ContentFormat::Text))) => {}
        Some((number, _)) => return Err(format!("content format {number} has no links")),
    }
    let list = link::parse(&response.payload).map_err(|error| error.to_string())?;
    let links = list.links.into_iter().map(|link| link.text.into_owned()).collect();
    Ok((Content::Links(links), list.left_out.map(|left_out| left_out.to_string())))
}

/// Returns the Location-Path without the alternate path, or `None` for one that is empty or no text.
fn location(response: &Response, registration: &Registration) -> Option<String> {
    let segments = response.options.texts(number::LOCATION_PATH).ok().filter(|segments| !segments.is_empty())?;
    let path: String = segments.into_iter().map(|segment| format!("/{segment}")).collect();
    Some(registration.without_alternate_path(&path).to_owned())
}

fn content_format(response: &Response) -> Result<Option<u16>, String> {
    let number = response.options.uint(number::CONTENT_FORMAT).map_err(|error| error.to_string())?;
    number.map(u16::try_from).transpose().map_err(|_| "the content format is not a number of two bytes".to_owned())
}

#[cfg(test)]
mod tests;
