//! What people see of the running program: the log, the metrics, and whether it is well.

pub mod admin;
pub mod conditions;
pub mod log;
pub mod logging;
pub mod metrics;
pub mod page;
pub mod process;
mod repeats;
pub mod snapshot;
