//! The device as a whole: its registration, its answers, its notifications.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_base::deadlines::Deadlines;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Message, Response, Token};
use lwm2m_core::lwm2m::path::Path;

use super::messages::{MessagePurpose, Messages, Occurrence};
use super::objects::{Objects, SimulatedResource};
use super::observations::Observations;
use super::registration::{self, LocationPath, RegistrationState, SimulatedDeviceConfig};
use super::value::SimulatedValue;

/// A simulated device. Call [`SimulatedDevice::poll_output`] after everything else, until it is idle.
#[derive(Debug)]
pub struct SimulatedDevice {
    settings: SimulatedDeviceConfig,
    /// As the server knows it, or will know it with the next Update.
    lifetime: Duration,
    objects: Objects,
    state: RegistrationState,
    /// The changes that the next Update reports.
    pending_update: PendingUpdate,
    observations: Observations,
    messages: Messages,
    timers: Deadlines<DeviceTimer>,
    events: VecDeque<DeviceEvent>,
    started: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimulatedDeviceOutput {
    /// A datagram for the server.
    Transmit(Vec<u8>),
    Event(DeviceEvent),
    /// Nothing left; [`SimulatedDevice::handle_timeout`] is due then.
    Idle(Option<Instant>),
}

/// An event of the device for its observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The server took the Register; the location is its path there.
    Registered {
        location: String,
    },
    Updated,
    /// The server refused a Register or an Update (`code`), or gave no answer (none).
    Refused {
        code: Option<Code>,
        retry_after: Duration,
    },
    /// A request of the server was answered.
    Answered {
        method: Code,
        path: String,
        code: Code,
    },
    ObservationBegan {
        path: Path,
    },
    Notified {
        path: Path,
    },
    /// The server cancelled it, reset a notification or acknowledged none, or what it observed is gone.
    ObservationEnded {
        path: Path,
    },
    /// The server made it start again.
    Rebooted,
    /// The device is no longer registered.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct PendingUpdate {
    lifetime: bool,
    objects: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum DeviceTimer {
    Registration,
    Notify(Token),
}

impl SimulatedDevice {
    /// A device that does nothing yet; `seed` decides its message ids, its tokens and its waiting times.
    pub fn new(settings: SimulatedDeviceConfig, seed: u64) -> Self {
        let mut objects = settings.objects.clone();
        let seconds = i64::try_from(settings.lifetime.as_secs()).unwrap_or(i64::MAX);
        objects.set(lifetime_path(), SimulatedValue::Integer(seconds));
        Self {
            lifetime: settings.lifetime,
            objects,
            state: RegistrationState::Stopped,
            pending_update: PendingUpdate::default(),
            observations: Observations::default(),
            messages: Messages::new(settings.coap.clone(), seed),
            timers: Deadlines::default(),
            events: VecDeque::new(),
            started: None,
            settings,
        }
    }

    /// Registers.
    pub fn start(&mut self, now: Instant) {
        self.started = Some(now);
        self.register(now);
    }

    /// De-registers; [`DeviceEvent::Stopped`] comes when the server knows, or does not answer.
    pub fn stop(&mut self, now: Instant) {
        self.forget_observations();
        self.timers.cancel(DeviceTimer::Registration);
        self.messages.abandon_all();
        match std::mem::replace(&mut self.state, RegistrationState::Stopped) {
            RegistrationState::Registered(location) | RegistrationState::Updating(_, location) => {
                let token = self.messages.send_request(now, registration::deregister(&location));
                self.state = RegistrationState::Deregistering(token);
            }
            RegistrationState::Registering(_) | RegistrationState::Waiting | RegistrationState::Deregistering(_) => {
                self.events.push_back(DeviceEvent::Stopped);
            }
            RegistrationState::Stopped => {}
        }
    }

    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if self.state == RegistrationState::Stopped {
            return;
        }
        self.follow_wave(now);
        if let Some(occurrence) = self.messages.receive(now, datagram) {
            self.handle_occurrence(now, occurrence);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.follow_wave(now);
        while let Some(occurrence) = self.messages.poll_timeout(now) {
            self.handle_occurrence(now, occurrence);
        }
        while let Some(timer) = self.timers.pop_expired(now) {
            match timer {
                DeviceTimer::Registration => self.registration_due(now),
                DeviceTimer::Notify(token) => self.send_notification(now, token),
            }
        }
    }

    /// Gives a single resource a new value and notifies those who observe it; whether there is such a resource.
    pub fn notify(&mut self, now: Instant, path: Path, value: SimulatedValue) -> bool {
        let known = self.objects.set(path, value);
        if known {
            self.changed(now, path);
        }
        known
    }

