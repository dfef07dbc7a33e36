//! The observations of one device: those that it has accepted, and those that `auto_observe` has not begun yet.
//!
//! A device has at most one observation of the same paths, and none that the gateway does not know: the exchange that
//! began an observation is its name towards CoAP, its paths are its name towards applications.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::coap::ExchangeId;
use crate::command::{Command, Origin};
use crate::lwm2m::formats::Formats;
use crate::lwm2m::operation::Operation;
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;
use lwm2m_base::total::{Contribution, Total};

/// Identifies an observation of a device by its paths. A composite observation of one path differs from an observation
/// of the path itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObservedPaths {
    /// An Observe operation (LwM2M Core 1.1 section 6.4.1).
    Single(Path),
    /// An Observe-Composite operation (LwM2M Core 1.1 section 6.4.4). The order of its paths does not matter.
    Composite(BTreeSet<Path>),
    /// An Observe operation of a firmware update. It differs from one of an application.
    Firmware(Path),
}

impl ObservedPaths {
    /// Returns the observed paths of a command. Observations of firmware updates are separate from all others.
    pub(crate) fn of_command(command: &Command) -> Self {
        match command.origin {
            Origin::Firmware => Self::Firmware(command.operation.path),
            Origin::Application | Origin::AutoObserve | Origin::Campaign | Origin::Console(_) => {
                Self::of(&command.operation)
            }
        }
    }

    /// Returns the observed paths of an observe command, or of the command that cancels it.
    pub fn of(operation: &Operation) -> Self {
        match operation.kind.observed_paths() {
            Some(paths) => Self::Composite(paths.iter().copied().collect()),
            None => Self::Single(operation.path),
        }
    }
}

/// An observation that the device has accepted.
#[derive(Debug)]
pub struct Observation {
    pub paths: ObservedPaths,
    /// The observe command, of which each notification repeats the [`Echo`](crate::command::Echo).
    pub command: Command,
    /// The formats of its request.
    pub formats: Formats,
    /// The time at which the device accepted it; `None` for an observation of an earlier process.
    pub since: Option<Instant>,
}

impl Observation {
    /// Returns the observation that this command began.
    pub fn of(command: Command, formats: Formats) -> Self {
        // Its first answer was its final answer.
        let command = Command { reply: None, ..command };
        Self { paths: ObservedPaths::of_command(&command), command, formats, since: None }
    }

    /// Notes that the device has accepted it now.
    pub fn accepted(self, now: Instant) -> Self {
        Self { since: Some(now), ..self }
    }
}

/// Tells how `auto_observe` asks for its paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// One observation for each path.
    #[default]
    Single,
    /// Composite observations, each with as many paths as one composite operation may have.
    Composite,
}

impl Grouping {
    pub(crate) fn is_single(&self) -> bool {
        *self == Self::Single
    }
}

/// The next request of `auto_observe`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ScheduledObservation {
    Single(Path),
    Composite(Vec<Path>),
}

/// The observations of one device.
#[derive(Debug, Default)]
pub struct DeviceObservations {
    /// The accepted observations in the order of the exchanges. Most devices have one or two, for which a map would
    /// need several times the memory.
    accepted: Vec<(ExchangeId, Box<Observation>)>,
    /// The paths that `auto_observe` has not observed yet. Commands of applications come first.
    pending: VecDeque<Path>,
    grouping: Grouping,
    counted: Contribution,
}

impl DeviceObservations {
    /// Adds an observation that the device has accepted. It replaces the one of the same paths, whose exchange is
    /// returned.
    pub fn begin(&mut self, exchange: ExchangeId, observation: Observation) -> Option<ExchangeId> {
        let replaced = self.cancel(&observation.paths);
        let observation = Box::new(observation);
        match self.place(exchange) {
            Ok(place) => self.accepted[place].1 = observation,
            Err(place) => {
                if self.accepted.is_empty() {
                    // Most devices have one; without this the memory is that of four.
                    self.accepted.reserve_exact(1);
                }
                self.accepted.insert(place, (exchange, observation));
            }
        }
        replaced
    }

    /// Removes the observation that this exchange began.
    pub fn end(&mut self, exchange: ExchangeId) -> Option<Observation> {
        let place = self.place(exchange).ok()?;
        Some(*self.accepted.remove(place).1)
    }

    /// Removes the observation of these paths, and returns its exchange.
    pub fn cancel(&mut self, paths: &ObservedPaths) -> Option<ExchangeId> {
        let exchange = self.exchange_of(paths)?;
        self.end(exchange);
        Some(exchange)
    }

    /// Schedules these paths before those that are scheduled already, and makes all of them requested with this
    /// grouping. Returns the number of paths that are left out beyond `limit`.
    pub fn schedule(&mut self, paths: impl IntoIterator<Item = Path>, grouping: Grouping, limit: usize) -> usize {
        let mut listed = HashSet::new();
        let later = std::mem::take(&mut self.pending);
        self.pending = paths.into_iter().chain(later).filter(|path| listed.insert(*path)).collect();
        self.grouping = grouping;
        let left_out = self.pending.len().saturating_sub(limit);
        self.pending.truncate(limit);
        self.counted.set(self.pending.len());
        left_out
    }

