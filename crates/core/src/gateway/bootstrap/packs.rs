//! Bootstrap-Packs (OMA LwM2M Core 1.2 section 6.1.8): the whole account of a device in one answer.
//!
//! A pack with a generated key waits until the store has the key. Its request is handled again then.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::coap::options::number;
use crate::coap::{Code, Request, RequestId, Response};
use lwm2m_base::Peer;

use super::request::accepted;
use super::{BootstrapServer, Refused, awaited_bootstraps, issuing, refused, reject, serving, session};
use crate::gateway::context::Context;
use crate::gateway::diagnostic::add_max_age;
use crate::gateway::intake::received_request::ReceivedRequest;
use crate::gateway::report::{BootstrapRefusal, BootstrapReport, Report};

/// The bytes of a block for a peer whose address may be forged.
const UNPROVEN_BLOCK: usize = 16;

/// The maximum time that a pack waits for the store. It is shorter than devices wait for an answer (RFC 7252 section
/// 4.8.2).
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// The requests for packs that wait for the store.
pub(super) struct Packs {
    waiting: VecDeque<WaitingPack>,
    /// The secret key of the ETags.
    tag_key: [u64; 2],
}

struct WaitingPack {
    id: RequestId,
    peer: Peer,
    request: Request,
    deadline: Instant,
}

impl Packs {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        Self { waiting: VecDeque::new(), tag_key: rng.random() }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.deadline)
    }

    /// Returns the ETag of a pack, by which a device knows blocks of two versions apart (RFC 7959 section 2.4). It is
    /// keyed, because it is shown in traces and a pack may hold guessable secrets.
    fn tag(&self, pack: &[u8]) -> [u8; 4] {
        let mut hasher = DefaultHasher::new();
        self.tag_key.hash(&mut hasher);
        pack.hash(&mut hasher);
        let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
        [a, b, c, d]
    }
}

impl BootstrapServer {
    pub(super) fn handle_pack_request(&mut self, context: &mut Context, received: ReceivedRequest) {
        match self.pack(context, received) {
            Ok(PackAnswer { endpoint, response: Some(response) }) => {
                self.answer_pack(context, received, endpoint, response);
            }
            Ok(PackAnswer { endpoint, response: None }) => {
                if let Err(refusal) = self.hold_pack(context, received) {
                    refuse(context, received, Some(endpoint), refusal);
                }
            }
            Err((endpoint, refusal)) => refuse(context, received, endpoint, refusal),
        }
    }

    /// Handles the requests again that wait for the store.
    pub(super) fn resume_packs(&mut self, context: &mut Context) {
        for WaitingPack { id, peer, request, .. } in std::mem::take(&mut self.packs.waiting) {
            self.handle_pack_request(context, ReceivedRequest { id, peer, request: &request });
        }
    }

    pub(super) fn refuse_overdue_packs(&mut self, context: &mut Context) {
        while self.packs.next_deadline().is_some_and(|at| at <= context.now)
            && let Some(WaitingPack { id, peer, request, .. }) = self.packs.waiting.pop_front()
        {
            let received = ReceivedRequest { id, peer, request: &request };
            refuse(context, received, None, BootstrapRefusal::Unstored);
        }
    }

    fn hold_pack(&mut self, context: &Context, received: ReceivedRequest) -> Result<(), BootstrapRefusal> {
        let most = context.config.bootstrap.as_ref().map_or(0, |config| config.sessions);
        if self.packs.waiting.len() >= most {
            return Err(BootstrapRefusal::Busy);
        }
        let ReceivedRequest { id, peer, request } = received;
        let deadline = context.now + STORE_TIMEOUT;
        self.packs.waiting.push_back(WaitingPack { id, peer, request: request.clone(), deadline });
        Ok(())
    }

    fn answer_pack(&mut self, context: &mut Context, received: ReceivedRequest, endpoint: String, response: Response) {
        let mut block_size = context.config.coap.block_size;
        if received.peer.association.is_none() {
            block_size = UNPROVEN_BLOCK;
            context.coap.limit_blocks(received.id, UNPROVEN_BLOCK);
        }
        let block = RequestedBlock::of(received.request, block_size);
        let length = response.payload.len();
        let is_last = block.begin < length && block.begin + block.size.min(block_size) >= length;
        context.respond(received.id, response);
        if is_last {
            let asked = (endpoint.as_str(), received.peer);
            context.awaited_bootstraps.ended(context.now, asked, awaited_bootstraps::finished);
            self.client.publish_finished(context, (&endpoint, received.peer));
        }
        if block.begin == 0 {
            context.report(Report::Bootstrap(BootstrapReport::Pack { endpoint, peer: received.peer }));
        }
    }

    fn pack(&self, context: &mut Context, received: ReceivedRequest) -> Result<PackAnswer, Refused> {
        let ReceivedRequest { peer, request, .. } = received;
        let config = serving(context, peer).map_err(|refusal| (None, refusal))?;
        if request.method != Code::GET {
            return Err((None, BootstrapRefusal::Method));
        }
        let format = accepted(request).map_err(|refusal| (None, refusal))?;
        let (asked, account) = self.authorize(context, &config, received)?;
        let refused = |refusal| (Some(asked.endpoint.clone()), refusal);
        if peer.association.is_none() && account.generates_keys() {
            // Nothing is kept for a peer that has not proved its address.
            return Err(refused(BootstrapRefusal::TooManyKeys));
        }
        let packed = {
            let mut issue = issuing(context, &config);
            session::pack(&account, &asked.endpoint, format, &mut issue)
        };
        let payload = packed.map_err(|error| match error {
            session::PlanError::TooManyKeys => refused(BootstrapRefusal::TooManyKeys),
            session::PlanError::Identity | session::PlanError::BootstrapAccount => {
                refused(BootstrapRefusal::Unwritable)
            }
        })?;
        let generated = account.generated_identities(&asked.endpoint);
        let response = generated.iter().all(|identity| context.generated_keys.is_stored(identity)).then(|| {
            let mut response = Response::new(Code::CONTENT);
            response.options.add(number::ETAG, &self.packs.tag(&payload));
            response.payload = payload;
            response.options.add_uint(number::CONTENT_FORMAT, format.number().into());
            response
        });
        Ok(PackAnswer { endpoint: asked.endpoint, response })
    }
}

/// The answer to a request for a pack.
struct PackAnswer {
    endpoint: String,
    /// The response; `None` while the store has not written a key that is in the pack.
    response: Option<Response>,
}

/// The block of a body that a request asks for, in bytes.
struct RequestedBlock {
    begin: usize,
    size: usize,
}

impl RequestedBlock {
    /// Reads Block2 (RFC 7959 section 2.2): the number stands above the lowest four bits, the size in the lowest three.
    /// A request without it asks for the first block.
    fn of(request: &Request, default_size: usize) -> Self {
        let block = request.options.uint(number::BLOCK2).ok().flatten();
        let (number, size) = block.map_or((0, default_size), |block| ((block >> 4) as usize, 16 << (block & 7)));
        Self { begin: number * size, size }
    }
}

fn refuse(context: &mut Context, received: ReceivedRequest, endpoint: Option<String>, refusal: BootstrapRefusal) {
    let mut response = refused(refusal.code_of_pack(), refusal, received.request);
    if response.code == Code::SERVICE_UNAVAILABLE {
        add_max_age(&mut response, context.config.limits.retry_after);
    }
    reject(context, received, endpoint, response, refusal);
}
