//! The application's side: topics, the JSON of commands, and the JSON of everything that goes up. It maps values to values.

pub mod downlink;
pub mod topics;
mod unanswered;
pub mod uplink;
