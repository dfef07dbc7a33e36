//! Operations of applications on devices: their CoAP requests, and the answers that follow from CoAP responses.

use crate::coap::options::{format, number};
use crate::coap::{Code, Request, Response};

use super::codec::{self, Assignment, DecodeContext, Entry};
use super::link;
use super::path::Path;
use super::register::Registration;

/// Describes what an application wants from a device. The object definitions have been applied to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Addresses the object, instance, resource or resource instance, below the alternate path of the device.
    pub path: Path,
    /// Keeps the query items that the application wrote behind the path.
    pub query: Vec<String>,
    pub kind: OperationKind,
}

/// Distinguishes the operations of the device management and information reporting interfaces (LwM2M 1.1 sections 6.3 and
/// 6.4).
#[derive(Clone, Debug, PartialEq)]
pub enum OperationKind {
    Read,
    Discover,
    /// Writes to an instance (partial update), a resource or a resource instance (replace). The values have at most
    /// [`codec::tlv::MAX_LENGTH`] bytes in all.
    Write {
        values: Vec<Assignment>,
    },
    WriteAttributes {
        attributes: Vec<(&'static str, String)>,
    },
    Execute {
        arguments: String,
    },
    /// Creates instances of one object. The device chooses the instance id if there are no values. The limit on their
    /// length is that of a write.
    Create {
        values: Vec<Assignment>,
    },
    Delete,
    Observe,
    CancelObserve,
}

/// Describes the answer to the application.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Holds the response code of the device, or 4.00 if its payload cannot be decoded.
    pub code: Code,
    pub content: Option<Content>,
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
        Self { path, query, kind }
    }

    /// Returns the request to the device. Its path begins with the alternate path.
    pub fn request(&self, registration: &Registration) -> Request {
        let mut request = self.request_without_values(registration);
        if let OperationKind::Write { values } | OperationKind::Create { values } = &self.kind {
            let content_format = format_to_write(self.path, values, registration);
            put(&mut request, content_format, codec::encode(self.path, values, content_format));
        }
        request
    }

    /// Returns the request to send after the device rejected the format of the first one (4.15): it has a single Opaque
    /// value as TLV instead of its bytes, or the other way round. Returns `None` if there is no other format.
    pub fn request_in_other_format(&self, registration: &Registration) -> Option<Request> {
        let OperationKind::Write { values } = &self.kind else { return None };
        if !codec::is_single_opaque(self.path, values) {
            return None;
        }
        let content_format = match format_to_write(self.path, values, registration) {
            format::OCTET_STREAM => format::TLV,
            _ => format::OCTET_STREAM,
        };
        let mut request = self.request_without_values(registration);
        put(&mut request, content_format, codec::encode(self.path, values, content_format));
        Some(request)
    }

    fn request_without_values(&self, registration: &Registration) -> Request {
        let mut request = Request::new(self.method());
        registration.alternate_segments().for_each(|segment| request.options.add_text(number::URI_PATH, segment));
        for id in self.path.segments() {
            request.options.add_text(number::URI_PATH, &id.to_string());
        }
        for item in &self.query {
            request.options.add_text(number::URI_QUERY, item);
        }
        match &self.kind {
            OperationKind::Read => ask_for_format(&mut request, self.path, registration),
            OperationKind::Discover => request.options.add_uint(number::ACCEPT, format::LINK_FORMAT.into()),
            OperationKind::Observe => {
                request.options.add_uint(number::OBSERVE, 0);
                ask_for_format(&mut request, self.path, registration);
            }
            OperationKind::CancelObserve => {
                request.options.add_uint(number::OBSERVE, 1);
                ask_for_format(&mut request, self.path, registration);
            }
            OperationKind::Execute { arguments } => put(&mut request, format::TEXT, arguments.as_bytes().to_vec()),
            OperationKind::WriteAttributes { attributes } => {
                for (name, value) in attributes {
                    request.options.add_text(number::URI_QUERY, &format!("{name}={value}"));
                }
            }
            OperationKind::Write { .. } | OperationKind::Create { .. } | OperationKind::Delete => {}
        }
        request
    }

    /// Returns the answer that follows from a response, or from a notification of the observation.
    pub fn outcome(&self, response: &Response, context: DecodeContext<'_>) -> Outcome {
        if response.code != Code::CONTENT {
            return Outcome { code: response.code, content: None, reason: None };
        }
        let content = match self.kind {
            OperationKind::Read | OperationKind::Observe | OperationKind::CancelObserve => {
                entries(self.path, response, context).map(|content| (Some(content), None))
            }
            OperationKind::Discover => links(response).map(|(content, left_out)| (Some(content), left_out)),
            OperationKind::Write { .. }
            | OperationKind::WriteAttributes { .. }
            | OperationKind::Execute { .. }
            | OperationKind::Create { .. }
            | OperationKind::Delete => Ok((None, None)),
        };
        match content {
            Ok((content, reason)) => Outcome { code: response.code, content, reason },
            Err(reason) => Outcome { code: Code::BAD_REQUEST, content: None, reason: Some(reason) },
        }
    }

    fn method(&self) -> Code {
        match &self.kind {
            OperationKind::Read | OperationKind::Discover | OperationKind::Observe | OperationKind::CancelObserve => {
                Code::GET
            }
            // LwM2M 1.0 section 5.4.3: POST adds to an instance, PUT replaces a resource.
            OperationKind::Write { .. } if self.path.len() <= 2 => Code::POST,
            OperationKind::Write { .. } | OperationKind::WriteAttributes { .. } => Code::PUT,
            OperationKind::Execute { .. } | OperationKind::Create { .. } => Code::POST,
            OperationKind::Delete => Code::DELETE,
        }
    }
}