    pub fn poll_output(&mut self) -> SimulatedDeviceOutput {
        if let Some(datagram) = self.messages.take_datagram() {
            return SimulatedDeviceOutput::Transmit(datagram);
        }
        if let Some(event) = self.events.pop_front() {
            return SimulatedDeviceOutput::Event(event);
        }
        SimulatedDeviceOutput::Idle(self.messages.next_deadline().into_iter().chain(self.timers.next()).min())
    }

    pub fn resource(&self, path: Path) -> Option<&SimulatedResource> {
        self.objects.resource(path)
    }

    pub fn is_registered(&self) -> bool {
        matches!(self.state, RegistrationState::Registered(_) | RegistrationState::Updating(..))
    }

    fn follow_wave(&mut self, now: Instant) {
        let (Some(wave), Some(started)) = (self.settings.wave, self.started) else { return };
        self.objects.set(wave.path, SimulatedValue::Float(wave.value(now.saturating_duration_since(started))));
    }

    fn handle_occurrence(&mut self, now: Instant, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Request(request) => self.handle_request(now, &request),
            Occurrence::Response(token, response) => self.handle_response(now, token, Some(&response)),
            Occurrence::Reset(MessagePurpose::Request(token))
            | Occurrence::TimedOut(MessagePurpose::Request(token)) => {
                self.handle_response(now, token, None);
            }
            Occurrence::Acknowledged(MessagePurpose::Request(_)) => {}
            Occurrence::Acknowledged(MessagePurpose::Notification(token)) => self.notification_arrived(now, token),
            Occurrence::Reset(MessagePurpose::Notification(token))
            | Occurrence::TimedOut(MessagePurpose::Notification(token)) => {
                self.end_observation(token);
            }
        }
    }
}

/// The registration.
impl SimulatedDevice {
    fn register(&mut self, now: Instant) {
        self.timers.cancel(DeviceTimer::Registration);
        self.pending_update = PendingUpdate::default();
        let request = registration::register(&self.settings, self.lifetime, &self.objects);
        self.state = RegistrationState::Registering(self.messages.send_request(now, request));
    }

    fn registration_due(&mut self, now: Instant) {
        match self.state {
            RegistrationState::Waiting => self.register(now),
            RegistrationState::Registered(_) => self.update(now),
            RegistrationState::Stopped
            | RegistrationState::Registering(_)
            | RegistrationState::Updating(..)
            | RegistrationState::Deregistering(_) => {}
        }
    }

    /// Sends an Update, unless one is on its way: then the next one says what is new.
    fn update(&mut self, now: Instant) {
        let RegistrationState::Registered(location) = &self.state else { return };
        let location = location.clone();
        let PendingUpdate { lifetime, objects } = std::mem::take(&mut self.pending_update);
        let request =
            registration::update(&location, lifetime.then_some(self.lifetime), objects.then_some(&self.objects));
        self.state = RegistrationState::Updating(self.messages.send_request(now, request), location);
    }

    /// The answer to a request of ours; none when it was reset or nothing came.
    fn handle_response(&mut self, now: Instant, token: Token, response: Option<&Response>) {
        match std::mem::replace(&mut self.state, RegistrationState::Stopped) {
            RegistrationState::Registering(awaited) if awaited == token => match response {
                Some(response) if response.code == Code::CREATED => self.registered(now, response),
                _ => self.refused(now, response, RegistrationState::Waiting),
            },
            RegistrationState::Updating(awaited, location) if awaited == token => match response
                .map(|response| response.code)
            {
                Some(Code::CHANGED) => self.updated(now, location),
                Some(Code::SERVICE_UNAVAILABLE) => self.refused(now, response, RegistrationState::Registered(location)),
                // The server does not know the registration, or it is away.
                _ => self.register_again(now),
            },
            RegistrationState::Deregistering(awaited) if awaited == token => {
                self.events.push_back(DeviceEvent::Stopped)
            }
            unconcerned => self.state = unconcerned,
        }
    }

    fn registered(&mut self, now: Instant, response: &Response) {
        let location = registration::location(response);
        let segments = location.iter().map(|segment| String::from_utf8_lossy(segment));
        let text = segments.map(|segment| format!("/{segment}")).collect();
        self.events.push_back(DeviceEvent::Registered { location: text });
        self.stay_registered(now, location);
    }

    fn updated(&mut self, now: Instant, location: LocationPath) {
        self.events.push_back(DeviceEvent::Updated);
        self.stay_registered(now, location);
    }

    fn stay_registered(&mut self, now: Instant, location: LocationPath) {
        self.state = RegistrationState::Registered(location);
        let after = registration::update_after(self.lifetime, &self.settings.coap);
        self.timers.set(DeviceTimer::Registration, now + after);
        if self.pending_update != PendingUpdate::default() {
            self.update(now);
        }
    }

