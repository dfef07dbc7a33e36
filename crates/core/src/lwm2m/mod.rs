//! Implements LwM2M without any state: paths, the registration interface, object definitions, values and their content
//! formats, and the CoAP form of operations (OMA LwM2M Core 1.0 to 1.2).
//!
//! This layer knows the vocabulary of CoAP (codes, options, content formats), never the endpoint.

pub mod codec;
pub mod content_format;
pub mod firmware;
pub mod format_choice;
pub mod formats;
mod learned_formats;
pub mod link;
pub mod model;
pub mod number;
pub mod operation;
pub mod path;
pub mod register;
pub mod send;
mod texts;
pub mod value;
