//! The commands on a list of paths: `read-composite`, `write-composite`, `observe-composite` and
//! `cancel-observe-composite` (LwM2M 1.1 sections 6.3.8 to 6.4.5).

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::lwm2m::codec::Patch;
use crate::lwm2m::model::Version;
use crate::lwm2m::operation::{Operation, OperationKind};
use crate::lwm2m::path::Path;

use super::error::CommandError;
use super::values::{Values, relative_path};
use super::{Source, attributes};

impl Source<'_> {
    pub(super) fn read_composite(&self) -> Result<Operation, CommandError> {
        let paths = self.paths("read-composite")?;
        let operation = Operation::new(Path::ROOT, Vec::new(), OperationKind::ReadComposite { paths });
        Ok(operation.with_formats(self.formats_of_paths()?))
    }

    pub(super) fn observe_composite(&self) -> Result<Operation, CommandError> {
        let paths = self.paths("observe-composite")?;
        let query = self.observe_attributes("observe-composite")?;
        let operation = Operation::new(Path::ROOT, query, OperationKind::ObserveComposite { paths });
        Ok(operation.with_formats(self.formats_of_paths()?))
    }

    pub(super) fn cancel_observe_composite(&self) -> Result<Operation, CommandError> {
        let paths = self.paths("cancel-observe-composite")?;
        Ok(Operation::new(Path::ROOT, Vec::new(), OperationKind::CancelObserveComposite { paths }))
    }

    /// Reads the changes of a composite write. `null` removes a resource instance.
    pub(super) fn write_composite(&self) -> Result<Operation, CommandError> {
        self.require(Version::LWM2M_1_1, "write-composite")?;
        let data = self.data()?;
        let content = data.get("content").ok_or(CommandError::Missing("content"))?;
        let items = content.as_array().filter(|items| !items.is_empty());
        let items = items.ok_or(CommandError::Member { member: "content", expected: "a list with values" })?;
        self.within_limit(items.len(), "paths")?;
        let mut removals = HashSet::new();
        let mut values = Values::new(self);
        let mut order = Vec::with_capacity(items.len());
        for item in items {
            let (path, removes) = self.patch(item, &mut values)?;
            if order.contains(&path) {
                return Err(CommandError::Twice(path));
            }
            order.push(path);
            if removes {
                removals.insert(path);
            }
        }
        let mut values = values.finish()?.into_iter();
        let patch = |path| {
            let value = if removals.contains(&path) { None } else { values.next().map(|assignment| assignment.value) };
            Patch { path, value }
        };
        let patches: Vec<_> = order.into_iter().map(patch).collect();
        let formats = self.formats_of_patches(&patches)?;
        let operation = Operation::new(Path::ROOT, Vec::new(), OperationKind::WriteComposite { patches });
        Ok(operation.with_formats(formats))
    }

    /// Reads one item of `content`. Returns its path, and whether it is a removal. Any other value is added to
    /// `values`.
    fn patch(&self, item: &Json, values: &mut Values<'_>) -> Result<(Path, bool), CommandError> {
        let item = item.as_object().ok_or(CommandError::Member { member: "content", expected: "a list of objects" })?;
        let path = relative_path(item.get("path"))?;
        if path.len() < 3 {
            let (msg_type, allowed) = ("write-composite", "resources and resource instances");
            return Err(CommandError::PathLength { msg_type, allowed, path });
        }
        match item.get("value").ok_or(CommandError::Missing("value"))? {
            Json::Null if path.len() < 4 => Err(CommandError::NoInstance(path)),
            Json::Null => self.require(Version::LWM2M_1_2, "null in write-composite").map(|()| (path, true)),
            value => values.add(path, item.get("type"), value).map(|()| (path, false)),
        }
    }

    /// Reads `paths`, each once, in their order.
    fn paths(&self, msg_type: &'static str) -> Result<Vec<Path>, CommandError> {
        self.require(Version::LWM2M_1_1, msg_type)?;
        let list = self.data()?.get("paths").ok_or(CommandError::Missing("paths"))?;
        let list = list.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or(CommandError::Member { member: "paths", expected: "a list of paths" })?;
        self.within_limit(list.len(), "paths")?;
        let mut paths: Vec<Path> = Vec::with_capacity(list.len());
        for path in list {
            let text = path.as_str().ok_or(CommandError::Member { member: "paths", expected: "a list of texts" })?;
            let path = text.parse()?;
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Returns the attributes of an observation as query items.
    pub(super) fn observe_attributes(&self, msg_type: &str) -> Result<Vec<String>, CommandError> {
        let items = attributes::items(self.data()?)?;
        match items.first() {
            Some(item) => {
                let name = item.split('=').next().unwrap_or_default();
                self.require(Version::LWM2M_1_2, &format!("{name} in {msg_type}")).map(|()| items)
            }
            None => Ok(items),
        }
    }

    fn within_limit(&self, count: usize, what: &'static str) -> Result<(), CommandError> {
        let limit = self.context.composite_paths;
        if count > limit { Err(CommandError::TooMany { limit, what }) } else { Ok(()) }
    }
}
