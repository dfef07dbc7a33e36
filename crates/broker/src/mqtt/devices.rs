//! The listener of devices: clients that the rules apply to, apart from the applications so that it can be stopped.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::listener::serve;
use super::session::ListenerContext;
use super::sessions::Sessions;
use crate::bus::Bus;
use crate::reserved::Reserved;
use crate::rules::Rules;
use crate::tasks::{Tasks, TasksEnded};

pub(crate) struct DeviceListener {
    listener: Reserved,
    context: Arc<ListenerContext>,
    tasks: Tasks,
    run: Mutex<Option<(Tasks, TasksEnded)>>,
}

impl DeviceListener {
    pub(crate) fn start(wanted: SocketAddr, bus: Arc<Bus>, rules: Arc<Rules>, tasks: Tasks) -> anyhow::Result<Self> {
        let context = Arc::new(ListenerContext { bus, sessions: Arc::default(), rules });
        let listener = Self { listener: Reserved::new(wanted)?, context, tasks, run: Mutex::new(None) };
        listener.resume()?;
        Ok(listener)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.address
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.context.sessions
    }

    /// Starts the listener again, with the earlier sessions.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        let mut run = self.run.lock().expect(UNPOISONED);
        if run.is_none() {
            let (tasks, ended) = self.tasks.child();
            tasks.spawn(serve(self.listener.listen()?, self.context.clone(), tasks.clone()));
            *run = Some((tasks, ended));
        }
        Ok(())
    }

    /// Closes the listener and its connections; the sessions stay.
    pub(crate) async fn stop(&self) {
        let run = self.run.lock().expect(UNPOISONED).take();
        if let Some((tasks, ended)) = run {
            tasks.cancel();
            drop(tasks);
            ended.wait().await;
        }
    }
}

const UNPOISONED: &str = "nobody panics while holding the run";
