//! HTTP: the listeners, the types of query parameters, and errors as documents.

pub(super) mod listener;
pub(super) mod parameters;
pub(super) mod problem;
pub(super) mod responses;
