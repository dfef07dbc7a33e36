//! A registered device: its registration, whether it is awake, its command in flight, its pending commands, and its
//! observations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::coap::ExchangeId;
use crate::command::Command;
use crate::lwm2m::format_choice::Attempts;
use crate::lwm2m::register::{ObjectListChange, Registration, Update};
use lwm2m_base::identity::Identity;
use lwm2m_base::total::Contribution;
use lwm2m_base::{Peer, Shard};

use super::observations::DeviceObservations;
use super::queue::{ByteReservation, CommandQueue, PendingCommand, QueueFull, QueueLimits};
use super::{CommandDigest, DeferredAcks, Location, RegistrationId, RegistryTotals, Topics};

/// The maximum age of the stored record of a device of which only the time of its last message changes.
const RECORD_AGE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Device {
    pub id: RegistrationId,
    /// The registration whose client at the broker publishes for the device: its own one, until the broker ends that
    /// client and a newer registration of the device is pending.
    pub publishes_as: RegistrationId,
    pub registration: Registration,
    pub location: Location,
    /// The peer that its last message came from.
    pub peer: Peer,
    /// The identity that DTLS has authenticated; `None` over plain UDP.
    pub identity: Option<Arc<Identity>>,
    pub topics: Topics,
    /// The published presence; `None` if presence is not published. Boxed, because few gateways publish it.
    pub status: Option<Box<PublishedPresence>>,
    /// Whether a refused publication was reported before.
    pub publish_refused: bool,
    /// Whether malformed parts of its link lists were reported before.
    pub links_left_out: bool,
    /// The reported objects whose announced version has no definition.
    pub undefined_versions: BTreeSet<u16>,
    pub observations: DeviceObservations,
    pub waiting: CommandQueue,
    pub deferred_acks: DeferredAcks,
    /// The command in flight. Boxed, because few devices have one at any time.
    in_flight: Option<Box<InFlight>>,
    /// The awake window of queue mode (`qmode_time_window`): how long the device is awake after each of its messages.
    /// `None` for a device that never sleeps.
    awake_window: Option<Duration>,
    held_until_heard: bool,
    last_heard: Instant,
    registered: Instant,
    /// The value of `last_heard` in the newest stored record.
    recorded: Instant,
    /// The shard of the newest stored record.
    stored_in: Option<Shard>,
    registration_bytes: Contribution,
    /// The contribution of the device to the number of those that are asleep: 1 or 0.
    asleep: Contribution,
}

/// The presence of a device as the broker retains it for later subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPresence {
    pub presence: Presence,
    /// The time since which the device has this presence.
    pub since: Instant,
    /// The time at which the broker removes the retained message.
    pub expires: Instant,
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
    /// The time at which its first datagram was sent.
    pub sent: Instant,
    /// The time until which a restarted gateway sends it again.
    pub expires: Instant,
    /// Whether the device has acknowledged the request and the application has got `ack`.
    pub acknowledged: bool,
    /// Follows the formats of its requests.
    pub attempts: Attempts,
    /// The serial of its stored record, if there is one.
    pub serial: Option<u64>,
    /// The digest of a retained command.
    pub retained: Option<CommandDigest>,
    /// The bytes of the command, which count until it is answered.
    pub room: ByteReservation,
}

/// The outcome of admitting a command.
#[derive(Debug, PartialEq)]
pub enum AdmitOutcome {
    SendNow(Box<PendingCommand>),
    /// The command waits for its turn, or for the device to wake up.
    Waits,
    QueueFull(Box<Command>, QueueFull),
    /// The command may not wait (`ttl` 0), and cannot be sent now.
    NowOrNever(Box<Command>),
}

