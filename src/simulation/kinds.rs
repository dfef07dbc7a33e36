//! The kinds of simulated devices, and what each does by itself.

use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::lwm2m::path::Path;
use lwm2m_simulator::{
    Objects, ResourceAccess, SimulatedDeviceConfig, SimulatedResource, SimulatedSample, SimulatedSend, SimulatedValue,
    SimulatedVersion, Wave,
};

/// Interval of the reports of a thermometer, and of the broken datagrams of the faulty device.
pub(crate) const HABIT_INTERVAL: Duration = Duration::from_secs(20);
/// The faulty device loses every third datagram, so that it repeats messages.
pub(crate) const FAULTY_LOSES_ONE_OF: u64 = 3;

/// Interval of notifications, while something is observed.
const NOTIFICATION_INTERVAL: Duration = Duration::from_secs(2);
/// Lifetime of a meter: it sends an Update, and is awake, twice in that time.
const METER_LIFETIME: Duration = Duration::from_secs(120);
/// Message ID of the first message of the faulty device that the simulator did not make.
const FIRST_STRAY_ID: u16 = 0xf000;

/// The kind of a simulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// Always awake. From LwM2M 1.1 on it reports its temperature by Send.
    Thermometer(SimulatedVersion),
    /// A device in queue mode, asleep most of the time.
    Meter,
    /// A thermometer on a bad network, which also sends datagrams that the gateway rejects.
    Faulty,
}

impl DeviceKind {
    /// Returns the kind of the device with this number, from 1 to `count`.
    pub(super) fn of(number: u16, count: u16) -> Self {
        let versions = [SimulatedVersion::V1_0, SimulatedVersion::V1_1, SimulatedVersion::V1_2];
        match number {
            last if last == count && count >= 3 => Self::Faulty,
            even if even % 2 == 0 => Self::Meter,
            odd => Self::Thermometer(versions.into_iter().cycle().nth(usize::from(odd / 2)).expect("a cycle")),
        }
    }

    /// Returns the identity and the objects of the device with this number.
    pub(super) fn config(self, number: u16) -> SimulatedDeviceConfig {
        let thermometer = |name: &str, version| SimulatedDeviceConfig {
            notification_interval: Some(NOTIFICATION_INTERVAL),
            ..SimulatedDeviceConfig::of_version(format!("{name}-{number}"), version)
        };
        match self {
            Self::Thermometer(version) => thermometer("thermometer", version),
            Self::Faulty => thermometer("faulty", SimulatedVersion::V1_0),
            Self::Meter => SimulatedDeviceConfig {
                lifetime: METER_LIFETIME,
                queue_mode: true,
                objects: meter_objects(),
                wave: Some(Wave { path: path("/3305/0/5800"), mean: 400.0, amplitude: 350.0, period: METER_LIFETIME }),
                ..SimulatedDeviceConfig::of_version(format!("meter-{number}"), SimulatedVersion::V1_1)
            },
        }
    }

    /// Returns the values that the device reports at this time since 1970 without being asked; `None` if it does not.
    pub(super) fn report(self, unix_time: Duration) -> Option<SimulatedSend> {
        match self {
            Self::Thermometer(SimulatedVersion::V1_1 | SimulatedVersion::V1_2) => {}
            Self::Thermometer(SimulatedVersion::V1_0) | Self::Meter | Self::Faulty => return None,
        }
        let temperature = path("/3303/0/5700");
        let sample = |(seconds, degrees)| SimulatedSample {
            path: temperature,
            value: SimulatedValue::Float(degrees),
            time: Some(seconds),
        };
        Some(SimulatedSend {
            format: format::SENML_CBOR,
            base_time: Some(unix_time.as_secs_f64().floor()),
            samples: [(-10.0, 20.9), (0.0, 21.3)].map(sample).to_vec(),
        })
    }
}

/// Returns a datagram that the gateway rejects: in turn a Register with a lifetime that is no number, and one that is
/// no CoAP message.
pub(crate) fn broken_datagram(turn: usize) -> Vec<u8> {
    // A message ID has two bytes (RFC 7252 section 3).
    const TRUNCATED: &[u8] = &[0x40, 0x02, 0x12];
    if turn.is_multiple_of(2) { misconfigured_register(turn) } else { TRUNCATED.to_vec() }
}

fn misconfigured_register(turn: usize) -> Vec<u8> {
    let id = MessageId(FIRST_STRAY_ID | (turn % 0x1000) as u16);
    let mut options = Options::new();
    options.add_text(number::URI_PATH, "rd");
    options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    for item in ["ep=misconfigured", "lt=soon", "lwm2m=1.0", "b=U"] {
        options.add_text(number::URI_QUERY, item);
    }
    let token = Token::new(&id.0.to_be_bytes());
    let message =
        Message { kind: Kind::Confirmable, code: Code::POST, id, token, options, payload: b"</1/0>,</3/0>".to_vec() };
    message.encode()
}

/// Returns a server, a device and a power measurement.
fn meter_objects() -> Objects {
    let mut objects = Objects::default();
    objects.remove(3303);
    let power = |value| SimulatedResource::Single(ResourceAccess::Read, SimulatedValue::Float(value));
    objects.insert(3305, 0, 5800, power(400.0));
    objects.insert(3305, 0, 5805, power(17_204.5));
    objects.insert(3305, 0, 5701, SimulatedResource::Single(ResourceAccess::Read, "W".into()));
    objects.insert(3305, 0, 5822, SimulatedResource::Executable { runs: 0 });
    objects.insert(3305, 0, 5750, SimulatedResource::Single(ResourceAccess::ReadWrite, "Cellar".into()));
    objects
}

fn path(text: &str) -> Path {
    text.parse().expect("a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thermometers_and_meters_alternate_and_the_last_of_three_is_faulty() {
        let names = |count| -> Vec<String> {
            (1..=count).map(|number| DeviceKind::of(number, count).config(number).endpoint).collect()
        };
        assert_eq!(names(1), ["thermometer-1"]);
        assert_eq!(names(2), ["thermometer-1", "meter-2"]);
        assert_eq!(names(5), ["thermometer-1", "meter-2", "thermometer-3", "meter-4", "faulty-5"]);
        assert_eq!(DeviceKind::of(3, 9), DeviceKind::Thermometer(SimulatedVersion::V1_1));
        assert_eq!(DeviceKind::of(5, 9), DeviceKind::Thermometer(SimulatedVersion::V1_2));
    }

    #[test]
    fn a_faulty_device_sends_in_turn_a_register_with_a_bad_lifetime_and_what_is_no_message() {
        let register = Message::decode(&broken_datagram(0)).unwrap();
        assert!(Message::decode(&broken_datagram(1)).is_err());
        let query = register.options.texts(number::URI_QUERY).unwrap();
        assert!(query.contains(&"lt=soon"), "{query:?}");
        assert_ne!(broken_datagram(0), broken_datagram(2));
    }
}
