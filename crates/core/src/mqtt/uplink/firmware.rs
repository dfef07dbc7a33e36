//! The JSON of firmware updates: the answers to their commands, and the events.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::coap::Code;
use crate::command::Echo;
use crate::command::firmware::{JobLabel, JobStatus, Method};
use crate::lwm2m::operation::Outcome;

use super::outcome::OutcomeData;
use super::{Data, Uplink, answer, written};

/// The `data` of an event or of an answer.
pub(super) enum FirmwareData<'a> {
    Event(&'a JobStatus),
    /// Has the size and the SHA-256 of an image of this gateway.
    Started {
        echo: &'a Echo,
        job: JobLabel,
        image: Option<(u64, String)>,
    },
    Status {
        echo: &'a Echo,
        status: &'a JobStatus,
    },
}

/// Returns an event. It repeats the members of the command that began the update.
pub(crate) fn event(echo: &Echo, status: &JobStatus) -> Bytes {
    let data = Some(Data::Firmware(FirmwareData::Event(status)));
    written(&Uplink { echo, msg_type: "firmware-status", data, seq_num: None })
}

/// Returns the answer to a `firmware-update` that has begun, with the size and the SHA-256 of an image of this gateway.
pub(crate) fn started(echo: &Echo, job: JobLabel, image: Option<(u64, String)>) -> Bytes {
    answered(echo, FirmwareData::Started { echo, job, image })
}

/// Returns the answer to a `firmware-status`.
pub(crate) fn status(echo: &Echo, status: &JobStatus) -> Bytes {
    answered(echo, FirmwareData::Status { echo, status })
}

/// Returns an answer with nothing but a code, and the reason if it is an error.
pub(crate) fn code(echo: &Echo, code: Code, reason: Option<&str>) -> Bytes {
    answer(echo, &Outcome { reason: reason.map(str::to_owned), ..Outcome::of(code) }, None)
}

fn answered(echo: &Echo, data: FirmwareData<'_>) -> Bytes {
    written(&Uplink { echo, msg_type: echo.msg_type(), data: Some(Data::Firmware(data)), seq_num: None })
}

impl Serialize for FirmwareData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Event(status) => {
                serialize_status(&mut map, status)?;
                if let Some(code) = status.code {
                    map.serialize_entry("code", &format_args!("{code}"))?;
                }
            }
            Self::Started { echo, job, image } => {
                serialize_answer(&mut map, echo, Code::CREATED)?;
                map.serialize_entry("job", job.as_str())?;
                if let Some((size, sha256)) = image {
                    map.serialize_entry("size", size)?;
                    map.serialize_entry("sha256", sha256)?;
                }
            }
            Self::Status { echo, status } => {
                serialize_answer(&mut map, echo, Code::CONTENT)?;
                serialize_status(&mut map, status)?;
                // `code` is that of the answer.
                if let Some(code) = status.code {
                    map.serialize_entry("deviceCode", &format_args!("{code}"))?;
                }
            }
        }
        map.end()
    }
}

fn serialize_answer<M: SerializeMap>(map: &mut M, echo: &Echo, code: Code) -> Result<(), M::Error> {
    OutcomeData { target: echo.target(), outcome: &Outcome::of(code), tells_missing: false }.serialize_members(map)
}

fn serialize_status<M: SerializeMap>(map: &mut M, status: &JobStatus) -> Result<(), M::Error> {
    map.serialize_entry("job", status.job.as_str())?;
    map.serialize_entry("phase", status.phase.name())?;
    map.serialize_entry("method", &status.method.map(Method::name))?;
    map.serialize_entry("state", &status.state.map(|state| state.number()))?;
    map.serialize_entry("result", &status.result.map(|result| result.number()))?;
    if let Some(error) = status.error {
        map.serialize_entry("error", error.name())?;
    }
    map.serialize_entry("bytes", &status.bytes)?;
    map.serialize_entry("size", &status.size)?;
    map.serialize_entry("progress", &status.progress())?;
    map.serialize_entry("attempt", &status.attempt)
}
