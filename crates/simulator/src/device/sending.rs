//! Send: values that the device reports unasked (OMA LwM2M Core 1.1 section 6.4).

use std::collections::BTreeSet;
use std::time::Instant;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Request, Response, Token};
use lwm2m_core::lwm2m::path::Path;
use thiserror::Error;

use super::{DeviceEvent, SimulatedDevice};
use crate::content::senml::{RecordValue, SenmlRecord};
use crate::content::{self, ReadEntry};
use crate::objects::SimulatedResource;
use crate::value::SimulatedValue;

/// The content of one Send. A path may have several samples, which are its history.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSend {
    /// SenML JSON (110), SenML CBOR (112) or LwM2M CBOR (11544).
    pub format: u16,
    /// The base time of the samples, in seconds since 1970. Only SenML has times.
    pub base_time: Option<f64>,
    pub samples: Vec<SimulatedSample>,
}

/// A value with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSample {
    /// A resource or a resource instance. The device need not have it.
    pub path: Path,
    pub value: SimulatedValue,
    /// Seconds after the base time. Without a base time: seconds since 1970, or before the arrival when negative.
    pub time: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SimulatedSendError {
    #[error("the device is not registered")]
    NotRegistered,
    /// Resource 23 of the server object is true.
    #[error("the server has muted Send")]
    Muted,
    #[error("content format {0} has no form for a Send")]
    Format(u16),
    #[error("LwM2M CBOR has one value of each path, and no times")]
    History,
}

impl SimulatedDevice {
    /// Sends values to the server in a confirmable message; [`DeviceEvent::SendAnswered`] says what came of it.
    pub fn send(&mut self, now: Instant, send: &SimulatedSend) -> Result<(), SimulatedSendError> {
        if !self.is_registered() {
            return Err(SimulatedSendError::NotRegistered);
        }
        if self.is_send_muted() {
            return Err(SimulatedSendError::Muted);
        }
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_PATH, "dp");
        request.options.add_uint(number::CONTENT_FORMAT, send.format.into());
        request.payload = payload(send)?;
        self.sends.push(self.messages.send_request(now, request));
        Ok(())
    }

    fn is_send_muted(&self) -> bool {
        let mute_send = "/1/0/23".parse().ok().and_then(|path| self.objects.resource(path));
        matches!(mute_send, Some(SimulatedResource::Single(_, SimulatedValue::Boolean(true))))
    }

    pub(super) fn is_send(&self, token: Token) -> bool {
        self.sends.contains(&token)
    }

    pub(super) fn send_answered(&mut self, token: Token, response: Option<&Response>) {
        self.sends.retain(|send| *send != token);
        self.events.push_back(DeviceEvent::SendAnswered { code: response.map(|response| response.code) });
    }

    /// Gives up every request that has no answer.
    pub(super) fn abandon_requests(&mut self) {
        self.messages.abandon_all();
        let unanswered = std::mem::take(&mut self.sends).into_iter().map(|_| DeviceEvent::SendAnswered { code: None });
        self.events.extend(unanswered);
    }
}

fn payload(send: &SimulatedSend) -> Result<Vec<u8>, SimulatedSendError> {
    match send.format {
        format::SENML_CBOR => Ok(content::senml::encode_cbor(&records(send))),
        format::SENML_JSON => Ok(content::senml::encode_json(&records(send))),
        format::LWM2M_CBOR => {
            let mut paths = BTreeSet::new();
            let has_history = send.base_time.is_some()
                || send.samples.iter().any(|sample| sample.time.is_some() || !paths.insert(sample.path));
            if has_history {
                return Err(SimulatedSendError::History);
            }
            let samples = send.samples.iter();
            let entries = samples.map(|sample| ReadEntry { path: sample.path, value: &sample.value });
            let entries: Vec<ReadEntry<'_>> = entries.collect();
            content::encode(send.format, Path::ROOT, &entries).ok_or(SimulatedSendError::Format(send.format))
        }
        other => Err(SimulatedSendError::Format(other)),
    }
}

/// Records with the path as base name when it is the same in all of them, else as name.
fn records(send: &SimulatedSend) -> Vec<SenmlRecord> {
    let first = send.samples.first().map(|sample| sample.path);
    let common = first.filter(|path| send.samples.iter().all(|sample| sample.path == *path));
    let record = |(index, sample): (usize, &SimulatedSample)| SenmlRecord {
        base_name: common.filter(|_| index == 0).map(|path| path.to_string()),
        base_time: send.base_time.filter(|_| index == 0),
        name: common.is_none().then(|| sample.path.to_string()),
        time: sample.time,
        value: Some(RecordValue::Value(sample.value.typed())),
    };
    send.samples.iter().enumerate().map(record).collect()
}
