//! Reads the values in the payload of a traced message, and decides whether they may be shown.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::console::hide::HiddenPaths;
use lwm2m_core::coap::Message;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::gateway::operators::trace::{Direction, TracedSubject};
use lwm2m_core::lwm2m::codec::{self, DecodeContext, DecodeError, Entry, Requested, UndefinedResources};
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::number::whole_of;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::lwm2m::value::Value;

/// The object Firmware Update, and its resource with the URI of the image.
const FIRMWARE_UPDATE: u16 = 5;
const PACKAGE_URI: u16 = 1;

/// Maximum number of values of one payload.
const ENTRIES: usize = 256;

/// Whether a payload is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PayloadRule {
    Shown,
    Covered,
    /// The subject of the payload is not known: it is shown if the same message was shown before.
    ShownAgain,
}

/// A message with what is needed to read its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readable<'a> {
    pub message: &'a Message,
    pub subject: &'a TracedSubject,
    pub model: &'a Model,
    /// The time of the message, since 1970.
    pub at: Duration,
}

/// A value of a payload.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct EntryDocument {
    #[schema(value_type = String, example = "/3303/0/5700")]
    path: Path,
    /// Name of the resource; absent if it has no definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Sensor Value")]
    name: Option<String>,
    /// The value as in the messages of MQTT: Opaque in base64.
    #[schema(value_type = serde_json::Value)]
    value: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Cel")]
    units: Option<String>,
}

/// Tells whether the payload of a message may be shown. A payload in which any value may be one of a hidden path is
/// covered.
pub(crate) fn payload_rule(
    (direction, message): (Direction, Option<&Message>),
    subject: Option<&TracedSubject>,
    (hidden, model, at): (&HiddenPaths, &Model, Duration),
) -> PayloadRule {
    if let (Some(message), Some(subject)) = (message, subject)
        && (Readable { message, subject, model, at }).may_have_part_of_key()
    {
        return PayloadRule::Covered;
    }
    if let (Some(message), None) = (message, subject)
        && is_part(message)
        && (direction == Direction::In) == message.code.is_response()
    {
        // A block of something that the gateway has asked or written, which is not known any more: it may be a part of
        // the URI of an image, too.
        return PayloadRule::Covered;
    }
    if !hidden.may_cover(&Path::ROOT) {
        return PayloadRule::Shown;
    }
    let Some(message) = message else { return PayloadRule::Covered };
    if message.payload.is_empty() {
        return PayloadRule::Shown;
    }
    match (direction, message.code.is_request(), subject) {
        (_, _, Some(subject)) => Readable { message, subject, model, at }.rule(hidden),
        (Direction::In, true, None) if is_registration(message) => PayloadRule::Shown,
        (Direction::In, true, None) => PayloadRule::Covered,
        // An answer of the gateway has a diagnostic text, or the links of its own resources.
        (Direction::Out, false, None) => match message.options.content_format() {
            None | Some(format::LINK_FORMAT) => PayloadRule::Shown,
            Some(_) => PayloadRule::Covered,
        },
        (Direction::In, false, None) | (Direction::Out, true, None) => PayloadRule::ShownAgain,
    }
}

