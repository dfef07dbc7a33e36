//! The device: its registration, its answers, its notifications, and its own messages.

mod effect;
mod notifications;
mod requests;
mod sending;
mod updating;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_base::deadlines::Deadlines;
use lwm2m_core::coap::{Code, Message, Response, Token};
use lwm2m_core::lwm2m::path::Path;

pub use sending::{SimulatedSample, SimulatedSend, SimulatedSendError};

use super::bootstrap::{self, BootstrapAccounts, SimulatedServer};
use super::content::SupportedFormats;
use super::firmware::Firmware;
use super::messages::{MessagePurpose, Messages, Occurrence};
use super::objects::{Objects, SimulatedResource};
use super::observations::Observations;
use super::registration::{self, LocationPath, RegistrationState, SimulatedDeviceConfig};
use super::value::SimulatedValue;

/// A simulated device. Call [`SimulatedDevice::poll_output`] after everything else, until it is idle.
#[derive(Debug)]
pub struct SimulatedDevice {
    config: SimulatedDeviceConfig,
    /// The registration as the server knows it, or will know it with the next Update.
    lifetime: Duration,
    objects: Objects,
    formats: SupportedFormats,
    accounts: BootstrapAccounts,
    state: RegistrationState,
    /// The changes that the next Update reports.
    pending_update: ChangesToReport,
    observations: Observations,
    /// The Sends that have no answer yet.
    sends: Vec<Token>,
    firmware: Option<Firmware>,
    /// No datagram leaves or arrives.
    is_link_down: bool,
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
    /// No output is left. [`SimulatedDevice::handle_timeout`] is due at this time.
    Idle(Option<Instant>),
}

/// An event of the device for its observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The bootstrap session has finished: these are the servers of the device.
    Bootstrapped {
        servers: Vec<SimulatedServer>,
    },
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
        content_format: Option<u16>,
    },
    /// The server observes one path, or those of a composite observation.
    ObservationBegan {
        paths: Vec<Path>,
    },
    Notified {
        paths: Vec<Path>,
    },
    /// The observation has ended: the server cancelled it, reset a notification or acknowledged none, or the observed
    /// path no longer exists.
    ObservationEnded {
        paths: Vec<Path>,
    },
    /// The server answered a Send (`code`), or gave no answer (none).
    SendAnswered {
        code: Option<Code>,
    },
    /// The firmware update of an instance of object 5 has this State and this Update Result.
    FirmwareChanged {
        instance: u16,
        state: i64,
        result: i64,
    },
    /// The server rebooted the device, or it runs another firmware.
    Rebooted,
    /// The device is no longer registered.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct ChangesToReport {
    lifetime: bool,
    objects: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum DeviceTimer {
    Registration,
    Notify(Token),
    /// The firmware update of this instance of object 5 goes on.
    Firmware(u16),
    LinkReturns,
}

impl SimulatedDevice {
    /// Returns a device that does nothing yet; `seed` decides its message ids, its tokens and its waiting times.
    pub fn new(config: SimulatedDeviceConfig, seed: u64) -> Self {
        let mut objects = config.objects.clone();
        let seconds = i64::try_from(config.lifetime.as_secs()).unwrap_or(i64::MAX);
        objects.set(lifetime_path(), SimulatedValue::Integer(seconds));
        let firmware = config.firmware.clone().map(|firmware| Firmware::new(firmware, &mut objects));
        Self {
            lifetime: config.lifetime,
            firmware,
            is_link_down: false,
            formats: SupportedFormats::new(config.version, config.unsupported_formats.iter().copied()),
            objects,
            accounts: BootstrapAccounts::default(),
            state: RegistrationState::Stopped,
            pending_update: ChangesToReport::default(),
            observations: Observations::default(),
            sends: Vec::new(),
            messages: Messages::new(config.coap.clone(), seed),
            timers: Deadlines::default(),
            events: VecDeque::new(),
            started: None,
            config,
        }
    }

    /// Registers, or asks for a bootstrap session if the device has no server yet.
    pub fn start(&mut self, now: Instant) {
        self.started = Some(now);
        if self.config.bootstrap { self.ask_for_bootstrap(now) } else { self.register(now) }
    }

