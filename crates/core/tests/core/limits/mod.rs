//! What devices and strangers cost has bounds: allocations, memory and entries of tables.

mod allocations;
mod floods;
mod hostile_device;
mod memory;
mod soak;
