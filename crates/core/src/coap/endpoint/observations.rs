//! The observations of the endpoint. Notifications keep their order, although the bodies of some are fetched first.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::block::{Begun, BlockError, Download};
use super::super::exchange::{ExchangeId, PendingAck};
use super::super::transfers::{Purpose, Stage, Transfer};
use super::super::{ExchangeError, Request, Response};
use super::{Endpoint, EndpointEvent};
use lwm2m_base::Peer;
use lwm2m_base::sparse::ShrinkSparse;
use lwm2m_base::total::{Contribution, Total};

/// The request of an observation, with which further blocks of its notifications are fetched, and the notifications
/// that wait while one is fetched. The exchanges have its token and its freshness.
#[derive(Debug)]
pub(super) struct EndpointObservation {
    pub(super) peer: Peer,
    /// The request. It has a payload only if the requests of further blocks repeat it.
    pub(super) request: Request,
    pub(super) fetching: Option<ExchangeId>,
    /// Whether the owner has received the first answer.
    pub(super) answered: bool,
    pub(super) waiting: WaitingNotifications,
    /// Counts the notifications that were superseded in a row.
    pub(super) superseded: u32,
}

/// The notifications of one observation that wait, in order. They have no memory while none waits.
#[derive(Debug, Default)]
pub(super) struct WaitingNotifications(Option<Box<NotificationQueue>>);

#[derive(Debug)]
struct NotificationQueue {
    notifications: VecDeque<WaitingNotification>,
    counted: Contribution,
}

#[derive(Debug)]
pub(super) struct WaitingNotification {
    pub(super) number: Option<u32>,
    pub(super) received: Result<Response, ExchangeError>,
    pub(super) pending_ack: Option<PendingAck>,
    /// Whether it ends the observation.
    pub(super) over: bool,
}

impl Endpoint {
    pub(super) fn notified(&mut self, now: Instant, id: ExchangeId, notification: WaitingNotification) {
        let Some(observation) = self.observations.get(&id) else { return };
        if observation.is_idle() {
            return self.deliver(now, id, notification);
        }
        let fetched = if observation.answered { observation.fetching } else { Some(id) };
        let ended = fetched.filter(|fetched| self.transfers.get(*fetched).is_some_and(Transfer::may_mix));
        match ended {
            Some(answer) if answer == id => {
                let Some(notification) = self.answer_with(now, id, notification) else { return };
                self.enqueue(id, notification);
            }
            Some(older) => {
                self.supersede(id, older);
                self.enqueue(id, notification);
            }
            None => self.enqueue(id, notification),
        }
        self.deliver_waiting(now, id);
    }

    /// Replaces the first answer, whose body is being fetched, by a newer notification. Returns the notification if it
    /// cannot be the answer.
    fn answer_with(
        &mut self,
        now: Instant,
        id: ExchangeId,
        notification: WaitingNotification,
    ) -> Option<WaitingNotification> {
        let WaitingNotification { number, received: Ok(response), pending_ack, over: false } = notification else {
            return Some(notification);
        };
        let transfer = self.abandon(id)?;
        self.acknowledge_undelivered(pending_ack);
        let purpose = Purpose::Request { observing: number };
        let stage = Stage::Whole(transfer.repeated_request().payload);
        self.proceed(now, id, Transfer { purpose, stage, ..transfer }, response);
        None
    }

    /// Ends the fetch of an older notification.
    fn supersede(&mut self, id: ExchangeId, older: ExchangeId) {
        let Some(transfer) = self.abandon(older) else { return };
        if let Some(observation) = self.observations.get_mut(&id) {
            observation.fetching = None;
        }
        if let Purpose::Notification { number, pending_ack, .. } = transfer.purpose {
            self.superseded(id, number, pending_ack);
        }
    }

    /// Reports a notification that a newer one has superseded. After many superseded ones in a row it is reported as
    /// failed, because applications see no value at all.
    fn superseded(&mut self, id: ExchangeId, number: Option<u32>, pending_ack: Option<PendingAck>) {
        self.acknowledge_undelivered(pending_ack);
        let Some(observation) = self.observations.get_mut(&id) else { return };
        observation.superseded += 1;
        self.events.push_back(if observation.superseded.is_multiple_of(Self::SUPERSEDED_BEFORE_FAILURE) {
            let error = BlockError::Superseded.into();
            EndpointEvent::NotificationFailed { observation: id, number, error, over: false }
        } else {
            EndpointEvent::NotificationSuperseded { observation: id }
        });
    }

