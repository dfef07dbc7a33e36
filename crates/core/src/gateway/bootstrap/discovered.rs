//! A device's list of its accounts, in its answer to Bootstrap-Discover (OMA LwM2M Core 1.1 section 6.1.6.2).

use std::collections::BTreeMap;

use crate::bootstrap::resources::SECURITY;
use crate::lwm2m::link::{self, LinkError};
use crate::lwm2m::model::Version;
use crate::lwm2m::path::Path;

/// The lowest instance for a server in a pack. Clients keep their bootstrap account in one of the first instances
/// (Leshan and wakaama in 0, the demonstration of Anjay in 1), and a pack that overwrites it takes the bootstrap server
/// away from the device.
const FIRST_PACKED: u16 = 100;

/// The instances of the object 0 on a device, and its version of LwM2M.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiscoveredDevice {
    /// The short server ID of each instance; the instance without one is the bootstrap account.
    pub accounts: BTreeMap<u16, Option<u16>>,
    pub version: Option<Version>,
    /// The lowest instance that a server may get.
    lowest: u16,
}

/// Describes a device that does not support Bootstrap-Discover: its bootstrap account is the instance 0.
impl Default for DiscoveredDevice {
    fn default() -> Self {
        Self { accounts: BTreeMap::from([(0, None)]), version: None, lowest: 0 }
    }
}

impl DiscoveredDevice {
    /// Describes a device that asks for a pack, so that the instance of its bootstrap account is unknown.
    pub(crate) fn not_asked() -> Self {
        Self { lowest: FIRST_PACKED, ..Self::default() }
    }

    /// Reads the answer to a Bootstrap-Discover of the root. A device of LwM2M 1.0 begins it with `lwm2m="1.0"`, which
    /// is no link.
    pub(super) fn read(payload: &[u8]) -> Result<Self, LinkError> {
        let mut device = Self { accounts: BTreeMap::new(), version: None, lowest: 0 };
        for link in link::parse(payload)?.links {
            if let Some(version) = link.attribute("lwm2m") {
                device.version = version.parse().ok();
            }
            let Ok(path) = link.target.parse::<Path>() else { continue };
            if let [SECURITY, instance] = *path.segments() {
                let short_server_id = link.attribute("ssid").and_then(|id| id.parse().ok());
                device.accounts.insert(instance, short_server_id);
            }
        }
        if device.accounts.is_empty() {
            device.accounts = Self::default().accounts;
        }
        Ok(device)
    }

    /// Removes what the device removes when these paths are deleted: all but its bootstrap account.
    pub(super) fn delete(&mut self, paths: &[Path]) {
        let is_deleted = |instance: u16| {
            let path = Path::of(&[SECURITY, instance]).unwrap_or_default();
            paths.iter().any(|deleted| path.is_at_or_below(deleted))
        };
        self.accounts.retain(|instance, id| id.is_none() || !is_deleted(*instance));
    }

    /// Chooses the instance for a server: the one that it has, or else the lowest that is free.
    pub(super) fn place(&mut self, short_server_id: u16) -> u16 {
        let own = self.accounts.iter().find(|(_, id)| **id == Some(short_server_id)).map(|(instance, _)| *instance);
        let free =
            || (self.lowest..=u16::MAX).find(|instance| !self.accounts.contains_key(instance)).unwrap_or(u16::MAX);
        let instance = own.unwrap_or_else(free);
        self.accounts.insert(instance, Some(short_server_id));
        instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &str) -> DiscoveredDevice {
        DiscoveredDevice::read(payload.as_bytes()).unwrap()
    }

    #[test]
    fn the_instance_without_short_server_id_is_the_bootstrap_account() {
        let device = read("</>;lwm2m=1.1,</0>,</0/0>;uri=\"coap://bs\",</0/1>;ssid=101,</1>,</1/0>;ssid=101,</3/0>");
        assert_eq!(device.accounts, BTreeMap::from([(0, None), (1, Some(101))]));
        assert_eq!(device.version, Some(Version { major: 1, minor: 1 }));
    }

    #[test]
    fn the_version_of_lwm2m_1_0_is_no_link_and_is_passed_over() {
        let device = read("lwm2m=\"1.0\",</0/3>,</0/1>;ssid=7,</1/0>,</3/0>");
        assert_eq!(device.accounts, BTreeMap::from([(1, Some(7)), (3, None)]));
        assert_eq!(device.version, None);
    }

    #[test]
    fn a_device_that_names_no_account_has_its_bootstrap_account_at_0() {
        assert_eq!(read("</1>,</3/0>"), DiscoveredDevice::default());
    }

    #[test]
    fn a_server_gets_the_lowest_free_instance_and_keeps_the_one_that_it_has() {
        let mut device = read("</0/0>,</0/1>;ssid=101,</0/2>;ssid=102");
        assert_eq!((device.place(102), device.place(103), device.place(104)), (2, 3, 4));
        let mut device = read("</0/0>;ssid=101,</0/1>,</0/2>;ssid=102");
        device.delete(&["/0".parse().unwrap()]);
        assert_eq!((device.place(101), device.place(102)), (0, 2), "the bootstrap account stays at 1");
    }

    #[test]
    fn a_server_in_a_pack_gets_no_instance_in_which_clients_have_their_bootstrap_account() {
        let mut device = DiscoveredDevice::not_asked();
        assert_eq!((device.place(101), device.place(102), device.place(101)), (100, 101, 100));
    }

    #[test]
    fn deleting_other_objects_deletes_no_account() {
        let mut device = read("</0/0>,</0/1>;ssid=101,</0/2>;ssid=102");
        device.delete(&["/1".parse().unwrap(), "/0/2".parse().unwrap()]);
        assert_eq!(device.accounts, BTreeMap::from([(0, None), (1, Some(101))]));
        device.delete(&[Path::ROOT]);
        assert_eq!(device.accounts, BTreeMap::from([(0, None)]));
    }
}
