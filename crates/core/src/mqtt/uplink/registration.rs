//! The JSON of `register` and `update`.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::lwm2m::register::Registration;

use super::ProvenIdentity;

/// Serializes `register` and `update`.
pub(super) struct RegistrationMessage<'a> {
    pub msg_type: &'static str,
    pub registration: &'a Registration,
    pub proven: ProvenIdentity<'a>,
}

impl Serialize for RegistrationMessage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("msgType", self.msg_type)?;
        map.serialize_entry("data", &RegistrationData(self.registration, self.proven))?;
        map.end()
    }
}

struct RegistrationData<'a>(&'a Registration, ProvenIdentity<'a>);

impl Serialize for RegistrationData<'_> {
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
        if let ProvenIdentity::Included(Some(identity)) = proven {
            map.serialize_entry("identity", identity)?;
        }
        // A device cannot put its own text where the object list stands, or the identity that it proved.
        let is_included = *proven != ProvenIdentity::Omitted;
        let own = |name: &str| {
            matches!(name, "alternatePath" | "objectList" | "objectAttributes") || is_included && name == "identity"
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