    fn refused(&mut self, now: Instant, response: Option<&Response>, next: RegistrationState) {
        let retry_after = registration::retry_after(response);
        self.events.push_back(DeviceEvent::Refused { code: response.map(|response| response.code), retry_after });
        self.timers.set(DeviceTimer::Registration, now + retry_after);
        self.state = next;
    }

    /// A new registration: the server has forgotten all that it observed.
    fn register_again(&mut self, now: Instant) {
        self.forget_observations();
        self.messages.abandon_all();
        self.register(now);
    }
}

/// The requests of the server.
impl SimulatedDevice {
    fn handle_request(&mut self, now: Instant, request: &Message) {
        let path = uri_path(request);
        let response = match self.answer(now, request, path) {
            Ok(response) => response,
            Err(code) => Response::new(code),
        };
        let code = response.code;
        self.messages.reply(request, response);
        let path_text = path.map_or_else(|_| "?".to_owned(), |path| path.to_string());
        self.events.push_back(DeviceEvent::Answered { method: request.code, path: path_text, code });
        if let Ok(path) = path
            && code.is_success()
        {
            self.follow_up(now, request, path);
        }
    }

    fn answer(&mut self, now: Instant, request: &Message, path: Result<Path, Code>) -> Result<Response, Code> {
        if request.options.iter().any(|(number, _)| is_critical(number) && !UNDERSTOOD.contains(&number)) {
            return Err(Code::BAD_OPTION);
        }
        let path = path?;
        let format = request.options.content_format().unwrap_or(format::TEXT);
        let payload = &request.payload;
        match (request.code, path.segments().len()) {
            (Code::GET, _) => self.get(now, request, path),
            (Code::PUT, _) if is_write_attributes(request) => self.write_attributes(now, request, path),
            (Code::PUT, _) => self.objects.write(path, format, payload, true).map(|()| Response::new(Code::CHANGED)),
            (Code::POST, 1) => self.objects.create(path, format, payload).map(created),
            (Code::POST, 2) => self.objects.write(path, format, payload, false).map(|()| Response::new(Code::CHANGED)),
            (Code::POST, 3) => self.objects.execute(path).map(|()| Response::new(Code::CHANGED)),
            (Code::DELETE, _) => self.objects.delete(path).map(|()| Response::new(Code::DELETED)),
            _ => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// Discover, Read, Observe or Cancel.
    fn get(&mut self, now: Instant, request: &Message, path: Path) -> Result<Response, Code> {
        let accept = accept(request)?;
        if accept == Some(format::LINK_FORMAT) {
            return self.discover(path).map(|links| content(format::LINK_FORMAT, links.into_bytes()));
        }
        let (format, payload) = self.objects.read(path, accept)?;
        let mut response = content(format, payload);
        match request.options.uint(number::OBSERVE) {
            Ok(Some(0)) => {
                let observe = self.begin_observation(now, request.token, path, accept)?;
                response.options.add_uint(number::OBSERVE, observe);
            }
            Ok(Some(1)) => self.end_observation(request.token),
            // RFC 7641 section 2: any other value is ignored.
            Ok(_) | Err(_) => {}
        }
        Ok(response)
    }

    fn discover(&self, path: Path) -> Result<String, Code> {
        let link = |path: &Path| format!("<{path}>{}", self.observations.link_attributes(*path));
        Ok(self.objects.paths_from(path)?.iter().map(link).collect::<Vec<_>>().join(","))
    }

    fn write_attributes(&mut self, now: Instant, request: &Message, path: Path) -> Result<Response, Code> {
        self.objects.paths_from(path)?;
        let query = request.options.texts(number::URI_QUERY).map_err(|_| Code::BAD_REQUEST)?;
        self.observations.write_attributes(path, &query)?;
        for token in self.observations.concerned(path) {
            self.schedule(now, token);
        }
        Ok(Response::new(Code::CHANGED))
    }

    /// Performs the consequences of a successful operation.
    fn follow_up(&mut self, now: Instant, request: &Message, path: Path) {
        match (request.code, path.segments()) {
            (Code::GET, _) => {}
            (Code::PUT, _) if is_write_attributes(request) => {}
            (Code::POST, [3, _, 4]) => {
                self.events.push_back(DeviceEvent::Rebooted);
                self.register_again(now);
            }
            (Code::POST, [1, _, 8]) => self.update(now),
            (Code::POST, [_]) | (Code::DELETE, _) => {
                self.changed(now, path);
                self.pending_update.objects = true;
                self.update(now);
            }
            _ => {
                self.changed(now, path);
                self.follow_lifetime(now);
            }
        }
    }

    /// The server object has the lifetime too (OMA LwM2M 1.0 appendix E.2): what is written there is told with an Update.
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

/// Observation.
impl SimulatedDevice {
    fn begin_observation(&mut self, now: Instant, token: Token, path: Path, accept: Option<u16>) -> Result<u32, Code> {
        let number = self.observations.begin(token, path, accept, now)?;
        self.schedule(now, token);
        self.events.push_back(DeviceEvent::ObservationBegan { path });
        Ok(number)
    }

    fn end_observation(&mut self, token: Token) {
        self.timers.cancel(DeviceTimer::Notify(token));
        self.messages.abandon_notifications(token);
        if let Some(observation) = self.observations.end(token) {
            self.events.push_back(DeviceEvent::ObservationEnded { path: observation.path });
        }
    }

    fn forget_observations(&mut self) {
        for token in self.observations.clear() {
            self.timers.cancel(DeviceTimer::Notify(token));
        }
    }

    /// Something at the path is new: who observes it hears of it, no sooner than `pmin` after the last time.
    fn changed(&mut self, now: Instant, path: Path) {
        for token in self.observations.concerned(path) {
            let Some(observation) = self.observations.get_mut(token) else { continue };
            let (observed, last_sent) = (observation.path, observation.last_sent);
            let earliest = last_sent + self.observations.periods(observed).0;
            if earliest > now {
                self.timers.set(DeviceTimer::Notify(token), earliest);
            } else {
                self.send_notification(now, token);
            }
        }
    }

    /// Sets when the next notification is due if nothing happens before.
    fn schedule(&mut self, now: Instant, token: Token) {
        let Some(path) = self.observations.get_mut(token).map(|observation| observation.path) else { return };
        let (pmin, pmax) = self.observations.periods(path);
        match pmax.or(self.settings.notification_interval) {
            Some(interval) => self.timers.set(DeviceTimer::Notify(token), now + interval.max(pmin)),
            None => self.timers.cancel(DeviceTimer::Notify(token)),
        }
    }

    fn send_notification(&mut self, now: Instant, token: Token) {
        let confirmable = self.settings.confirmable_notifications;
        let Some(observation) = self.observations.get_mut(token) else { return };
        if observation.in_flight {
            observation.missed = true;
            return;
        }
        let path = observation.path;
        match self.objects.read(path, observation.accept) {
            Ok((format, payload)) => {
                observation.number = (observation.number + 1) & 0x00ff_ffff;
                observation.last_sent = now;
                observation.in_flight = confirmable;
                let mut notification = content(format, payload);
                notification.options.add_uint(number::OBSERVE, observation.number);
                self.messages.send_notification(now, token, notification, confirmable);
                self.events.push_back(DeviceEvent::Notified { path });
                self.schedule(now, token);
            }
            // RFC 7641 section 4.2: a notification with an error is the last one.
            Err(code) => {
                self.end_observation(token);
                self.messages.send_notification(now, token, Response::new(code), confirmable);
            }
        }
    }

    fn notification_arrived(&mut self, now: Instant, token: Token) {
        let Some(observation) = self.observations.get_mut(token) else { return };
        observation.in_flight = false;
        if std::mem::take(&mut observation.missed) {
            self.send_notification(now, token);
        }
    }
}

/// The critical options that requests may have.
const UNDERSTOOD: [u16; 5] = [number::URI_HOST, number::URI_PORT, number::URI_PATH, number::URI_QUERY, number::ACCEPT];

/// The lifetime in the server object.
fn lifetime_path() -> Path {
    "/1/0/1".parse().expect("a path")
}

/// RFC 7252 section 5.4.6.
fn is_critical(number: u16) -> bool {
    number % 2 == 1
}

/// OMA LwM2M 1.0 section 5.4.4: a PUT without content, the attributes in the query.
fn is_write_attributes(request: &Message) -> bool {
    request.code == Code::PUT && request.payload.is_empty() && request.options.contains(number::URI_QUERY)
}

fn uri_path(request: &Message) -> Result<Path, Code> {
    let segments = request.options.texts(number::URI_PATH).map_err(|_| Code::BAD_REQUEST)?;
    segments.join("/").parse().map_err(|_| Code::NOT_FOUND)
}

fn accept(request: &Message) -> Result<Option<u16>, Code> {
    let accept = request.options.uint(number::ACCEPT).map_err(|_| Code::BAD_OPTION)?;
    accept.map(|accept| u16::try_from(accept).map_err(|_| Code::NOT_ACCEPTABLE)).transpose()
}

fn content(format: u16, payload: Vec<u8>) -> Response {
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
