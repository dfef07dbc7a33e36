//! The registration interface, from the device's side (OMA LwM2M 1.0 section 5.3, Core 1.1 and 1.2 section 6.2).

use std::fmt;
use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Parameters, Request, Response, Token};
use lwm2m_core::lwm2m::path::Path;

use super::firmware::SimulatedFirmwareConfig;
use super::objects::{Objects, ResourceAccess, SimulatedResource};
use super::value::SimulatedValue;

/// The time after which a refused device retries if the server did not say when: the default of Max-Age (RFC 7252
/// section 5.10.5).
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The longest that a server can make the device wait.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 3600);

/// The version of LwM2M with which a device registers. It decides which operations and formats the device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimulatedVersion {
    V1_0,
    V1_1,
    V1_2,
}

/// The identity and the behaviour of a simulated device.
#[derive(Clone, Debug)]
pub struct SimulatedDeviceConfig {
    pub endpoint: String,
    pub lifetime: Duration,
    pub version: SimulatedVersion,
    /// The binding as it goes into the query: `U`; `UQ` is the queue mode of LwM2M 1.0.
    pub binding: String,
    /// Whether the query has the item `Q`, which is the queue mode from LwM2M 1.1 on.
    pub queue_mode: bool,
    /// Whether the device has no server yet, and asks the bootstrap server for it.
    pub bootstrap: bool,
    /// The content format that it prefers to be written in by the bootstrap server.
    pub bootstrap_format: Option<u16>,
    /// The content formats that the object list announces at its root link; with none there is no root link.
    pub announced_formats: Vec<u16>,
    /// Content formats that the device does not know although its version has them. It answers an Accept with 4.06 and
    /// a payload with 4.15.
    pub unsupported_formats: Vec<u16>,
    /// More items for the query of Register: `imei=490154203237518`.
    pub query: Vec<String>,
    pub objects: Objects,
    /// The interval of notifications if the server wrote no `pmax`. With `None` only changes are notified.
    pub notification_interval: Option<Duration>,
    pub confirmable_notifications: bool,
    /// The single Float resource that goes up and down by itself.
    pub wave: Option<Wave>,
    /// The Firmware Update object; `None`: the device has none.
    pub firmware: Option<SimulatedFirmwareConfig>,
    pub coap: Parameters,
}

/// A smooth change between two values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wave {
    pub path: Path,
    pub mean: f64,
    pub amplitude: f64,
    pub period: Duration,
}

impl SimulatedDeviceConfig {
    /// Returns a device of LwM2M 1.0 with the default objects, whose temperature goes from 18 to 24 degrees and back in
    /// a minute.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let temperature = "/3303/0/5700".parse().expect("a path");
        Self {
            endpoint: endpoint.into(),
            lifetime: Duration::from_secs(300),
            version: SimulatedVersion::V1_0,
            binding: "U".to_owned(),
            queue_mode: false,
            bootstrap: false,
            bootstrap_format: None,
            announced_formats: Vec::new(),
            unsupported_formats: Vec::new(),
            query: Vec::new(),
            objects: Objects::default(),
            notification_interval: Some(Duration::from_secs(5)),
            confirmable_notifications: false,
            wave: Some(Wave { path: temperature, mean: 21.0, amplitude: 3.0, period: Duration::from_secs(60) }),
            firmware: None,
            coap: Parameters::default(),
        }
    }

    /// Returns the same device with another version of LwM2M. From 1.1 on the server can mute its Send (resource 23 of
    /// the server object).
    pub fn of_version(endpoint: impl Into<String>, version: SimulatedVersion) -> Self {
        let mut config = Self { version, ..Self::new(endpoint) };
        if version >= SimulatedVersion::V1_1 {
            let mute_send = SimulatedResource::Single(ResourceAccess::ReadWrite, SimulatedValue::Boolean(false));
            config.objects.insert(1, 0, 23, mute_send);
        }
        config
    }
}

/// Writes the version as in the query of a Register: `1.1`.
impl fmt::Display for SimulatedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SimulatedVersion::V1_0 => "1.0",
            SimulatedVersion::V1_1 => "1.1",
            SimulatedVersion::V1_2 => "1.2",
        })
    }
}

