//! The objects that the device has: their instances, resources and values, and what each operation does with them.
//!
//! An operation that cannot be done fails with the code that the server is answered.

use std::collections::BTreeMap;

use lwm2m_core::coap::Code;
use lwm2m_core::lwm2m::path::Path;

use super::value::SimulatedValue;

mod reading;
mod writing;

pub(super) use writing::SimulatedWriteMode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceAccess {
    Read,
    Write,
    ReadWrite,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SimulatedResource {
    Single(ResourceAccess, SimulatedValue),
    Multiple(ResourceAccess, BTreeMap<u16, SimulatedValue>),
    Executable {
        /// The number of executions.
        runs: u32,
    },
}

/// All objects of a device.
#[derive(Clone, Debug)]
pub struct Objects {
    objects: BTreeMap<u16, BTreeMap<u16, SimulatedInstance>>,
    /// Templates by object and resource, for instances that the server creates.
    kinds: BTreeMap<(u16, u16), SimulatedResource>,
}

/// The resources of an object instance.
pub(crate) type SimulatedInstance = BTreeMap<u16, SimulatedResource>;

impl SimulatedResource {
    /// Returns the ids of its instances, if it may have several.
    pub(super) fn instance_ids(&self) -> impl Iterator<Item = u16> {
        let values = match self {
            SimulatedResource::Multiple(_, values) => Some(values),
            SimulatedResource::Single(..) | SimulatedResource::Executable { .. } => None,
        };
        values.into_iter().flat_map(|values| values.keys().copied())
    }

    fn is_readable(&self) -> bool {
        self.has_access(&[ResourceAccess::Read, ResourceAccess::ReadWrite])
    }

    fn is_writable(&self) -> bool {
        self.has_access(&[ResourceAccess::Write, ResourceAccess::ReadWrite])
    }

    fn has_access(&self, wanted: &[ResourceAccess]) -> bool {
        match self {
            SimulatedResource::Single(access, _) | SimulatedResource::Multiple(access, _) => wanted.contains(access),
            SimulatedResource::Executable { .. } => false,
        }
    }
}

/// A server (object 1), a device (object 3) and a temperature sensor (object 3303), one instance of each.
impl Default for Objects {
    fn default() -> Self {
        use ResourceAccess::{Read, ReadWrite};
        let integers = |values: &[i64]| (0..).zip(values.iter().copied().map(SimulatedValue::Integer)).collect();
        let mut objects = Self::empty();
        let mut add = |object, resource, content| objects.insert(object, 0, resource, content);
        add(1, 0, SimulatedResource::Single(Read, SimulatedValue::Integer(1)));
        add(1, 1, SimulatedResource::Single(ReadWrite, SimulatedValue::Integer(300)));
        add(1, 2, SimulatedResource::Single(ReadWrite, SimulatedValue::Integer(0)));
        add(1, 6, SimulatedResource::Single(ReadWrite, SimulatedValue::Boolean(false)));
        add(1, 7, SimulatedResource::Single(ReadWrite, "U".into()));
        add(1, 8, SimulatedResource::Executable { runs: 0 });
        add(3, 0, SimulatedResource::Single(Read, "Weather Works".into()));
        add(3, 1, SimulatedResource::Single(Read, "Thermometer 2".into()));
        add(3, 2, SimulatedResource::Single(Read, "WW-2-000417".into()));
        add(3, 3, SimulatedResource::Single(Read, "2.4.1".into()));
        add(3, 4, SimulatedResource::Executable { runs: 0 });
        add(3, 6, SimulatedResource::Multiple(Read, integers(&[1, 5])));
        add(3, 7, SimulatedResource::Multiple(Read, integers(&[3800, 5000])));
        add(3, 9, SimulatedResource::Single(Read, SimulatedValue::Integer(87)));
        add(3, 11, SimulatedResource::Multiple(Read, integers(&[0])));
        add(3, 12, SimulatedResource::Executable { runs: 0 });
        add(3, 13, SimulatedResource::Single(ReadWrite, SimulatedValue::Integer(1_767_225_600)));
        add(3, 14, SimulatedResource::Single(ReadWrite, "+01:00".into()));
        add(3, 15, SimulatedResource::Single(ReadWrite, "Europe/Stockholm".into()));
        add(3, 16, SimulatedResource::Single(Read, "U".into()));
        add(3303, 5601, SimulatedResource::Single(Read, SimulatedValue::Float(18.0)));
        add(3303, 5602, SimulatedResource::Single(Read, SimulatedValue::Float(24.0)));
        add(3303, 5603, SimulatedResource::Single(Read, SimulatedValue::Float(-40.0)));
        add(3303, 5604, SimulatedResource::Single(Read, SimulatedValue::Float(85.0)));
        add(3303, 5605, SimulatedResource::Executable { runs: 0 });
        add(3303, 5700, SimulatedResource::Single(Read, SimulatedValue::Float(21.0)));
        add(3303, 5701, SimulatedResource::Single(Read, "Cel".into()));
        objects
    }
}

impl Objects {
    pub fn empty() -> Self {
        Self { objects: BTreeMap::new(), kinds: BTreeMap::new() }
    }

    /// Adds a resource, or puts it in place of the one that is there.
    pub fn insert(&mut self, object: u16, instance: u16, resource: u16, content: SimulatedResource) {
        self.kinds.insert((object, resource), content.clone());
        self.objects.entry(object).or_default().entry(instance).or_default().insert(resource, content);
    }

    /// Removes an object with its instances.
    pub fn remove(&mut self, object: u16) {
        self.objects.remove(&object);
        self.kinds.retain(|(other, _), _| *other != object);
    }

    /// Gives a single resource a new value; whether there is such a resource.
    pub fn set(&mut self, path: Path, value: SimulatedValue) -> bool {
        match self.resource_mut(path) {
            Ok(SimulatedResource::Single(_, old)) => {
                *old = value;
                true
            }
            Ok(SimulatedResource::Multiple(..) | SimulatedResource::Executable { .. }) | Err(_) => false,
        }
    }

    pub fn resource(&self, path: Path) -> Option<&SimulatedResource> {
        let [object, instance, resource] = *path.segments() else { return None };
        self.objects.get(&object)?.get(&instance)?.get(&resource)
    }

    /// Returns the object list of a Register.
    pub(super) fn links(&self) -> String {
        let link = |object: &u16, instances: &BTreeMap<u16, SimulatedInstance>| match instances.is_empty() {
            true => vec![format!("</{object}>")],
            false => instances.keys().map(|instance| format!("</{object}/{instance}>")).collect(),
        };
        self.objects.iter().flat_map(|(object, instances)| link(object, instances)).collect::<Vec<_>>().join(",")
    }

    /// Returns whether there is such an object, instance, resource or resource instance.
    pub(super) fn contains(&self, path: Path) -> bool {
        let instances = path.object().and_then(|object| self.objects.get(&object));
        match *path.segments() {
            [] => true,
            [_] => instances.is_some(),
            [_, instance] => instances.is_some_and(|instances| instances.contains_key(&instance)),
            [_, _, _] => self.resource(path).is_some(),
            _ => self.value(path).is_some(),
        }
    }

    /// Returns the path itself and all that is below it, down to paths of so many segments. Fails with 4.04.
    pub(super) fn paths_from(&self, path: Path, deepest: usize) -> Result<Vec<Path>, Code> {
        if !self.contains(path) {
            return Err(Code::NOT_FOUND);
        }
        let mut all = Vec::new();
        for (object, instances) in &self.objects {
            all.extend(Path::of(&[*object]));
            for (instance, resources) in instances {
                all.extend(Path::of(&[*object, *instance]));
                for (resource, content) in resources {
                    all.extend(Path::of(&[*object, *instance, *resource]));
                    let indexes = content.instance_ids();
                    all.extend(indexes.filter_map(|index| Path::of(&[*object, *instance, *resource, index])));
                }
            }
        }
        all.retain(|one: &Path| one.is_at_or_below(&path) && one.len() <= deepest);
        Ok(all)
    }

    fn resource_mut(&mut self, path: Path) -> Result<&mut SimulatedResource, Code> {
        let [object, instance, resource] = *path.segments() else { return Err(Code::METHOD_NOT_ALLOWED) };
        let instance = self.objects.get_mut(&object).and_then(|instances| instances.get_mut(&instance));
        instance.and_then(|resources| resources.get_mut(&resource)).ok_or(Code::NOT_FOUND)
    }
}
