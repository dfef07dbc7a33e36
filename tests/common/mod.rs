//! What the tests that need a broker share.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod admin;
pub mod application;
pub mod broker;
pub mod certificates;
pub mod device;
pub mod gateway;
pub mod scene;
pub mod turn;
