//! The registration interface, from the device's side (OMA LwM2M 1.0 section 5.3).

use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Parameters, Request, Response, Token};
use lwm2m_core::lwm2m::path::Path;

use super::objects::Objects;

/// When a refused device tries again, and the server did not say when: the default of Max-Age (RFC 7252 section 5.10.5).
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The longest that a server can make the device wait.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 3600);

/// The identity and the behaviour of a simulated device.
#[derive(Clone, Debug)]
pub struct SimulatedDeviceConfig {
    pub endpoint: String,
    pub lifetime: Duration,
    /// The version of LwM2M in the query: `1.0`, `1.1`.
    pub version: String,
    /// As it goes into the query: `U`, `UQ`.
    pub binding: String,
    /// More items for the query of Register: `imei=490154203237518`.
    pub query: Vec<String>,
    pub objects: Objects,
    /// The interval of notifications if the server wrote no `pmax`. With `None` only changes are notified.
    pub notification_interval: Option<Duration>,
    pub confirmable_notifications: bool,
    /// The single Float resource that goes up and down by itself.
    pub wave: Option<Wave>,
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
    /// A device with the default objects, whose temperature goes from 18 to 24 degrees and back in a minute.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let temperature = "/3303/0/5700".parse().expect("a path");
        Self {
            endpoint: endpoint.into(),
            lifetime: Duration::from_secs(300),
            version: "1.0".to_owned(),
            binding: "U".to_owned(),
            query: Vec::new(),
            objects: Objects::default(),
            notification_interval: Some(Duration::from_secs(5)),
            confirmable_notifications: false,
            wave: Some(Wave { path: temperature, mean: 21.0, amplitude: 3.0, period: Duration::from_secs(60) }),
            coap: Parameters::default(),
        }
    }
}

impl Wave {
    /// The value so long after the start, to a tenth.
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
    Registering(Token),
    /// Refused, or not answered: it registers when the time has come.
    Waiting,
    Registered(LocationPath),
    Updating(Token, LocationPath),
    Deregistering(Token),
}

/// The segments of Location-Path.
pub(super) type LocationPath = Vec<Vec<u8>>;

pub(super) fn register(settings: &SimulatedDeviceConfig, lifetime: Duration, objects: &Objects) -> Request {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_PATH, "rd");
    request.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    for item in [
        format!("ep={}", settings.endpoint),
        format!("lt={}", lifetime.as_secs()),
        format!("lwm2m={}", settings.version),
        format!("b={}", settings.binding),
    ] {
        request.options.add_text(number::URI_QUERY, &item);
    }
    for item in &settings.query {
        request.options.add_text(number::URI_QUERY, item);
    }
    request.payload = objects.links().into_bytes();
    request
}

/// An Update that says what is new: the lifetime, the object list.
pub(super) fn update(location: &LocationPath, lifetime: Option<Duration>, objects: Option<&Objects>) -> Request {
    let mut request = at_location(Code::POST, location);
    if let Some(lifetime) = lifetime {
        request.options.add_text(number::URI_QUERY, &format!("lt={}", lifetime.as_secs()));
    }
    if let Some(objects) = objects {
        request.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        request.payload = objects.links().into_bytes();
    }
    request
}

pub(super) fn deregister(location: &LocationPath) -> Request {
    at_location(Code::DELETE, location)
}

pub(super) fn location(response: &Response) -> LocationPath {
    response.options.all(number::LOCATION_PATH).map(<[u8]>::to_vec).collect()
}

/// When to try again after this answer.
pub(super) fn retry_after(response: Option<&Response>) -> Duration {
    let max_age = response.and_then(|response| response.options.uint(number::MAX_AGE).ok().flatten());
    max_age.map_or(RETRY_AFTER, |seconds| Duration::from_secs(seconds.into())).min(LONGEST_RETRY)
}

/// When to send an Update: early enough that all its retransmissions fit into the lifetime, where it is that long.
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
