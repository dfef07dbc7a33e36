//! What an application asks of a device, as a CoAP request, and what a CoAP response means for it.

use std::time::Duration;

use crate::coap::options::{format, number};
use crate::coap::{Code, Request, Response};

use super::codec::{self, Entry};
use super::link;
use super::model::Model;
use super::path::Path;
use super::register::Registration;
use super::value::Value;

/// A command in the terms of LwM2M, checked against the object definitions already. `query` are the items that the
/// application put behind the path.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Read {
        path: Path,
        query: Vec<String>,
    },
    Discover {
        path: Path,
        query: Vec<String>,
    },
    /// To an instance (partial update), a resource or a resource instance (replace). At most
    /// [`codec::tlv::MAX_LENGTH`] bytes of values in all.
    Write {
        path: Path,
        query: Vec<String>,
        values: Vec<Assignment>,
    },
    WriteAttributes {
        path: Path,
        query: Vec<String>,
        attributes: Vec<(&'static str, String)>,
    },
    Execute {
        path: Path,
        query: Vec<String>,
        arguments: String,
    },
    /// Of instances of one object; without values the device chooses. As long as those of a write.
    Create {
        path: Path,
        query: Vec<String>,
        values: Vec<Assignment>,
    },
    Delete {
        path: Path,
        query: Vec<String>,
    },
    Observe {
        path: Path,
        query: Vec<String>,
    },
    CancelObserve {
        path: Path,
        query: Vec<String>,
    },
}

/// A resource or resource instance, and its new value.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub path: Path,
    pub value: Value,
}

/// What to do with an entry of a payload that has no definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UndefinedResources {
    /// The answer is 4.00 with a reason.
    #[default]
    Refuse,
    /// Base64 text with `"type":"Opaque"`.
    Opaque,
}

/// What is needed to understand a device's response.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub registration: &'a Registration,
    pub model: &'a Model,
    pub undefined: UndefinedResources,
    /// Since 1970: relative times of SenML count from it.
    pub unix_time: Duration,
}

/// What the application is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The device's code, or 4.00 when its payload could not be understood.
    pub code: Code,
    pub content: Option<Content>,
    /// Why the gateway itself says so, in words.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// One entry for each resource or resource instance, in the order of the payload.
    Entries(Vec<Entry>),
    /// As the device wrote them.
    Links(Vec<String>),
}

impl Operation {
    pub fn path(&self) -> Path {
        match self {
            Self::Read { path, .. }
            | Self::Discover { path, .. }
            | Self::Write { path, .. }
            | Self::WriteAttributes { path, .. }
            | Self::Execute { path, .. }
            | Self::Create { path, .. }
            | Self::Delete { path, .. }
            | Self::Observe { path, .. }
            | Self::CancelObserve { path, .. } => *path,
        }
    }

    /// The request to the device, the alternate path in front; Observe 0 or 1 where it belongs.
    pub fn request(&self, registration: &Registration) -> Request {
        let mut request = Request::new(self.method());
        registration.alternate_segments().for_each(|segment| request.options.add_text(number::URI_PATH, segment));
        for id in self.path().segments() {
            request.options.add_text(number::URI_PATH, &id.to_string());
        }
        for item in self.query() {
            request.options.add_text(number::URI_QUERY, item);
        }
        match self {
            Self::Read { path, .. } => ask_for_format(&mut request, *path, registration),
            Self::Discover { .. } => request.options.add_uint(number::ACCEPT, format::LINK_FORMAT.into()),
            Self::Observe { .. } => request.options.add_uint(number::OBSERVE, 0),
            Self::CancelObserve { .. } => request.options.add_uint(number::OBSERVE, 1),
            Self::Write { path, values, .. } | Self::Create { path, values, .. } => {
                put_values(&mut request, *path, values, registration);
            }
            Self::Execute { arguments, .. } => put(&mut request, format::TEXT, arguments.as_bytes().to_vec()),
            Self::WriteAttributes { attributes, .. } => {
                for (name, value) in attributes {
                    request.options.add_text(number::URI_QUERY, &format!("{name}={value}"));
                }
            }
            Self::Delete { .. } => {}
        }
        request
    }

