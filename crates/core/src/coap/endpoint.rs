//! The CoAP endpoint: exchanges and observations, with block-wise transfer over them. It is the only state machine of
//! CoAP that other modules use.
//!
//! A request of the gateway keeps its id through all of its blocks:
//! 1. A body larger than a block is sent by Block1, block by block; the last block gets the response, or its first
//!    block. A smaller body is sent by Block1 too if it was answered 4.13.
//! 2. A response in blocks is fetched to its end by Block2. Only then it is an [`EndpointEvent::Response`]. The request
//!    of each further block of the answer to a FETCH repeats the body of the FETCH.
//! 3. A notification in blocks is fetched likewise. A newer one ends the fetch, for the further blocks would be those
//!    of another state. If the blocks have an ETag, it identifies such a block, and the newer notification waits. So
//!    notifications keep their order, and no body mixes two states.
//!
//! A request of a peer that comes in blocks becomes an event when it is complete; the response is cut into the blocks
//! that the peer asks for (`received_bodies`).

mod event;
mod observations;
mod received_bodies;
mod repeated;

use std::collections::VecDeque;
use std::time::Instant;

use super::block::{
    Begun, BlockError, BlockSize, Body, Download, DownloadStep, SuppliedBody, Upload, UploadStep, WantedPart,
    smaller_size,
};
use super::exchange::{
    CoapOutput, ExchangeEvent, ExchangeId, Exchanges, Handled, PendingAck, RequestId, RequestMessage,
};
use super::observe::Freshness;
use super::options::number;
use super::transfers::{Purpose, Stage, Transfer, Transfers};
use lwm2m_base::id_map::IdMap;
use lwm2m_base::sparse::ShrinkSparse;
use lwm2m_base::total::Total;
use lwm2m_base::{Peer, Shard, ShardSet};

use super::{
    CoapTableSizes, Code, DatagramOutcome, ExchangeError, Message, MessageDecodeError, MessageId, Parameters,
    PeerClass, Request, Response, Token,
};

use observations::{EndpointObservation, WaitingNotification};
use received_bodies::{Received, ReceivedBodies};

pub use event::EndpointEvent;

#[derive(Debug)]
pub struct Endpoint {
    exchanges: Exchanges,
    block_size: BlockSize,
    body_limit: usize,
    /// Limits the bytes of all bodies that are transferred in blocks.
    block_transfer_bytes: usize,
    transfers: Transfers,
    /// Maps the exchange of one block to the transfer that it is a step of.
    steps: IdMap<ExchangeId, ExchangeId>,
    /// Boxed, so that the free places of the table are small.
    observations: IdMap<ExchangeId, Box<EndpointObservation>>,
    /// Counts the notifications that wait in all observations.
    waiting_notifications: Total,
    received_bodies: ReceivedBodies,
    events: VecDeque<EndpointEvent>,
}

impl Endpoint {
    /// Notifications of one observation that wait while the body of an earlier one is fetched.
    const WAITING_NOTIFICATIONS: usize = 32;
    /// Number of superseded notifications in a row after which the owner gets an event that no body can be fetched.
    const SUPERSEDED_BEFORE_FAILURE: u32 = 8;

