//! The registration interface: what a device announces in Register and Update (LwM2M 1.0 section 5.3, 1.1 section 6.2).
//! 6.2).

mod object_list;
mod query;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use lwm2m_base::secret::Secret;

use crate::coap::{Code, Request};

use super::content_format::FormatSet;
use super::learned_formats::LearnedFormats;
use super::link::LeftOut;
use super::model::{ObjectVersion, Version};
use super::path::Path;

pub use self::object_list::ObjectList;
use self::object_list::without_prefix;
pub use self::query::PASSWORD_ITEM;
use self::query::{Items, endpoint, put, within};

const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);
const DEFAULT_VERSION: &str = "1.0";
/// Estimates the bytes that an entry of a map or list occupies beside its own text.
const ENTRY: usize = 48;

/// Holds what a device announced in its Register request and in all Updates since. It is serialized without the
/// password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    pub endpoint: String,
    /// Counts whole seconds.
    pub lifetime: Duration,
    version: Option<String>,
    binding: Option<String>,
    /// Tells whether the device sent the item `Q` (LwM2M 1.1).
    queue: bool,
    #[serde(skip)]
    password: Option<Secret>,
    /// Keeps `imei`, `sms` and all other items in the order of their first appearance.
    others: Vec<(String, String)>,
    objects: Option<ObjectList>,
    /// Holds the content formats that the device has rejected or accepted in its answers.
    #[serde(default, skip_serializing_if = "LearnedFormats::is_empty")]
    learned_formats: LearnedFormats,
    /// Counts the parts of the newest link list that could not be read, until the caller takes the count.
    #[serde(skip)]
    left_out: Option<LeftOut>,
}

/// Holds the settings by which a Register or an Update is read.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationRules<'a> {
    /// Bounds `lt`.
    pub lifetimes: &'a RangeInclusive<Duration>,
    /// Tells whether all attributes of the links are kept, for reports.
    pub keep_attributes: bool,
}

/// Describes a 4.xx response. Its diagnostic payload is short, because the sender address of the request may be forged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub diagnostic: String,
}

/// Holds the parts of an Update request that differ from the registration.
#[derive(Debug, Default)]
pub struct Update {
    lifetime: Option<Duration>,
    binding: Option<String>,
    queue: bool,
    password: Option<Secret>,
    /// Keeps all items, with the new ones merged.
    others: Option<Vec<(String, String)>>,
    /// Tells whether the Update had an object list, changed or not.
    has_objects: bool,
    objects: Option<ObjectList>,
    /// Counts the parts of that list that could not be read.
    left_out: Option<LeftOut>,
}

/// Tells what an Update did to the object list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectListChange {
    /// The Update had no object list.
    Absent,
    /// The Update repeated the known list.
    Same,
    /// The Update had another list.
    Changed,
}