impl Wave {
    /// Returns the value at this time after the start, to a tenth.
    pub(super) fn value(&self, elapsed: Duration) -> f64 {
        let turns = elapsed.as_secs_f64() / self.period.as_secs_f64().max(1.0);
        let value = self.mean + self.amplitude * (turns * std::f64::consts::TAU).sin();
        (value * 10.0).round() / 10.0
    }
}

/// The state of the registration, in the order of the device's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RegistrationState {
    Stopped,
    /// The device has asked for a bootstrap session.
    AskingForBootstrap(Token),
    Bootstrapping,
    /// The device has its servers, and its owner has to reach one of them.
    Bootstrapped,
    Registering(Token),
    /// Refused, or not answered: it registers when the time has come.
    Waiting,
    Registered(LocationPath),
    Updating(Token, LocationPath),
    Deregistering(Token),
}

/// The segments of Location-Path.
pub(super) type LocationPath = Vec<Vec<u8>>;

pub(super) fn register(config: &SimulatedDeviceConfig, lifetime: Duration, objects: &Objects) -> Request {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_PATH, "rd");
    request.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    for item in [
        format!("ep={}", config.endpoint),
        format!("lt={}", lifetime.as_secs()),
        format!("lwm2m={}", config.version),
        format!("b={}", config.binding),
    ] {
        request.options.add_text(number::URI_QUERY, &item);
    }
    if config.queue_mode {
        request.options.add_text(number::URI_QUERY, "Q");
    }
    for item in &config.query {
        request.options.add_text(number::URI_QUERY, item);
    }
    request.payload = object_list(config, objects);
    request
}

/// Returns the object list, with the root link before it if the device announces formats (OMA LwM2M Core 1.1 section
/// 6.2.1).
fn object_list(config: &SimulatedDeviceConfig, objects: &Objects) -> Vec<u8> {
    let formats: Vec<String> = config.announced_formats.iter().map(u16::to_string).collect();
    let root = match formats.as_slice() {
        [] => String::new(),
        [format] => format!("</>;rt=\"oma.lwm2m\";ct={format},"),
        formats => format!("</>;rt=\"oma.lwm2m\";ct=\"{}\",", formats.join(" ")),
    };
    let mut links = objects.links();
    // The object of version 1.1 says so (LwM2M Core 1.1 section 7.2.2).
    if config.firmware.as_ref().is_some_and(|firmware| firmware.can_cancel) {
        links = links.replacen("</5/", "</5>;ver=1.1,</5/", 1);
    }
    (root + &links).into_bytes()
}

/// Returns an Update that says what is new: the lifetime, the object list.
pub(super) fn update(
    config: &SimulatedDeviceConfig,
    location: &LocationPath,
    lifetime: Option<Duration>,
    objects: Option<&Objects>,
) -> Request {
    let mut request = at_location(Code::POST, location);
    if let Some(lifetime) = lifetime {
        request.options.add_text(number::URI_QUERY, &format!("lt={}", lifetime.as_secs()));
    }
    if let Some(objects) = objects {
        request.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        request.payload = object_list(config, objects);
    }
    request
}

pub(super) fn deregister(location: &LocationPath) -> Request {
    at_location(Code::DELETE, location)
}

pub(super) fn location(response: &Response) -> LocationPath {
    response.options.all(number::LOCATION_PATH).map(<[u8]>::to_vec).collect()
}

/// Returns when to try again after this answer.
pub(super) fn retry_after(response: Option<&Response>) -> Duration {
    let max_age = response.and_then(|response| response.options.uint(number::MAX_AGE).ok().flatten());
    max_age.map_or(RETRY_AFTER, |seconds| Duration::from_secs(seconds.into())).min(LONGEST_RETRY)
}

/// Returns when to send an Update: early enough that all its retransmissions fit into the lifetime, where it is that
/// long.
pub(super) fn update_after(lifetime: Duration, parameters: &Parameters) -> Duration {
    lifetime.saturating_sub(parameters.max_transmit_wait()).max(lifetime / 2)
}

fn at_location(method: Code, location: &LocationPath) -> Request {
    let mut request = Request::new(method);
    for segment in location {
        request.options.add(number::URI_PATH, segment);
    }
    request
}
