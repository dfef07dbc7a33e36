//! The choice of content formats: from the command, the formats that the device announced, its version of LwM2M, and
//! its earlier answers (OMA LwM2M Core 1.1 section 7.4, 1.2 section 7.4).
//!
//! A command may take several requests, because a device may reject a format that it announced, or that each device of
//! its version should support:
//! 1. [`Attempts::first`] chooses the formats of the first request.
//! 2. [`Attempts::next`] looks at each response. After a 4.06 or a 4.15 to a format of the gateway's own choice it
//!    chooses other formats for one more request.
//! 3. The rejected formats are kept with the registration, so that later commands begin with a format that the device
//!    accepts.
//!
//! A format that a command names is never replaced.

use smallvec::SmallVec;

use crate::coap::Code;

use super::codec::{self, Assignment, Patch};
use super::content_format::{ContentFormat, FormatSet};
use super::formats::Formats;
use super::model::Version;
use super::operation::{Operation, OperationKind};
use super::path::Path;
use super::register::Registration;

/// Limits the requests that one command may take.
const MAX_REQUESTS: u8 = 3;
/// The order of preference for several values. SenML CBOR carries types and times and is small. LwM2M CBOR carries
/// types and is the smallest, but has no times. The last two are those that LwM2M 1.1 calls legacy.
const SEVERAL: [ContentFormat; 5] = [
    ContentFormat::SenmlCbor,
    ContentFormat::Lwm2mCbor,
    ContentFormat::SenmlJson,
    ContentFormat::Tlv,
    ContentFormat::Lwm2mJson,
];
/// Continues the order of preference for a single resource or resource instance.
const SINGLE: [ContentFormat; 2] = [ContentFormat::Cbor, ContentFormat::Text];
/// The order in which formats are tried after a 4.15 to a write or a create.
const FALLBACKS: [ContentFormat; 3] = [ContentFormat::SenmlCbor, ContentFormat::Tlv, ContentFormat::SenmlJson];
/// The order of preference for the requests of composite operations.
const COMPOSITE: [ContentFormat; 2] = [ContentFormat::SenmlCbor, ContentFormat::SenmlJson];
/// The order of preference for the answers of composite operations.
const COMPOSITE_ANSWERS: [ContentFormat; 3] =
    [ContentFormat::SenmlCbor, ContentFormat::Lwm2mCbor, ContentFormat::SenmlJson];

/// Follows the requests of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The formats of the last request.
    formats: Formats,
    /// The formats that are left to try for the request, the next one first.
    left: SmallVec<[ContentFormat; 6]>,
    requests: u8,
}

impl Attempts {
    /// Chooses the formats of the first request of a command.
    pub fn first(operation: &Operation, registration: &Registration) -> Self {
        let choice = Choice { operation, registration };
        let mut left = choice.formats();
        let format = if left.is_empty() { None } else { Some(left.remove(0)) };
        Self { formats: Formats { accept: choice.accept(format), format }, left, requests: 1 }
    }

    /// Returns the formats of the last request.
    pub fn formats(&self) -> Formats {
        self.formats
    }

    /// Takes the code of a response. Returns the format that the device rejected if one more request is to be sent,
    /// with other formats, and `None` if the response is the answer to the command. In either case the registration
    /// keeps what the code shows about the formats of the device.
    pub fn next(
        &mut self,
        operation: &Operation,
        code: Code,
        registration: &mut Registration,
    ) -> Option<ContentFormat> {
        let is_composite = operation.kind.is_composite();
        let learned = registration.learned_formats_mut();
        let rejected = match code {
            Code::NOT_ACCEPTABLE if operation.formats.accept.is_none() => {
                let rejected = self.formats.accept?;
                learned.not_acceptable.insert(rejected);
                self.formats.accept = None;
                rejected
            }
            Code::UNSUPPORTED_CONTENT_FORMAT if operation.formats.format.is_none() => {
                let rejected = self.formats.format.filter(|_| !self.left.is_empty())?;
                let set = if is_composite { &mut learned.unsupported_in_composites } else { &mut learned.unsupported };
                set.insert(rejected);
                self.formats.format = Some(self.left.remove(0));
                if is_composite && operation.formats.accept.is_none() && self.formats.accept == Some(rejected) {
                    self.formats.accept = self.formats.format.map(ContentFormat::of_answers);
                }
                rejected
            }
            code => {
                if self.requests > 1 && code.is_success() && operation.kind.has_several_values(operation.path) {
                    learned.several = self.formats.format;
                }
                return None;
            }
        };
        if self.requests >= MAX_REQUESTS {
            return None;
        }
        self.requests += 1;
        Some(rejected)
    }
}

