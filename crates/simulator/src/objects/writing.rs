//! Write, Write-Composite, Create, Delete and Execute. What cannot be done as a whole changes nothing.

use lwm2m_core::coap::Code;
use lwm2m_core::coap::options::format;
use lwm2m_core::lwm2m::path::Path;

use super::{Objects, SimulatedInstance, SimulatedResource};
use crate::content::{self, SupportedFormats, WrittenChange, WrittenEntry, tlv};
use crate::value::SimulatedValue;

/// Instances that one object may have: a server cannot create more.
const MAX_INSTANCES: usize = 64;

/// Instances that one resource may have: a server cannot write more.
const MAX_RESOURCE_INSTANCES: usize = 64;

/// The modes of a Write (OMA LwM2M Core 1.1 section 6.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimulatedWriteMode {
    /// PUT: what is not written is gone.
    Replace,
    /// POST: what is not written stays.
    Update,
}

/// A checked change of a resource.
enum PlannedChange {
    Set(SimulatedResource),
    SetInstance(u16, SimulatedResource, SimulatedValue),
    RemoveInstance(u16),
}

impl Objects {
    /// Writes an instance, a resource or a resource instance.
    pub(crate) fn write(
        &mut self,
        target: Path,
        mode: SimulatedWriteMode,
        content: (u16, &[u8]),
        formats: &SupportedFormats,
    ) -> Result<(), Code> {
        let (format, payload) = content;
        self.check_write_target(target, mode)?;
        formats.check_written(format, self.value(target))?;
        let entries = content::decode(format, target, payload)?;
        let planned = self.plan_all(&entries)?;
        if target.len() == 3
            && mode == SimulatedWriteMode::Replace
            && entries.is_empty()
            && self.value(target).is_some()
        {
            return Err(Code::BAD_REQUEST);
        }
        if mode == SimulatedWriteMode::Replace {
            self.clear(target);
        }
        self.apply(planned);
        Ok(())
    }

    /// Writes resources and resource instances of several objects (OMA LwM2M Core 1.1 section 6.3).
    pub(crate) fn write_composite(&mut self, entries: &[WrittenEntry]) -> Result<(), Code> {
        if entries.is_empty() {
            return Err(Code::BAD_REQUEST);
        }
        let planned = self.plan_all(entries)?;
        for entry in entries.iter().filter(|entry| entry.change == WrittenChange::Removal) {
            self.value(entry.path).ok_or(Code::NOT_FOUND)?;
        }
        self.apply(planned);
        Ok(())
    }