impl Readable<'_> {
    /// Returns the values of the payload; `None` if it has none, or if they cannot be decoded.
    pub(super) fn entries(self) -> Option<Vec<EntryDocument>> {
        let has_values = !self.message.payload.is_empty() && !self.is_diagnostic() && !self.is_part();
        let entries = self.decode().ok().filter(|_| has_values)?;
        Some(entries.into_iter().map(|entry| self.document(entry)).collect())
    }

    fn rule(self, hidden: &HiddenPaths) -> PayloadRule {
        let paths = &self.subject.paths;
        if paths.iter().any(|path| hidden.covers(path)) {
            return PayloadRule::Covered;
        }
        if self.is_diagnostic() || self.message.options.content_format() == Some(format::LINK_FORMAT) {
            return PayloadRule::Shown;
        }
        let has_hidden = |entries: &[Entry]| entries.iter().any(|entry| hidden.covers(&entry.path));
        if paths.is_empty() || paths.iter().any(|path| hidden.may_cover(path)) {
            return match self.decode() {
                Ok(entries) if !self.is_part() && !has_hidden(&entries) => PayloadRule::Shown,
                Ok(_) | Err(_) => PayloadRule::Covered,
            };
        }
        // A device may name other paths than those of the request.
        let elsewhere = self.decode_as(Requested::Paths(&[Path::ROOT]));
        if elsewhere.is_ok_and(|entries| has_hidden(&entries)) { PayloadRule::Covered } else { PayloadRule::Shown }
    }

    fn decode(self) -> Result<Vec<Entry>, DecodeError> {
        let TracedSubject { paths, is_composite, .. } = self.subject;
        match paths.as_slice() {
            [path] if !is_composite => self.decode_as(Requested::Path(*path)),
            paths => self.decode_as(Requested::Paths(paths)),
        }
    }

    fn decode_as(self, requested: Requested<'_>) -> Result<Vec<Entry>, DecodeError> {
        let Self { message, subject, model, at } = self;
        let context = DecodeContext {
            registration: &subject.registration,
            model,
            undefined: UndefinedResources::Opaque,
            unix_time: at,
            max_entries: ENTRIES,
        };
        codec::decode(requested, message.options.content_format(), &message.payload, context)
    }

    /// Returns whether the payload is the text of an error.
    fn is_diagnostic(self) -> bool {
        self.message.code.is_response() && !self.message.code.is_success()
    }

    /// Returns whether the payload is a block that may have a part of the URI of a firmware image, in which the key is
    /// not recognised.
    fn may_have_part_of_key(self) -> bool {
        let may_have = |path: &Path| match *path.segments() {
            [] => true,
            [object] | [object, _] => object == FIRMWARE_UPDATE,
            [object, _, resource, ..] => object == FIRMWARE_UPDATE && resource == PACKAGE_URI,
        };
        let has_links = self.message.options.content_format() == Some(format::LINK_FORMAT);
        self.is_part() && !has_links && self.subject.paths.iter().any(may_have)
    }

    fn is_part(self) -> bool {
        is_part(self.message)
    }

    fn document(self, entry: Entry) -> EntryDocument {
        let path = entry.path;
        let definition = path.object().zip(path.resource()).and_then(|(object, resource)| {
            self.model.resource(object, self.subject.registration.object_version(object), resource)
        });
        EntryDocument {
            path,
            name: definition.map(|definition| definition.name.clone()),
            value: json(entry.value),
            units: definition.map(|definition| definition.units.clone()).filter(|units| !units.is_empty()),
        }
    }
}

/// Returns whether the payload is a block of a larger body (RFC 7959): the first one has number 0 and a mark that more
/// follow.
fn is_part(message: &Message) -> bool {
    let block = |number| message.options.uint(number).unwrap_or(Some(u32::MAX));
    [number::BLOCK1, number::BLOCK2].into_iter().filter_map(block).any(|block| block >> 3 != 0)
}

/// Returns whether this is a Register, an Update or a De-register.
fn is_registration(message: &Message) -> bool {
    message.options.first(number::URI_PATH) == Some(b"rd")
        && message.options.all(number::URI_PATH).count() <= 2
        && message.options.content_format().is_none_or(|format| format == format::LINK_FORMAT)
}

fn json(value: Value) -> Json {
    match value {
        Value::String(text) | Value::CoreLink(text) => text.into(),
        Value::Integer(value) | Value::Time(value) => value.into(),
        Value::UnsignedInteger(value) => value.into(),
        Value::Float(value) => whole_of(value).map_or_else(|| value.into(), Json::from),
        Value::Boolean(value) => value.into(),
        Value::Opaque(bytes) => STANDARD.encode(bytes).into(),
        Value::ObjectLink(link) => link.to_string().into(),
    }
}
