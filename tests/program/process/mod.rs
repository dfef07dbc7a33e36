//! The program as a process: its command line, its start and its end, signals, the service manager and its threads.

pub(crate) mod check_connect;
mod cli;
mod lifecycle;
mod parent;
mod reload;
mod service;
mod start;
#[cfg(feature = "console")]
mod threads;
