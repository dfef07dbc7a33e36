//! The process and its surroundings: its file descriptors and threads, its parent and the service manager.

pub(crate) mod descriptors;
pub(crate) mod parent;
pub(crate) mod runtime_thread;
pub mod service;
