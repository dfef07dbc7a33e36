//! The scripts at a Redis server and the models of [`lwm2m_cluster::model`] get the same random requests, and have to
//! give the same answers. The server's time and run are those of the models. Without Debian's `redis-server` these tests
//! are skipped, but not in CI.

mod leases;
mod moves;
mod server;
