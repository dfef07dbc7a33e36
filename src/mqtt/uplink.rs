//! What goes up, as JSON (mapping contract, sections 2.5, 3.1, 4 and 5). Each function gives a whole payload.

use crate::lwm2m::operation::Outcome;
use crate::lwm2m::register::Registration;

use super::downlink::{Command, Echo, Refusal};

pub fn register(registration: &Registration) -> Vec<u8> {
    todo!()
}

/// The whole merged registration.
pub fn update(registration: &Registration) -> Vec<u8> {
    todo!()
}

/// The final answer to a command. `seq_num` is the Observe number of the first answer to `observe`.
pub fn answer(echo: &Echo, outcome: &Outcome, seq_num: Option<u32>) -> Vec<u8> {
    todo!()
}

/// A later notification of the observation that this command began.
pub fn notification(echo: &Echo, outcome: &Outcome, seq_num: Option<u32>) -> Vec<u8> {
    todo!()
}

/// The device has the command and answers later: `ack`, without `data`.
pub fn acknowledged(echo: &Echo) -> Vec<u8> {
    todo!()
}

/// `coap_reset`, with the command's `data`.
pub fn reset(echo: &Echo) -> Vec<u8> {
    todo!()
}

/// `coap_timeout`, with the command's `data`.
pub fn timed_out(echo: &Echo) -> Vec<u8> {
    todo!()
}

/// 4.00 with the reason, for a command that never was one, or that the gateway gave up.
pub fn refused(echo: &Echo, reason: &str) -> Vec<u8> {
    todo!()
}
