//! Shows the running program to operators: log and metrics. It shows the metrics of the upstream, which knows nothing
//! of it.

pub mod failures;
pub(crate) mod log;
pub mod logging;
pub mod metrics;
pub mod page;
mod process;
mod repeats;
pub mod snapshot;
