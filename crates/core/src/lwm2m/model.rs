//! Holds object definitions: the names, types and operations of the resources of an object.

mod version;
pub mod xml;

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use super::value::{ResourceType, Value};

pub use self::version::{ObjectVersion, OtherVersions, UndefinedVersion, Version, VersionError};

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
    /// `None` for a resource that is only executed. A few definitions omit the type of other resources, too.
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

    /// Returns the definition of this version, or else the newest one with the same major number. A device that
    /// announced no version has the newest definition of all if none has the major number that LwM2M implies.
    pub fn object(&self, id: u16, version: ObjectVersion) -> Option<&Object> {
        self.candidates(id, version).next()
    }

    /// Returns the resource in that definition, or else in the newest other one with the same major number that has it:
    /// devices mix them.
    pub fn resource(&self, object: u16, version: ObjectVersion, resource: u16) -> Option<&Resource> {
        self.candidates(object, version).find_map(|object| object.resource(resource))
    }

    /// Returns the defined versions of this object if they explain why the device's version has no definition.
    pub(crate) fn other_versions(&self, object: u16, version: ObjectVersion) -> OtherVersions {
        OtherVersions(self.undefined_version(object, version))
    }

    /// Returns what is defined in place of an announced version, or `None` if a definition applies to it or the object
    /// has no definition at all.
    pub fn undefined_version(&self, object: u16, version: ObjectVersion) -> Option<UndefinedVersion> {
        let ObjectVersion::Announced(announced) = version else { return None };
        let defined: Vec<Version> = self.versions(object).iter().map(|object| object.version).collect();
        let applies = defined.is_empty() || defined.iter().any(|version| version.major == announced.major);
        (!applies).then_some(UndefinedVersion { object, announced, defined })
    }

    /// Returns the definitions that apply to a version, the best one first.
    fn candidates(&self, id: u16, version: ObjectVersion) -> impl Iterator<Item = &Object> {
        let versions = self.versions(id);
        let wanted = version.version();
        let major = version.major_among(versions.iter().map(|object| object.version));
        let exact = versions.iter().filter(move |object| object.version == wanted);
        let others = versions.iter().filter(move |object| object.version.major == major && object.version != wanted);
        exact.chain(others)
    }

    /// Returns the definitions of one object, the newest version first.
    fn versions(&self, object: u16) -> &[Object] {
        self.objects.get(&object).map_or(&[], Vec::as_slice)
    }

    fn insert_file(&mut self, content: &[u8]) -> Result<(), String> {
        let objects = xml::parse(content).map_err(|error| error.to_string())?;
        objects.into_iter().try_for_each(|object| self.insert(object)).map_err(|error| error.to_string())
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
    pub(crate) fn has_value(&self) -> bool {
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
        value.as_f64().is_none_or(|number| (self.min..=self.max).contains(&number))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
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

    /// Returns the version of an object on a device of LwM2M 1.0.
    fn of(object: u16, ver: Option<&str>) -> ObjectVersion {
        ObjectVersion::of(object, ver, Version::FIRST)
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
        let version = |ver| model.object(7, of(7, ver)).map(|object| object.version.to_string());
        assert_eq!(version(None).as_deref(), Some("1.0"), "LwM2M implies 1.0");
        assert_eq!(version(Some("1.0")).as_deref(), Some("1.0"));
        assert_eq!(version(Some("1.1")).as_deref(), Some("1.2"));
        assert_eq!(version(Some("2.3")).as_deref(), Some("2.0"));
        assert_eq!(version(Some("3.0")), None);
        assert_eq!(version(Some("x")).as_deref(), Some("1.0"), "what is no version says nothing");
        assert_eq!(model.object(8, of(8, None)), None);
    }

    #[test]
    fn a_device_that_announces_no_version_has_the_newest_where_no_version_1_is_loaded() {
        let mut model = model();
        model.insert(object(20, "2.0", &[(0, ResourceType::String)])).unwrap();
        model.insert(object(20, "2.1", &[(1, ResourceType::Time)])).unwrap();
        model.insert(object(20, "3.0", &[(0, ResourceType::Float)])).unwrap();
        for (announced, version) in [(None, Some("3.0")), (Some("x"), Some("3.0")), (Some("2.9"), Some("2.1"))] {
            assert_eq!(
                model.object(20, of(20, announced)).map(|object| object.version.to_string()).as_deref(),
                version
            );
        }
        assert_eq!(model.object(20, of(20, Some("1.0"))), None);
        assert_eq!(model.resource(20, of(20, None), 1), None, "a resource is not of another major number");
    }

    #[test]
    fn what_is_loaded_is_told_where_the_device_announced_another_major_number() {
        let model = model();
        let told = |object, ver| model.other_versions(object, of(object, ver)).to_string();
        let expected = " in version 3.1, which the device announced; loaded: 2.0, 1.2, 1.0";
        assert_eq!(told(7, Some("3.1")), expected);
        for (object, ver) in [(7, Some("1.5")), (7, None), (7, Some("x")), (8, Some("3.1"))] {
            assert_eq!(told(object, ver), "", "{object} {ver:?}");
        }
        let undefined = model.undefined_version(7, of(7, Some("3.1"))).map(|undefined| undefined.to_string());
        assert_eq!(undefined.as_deref(), Some("7 3.1 (loaded: 2.0, 1.2, 1.0)"));
    }

    #[test]
    fn a_resource_may_be_of_another_version_of_the_same_major_number() {
        let model = model();
        let kind = |ver, id| model.resource(7, of(7, ver), id).and_then(|resource| resource.resource_type);
        assert_eq!(kind(None, 0), Some(ResourceType::String));
        assert_eq!(kind(Some("1.1"), 0), Some(ResourceType::Integer));
        assert_eq!(kind(Some("1.0"), 0), Some(ResourceType::String));
        assert_eq!(kind(Some("1.0"), 2), Some(ResourceType::Time));
        assert_eq!(kind(None, 1), Some(ResourceType::Float));
        assert_eq!(kind(Some("2.0"), 1), None);
    }

    #[test]
    fn the_lwm2m_version_picks_the_definition_of_a_core_object_without_ver() {
        let mut model = Model::default();
        for version in ["1.0", "1.1", "1.2", "1.3"] {
            model.insert(object(4, version, &[(0, ResourceType::Integer)])).unwrap();
        }
        model.insert(object(21, "1.0", &[(0, ResourceType::Opaque)])).unwrap();
        let picked = |id, lwm2m: Version| {
            model.object(id, ObjectVersion::of(id, None, lwm2m)).map(|object| object.version.to_string())
        };
        for (minor, of_4) in [(0, "1.0"), (1, "1.2"), (2, "1.3")] {
            let lwm2m = Version { major: 1, minor };
            assert_eq!(picked(4, lwm2m).as_deref(), Some(of_4));
            // LwM2M 1.2 implies 2.0, which is not loaded; the device did not say so.
            assert_eq!(picked(21, lwm2m).as_deref(), Some("1.0"));
        }
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
}
