//! The CoAP endpoint: exchanges and observations, with block-wise transfer over them. The only state machine of CoAP that
//! others see.
//!
//! A request of ours keeps its id through all of its blocks:
//! 1. A body larger than a block goes up by Block1, block by block; then the response is there, or its first block.
//! 2. A response in blocks is fetched to its end by Block2. Only then it is an [`Event::Response`].
//! 3. Notifications that come meanwhile wait; a notification in blocks is fetched likewise, and those after it wait. So
//!    what is told keeps its order.
//!
//! A request of a peer that comes in blocks is told when it is whole; our answer is cut into the blocks that it asks for.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::block::{Assembled, Assemblies, Block, BlockError, BlockSize, Download, Fetched, Sent, Upload, slice};
use super::exchange::{self, Acknowledge, ExchangeId, Exchanges, Output, RequestId};
use super::observe::Freshness;
use super::options::number;
use super::{Code, DecodeError, Message, MessageId, Occupancy, Parameters, Peer, Request, Response, Standing, Token};

/// What the endpoint tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Has to be answered with [`Endpoint::respond`].
    Request {
        id: RequestId,
        peer: Peer,
        request: Request,
    },
    /// The peer has the request and will answer later. Told once for each request, whatever its number of blocks.
    Acknowledged {
        exchange: ExchangeId,
    },
    /// The final answer. `observing` has the Observe number when the exchange lives on as an observation.
    Response {
        exchange: ExchangeId,
        response: Response,
        observing: Option<u32>,
    },
    Reset {
        exchange: ExchangeId,
    },
    TimedOut {
        exchange: ExchangeId,
    },
    /// The body of the request or of its response could not be transferred.
    Failed {
        exchange: ExchangeId,
        error: BlockError,
    },
    /// Without a number, or with an error code, it was the last one: the observation is over. What is `owed` has to be
    /// given to [`Endpoint::acknowledge`].
    Notification {
        observation: ExchangeId,
        number: Option<u32>,
        response: Response,
        owed: Option<Acknowledge>,
    },
    /// The body of a notification could not be fetched.
    NotificationFailed {
        observation: ExchangeId,
        number: Option<u32>,
        error: BlockError,
    },
    /// A peer's body was not taken; it was told by the answer.
    BodyRefused {
        peer: Peer,
        error: BlockError,
    },
}

#[derive(Debug)]
pub struct Endpoint {
    exchanges: Exchanges,
    block_size: BlockSize,
    body_limit: usize,
    transfers: HashMap<ExchangeId, Transfer>,
    /// Which transfer an exchange is a step of.
    steps: HashMap<ExchangeId, ExchangeId>,
    observations: HashMap<ExchangeId, Observation>,
    assemblies: Assemblies,
    /// The blocks that requests of peers came with, for the answers to them.
    requested: HashMap<RequestId, Requested>,
    events: VecDeque<Event>,
}

/// One request of ours, or one notification whose body is fetched.
#[derive(Debug)]
struct Transfer {
    peer: Peer,
    request: Request,
    stage: Stage,
    step: ExchangeId,
    purpose: Purpose,
    acknowledged: bool,
}

#[derive(Debug)]
enum Stage {
    /// The body fits into the request.
    Whole,
    Upload(Upload),
    Download(Download),
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// `observing`: the number of the first answer, while the rest of its body is fetched.
    Request {
        observing: Option<u32>,
    },
    Notification {
        observation: ExchangeId,
        number: Option<u32>,
        owed: Option<Acknowledge>,
    },
}

/// What the further blocks of notifications are asked for with, and what waits for them.
#[derive(Debug)]
struct Observation {
    peer: Peer,
    request: Request,
    fetching: Option<ExchangeId>,
    /// The first answer is told.
    told: bool,
    waiting: VecDeque<WaitingNotification>,
}

#[derive(Debug)]
struct WaitingNotification {
    number: Option<u32>,
    response: Response,
    owed: Option<Acknowledge>,
}

