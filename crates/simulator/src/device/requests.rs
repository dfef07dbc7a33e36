//! The requests of the server, and what follows from them.

use std::time::{Duration, Instant};

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Message, Response};
use lwm2m_core::lwm2m::path::Path;

use super::effect::Effect;
use super::updating::FirmwareAnswer;
use super::{DeviceEvent, SimulatedDevice, lifetime_path};
use crate::objects::{SimulatedResource, SimulatedWriteMode};
use crate::observations::{self, Attributes, Observed};
use crate::registration::SimulatedVersion;
use crate::value::SimulatedValue;

/// The critical options that requests may have.
const UNDERSTOOD: [u16; 5] = [number::URI_HOST, number::URI_PORT, number::URI_PATH, number::URI_QUERY, number::ACCEPT];

impl SimulatedDevice {
    pub(super) fn handle_request(&mut self, now: Instant, request: &Message) {
        let path = uri_path(request);
        let firmware = path.map_or(FirmwareAnswer::Ordinary, |path| self.answer_firmware(request, path));
        let answer = match firmware {
            FirmwareAnswer::Ordinary => self.answer(now, request, path),
            FirmwareAnswer::Answer(answer) => answer,
            FirmwareAnswer::Silence => return,
        };
        let (response, effect) = match answer {
            Ok(answer) => answer,
            Err(code) => (Response::new(code), Effect::None),
        };
        let (code, content_format) = (response.code, response.options.content_format());
        self.messages.reply(request, response);
        let path = path.map_or_else(|_| "?".to_owned(), |path| path.to_string());
        self.events.push_back(DeviceEvent::Answered { method: request.code, path, code, content_format });
        self.follow_up(now, effect);
    }