/// Returns whether a payload of this format can hold these values for a request of this path.
pub(crate) fn can_hold(format: ContentFormat, target: Path, values: &[Assignment]) -> bool {
    let is_single = matches!(values, [one] if one.path == target);
    match format {
        ContentFormat::Opaque => codec::is_single_opaque(target, values),
        format => format.holds_several_values() || (is_single && format.holds_values_of(target)),
    }
}

/// An operation and the device that it is for.
struct Choice<'a> {
    operation: &'a Operation,
    registration: &'a Registration,
}

impl Choice<'_> {
    /// Returns the format of the answer to ask for, beside this format of the request.
    fn accept(&self, format: Option<ContentFormat>) -> Option<ContentFormat> {
        if let Some(named) = self.operation.formats.accept {
            return Some(named);
        }
        let left_out = self.registration.learned_formats().not_acceptable;
        let preferred = match &self.operation.kind {
            OperationKind::Discover => Some(ContentFormat::Link),
            OperationKind::Read | OperationKind::Observe | OperationKind::CancelObserve => {
                return self.accept_of_read(left_out);
            }
            OperationKind::ReadComposite { .. }
            | OperationKind::ObserveComposite { .. }
            | OperationKind::CancelObserveComposite { .. } => {
                let announced = self.announced();
                let mut known = COMPOSITE_ANSWERS.into_iter().filter(|format| self.may_choose(*format));
                if known.clone().any(|format| announced.contains(format)) {
                    known.find(|format| announced.contains(*format) && !left_out.contains(*format))
                } else {
                    format.map(ContentFormat::of_answers)
                }
            }
            OperationKind::Write { .. }
            | OperationKind::WriteAttributes
            | OperationKind::Execute { .. }
            | OperationKind::TriggerBootstrap
            | OperationKind::Create { .. }
            | OperationKind::Delete
            | OperationKind::WriteComposite { .. } => None,
        };
        preferred.filter(|format| !left_out.contains(*format))
    }

    /// Returns the best announced format. A 1.0 device chooses its format itself: drafts of LwM2M 1.0 had other numbers
    /// for the formats.
    fn accept_of_read(&self, left_out: FormatSet) -> Option<ContentFormat> {
        if !self.registration.supports(Version::LWM2M_1_1) {
            return None;
        }
        let announced = self.announced();
        let single = if self.operation.path.len() >= 3 { &SINGLE[..] } else { &[] };
        let mut known = SEVERAL.iter().chain(single).copied().filter(|format| self.may_choose(*format));
        known.find(|format| announced.contains(*format) && !left_out.contains(*format))
    }

    /// Returns the formats of the request's own payload in the order in which to try them; none for a request without
    /// values.
    fn formats(&self) -> SmallVec<[ContentFormat; 6]> {
        let learned = self.registration.learned_formats();
        let (formats, left_out) = match &self.operation.kind {
            OperationKind::Write { values, .. } | OperationKind::Create { values, .. } if values.is_empty() => {
                return SmallVec::new();
            }
            OperationKind::Write { .. } | OperationKind::Create { .. } | OperationKind::WriteComposite { .. }
                if self.operation.formats.format.is_some() =>
            {
                return self.operation.formats.format.into_iter().collect();
            }
            OperationKind::Create { device_chooses_id: true, .. } => {
                return [ContentFormat::Tlv].into_iter().collect();
            }
            OperationKind::Write { values, .. } | OperationKind::Create { values, .. } => {
                (self.formats_of_values(values), learned.unsupported)
            }
            OperationKind::WriteComposite { patches } => {
                (self.formats_of_patches(patches), learned.unsupported_in_composites)
            }
            OperationKind::ReadComposite { .. }
            | OperationKind::ObserveComposite { .. }
            | OperationKind::CancelObserveComposite { .. } => match self.operation.formats.format {
                Some(named) => return [named].into_iter().collect(),
                None => (self.formats_of_paths(), learned.unsupported_in_composites),
            },
            OperationKind::Execute { .. } | OperationKind::TriggerBootstrap => {
                return [ContentFormat::Text].into_iter().collect();
            }
            OperationKind::Read
            | OperationKind::Discover
            | OperationKind::WriteAttributes
            | OperationKind::Delete
            | OperationKind::Observe
            | OperationKind::CancelObserve => return SmallVec::new(),
        };
        without_repetitions(formats, left_out)
    }

    /// A 1.0 device gets TLV, or the bytes of an Opaque value. Such bytes are sent as they are to a device that
    /// announced octet-stream, and to a 1.1 device that announced nothing, which must support it: some clients cannot
    /// read base64url, and it makes a firmware image a third larger. A 1.1 device that announced nothing must support
    /// text, too.
    fn formats_of_values(&self, values: &[Assignment]) -> Vec<ContentFormat> {
        let target = self.operation.path;
        let is_opaque = codec::is_single_opaque(target, values);
        let is_single = matches!(values, [one] if one.path == target);
        let bytes = is_opaque.then_some(ContentFormat::Opaque);
        let announced = self.announced();
        let announced_bytes = bytes.filter(|bytes| announced.contains(*bytes));
        if !self.registration.supports(Version::LWM2M_1_1) {
            return announced_bytes.into_iter().chain([ContentFormat::Tlv]).chain(bytes).collect();
        }
        let learned = self.registration.learned_formats();
        let learned_several = learned.several.filter(|_| !is_single);
        let known = SEVERAL.iter().chain(&SINGLE).copied();
        let mut usable = known.filter(|format| self.may_choose(*format) && can_hold(*format, target, values));
        let first_announced = usable.clone().find(|format| announced.contains(*format));
        let preferred = match first_announced {
            Some(first) => usable
                .find(|format| announced.contains(*format) && !learned.unsupported.contains(*format))
                .unwrap_or(first),
            None if is_opaque => ContentFormat::Opaque,
            None if is_single => ContentFormat::Text,
            None => ContentFormat::SenmlCbor,
        };
        let last = is_single.then_some(if is_opaque { ContentFormat::Opaque } else { ContentFormat::Text });
        let first = learned_several.into_iter().chain(announced_bytes);
        first.chain([preferred]).chain(FALLBACKS).chain(last).collect()
    }

    fn formats_of_patches(&self, patches: &[Patch]) -> Vec<ContentFormat> {
        let announced = self.announced();
        let has = |format| announced.contains(format);
        if patches.iter().any(|patch| patch.value.is_none()) {
            let only_json = has(ContentFormat::SenmlJson) && !has(ContentFormat::SenmlCbor);
            // No other format may hold a removal.
            return vec![if only_json { ContentFormat::SenmlEtchJson } else { ContentFormat::SenmlEtchCbor }];
        }
        let is_lwm2m_cbor_only = has(ContentFormat::Lwm2mCbor)
            && self.may_choose(ContentFormat::Lwm2mCbor)
            && !COMPOSITE.into_iter().any(has);
        let first = is_lwm2m_cbor_only.then_some(ContentFormat::Lwm2mCbor);
        first.into_iter().chain(self.formats_of_paths()).collect()
    }

    fn formats_of_paths(&self) -> Vec<ContentFormat> {
        let announced = self.announced();
        let first = COMPOSITE.into_iter().find(|format| announced.contains(*format));
        first.into_iter().chain(COMPOSITE).collect()
    }

    /// Returns the formats that the device announced for the object of the path, or for all objects.
    fn announced(&self) -> FormatSet {
        match self.operation.path.object() {
            Some(object) => self.registration.object_formats(object),
            None => self.registration.formats(),
        }
    }

    /// Returns whether the version of the device has the format. A command may name a newer one.
    fn may_choose(&self, format: ContentFormat) -> bool {
        format != ContentFormat::Lwm2mCbor || self.registration.supports(Version::LWM2M_1_2)
    }
}

/// Returns the formats in their order, each once. The left-out ones are tried only if there are no others.
fn without_repetitions(formats: Vec<ContentFormat>, left_out: FormatSet) -> SmallVec<[ContentFormat; 6]> {
    let mut listed = FormatSet::default();
    let mut unique: SmallVec<[ContentFormat; 6]> = SmallVec::new();
    for format in formats {
        if !listed.contains(format) {
            listed.insert(format);
            unique.push(format);
        }
    }
    if unique.iter().any(|format| !left_out.contains(*format)) {
        unique.retain(|format| !left_out.contains(*format));
    }
    unique
}

#[cfg(test)]
mod tests;
