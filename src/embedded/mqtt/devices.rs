//! The listener of devices: clients that the rules apply to, apart from the applications so that it can be stopped.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::session::Site;
use super::{Sessions, serve};
use crate::embedded::bus::Bus;
use crate::embedded::control::Rules;
use crate::embedded::reserved::Reserved;
use crate::embedded::tasks::{Ended, Tasks};

pub(in crate::embedded) struct DeviceListener {
    listener: Reserved,
    site: Arc<Site>,
    tasks: Tasks,
    run: Mutex<Option<(Tasks, Ended)>>,
}

impl DeviceListener {
    pub(in crate::embedded) fn start(
        wanted: SocketAddr,
        bus: Arc<Bus>,
        rules: Arc<Rules>,
        tasks: Tasks,
    ) -> anyhow::Result<Self> {
        let site = Arc::new(Site { bus, sessions: Arc::default(), rules });
        let listener = Self { listener: Reserved::new(wanted)?, site, tasks, run: Mutex::new(None) };
        listener.resume()?;
        Ok(listener)
    }

    pub(in crate::embedded) fn address(&self) -> SocketAddr {
        self.listener.address
    }

    pub(in crate::embedded) fn sessions(&self) -> &Sessions {
        &self.site.sessions
    }

    /// With the sessions of before.
    pub(in crate::embedded) fn resume(&self) -> anyhow::Result<()> {
        let mut run = self.run.lock().expect(UNPOISONED);
        if run.is_none() {
            let (tasks, ended) = self.tasks.child();
            tasks.spawn(serve(self.listener.listen()?, self.site.clone(), tasks.clone()));
            *run = Some((tasks, ended));
        }
        Ok(())
    }

    /// Listener and connections go; the sessions stay.
    pub(in crate::embedded) async fn stop(&self) {
        let run = self.run.lock().expect(UNPOISONED).take();
        if let Some((tasks, ended)) = run {
            tasks.cancel();
            drop(tasks);
            ended.wait().await;
        }
    }
}

const UNPOISONED: &str = "nobody panics while holding the run";
