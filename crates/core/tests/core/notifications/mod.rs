//! What devices send by themselves: notifications of observations, and Sends.

mod observations;
mod send;
