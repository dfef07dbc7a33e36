//! The registration interface over time, and the broker behind it, in virtual time.

mod declarations;
mod eviction;
mod keyed_names;
mod lifetime;
mod registering;
mod registering_again;

use std::time::Duration;

use lwm2m_base::identity::PskIdentity;
use lwm2m_base::secret::Secret;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, CloseReason, ConnectError, RegistrationId};
use lwm2m_core::gateway::config::UpdatePublish;
use lwm2m_core::gateway::identity::IdentityRule;
use lwm2m_core::gateway::report::{CommandOutcome, Forbidden, LeaveReason, Report};
use lwm2m_core::mqtt::topics::Template;
use lwm2m_testkit::scene::{LINKS, PASSWORD, QUERY, Said, Scene, content, peer, read, reply, text_reply};
use serde_json::json;

const REASONS: [CloseReason; 4] =
    [CloseReason::Kicked, CloseReason::Discarded, CloseReason::Expired, CloseReason::Refused];