/// The values with which a device is created.
#[derive(Debug)]
pub struct NewDevice {
    pub id: RegistrationId,
    pub registration: Registration,
    pub location: Location,
    pub peer: Peer,
    /// The identity that DTLS has authenticated; `None` over plain UDP.
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
            publishes_as: id,
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
            deferred_acks: DeferredAcks::default(),
            in_flight: None,
            awake_window: None,
            held_until_heard: false,
            last_heard,
            registered: last_heard,
            recorded: last_heard,
            stored_in: None,
            registration_bytes: Contribution::default(),
            asleep: Contribution::default(),
        }
    }

    /// Counts the device in these totals from now on.
    pub(super) fn count_in(&mut self, totals: &RegistryTotals) {
        self.registration_bytes.set(self.registration.size());
        self.registration_bytes.count_in(&totals.registration_bytes);
        self.asleep.count_in(&totals.asleep);
        self.waiting.count_in(&totals.pending_commands);
        self.deferred_acks.count_in(&totals.deferred_acks);
        self.observations.count_in(&totals.scheduled_observations);
    }

    /// Applies an Update to the registration.
    pub fn apply(&mut self, update: Update) -> ObjectListChange {
        let change = self.registration.apply(update);
        self.registration_bytes.set(self.registration.size());
        change
    }

    /// Records a valid message of the device: its awake window and its lifetime begin again.
    pub(crate) fn heard_from(&mut self, now: Instant) {
        self.last_heard = now;
        self.held_until_heard = false;
    }

    /// Makes commands wait until the next message of the device, even if it is awake, because the gateway cannot reach
    /// it before.
    pub(crate) fn hold_until_heard(&mut self) {
        self.held_until_heard = true;
    }

    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Returns whether `last_heard` in the stored record is out of date by a minute, or by an eighth of the lifetime.
    /// After a restart a lifetime is shortened by no more than that, and a device that updates in time does not notice.
    pub(crate) fn needs_new_record(&self) -> bool {
        let lifetime = self.registration.lifetime;
        let tolerance = if lifetime.is_zero() { RECORD_AGE } else { RECORD_AGE.min(lifetime / 8) };
        self.last_heard.saturating_duration_since(self.recorded) >= tolerance
    }

    /// Notes that a record of the present state was made for this shard. Returns the shard of the record before it.
    pub fn recorded(&mut self, shard: Shard) -> Option<Shard> {
        self.recorded = self.last_heard;
        self.stored_in.replace(shard)
    }

    /// Returns the shard of the device: that of its association, or over plain UDP that of its location.
    pub fn shard(&self) -> Shard {
        Location::shard_of_device(self.location.as_str(), self.peer)
    }

    /// Returns the shard of the newest record; `None` if none was made.
    pub(crate) fn stored_in(&self) -> Option<Shard> {
        self.stored_in
    }

    /// Sets how long the device stays awake after a message: an Update may change it.
    pub(crate) fn set_awake_window(&mut self, window: Option<Duration>) {
        self.awake_window = window;
    }

    /// Binds the registration to the identity that its device has proved, unless it is bound already. Returns whether
    /// it was bound now.
    pub fn bind(&mut self, identity: Option<Arc<Identity>>) -> bool {
        let is_news = self.identity.is_none() && identity.is_some();
        if is_news {
            self.identity = identity;
        }
        is_news
    }

    /// Admits a command from the broker: it is sent now if the device is ready, and waits otherwise.
    pub fn admit(&mut self, now: Instant, waiting: PendingCommand, limits: QueueLimits) -> AdmitOutcome {
        if self.is_ready(now) && self.waiting.is_empty() {
            return AdmitOutcome::SendNow(Box::new(waiting));
        }
        self.keep(now, waiting, limits)
    }

    /// Admits a command that is not to be sent now.
    pub fn keep(&mut self, now: Instant, waiting: PendingCommand, limits: QueueLimits) -> AdmitOutcome {
        if waiting.expires <= now {
            return AdmitOutcome::NowOrNever(Box::new(waiting.command));
        }
        match self.waiting.push(waiting, limits) {
            Ok(()) => AdmitOutcome::Waits,
            Err((command, full)) => AdmitOutcome::QueueFull(command, full),
        }
    }

    /// Returns whether a command can be sent now: none is in flight, and the device is awake.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.in_flight.is_none() && self.is_awake(now)
    }

    /// Returns whether the device is within its awake window (queue mode, LwM2M Core 1.1 section 6.5), and can be
    /// reached.
    pub(crate) fn is_awake(&self, now: Instant) -> bool {
        !self.held_until_heard && self.awake_window.is_none_or(|window| now < self.last_heard + window)
    }

    /// Counts the device among those that are asleep, because its awake window was checked and is over.
    pub(crate) fn fall_asleep(&mut self) {
        self.asleep.set(1);
    }

    /// Counts the device among those that are awake. Returns whether it was asleep.
    pub(crate) fn wake_up(&mut self) -> bool {
        let was_asleep = self.asleep.amount() > 0;
        if was_asleep {
            self.asleep.set(0);
        }
        was_asleep
    }

    /// Returns the end of the awake window; `None` for a device that never sleeps.
    pub fn awake_until(&self) -> Option<Instant> {
        self.awake_window.map(|window| self.last_heard + window)
    }

    pub fn sent(&mut self, now: Instant, exchange: ExchangeId, waiting: PendingCommand, attempts: Attempts) {
        let PendingCommand { command, expires, serial, retained, room, .. } = waiting;
        self.in_flight = Some(Box::new(InFlight {
            exchange,
            command,
            sent: now,
            expires,
            acknowledged: false,
            attempts,
            serial,
            retained,
            room,
        }));
    }

    /// Puts the command that was in flight back, with the exchange of its next request.
    pub fn sent_again(&mut self, exchange: ExchangeId, in_flight: InFlight) {
        self.in_flight = Some(Box::new(InFlight { exchange, ..in_flight }));
    }

    /// Notes that the device will answer this exchange later. Returns the command the first time.
    pub fn acknowledged(&mut self, exchange: ExchangeId) -> Option<&Command> {
        let in_flight = self.in_flight.as_mut().filter(|in_flight| in_flight.exchange == exchange)?;
        let news = !std::mem::replace(&mut in_flight.acknowledged, true);
        news.then_some(&in_flight.command)
    }

    pub fn in_flight(&self) -> Option<&InFlight> {
        self.in_flight.as_deref()
    }

    pub(crate) fn in_flight_mut(&mut self) -> Option<&mut InFlight> {
        self.in_flight.as_deref_mut()
    }

    /// Removes and returns the command in flight, whose exchange has ended.
    pub(crate) fn take_in_flight(&mut self) -> Option<InFlight> {
        self.in_flight.take().map(|in_flight| *in_flight)
    }

    /// Returns the time at which the registration expires without another message; `longest` replaces a lifetime of
    /// zero.
    pub(crate) fn lifetime_ends(&self, longest: Duration) -> Instant {
        let lifetime = self.registration.lifetime;
        self.last_heard + if lifetime.is_zero() { longest } else { lifetime }
    }

    /// Returns the time of the Register, or of the last message before the restart that restored the device.
    pub fn registered(&self) -> Instant {
        self.registered
    }

    /// Returns the time since the Register.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.registered)
    }

    /// Returns the exchange in flight and the exchanges of the observations.
    pub fn exchanges(&self) -> Vec<ExchangeId> {
        let in_flight = self.in_flight.iter().map(|in_flight| in_flight.exchange);
        in_flight.chain(self.observations.iter().map(|(exchange, _)| exchange)).collect()
    }
}
