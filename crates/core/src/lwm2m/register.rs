//! The registration interface: what a device says of itself in Register and Update (LwM2M 1.0 section 5.3, 1.1 section 6.2).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::coap::options::{format, number};
use crate::coap::{Code, Request};
use lwm2m_base::secret::Secret;

use super::link::{self, LeftOut, Link};
use super::path::Path;
use super::texts::Texts;
use super::value::Value;

const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);
const DEFAULT_VERSION: &str = "1.0";
const VERSIONS: &[&str] = &["1", "1.0", "1.1", "1.2"];
const MAX_ENDPOINT: usize = 255;
/// An option value of a request to the device has at most so many bytes (RFC 7252 section 5.10).
const MAX_SEGMENT: usize = 255;
/// Bytes of a query item: the longest endpoint name with its `ep=` fits, which is more than RFC 7252 section 5.10 allows.
const MAX_ITEM: usize = 512;
/// Items that go into reports as they are, but that cannot be there twice.
const KNOWN_OTHERS: &[&str] = &["sms", "imei", "imsi"];
/// Items that this program knows nothing of: Updates add them to the registration.
const MAX_OTHER_ITEMS: usize = 64;
/// Bytes that an entry of a map or list takes in memory beside its own text, about.
const ENTRY: usize = 48;

/// What a device said of itself, with all its Updates merged. It is serialized without the password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    pub endpoint: String,
    /// Whole seconds.
    pub lifetime: Duration,
    version: Option<String>,
    binding: Option<String>,
    /// The item `Q` (LwM2M 1.1).
    queue: bool,
    #[serde(skip)]
    password: Option<Secret>,
    /// `imei`, `sms` and all the rest, in the order of their first appearance.
    others: Vec<(String, String)>,
    objects: Option<ObjectList>,
    /// The part of the newest link list that makes no sense, until it is taken.
    #[serde(skip)]
    left_out: Option<LeftOut>,
}

/// What the payload of Register or Update says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ObjectList {
    /// As the device wrote it: `/` or `/m2m`.
    alternate_path: String,
    /// Without the alternate path in front.
    targets: Texts,
    versions: BTreeMap<u16, String>,
    /// `ct` of the link with `rt="oma.lwm2m"`, and of single objects.
    formats: Vec<u16>,
    object_formats: BTreeMap<u16, Vec<u16>>,
}

/// What an answer 4.xx says, and its diagnostic payload: few words where a stranger hears them, whose address may be
/// another one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub diagnostic: String,
}

/// An Update that was read: the parts in which it differs from the registration that it is for.
#[derive(Debug, Default)]
pub struct Update {
    lifetime: Option<Duration>,
    binding: Option<String>,
    queue: bool,
    password: Option<Secret>,
    /// All of them, the new ones merged.
    others: Option<Vec<(String, String)>>,
    /// Whether it had an object list, be it the same again.
    has_objects: bool,
    objects: Option<ObjectList>,
    /// The part of it that makes no sense.
    left_out: Option<LeftOut>,
}

