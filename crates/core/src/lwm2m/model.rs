//! Holds object definitions: the names, types and operations of the resources of an object.

pub mod xml;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::path::Path;
use super::value::{ResourceType, Value};

/// Holds the loaded definitions of objects, with several versions of one object side by side.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Lists the versions of each object, the newest first.
    objects: BTreeMap<u16, Vec<Object>>,
}

/// Defines one version of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub id: u16,
    pub version: Version,
    pub name: String,
    /// Tells whether the object can have more than one instance.
    pub multiple: bool,
    pub mandatory: bool,
    resources: BTreeMap<u16, Resource>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub id: u16,
    pub name: String,
    pub operations: Operations,
    /// Tells whether the resource has resource instances.
    pub multiple: bool,
    pub mandatory: bool,
    /// Is `None` for a resource that is only executed. A few definitions omit the type of other resources, too.
    pub resource_type: Option<ResourceType>,
    pub range: Option<Range>,
    /// Holds the text of the definition, which may be empty.
    pub units: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Operations {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

/// Bounds a number. Both ends are included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub min: f64,
    pub max: f64,
}

/// Holds the version of an object. It is 1.0 where a definition names none (LwM2M 1.1 section 7.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

/// Lists the loaded versions of an object if the device announced another major number. Its text continues the words
/// "has no definition".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherVersions {
    announced: Option<Version>,
    loaded: Vec<Version>,
}

/// Describes a definition file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenFile {
    pub file: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelError {
    #[error("object {0} version {1} is defined twice, and differently")]
    Twice(u16, Version),
    #[error("resource {1} of object {0} is defined twice")]
    ResourceTwice(u16, u16),
}

/// Reports a text that is no version. A version is `major.minor` in digits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no version")]
pub struct VersionError(pub String);

impl Model {
    /// Reads the contents of definition files, each with its name. A broken file does not affect the others.
    pub fn from_files(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> (Self, Vec<BrokenFile>) {
        let mut model = Self::default();
        let mut broken = Vec::new();
        for (file, content) in files {
            if let Err(reason) = model.insert_file(&content) {
                broken.push(BrokenFile { file, reason });
            }
        }
        (model, broken)
    }

    /// Adds one definition. The same definition again is no error, because registries keep the newest version twice.
    pub fn insert(&mut self, object: Object) -> Result<(), ModelError> {
        let versions = self.objects.entry(object.id).or_default();
        match versions.binary_search_by(|known| object.version.cmp(&known.version)) {
            Ok(at) if versions[at].means_the_same(&object) => Ok(()),
            Ok(_) => Err(ModelError::Twice(object.id, object.version)),
            Err(at) => {
                versions.insert(at, object);
                Ok(())
            }
        }
    }

    /// Returns all definitions by object id, the newest version of one object first.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().flatten()
    }

    /// The definition for a device that announced this version: that version, else the newest one with the same major
    /// number. A device that announced none has 1.0 (LwM2M 1.1 section 7.2.2) or, where no version 1 is loaded, the newest
    /// there is.
    pub fn object(&self, id: u16, announced: Option<&str>) -> Option<&Object> {
        self.candidates(id, announced).next()
    }

    /// Returns the resource in that definition, or else in another version with the same major number: devices mix
    /// them.
    pub fn resource(&self, object: u16, announced: Option<&str>, resource: u16) -> Option<&Resource> {
        self.candidates(object, announced).find_map(|object| object.resource(resource))
    }

    /// Returns the loaded versions of the object of this path if they explain why the path has no definition.
    pub fn other_versions(&self, path: Path, announced: Option<&str>) -> OtherVersions {
        let Some(announced) = announced.and_then(|text| Version::from_str(text).ok()) else {
            return OtherVersions::default();
        };
        let of_object = path.object().and_then(|id| self.objects.get(&id)).map_or(&[][..], Vec::as_slice);
        if of_object.iter().any(|object| object.version.major == announced.major) {
            return OtherVersions::default();
        }
        OtherVersions { announced: Some(announced), loaded: of_object.iter().map(|object| object.version).collect() }
    }

    /// The best definition first. What a device announces in a form that is no version says nothing.
    fn candidates(&self, id: u16, announced: Option<&str>) -> impl Iterator<Item = &Object> {
        let of_object = self.objects.get(&id).map_or(&[][..], Vec::as_slice);
        let announced = announced.and_then(|text| Version::from_str(text).ok());
        let major = announced.map_or_else(|| default_major(of_object), |version| version.major);
        let exact = of_object.iter().filter(move |object| Some(object.version) == announced);
        let others = of_object
            .iter()
            .filter(move |object| object.version.major == major)
            .filter(move |object| Some(object.version) != announced);
        exact.chain(others)
    }

