//! The scripts at a Redis server and the models of [`lwm2m_cluster`]'s tests get the same random requests, and have to
//! give the same answers. The server's time and run are those of the models. Without Debian's `redis-server` these tests
//! are skipped, but not in CI.

// What other tests of the models need is not used here.
#[allow(dead_code, reason = "shared with the tests of the crate lwm2m-cluster")]
#[path = "../../../../crates/cluster/tests/cluster/engine.rs"]
mod engine;
#[allow(dead_code, reason = "shared with the tests of the crate lwm2m-cluster")]
#[path = "../../../../crates/cluster/tests/cluster/names.rs"]
mod names;

mod leases;
mod moves;
mod server;
