//! The nodes of a cluster in virtual time, with an engine that forgets and a network that is cut.

#![allow(clippy::disallowed_methods, reason = "virtual time begins at the clock's")]

mod endpoint_moves;
mod failures;
mod forgetful_engine;
mod random_schedules;
mod terms;
mod world;
