//! The payload of Register and Update requests: the list of objects (LwM2M 1.1 section 6.2.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::coap::options::{format, number};
use crate::coap::{Code, Request};
use crate::lwm2m::content_format::{ContentFormat, FormatSet};
use crate::lwm2m::link::{self, LeftOut, Link};
use crate::lwm2m::model::Version;
use crate::lwm2m::path::Path;
use crate::lwm2m::texts::Texts;

use super::{ENTRY, Rejection};

/// Limits the bytes of a Uri-Path segment (RFC 7252 section 5.10).
const MAX_SEGMENT: usize = 255;

/// Holds what a Register or Update payload announces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectList {
    /// Keeps the path as the device wrote it, such as `/` or `/m2m`.
    pub(super) alternate_path: String,
    /// Keeps the targets of the links without the alternate path.
    pub(super) targets: Texts,
    pub(super) versions: BTreeMap<u16, String>,
    /// Keeps the content formats of the root link (attribute `ct`).
    pub(super) formats: FormatSet,
    /// Keeps the content formats that the links of single objects announce.
    pub(super) object_formats: BTreeMap<u16, FormatSet>,
    /// Keeps the attributes of the links by their targets. The root link has the target `/`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, BTreeMap<String, String>>,
}

/// Returns the rejection of a payload that is no link list: 4.15 if the request names another format than link-format,
/// else 4.00.
fn no_object_list(request: &Request, error: link::LinkError) -> Rejection {
    match request.options.uint(number::CONTENT_FORMAT) {
        Ok(None) => Rejection::bad_request(error.to_string()),
        Ok(Some(value)) if value == u32::from(format::LINK_FORMAT) => Rejection::bad_request(error.to_string()),
        Ok(Some(_)) | Err(_) => {
            Rejection { code: Code::UNSUPPORTED_CONTENT_FORMAT, diagnostic: "link-format (40)".to_owned() }
        }
    }
}

impl ObjectList {
    /// Returns a list with the alternate path and the versions only.
    pub(super) fn without_links(&self) -> Self {
        Self {
            alternate_path: self.alternate_path.clone(),
            targets: Texts::default(),
            versions: self.versions.clone(),
            formats: FormatSet::default(),
            object_formats: BTreeMap::new(),
            attributes: BTreeMap::new(),
        }
    }

    /// Reads the payload, whatever its Content-Format option says, and counts the parts that cannot be read.
    pub(super) fn parse(
        request: &Request,
        keep_attributes: bool,
    ) -> Result<(Option<Self>, Option<LeftOut>), Rejection> {
        let list = link::parse(&request.payload).map_err(|error| no_object_list(request, error))?;
        let (links, left_out) = (list.links, list.left_out);
        if links.is_empty() {
            return Ok((None, left_out));
        }
        let root = root(&links);
        let is_root = |link: &Link<'_>| has_lwm2m_type(link) || root.is_some_and(|root| root.target == link.target);
        let mut list = Self {
            alternate_path: root.map(|link| link.target).filter(|path| !path.is_empty()).unwrap_or("/").to_owned(),
            targets: Texts::default(),
            versions: BTreeMap::new(),
            formats: root.and_then(|link| link.attribute("ct")).map(formats).unwrap_or_default(),
            object_formats: BTreeMap::new(),
            attributes: BTreeMap::new(),
        };
        if list.alternate_path.split('/').any(|segment| segment.len() > MAX_SEGMENT) {
            return Err(Rejection::bad_request("a segment of the alternate path is too long"));
        }
        // A link without a target announces nothing.
        links.iter().filter(|link| !is_root(link) && !link.target.is_empty()).for_each(|link| list.add(link));
        list.targets.shrink();
        if keep_attributes {
            root.into_iter().for_each(|root| list.keep_all_attributes("/", root));
            for link in links.iter().filter(|link| !is_root(link) && !link.target.is_empty()) {
                let target = without_prefix(link.target, &list.alternate_path).to_owned();
                list.keep_all_attributes(&target, link);
            }
        }
        Ok((Some(list), left_out))
    }

    /// Returns the approximate number of bytes that the list occupies in memory.
    pub(super) fn size(&self) -> usize {
        self.alternate_path.len()
            + self.targets.size()
            + self.versions.values().map(|version| ENTRY + version.len()).sum::<usize>()
            + ENTRY * self.object_formats.len()
            + self.attributes.iter().map(|(target, own)| ENTRY + target.len() + attributes_size(own)).sum::<usize>()
    }

    fn add(&mut self, link: &Link<'_>) {
        let target = without_prefix(link.target, &self.alternate_path);
        if let Some(object) = target.parse::<Path>().ok().and_then(|path| path.object()) {
            self.keep_attributes(object, link);
        }
        self.targets.push(target);
    }

    fn keep_attributes(&mut self, object: u16, link: &Link<'_>) {
        // What is no version counts as absent: another link may have one.
        if let Some(version) = link.attribute("ver").filter(|text| text.parse::<Version>().is_ok()) {
            self.versions.entry(object).or_insert_with(|| version.to_owned());
        }
        if let Some(formats) = link.attribute("ct").map(formats).filter(|formats| !formats.is_empty()) {
            self.object_formats.entry(object).or_insert(formats);
        }
    }

    /// Keeps the attributes of a link as texts. The first one of a name counts, and one without a value is an empty
    /// text.
    fn keep_all_attributes(&mut self, target: &str, link: &Link<'_>) {
        if link.attributes.is_empty() {
            return;
        }
        let kept = self.attributes.entry(target.to_owned()).or_default();
        for attribute in &link.attributes {
            let value = attribute.value.as_deref().unwrap_or_default();
            kept.entry(attribute.name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
}

/// Returns the link of the root: that with the resource type `oma.lwm2m`, or else `</>`, which some devices write
/// without a type.
fn root<'l, 'a>(links: &'l [Link<'a>]) -> Option<&'l Link<'a>> {
    links.iter().find(|link| has_lwm2m_type(link)).or_else(|| links.iter().find(|link| link.target == "/"))
}

/// Returns whether the link has the resource type `oma.lwm2m`. `rt` may hold several types with blanks between them
/// (RFC 6690 section 3.1).
fn has_lwm2m_type(link: &Link<'_>) -> bool {
    link.attribute("rt").is_some_and(|types| types.split_ascii_whitespace().any(|kind| kind == "oma.lwm2m"))
}

fn attributes_size(attributes: &BTreeMap<String, String>) -> usize {
    attributes.iter().map(|(name, value)| ENTRY + name.len() + value.len()).sum()
}

/// Returns the formats of the attribute `ct` (RFC 7252 section 7.2.1) and ignores anything else.
fn formats(text: &str) -> FormatSet {
    text.split_ascii_whitespace().flat_map(str::parse).filter_map(ContentFormat::from_device).collect()
}

pub(super) fn without_prefix<'p>(path: &'p str, prefix: &str) -> &'p str {
    match path.strip_prefix(prefix.trim_end_matches('/')) {
        Some(rest) if rest.starts_with('/') => rest,
        Some(_) | None => path,
    }
}