    pub(crate) fn execute(&mut self, path: Path) -> Result<(), Code> {
        match self.resource_mut(path)? {
            SimulatedResource::Executable { runs } => {
                *runs = runs.saturating_add(1);
                Ok(())
            }
            SimulatedResource::Single(..) | SimulatedResource::Multiple(..) => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// Creates an instance, with the id of the payload or else the first free one; gives its path.
    pub(crate) fn create(
        &mut self,
        object: Path,
        content: (u16, &[u8]),
        formats: &SupportedFormats,
    ) -> Result<Path, Code> {
        let (format, payload) = content;
        let [id] = *object.segments() else { return Err(Code::METHOD_NOT_ALLOWED) };
        let instances = self.objects.get(&id).ok_or(Code::NOT_FOUND)?;
        let free = (0..=u16::MAX).find(|id| !instances.contains_key(id)).ok_or(Code::BAD_REQUEST)?;
        let named = if payload.is_empty() {
            None
        } else {
            formats.check_written(format, None)?;
            named_instance(object, format, payload)?
        };
        let instance = object.child(named.unwrap_or(free)).ok_or(Code::BAD_REQUEST)?;
        if instance.instance().is_some_and(|id| instances.contains_key(&id)) {
            return Err(Code::BAD_REQUEST);
        }
        if instances.len() >= MAX_INSTANCES {
            return Err(Code::INTERNAL_SERVER_ERROR);
        }
        let entries = if payload.is_empty() { Vec::new() } else { content::decode(format, instance, payload)? };
        let plan = entries.iter().map(|entry| Ok((entry.path, self.plan_value(entry)?)));
        let planned = plan.collect::<Result<Vec<_>, Code>>()?;
        self.instance_entry(instance);
        self.apply(planned);
        Ok(instance)
    }

    /// Deletes an object instance, or a resource instance.
    pub(crate) fn delete(&mut self, path: Path) -> Result<(), Code> {
        match *path.segments() {
            [object, instance] => {
                let instances = self.objects.get_mut(&object).ok_or(Code::NOT_FOUND)?;
                instances.remove(&instance).map(|_| ()).ok_or(Code::NOT_FOUND)
            }
            [.., index] if path.len() == Path::MAX_SEGMENTS => match self.resource_mut(path.parent())? {
                resource if !resource.is_writable() => Err(Code::METHOD_NOT_ALLOWED),
                SimulatedResource::Multiple(_, values) => values.remove(&index).map(|_| ()).ok_or(Code::NOT_FOUND),
                SimulatedResource::Single(..) | SimulatedResource::Executable { .. } => Err(Code::NOT_FOUND),
            },
            _ => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// Checks that there is what is to be written. An Update is for what has parts.
    fn check_write_target(&self, target: Path, mode: SimulatedWriteMode) -> Result<(), Code> {
        if !(2..=Path::MAX_SEGMENTS).contains(&target.len()) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        if !self.contains(target) {
            return Err(Code::NOT_FOUND);
        }
        let Some(resource) = target.segments().get(..3).and_then(Path::of).and_then(|path| self.resource(path)) else {
            return Ok(());
        };
        let has_parts = target.len() == 3 && matches!(resource, SimulatedResource::Multiple(..));
        let allowed = resource.is_writable() && (mode == SimulatedWriteMode::Replace || has_parts);
        if allowed { Ok(()) } else { Err(Code::METHOD_NOT_ALLOWED) }
    }

    /// Checks every entry against what the server may write.
    fn plan_all(&self, entries: &[WrittenEntry]) -> Result<Vec<(Path, PlannedChange)>, Code> {
        let plan = |entry: &WrittenEntry| {
            let instance = entry.path.segments().get(..2).and_then(Path::of).ok_or(Code::BAD_REQUEST)?;
            if !self.contains(instance) {
                return Err(Code::NOT_FOUND);
            }
            if !self.kind_of(entry.path)?.is_writable() {
                return Err(Code::METHOD_NOT_ALLOWED);
            }
            Ok((entry.path, self.plan_value(entry)?))
        };
        entries.iter().map(plan).collect()
    }

    /// Checks that an entry is of its resource's type.
    fn plan_value(&self, entry: &WrittenEntry) -> Result<PlannedChange, Code> {
        let kind = self.kind_of(entry.path)?;
        let planned = match (kind, &entry.change, entry.path.resource_instance()) {
            (SimulatedResource::Single(access, like), WrittenChange::Value(value), None) => {
                like.same_type_from(value).map(|value| PlannedChange::Set(SimulatedResource::Single(*access, value)))
            }
            (SimulatedResource::Multiple(access, _), WrittenChange::NoInstances, None) => {
                Some(PlannedChange::Set(SimulatedResource::Multiple(*access, Default::default())))
            }
            (SimulatedResource::Multiple(access, like), WrittenChange::Value(value), Some(index)) => {
                let opaque = SimulatedValue::Opaque(Vec::new());
                let empty = SimulatedResource::Multiple(*access, Default::default());
                let value = like.values().next().unwrap_or(&opaque).same_type_from(value);
                value.map(|value| PlannedChange::SetInstance(index, empty, value))
            }
            (SimulatedResource::Multiple(..), WrittenChange::Removal, Some(index)) => {
                Some(PlannedChange::RemoveInstance(index))
            }
            _ => None,
        };
        planned.filter(|_| self.has_room(entry.path)).ok_or(Code::BAD_REQUEST)
    }

    /// Returns whether the resource has the instance, or may have one more. How many come at once is bounded by the
    /// size of a datagram.
    fn has_room(&self, path: Path) -> bool {
        let Some(resource) = self.resource(path.parent()).filter(|_| path.len() == Path::MAX_SEGMENTS) else {
            return true;
        };
        self.value(path).is_some() || resource.instance_ids().count() < MAX_RESOURCE_INSTANCES
    }

    /// Returns a resource like the one at or above the path, whatever its instance.
    fn kind_of(&self, path: Path) -> Result<&SimulatedResource, Code> {
        let key = path.object().zip(path.resource()).ok_or(Code::BAD_REQUEST)?;
        self.kinds.get(&key).ok_or(Code::NOT_FOUND)
    }

    /// Takes away what a Write with PUT replaces: the resources of an instance, or the instances of a resource.
    fn clear(&mut self, target: Path) {
        if target.len() == 2 {
            self.instance_entry(target).retain(|_, resource| !resource.is_writable());
        } else if let Ok(SimulatedResource::Multiple(_, values)) = self.resource_mut(target) {
            values.clear();
        }
    }

    fn apply(&mut self, planned: Vec<(Path, PlannedChange)>) {
        for (path, change) in planned {
            let Some(id) = path.resource() else { continue };
            let instance = self.instance_entry(path);
            match change {
                PlannedChange::Set(resource) => {
                    instance.insert(id, resource);
                }
                PlannedChange::SetInstance(index, empty, value) => {
                    if let SimulatedResource::Multiple(_, values) = instance.entry(id).or_insert(empty) {
                        values.insert(index, value);
                    }
                }
                PlannedChange::RemoveInstance(index) => {
                    if let Some(SimulatedResource::Multiple(_, values)) = instance.get_mut(&id) {
                        values.remove(&index);
                    }
                }
            }
        }
    }

    /// Returns the object instance of a path, which is created if it is not there.
    fn instance_entry(&mut self, path: Path) -> &mut SimulatedInstance {
        let (object, instance) = path.object().zip(path.instance()).expect("a path of an instance");
        self.objects.entry(object).or_default().entry(instance).or_default()
    }
}

/// Returns the instance id that the payload of a Create has; all its values are of one instance.
fn named_instance(object: Path, format: u16, payload: &[u8]) -> Result<Option<u16>, Code> {
    if format == format::TLV {
        return tlv::named_instance(payload).ok_or(Code::BAD_REQUEST);
    }
    let entries = content::decode(format, object, payload)?;
    let mut ids = entries.iter().map(|entry| entry.path.instance());
    let first = ids.next().flatten();
    if ids.all(|id| id == first) { Ok(first) } else { Err(Code::BAD_REQUEST) }
}
