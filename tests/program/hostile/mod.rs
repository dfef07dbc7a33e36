//! Hostile devices, unregistered peers, applications and files, and what must hold all the while:
//!
//! - The program does not panic.
//! - What it keeps stays within its bounds, and is gone when the devices are.
//! - Devices that live beside an attack keep their registrations, Updates, notifications and commands.
//! - Each datagram is counted exactly once.
//!
//! `cargo test --test program hostile` takes less than a minute. Two environment variables make more of it:
//!
//! - `HOSTILE_SECONDS`: how long each test with random input runs. Use an optimized build and one test at a time:
//!   `HOSTILE_SECONDS=1800 cargo test --release --test program hostile::core -- --nocapture`.
//! - `HOSTILE_SEED`: a whole number; each has other random input. A run without it always has the same.

mod attacks;
mod bombs;
mod core;
mod corpus;
mod effort;
mod files;
mod hijack;
mod honest;
mod mutation;
mod program;
mod siege;
