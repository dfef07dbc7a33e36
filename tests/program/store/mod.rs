//! What outlives the program, in a file and at a Redis server.

pub(crate) mod redis_store;
mod restart;
