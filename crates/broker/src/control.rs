//! The administration of the broker: kick, stop and start of the gateway, what is connected; and the
//! [rules](super::rules) that refuse, deny and delay.

use std::sync::Arc;
use std::time::Duration;

use super::exproto::ExProtoGateway;
use super::mqtt::DeviceListener;
use super::rules::{DeviceCredentials, RuleSet, Rules};

/// Administers an [`EmbeddedBroker`](super::EmbeddedBroker) from beside it.
#[derive(Clone)]
pub struct BrokerControl {
    exproto: Arc<ExProtoGateway>,
    devices: Option<Arc<DeviceListener>>,
    rules: Arc<Rules>,
}

impl BrokerControl {
    pub(super) fn new(exproto: ExProtoGateway, devices: Option<DeviceListener>, rules: Arc<Rules>) -> Self {
        Self { exproto: Arc::new(exproto), devices: devices.map(Arc::new), rules }
    }

    /// Stops the gateway as `emqx ctl gateway stop exproto` does: closes every device connection and the adapter
    /// without events to the handler. The MQTT listener of devices stops too.
    pub async fn stop(&self) {
        self.exproto.stop().await;
        if let Some(devices) = &self.devices {
            devices.stop().await;
        }
    }

    /// Starts the gateway as `emqx ctl gateway start exproto` does, on the same addresses as before. Does nothing if it
    /// runs.
    ///
    /// # Errors
    /// An address that has been taken meanwhile.
    pub async fn start(&self) -> anyhow::Result<()> {
        if let Some(devices) = &self.devices {
            devices.resume()?;
        }
        self.exproto.resume().await
    }

    /// Kicks a client as `emqx ctl gateway-clients kick exproto CLIENTID` does; returns `false` if there is none.
    pub async fn kick(&self, clientid: &str) -> bool {
        match &self.devices {
            Some(devices) if devices.sessions().kick(clientid).await => true,
            Some(_) | None => self.exproto.kick(clientid).await,
        }
    }

    /// Returns the client ids of authenticated devices in alphabetical order.
    pub fn clients(&self) -> Vec<String> {
        let mut clients = self.exproto.clients();
        if let Some(devices) = &self.devices {
            clients.extend(devices.sessions().clients());
            clients.sort();
        }
        clients
    }

    /// Returns the filters that a client has subscribed, in alphabetical order.
    pub fn subscriptions(&self, clientid: &str) -> Vec<String> {
        let own = self.devices.as_ref().map(|devices| devices.sessions().subscriptions(clientid)).unwrap_or_default();
        if own.is_empty() { self.exproto.subscriptions(clientid) } else { own }
    }

    /// Refuses matching clients (`not_authorized`) from now on, in addition to earlier rules.
    pub fn refuse(&self, applies: impl Fn(&DeviceCredentials) -> bool + Send + Sync + 'static) {
        self.rules.change(|rules| rules.refused.push(Arc::new(applies)));
    }

    /// Denies devices to publish to topics that match this filter, in addition to earlier rules.
    pub fn deny_publish(&self, filter: impl Into<String>) {
        self.rules.change(|rules| rules.unpublishable.push(filter.into()));
    }

    /// Denies devices to subscribe to topics that match this filter, in addition to earlier rules.
    pub fn deny_subscribe(&self, filter: impl Into<String>) {
        self.rules.change(|rules| rules.unsubscribable.push(filter.into()));
    }

    /// Forgets every refusal and denial.
    pub fn allow_all(&self) {
        self.rules.change(|rules| *rules = RuleSet { delay: rules.delay, ..RuleSet::default() });
    }

    /// Delays every call of the adapter.
    pub fn delay_answers(&self, delay: Duration) {
        self.rules.change(|rules| rules.delay = delay);
    }
}
