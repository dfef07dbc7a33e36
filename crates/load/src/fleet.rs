//! The devices together: their start, their pace and their end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;

use crate::Journal;
use crate::device::{FleetDevice, Orders};
use crate::fleet_config::FleetConfig;
use crate::fleet_counts::FleetCounts;

/// Simulated devices, which live until the fleet is dropped.
#[derive(Debug)]
pub struct Fleet {
    counts: Rc<FleetCounts>,
    /// Each device waits this long between two notifications.
    interval: watch::Sender<Option<Duration>>,
    interval_of_sleepers: watch::Sender<Option<Duration>>,
    /// Each device waits this long between two Updates.
    update_interval: watch::Sender<Option<Duration>>,
    stopping: watch::Sender<bool>,
}

impl Fleet {
    /// Starts the devices, which register by themselves from now on. It needs a `LocalSet`.
    ///
    /// # Errors
    ///
    /// The system has no socket for a device.
    pub async fn start(config: FleetConfig, journal: &Rc<RefCell<Journal>>) -> anyhow::Result<Self> {
        let fleet = Self {
            counts: Rc::default(),
            interval: watch::Sender::new(None),
            interval_of_sleepers: watch::Sender::new(None),
            update_interval: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
        };
        let registering = Arc::new(Semaphore::new(config.registering_at_once));
        for number in config.first..config.first + config.devices {
            let interval = if config.sleeps(number) { &fleet.interval_of_sleepers } else { &fleet.interval };
            let orders = Orders {
                interval: interval.subscribe(),
                update_interval: fleet.update_interval.subscribe(),
                stopping: fleet.stopping.subscribe(),
            };
            let member =
                FleetDevice::new(number, &config, orders, Rc::clone(&fleet.counts), Rc::clone(journal)).await?;
            let registering = Arc::clone(&registering);
            spawn_local(async move {
                let permit = registering.acquire_owned().await.expect("nobody closes the semaphore");
                member.live(permit).await;
            });
        }
        Ok(fleet)
    }

    pub fn counts(&self) -> &FleetCounts {
        &self.counts
    }

    /// Lets each device notify at this interval, or not at all.
    pub fn notify_every(&self, interval: Option<Duration>) {
        self.interval.send_replace(interval);
        self.interval_of_sleepers.send_replace(interval);
    }

    /// Lets each device send an Update at this interval, beside those that its lifetime needs.
    pub fn update_every(&self, interval: Option<Duration>) {
        self.update_interval.send_replace(interval);
    }

    /// The devices in queue mode stay silent.
    pub fn notify_while_awake(&self, interval: Duration) {
        self.interval.send_replace(Some(interval));
    }

    /// Lets all devices de-register; [`FleetCounts::stopped`] tells how many have.
    pub fn stop(&self) {
        self.notify_every(None);
        self.update_every(None);
        self.stopping.send_replace(true);
    }
}