/// What an Update said of the object list.
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
        Self::from_register_of(request, lifetimes, None)
    }

    /// The same from a device that is known by this endpoint name: it need not say it (LwM2M Core 1.1 section 6.2.1).
    pub fn from_register_of(
        request: &Request,
        lifetimes: &RangeInclusive<Duration>,
        known_as: Option<&str>,
    ) -> Result<Self, Rejection> {
        let items = Items::read(request, lifetimes)?;
        let endpoint = match (items.endpoint, known_as) {
            (Some(given), _) => given,
            (None, Some(known)) => endpoint(known)?,
            (None, None) => return Err(Rejection::bad_request("the query item ep is missing")),
        };
        let (objects, left_out) = ObjectList::parse(request)?;
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
            objects,
            left_out,
        })
    }

    /// Reads and merges an Update. On an error nothing has changed.
    pub fn update(
        &mut self,
        request: &Request,
        lifetimes: &RangeInclusive<Duration>,
    ) -> Result<ObjectListChange, Rejection> {
        let update = self.read_update(request, lifetimes)?;
        Ok(self.apply(update))
    }

    /// Reads an Update and changes nothing. One that brings nothing new costs no more than its own bytes, and where it has
    /// an object list a comparison with the one that is known.
    pub fn read_update(&self, request: &Request, lifetimes: &RangeInclusive<Duration>) -> Result<Update, Rejection> {
        let items = Items::read(request, lifetimes)?;
        if items.endpoint.is_some_and(|endpoint| endpoint != self.endpoint) {
            return Err(Rejection::bad_request("an Update cannot change ep"));
        }
        if items.version.is_some_and(|version| version != self.version()) {
            return Err(Rejection::bad_request("an Update cannot change lwm2m"));
        }
        let (objects, left_out) = ObjectList::parse(request)?;
        Ok(Update {
            lifetime: items.lifetime.filter(|lifetime| *lifetime != self.lifetime),
            binding: items.binding.filter(|binding| self.binding() != Some(binding.as_str())),
            queue: items.queue && !self.queue,
            password: items.password.filter(|password| self.password() != Some(password)),
            others: self.merged(items.others)?,
            has_objects: objects.is_some(),
            objects: objects.filter(|objects| self.objects.as_ref() != Some(objects)),
            left_out,
        })
    }

    /// Merges an Update that was read for this registration.
    pub fn apply(&mut self, update: Update) -> ObjectListChange {
        let change = update.object_list();
        let Update { lifetime, binding, queue, password, others, has_objects: _, objects, left_out } = update;
        self.lifetime = lifetime.unwrap_or(self.lifetime);
        self.queue |= queue;
        self.binding = binding.or(self.binding.take());
        self.password = password.or(self.password.take());
        if let Some(others) = others {
            self.others = others;
        }
        if objects.is_some() {
            self.objects = objects;
            self.left_out = left_out;
        }
        change
    }

    /// Takes the part of the link list that makes no sense. There is one after a Register and after an Update that changed
    /// the list, so that a list which a device repeats is told once.
    pub fn take_left_out(&mut self) -> Option<LeftOut> {
        self.left_out.take()
    }

    /// Returns the bytes that the registration takes in memory, about: its object list with attributes, its query items
    /// and their bookkeeping.
    pub fn size(&self) -> usize {
        self.size_after(&Update::default())
    }

    /// Returns the bytes that the registration will take in memory once this Update is merged.
    pub fn size_after(&self, update: &Update) -> usize {
        let length = |newer: Option<&str>, older: Option<&str>| newer.or(older).map_or(0, str::len);
        let password = update.password.as_ref().or(self.password.as_ref());
        let others = update.others.as_ref().unwrap_or(&self.others);
        let objects = update.objects.as_ref().or(self.objects.as_ref());
        self.endpoint.len()
            + length(None, self.version.as_deref())
            + length(update.binding.as_deref(), self.binding())
            + length(password.map(Secret::reveal), None)
            + others.iter().map(|(name, value)| ENTRY + name.len() + value.len()).sum::<usize>()
            + objects.map_or(0, ObjectList::size)
    }

    /// Puts back the password, which serialization leaves out.
    pub fn set_password(&mut self, password: Option<Secret>) {
        self.password = password;
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
        let targets = self.objects.iter().flat_map(|objects| objects.targets.iter());
        targets.filter_map(|target| target.parse::<Path>().ok().filter(|path| !path.is_empty()))
    }

    /// The object list as text, the alternate path taken away; `None` when the device sent none.
    pub fn object_list(&self) -> Option<impl Iterator<Item = &str>> {
        self.objects.as_ref().map(|objects| objects.targets.iter())
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

    /// Returns the items with the newer ones in their place, or behind them; `None` if none of these is new.
    fn merged(&self, newer: Vec<(String, String)>) -> Result<Option<Vec<(String, String)>>, Rejection> {
        if newer.iter().all(|(name, value)| self.item(name) == Some(value.as_str())) {
            return Ok(None);
        }
        let mut merged = self.others.clone();
        newer.into_iter().try_for_each(|(name, value)| put(&mut merged, name, value))?;
        Ok(Some(merged))
    }
}

impl Update {
    /// Whether the registration stays as it is: the device said no more than that it is there.
    pub fn is_empty(&self) -> bool {
        let Self { lifetime, binding, queue, password, others, has_objects: _, objects, left_out: _ } = self;
        let items = binding.is_none() && !queue && password.is_none() && others.is_none();
        lifetime.is_none() && items && objects.is_none()
    }

    /// Whether the registration has another lifetime from now on.
    pub fn changes_lifetime(&self) -> bool {
        self.lifetime.is_some()
    }

