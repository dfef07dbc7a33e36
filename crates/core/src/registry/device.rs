//! One registered device: its registration, whether it is awake, its command in flight and its pending commands, and what
//! it observes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::coap::{Acknowledge, ExchangeId};
use crate::command::Command;
use crate::lwm2m::format_choice::Attempts;
use crate::lwm2m::register::Registration;
use lwm2m_base::Peer;
use lwm2m_dtls::credentials::Identity;

use super::observations::DeviceObservations;
use super::queue::{ByteReservation, CommandQueue, PendingCommand, QueueFull, QueueLimits};
use super::{CommandDigest, Location, RegistrationId, Topics};

/// How old a record of a device may become that does nothing but speak.
const RECORD_AGE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Device {
    pub id: RegistrationId,
    /// The registration whose session with the broker takes the publications of this device: its own one, until the broker
    /// ends that and a newer registration of the device is pending.
    pub session: RegistrationId,
    pub registration: Registration,
    pub location: Location,
    /// Where it was heard of last.
    pub peer: Peer,
    /// What it proved to be; `None` for a device that speaks plain UDP.
    pub identity: Option<Arc<Identity>>,
    pub topics: Topics,
    /// What was told of its presence, and since when it is so; `None` where nothing is told.
    pub status: Option<(Presence, Instant)>,
    /// Whether a refused publication was reported before.
    pub publish_refused: bool,
    /// Whether it was reported before that parts of its link lists make no sense.
    pub links_left_out: bool,
    /// The objects whose announced version has no definition, as far as they were reported.
    pub undefined_versions: BTreeSet<u16>,
    pub observations: DeviceObservations,
    pub waiting: CommandQueue,
    /// Acknowledgements of notifications that are not published yet, by ticket.
    pub deferred_acks: BTreeMap<u64, Acknowledge>,
    in_flight: Option<InFlight>,
    /// How long it stays awake after it was heard of; `None` for a device that never sleeps.
    awake_window: Option<Duration>,
    last_heard: Instant,
    registered: Instant,
    /// What the newest record of this device says of `last_heard`.
    recorded: Instant,
}

/// Whether a device can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Online,
    /// A device in queue mode whose awake time is over.
    Asleep,
    Offline,
}

/// The one exchange with the device (NSTART 1, RFC 7252 section 4.7).
#[derive(Debug)]
pub struct InFlight {
    pub exchange: ExchangeId,
    pub command: Command,
    /// When its first datagram left.
    pub sent: Instant,
    /// Until when it is worth being sent once more after a restart.
    pub expires: Instant,
    /// The device has said that it answers later, and the application was told.
    pub acknowledged: bool,
    /// Follows the formats of its requests.
    pub attempts: Attempts,
    /// What its record is called by, once it has one.
    pub serial: Option<u64>,
    /// The digest of a retained command.
    pub retained: Option<CommandDigest>,
    /// Its bytes count until it is answered.
    pub room: ByteReservation,
}

/// What becomes of a command that has just come.
#[derive(Debug, PartialEq)]
pub enum AdmitOutcome {
    SendNow(Box<PendingCommand>),
    /// It waits for its turn, or for the device to wake up.
    Waits,
    QueueFull(Box<Command>, QueueFull),
    /// It may not wait (`ttl` 0) and cannot be sent now.
    NowOrNever(Box<Command>),
}

/// What a device is from its first moment.
#[derive(Debug)]
pub struct NewDevice {
    pub id: RegistrationId,
    pub registration: Registration,
    pub location: Location,
    pub peer: Peer,
    /// What it proved to be; `None` for a device that speaks plain UDP.
    pub identity: Option<Arc<Identity>>,
    pub topics: Topics,
    pub last_heard: Instant,
}

impl Device {
    /// Makes a device that never sleeps and whose presence is not published.
    pub fn new(new: NewDevice) -> Self {
        let NewDevice { id, registration, location, peer, identity, topics, last_heard } = new;
        Self {
            id,
            session: id,
            registration,
            location,
            peer,
            identity,
            topics,
            status: None,
            publish_refused: false,
            links_left_out: false,
            undefined_versions: BTreeSet::new(),
            observations: DeviceObservations::default(),
            waiting: CommandQueue::default(),
            deferred_acks: BTreeMap::new(),
            in_flight: None,
            awake_window: None,
            last_heard,
            registered: last_heard,
            recorded: last_heard,
        }
    }

