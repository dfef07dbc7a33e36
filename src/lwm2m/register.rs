//! The registration interface: what a device says of itself in Register and Update (LwM2M 1.0 section 5.3, 1.1 section 6.2).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::coap::options::{format, number};
use crate::coap::{Code, Request};
use crate::secret::Secret;

use super::link::{self, Link};
use super::path::Path;

const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);
const DEFAULT_VERSION: &str = "1.0";
const VERSIONS: &[&str] = &["1", "1.0", "1.1", "1.2"];
const MAX_ENDPOINT: usize = 255;
/// An option value of a request to the device has at most so many bytes (RFC 7252 section 5.10).
const MAX_SEGMENT: usize = 255;
/// Items that this program knows nothing of: Updates add them to the registration.
const MAX_OTHER_ITEMS: usize = 64;

/// What a device said of itself, with all its Updates merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    pub endpoint: String,
    /// Whole seconds.
    pub lifetime: Duration,
    version: Option<String>,
    binding: Option<String>,
    /// The item `Q` (LwM2M 1.1).
    queue: bool,
    password: Option<Secret>,
    /// `imei`, `sms` and all the rest, in the order of their first appearance.
    others: Vec<(String, String)>,
    objects: Option<ObjectList>,
}

/// What the payload of Register or Update says.
#[derive(Clone, Debug, PartialEq)]
struct ObjectList {
    /// As the device wrote it: `/` or `/m2m`.
    alternate_path: String,
    /// Without the alternate path in front.
    targets: Vec<String>,
    paths: Vec<Path>,
    versions: BTreeMap<u16, String>,
    /// `ct` of the link with `rt="oma.lwm2m"`, and of single objects.
    formats: Vec<u16>,
    object_formats: BTreeMap<u16, Vec<u16>>,
}

/// What an answer 4.xx says, and its diagnostic payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub diagnostic: String,
}

/// What an Update brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectListChange {
    /// The Update had no object list.
    Absent,
    /// The same list again.
    Same,
    Changed,
}

impl Registration {
    /// Reads a Register request; `lifetimes` are the bounds of `lt`.
    pub fn from_register(request: &Request, lifetimes: &RangeInclusive<Duration>) -> Result<Self, Rejection> {
        check_content_format(request)?;
        let items = Items::read(request, lifetimes)?;
        let Some(endpoint) = items.endpoint else {
            return Err(Rejection::bad_request("the query item ep is missing"));
        };
        Ok(Self {
            endpoint,
            lifetime: match items.lifetime {
                Some(lifetime) => lifetime,
                None => within(DEFAULT_LIFETIME, lifetimes)?,
            },
            version: items.version,
            binding: items.binding,
            queue: items.queue,
            password: items.password,
            others: items.others,
            objects: ObjectList::parse(&request.payload)?,
        })
    }

    /// Merges an Update. On an error nothing has changed.
    pub fn update(
        &mut self,
        request: &Request,
        lifetimes: &RangeInclusive<Duration>,
    ) -> Result<ObjectListChange, Rejection> {
        check_content_format(request)?;
        let items = Items::read(request, lifetimes)?;
        if items.endpoint.is_some_and(|endpoint| endpoint != self.endpoint) {
            return Err(Rejection::bad_request("an Update cannot change ep"));
        }
        if items.version.is_some_and(|version| version != self.version()) {
            return Err(Rejection::bad_request("an Update cannot change lwm2m"));
        }
        let others = merged(&self.others, items.others)?;
        let objects = ObjectList::parse(&request.payload)?;
        self.lifetime = items.lifetime.unwrap_or(self.lifetime);
        self.queue |= items.queue;
        self.others = others;
        if items.binding.is_some() {
            self.binding = items.binding;
        }
        if items.password.is_some() {
            self.password = items.password;
        }
        Ok(self.replace_objects(objects))
    }

    /// Whether the device said that it sleeps: `b` with Q, or the item `Q`.
    pub fn queue_mode(&self) -> bool {
        self.queue || self.binding().is_some_and(|binding| binding.contains('Q'))
    }

    /// A query item that this program knows nothing of (`imei`, `apn` ...), as text.
    pub fn item(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All of those, in the order of their first appearance.
    pub fn items(&self) -> impl Iterator<Item = (&str, &str)> {
        self.others.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The query item `password`: never in a report.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// `lwm2m` as given; `1.0` when it was not.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or(DEFAULT_VERSION)
    }

    /// Whether the device speaks LwM2M 1.1 or newer.
    pub fn is_1_1_or_newer(&self) -> bool {
        !matches!(self.version(), "1" | "1.0")
    }

    /// `b` as given.
    pub fn binding(&self) -> Option<&str> {
        self.binding.as_deref()
    }

    /// Whether the item `Q` was given (LwM2M 1.1).
    pub fn queue_item(&self) -> bool {
        self.queue
    }

    /// The paths of the object list, in its order; those that are no LwM2M paths left out.
    pub fn object_paths(&self) -> impl Iterator<Item = Path> + '_ {
        self.objects.iter().flat_map(|objects| &objects.paths).copied()
    }

