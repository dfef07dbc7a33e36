//! What an operator sees of the running program: the log, the metrics and the health checks. It shows the metrics of the
//! upstream, which knows nothing of it.

pub(crate) mod log;
pub mod logging;
pub mod metrics;
pub mod page;
mod process;
mod repeats;
pub mod snapshot;