    /// Takes the next request of `auto_observe`. A composite observation has at most `composite_paths` paths. Paths
    /// that an application observes meanwhile are skipped.
    pub(crate) fn next_scheduled(&mut self, composite_paths: usize) -> Option<ScheduledObservation> {
        if self.pending.is_empty() {
            return None;
        }
        let next = self.take_scheduled(composite_paths);
        self.counted.set(self.pending.len());
        next
    }

    fn take_scheduled(&mut self, composite_paths: usize) -> Option<ScheduledObservation> {
        let Self { accepted, pending, grouping, .. } = self;
        let is_observed = |paths: &ObservedPaths| accepted.iter().any(|(_, observation)| observation.paths == *paths);
        let is_free = |path: &Path| !is_observed(&ObservedPaths::Single(*path));
        match grouping {
            Grouping::Single => {
                std::iter::from_fn(|| pending.pop_front()).find(is_free).map(ScheduledObservation::Single)
            }
            Grouping::Composite => std::iter::from_fn(|| {
                let count = composite_paths.min(pending.len());
                (count > 0).then(|| pending.drain(..count).filter(is_free).collect())
            })
            .find(|paths: &Vec<Path>| {
                let set = ObservedPaths::Composite(paths.iter().copied().collect());
                !paths.is_empty() && !is_observed(&set)
            })
            .map(ScheduledObservation::Composite),
        }
    }

    /// Returns how `auto_observe` asks for the scheduled paths.
    pub fn grouping(&self) -> Grouping {
        self.grouping
    }