    fn insert_file(&mut self, content: &[u8]) -> Result<(), String> {
        let objects = xml::parse(content).map_err(|error| error.to_string())?;
        objects.into_iter().try_for_each(|object| self.insert(object)).map_err(|error| error.to_string())
    }
}

/// The major number for a device that announces none: 1 or, where that is not loaded, the newest. Some objects of the
/// registry have no version 1 at all.
fn default_major(newest_first: &[Object]) -> u16 {
    let has_first = newest_first.iter().any(|object| object.version.major == Version::FIRST.major);
    newest_first.first().filter(|_| !has_first).map_or(Version::FIRST, |newest| newest.version).major
}

impl fmt::Display for OtherVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(announced) = self.announced.filter(|_| !self.loaded.is_empty()) else { return Ok(()) };
        let loaded: Vec<_> = self.loaded.iter().map(Version::to_string).collect();
        write!(f, " in version {announced}, which the device announced; loaded: {}", loaded.join(", "))
    }
}

impl Object {
    pub fn new(id: u16, version: Version, name: impl Into<String>) -> Self {
        Self { id, version, name: name.into(), multiple: false, mandatory: false, resources: BTreeMap::new() }
    }

    pub fn insert(&mut self, resource: Resource) -> Result<(), ModelError> {
        let (object, id) = (self.id, resource.id);
        match self.resources.insert(id, resource) {
            None => Ok(()),
            Some(_) => Err(ModelError::ResourceTwice(object, id)),
        }
    }

    /// Returns the resources by their ids.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    pub fn resource(&self, id: u16) -> Option<&Resource> {
        self.resources.get(&id)
    }

    /// Returns whether both definitions lead to the same messages. Names and units do not matter.
    fn means_the_same(&self, other: &Object) -> bool {
        let key = |resource: &Resource| (resource.id, resource.resource_type, resource.multiple, resource.operations);
        self.multiple == other.multiple && self.resources().map(key).eq(other.resources().map(key))
    }
}

impl Resource {
    /// Returns whether the resource can have a value. A resource that is only executed has none.
    pub fn has_value(&self) -> bool {
        self.resource_type.is_some() || !self.operations.execute
    }
}