impl Registration {
    /// Reads a Register request. It may omit `ep` if the endpoint name is known from the DTLS identity of the device
    /// (LwM2M Core 1.1 section 6.2.1).
    pub fn from_register<'a>(
        request: &Request,
        rules: impl Into<RegistrationRules<'a>>,
        known_as: Option<&str>,
    ) -> Result<Self, Rejection> {
        let RegistrationRules { lifetimes, keep_attributes } = rules.into();
        let items = Items::read(request, lifetimes)?;
        let endpoint = match (items.endpoint, known_as) {
            (Some(given), _) => given,
            (None, Some(known)) => endpoint(known)?,
            (None, None) => return Err(Rejection::bad_request("the query item ep is missing")),
        };
        let (objects, left_out) = ObjectList::parse(request, keep_attributes)?;
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
            learned_formats: LearnedFormats::default(),
            left_out,
        })
    }

    /// Reads and merges an Update. An error leaves the registration unchanged.
    pub fn update<'a>(
        &mut self,
        request: &Request,
        rules: impl Into<RegistrationRules<'a>>,
    ) -> Result<ObjectListChange, Rejection> {
        let update = self.read_update(request, rules)?;
        Ok(self.apply(update))
    }

    /// Reads an Update and changes nothing. The cost of an Update without news is that of its own bytes, and of one
    /// comparison with the known object list.
    pub(crate) fn read_update<'a>(
        &self,
        request: &Request,
        rules: impl Into<RegistrationRules<'a>>,
    ) -> Result<Update, Rejection> {
        let RegistrationRules { lifetimes, keep_attributes } = rules.into();
        let items = Items::read(request, lifetimes)?;
        if items.endpoint.is_some_and(|endpoint| endpoint != self.endpoint) {
            return Err(Rejection::bad_request("an Update cannot change ep"));
        }
        if items.version.is_some_and(|version| version != self.version()) {
            return Err(Rejection::bad_request("an Update cannot change lwm2m"));
        }
        let (objects, left_out) = ObjectList::parse(request, keep_attributes)?;
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
            let announced = |list: &ObjectList| (list.formats, list.object_formats.clone());
            if objects.as_ref().map(announced) != self.objects.as_ref().map(announced) {
                self.learned_formats = LearnedFormats::default();
            }
            self.objects = objects;
            self.left_out = left_out;
        }
        change
    }

    /// Takes the count of unreadable parts of the link list. Only a Register and an Update that changed the list set
    /// it, so that a list which a device repeats is reported once.
    pub(crate) fn take_left_out(&mut self) -> Option<LeftOut> {
        self.left_out.take()
    }

    /// Returns the approximate number of bytes that the registration occupies in memory: its object list with
    /// attributes, its query items and their bookkeeping.
    pub fn size(&self) -> usize {
        self.size_after(&Update::default())
    }

    /// Returns the approximate number of bytes that the registration will occupy once this Update is merged.
    pub(crate) fn size_after(&self, update: &Update) -> usize {
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

    /// Returns a copy with the parts that decoding needs: the endpoint name, the alternate path, and the versions of
    /// LwM2M and of the objects. It has no password, no query items and no links.
    pub(crate) fn for_decoding(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            lifetime: self.lifetime,
            version: self.version.clone(),
            binding: None,
            queue: false,
            password: None,
            others: Vec::new(),
            objects: self.objects.as_ref().map(ObjectList::without_links),
            learned_formats: LearnedFormats::default(),
            left_out: None,
        }
    }

    /// Sets the password, which serialization omits.
    pub(crate) fn set_password(&mut self, password: Option<Secret>) {
        self.password = password;
    }

    /// Returns whether the device uses queue mode: `b` contains Q, or the item `Q` is present.
    pub fn queue_mode(&self) -> bool {
        self.queue || self.binding().is_some_and(|binding| binding.contains('Q'))
    }

    /// Returns the value of a query item without meaning for this program, such as `imei` or `apn`.
    pub fn item(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns all such items in the order of their first appearance.
    pub fn items(&self) -> impl Iterator<Item = (&str, &str)> {
        self.others.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the profile ID, which names the object list of the device (item `pid`, LwM2M Core 1.2 section 6.2.1).
    pub(crate) fn profile_id(&self) -> Option<&str> {
        self.item("pid").filter(|pid| self.supports(Version::LWM2M_1_2) && !pid.is_empty())
    }

    /// Returns the object list with its attributes, or `None` if the device has none.
    pub fn objects(&self) -> Option<&ObjectList> {
        self.objects.as_ref()
    }

    /// Sets the object list of a device that named it by its profile ID.
    pub(crate) fn adopt_objects(&mut self, objects: ObjectList) {
        self.objects = Some(objects);
    }

    /// Drops the attributes of the links, which an earlier process may have kept for reports.
    pub(crate) fn forget_attributes(&mut self) {
        if let Some(objects) = &mut self.objects {
            objects.attributes.clear();
        }
    }

    /// Returns the query item `password`, which no report repeats.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Returns the item `lwm2m` as given, or `1.0` if it is absent.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or(DEFAULT_VERSION)
    }

    /// Returns whether the device registered as this version of LwM2M or a newer one.
    pub(crate) fn supports(&self, lwm2m: Version) -> bool {
        self.lwm2m() >= lwm2m
    }

    /// Returns the item `b` as given.
    pub fn binding(&self) -> Option<&str> {
        self.binding.as_deref()
    }

    /// Returns whether the item `Q` was given (LwM2M 1.1).
    pub(crate) fn queue_item(&self) -> bool {
        self.queue
    }

    /// Returns the LwM2M paths of the object list in its order, and skips other targets.
    pub fn object_paths(&self) -> impl Iterator<Item = Path> + '_ {
        let targets = self.objects.iter().flat_map(|objects| objects.targets.iter());
        targets.filter_map(|target| target.parse::<Path>().ok().filter(|path| !path.is_empty()))
    }

    /// Returns the targets of the object list without the alternate path, or `None` if the device sent no list.
    pub fn object_list(&self) -> Option<impl Iterator<Item = &str>> {
        self.objects.as_ref().map(|objects| objects.targets.iter())
    }

    /// Returns the attributes of each link that has any, by its target, if they are kept. The root link has the target
    /// `/`.
    pub(crate) fn object_attributes(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        static NONE: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        self.objects.as_ref().map_or(&NONE, |objects| &objects.attributes)
    }

    /// Returns the alternate path as the device wrote it, or `None` if it sent no object list.
    pub fn alternate_path(&self) -> Option<&str> {
        self.objects.as_ref().map(|objects| objects.alternate_path.as_str())
    }

    /// Returns the alternate path with a slash in front and none behind, or an empty text for the root.
    pub(crate) fn alternate_prefix(&self) -> String {
        self.alternate_segments().map(|segment| format!("/{segment}")).collect()
    }

    /// Returns the segments of the alternate path, which every request path begins with.
    pub(crate) fn alternate_segments(&self) -> impl Iterator<Item = &str> {
        let path = self.alternate_path().unwrap_or("/");
        path.split('/').filter(|segment| !segment.is_empty())
    }

    /// Removes the alternate path from the front of a path that the device wrote.
    pub(crate) fn without_alternate_path<'p>(&self, path: &'p str) -> &'p str {
        without_prefix(path, self.alternate_path().unwrap_or("/"))
    }

    /// Returns the content formats that the root link announces (attribute `ct`).
    pub fn formats(&self) -> FormatSet {
        self.objects.as_ref().map_or(FormatSet::default(), |objects| objects.formats)
    }

    /// Returns the content formats that the link of this object announces, or else those of the root link.
    pub(crate) fn object_formats(&self, object: u16) -> FormatSet {
        let own = self.objects.as_ref().and_then(|objects| objects.object_formats.get(&object));
        own.copied().unwrap_or(self.formats())
    }

    pub(super) fn learned_formats(&self) -> &LearnedFormats {
        &self.learned_formats
    }

    pub(super) fn learned_formats_mut(&mut self) -> &mut LearnedFormats {
        &mut self.learned_formats
    }

    /// Returns the version of this object: the attribute `ver` of its links, or else what the LwM2M version implies.
    pub fn object_version(&self, object: u16) -> ObjectVersion {
        let ver = self.objects.as_ref().and_then(|objects| objects.versions.get(&object));
        ObjectVersion::of(object, ver.map(String::as_str), self.lwm2m())
    }

    /// Returns the objects that have an attribute `ver`, in the order of their ids.
    pub(crate) fn versioned_objects(&self) -> impl Iterator<Item = u16> + '_ {
        self.objects.iter().flat_map(|objects| objects.versions.keys().copied())
    }

    fn lwm2m(&self) -> Version {
        self.version().parse().unwrap_or(Version::FIRST)
    }

    /// Returns all items with the newer ones merged, or `None` if none of them is new.
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
    /// Returns whether the Update leaves the registration unchanged.
    pub fn is_empty(&self) -> bool {
        let Self { lifetime, binding, queue, password, others, has_objects: _, objects, left_out: _ } = self;
        let items = binding.is_none() && !queue && password.is_none() && others.is_none();
        lifetime.is_none() && items && objects.is_none()
    }

    /// Returns whether the Update sets another lifetime.
    pub(crate) fn changes_lifetime(&self) -> bool {
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

/// Reads requests by these bounds of `lt`, and keeps no attributes.
impl<'a> From<&'a RangeInclusive<Duration>> for RegistrationRules<'a> {
    fn from(lifetimes: &'a RangeInclusive<Duration>) -> Self {
        Self { lifetimes, keep_attributes: false }
    }
}

impl Rejection {
    fn bad_request(diagnostic: impl Into<String>) -> Self {
        Self { code: Code::BAD_REQUEST, diagnostic: diagnostic.into() }
    }
}

#[cfg(test)]
mod tests;