/// The Block options of a peer's request.
#[derive(Clone, Copy, Debug)]
struct Requested {
    block1: Option<Block>,
    block2: Option<Block>,
}

impl Endpoint {
    /// Notifications of one observation that wait while the body of an earlier one is fetched.
    const WAITING_NOTIFICATIONS: usize = 32;

    /// `seed` is where message ids, tokens and the random factor come from.
    pub fn new(parameters: Parameters, seed: [u8; 32]) -> Self {
        let block_size = BlockSize::at_most(parameters.block_size);
        let lifetime = parameters.exchange_lifetime();
        Self {
            block_size,
            body_limit: parameters.received_body,
            transfers: HashMap::new(),
            steps: HashMap::new(),
            observations: HashMap::new(),
            assemblies: Assemblies::new(parameters.received_body, parameters.received_bodies, lifetime, block_size),
            requested: HashMap::new(),
            events: VecDeque::new(),
            exchanges: Exchanges::new(parameters, seed),
        }
    }

    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        self.handle_decoded(now, peer, Standing::Known, Message::decode(datagram), datagram);
    }

    /// The same for a datagram that was decoded already, of a peer of this standing.
    pub fn handle_decoded(
        &mut self,
        now: Instant,
        peer: Peer,
        standing: Standing,
        decoded: Result<Message, DecodeError>,
        datagram: &[u8],
    ) {
        self.exchanges.handle_decoded(now, peer, standing, decoded, datagram);
        self.follow(now);
    }

    /// Whether this message came before, and is remembered.
    pub fn is_duplicate(&self, now: Instant, peer: Peer, id: MessageId, datagram: &[u8]) -> bool {
        self.exchanges.is_duplicate(now, peer, id, datagram)
    }

    /// Answers a request at once instead of handling it, and keeps nothing of it.
    pub fn refuse(&mut self, peer: Peer, request: &Message, response: Response) {
        self.exchanges.refuse(peer, request, response);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.exchanges.handle_timeout(now);
        self.assemblies.handle_timeout(now);
        self.follow(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.exchanges.poll_output()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        [self.exchanges.next_deadline(), self.assemblies.next_deadline()].into_iter().flatten().min()
    }

    /// Sends a confirmable request under a new random token; a large body goes block by block.
    pub fn send_request(&mut self, now: Instant, peer: Peer, request: Request) -> ExchangeId {
        let (request, stage, first) = if request.payload.len() > self.block_size.bytes() {
            let options = request.options.clone();
            let upload = Upload::new(request, self.block_size);
            let first = upload.block();
            (Request { method: first.method, options, payload: Vec::new() }, Stage::Upload(upload), first)
        } else {
            (Request { payload: Vec::new(), ..request.clone() }, Stage::Whole, request)
        };
        let id = self.exchanges.send_request(now, peer, first);
        self.begin(id, peer, request, stage);
        id
    }

    /// Sends the request that ends an observation: the one that began it, to its peer and with its token, but for the
    /// value of Observe (RFC 7641 section 3.6).
    pub fn send_cancellation(&mut self, now: Instant, observation: ExchangeId) -> Option<ExchangeId> {
        let Observation { peer, request, .. } = self.observations.get(&observation)?;
        let (peer, mut request) = (*peer, request.clone());
        request.options.add_uint(number::OBSERVE, 1);
        let id = self.exchanges.send_cancellation(now, observation, request.clone())?;
        self.begin(id, peer, request, Stage::Whole);
        Some(id)
    }

    /// The token of an observation, and its newest notification: what [`Endpoint::restore_observation`] needs.
    pub fn observation(&self, id: ExchangeId) -> Option<(Token, Freshness)> {
        self.exchanges.observation(id)
    }

    /// Takes up an observation that an earlier process had with this peer; `request` is what began it.
    pub fn restore_observation(
        &mut self,
        peer: Peer,
        token: Token,
        mut request: Request,
        freshness: Freshness,
    ) -> ExchangeId {
        let id = self.exchanges.restore_observation(peer, token, freshness);
        request.options.remove(number::OBSERVE);
        let observation = Observation { peer, request, fetching: None, told: true, waiting: VecDeque::new() };
        self.observations.insert(id, observation);
        id
    }

    /// Answers a request of a peer. A request that is not known any more is answered by nothing.
    pub fn respond(&mut self, now: Instant, id: RequestId, response: Response) {
        let response = self.sliced(id, response);
        self.exchanges.respond(now, id, response);
    }

    /// The same, but that a response that is no acknowledgement is not repeated: for a peer that nobody knows, and whose
    /// address may be another one's.
    pub fn respond_once(&mut self, now: Instant, id: RequestId, response: Response) {
        let response = self.sliced(id, response);
        self.exchanges.respond_once(now, id, response);
    }

    /// How full the tables are.
    pub fn occupancy(&self) -> Occupancy {
        let waiting = self.observations.values().map(|observation| observation.waiting.len());
        let exchanges = self.exchanges.occupancy();
        Occupancy {
            transfers: self.transfers.len().max(self.steps.len()),
            assemblies: self.assemblies.len(),
            waiting_notifications: waiting.sum(),
            pending_requests: exchanges.pending_requests.max(self.requested.len()),
            outputs: exchanges.outputs + self.events.len(),
            ..exchanges
        }
    }

    /// Whether a request of ours, or the body of a notification, is under way.
    pub fn is_transferring(&self) -> bool {
        !self.transfers.is_empty()
    }

    /// The part of the response that the request asked for.
    fn sliced(&mut self, id: RequestId, response: Response) -> Response {
        let requested = self.requested.remove(&id);
        let mut response = slice(response, requested.and_then(|requested| requested.block2), self.block_size);
        if let Some(block) = requested.and_then(|requested| requested.block1) {
            block.add_to(&mut response.options, number::BLOCK1);
        }
        response
    }

    /// Acknowledges a notification that was told.
    pub fn acknowledge(&mut self, owed: Acknowledge) {
        self.exchanges.acknowledge_owed(owed);
    }

    /// The device of these exchanges and observations has another address now; what is under way is sent there.
    pub fn readdress(&mut self, now: Instant, ids: impl IntoIterator<Item = ExchangeId>, to: Peer) {
        for id in ids {
            let fetching = self.observations.get_mut(&id).and_then(|observation| {
                observation.peer = to;
                observation.fetching
            });
            let mut moved = vec![id];
            for transfer in [Some(id), fetching].into_iter().flatten() {
                if let Some(transfer) = self.transfers.get_mut(&transfer) {
                    transfer.peer = to;
                    moved.push(transfer.step);
                }
            }
            moved.dedup();
            self.exchanges.readdress(now, moved, to);
        }
    }

    /// Forgets an exchange or an observation: nothing is heard of it any more, and a notification of it is answered with
    /// a reset.
    pub fn forget(&mut self, id: ExchangeId) {
        let fetching = self.observations.remove(&id).and_then(|observation| observation.fetching);
        for transfer in [Some(id), fetching].into_iter().flatten() {
            if let Some(transfer) = self.transfers.remove(&transfer) {
                self.steps.remove(&transfer.step);
                self.exchanges.forget(transfer.step);
            }
        }
        self.exchanges.forget(id);
    }

    fn begin(&mut self, id: ExchangeId, peer: Peer, request: Request, stage: Stage) {
        let purpose = Purpose::Request { observing: None };
        self.steps.insert(id, id);
        self.transfers.insert(id, Transfer { peer, request, stage, step: id, purpose, acknowledged: false });
    }

    /// Takes what the exchanges tell, and goes on with the transfers that it belongs to.
    fn follow(&mut self, now: Instant) {
        while let Some(event) = self.exchanges.poll_event() {
            match event {
                exchange::Event::Request { id, peer, standing, request } => {
                    self.requested(now, id, peer, standing, request);
                }
                exchange::Event::Acknowledged { exchange } => self.acknowledged(exchange),
                exchange::Event::Response { exchange, response, observing } => {
                    self.responded(now, exchange, response, observing);
                }
                exchange::Event::Reset { exchange } => self.ended(now, exchange, |exchange| Event::Reset { exchange }),
                exchange::Event::TimedOut { exchange } => {
                    self.ended(now, exchange, |exchange| Event::TimedOut { exchange });
                }
                exchange::Event::Notification { observation, number, response, owed } => {
                    self.notified(now, observation, WaitingNotification { number, response, owed });
                }
            }
        }
    }

    fn requested(&mut self, now: Instant, id: RequestId, peer: Peer, standing: Standing, request: Request) {
        let blocks = Block::of(&request.options, number::BLOCK1)
            .and_then(|block1| Ok((block1, Block::of(&request.options, number::BLOCK2)?)));
        let Ok((block1, block2)) = blocks else {
            self.events.push_back(Event::BodyRefused { peer, error: BlockError::Malformed });
            return self.exchanges.respond(now, id, Response::new(Code::BAD_OPTION));
        };
        let request = match block1.map(|block| self.assemblies.take(now, peer, standing, &request, block)) {
            None => request,
            Some(Assembled::Complete(request, _)) => request,
            Some(Assembled::Answer(response, error)) => {
                self.events.extend(error.map(|error| Event::BodyRefused { peer, error }));
                return self.exchanges.respond(now, id, response);
            }
        };
        if block1.is_some() || block2.is_some() {
            self.requested.insert(id, Requested { block1, block2 });
        }
        self.events.push_back(Event::Request { id, peer, request });
    }

    fn acknowledged(&mut self, step: ExchangeId) {
        let Some(id) = self.steps.get(&step) else { return };
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let news = !std::mem::replace(&mut transfer.acknowledged, true);
        if news && matches!(transfer.purpose, Purpose::Request { .. }) {
            self.events.push_back(Event::Acknowledged { exchange: *id });
        }
    }

    fn responded(&mut self, now: Instant, step: ExchangeId, response: Response, observing: Option<u32>) {
        let Some(id) = self.steps.remove(&step) else { return };
        let Some(mut transfer) = self.transfers.remove(&id) else { return };
        if let (Purpose::Request { observing: number }, true) = (&mut transfer.purpose, observing.is_some()) {
            *number = observing;
            let mut request = transfer.request.clone();
            request.options.remove(number::OBSERVE);
            let waiting = VecDeque::new();
            let observation = Observation { peer: transfer.peer, request, fetching: None, told: false, waiting };
            self.observations.insert(id, observation);
        }
        match self.advance(&mut transfer, response) {
            Ok(Step::Next(request)) => self.send_step(now, id, transfer, request),
            Ok(Step::Complete(response)) => self.complete(now, id, transfer.purpose, Ok(response)),
            Err(error) => self.complete(now, id, transfer.purpose, Err(error)),
        }
    }

    fn advance(&self, transfer: &mut Transfer, response: Response) -> Result<Step, BlockError> {
        if let Stage::Upload(upload) = &mut transfer.stage
            && let Sent::Next(request) = upload.answered(&response)?
        {
            return Ok(Step::Next(request));
        }
        let fetched = match &mut transfer.stage {
            Stage::Download(download) => download.answered(response)?,
            Stage::Whole | Stage::Upload(_) => {
                let (download, fetched) = Download::begin(&transfer.request, response, self.body_limit)?;
                transfer.stage = Stage::Download(download);
                fetched
            }
        };
        Ok(match fetched {
            Fetched::Next(request) => Step::Next(request),
            Fetched::Complete(mut response) => {
                response.options.remove(number::BLOCK1);
                Step::Complete(response)
            }
        })
    }

    fn send_step(&mut self, now: Instant, id: ExchangeId, mut transfer: Transfer, request: Request) {
        transfer.step = self.exchanges.send_block(now, transfer.peer, request);
        self.steps.insert(transfer.step, id);
        self.transfers.insert(id, transfer);
    }

    /// The transfer is at its end; what waited for it has its turn.
    fn complete(&mut self, now: Instant, id: ExchangeId, purpose: Purpose, result: Result<Response, BlockError>) {
        let (event, observation) = match (purpose, result) {
            (Purpose::Request { observing }, Ok(response)) => {
                (Event::Response { exchange: id, response, observing }, observing.map(|_| id))
            }
            (Purpose::Request { .. }, Err(error)) => {
                self.forget(id);
                (Event::Failed { exchange: id, error }, None)
            }
            (Purpose::Notification { observation, number, owed }, Ok(response)) => {
                (Event::Notification { observation, number, response, owed }, Some(observation))
            }
            (Purpose::Notification { observation, number, owed }, Err(error)) => {
                self.give(owed);
                (Event::NotificationFailed { observation, number, error }, Some(observation))
            }
        };
        self.events.push_back(event);
        let Some(id) = observation else { return };
        if let Some(observation) = self.observations.get_mut(&id) {
            observation.told = true;
            observation.fetching = None;
        }
        self.tell_waiting(now, id);
    }

    /// A step was reset or timed out: so was the whole.
    fn ended(&mut self, now: Instant, step: ExchangeId, how: impl FnOnce(ExchangeId) -> Event) {
        let Some(id) = self.steps.remove(&step) else { return };
        let Some(transfer) = self.transfers.remove(&id) else { return };
        match transfer.purpose {
            Purpose::Request { .. } => {
                self.forget(id);
                self.events.push_back(how(id));
            }
            Purpose::Notification { .. } => self.complete(now, id, transfer.purpose, Err(BlockError::OutOfOrder)),
        }
    }

    fn notified(&mut self, now: Instant, id: ExchangeId, notification: WaitingNotification) {
        let Some(observation) = self.observations.get_mut(&id) else { return };
        if observation.waiting.len() >= Self::WAITING_NOTIFICATIONS {
            let oldest = observation.waiting.pop_front().expect("a queue at its limit is not empty");
            let (number, error) = (oldest.number, BlockError::TooMany);
            self.events.push_back(Event::NotificationFailed { observation: id, number, error });
            observation.waiting.push_back(notification);
            self.give(oldest.owed);
        } else {
            observation.waiting.push_back(notification);
        }
        self.tell_waiting(now, id);
    }

    /// A notification that comes to nothing is acknowledged all the same: its repetition would bring nothing else.
    fn give(&mut self, owed: Option<Acknowledge>) {
        if let Some(owed) = owed {
            self.exchanges.acknowledge_owed(owed);
        }
    }

    /// Tells the notifications that wait, up to one whose body has to be fetched first.
    fn tell_waiting(&mut self, now: Instant, id: ExchangeId) {
        while let Some(observation) = self.observations.get_mut(&id)
            && observation.told
            && observation.fetching.is_none()
            && let Some(WaitingNotification { number, response, owed }) = observation.waiting.pop_front()
        {
            // RFC 7641 section 4.2: an error, or a response without the option, is the last word of the device.
            let over = number.is_none() || !response.code.is_success();
            let purpose = Purpose::Notification { observation: id, number, owed };
            match Download::begin(&observation.request, response, self.body_limit) {
                Ok((_, Fetched::Complete(response))) => {
                    self.events.push_back(Event::Notification { observation: id, number, response, owed });
                }
                Ok((download, Fetched::Next(request))) => {
                    let (peer, of) = (observation.peer, observation.request.clone());
                    let step = self.exchanges.send_block(now, peer, request);
                    observation.fetching = Some(step);
                    let stage = Stage::Download(download);
                    let transfer = Transfer { peer, request: of, stage, step, purpose, acknowledged: false };
                    self.steps.insert(step, step);
                    self.transfers.insert(step, transfer);
                }
                Err(error) => {
                    self.events.push_back(Event::NotificationFailed { observation: id, number, error });
                    self.give(owed);
                }
            }
            if over {
                self.observations.remove(&id);
            }
        }
    }
}

enum Step {
    Next(Request),
    Complete(Response),
}