    /// The object list as text, the alternate path taken away; `None` when the device sent none.
    pub fn object_list(&self) -> Option<impl Iterator<Item = &str>> {
        self.objects.as_ref().map(|objects| objects.targets.iter().map(String::as_str))
    }

    /// Where the objects are, as the device wrote it; `None` when it sent no object list.
    pub fn alternate_path(&self) -> Option<&str> {
        self.objects.as_ref().map(|objects| objects.alternate_path.as_str())
    }

    /// The segments of the alternate path, for the front of every request.
    pub fn alternate_segments(&self) -> impl Iterator<Item = &str> {
        let path = self.alternate_path().unwrap_or("/");
        path.split('/').filter(|segment| !segment.is_empty())
    }

    /// A path as the device writes it, without the alternate path in front of it.
    pub fn without_alternate_path<'p>(&self, path: &'p str) -> &'p str {
        without_prefix(path, self.alternate_path().unwrap_or("/"))
    }

    /// The content formats that the device announced (`ct` of the link with `rt="oma.lwm2m"`).
    pub fn formats(&self) -> &[u16] {
        self.objects.as_ref().map_or(&[], |objects| &objects.formats)
    }

    /// Those of one object where it has its own, else those of the device.
    pub fn object_formats(&self, object: u16) -> &[u16] {
        let own = self.objects.as_ref().and_then(|objects| objects.object_formats.get(&object));
        own.map_or(self.formats(), Vec::as_slice)
    }

    /// `ver` of this object, as given.
    pub fn object_version(&self, object: u16) -> Option<&str> {
        self.objects.as_ref()?.versions.get(&object).map(String::as_str)
    }

    fn replace_objects(&mut self, objects: Option<ObjectList>) -> ObjectListChange {
        if objects.is_none() {
            return ObjectListChange::Absent;
        }
        let change = if self.objects == objects { ObjectListChange::Same } else { ObjectListChange::Changed };
        self.objects = objects;
        change
    }
}

impl Rejection {
    fn bad_request(diagnostic: impl Into<String>) -> Self {
        Self { code: Code::BAD_REQUEST, diagnostic: diagnostic.into() }
    }
}

/// The query of a Register or an Update.
#[derive(Default)]
struct Items {
    endpoint: Option<String>,
    lifetime: Option<Duration>,
    version: Option<String>,
    binding: Option<String>,
    queue: bool,
    password: Option<Secret>,
    others: Vec<(String, String)>,
}

impl Items {
    fn read(request: &Request, lifetimes: &RangeInclusive<Duration>) -> Result<Self, Rejection> {
        let query = request.options.texts(number::URI_QUERY);
        let query = query.map_err(|_| Rejection::bad_request("a query item is not UTF-8"))?;
        let mut items = Self::default();
        for item in query {
            match item.split_once('=') {
                Some((name, value)) if !name.is_empty() => items.take(name, value, lifetimes)?,
                None if item == "Q" => items.take_queue()?,
                Some(_) | None => return Err(Rejection::bad_request("a query item is not of the form name=value")),
            }
        }
        Ok(items)
    }

    fn take(&mut self, name: &str, value: &str, lifetimes: &RangeInclusive<Duration>) -> Result<(), Rejection> {
        match name {
            "ep" => once(name, &mut self.endpoint, endpoint(value)?),
            "lt" => once(name, &mut self.lifetime, lifetime(value, lifetimes)?),
            "lwm2m" => once(name, &mut self.version, version(value)?),
            "b" => once(name, &mut self.binding, value.to_owned()),
            "password" => once(name, &mut self.password, Secret::new(value)),
            "Q" => Err(Rejection::bad_request("the query item Q has no value")),
            _ => self.take_other(name, value),
        }
    }

    fn take_queue(&mut self) -> Result<(), Rejection> {
        if self.queue {
            return Err(twice("Q"));
        }
        self.queue = true;
        Ok(())
    }

    fn take_other(&mut self, name: &str, value: &str) -> Result<(), Rejection> {
        let known = matches!(name, "sms" | "imei" | "imsi");
        if known && self.others.iter().any(|(other, _)| other == name) {
            return Err(twice(name));
        }
        self.others = merged(&self.others, vec![(name.to_owned(), value.to_owned())])?;
        Ok(())
    }
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), Rejection> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn twice(name: &str) -> Rejection {
    Rejection::bad_request(format!("the query item {name} is there twice"))
}