impl Range {
    /// Reads a range of the form `min..max` in numbers. Ranges in definitions are free text, and other forms are
    /// ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let (min, max) = text.split_once("..")?;
        let number = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let numeral = digits.starts_with(|first: char| first.is_ascii_digit());
            if plain && numeral { text.parse::<f64>().ok() } else { None }
        };
        let range = Self { min: number(min.trim())?, max: number(max.trim())? };
        (range.min <= range.max).then_some(range)
    }

    /// Returns whether a number lies within the range. Any other value does.
    pub fn allows(&self, value: &Value) -> bool {
        let number = match value {
            Value::Integer(value) | Value::Time(value) => *value as f64,
            Value::UnsignedInteger(value) => *value as f64,
            Value::Float(value) => *value,
            Value::String(_) | Value::CoreLink(_) | Value::Boolean(_) | Value::Opaque(_) | Value::ObjectLink(_) => {
                return true;
            }
        };
        (self.min..=self.max).contains(&number)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

impl Version {
    pub const FIRST: Version = Version { major: 1, minor: 0 };
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError(text.chars().take(32).collect());
        let number = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            if plain { text.parse().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Writes `R`, `W`, `RW` or `E`, and nothing for a resource that no server can reach.
impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "R"), (self.write, "W"), (self.execute, "E")];
        letters.iter().filter(|(allowed, _)| *allowed).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(id: u16, version: &str, resources: &[(u16, ResourceType)]) -> Object {
        let mut object = Object::new(id, version.parse().unwrap(), "Thing");
        for (id, resource_type) in resources {
            object.insert(resource(*id, *resource_type)).unwrap();
        }
        object
    }

    fn resource(id: u16, resource_type: ResourceType) -> Resource {
        Resource {
            id,
            name: String::new(),
            operations: Operations::default(),
            multiple: false,
            mandatory: false,
            resource_type: Some(resource_type),
            range: None,
            units: String::new(),
        }
    }

    fn model() -> Model {
        let mut model = Model::default();
        model.insert(object(7, "1.0", &[(0, ResourceType::String), (1, ResourceType::Float)])).unwrap();
        model.insert(object(7, "2.0", &[(0, ResourceType::Boolean)])).unwrap();
        model.insert(object(7, "1.2", &[(0, ResourceType::Integer), (2, ResourceType::Time)])).unwrap();
        model
    }

    #[test]
    fn the_announced_version_picks_the_definition_else_the_newest_of_its_major_number() {
        let model = model();
        let version = |announced| model.object(7, announced).map(|object| object.version.to_string());
        assert_eq!(version(None).as_deref(), Some("1.2"));
        assert_eq!(version(Some("1.0")).as_deref(), Some("1.0"));
        assert_eq!(version(Some("1.1")).as_deref(), Some("1.2"));
        assert_eq!(version(Some("2.3")).as_deref(), Some("2.0"));
        assert_eq!(version(Some("3.0")), None);
        assert_eq!(version(Some("x")).as_deref(), Some("1.2"), "what is no version says nothing");
        assert_eq!(model.object(8, None), None);
    }

    #[test]
    fn a_device_that_announces_no_version_has_the_newest_where_no_version_1_is_loaded() {
        let mut model = model();
        model.insert(object(20, "2.0", &[(0, ResourceType::String)])).unwrap();
        model.insert(object(20, "2.1", &[(1, ResourceType::Time)])).unwrap();
        model.insert(object(20, "3.0", &[(0, ResourceType::Float)])).unwrap();
        for (announced, version) in [(None, Some("3.0")), (Some("x"), Some("3.0")), (Some("2.9"), Some("2.1"))] {
            assert_eq!(model.object(20, announced).map(|object| object.version.to_string()).as_deref(), version);
        }
        assert_eq!(model.object(20, Some("1.0")), None);
        assert_eq!(model.resource(20, None, 1), None, "a resource is not of another major number");
    }

    #[test]
    fn what_is_loaded_is_told_where_the_device_announced_another_major_number() {
        let model = model();
        let told = |path: &str, announced| model.other_versions(path.parse().unwrap(), announced).to_string();
        let expected = " in version 3.1, which the device announced; loaded: 2.0, 1.2, 1.0";
        assert_eq!(told("/7/0/1", Some("3.1")), expected);
        for (path, announced) in
            [("/7/0/99", Some("1.5")), ("/7/0/99", None), ("/7/0/99", Some("x")), ("/8/0/1", Some("3.1"))]
        {
            assert_eq!(told(path, announced), "", "{path} {announced:?}");
        }
    }

    #[test]
    fn a_resource_may_be_of_another_version_of_the_same_major_number() {
        let model = model();
        let kind = |announced, id| model.resource(7, announced, id).and_then(|resource| resource.resource_type);
        assert_eq!(kind(None, 0), Some(ResourceType::Integer));
        assert_eq!(kind(Some("1.0"), 0), Some(ResourceType::String));
        assert_eq!(kind(Some("1.0"), 2), Some(ResourceType::Time));
        assert_eq!(kind(None, 1), Some(ResourceType::Float));
        assert_eq!(kind(Some("2.0"), 1), None);
    }

    #[test]
    fn the_objects_are_listed_newest_version_first() {
        let listed: Vec<_> = model().objects().map(|object| object.version.to_string()).collect();
        assert_eq!(listed, ["2.0", "1.2", "1.0"]);
    }

    #[test]
    fn one_version_is_defined_once_or_the_same_way_twice() {
        let mut model = model();
        assert_eq!(model.insert(object(7, "2.0", &[(0, ResourceType::Boolean)])), Ok(()));
        let twice = ModelError::Twice(7, Version { major: 2, minor: 0 });
        assert_eq!(model.insert(object(7, "2.0", &[(0, ResourceType::Opaque)])), Err(twice));
        let mut object = object(8, "1.0", &[(0, ResourceType::Boolean)]);
        assert_eq!(object.insert(resource(0, ResourceType::Time)), Err(ModelError::ResourceTwice(8, 0)));
    }

    #[test]
    fn a_range_is_two_numbers_and_nothing_else() {
        for (text, range) in [("0..7", (0.0, 7.0)), ("-2.5 .. 3", (-2.5, 3.0)), ("5..5", (5.0, 5.0))] {
            assert_eq!(Range::parse(text), Some(Range { min: range.0, max: range.1 }), "{text}");
        }
        for text in ["", "0-7", "0..255 bytes", "0...7", "7..0", "0..inf", "ON;OFF", "16,32", ".. 3", "0..7, 9"] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
        let range = Range { min: 0.0, max: 7.0 };
        assert!(range.allows(&Value::Integer(7)) && range.allows(&Value::String("long text".into())));
        assert!(!range.allows(&Value::Integer(8)) && !range.allows(&Value::Float(-0.5)));
    }

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!("1".parse(), Ok(Version::FIRST));
        for text in ["", "1.", ".1", "1.1.1", "a", "-1.0", "1.65536"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