    fn enqueue(&mut self, id: ExchangeId, notification: WaitingNotification) {
        let Some(observation) = self.observations.get_mut(&id) else { return };
        observation.waiting.push_back(notification, &self.waiting_notifications);
        if observation.waiting.len() > Self::WAITING_NOTIFICATIONS
            && let Some(WaitingNotification { number, pending_ack, over, .. }) = observation.waiting.pop_front()
        {
            let error = BlockError::TooMany.into();
            self.events.push_back(EndpointEvent::NotificationFailed { observation: id, number, error, over });
            self.acknowledge_undelivered(pending_ack);
        }
    }

    /// Acknowledges a notification that was not delivered: its retransmission could not be delivered either.
    pub(super) fn acknowledge_undelivered(&mut self, pending_ack: Option<PendingAck>) {
        if let Some(pending_ack) = pending_ack {
            self.exchanges.acknowledge_pending(pending_ack);
        }
    }

    /// Delivers the waiting notifications, up to one whose body has to be fetched first.
    pub(super) fn deliver_waiting(&mut self, now: Instant, id: ExchangeId) {
        while let Some(observation) = self.observations.get_mut(&id)
            && observation.answered
            && observation.fetching.is_none()
            && let Some(notification) = observation.waiting.pop_front()
        {
            self.deliver(now, id, notification);
        }
    }

    /// Delivers a notification, unless its body has to be fetched first.
    fn deliver(&mut self, now: Instant, id: ExchangeId, notification: WaitingNotification) {
        let over = notification.over;
        self.deliver_or_fetch(now, id, notification);
        if over {
            self.observations.remove(&id);
            self.observations.shrink_sparse();
        }
    }

    fn deliver_or_fetch(&mut self, now: Instant, id: ExchangeId, notification: WaitingNotification) {
        let WaitingNotification { number, received, pending_ack, over } = notification;
        let Some(observation) = self.observations.get_mut(&id) else { return };
        let request = || observation.request.clone();
        let begun = received.and_then(|response| Download::begin(request, response, self.body_limit));
        let error = match begun {
            Ok(Begun::Complete(response)) => {
                observation.superseded = 0;
                return self.events.push_back(EndpointEvent::Notification {
                    observation: id,
                    number,
                    response,
                    pending_ack,
                });
            }
            Ok(Begun::Partial(download, _)) if !download.has_etag() && !observation.waiting.is_empty() => {
                return self.superseded(id, number, pending_ack);
            }
            Ok(Begun::Partial(download, request)) => {
                let purpose = Purpose::Notification { observation: id, number, pending_ack };
                match self.fetch(now, id, purpose, download, request) {
                    Ok(()) => return,
                    Err(error) => error.into(),
                }
            }
            Err(error) => error,
        };
        self.events.push_back(EndpointEvent::NotificationFailed { observation: id, number, error, over });
        self.acknowledge_undelivered(pending_ack);
    }

    /// Fetches the rest of the body of a notification.
    fn fetch(
        &mut self,
        now: Instant,
        id: ExchangeId,
        purpose: Purpose,
        download: Download,
        next: Request,
    ) -> Result<(), BlockError> {
        let Some(observation) = self.observations.get(&id) else { return Ok(()) };
        let peer = observation.peer;
        let request = Request { payload: Vec::new(), ..observation.request.clone() };
        let stage = Stage::Download(download);
        let transfer = Transfer { peer, request, stage, step: id, purpose, acknowledged: false };
        self.make_room_for(&transfer)?;
        let step = self.exchanges.send_block(now, peer, &next);
        if let Some(observation) = self.observations.get_mut(&id) {
            observation.fetching = Some(step);
        }
        self.steps.insert(step, step);
        self.transfers.insert(step, Transfer { step, ..transfer });
        Ok(())
    }
}

impl EndpointObservation {
    /// Creates an observation whose first answer the owner has not received yet.
    pub(super) fn new(peer: Peer, request: Request) -> Self {
        Self { peer, request, fetching: None, answered: false, waiting: WaitingNotifications::default(), superseded: 0 }
    }

    /// Returns whether a notification that comes now has to wait for no earlier one.
    fn is_idle(&self) -> bool {
        self.answered && self.fetching.is_none() && self.waiting.is_empty()
    }
}

impl WaitingNotifications {
    /// Adds a notification, which is counted in this total while it waits.
    fn push_back(&mut self, notification: WaitingNotification, total: &Total) {
        let queue = self.0.get_or_insert_with(|| {
            Box::new(NotificationQueue { notifications: VecDeque::new(), counted: total.add(0) })
        });
        queue.notifications.push_back(notification);
        queue.counted.set(queue.notifications.len());
    }

    fn pop_front(&mut self) -> Option<WaitingNotification> {
        let queue = self.0.as_mut()?;
        let first = queue.notifications.pop_front();
        queue.counted.set(queue.notifications.len());
        if queue.notifications.is_empty() {
            self.0 = None;
        }
        first
    }

    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.notifications.len())
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}
