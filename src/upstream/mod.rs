//! The way up to the broker: both kinds of it stand behind the port of `gateway::broker`.

pub mod exproto;
mod pace;
mod queue;