    /// The device sent something valid: it is awake, and its lifetime begins again.
    pub fn heard_from(&mut self, now: Instant) {
        self.last_heard = now;
    }

    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Whether the newest record is too old to tell when the registration ends: older than a minute, or an eighth of the
    /// lifetime. So a record makes a lifetime shorter by no more than this, and the device that goes on speaking at its
    /// pace does not notice.
    pub fn needs_new_record(&self) -> bool {
        let lifetime = self.registration.lifetime;
        let tolerance = if lifetime.is_zero() { RECORD_AGE } else { RECORD_AGE.min(lifetime / 8) };
        self.last_heard.saturating_duration_since(self.recorded) >= tolerance
    }

    /// A record has been made of what the device is now.
    pub fn recorded(&mut self) {
        self.recorded = self.last_heard;
    }

    /// Sets how long the device stays awake after a message: an Update may change it.
    pub fn set_awake_window(&mut self, window: Option<Duration>) {
        self.awake_window = window;
    }

    /// Binds the registration to the identity that its device has proved, unless it is bound. Returns whether it was not.
    pub fn bind(&mut self, identity: Option<Arc<Identity>>) -> bool {
        let is_news = self.identity.is_none() && identity.is_some();
        if is_news {
            self.identity = identity;
        }
        is_news
    }

    /// Takes a command that came from the broker.
    pub fn admit(&mut self, now: Instant, waiting: PendingCommand, limits: QueueLimits) -> AdmitOutcome {
        if self.is_ready(now) && self.waiting.is_empty() {
            return AdmitOutcome::SendNow(Box::new(waiting));
        }
        self.keep(now, waiting, limits)
    }

    /// The same, but that the command is not sent now in any case.
    pub fn keep(&mut self, now: Instant, waiting: PendingCommand, limits: QueueLimits) -> AdmitOutcome {
        if waiting.expires <= now {
            return AdmitOutcome::NowOrNever(Box::new(waiting.command));
        }
        match self.waiting.push(waiting, limits) {
            Ok(()) => AdmitOutcome::Waits,
            Err((command, full)) => AdmitOutcome::QueueFull(Box::new(command), full),
        }
    }

    /// Whether a command may leave now: nothing is in flight and the device is awake.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.in_flight.is_none() && self.is_awake(now)
    }

    pub fn is_awake(&self, now: Instant) -> bool {
        self.awake_window.is_none_or(|window| now < self.last_heard + window)
    }

    /// When it falls asleep if nothing more is heard; `None` for a device that never sleeps.
    pub fn awake_until(&self) -> Option<Instant> {
        self.awake_window.map(|window| self.last_heard + window)
    }

    pub fn sent(&mut self, now: Instant, exchange: ExchangeId, waiting: PendingCommand, attempts: Attempts) {
        let PendingCommand { command, expires, serial, retained, room } = waiting;
        self.in_flight = Some(InFlight {
            exchange,
            command,
            sent: now,
            expires,
            acknowledged: false,
            attempts,
            serial,
            retained,
            room,
        });
    }

    /// Puts the command that was in flight back, with the exchange of its next request.
    pub fn sent_again(&mut self, exchange: ExchangeId, in_flight: InFlight) {
        self.in_flight = Some(InFlight { exchange, ..in_flight });
    }

    /// The device will answer this exchange later; gives its command, unless the device said so of the command before.
    pub fn acknowledged(&mut self, exchange: ExchangeId) -> Option<&Command> {
        let in_flight = self.in_flight.as_mut().filter(|in_flight| in_flight.exchange == exchange)?;
        let news = !std::mem::replace(&mut in_flight.acknowledged, true);
        news.then_some(&in_flight.command)
    }

    pub fn in_flight_mut(&mut self) -> Option<&mut InFlight> {
        self.in_flight.as_mut()
    }

    /// The exchange has come to its end.
    pub fn take_in_flight(&mut self) -> Option<InFlight> {
        self.in_flight.take()
    }

    /// When the registration is over if nothing more is heard; `longest` stands for a lifetime of zero.
    pub fn lifetime_ends(&self, longest: Duration) -> Instant {
        let lifetime = self.registration.lifetime;
        self.last_heard + if lifetime.is_zero() { longest } else { lifetime }
    }

    /// How long ago it registered.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.registered)
    }

    /// What is under way with this device: the exchange in flight and the observations.
    pub fn exchanges(&self) -> Vec<ExchangeId> {
        let in_flight = self.in_flight.iter().map(|in_flight| in_flight.exchange);
        in_flight.chain(self.observations.iter().map(|(exchange, _)| exchange)).collect()
    }
}