    fn answer(
        &mut self,
        now: Instant,
        request: &Message,
        path: Result<Path, Code>,
    ) -> Result<(Response, Effect), Code> {
        if request.options.iter().any(|(number, _)| is_critical(number) && !UNDERSTOOD.contains(&number)) {
            return Err(Code::BAD_OPTION);
        }
        let path = path?;
        let written = (request.options.content_format().unwrap_or(format::TEXT), request.payload.as_slice());
        let version = self.config.version;
        match (request.code, path.len()) {
            (Code::GET, _) => Ok((self.get(now, request, path)?, Effect::None)),
            (Code::PUT, _) if is_write_attributes(request) => {
                Ok((self.write_attributes(now, request, path)?, Effect::None))
            }
            (Code::PUT, _) => self.write(path, SimulatedWriteMode::Replace, written),
            (Code::POST, 1) => {
                let instance = self.objects.create(path, written, &self.formats)?;
                Ok((created(instance), Effect::InstancesChanged(path)))
            }
            (Code::POST, 2) => self.write(path, SimulatedWriteMode::Update, written),
            (Code::POST, 3) => match self.objects.resource(path) {
                Some(SimulatedResource::Multiple(..)) => self.write(path, SimulatedWriteMode::Update, written),
                Some(SimulatedResource::Single(..) | SimulatedResource::Executable { .. }) | None => self.execute(path),
            },
            (Code::DELETE, Path::MAX_SEGMENTS) if version >= SimulatedVersion::V1_2 => {
                self.objects.delete(path)?;
                Ok((Response::new(Code::DELETED), Effect::Changed(vec![path])))
            }
            (Code::DELETE, 2) => {
                self.objects.delete(path)?;
                Ok((Response::new(Code::DELETED), Effect::InstancesChanged(path)))
            }
            (Code::FETCH, 0) if version >= SimulatedVersion::V1_1 => Ok((self.fetch(now, request)?, Effect::None)),
            (Code::IPATCH, 0) if version >= SimulatedVersion::V1_1 => self.write_composite(request),
            _ => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// Discover, Read, Observe or Cancel.
    fn get(&mut self, now: Instant, request: &Message, path: Path) -> Result<Response, Code> {
        let accept = accept(request)?;
        if accept == Some(format::LINK_FORMAT) {
            return self.discover(request, path);
        }
        let (format, payload) = self.objects.read(path, accept, &self.formats)?;
        self.answer_and_observe(now, request, content(format, payload), Observed::Single { path, accept })
    }

    /// Read-Composite, Observe-Composite or its cancellation (OMA LwM2M Core 1.1 sections 6.3 and 6.4).
    fn fetch(&mut self, now: Instant, request: &Message) -> Result<Response, Code> {
        let list_format = request.options.content_format().ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?;
        let paths = self.formats.path_list(list_format, &request.payload)?;
        let format = self.formats.for_composite_read(accept(request)?, list_format)?;
        let response = content(format, self.objects.read_composite(&paths, format));
        self.answer_and_observe(now, request, response, Observed::Composite { paths, format })
    }

    /// Begins or ends an observation, as the request says.
    fn answer_and_observe(
        &mut self,
        now: Instant,
        request: &Message,
        mut response: Response,
        observed: Observed,
    ) -> Result<Response, Code> {
        match request.options.uint(number::OBSERVE) {
            Ok(Some(0)) => {
                let attributes = self.observation_attributes(request)?;
                let observe = self.begin_observation(now, request.token, observed, attributes)?;
                response.options.add_uint(number::OBSERVE, observe);
            }
            Ok(Some(1)) => self.end_observation(request.token),
            // RFC 7641 section 2: any other value is ignored.
            Ok(_) | Err(_) => {}
        }
        Ok(response)
    }

    /// Returns the attributes in the query of an Observe, which are new in LwM2M 1.2.
    fn observation_attributes(&self, request: &Message) -> Result<Attributes, Code> {
        if self.config.version < SimulatedVersion::V1_2 {
            return Ok(Attributes::new());
        }
        observations::attributes_of(&request.options.texts(number::URI_QUERY).map_err(|_| Code::BAD_REQUEST)?)
    }

    fn discover(&self, request: &Message, path: Path) -> Result<Response, Code> {
        if !self.formats.knows(format::LINK_FORMAT) {
            return Err(Code::NOT_ACCEPTABLE);
        }
        let paths = self.objects.paths_from(path, self.discovered_depth(request, path)?)?;
        let link = |path: &Path| {
            let dimension = self.dimension(*path).map_or_else(String::new, |count| format!(";dim={count}"));
            format!("<{path}>{dimension}{}", self.observations.link_attributes(*path))
        };
        let links = paths.iter().map(link).collect::<Vec<_>>().join(",");
        Ok(content(format::LINK_FORMAT, links.into_bytes()))
    }

    /// Returns the segments of the longest paths in the answer to a Discover: down to the resources, and from LwM2M 1.1
    /// on down to the instances of one resource. From 1.2 on `depth` in the query says how many levels below the path.
    fn discovered_depth(&self, request: &Message, path: Path) -> Result<usize, Code> {
        let version = self.config.version;
        let query = request.options.texts(number::URI_QUERY).map_err(|_| Code::BAD_REQUEST)?;
        match query.iter().find_map(|item| item.strip_prefix("depth=")) {
            Some(depth) if version >= SimulatedVersion::V1_2 => {
                let depth: u8 = depth.parse().map_err(|_| Code::BAD_REQUEST)?;
                Ok(path.len() + usize::from(depth))
            }
            _ if version >= SimulatedVersion::V1_1 && path.len() == 3 => Ok(Path::MAX_SEGMENTS),
            _ => Ok(3),
        }
    }

    /// Returns the number of instances of a resource that may have several, which Discover tells from LwM2M 1.1 on.
    fn dimension(&self, path: Path) -> Option<usize> {
        match self.objects.resource(path)? {
            SimulatedResource::Multiple(_, values) => {
                (self.config.version >= SimulatedVersion::V1_1).then_some(values.len())
            }
            SimulatedResource::Single(..) | SimulatedResource::Executable { .. } => None,
        }
    }

    fn write(
        &mut self,
        path: Path,
        mode: SimulatedWriteMode,
        written: (u16, &[u8]),
    ) -> Result<(Response, Effect), Code> {
        self.objects.write(path, mode, written, &self.formats)?;
        Ok((Response::new(Code::CHANGED), Effect::Changed(vec![path])))
    }

    /// Write-Composite (OMA LwM2M Core 1.1 section 6.3).
    fn write_composite(&mut self, request: &Message) -> Result<(Response, Effect), Code> {
        let format = request.options.content_format().ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?;
        let entries = self.formats.patch(format, &request.payload)?;
        self.objects.write_composite(&entries)?;
        let paths = entries.iter().map(|entry| entry.path).collect();
        Ok((Response::new(Code::CHANGED), Effect::Changed(paths)))
    }

    fn execute(&mut self, path: Path) -> Result<(Response, Effect), Code> {
        self.objects.execute(path)?;
        let effect = match *path.segments() {
            [3, _, 4] => Effect::RebootRequested,
            [1, _, 8] => Effect::UpdateRequested,
            _ => Effect::Changed(vec![path]),
        };
        Ok((Response::new(Code::CHANGED), effect))
    }

    fn write_attributes(&mut self, now: Instant, request: &Message, path: Path) -> Result<Response, Code> {
        if !self.objects.contains(path) {
            return Err(Code::NOT_FOUND);
        }
        let query = request.options.texts(number::URI_QUERY).map_err(|_| Code::BAD_REQUEST)?;
        self.observations.write_attributes(path, &query)?;
        for token in self.observations.concerned(&[path]) {
            self.schedule(now, token);
        }
        Ok(Response::new(Code::CHANGED))
    }

    fn follow_up(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Changed(paths) => {
                self.changed(now, &paths);
                self.follow_lifetime(now);
            }
            Effect::InstancesChanged(path) => {
                self.changed(now, &[path]);
                self.pending_update.objects = true;
                self.update(now);
            }
            Effect::RebootRequested => {
                self.events.push_back(DeviceEvent::Rebooted);
                self.register_again(now);
            }
            Effect::UpdateRequested => self.update(now),
            Effect::FirmwareChanged(instance) => self.follow_firmware(now, instance),
        }
    }

    /// The server object has the lifetime too (OMA LwM2M 1.0 appendix E.2): what is written there is told with an
    /// Update.
    fn follow_lifetime(&mut self, now: Instant) {
        let Some(SimulatedResource::Single(_, SimulatedValue::Integer(seconds))) =
            self.objects.resource(lifetime_path())
        else {
            return;
        };
        let Ok(seconds) = u32::try_from(*seconds) else { return };
        let lifetime = Duration::from_secs(seconds.into());
        if lifetime != self.lifetime && !lifetime.is_zero() {
            self.lifetime = lifetime;
            self.pending_update.lifetime = true;
            self.update(now);
        }
    }
}

/// RFC 7252 section 5.4.6.
fn is_critical(number: u16) -> bool {
    number % 2 == 1
}

/// OMA LwM2M 1.0 section 5.4.4: a PUT without content, the attributes in the query.
fn is_write_attributes(request: &Message) -> bool {
    request.code == Code::PUT && request.payload.is_empty() && request.options.contains(number::URI_QUERY)
}

pub(super) fn uri_path(request: &Message) -> Result<Path, Code> {
    let segments = request.options.texts(number::URI_PATH).map_err(|_| Code::BAD_REQUEST)?;
    segments.join("/").parse().map_err(|_| Code::NOT_FOUND)
}

fn accept(request: &Message) -> Result<Option<u16>, Code> {
    let accept = request.options.uint(number::ACCEPT).map_err(|_| Code::BAD_OPTION)?;
    accept.map(|accept| u16::try_from(accept).map_err(|_| Code::NOT_ACCEPTABLE)).transpose()
}

/// Returns a 2.05 with a payload of this format.
pub(super) fn content(format: u16, payload: Vec<u8>) -> Response {
    let mut response = Response::new(Code::CONTENT);
    response.options.add_uint(number::CONTENT_FORMAT, format.into());
    response.payload = payload;
    response
}

fn created(path: Path) -> Response {
    let mut response = Response::new(Code::CREATED);
    for segment in path.segments() {
        response.options.add_text(number::LOCATION_PATH, &segment.to_string());
    }
    response
}
