//! What people see of devices, and what they ask of them.

mod console_commands;
mod pages;
mod traces;
mod views;
