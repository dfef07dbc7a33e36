//! What an application asks of a device, as a CoAP request, and what a CoAP response means for it.

use std::time::Duration;

use crate::coap::{Code, Request, Response};

use super::model::Model;
use super::path::Path;
use super::register::Registration;

/// A command in the terms of LwM2M, checked against the object definitions already.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Read { path: Path, query: Vec<String> },
    Discover { path: Path, query: Vec<String> },
    Observe { path: Path, query: Vec<String> },
    CancelObserve { path: Path, query: Vec<String> },
    // Write, WriteAttributes, Execute, Create, Delete
}

/// What to do with an entry of a payload that has no definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UndefinedResources {
    /// The answer is 4.00 with a reason.
    #[default]
    Refuse,
    /// Base64 text with `"type":"Opaque"`.
    Opaque,
}

/// What is needed to understand a device's response.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub registration: &'a Registration,
    pub model: &'a Model,
    pub undefined: UndefinedResources,
    /// Since 1970: relative times of SenML count from it.
    pub unix_time: Duration,
}

/// What the application is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The device's code, or 4.00 when its payload could not be understood.
    pub code: Code,
    pub content: Option<Content>,
    /// Why the gateway itself says so, in words.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    // Entries(Vec<Entry>), Links(Vec<String>)
}

impl Operation {
    pub fn path(&self) -> Path {
        todo!()
    }

    /// The request to the device, the alternate path in front; Observe 0 or 1 where it belongs.
    pub fn request(&self, registration: &Registration) -> Request {
        todo!()
    }

    /// What this response, or a notification of the observation that it began, means.
    pub fn outcome(&self, response: &Response, context: Context<'_>) -> Outcome {
        todo!()
    }
}
