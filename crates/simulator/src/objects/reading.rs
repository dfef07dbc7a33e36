//! Read and Read-Composite.

use std::collections::BTreeSet;

use lwm2m_core::coap::Code;
use lwm2m_core::lwm2m::path::Path;

use super::{Objects, SimulatedResource};
use crate::content::{self, ReadEntry, SupportedFormats, tlv};
use crate::value::SimulatedValue;

/// The result of a read: the content format and the payload.
pub(crate) type FormattedContent = (u16, Vec<u8>);

impl Objects {
    /// Reads what can be read; `accept` is the format that the server asked for.
    pub(crate) fn read(
        &self,
        path: Path,
        accept: Option<u16>,
        formats: &SupportedFormats,
    ) -> Result<FormattedContent, Code> {
        self.check_readable(path)?;
        let value = self.value(path);
        let format = formats.for_read(accept, value)?;
        let payload = match value {
            Some(value) => content::encode_single(format, ReadEntry { path, value }),
            None => content::encode(format, path, &self.entries(path)),
        };
        Ok((format, payload.unwrap_or_else(|| self.tlv(path))))
    }

    /// Reads what is there and can be read of several paths; each value once, in the order of the paths.
    pub(crate) fn read_composite(&self, paths: &[Path], format: u16) -> Vec<u8> {
        let mut seen = BTreeSet::new();
        let entries = paths.iter().flat_map(|path| self.entries(*path)).filter(|entry| seen.insert(entry.path));
        let entries: Vec<ReadEntry<'_>> = entries.collect();
        content::encode(format, Path::ROOT, &entries).expect("the format of a composite was chosen")
    }

    /// Returns the single value that a path has: a resource that has one, or a resource instance.
    pub(crate) fn value(&self, path: Path) -> Option<&SimulatedValue> {
        match self.resource(Path::of(path.segments().get(..3)?)?)? {
            SimulatedResource::Single(_, value) => (path.len() == 3).then_some(value),
            SimulatedResource::Multiple(_, values) => values.get(&path.resource_instance()?),
            SimulatedResource::Executable { .. } => None,
        }
    }

    fn check_readable(&self, path: Path) -> Result<(), Code> {
        if path.is_empty() {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let resource = path.segments().get(..3).and_then(Path::of).and_then(|path| self.resource(path));
        match resource {
            Some(resource) if !resource.is_readable() => Err(Code::METHOD_NOT_ALLOWED),
            Some(_) | None if self.contains(path) => Ok(()),
            Some(_) | None => Err(Code::NOT_FOUND),
        }
    }

    /// Returns the values at or below a path that can be read.
    fn entries(&self, path: Path) -> Vec<ReadEntry<'_>> {
        let mut entries = Vec::new();
        for (object, instances) in &self.objects {
            for (instance, resources) in instances {
                for (id, resource) in resources.iter().filter(|(_, resource)| resource.is_readable()) {
                    entries.extend(resource_entries(*object, *instance, *id, resource));
                }
            }
        }
        entries.retain(|entry| entry.path.is_at_or_below(&path));
        entries
    }

    /// Returns the path in TLV, which has instances and resources without a value too.
    fn tlv(&self, path: Path) -> Vec<u8> {
        let instances = path.object().and_then(|object| self.objects.get(&object));
        let resource = path.segments().get(..3).and_then(Path::of).and_then(|path| self.resource(path));
        let tlv = match *path.segments() {
            [_] => instances.map(tlv::encode_instances),
            [_, instance] => instances.and_then(|instances| instances.get(&instance)).map(tlv::encode_instance),
            [_, _, id] => resource.map(|resource| tlv::encode_resource(id, resource)),
            [_, _, _, index] => self.value(path).map(|value| tlv::encode_resource_instance(index, value)),
            _ => None,
        };
        tlv.unwrap_or_default()
    }
}

fn resource_entries(object: u16, instance: u16, id: u16, resource: &SimulatedResource) -> Vec<ReadEntry<'_>> {
    let path = |ids: &[u16]| Path::of(ids).expect("four ids at most");
    match resource {
        SimulatedResource::Single(_, value) => vec![ReadEntry { path: path(&[object, instance, id]), value }],
        SimulatedResource::Multiple(_, values) => {
            let entry = |(index, value): (&u16, _)| ReadEntry { path: path(&[object, instance, id, *index]), value };
            values.iter().map(entry).collect()
        }
        SimulatedResource::Executable { .. } => Vec::new(),
    }
}