    fn object_list(&self) -> ObjectListChange {
        match (self.has_objects, &self.objects) {
            (false, _) => ObjectListChange::Absent,
            (true, None) => ObjectListChange::Same,
            (true, Some(_)) => ObjectListChange::Changed,
        }
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
        let mut items = Self::default();
        for item in request.options.all(number::URI_QUERY) {
            if item.len() > MAX_ITEM {
                return Err(Rejection::bad_request("a query item is too long"));
            }
            let Some(item) = text_of_item(item)? else { continue };
            match item.split_once('=') {
                Some((name, value)) if !name.is_empty() => items.take(name, value, lifetimes)?,
                None if item == "Q" => items.take_queue()?,
                // An empty item, or one without `=`, says nothing.
                Some(_) | None => {}
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
        if KNOWN_OTHERS.contains(&name) && self.others.iter().any(|(other, _)| other == name) {
            return Err(twice(name));
        }
        put(&mut self.others, name.to_owned(), value.to_owned())
    }
}

/// An item that is no text says nothing. But it is refused where its name says that it would mean something.
fn text_of_item(item: &[u8]) -> Result<Option<&str>, Rejection> {
    if let Ok(text) = std::str::from_utf8(item) {
        return Ok(Some(text));
    }
    let name = item.split(|byte| *byte == b'=').next().unwrap_or_default();
    let mut known = ["ep", "lt", "lwm2m", "b", "password"].iter().chain(KNOWN_OTHERS);
    if known.any(|known| known.as_bytes() == name) {
        return Err(Rejection::bad_request("a query item is not UTF-8"));
    }
    Ok(None)
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

/// A lifetime of 0 is one without end (LwM2M 1.1 section 6.2.1): the longest that is allowed.
fn lifetime(value: &str, lifetimes: &RangeInclusive<Duration>) -> Result<Duration, Rejection> {
    let seconds = match Value::number(value) {
        Some(Value::Integer(0)) => return Ok(*lifetimes.end()),
        Some(Value::Integer(seconds)) => u64::try_from(seconds).ok(),
        Some(Value::UnsignedInteger(seconds)) => Some(seconds),
        // More digits than 64 bits hold.
        Some(Value::Float(seconds)) if seconds > 0.0 && seconds.fract() == 0.0 => Some(seconds as u64),
        Some(_) | None => None,
    };
    let Some(seconds) = seconds else {
        return Err(Rejection::bad_request("lt is not a whole number of seconds"));
    };
    within(Duration::from_secs(seconds), lifetimes)
}

fn within(lifetime: Duration, lifetimes: &RangeInclusive<Duration>) -> Result<Duration, Rejection> {
    let (min, max, seconds) = (lifetimes.start(), lifetimes.end(), lifetime.as_secs());
    if lifetime < *min {
        let reason = format!("lt is {seconds} s, less than lifetime_min, which is {} s", min.as_secs());
        return Err(Rejection::bad_request(reason));
    }
    if lifetime > *max {
        let reason = format!("lt is {seconds} s, more than lifetime_max, which is {} s", max.as_secs());
        return Err(Rejection::bad_request(reason));
    }
    Ok(lifetime)
}

fn version(value: &str) -> Result<String, Rejection> {
    if VERSIONS.contains(&value) {
        return Ok(value.to_owned());
    }
    Err(Rejection { code: Code::PRECONDITION_FAILED, diagnostic: "LwM2M 1.0 to 1.2".to_owned() })
}

/// Sets an item in the place of an earlier one of its name, or behind all others.
fn put(items: &mut Vec<(String, String)>, name: String, value: String) -> Result<(), Rejection> {
    let known = items.iter().position(|(known, _)| *known == name);
    match known {
        Some(index) => items[index].1 = value,
        None if items.len() < MAX_OTHER_ITEMS => items.push((name, value)),
        None => return Err(Rejection::bad_request(format!("more than {MAX_OTHER_ITEMS} query items"))),
    }
    Ok(())
}

/// Why a payload is no object list. One that calls itself by another format is not of that format, either: so the answer
/// is what RFC 7252 has for it.
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
    /// Reads the payload, whatever its Content-Format says, and how much of it makes no sense.
    fn parse(request: &Request) -> Result<(Option<Self>, Option<LeftOut>), Rejection> {
        let list = link::parse(&request.payload).map_err(|error| no_object_list(request, error))?;
        let (links, left_out) = (list.links, list.left_out);
        if links.is_empty() {
            return Ok((None, left_out));
        }
        let root = links.iter().find(|link| is_root(link));
        let mut list = Self {
            alternate_path: root.map(|link| link.target).filter(|path| !path.is_empty()).unwrap_or("/").to_owned(),
            targets: Texts::default(),
            versions: BTreeMap::new(),
            formats: root.and_then(|link| link.attribute("ct")).map(formats).unwrap_or_default(),
            object_formats: BTreeMap::new(),
        };
        if list.alternate_path.split('/').any(|segment| segment.len() > MAX_SEGMENT) {
            return Err(Rejection::bad_request("a segment of the alternate path is too long"));
        }
        // A link to nowhere says nothing.
        links.iter().filter(|link| !is_root(link) && !link.target.is_empty()).for_each(|link| list.add(link));
        list.targets.shrink();
        Ok((Some(list), left_out))
    }

    /// Returns the bytes that the list takes in memory, about.
    fn size(&self) -> usize {
        let formats = |formats: &[u16]| size_of_val(formats);
        self.alternate_path.len()
            + self.targets.size()
            + formats(&self.formats)
            + self.versions.values().map(|version| ENTRY + version.len()).sum::<usize>()
            + self.object_formats.values().map(|own| ENTRY + formats(own)).sum::<usize>()
    }

    fn add(&mut self, link: &Link<'_>) {
        let target = without_prefix(link.target, &self.alternate_path);
        if let Some(object) = target.parse::<Path>().ok().and_then(|path| path.object()) {
            self.keep_attributes(object, link);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &[&str], payload: &str) -> Request {
        let mut request = Request::new(Code::POST);
        query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
        if !payload.is_empty() {
            request.options.add_uint(number::CONTENT_FORMAT, 40);
            request.payload = payload.as_bytes().to_vec();
        }
        request
    }

    fn lifetimes() -> RangeInclusive<Duration> {
        Duration::from_secs(1)..=Duration::from_secs(86_400)
    }

    fn register(query: &[&str], payload: &str) -> Result<Registration, Rejection> {
        Registration::from_register(&request(query, payload), &lifetimes())
    }

    fn registered() -> Registration {
        register(&["ep=dev-7", "lt=300", "lwm2m=1.0", "b=U", "imei=1"], "</1/0>,</3/0>").unwrap()
    }

    fn object_list(registration: &Registration) -> Vec<&str> {
        registration.object_list().unwrap().collect()
    }

    #[test]
    fn a_register_request_says_who_the_device_is() {
        let query = ["ep=dev-7", "lt=300", "lwm2m=1.1", "b=UQ", "imei=99", "password=pw1", "x=a=b", "sms="];
        let registration =
            register(&query, "</>;rt=\"oma.lwm2m\";ct=\"110 112 x\",</1>;ver=1.1,</1/0>,</3/0>;ct=11542,</x>").unwrap();
        assert_eq!(registration.endpoint, "dev-7");
        assert_eq!(registration.lifetime, Duration::from_secs(300));
        assert_eq!((registration.version(), registration.is_1_1_or_newer()), ("1.1", true));
        assert_eq!((registration.binding(), registration.queue_mode()), (Some("UQ"), true));
        assert_eq!(registration.items().collect::<Vec<_>>(), [("imei", "99"), ("x", "a=b"), ("sms", "")]);
        assert_eq!(registration.password().map(Secret::reveal), Some("pw1"));
        assert_eq!(registration.item("password"), None);
        assert_eq!(object_list(&registration), ["/1", "/1/0", "/3/0", "/x"]);
        let paths: Vec<_> = registration.object_paths().map(|path| path.to_string()).collect();
        assert_eq!(paths, ["/1", "/1/0", "/3/0"]);
        assert_eq!(registration.formats(), [110, 112]);
        assert_eq!(registration.object_formats(3), [11542]);
        assert_eq!(registration.object_formats(1), [110, 112]);
        assert_eq!((registration.object_version(1), registration.object_version(3)), (Some("1.1"), None));
        assert!(!format!("{registration:?}").contains("pw1"));
    }

    #[test]
    fn what_is_missing_has_its_default() {
        let registration = register(&["ep=dev-7"], "").unwrap();
        assert_eq!(registration.lifetime, Duration::from_secs(86_400));
        assert_eq!((registration.version(), registration.is_1_1_or_newer()), ("1.0", false));
        assert!(!registration.queue_mode());
        assert!(registration.object_list().is_none());
        assert_eq!(registration.alternate_path(), None);
        assert_eq!(registration.alternate_segments().count(), 0);
    }

    #[test]
    fn links_lose_the_alternate_path_that_they_have() {
        let registration =
            register(&["ep=a"], "</m2m/v1>;rt=\"other oma.lwm2m\",</m2m/v1/1/0>,</m2m/v10/3/0>,</4/0>").unwrap();
        assert_eq!(registration.alternate_path(), Some("/m2m/v1"));
        assert_eq!(registration.alternate_segments().collect::<Vec<_>>(), ["m2m", "v1"]);
        assert_eq!(object_list(&registration), ["/1/0", "/m2m/v10/3/0", "/4/0"]);
    }

    #[test]
    fn a_bad_query_item_is_answered_with_its_code() {
        for (query, code) in [
            (&["lt=300"][..], Code::BAD_REQUEST),
            (&["ep="], Code::BAD_REQUEST),
            (&["ep=a", "ep=a"], Code::BAD_REQUEST),
            (&["ep=a", "Q=1"], Code::BAD_REQUEST),
            (&["ep=a", "Q", "Q"], Code::BAD_REQUEST),
            (&["ep=a", "imei=1", "imei=1"], Code::BAD_REQUEST),
            (&["ep=a", "password=1", "password=2"], Code::BAD_REQUEST),
            (&["ep=a", "lt="], Code::BAD_REQUEST),
            (&["ep=a", "lt=-1"], Code::BAD_REQUEST),
            (&["ep=a", "lt=soon"], Code::BAD_REQUEST),
            (&["ep=a", "lt=1.5"], Code::BAD_REQUEST),
            (&["ep=a", "lt=86401"], Code::BAD_REQUEST),
            (&["ep=a", "lt=99999999999999999999"], Code::BAD_REQUEST),
            (&["ep=a", "lwm2m=2.0"], Code::PRECONDITION_FAILED),
            (&["ep=a", "lwm2m="], Code::PRECONDITION_FAILED),
            (&["ep=a", "lwm2m=1.10"], Code::PRECONDITION_FAILED),
        ] {
            assert_eq!(register(query, "").map_err(|rejection| rejection.code), Err(code), "{query:?}");
        }
        for known in [&b"ep=\xff"[..], b"lt=\xff", b"imei=\xff"] {
            let mut not_text = request(&["ep=a"], "");
            not_text.options.add(number::URI_QUERY, known);
            assert!(Registration::from_register(&not_text, &lifetimes()).is_err(), "{known:?}");
        }
    }

    #[test]
    fn a_query_item_that_says_nothing_is_passed_over() {
        let mut register = request(&["", "ep=dev-7", "bogus", "=x", "=", "lt=300", "Q"], "</3/0>");
        register.options.add(number::URI_QUERY, b"x=\xff");
        register.options.add(number::URI_QUERY, b"\xff");
        let registration = Registration::from_register(&register, &lifetimes()).unwrap();
        assert_eq!((registration.endpoint.as_str(), registration.lifetime), ("dev-7", Duration::from_secs(300)));
        assert_eq!((registration.queue_item(), registration.items().count()), (true, 0));
        let mut registration = registered();
        assert_eq!(registration.update(&request(&["", "bogus"], ""), &lifetimes()), Ok(ObjectListChange::Absent));
        assert_eq!(registration, registered());
    }

    #[test]
    fn a_lifetime_has_the_forms_of_a_number_and_zero_is_the_longest() {
        for (text, seconds) in
            [("300", 300), ("+300", 300), ("300.0", 300), (" 300", 300), ("86400", 86_400), ("0", 86_400)]
        {
            let registration = register(&["ep=a", &format!("lt={text}")], "").unwrap();
            assert_eq!(registration.lifetime, Duration::from_secs(seconds), "{text}");
        }
        let mut registration = registered();
        registration.update(&request(&["lt=0"], ""), &lifetimes()).unwrap();
        assert_eq!(registration.lifetime, Duration::from_secs(86_400));
    }

    #[test]
    fn a_lifetime_out_of_bounds_is_refused_with_the_key_that_sets_them() {
        let lifetimes = Duration::from_secs(60)..=Duration::from_secs(86_400);
        for (lt, reason) in [
            ("lt=86401", "lt is 86401 s, more than lifetime_max, which is 86400 s"),
            ("lt=1", "lt is 1 s, less than lifetime_min, which is 60 s"),
            ("lt=99999999999999999999", "lt is 18446744073709551615 s, more than lifetime_max, which is 86400 s"),
        ] {
            let rejection = Registration::from_register(&request(&["ep=a", lt], ""), &lifetimes).unwrap_err();
            assert_eq!((rejection.code, rejection.diagnostic.as_str()), (Code::BAD_REQUEST, reason));
            let mut registration = registered();
            assert_eq!(registration.update(&request(&[lt], ""), &lifetimes), Err(rejection));
        }
    }

    #[test]
    fn an_endpoint_name_has_255_bytes_at_most() {
        assert!(register(&[&format!("ep={}", "x".repeat(255))], "").is_ok());
        assert!(register(&[&format!("ep={}", "x".repeat(256))], "").is_err());
    }

    #[test]
    fn an_object_list_is_taken_whatever_its_format_is_called() {
        for content_format in [&[0][..], &[50], &[40], &[], &[0xff; 5]] {
            for (payload, objects) in [("</1/0>,</3/0>", Some(2)), ("", None)] {
                let mut register = request(&["ep=a"], "");
                register.options.add(number::CONTENT_FORMAT, content_format);
                register.payload = payload.as_bytes().to_vec();
                let registration = Registration::from_register(&register, &lifetimes()).unwrap();
                assert_eq!(registration.object_list().map(Iterator::count), objects, "{content_format:?}");
            }
        }
    }

    #[test]
    fn a_payload_that_is_no_list_at_all_is_refused() {
        assert_eq!(register(&["ep=a"], "</1").map_err(|rejection| rejection.code), Err(Code::BAD_REQUEST));
        assert_eq!(registered().update(&request(&[], "x"), &lifetimes()).unwrap_err().code, Code::BAD_REQUEST);
        let mut json = request(&["ep=a"], "");
        json.options.add_uint(number::CONTENT_FORMAT, 50);
        json.payload = b"{}".to_vec();
        let rejection = Registration::from_register(&json, &lifetimes()).unwrap_err();
        assert_eq!(rejection.code, Code::UNSUPPORTED_CONTENT_FORMAT);
    }

    #[test]
    fn what_makes_no_sense_in_a_list_is_left_out_and_told_once() {
        let list = "</>;ct=60 110;rt=\"oma.lwm2m\",</1>;ver= \"1.1\",/2,</3/0>;=,<>,</5,";
        let mut registration = register(&["ep=a"], list).unwrap();
        assert_eq!(object_list(&registration), ["/1", "/3/0"]);
        assert_eq!((registration.object_version(1), registration.object_formats(3)), (Some("1.1"), &[60, 110][..]));
        assert_eq!(registration.take_left_out().map(|left_out| left_out.count), Some(3));
        assert_eq!(registration.take_left_out(), None);

        assert_eq!(registration.update(&request(&[], list), &lifetimes()), Ok(ObjectListChange::Same));
        assert_eq!(registration.take_left_out(), None, "the same list again");
        assert_eq!(registration.update(&request(&[], "</1>,/2"), &lifetimes()), Ok(ObjectListChange::Changed));
        assert_eq!(registration.take_left_out().map(|left_out| left_out.count), Some(1));
    }

    #[test]
    fn a_root_link_to_nowhere_is_the_root() {
        let registration = register(&["ep=a"], "<>;rt=\"oma.lwm2m\";ct=112,</3/0>").unwrap();
        assert_eq!((registration.alternate_path(), registration.formats()), (Some("/"), &[112][..]));
        assert_eq!(object_list(&registration), ["/3/0"]);
    }

    #[test]
    fn an_update_is_merged() {
        let mut registration = registered();
        let change = registration.update(&request(&["lt=900", "b=UQ", "imei=2", "color=red"], ""), &lifetimes());
        assert_eq!(change, Ok(ObjectListChange::Absent));
        assert_eq!(registration.lifetime, Duration::from_secs(900));
        assert!(registration.queue_mode());
        assert_eq!(registration.items().collect::<Vec<_>>(), [("imei", "2"), ("color", "red")]);
        assert_eq!(object_list(&registration), ["/1/0", "/3/0"]);
    }

    #[test]
    fn an_update_says_whether_the_object_list_is_another() {
        let mut registration = registered();
        let mut update = |payload| registration.update(&request(&["ep=dev-7", "lwm2m=1.0"], payload), &lifetimes());
        assert_eq!(update("</1/0>, </3/0>"), Ok(ObjectListChange::Same));
        assert_eq!(update("</1/0>,</3/0>,</6/0>"), Ok(ObjectListChange::Changed));
        assert_eq!(update("</1/0>,</3/0>,</6/0>"), Ok(ObjectListChange::Same));
        assert_eq!(update(""), Ok(ObjectListChange::Absent));
        assert_eq!(object_list(&registration), ["/1/0", "/3/0", "/6/0"]);
    }

    #[test]
    fn a_bad_update_changes_nothing() {
        for (query, payload) in [
            (&["lt=900", "Q=1"][..], ""),
            (&["lt=-1", "color=red"], ""),
            (&["lt=900", "ep=other"], ""),
            (&["lt=900", "lwm2m=1.1"], ""),
            (&["lt=900", "color=red"], "x"),
        ] {
            let mut registration = registered();
            assert!(registration.update(&request(query, payload), &lifetimes()).is_err(), "{query:?}");
            assert_eq!(registration, registered(), "{query:?}");
        }
    }

    #[test]
    fn an_update_that_brings_nothing_new_is_empty() {
        let registration = registered();
        let read = |query: &[&str], payload| registration.read_update(&request(query, payload), &lifetimes()).unwrap();
        for (query, payload) in
            [(&[][..], ""), (&["lt=300", "b=U", "imei=1", "ep=dev-7", "lwm2m=1.0"], ""), (&[], "</1/0>,</3/0>")]
        {
            assert!(read(query, payload).is_empty(), "{query:?} {payload}");
        }
        for (query, payload) in [
            (&["lt=301"][..], ""),
            (&["b=UQ"], ""),
            (&["Q"], ""),
            (&["imei=2"], ""),
            (&["color=red"], ""),
            (&["password=p"], ""),
            (&[], "</1/0>"),
        ] {
            assert!(!read(query, payload).is_empty(), "{query:?} {payload}");
        }
    }

    #[test]
    fn the_size_of_a_registration_counts_all_that_is_kept_of_it() {
        let size = |query: &[&str], payload: &str| {
            let request = request(query, payload);
            Registration::from_register(&request, &lifetimes()).unwrap().size()
        };
        let empty = size(&["ep=a"], "");
        for (query, payload, least) in [
            (&["ep=aaaaaaaaaa"][..], "", 9),
            (&["ep=a", "x=0123456789"], "", 11),
            (&["ep=a", "password=0123456789"], "", 10),
            (&["ep=a", "b=UQSTU"], "", 5),
            (&["ep=a"], "</1/0>,</3/0>", 8),
            (&["ep=a"], "</1>;ver=1.10000", 9),
            (&["ep=a"], "</1>;ct=\"1 2 3 4\"", 10),
            (&["ep=a"], "</long/alternate/path>;rt=\"oma.lwm2m\";ct=\"1 2 3\"", 25),
        ] {
            assert!(size(query, payload) >= empty + least, "{query:?} {payload}");
        }
        // A list costs hardly more than its bytes.
        let links: String = (0..2000).map(|instance| format!(",</3303/{instance}>")).collect();
        let kept = size(&["ep=a"], &links[1..]);
        assert!((links.len() / 2..=links.len() * 5 / 4).contains(&kept), "{kept} of {}", links.len());
    }

    #[test]
    fn the_size_after_an_update_is_the_size_once_it_is_merged() {
        for (query, payload) in [
            (&["lt=900", "b=UQ", "imei=22", "color=red", "password=pw"][..], "</1/0>;ver=1.1,</3/0>,</3303/0>;ct=60"),
            (&[], "</1/0>"),
            (&[], ""),
        ] {
            let mut registration = registered();
            let update = registration.read_update(&request(query, payload), &lifetimes()).unwrap();
            let expected = registration.size_after(&update);
            registration.apply(update);
            assert_eq!(registration.size(), expected);
        }
    }

    #[test]
    fn updates_cannot_make_a_registration_grow_without_end() {
        let mut registration = registered();
        let grown = (0..100).all(|at| registration.update(&request(&[&format!("k{at}=v")], ""), &lifetimes()).is_ok());
        assert!(!grown);
        assert_eq!(registration.items().count(), MAX_OTHER_ITEMS);
    }
}
