//! What the service manager hears of the program, in the protocol of systemd (sd_notify(3)). Without a `NOTIFY_SOCKET` in
//! the environment nobody listens, and nothing is said.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// Everything is bound, devices are served.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read anew; [`ready`] says that it is done.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // systemd.service(5), Type=notify-reload: the time tells this reload from one that was asked for before.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot notify the service manager of a reload"),
    }
}

/// The end has begun.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, ?states, "cannot notify the service manager");
    }
}

/// Tells the service manager that the event loop goes round. The loop itself does it between two inputs: where it is stuck
/// nothing is told, and the service manager starts the program again.
pub struct Watchdog {
    socket: UnixDatagram,
    place: OsString,
    every: Duration,
    next: Instant,
}

impl Watchdog {
    /// None when the service manager does not watch.
    ///
    /// # Errors
    /// The system has no socket.
    pub fn from_environment(now: Instant) -> io::Result<Option<Self>> {
        let watched = sd_notify::watchdog_enabled().zip(env::var_os("NOTIFY_SOCKET"));
        watched.map(|(timeout, place)| Self::new(place, timeout, now)).transpose()
    }

    /// One that has to be fed within `timeout`, with messages to the socket at this place.
    pub fn new(place: OsString, timeout: Duration, now: Instant) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A service manager that is stuck itself must not stop us.
        socket.set_nonblocking(true)?;
        // sd_watchdog_enabled(3): every half of the time.
        Ok(Self { socket, place, every: timeout / 2, next: now })
    }

    /// When it wants to be fed.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// The event loop is here.
    pub fn feed(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        if let Err(error) = self.socket.send_to(b"WATCHDOG=1", &self.place) {
            debug!(%error, "the watchdog was not fed");
        }
    }
}