    /// What this response, or a notification of the observation that it began, means.
    pub fn outcome(&self, response: &Response, context: Context<'_>) -> Outcome {
        if response.code != Code::CONTENT {
            return Outcome { code: response.code, content: None, reason: None };
        }
        let content = match self {
            Self::Read { path, .. } | Self::Observe { path, .. } | Self::CancelObserve { path, .. } => {
                entries(*path, response, context).map(Some)
            }
            Self::Discover { .. } => links(response).map(Some),
            Self::Write { .. }
            | Self::WriteAttributes { .. }
            | Self::Execute { .. }
            | Self::Create { .. }
            | Self::Delete { .. } => Ok(None),
        };
        match content {
            Ok(content) => Outcome { code: response.code, content, reason: None },
            Err(reason) => Outcome { code: Code::BAD_REQUEST, content: None, reason: Some(reason) },
        }
    }

    fn method(&self) -> Code {
        match self {
            Self::Read { .. } | Self::Discover { .. } | Self::Observe { .. } | Self::CancelObserve { .. } => Code::GET,
            // LwM2M 1.0 section 5.4.3: POST adds to an instance, PUT replaces a resource.
            Self::Write { path, .. } if path.len() <= 2 => Code::POST,
            Self::Write { .. } | Self::WriteAttributes { .. } => Code::PUT,
            Self::Execute { .. } | Self::Create { .. } => Code::POST,
            Self::Delete { .. } => Code::DELETE,
        }
    }

    fn query(&self) -> &[String] {
        match self {
            Self::Read { query, .. }
            | Self::Discover { query, .. }
            | Self::Write { query, .. }
            | Self::WriteAttributes { query, .. }
            | Self::Execute { query, .. }
            | Self::Create { query, .. }
            | Self::Delete { query, .. }
            | Self::Observe { query, .. }
            | Self::CancelObserve { query, .. } => query,
        }
    }
}

/// A 1.0 device answers in its own format: the first version of LwM2M had drafts with other numbers.
fn ask_for_format(request: &mut Request, path: Path, registration: &Registration) {
    let announced = path.object().map_or(&[][..], |object| registration.object_formats(object));
    if !registration.is_1_1_or_newer() {
        return;
    }
    if let Some(best) = codec::best_to_read(path, announced) {
        request.options.add_uint(number::ACCEPT, best.into());
    }
}

fn put_values(request: &mut Request, path: Path, values: &[Assignment], registration: &Registration) {
    let announced = path.object().map_or(&[][..], |object| registration.object_formats(object));
    let announced = if registration.is_1_1_or_newer() { announced } else { &[] };
    let (chosen, payload) = codec::encode(path, values, announced);
    put(request, chosen, payload);
}

fn put(request: &mut Request, content_format: u16, payload: Vec<u8>) {
    request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
    request.payload = payload;
}

fn entries(path: Path, response: &Response, context: Context<'_>) -> Result<Content, String> {
    let content_format = content_format(response)?;
    let entries = codec::decode(path, content_format, &response.payload, context);
    entries.map(Content::Entries).map_err(|error| error.to_string())
}

fn links(response: &Response) -> Result<Content, String> {
    match content_format(response)? {
        None | Some(format::LINK_FORMAT) => {}
        Some(other) => return Err(format!("content format {other} has no links")),
    }
    let links = link::split(&response.payload).map_err(|error| error.to_string())?;
    Ok(Content::Links(links.into_iter().map(str::to_owned).collect()))
}

fn content_format(response: &Response) -> Result<Option<u16>, String> {
    let number = response.options.uint(number::CONTENT_FORMAT).map_err(|error| error.to_string())?;
    number.map(u16::try_from).transpose().map_err(|_| "the content format is no number of two bytes".to_owned())
}
