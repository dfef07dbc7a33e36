//! The content formats: which ones the device knows, and the payloads that they make of values.
//!
//! The codecs are the simulator's own, so that a mistake of the gateway's codecs does not meet the same mistake here.

mod cbor;
mod lwm2m_cbor;
pub(super) mod senml;
pub(super) mod tlv;

use std::collections::BTreeSet;

use lwm2m_core::coap::Code;
use lwm2m_core::coap::options::format;
use lwm2m_core::lwm2m::path::Path;

use super::registration::SimulatedVersion;
use super::value::{PayloadValue, SimulatedValue};
use senml::{RecordValue, SenmlRecord};

/// The formats that hold values of several paths, in the order in which a device prefers them.
const FOR_SEVERAL: [u16; 4] = [format::SENML_CBOR, format::LWM2M_CBOR, format::SENML_JSON, format::TLV];

/// The formats that the device knows at the moment.
#[derive(Clone, Debug)]
pub(super) struct SupportedFormats {
    version: SimulatedVersion,
    unsupported: BTreeSet<u16>,
}

/// A value that is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadEntry<'a> {
    pub path: Path,
    pub value: &'a SimulatedValue,
}

/// A statement of a payload about a resource or a resource instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrittenEntry {
    pub path: Path,
    pub change: WrittenChange,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum WrittenChange {
    Value(PayloadValue),
    /// A resource that may have several instances has none.
    NoInstances,
    /// A resource instance is taken away.
    Removal,
}

impl SupportedFormats {
    pub(crate) fn new(version: SimulatedVersion, unsupported: impl IntoIterator<Item = u16>) -> Self {
        Self { version, unsupported: unsupported.into_iter().collect() }
    }

    #[cfg(test)]
    pub(crate) fn set_unsupported(&mut self, formats: impl IntoIterator<Item = u16>) {
        self.unsupported = formats.into_iter().collect();
    }

    pub(crate) fn knows(&self, format: u16) -> bool {
        let since = match format {
            format::TEXT | format::LINK_FORMAT | format::OCTET_STREAM | format::TLV => SimulatedVersion::V1_0,
            format::CBOR | format::SENML_JSON | format::SENML_CBOR => SimulatedVersion::V1_1,
            format::LWM2M_CBOR | format::SENML_ETCH_JSON | format::SENML_ETCH_CBOR => SimulatedVersion::V1_2,
            _ => return false,
        };
        self.version >= since && !self.unsupported.contains(&format)
    }

    /// Chooses the format of an answer; `value` is the value if it is a single one. Fails with 4.06.
    pub(crate) fn for_read(&self, accept: Option<u16>, value: Option<&SimulatedValue>) -> Result<u16, Code> {
        let fits = |format: &u16| self.knows(*format) && holds(*format, value);
        if let Some(accept) = accept {
            return Some(accept).filter(fits).ok_or(Code::NOT_ACCEPTABLE);
        }
        // A device of 1.0 gives the bytes of an Opaque value as text, in base64.
        let bytes = (self.version >= SimulatedVersion::V1_1).then_some(format::OCTET_STREAM);
        bytes.into_iter().chain([format::TEXT]).chain(FOR_SEVERAL).find(fits).ok_or(Code::NOT_ACCEPTABLE)
    }

    /// Chooses the format of the answer to a path list that came in `list_format`. Fails with 4.06.
    pub(crate) fn for_composite_read(&self, accept: Option<u16>, list_format: u16) -> Result<u16, Code> {
        let like_the_list = match list_format {
            format::SENML_ETCH_JSON => format::SENML_JSON,
            format::SENML_ETCH_CBOR => format::SENML_CBOR,
            other => other,
        };
        let format = accept.unwrap_or(like_the_list);
        let has_paths = [format::SENML_CBOR, format::SENML_JSON, format::LWM2M_CBOR].contains(&format);
        if has_paths && self.knows(format) { Ok(format) } else { Err(Code::NOT_ACCEPTABLE) }
    }

    /// Checks the format of a write to a single value, or to several. Fails with 4.15.
    pub(crate) fn check_written(&self, format: u16, old: Option<&SimulatedValue>) -> Result<(), Code> {
        let fits = self.knows(format) && holds(format, old);
        if fits { Ok(()) } else { Err(Code::UNSUPPORTED_CONTENT_FORMAT) }
    }

    /// Checks the format of a Write-Composite. Fails with 4.15.
    fn check_patch(&self, format: u16) -> Result<(), Code> {
        let patches = [
            format::SENML_CBOR,
            format::SENML_JSON,
            format::LWM2M_CBOR,
            format::SENML_ETCH_CBOR,
            format::SENML_ETCH_JSON,
        ]
        .contains(&format);
        if patches && self.knows(format) { Ok(()) } else { Err(Code::UNSUPPORTED_CONTENT_FORMAT) }
    }

    /// Decodes the path list of a Read-Composite (OMA LwM2M Core 1.1 section 6.3).
    pub(crate) fn path_list(&self, format: u16, payload: &[u8]) -> Result<Vec<Path>, Code> {
        if !self.knows(format) {
            return Err(Code::UNSUPPORTED_CONTENT_FORMAT);
        }
        let names = senml::named(senml_records(format, payload)?);
        let path = |(name, value): &(String, Option<RecordValue>)| path_of(name).filter(|_| value.is_none());
        let paths: Vec<Path> = names.iter().map(path).collect::<Option<_>>().ok_or(Code::BAD_REQUEST)?;
        if paths.is_empty() { Err(Code::BAD_REQUEST) } else { Ok(paths) }
    }