    pub fn scheduled(&self) -> impl ExactSizeIterator<Item = Path> + '_ {
        self.pending.iter().copied()
    }

    /// Returns whether the device may be asked to observe these paths: it does already, or it has fewer than `limit`
    /// observations.
    pub(crate) fn has_room_for(&self, paths: &ObservedPaths, limit: usize) -> bool {
        self.exchange_of(paths).is_some() || self.accepted.len() < limit
    }

    pub(crate) fn exchange_of(&self, paths: &ObservedPaths) -> Option<ExchangeId> {
        self.accepted.iter().find(|(_, observation)| observation.paths == *paths).map(|(exchange, _)| *exchange)
    }

    /// Returns the observation of these paths, and the body of the request that began it. The request that ends it has
    /// the same body.
    pub fn cancellation(&self, paths: &ObservedPaths, registration: &Registration) -> Option<(ExchangeId, Vec<u8>)> {
        let exchange = self.exchange_of(paths)?;
        let Observation { command, formats, .. } = self.get(exchange)?;
        Some((exchange, command.operation.request_in(*formats, registration).payload))
    }

    pub fn get(&self, exchange: ExchangeId) -> Option<&Observation> {
        self.place(exchange).ok().map(|place| &*self.accepted[place].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ExchangeId, &Observation)> {
        self.accepted.iter().map(|(exchange, observation)| (*exchange, &**observation))
    }

    /// Counts the scheduled paths in this total from now on.
    pub(super) fn count_in(&mut self, total: &Total) {
        self.counted.count_in(total);
    }

    /// Returns the index of the observation that this exchange began, or the one at which it belongs.
    fn place(&self, exchange: ExchangeId) -> Result<usize, usize> {
        self.accepted.binary_search_by_key(&exchange, |(exchange, _)| *exchange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Echo;
    use crate::lwm2m::operation::OperationKind;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn observation_of(text: &str) -> Observation {
        let operation = Operation::new(path(text), Vec::new(), OperationKind::Observe);
        let command = Command {
            number: 0,
            echo: Echo::default(),
            operation,
            expiry: None,
            reply: None,
            origin: Origin::Application,
        };
        Observation::of(command, Formats::default())
    }

    fn composite(paths: &[&str]) -> Observation {
        let paths = ObservedPaths::Composite(paths.iter().map(|text| path(text)).collect());
        Observation { paths, ..observation_of("/3") }
    }

    fn exchanges(observations: &DeviceObservations) -> Vec<ExchangeId> {
        let mut exchanges: Vec<ExchangeId> = observations.iter().map(|(exchange, _)| exchange).collect();
        exchanges.sort();
        exchanges
    }

    const FIRST: ExchangeId = ExchangeId(1);
    const SECOND: ExchangeId = ExchangeId(2);
    const THIRD: ExchangeId = ExchangeId(3);

    #[test]
    fn a_newer_observation_of_a_path_replaces_the_one_before() {
        let mut observations = DeviceObservations::default();
        assert_eq!(observations.begin(FIRST, observation_of("/3/0/7")), None);
        assert_eq!(observations.begin(SECOND, observation_of("/3/0/8")), None);
        assert_eq!(observations.begin(THIRD, observation_of("/3/0/7")), Some(FIRST));
        assert_eq!(exchanges(&observations), [SECOND, THIRD]);
        assert_eq!(observations.exchange_of(&ObservedPaths::Single(path("/3/0/7"))), Some(THIRD));
        assert!(observations.get(FIRST).is_none());
    }

    #[test]
    fn an_observation_that_ends_or_is_cancelled_is_known_by_neither_name() {
        let mut observations = DeviceObservations::default();
        observations.begin(FIRST, observation_of("/3/0/7"));
        observations.begin(SECOND, observation_of("/3/0/8"));
        let ended = observations.end(FIRST).map(|observation| observation.paths);
        assert_eq!(ended, Some(ObservedPaths::Single(path("/3/0/7"))));
        assert_eq!(observations.cancel(&ObservedPaths::Single(path("/3/0/8"))), Some(SECOND));
        assert_eq!(observations.cancel(&ObservedPaths::Single(path("/3/0/8"))), None);
        assert_eq!(observations.accepted.len(), 0);
        assert!(observations.end(FIRST).is_none());
    }

    #[test]
    fn composite_observations_are_named_by_their_set_of_paths_and_apart_from_single_ones() {
        let mut observations = DeviceObservations::default();
        observations.begin(FIRST, observation_of("/3/0/7"));
        assert_eq!(observations.begin(SECOND, composite(&["/3/0/7"])), None);
        assert_eq!(observations.begin(THIRD, composite(&["/3/0/7", "/3/0/8"])), None);
        assert_eq!(observations.begin(ExchangeId(4), composite(&["/3/0/8", "/3/0/7"])), Some(THIRD));
        assert_eq!(observations.cancel(&ObservedPaths::Single(path("/3/0/7"))), Some(FIRST));
        assert_eq!(exchanges(&observations), [SECOND, ExchangeId(4)]);
    }

    #[test]
    fn a_device_at_its_limit_may_renew_an_observation_and_begin_none() {
        let mut observations = DeviceObservations::default();
        observations.begin(FIRST, observation_of("/3/0/7"));
        assert!(observations.has_room_for(&ObservedPaths::Single(path("/3/0/7")), 1));
        assert!(!observations.has_room_for(&ObservedPaths::Single(path("/3/0/8")), 1));
        assert!(observations.has_room_for(&ObservedPaths::Single(path("/3/0/8")), 2));
    }

    #[test]
    fn scheduled_paths_come_in_order_within_the_limit_and_without_those_that_are_observed() {
        let mut observations = DeviceObservations::default();
        let paths = ["/3/0", "/3303/0", "/3304/0", "/3305/0"].map(path);
        assert_eq!(observations.schedule(paths, Grouping::Single, 3), 1);
        observations.begin(FIRST, observation_of("/3303/0"));
        assert_eq!(observations.next_scheduled(128), Some(ScheduledObservation::Single(path("/3/0"))));
        assert_eq!(observations.next_scheduled(128), Some(ScheduledObservation::Single(path("/3304/0"))));
        assert_eq!(observations.next_scheduled(128), None);
        assert_eq!(observations.scheduled().len(), 0);
    }

    #[test]
    fn composite_schedules_come_in_parts_without_what_is_observed() {
        let mut observations = DeviceObservations::default();
        let paths = ["/3/0", "/3303/0", "/3304/0", "/3305/0", "/3306/0", "/3/0"].map(path);
        assert_eq!(observations.schedule(paths, Grouping::Composite, 5), 0);
        observations.begin(FIRST, observation_of("/3303/0"));
        observations.begin(SECOND, composite(&["/3305/0", "/3304/0"]));
        let first = ScheduledObservation::Composite(vec![path("/3/0")]);
        assert_eq!(observations.next_scheduled(2), Some(first));
        assert_eq!(observations.next_scheduled(2), Some(ScheduledObservation::Composite(vec![path("/3306/0")])));
        assert_eq!(observations.next_scheduled(2), None);
    }

    #[test]
    fn paths_that_are_scheduled_singly_again_take_the_others_with_them() {
        let mut observations = DeviceObservations::default();
        observations.schedule(["/3/0", "/3303/0", "/3304/0"].map(path), Grouping::Composite, 3);
        let refused = observations.next_scheduled(2);
        assert_eq!(refused, Some(ScheduledObservation::Composite(vec![path("/3/0"), path("/3303/0")])));
        assert_eq!(observations.schedule(["/3/0", "/3303/0"].map(path), Grouping::Single, 3), 0);
        let next: Vec<_> = std::iter::from_fn(|| observations.next_scheduled(2)).collect();
        assert_eq!(next, ["/3/0", "/3303/0", "/3304/0"].map(|text| ScheduledObservation::Single(path(text))));
    }
}
