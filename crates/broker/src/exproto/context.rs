//! The state that the parts of the gateway share.

use std::sync::Arc;
use std::time::Duration;

use super::handler::HandlerChannels;
use super::registry::ConnectionRegistry;
use crate::bus::Bus;
use crate::rules::Rules;

/// State that the connections and the adapter share between a start and the next stop.
pub(super) struct ExProtoContext {
    pub(super) bus: Arc<Bus>,
    pub(super) rules: Arc<Rules>,
    pub(super) registry: ConnectionRegistry,
    pub(super) handler: HandlerChannels,
    pub(super) idle_timeout: Duration,
}
