//! Follows a parent process that holds the standard input, such as the EMQX plugin: the program ends when its parent
//! does, even if the parent was killed, and needs no signals from it.

use std::io::{self, BufRead};
use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use tokio::sync::oneshot;
use tracing::{error, warn};

/// Time that the program has for its end, beyond `shutdown_timeout`, before it is ended by force.
const GRACE: Duration = Duration::from_secs(2);

/// Returns what resolves when the parent asks the program to stop, or has ended. The program ends by force when it
/// still runs [`GRACE`] after `shutdown_timeout`.
///
/// The parent writes lines: `stop` asks for the end, as SIGTERM does, and `reload` for a reload, as SIGHUP does.
///
/// # Errors
/// The system has no thread for it.
pub(crate) fn follow(shutdown_timeout: Duration) -> io::Result<oneshot::Receiver<()>> {
    let (stop, stopped) = oneshot::channel();
    // A thread, and not a task: a runtime waits for its reads of the standard input when it ends.
    thread::Builder::new().name("parent".to_owned()).spawn(move || {
        read_lines(io::stdin().lock());
        // The receiver is gone where the program is about to end already.
        stop.send(()).unwrap_or_default();
        end_by_force(shutdown_timeout + GRACE);
    })?;
    Ok(stopped)
}

/// Reads lines until the parent asks for the end, or is gone.
fn read_lines(lines: impl BufRead) {
    for line in lines.lines() {
        match line.as_deref().map(str::trim) {
            Ok("stop") => return,
            Ok("reload") => reload(),
            Ok("") => {}
            Ok(other) => warn!(line = other, "the parent process wrote a line that is neither stop nor reload"),
            Err(error) => {
                warn!(%error, "the standard input cannot be read: the parent process counts as ended");
                return;
            }
        }
    }
}

fn reload() {
    if let Err(error) = raise(Signal::SIGHUP) {
        warn!(%error, "the reload that the parent process asked for did not begin");
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread has nothing else to do, and needs no runtime for it")]
fn end_by_force(after: Duration) {
    thread::sleep(after);
    error!(seconds = after.as_secs(), "the program did not end in time after its parent process; it ends now");
    process::exit(1);
}

/// Makes a panic one line of the log, so that a parent process that reads JSON lines finds nothing else.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("without a message");
        error!(place, "panicked: {message}");
    }));
}
