//! Notifies the service manager by the protocol of systemd (sd_notify(3)). Without `NOTIFY_SOCKET` in the environment
//! nothing is sent.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// Reports that all listeners are bound and devices are served.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Reports that a reload has begun; [`ready`] reports its end.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // systemd.service(5), Type=notify-reload: the time tells this reload from one that was asked for before.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot notify the service manager of a reload"),
    }
}

/// Reports that the shutdown has begun.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        let states: Vec<String> = states.iter().map(ToString::to_string).collect();
        warn!(%error, states = states.join(", "), "cannot notify the service manager");
    }
}

/// Feeds the watchdog of the service manager. The event loop does it between two inputs: if the loop is stuck the
/// service manager restarts the program. With several driver threads each has a watchdog, and the service manager is
/// told when all of their loops have turned.
pub struct Watchdog {
    turns: Arc<Mutex<LoopTurns>>,
    thread: u8,
    every: Duration,
    next: Instant,
}

/// The threads whose loops have turned since the service manager was told.
struct LoopTurns {
    socket: UnixDatagram,
    place: OsString,
    /// Has one bit for each thread that runs.
    running: u128,
    turned: u128,
}

impl Watchdog {
    /// Reads the watchdog's socket and interval; `None` if the service manager does not watch.
    ///
    /// # Errors
    /// The system has no socket.
    pub fn from_environment(now: Instant) -> io::Result<Option<Self>> {
        let watched = sd_notify::watchdog_enabled().zip(env::var_os("NOTIFY_SOCKET"));
        watched.map(|(timeout, place)| Self::new(place, timeout, now)).transpose()
    }

    /// Creates a watchdog that has to be fed within `timeout` by messages to this socket.
    pub fn new(place: OsString, timeout: Duration, now: Instant) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A service manager that is stuck itself must not stop us.
        socket.set_nonblocking(true)?;
        let turns = LoopTurns { socket, place, running: 1, turned: 0 };
        // sd_watchdog_enabled(3): every half of the time.
        Ok(Self { turns: Arc::new(Mutex::new(turns)), thread: 0, every: timeout / 2, next: now })
    }

    /// Returns the watchdog of another thread, whose loop has to turn, too.
    pub fn of_thread(&self, thread: u8) -> Self {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).running |= bit(thread);
        Self { turns: Arc::clone(&self.turns), thread, every: self.every, next: self.next }
    }

    /// Returns the time at which the watchdog has to be fed.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Feeds the watchdog if it is due.
    pub fn feed(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.turned |= bit(self.thread);
        turns.tell();
    }

    /// Ends the watch of this thread's loop, as at the shutdown: the other threads are watched without it.
    pub fn end(self) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.running &= !bit(self.thread);
        if turns.running > 0 {
            turns.tell();
        }
    }
}

impl LoopTurns {
    /// Notifies the service manager if the loops of all threads have turned.
    fn tell(&mut self) {
        if self.running & !self.turned > 0 {
            return;
        }
        self.turned = 0;
        if let Err(error) = self.socket.send_to(b"WATCHDOG=1", &self.place) {
            debug!(%error, "cannot notify the watchdog of the service manager");
        }
    }
}

fn bit(thread: u8) -> u128 {
    1 << (thread % 128)
}