    /// Decodes the payload of a Write-Composite.
    pub(crate) fn patch(&self, format: u16, payload: &[u8]) -> Result<Vec<WrittenEntry>, Code> {
        self.check_patch(format)?;
        decode(format, Path::ROOT, payload)
    }
}

/// Returns whether a format can hold this value if it is a single one, or several values.
fn holds(format: u16, value: Option<&SimulatedValue>) -> bool {
    match format {
        format::TEXT | format::CBOR => value.is_some(),
        format::OCTET_STREAM => matches!(value, Some(SimulatedValue::Opaque(_))),
        _ => FOR_SEVERAL.contains(&format),
    }
}

/// Encodes the single value of a path, in a format that [`Formats::for_read`] chose; `None` for TLV, which is made of
/// the resource itself.
pub(super) fn encode_single(format: u16, entry: ReadEntry<'_>) -> Option<Vec<u8>> {
    match format {
        format::TEXT => Some(entry.value.text().into_bytes()),
        format::OCTET_STREAM => Some(entry.value.bytes()),
        format::CBOR => Some(cbor::encode(entry.value)),
        _ => encode(format, entry.path, &[entry]),
    }
}

/// Encodes values at or below a path, in SenML or LwM2M CBOR; `None` for another format.
pub(super) fn encode(format: u16, base: Path, entries: &[ReadEntry<'_>]) -> Option<Vec<u8>> {
    match format {
        format::SENML_CBOR => Some(senml::encode_cbor(&records(base, entries))),
        format::SENML_JSON => Some(senml::encode_json(&records(base, entries))),
        format::LWM2M_CBOR => Some(lwm2m_cbor::encode(entries)),
        _ => None,
    }
}

/// SenML records whose first has the path as its base name, unless it is the root.
fn records(base: Path, entries: &[ReadEntry<'_>]) -> Vec<SenmlRecord> {
    let prefix = match entries {
        _ if base == Path::ROOT => String::new(),
        [entry] if entry.path == base => base.to_string(),
        _ => format!("{base}/"),
    };
    let record = |(index, entry): (usize, &ReadEntry<'_>)| {
        let whole = entry.path.to_string();
        let name = whole.strip_prefix(&prefix).unwrap_or(&whole);
        SenmlRecord {
            base_name: (index == 0 && !prefix.is_empty()).then(|| prefix.clone()),
            name: (!name.is_empty()).then(|| name.to_owned()),
            value: Some(RecordValue::Value(entry.value.typed())),
            ..SenmlRecord::default()
        }
    };
    entries.iter().enumerate().map(record).collect()
}

/// Decodes what a payload writes at or below the target.
pub(super) fn decode(format: u16, target: Path, payload: &[u8]) -> Result<Vec<WrittenEntry>, Code> {
    let single = |value: PayloadValue| vec![WrittenEntry { path: target, change: WrittenChange::Value(value) }];
    let entries = match format {
        format::TEXT => std::str::from_utf8(payload).ok().map(|text| single(PayloadValue::PlainText(text.to_owned()))),
        format::OCTET_STREAM => Some(single(PayloadValue::Bytes(payload.to_vec()))),
        format::CBOR => cbor::decode(payload).map(single),
        format::TLV => tlv::written_entries(target, payload),
        format::LWM2M_CBOR => lwm2m_cbor::decode(payload).map(|entries| {
            let entry = |(path, value)| WrittenEntry { path, change: WrittenChange::Value(value) };
            entries.into_iter().map(entry).collect()
        }),
        _ => Some(senml_entries(format, payload)?),
    };
    let entries = entries.ok_or(Code::BAD_REQUEST)?;
    let mut paths = BTreeSet::new();
    let all_right = entries.iter().all(|entry| entry.path.is_at_or_below(&target) && paths.insert(entry.path));
    if all_right { Ok(entries) } else { Err(Code::BAD_REQUEST) }
}

fn senml_entries(format: u16, payload: &[u8]) -> Result<Vec<WrittenEntry>, Code> {
    let is_patch = matches!(format, format::SENML_ETCH_JSON | format::SENML_ETCH_CBOR);
    let entry = |(name, value): (String, Option<RecordValue>)| {
        let change = match value? {
            RecordValue::Value(value) => WrittenChange::Value(value),
            RecordValue::Null => Some(WrittenChange::Removal).filter(|_| is_patch)?,
        };
        Some(WrittenEntry { path: path_of(&name)?, change })
    };
    let named = senml::named(senml_records(format, payload)?);
    named.into_iter().map(entry).collect::<Option<_>>().ok_or(Code::BAD_REQUEST)
}

fn senml_records(format: u16, payload: &[u8]) -> Result<Vec<SenmlRecord>, Code> {
    let records = match format {
        format::SENML_JSON | format::SENML_ETCH_JSON => senml::decode_json(payload),
        format::SENML_CBOR | format::SENML_ETCH_CBOR => senml::decode_cbor(payload),
        _ => return Err(Code::UNSUPPORTED_CONTENT_FORMAT),
    };
    records.ok_or(Code::BAD_REQUEST)
}

/// Returns the path that a name is, in exactly the form in which OMA LwM2M writes it: `/3/0/9`.
fn path_of(name: &str) -> Option<Path> {
    name.parse().ok().filter(|path: &Path| path.to_string() == name)
}
