//! The objects that the device has: their instances, resources and values, and what each operation does with them.
//!
//! An operation that cannot be done fails with the code that the server is answered.

use std::collections::BTreeMap;

use lwm2m_core::coap::Code;
use lwm2m_core::coap::options::format;
use lwm2m_core::lwm2m::path::Path;

use super::tlv::{self, TlvKind, TlvRecord};
use super::value::SimulatedValue;

/// Instances that one object may have: a server cannot create more.
const MAX_INSTANCES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SimulatedResource {
    Single(Access, SimulatedValue),
    Multiple(Access, BTreeMap<u16, SimulatedValue>),
    Executable {
        /// The number of executions.
        runs: u32,
    },
}

/// All objects of a device.
#[derive(Clone, Debug)]
pub struct Objects {
    objects: BTreeMap<u16, BTreeMap<u16, Instance>>,
    /// Templates by object and resource, for instances that the server creates.
    kinds: BTreeMap<(u16, u16), SimulatedResource>,
}

type Instance = BTreeMap<u16, SimulatedResource>;

/// The result of a read: the content format and the payload.
pub(super) type FormattedContent = (u16, Vec<u8>);

/// A server (object 1), a device (object 3) and a temperature sensor (object 3303), one instance of each.
impl Default for Objects {
    fn default() -> Self {
        use Access::{Read, ReadWrite};
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

    /// The object list of a Register.
    pub(super) fn links(&self) -> String {
        let link = |object: &u16, instances: &BTreeMap<u16, Instance>| match instances.is_empty() {
            true => vec![format!("</{object}>")],
            false => instances.keys().map(|instance| format!("</{object}/{instance}>")).collect(),
        };
        self.objects.iter().flat_map(|(object, instances)| link(object, instances)).collect::<Vec<_>>().join(",")
    }

    /// The path itself and all that is below it, down to the resources.
    pub(super) fn paths_from(&self, path: Path) -> Result<Vec<Path>, Code> {
        let all = self.objects.iter().flat_map(|(object, instances)| {
            let object = child(Path::ROOT, *object);
            let instances = instances.iter().flat_map(move |(instance, resources)| {
                let instance = child(object, *instance);
                std::iter::once(instance).chain(resources.keys().map(move |resource| child(instance, *resource)))
            });
            std::iter::once(object).chain(instances)
        });
        let below: Vec<Path> = all.filter(|one| one.segments().starts_with(path.segments())).collect();
        if below.is_empty() { Err(Code::NOT_FOUND) } else { Ok(below) }
    }

    /// Reads what can be read; `accept` is the format that the server asked for.
    pub(super) fn read(&self, path: Path, accept: Option<u16>) -> Result<FormattedContent, Code> {
        let (text, tlv) = match *path.segments() {
            [object] => (None, encode_instances(self.objects.get(&object).ok_or(Code::NOT_FOUND)?)),
            [object, instance] => {
                let instances = self.objects.get(&object).ok_or(Code::NOT_FOUND)?;
                (None, encode_instance(instances.get(&instance).ok_or(Code::NOT_FOUND)?))
            }
            [object, instance, resource] => {
                let path = child(child(child(Path::ROOT, object), instance), resource);
                read_resource(resource, self.resource(path).ok_or(Code::NOT_FOUND)?)?
            }
            [object, instance, resource, index] => {
                let path = child(child(child(Path::ROOT, object), instance), resource);
                read_resource_instance(index, self.resource(path).ok_or(Code::NOT_FOUND)?)?
            }
            _ => return Err(Code::METHOD_NOT_ALLOWED),
        };
        match (accept, text) {
            (None | Some(format::TEXT), Some(text)) => Ok((format::TEXT, text.into_bytes())),
            (None | Some(format::TLV), _) => Ok((format::TLV, tlv)),
            _ => Err(Code::NOT_ACCEPTABLE),
        }
    }

    /// Writes a resource, or the resources of an instance; `replace` says that those not mentioned go (Write with PUT).
    pub(super) fn write(&mut self, path: Path, format: u16, payload: &[u8], replace: bool) -> Result<(), Code> {
        match *path.segments() {
            [object, instance] => self.write_instance(object, instance, format, payload, replace),
            [.., resource] if path.segments().len() == 3 => {
                let written = self.resource_mut(path)?;
                let content = parse_resource(written, resource, format, payload)?;
                *written = content;
                Ok(())
            }
            _ => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    pub(super) fn execute(&mut self, path: Path) -> Result<(), Code> {
        match self.resource_mut(path)? {
            SimulatedResource::Executable { runs } => {
                *runs = runs.saturating_add(1);
                Ok(())
            }
            SimulatedResource::Single(..) | SimulatedResource::Multiple(..) => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// Creates an instance, with the id of the payload or else the first free one; gives its path.
    pub(super) fn create(&mut self, path: Path, format: u16, payload: &[u8]) -> Result<Path, Code> {
        let [object] = *path.segments() else { return Err(Code::METHOD_NOT_ALLOWED) };
        let instances = self.objects.get(&object).ok_or(Code::NOT_FOUND)?;
        if !payload.is_empty() && format != format::TLV {
            return Err(Code::UNSUPPORTED_CONTENT_FORMAT);
        }
        if instances.len() >= MAX_INSTANCES {
            return Err(Code::INTERNAL_SERVER_ERROR);
        }
        let records = tlv::records(payload).ok_or(Code::BAD_REQUEST)?;
        let (id, records) = match records.as_slice() {
            [TlvRecord { kind: TlvKind::ObjectInstance, id, value }] => {
                (*id, tlv::records(value).ok_or(Code::BAD_REQUEST)?)
            }
            _ => ((0..=u16::MAX).find(|id| !instances.contains_key(id)).ok_or(Code::BAD_REQUEST)?, records),
        };
        if instances.contains_key(&id) {
            return Err(Code::BAD_REQUEST);
        }
        let resources = self.parse_resources(object, &records)?;
        self.objects.entry(object).or_default().insert(id, resources.into_iter().collect());
        Ok(child(path, id))
    }

    pub(super) fn delete(&mut self, path: Path) -> Result<(), Code> {
        let [object, instance] = *path.segments() else { return Err(Code::METHOD_NOT_ALLOWED) };
        let instances = self.objects.get_mut(&object).ok_or(Code::NOT_FOUND)?;
        instances.remove(&instance).map(|_| ()).ok_or(Code::NOT_FOUND)
    }

    fn write_instance(
        &mut self,
        object: u16,
        instance: u16,
        format: u16,
        payload: &[u8],
        replace: bool,
    ) -> Result<(), Code> {
        if format != format::TLV {
            return Err(Code::UNSUPPORTED_CONTENT_FORMAT);
        }
        let known = self.objects.get(&object).and_then(|instances| instances.get(&instance)).ok_or(Code::NOT_FOUND)?;
        let mut records = tlv::records(payload).ok_or(Code::BAD_REQUEST)?;
        if let [TlvRecord { kind: TlvKind::ObjectInstance, id, value }] = records.as_slice()
            && *id == instance
        {
            records = tlv::records(value).ok_or(Code::BAD_REQUEST)?;
        }
        if records.iter().filter_map(|record| known.get(&record.id)).any(|resource| !writable(resource)) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let written = self.parse_resources(object, &records)?;
        let known = self.objects.entry(object).or_default().entry(instance).or_default();
        if replace {
            known.retain(|_, resource| !writable(resource));
        }
        known.extend(written);
        Ok(())
    }

    fn parse_resources(&self, object: u16, records: &[TlvRecord<'_>]) -> Result<Vec<(u16, SimulatedResource)>, Code> {
        let parse = |record: &TlvRecord<'_>| {
            let kind = self.kinds.get(&(object, record.id)).ok_or(Code::NOT_FOUND)?;
            Ok((record.id, from_record(kind, *record)?))
        };
        records.iter().map(parse).collect()
    }

    fn resource_mut(&mut self, path: Path) -> Result<&mut SimulatedResource, Code> {
        let [object, instance, resource] = *path.segments() else { return Err(Code::METHOD_NOT_ALLOWED) };
        let instance = self.objects.get_mut(&object).and_then(|instances| instances.get_mut(&instance));
        instance.and_then(|resources| resources.get_mut(&resource)).ok_or(Code::NOT_FOUND)
    }
}

fn child(path: Path, id: u16) -> Path {
    path.child(id).expect("objects, instances and resources are three levels")
}

fn readable(resource: &SimulatedResource) -> bool {
    matches!(
        resource,
        SimulatedResource::Single(Access::Read | Access::ReadWrite, _)
            | SimulatedResource::Multiple(Access::Read | Access::ReadWrite, _)
    )
}

fn writable(resource: &SimulatedResource) -> bool {
    matches!(
        resource,
        SimulatedResource::Single(Access::Write | Access::ReadWrite, _)
            | SimulatedResource::Multiple(Access::Write | Access::ReadWrite, _)
    )
}

fn encode_instances(instances: &BTreeMap<u16, Instance>) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, instance) in instances {
        tlv::push(&mut out, TlvKind::ObjectInstance, *id, &encode_instance(instance));
    }
    out
}

fn encode_instance(instance: &Instance) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, resource) in instance.iter().filter(|(_, resource)| readable(resource)) {
        encode_resource(&mut out, *id, resource);
    }
    out
}

fn encode_resource(out: &mut Vec<u8>, id: u16, resource: &SimulatedResource) {
    match resource {
        SimulatedResource::Single(_, value) => tlv::push(out, TlvKind::Resource, id, &value.bytes()),
        SimulatedResource::Multiple(_, values) => {
            let mut inner = Vec::new();
            for (index, value) in values {
                tlv::push(&mut inner, TlvKind::ResourceInstance, *index, &value.bytes());
            }
            tlv::push(out, TlvKind::MultipleResource, id, &inner);
        }
        SimulatedResource::Executable { .. } => {}
    }
}

/// As text, when it has a text form, and as TLV.
type Forms = (Option<String>, Vec<u8>);

fn read_resource(id: u16, resource: &SimulatedResource) -> Result<Forms, Code> {
    if !readable(resource) {
        return Err(Code::METHOD_NOT_ALLOWED);
    }
    let mut tlv = Vec::new();
    encode_resource(&mut tlv, id, resource);
    let text = match resource {
        SimulatedResource::Single(_, value) => Some(value.text()),
        SimulatedResource::Multiple(..) | SimulatedResource::Executable { .. } => None,
    };
    Ok((text, tlv))
}

fn read_resource_instance(index: u16, resource: &SimulatedResource) -> Result<Forms, Code> {
    let SimulatedResource::Multiple(Access::Read | Access::ReadWrite, values) = resource else {
        return Err(Code::METHOD_NOT_ALLOWED);
    };
    let value = values.get(&index).ok_or(Code::NOT_FOUND)?;
    let mut tlv = Vec::new();
    tlv::push(&mut tlv, TlvKind::ResourceInstance, index, &value.bytes());
    Ok((Some(value.text()), tlv))
}

fn parse_resource(old: &SimulatedResource, id: u16, format: u16, payload: &[u8]) -> Result<SimulatedResource, Code> {
    if !writable(old) {
        return Err(Code::METHOD_NOT_ALLOWED);
    }
    match (format, old) {
        (format::TEXT, SimulatedResource::Single(access, value)) => {
            let text = std::str::from_utf8(payload).map_err(|_| Code::BAD_REQUEST)?;
            let value = value.same_type_from_text(text).ok_or(Code::BAD_REQUEST)?;
            Ok(SimulatedResource::Single(*access, value))
        }
        (format::TLV, _) => match tlv::records(payload).ok_or(Code::BAD_REQUEST)?.as_slice() {
            [record] if record.id == id => from_record(old, *record),
            _ => Err(Code::BAD_REQUEST),
        },
        (format::OCTET_STREAM, SimulatedResource::Single(access, SimulatedValue::Opaque(_))) => {
            Ok(SimulatedResource::Single(*access, SimulatedValue::Opaque(payload.to_vec())))
        }
        _ => Err(Code::UNSUPPORTED_CONTENT_FORMAT),
    }
}

/// A resource like `kind`, with the values of the record.
fn from_record(kind: &SimulatedResource, record: TlvRecord<'_>) -> Result<SimulatedResource, Code> {
    match (kind, record.kind) {
        (SimulatedResource::Single(access, value), TlvKind::Resource) => {
            let value = value.same_type_from_bytes(record.value).ok_or(Code::BAD_REQUEST)?;
            Ok(SimulatedResource::Single(*access, value))
        }
        (SimulatedResource::Multiple(access, values), TlvKind::MultipleResource) => {
            let opaque = SimulatedValue::Opaque(Vec::new());
            let like = values.values().next().unwrap_or(&opaque);
            let parse = |inner: TlvRecord<'_>| Some((inner.id, like.same_type_from_bytes(inner.value)?));
            let records = tlv::records(record.value).ok_or(Code::BAD_REQUEST)?;
            let values = records.into_iter().map(parse).collect::<Option<_>>().ok_or(Code::BAD_REQUEST)?;
            Ok(SimulatedResource::Multiple(*access, values))
        }
        _ => Err(Code::BAD_REQUEST),
    }
}