/// Adds the Accept option for the best format that the device announced. A 1.0 device chooses its format itself: drafts of
/// LwM2M 1.0 had other numbers for the formats.
fn ask_for_format(request: &mut Request, path: Path, registration: &Registration) {
    let announced = path.object().map_or(&[][..], |object| registration.object_formats(object));
    if !registration.is_1_1_or_newer() {
        return;
    }
    if let Some(best) = codec::best_to_read(path, announced) {
        request.options.add_uint(number::ACCEPT, best.into());
    }
}

/// Returns the format in which to write: TLV for a 1.0 device, whatever it announced. The bytes of an Opaque value are sent
/// as they are to a device that announced octet-stream, and to a 1.1 device that announced nothing, which must support it
/// (LwM2M 1.1 section 7.4): some clients cannot read base64url, and it makes a firmware image a third larger.
fn format_to_write(path: Path, values: &[Assignment], registration: &Registration) -> u16 {
    let announced = path.object().map_or(&[][..], |object| registration.object_formats(object));
    let modern = registration.is_1_1_or_newer();
    let opaque = codec::is_single_opaque(path, values);
    let takes_bytes = announced.contains(&format::OCTET_STREAM) || (modern && announced.is_empty());
    match (opaque && takes_bytes, modern) {
        (true, _) => format::OCTET_STREAM,
        (false, true) => codec::best_to_write(path, values, announced),
        (false, false) => format::TLV,
    }
}

fn put(request: &mut Request, content_format: u16, payload: Vec<u8>) {
    request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
    request.payload = payload;
}

fn entries(path: Path, response: &Response, context: DecodeContext<'_>) -> Result<Content, String> {
    let content_format = content_format(response)?;
    let entries = codec::decode(path, content_format, &response.payload, context);
    entries.map(Content::Entries).map_err(|error| error.to_string())
}

/// Returns the links, and the count of what could not be read. Some devices declare their list as plain text.
fn links(response: &Response) -> Result<(Content, Option<String>), String> {
    match content_format(response)? {
        None | Some(format::LINK_FORMAT | format::TEXT | format::LEGACY_TEXT) => {}
        Some(other) => return Err(format!("content format {other} has no links")),
    }
    let list = link::parse(&response.payload).map_err(|error| error.to_string())?;
    let links = list.links.into_iter().map(|link| link.text.into_owned()).collect();
    Ok((Content::Links(links), list.left_out.map(|left_out| left_out.to_string())))
}

fn content_format(response: &Response) -> Result<Option<u16>, String> {
    let number = response.options.uint(number::CONTENT_FORMAT).map_err(|error| error.to_string())?;
    number.map(u16::try_from).transpose().map_err(|_| "the content format is no number of two bytes".to_owned())
}

#[cfg(test)]
mod tests;