fn endpoint(value: &str) -> Result<String, Rejection> {
    if value.is_empty() || value.len() > MAX_ENDPOINT {
        return Err(Rejection::bad_request(format!("ep has 1 to {MAX_ENDPOINT} bytes")));
    }
    Ok(value.to_owned())
}

fn lifetime(value: &str, lifetimes: &RangeInclusive<Duration>) -> Result<Duration, Rejection> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if digits { value.parse().ok() } else { None };
    let Some(seconds) = seconds else {
        return Err(Rejection::bad_request("lt is not a whole number of seconds"));
    };
    within(Duration::from_secs(seconds), lifetimes)
}

fn within(lifetime: Duration, lifetimes: &RangeInclusive<Duration>) -> Result<Duration, Rejection> {
    if lifetimes.contains(&lifetime) {
        return Ok(lifetime);
    }
    let (min, max) = (lifetimes.start().as_secs(), lifetimes.end().as_secs());
    Err(Rejection::bad_request(format!("lt is {}; {min} to {max} is allowed", lifetime.as_secs())))
}

fn version(value: &str) -> Result<String, Rejection> {
    if VERSIONS.contains(&value) {
        return Ok(value.to_owned());
    }
    let diagnostic = format!("LwM2M {} is spoken", VERSIONS.join(", "));
    Err(Rejection { code: Code::PRECONDITION_FAILED, diagnostic })
}

/// The items with the newer ones in their place, or behind them.
fn merged(items: &[(String, String)], newer: Vec<(String, String)>) -> Result<Vec<(String, String)>, Rejection> {
    let mut merged = items.to_vec();
    for (name, value) in newer {
        match merged.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => merged.push((name, value)),
        }
    }
    if merged.len() > MAX_OTHER_ITEMS {
        return Err(Rejection::bad_request(format!("more than {MAX_OTHER_ITEMS} query items")));
    }
    Ok(merged)
}

fn check_content_format(request: &Request) -> Result<(), Rejection> {
    let unsupported = || Rejection {
        code: Code::UNSUPPORTED_CONTENT_FORMAT,
        diagnostic: "an object list is application/link-format (40)".to_owned(),
    };
    match request.options.uint(number::CONTENT_FORMAT) {
        Ok(None) => Ok(()),
        Ok(Some(value)) if value == u32::from(format::LINK_FORMAT) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(unsupported()),
    }
}

impl ObjectList {
    fn parse(payload: &[u8]) -> Result<Option<Self>, Rejection> {
        let links = link::parse(payload).map_err(|error| Rejection::bad_request(error.to_string()))?;
        if links.is_empty() {
            return Ok(None);
        }
        let root = links.iter().find(|link| is_root(link));
        let mut list = Self {
            alternate_path: root.map_or("/", |link| link.target).to_owned(),
            targets: Vec::new(),
            paths: Vec::new(),
            versions: BTreeMap::new(),
            formats: root.and_then(|link| link.attribute("ct")).map(formats).unwrap_or_default(),
            object_formats: BTreeMap::new(),
        };
        if list.alternate_path.split('/').any(|segment| segment.len() > MAX_SEGMENT) {
            return Err(Rejection::bad_request("a segment of the alternate path is too long"));
        }
        links.iter().filter(|link| !is_root(link)).for_each(|link| list.add(link));
        Ok(Some(list))
    }

    fn add(&mut self, link: &Link<'_>) {
        let target = without_prefix(link.target, &self.alternate_path).to_owned();
        if let Ok(path) = target.parse::<Path>() {
            if let Some(object) = path.object() {
                self.paths.push(path);
                self.keep_attributes(object, link);
            }
        }
        self.targets.push(target);
    }

    fn keep_attributes(&mut self, object: u16, link: &Link<'_>) {
        if let Some(version) = link.attribute("ver") {
            self.versions.entry(object).or_insert_with(|| version.to_owned());
        }
        if let Some(formats) = link.attribute("ct").map(formats) {
            self.object_formats.entry(object).or_insert(formats);
        }
    }
}

/// `rt` may hold several types, with blanks between them (RFC 6690 section 3.1).
fn is_root(link: &Link<'_>) -> bool {
    link.attribute("rt").is_some_and(|types| types.split_ascii_whitespace().any(|kind| kind == "oma.lwm2m"))
}

/// The numbers of `ct` (RFC 7252 section 7.2.1); what is no number announces nothing that could be asked for.
fn formats(text: &str) -> Vec<u16> {
    text.split_ascii_whitespace().flat_map(str::parse).collect()
}

fn without_prefix<'p>(path: &'p str, prefix: &str) -> &'p str {
    match path.strip_prefix(prefix.trim_end_matches('/')) {
        Some(rest) if rest.starts_with('/') => rest,
        Some(_) | None => path,
    }
}