    /// Creates an endpoint without exchanges. `seed` is the source of message ids, tokens and the random factor.
    pub fn new(parameters: Parameters, seed: [u8; 32]) -> Self {
        let block_size = BlockSize::at_most(parameters.block_size);
        Self {
            block_size,
            body_limit: parameters.received_body_size,
            block_transfer_bytes: parameters.block_transfer_bytes,
            transfers: Transfers::new(&parameters),
            steps: IdMap::default(),
            observations: IdMap::default(),
            waiting_notifications: Total::default(),
            received_bodies: ReceivedBodies::new(&parameters, block_size),
            events: VecDeque::new(),
            exchanges: Exchanges::new(parameters, seed),
        }
    }

    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) -> DatagramOutcome {
        self.handle_decoded(now, peer, PeerClass::Registered, Message::decode(datagram), datagram)
    }

    /// Takes a decoded datagram of a peer of this class. Returns its outcome.
    pub fn handle_decoded(
        &mut self,
        now: Instant,
        peer: Peer,
        class: PeerClass,
        decoded: Result<Message, MessageDecodeError>,
        datagram: &[u8],
    ) -> DatagramOutcome {
        let Handled { outcome, event } = self.exchanges.handle_decoded(now, peer, class, decoded, datagram);
        if let Some(event) = event {
            self.follow(now, event);
        }
        outcome
    }

    /// Returns whether this message is a duplicate of a remembered one.
    pub(crate) fn is_duplicate(&self, now: Instant, peer: Peer, id: MessageId, datagram: &[u8]) -> bool {
        self.exchanges.is_duplicate(now, peer, id, datagram)
    }

    /// Returns whether a request of ours with this token waits for the answer of this peer.
    pub fn awaits(&self, peer: Peer, token: Token) -> bool {
        self.exchanges.awaits(peer, token)
    }

    /// Returns the request of the owner, or the observation, that messages with this token belong to.
    pub(crate) fn named_by(&self, peer: Peer, token: Token) -> Option<ExchangeId> {
        let step = self.exchanges.named_by(peer, token)?;
        let transfer = self.steps.get(&step).copied().unwrap_or(step);
        Some(match self.transfers.get(transfer).map(|transfer| transfer.purpose) {
            Some(Purpose::Notification { observation, .. }) => observation,
            Some(Purpose::Request { .. }) | None => transfer,
        })
    }

    /// Answers a request at once instead of handling it, and keeps nothing of it.
    pub fn refuse(&mut self, peer: Peer, request: &Message, response: Response) {
        self.exchanges.refuse(peer, request, response);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let timed_out = self.exchanges.handle_timeout(now);
        self.received_bodies.handle_timeout(now);
        self.answer_orphans(now);
        for step in timed_out {
            self.ended(now, step, |exchange| EndpointEvent::TimedOut { exchange });
        }
    }

    pub fn poll_output(&mut self) -> Option<CoapOutput> {
        self.exchanges.poll_output()
    }

    pub fn poll_event(&mut self) -> Option<EndpointEvent> {
        self.events.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        [self.received_bodies.next_deadline(), self.exchanges.next_deadline()].into_iter().flatten().min()
    }

    /// Sends a confirmable request under a new random token; a large body goes block by block.
    pub fn send_request(&mut self, now: Instant, peer: Peer, request: Request) -> ExchangeId {
        self.send(now, (peer, None), request)
    }

    /// Sends a request as [`Endpoint::send_request`] does, to a device of this shard.
    pub fn send_request_to_device(
        &mut self,
        now: Instant,
        (peer, shard): (Peer, Shard),
        request: Request,
    ) -> ExchangeId {
        self.send(now, (peer, Some(shard)), request)
    }

    /// Replaces the shards whose tokens are given out.
    pub fn serve_shards(&mut self, shards: ShardSet) {
        self.exchanges.serve_shards(shards);
    }

    fn send(&mut self, now: Instant, to: (Peer, Option<Shard>), request: Request) -> ExchangeId {
        let (peer, _) = to;
        if request.payload.len() > self.block_size.bytes() {
            return self.send_in_blocks(now, to, request);
        }
        let id = self.exchanges.send_request(now, to, &request);
        self.begin_whole(id, peer, request);
        id
    }

    /// Sends a confirmable request whose body is supplied part by part, so that it is never held whole: `head`, and
    /// `size` bytes behind it. The blocks have at most `block_size` bytes. Nothing is sent before the first part is
    /// supplied.
    pub(crate) fn send_supplied(
        &mut self,
        peer: Peer,
        request: Request,
        (head, size): (Vec<u8>, usize),
        block_size: Option<usize>,
    ) -> ExchangeId {
        let block_size = block_size.map_or(self.block_size, BlockSize::at_most);
        let id = self.exchanges.reserve_id();
        let kept = Request { payload: Vec::new(), ..request.clone() };
        let upload = Upload::of(request, Body::Supplied(SuppliedBody::new(head, size)), block_size);
        self.begin(id, peer, kept, Stage::Upload(upload));
        // No message of this id is in transfer.
        self.steps.remove(&id);
        self.want_again(id);
        id
    }

    /// Takes the bytes of a supplied body that were wanted from this offset, and sends the next block if they are
    /// enough for it. Bytes that are not wanted now have no effect.
    pub(crate) fn supply(&mut self, now: Instant, id: ExchangeId, offset: usize, bytes: &[u8]) {
        let Some(mut transfer) = self.transfers.remove(id) else { return };
        let Stage::Upload(upload) = &mut transfer.stage else { return self.transfers.insert(id, transfer) };
        if !upload.waits_at(offset) {
            return self.transfers.insert(id, transfer);
        }
        let is_first = upload.is_at_beginning() && !transfer.acknowledged && transfer.step == id;
        match upload.supply(bytes) {
            UploadStep::Next(request) if is_first => {
                transfer.step = self.exchanges.send_request(now, (transfer.peer, None), &request);
                self.steps.insert(transfer.step, id);
                self.transfers.insert(id, transfer);
            }
            UploadStep::Next(request) => self.send_step(now, id, transfer, request),
            UploadStep::Wait(wanted) => {
                self.want(id, wanted, false);
                self.transfers.insert(id, transfer);
            }
            UploadStep::Answer => self.transfers.insert(id, transfer),
        }
    }

    /// Asks again for the bytes that the next block of a supplied body waits for, if it does.
    pub(crate) fn want_again(&mut self, id: ExchangeId) {
        if let Some(Stage::Upload(upload)) = self.transfers.get(id).map(|transfer| &transfer.stage)
            && let UploadStep::Wait(wanted) = upload.block()
        {
            self.want(id, wanted, false);
        }
    }

    /// Returns the number of bytes of a supplied body that the peer has.
    pub fn uploaded(&self, id: ExchangeId) -> Option<usize> {
        match &self.transfers.get(id)?.stage {
            Stage::Upload(upload) => Some(upload.sent()),
            Stage::Whole(_) | Stage::Download(_) => None,
        }
    }

    fn want(&mut self, exchange: ExchangeId, WantedPart { offset, length }: WantedPart, is_answered: bool) {
        self.events.push_back(EndpointEvent::BodyWanted { exchange, offset, length, is_answered });
    }

    /// Sends the request that ends an observation: the one that began it, to its peer and with its token, but for the
    /// value of Observe (RFC 7641 section 3.6). `body` is that of the request that began it, which is not always kept.
    pub fn send_cancellation(&mut self, now: Instant, observation: ExchangeId, body: Vec<u8>) -> Option<ExchangeId> {
        let EndpointObservation { peer, request, .. } = self.observations.get(&observation)?.as_ref();
        let (peer, mut request) = (*peer, request.clone());
        request.options.add_uint(number::OBSERVE, 1);
        if body.len() > self.block_size.bytes() {
            // Each block has a token of its own. The peer ends the observation when its next notification is reset.
            return Some(self.send_in_blocks(now, (peer, None), Request { payload: body, ..request }));
        }
        request.payload = body;
        let id = self.exchanges.send_cancellation(now, observation, &request)?;
        self.begin_whole(id, peer, request);
        Some(id)
    }

    /// Returns the token of an observation and the freshness of its newest notification, which
    /// `Endpoint::restore_observation` needs.
    pub fn observation(&self, id: ExchangeId) -> Option<(Token, Freshness)> {
        self.exchanges.observation(id)
    }

    /// Restores an observation that an earlier process had with this peer; `request` is the one that began it.
    pub(crate) fn restore_observation(
        &mut self,
        peer: Peer,
        token: Token,
        mut request: Request,
        freshness: Freshness,
    ) -> ExchangeId {
        let id = self.exchanges.restore_observation(peer, token, freshness);
        request.options.remove(number::OBSERVE);
        if request.payload.len() > self.block_size.bytes() {
            request.payload = Vec::new();
        }
        let observation = EndpointObservation { answered: true, ..EndpointObservation::new(peer, request) };
        self.observations.insert(id, Box::new(observation));
        id
    }

    /// Answers a request of a peer, with the whole response or, with the Block2 option, with the block that it asked
    /// for. Nothing is sent if the request is no longer known.
    pub fn respond(&mut self, now: Instant, id: RequestId, response: Response) {
        self.respond_by(now, id, response, Exchanges::respond);
    }

    /// Drops a request that waits for its response, without an answer.
    pub(crate) fn drop_request(&mut self, id: RequestId) {
        self.received_bodies.drop_request(id);
        self.exchanges.drop_request(id);
    }

    /// Returns the message that a request has come in, while the request waits for its answer.
    pub(crate) fn message_of(&self, id: RequestId) -> Option<RequestMessage> {
        self.exchanges.message_of(id)
    }

    /// Answers like [`Endpoint::respond`], but a response that is no acknowledgement is not retransmitted: the peer is
    /// unknown, and its address may be forged.
    pub(crate) fn respond_once(&mut self, now: Instant, id: RequestId, response: Response) {
        self.respond_by(now, id, response, Exchanges::respond_once);
    }

    /// Counts the entries of the tables.
    pub fn table_sizes(&self) -> CoapTableSizes {
        let exchanges = self.exchanges.table_sizes();
        CoapTableSizes {
            transfers: self.transfers.len().max(self.steps.len()),
            assemblies: self.received_bodies.incomplete(),
            concluded_bodies: self.received_bodies.concluded(),
            block_transfer_bytes: self.transfers.held() + self.received_bodies.held(),
            waiting_notifications: self.waiting_notifications.sum(),
            pending_requests: exchanges.pending_requests.max(self.received_bodies.requested()),
            outputs: exchanges.outputs + self.events.len(),
            ..exchanges
        }
    }

    /// Returns the number of requests of peers that wait for their answer.
    pub fn pending_requests(&self) -> usize {
        self.exchanges.pending_requests()
    }

    /// Returns whether a request of ours, or the body of a notification, is in transfer.
    pub(crate) fn is_transferring(&self) -> bool {
        !self.transfers.is_empty()
    }

    /// Limits the blocks of the answer to a request that is answered next.
    pub(crate) fn limit_blocks(&mut self, id: RequestId, bytes: usize) {
        self.received_bodies.limit_blocks(id, bytes);
    }

    fn respond_by(
        &mut self,
        now: Instant,
        id: RequestId,
        response: Response,
        send: fn(&mut Exchanges, Instant, RequestId, Response),
    ) {
        let repetition = self.received_bodies.answered(id, &response).map(|id| (id, response.clone()));
        for (id, response) in [Some((id, response)), repetition].into_iter().flatten() {
            let response = self.received_bodies.cut(id, response);
            send(&mut self.exchanges, now, id, response);
        }
        self.answer_orphans(now);
    }

    /// Acknowledges a notification that was delivered.
    pub fn acknowledge(&mut self, pending_ack: PendingAck) {
        self.exchanges.acknowledge_pending(pending_ack);
    }

    /// Makes messages of this peer duplicates also if they are repeated from its other address.
    pub(crate) fn readdress_received(&mut self, from: Peer, to: Peer) {
        self.exchanges.readdress_received(from, to);
    }

    /// Moves these exchanges and observations to another address of their device. Requests in flight are sent there.
    pub fn readdress(&mut self, now: Instant, ids: impl IntoIterator<Item = ExchangeId>, to: Peer) {
        for id in ids {
            let fetching = self.observations.get_mut(&id).and_then(|observation| {
                observation.peer = to;
                observation.fetching
            });
            let mut moved = vec![id];
            for transfer in [Some(id), fetching].into_iter().flatten() {
                moved.extend(self.transfers.readdress(transfer, to));
            }
            moved.dedup();
            self.exchanges.readdress(now, moved, to);
        }
    }

    /// Forgets an exchange or an observation: it has no further events, and a notification of it is answered with a
    /// reset.
    pub fn forget(&mut self, id: ExchangeId) {
        let fetching = self.observations.remove(&id).and_then(|observation| observation.fetching);
        self.observations.shrink_sparse();
        for transfer in [Some(id), fetching].into_iter().flatten() {
            self.abandon(transfer);
        }
        self.exchanges.forget(id);
    }

    /// Ends a transfer, whatever it is for.
    fn abandon(&mut self, transfer: ExchangeId) -> Option<Transfer> {
        let transfer = self.transfers.remove(transfer)?;
        self.steps.remove(&transfer.step);
        self.exchanges.forget(transfer.step);
        Some(transfer)
    }

    fn send_in_blocks(&mut self, now: Instant, to: (Peer, Option<Shard>), request: Request) -> ExchangeId {
        let (peer, _) = to;
        let (method, options) = (request.method, request.options.clone());
        let upload = Upload::new(request, self.block_size);
        let first = match upload.block() {
            UploadStep::Next(first) => first,
            UploadStep::Wait(_) | UploadStep::Answer => unreachable!("the body is held whole"),
        };
        let id = self.exchanges.send_request(now, to, &first);
        self.begin(id, peer, Request { method, options, payload: Vec::new() }, Stage::Upload(upload));
        id
    }

    /// Begins a transfer whose request is one message.
    fn begin_whole(&mut self, id: ExchangeId, peer: Peer, request: Request) {
        let Request { method, options, payload } = request;
        self.begin(id, peer, Request { method, options, payload: Vec::new() }, Stage::Whole(payload));
    }

    fn begin(&mut self, id: ExchangeId, peer: Peer, request: Request, stage: Stage) {
        let purpose = Purpose::Request { observing: None };
        self.steps.insert(id, id);
        self.transfers.insert(id, Transfer { peer, request, stage, step: id, purpose, acknowledged: false });
    }

    /// Takes an event of the exchanges, and continues the transfer that it belongs to.
    fn follow(&mut self, now: Instant, event: ExchangeEvent) {
        match event {
            ExchangeEvent::Request { id, peer, class, request } => {
                self.requested(now, id, peer, class, request);
            }
            ExchangeEvent::Acknowledged { exchange } => self.acknowledged(exchange),
            ExchangeEvent::Response { exchange, response, observing } => {
                self.responded(now, exchange, response, observing);
            }
            ExchangeEvent::Reset { exchange } => {
                self.ended(now, exchange, |exchange| EndpointEvent::Reset { exchange })
            }
            ExchangeEvent::Failed { exchange, error } => self.failed(now, exchange, error),
            ExchangeEvent::Notification { observation, number, response, pending_ack } => {
                // RFC 7641 section 4.2: an error, or a response without the option, is the last notification.
                let over = number.is_none() || !response.code.is_success();
                let received = Ok(response);
                self.notified(now, observation, WaitingNotification { number, received, pending_ack, over });
            }
            ExchangeEvent::NotificationFailed { observation, error, over } => {
                let (number, received, pending_ack) = (None, Err(error), None);
                self.notified(now, observation, WaitingNotification { number, received, pending_ack, over });
            }
        }
    }

    fn requested(&mut self, now: Instant, id: RequestId, peer: Peer, class: PeerClass, request: Request) {
        let room = self.block_transfer_bytes.saturating_sub(self.transfers.held());
        let received = self.received_bodies.received(now, id, (peer, class), request, room);
        self.report_refused();
        self.answer_orphans(now);
        match received {
            Received::Whole(request) => self.events.push_back(EndpointEvent::Request { id, peer, request }),
            Received::Answered(response) => self.exchanges.respond(now, id, response),
            Received::Waits => {}
        }
    }

    /// Answers 5.03 to repeated blocks whose first message will get no answer, so that no request waits for ever.
    fn answer_orphans(&mut self, now: Instant) {
        while let Some((orphan, response)) = self.received_bodies.poll_orphan() {
            self.exchanges.respond_once(now, orphan, response);
        }
    }

    fn report_refused(&mut self) {
        while let Some((peer, error)) = self.received_bodies.poll_refused() {
            self.events.push_back(EndpointEvent::BodyRefused { peer, error });
        }
    }

    fn acknowledged(&mut self, step: ExchangeId) {
        let Some(&exchange) = self.steps.get(&step) else { return };
        if self.transfers.acknowledged(exchange) {
            self.events.push_back(EndpointEvent::Acknowledged { exchange });
        }
    }

    fn responded(&mut self, now: Instant, step: ExchangeId, response: Response, observing: Option<u32>) {
        let Some(id) = self.steps.remove(&step) else { return };
        self.steps.shrink_sparse();
        let Some(mut transfer) = self.transfers.remove(id) else { return };
        if let (Purpose::Request { observing: number }, true) = (&mut transfer.purpose, observing.is_some()) {
            *number = observing;
            self.exchanges.adopt_observation(step, id);
            let mut request = transfer.repeated_request();
            request.options.remove(number::OBSERVE);
            let observation = EndpointObservation::new(transfer.peer, request);
            self.observations.insert(id, Box::new(observation));
        }
        self.proceed(now, id, transfer, response);
    }

    /// Continues a transfer after this response to its last step. The caller has removed it from the table.
    fn proceed(&mut self, now: Instant, id: ExchangeId, mut transfer: Transfer, response: Response) {
        match self.advance(&mut transfer, response) {
            Ok(TransferStep::Next(request)) => self.send_step(now, id, transfer, request),
            Ok(TransferStep::Wait(wanted)) => {
                self.want(id, wanted, true);
                self.transfers.insert(id, transfer);
            }
            Ok(TransferStep::Complete(response)) => self.complete(now, id, transfer.purpose, Ok(response)),
            Err(error) => self.complete(now, id, transfer.purpose, Err(error)),
        }
    }

    fn advance(&mut self, transfer: &mut Transfer, response: Response) -> Result<TransferStep, ExchangeError> {
        match in_smaller_parts(transfer, &response)? {
            UploadStep::Next(request) => return Ok(TransferStep::Next(request)),
            UploadStep::Wait(wanted) => return Ok(TransferStep::Wait(wanted)),
            UploadStep::Answer => {}
        }
        let fetched = match &mut transfer.stage {
            Stage::Download(download) => download.answered(response)?,
            Stage::Whole(_) | Stage::Upload(_) => {
                match Download::begin(|| transfer.repeated_request(), response, self.body_limit)? {
                    Begun::Complete(response) => DownloadStep::Complete(response),
                    Begun::Partial(download, next) => {
                        transfer.stage = Stage::Download(download);
                        DownloadStep::Next(next)
                    }
                }
            }
        };
        match fetched {
            DownloadStep::Next(request) => {
                self.make_room_for(transfer)?;
                Ok(TransferStep::Next(request))
            }
            DownloadStep::Complete(mut response) => {
                response.options.remove(number::BLOCK1);
                Ok(TransferStep::Complete(response))
            }
        }
    }

    /// Makes room for the body of a response by evicting bodies that unregistered peers send.
    fn make_room_for(&mut self, transfer: &Transfer) -> Result<(), BlockError> {
        let asked_for = self.transfers.held() + transfer.held();
        self.received_bodies.shrink_to(self.block_transfer_bytes.saturating_sub(asked_for));
        self.report_refused();
        let held = asked_for + self.received_bodies.held();
        let fits = held <= self.block_transfer_bytes && self.transfers.has_room_for(transfer);
        // A discarded body takes no room.
        if fits || transfer.held() == 0 { Ok(()) } else { Err(BlockError::NoRoom) }
    }

    fn send_step(&mut self, now: Instant, id: ExchangeId, mut transfer: Transfer, request: Request) {
        transfer.step = self.exchanges.send_block(now, transfer.peer, &request);
        self.steps.insert(transfer.step, id);
        self.transfers.insert(id, transfer);
    }

    /// Ends a transfer with this result, and delivers the notifications that waited for it.
    fn complete(&mut self, now: Instant, id: ExchangeId, purpose: Purpose, result: Result<Response, ExchangeError>) {
        let (event, observation) = match (purpose, result) {
            (Purpose::Request { observing }, Ok(response)) => {
                (EndpointEvent::Response { exchange: id, response, observing }, observing.map(|_| id))
            }
            (Purpose::Request { .. }, Err(error)) => {
                self.forget(id);
                (EndpointEvent::Failed { exchange: id, error }, None)
            }
            (Purpose::Notification { observation, number, pending_ack }, Ok(response)) => {
                (EndpointEvent::Notification { observation, number, response, pending_ack }, Some(observation))
            }
            (Purpose::Notification { observation, number, pending_ack }, Err(error)) => {
                self.acknowledge_undelivered(pending_ack);
                let over = number.is_none();
                (EndpointEvent::NotificationFailed { observation, number, error, over }, Some(observation))
            }
        };
        self.events.push_back(event);
        let Some(id) = observation else { return };
        if let Some(observation) = self.observations.get_mut(&id) {
            observation.answered = true;
            observation.fetching = None;
            observation.superseded = 0;
        }
        self.deliver_waiting(now, id);
    }

    /// Ends a transfer because one of its steps was reset or timed out.
    fn ended(&mut self, now: Instant, step: ExchangeId, how: impl FnOnce(ExchangeId) -> EndpointEvent) {
        let Some(id) = self.steps.remove(&step) else { return };
        let Some(transfer) = self.transfers.remove(id) else { return };
        match transfer.purpose {
            Purpose::Request { .. } => {
                self.forget(id);
                self.events.push_back(how(id));
            }
            Purpose::Notification { .. } => {
                self.complete(now, id, transfer.purpose, Err(BlockError::OutOfOrder.into()))
            }
        }
    }

    /// Ends a transfer because the answer to one of its steps cannot be decoded.
    fn failed(&mut self, now: Instant, step: ExchangeId, error: ExchangeError) {
        let Some(id) = self.steps.remove(&step) else { return };
        let Some(transfer) = self.transfers.remove(id) else { return };
        self.complete(now, id, transfer.purpose, Err(error));
    }
}

/// Returns the next block of the request's body, or the bytes that it needs, if this response asks for one: for the
/// next block, or for the first one of a body that was too large for one message (RFC 7959 section 2.9.3).
fn in_smaller_parts(transfer: &mut Transfer, response: &Response) -> Result<UploadStep, BlockError> {
    match &mut transfer.stage {
        Stage::Upload(upload) => upload.answered(response),
        Stage::Whole(payload) if response.code == Code::REQUEST_ENTITY_TOO_LARGE => {
            let Some(size) = smaller_size(payload.len(), response) else { return Ok(UploadStep::Answer) };
            let whole = Request { payload: std::mem::take(payload), ..transfer.request.clone() };
            let upload = Upload::new(whole, size);
            let first = upload.block();
            transfer.stage = Stage::Upload(upload);
            Ok(first)
        }
        // No block is left to send, so the device has not recognized the request as complete.
        Stage::Whole(_) if response.code == Code::CONTINUE => Err(BlockError::Unfinished),
        Stage::Whole(_) | Stage::Download(_) => Ok(UploadStep::Answer),
    }
}

enum TransferStep {
    Next(Request),
    Wait(WantedPart),
    Complete(Response),
}