    /// Registers at a server that the device was given. Its datagrams are for that server from now on.
    pub fn register_at(&mut self, now: Instant, server: &SimulatedServer) {
        let id = SimulatedValue::Integer(server.short_server_id.into());
        let seconds = SimulatedValue::Integer(i64::try_from(server.lifetime.as_secs()).unwrap_or(i64::MAX));
        let binding = SimulatedValue::String(server.binding.clone());
        for (resource, value) in [(0, id), (1, seconds), (7, binding)] {
            self.objects.set(Path::of(&[1, 0, resource]).unwrap_or_default(), value);
        }
        self.lifetime = server.lifetime;
        self.register(now);
    }

    /// De-registers; [`DeviceEvent::Stopped`] comes when the server knows, or does not answer.
    pub fn stop(&mut self, now: Instant) {
        self.forget_observations();
        self.timers.cancel(DeviceTimer::Registration);
        self.abandon_requests();
        match std::mem::replace(&mut self.state, RegistrationState::Stopped) {
            RegistrationState::Registered(location) | RegistrationState::Updating(_, location) => {
                let token = self.messages.send_request(now, registration::deregister(&location));
                self.state = RegistrationState::Deregistering(token);
            }
            RegistrationState::Registering(_)
            | RegistrationState::AskingForBootstrap(_)
            | RegistrationState::Bootstrapping
            | RegistrationState::Bootstrapped
            | RegistrationState::Waiting
            | RegistrationState::Deregistering(_) => {
                self.events.push_back(DeviceEvent::Stopped);
            }
            RegistrationState::Stopped => {}
        }
    }

    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if self.state == RegistrationState::Stopped || self.is_link_down {
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
                DeviceTimer::Firmware(instance) => self.firmware_due(now, instance),
                DeviceTimer::LinkReturns => self.link_returned(now),
            }
        }
    }

    /// Sends an Update now, if the device is registered and none is on its way. Returns whether it does.
    pub fn update_now(&mut self, now: Instant) -> bool {
        let updates = matches!(self.state, RegistrationState::Registered(_));
        self.update(now);
        updates
    }

    /// Gives a single resource a new value and notifies those who observe it; whether there is such a resource.
    pub fn notify(&mut self, now: Instant, path: Path, value: SimulatedValue) -> bool {
        let known = self.objects.set(path, value);
        if known {
            self.changed(now, &[path]);
        }
        known
    }

    /// Replaces the content formats that the device does not know although its version has them.
    #[cfg(test)]
    pub(crate) fn set_unsupported_formats(&mut self, formats: impl IntoIterator<Item = u16>) {
        self.formats.set_unsupported(formats);
    }

    pub fn poll_output(&mut self) -> SimulatedDeviceOutput {
        while let Some(datagram) = self.messages.take_datagram() {
            if !self.is_link_down {
                return SimulatedDeviceOutput::Transmit(datagram);
            }
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
        let (Some(wave), Some(started)) = (self.config.wave, self.started) else { return };
        self.objects.set(wave.path, SimulatedValue::Float(wave.value(now.saturating_duration_since(started))));
    }

    fn handle_occurrence(&mut self, now: Instant, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Request(request) if self.is_bootstrapping() => self.handle_bootstrap_request(now, &request),
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

/// Bootstrap.
impl SimulatedDevice {
    fn ask_for_bootstrap(&mut self, now: Instant) {
        self.timers.cancel(DeviceTimer::Registration);
        self.accounts = BootstrapAccounts::default();
        let request = bootstrap::ask(&self.config, self.config.bootstrap_format);
        self.state = RegistrationState::AskingForBootstrap(self.messages.send_request(now, request));
    }

    /// Asks for another session if no request of this one comes for as long as a message can be under way.
    fn expect_bootstrap_request(&mut self, now: Instant) {
        self.timers.set(DeviceTimer::Registration, now + self.config.coap.exchange_lifetime());
    }

    /// Returns whether requests are those of a bootstrap session. The first of them may come before the answer that
    /// begins it.
    fn is_bootstrapping(&self) -> bool {
        matches!(self.state, RegistrationState::AskingForBootstrap(_) | RegistrationState::Bootstrapping)
    }

    fn handle_bootstrap_request(&mut self, now: Instant, request: &Message) {
        self.expect_bootstrap_request(now);
        let path = requests::uri_path(request);
        let response = if bootstrap::is_finish(request) {
            self.accounts.finish().map(|_| Response::new(Code::CHANGED))
        } else {
            let version = self.config.version.to_string();
            path.as_ref()
                .map_err(|code| *code)
                .and_then(|path| self.accounts.answer(request, *path, &self.formats, &version))
        };
        let response = response.unwrap_or_else(Response::new);
        let (code, content_format) = (response.code, request.options.content_format());
        self.messages.reply(request, response);
        let path = path.map_or_else(|_| "/bs".to_owned(), |path| path.to_string());
        self.events.push_back(DeviceEvent::Answered { method: request.code, path, code, content_format });
        if bootstrap::is_finish(request)
            && let Ok(servers) = self.accounts.finish()
        {
            self.timers.cancel(DeviceTimer::Registration);
            self.state = RegistrationState::Bootstrapped;
            self.events.push_back(DeviceEvent::Bootstrapped { servers });
        }
    }
}

/// The registration.
impl SimulatedDevice {
    fn register(&mut self, now: Instant) {
        self.timers.cancel(DeviceTimer::Registration);
        self.pending_update = ChangesToReport::default();
        let request = registration::register(&self.config, self.lifetime, &self.objects);
        self.state = RegistrationState::Registering(self.messages.send_request(now, request));
    }

    fn registration_due(&mut self, now: Instant) {
        match self.state {
            RegistrationState::Waiting if self.config.bootstrap && self.accounts.finish().is_err() => {
                self.ask_for_bootstrap(now);
            }
            RegistrationState::Waiting => self.register(now),
            RegistrationState::Registered(_) => self.update(now),
            RegistrationState::Bootstrapping => self.ask_for_bootstrap(now),
            RegistrationState::Stopped
            | RegistrationState::AskingForBootstrap(_)
            | RegistrationState::Bootstrapped
            | RegistrationState::Registering(_)
            | RegistrationState::Updating(..)
            | RegistrationState::Deregistering(_) => {}
        }
    }

    /// Sends an Update, unless one is on its way: then the next one says what is new.
    fn update(&mut self, now: Instant) {
        let RegistrationState::Registered(location) = &self.state else { return };
        let location = location.clone();
        let ChangesToReport { lifetime, objects } = std::mem::take(&mut self.pending_update);
        let request = registration::update(
            &self.config,
            &location,
            lifetime.then_some(self.lifetime),
            objects.then_some(&self.objects),
        );
        self.state = RegistrationState::Updating(self.messages.send_request(now, request), location);
    }

    /// Takes the answer to a request of ours; none when it was reset or timed out.
    fn handle_response(&mut self, now: Instant, token: Token, response: Option<&Response>) {
        if self.is_send(token) {
            return self.send_answered(token, response);
        }
        if let Some(instance) = self.firmware.as_ref().and_then(|firmware| firmware.pulling_with(token)) {
            return self.block_answered(now, instance, response);
        }
        match std::mem::replace(&mut self.state, RegistrationState::Stopped) {
            RegistrationState::AskingForBootstrap(awaited) if awaited == token => match response {
                Some(response) if response.code == Code::CHANGED => {
                    self.state = RegistrationState::Bootstrapping;
                    self.expect_bootstrap_request(now);
                }
                _ => self.refused(now, response, RegistrationState::Waiting),
            },
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
        let after = registration::update_after(self.lifetime, &self.config.coap);
        self.timers.set(DeviceTimer::Registration, now + after);
        if self.pending_update != ChangesToReport::default() {
            self.update(now);
        }
    }

    fn refused(&mut self, now: Instant, response: Option<&Response>, next: RegistrationState) {
        let retry_after = registration::retry_after(response);
        self.events.push_back(DeviceEvent::Refused { code: response.map(|response| response.code), retry_after });
        self.timers.set(DeviceTimer::Registration, now + retry_after);
        self.state = next;
    }

    /// Begins a new registration: the server has forgotten all that it observed.
    fn register_again(&mut self, now: Instant) {
        self.forget_observations();
        self.abandon_requests();
        self.register(now);
        self.resume_pulls(now);
    }
}

/// Returns the lifetime in the server object.
fn lifetime_path() -> Path {
    "/1/0/1".parse().expect("a path")
}
