//! Maps between the core and the application: topics, the JSON of commands, and the JSON of everything that is
//! published. It keeps no state.

pub mod downlink;
pub mod topics;
mod unanswered;
pub mod uplink;
