//! The JSON of `register` and `update`.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::lwm2m::register::Registration;

use super::Proven;

/// Serializes `register` and `update`.
pub(super) struct ReportMessage<'a> {
    pub msg_type: &'static str,
    pub registration: &'a Registration,
    pub proven: Proven<'a>,
}

impl Serialize for ReportMessage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("msgType", self.msg_type)?;
        map.serialize_entry("data", &ReportData(self.registration, self.proven))?;
        map.end()
    }
}

struct ReportData<'a>(&'a Registration, Proven<'a>);

impl Serialize for ReportData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(registration, proven) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ep", &registration.endpoint)?;
        map.serialize_entry("lt", &registration.lifetime.as_secs())?;
        map.serialize_entry("lwm2m", registration.version())?;
        if let Some(binding) = registration.binding() {
            map.serialize_entry("b", binding)?;
        }
        if registration.queue_item() {
            map.serialize_entry("Q", "")?;
        }
        if let Proven::Told(Some(identity)) = proven {
            map.serialize_entry("identity", identity)?;
        }
        // A device cannot put its own text where the object list stands, or the identity that it proved.
        let told = *proven != Proven::Untold;
        let own = |name: &str| {
            matches!(name, "alternatePath" | "objectList" | "objectAttributes") || told && name == "identity"
        };
        for (name, value) in registration.items().filter(|(name, _)| !own(name)) {
            map.serialize_entry(name, value)?;
        }
        if let Some(path) = registration.alternate_path() {
            map.serialize_entry("alternatePath", path)?;
        }
        if let Some(objects) = registration.object_list() {
            map.serialize_entry("objectList", &objects.collect::<Vec<_>>())?;
        }
        if !registration.object_attributes().is_empty() {
            map.serialize_entry("objectAttributes", registration.object_attributes())?;
        }
        map.end()
    }
}
