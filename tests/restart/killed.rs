//! The built program, killed and started again.
