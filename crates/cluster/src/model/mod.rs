//! Models of the engine for tests: [`engine`] of its leases, [`names`] of an endpoint name while its device moves.
//!
//! The tests of this crate play failures with them. The tests of the store compare them with the scripts at a Redis
//! server. Each model can leave a rule out, so that a test can show that it notices that.

pub mod engine;
pub mod names;
