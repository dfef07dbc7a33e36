//! The firmware update: what the server asks of object 5, and what the device does by itself.

use std::time::{Duration, Instant};

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Message, Request, Response};
use lwm2m_core::lwm2m::path::Path;

use super::effect::Effect;
use super::{DeviceEvent, DeviceTimer, SimulatedDevice};
use crate::firmware::{
    CANCEL, CANCELLED, CONNECTION_LOST, DEFERRED, DOWNLOADED, DOWNLOADING, FIRMWARE_VERSION, Firmware, FirmwareFault,
    FirmwareInstance, FirmwarePhase, IDLE, INTEGRITY_FAILED, INVALID_URI, ImageDownload, NO_RESULT, OBJECT, PACKAGE,
    PACKAGE_URI, PACKAGE_VERSION, RESULT, ReceivedPackage, RefusedUri, STATE, UPDATE, UPDATED, UPDATING,
};
use crate::objects::{SimulatedResource, SimulatedWriteMode};
use crate::value::SimulatedValue;

/// Time after which a block is asked for again that was not answered.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Requests for a block in a row without an answer after which the download fails.
const MOST_UNANSWERED: u32 = 60;

/// The answer to a request that may concern the firmware update.
pub(super) enum FirmwareAnswer {
    /// The request is one like any other.
    Ordinary,
    /// The server gets no answer.
    Silence,
    Answer(Result<(Response, Effect), Code>),
}

/// The value of a Block1 or Block2 option (RFC 7959 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockOption {
    number: u32,
    more: bool,
    exponent: u32,
}

impl BlockOption {
    fn of(value: u32) -> Self {
        Self { number: value >> 4, more: value & 8 != 0, exponent: value & 7 }
    }

    fn of_size(offset: u64, bytes: u16) -> Self {
        let exponent = u32::from(bytes).clamp(16, 1024).ilog2() - 4;
        Self { number: (offset / (16 << exponent)) as u32, more: false, exponent }
    }

    fn value(self) -> u32 {
        (self.number << 4) | (u32::from(self.more) << 3) | self.exponent
    }

    fn offset(self) -> u64 {
        u64::from(self.number) * (16 << self.exponent)
    }
}

/// Requests of the server.
impl SimulatedDevice {
    /// Answers a request that concerns the firmware update.
    pub(super) fn answer_firmware(&mut self, request: &Message, path: Path) -> FirmwareAnswer {
        let Some(firmware) = self.firmware.as_ref().filter(|_| path.object() == Some(OBJECT)) else {
            return FirmwareAnswer::Ordinary;
        };
        let observes = request.code == Code::GET && request.options.contains(number::OBSERVE);
        if observes && firmware.has(FirmwareFault::RefusesObserve) {
            return FirmwareAnswer::Answer(Err(Code::METHOD_NOT_ALLOWED));
        }
        let [_, id, resource] = *path.segments() else { return FirmwareAnswer::Ordinary };
        if !firmware.instances.contains_key(&id) {
            return FirmwareAnswer::Ordinary;
        }
        match (request.code, resource) {
            (Code::PUT, PACKAGE) => self.write_package(request, id),
            (Code::PUT, PACKAGE_URI) => FirmwareAnswer::Answer(self.write_uri(request, id)),
            (Code::POST, UPDATE) => FirmwareAnswer::Answer(self.begin_update(id)),
            (Code::POST, CANCEL) if firmware.config.can_cancel => FirmwareAnswer::Answer(self.cancel_update(id)),
            _ => FirmwareAnswer::Ordinary,
        }
    }

    fn write_package(&mut self, request: &Message, id: u16) -> FirmwareAnswer {
        let stalls = |firmware: &Firmware| {
            let length = firmware.instances.get(&id).map_or(0, |instance| instance.package.length);
            firmware.stalls_at(length)
        };
        let answer = self.take_pushed_block(request, id);
        if answer.is_ok() && self.firmware.as_ref().is_some_and(stalls) {
            return FirmwareAnswer::Silence;
        }
        FirmwareAnswer::Answer(answer)
    }

    fn take_pushed_block(&mut self, request: &Message, id: u16) -> Result<(Response, Effect), Code> {
        let block = request.options.uint(number::BLOCK1).map_err(|_| Code::BAD_OPTION)?.map(BlockOption::of);
        let (offset, more) = block.map_or((0, false), |block| (block.offset(), block.more));
        if offset == 0 {
            self.begin_push(id, request.options.content_format(), &request.payload, more)?;
        }
        let with_digest = self.firmware.as_ref().is_some_and(|firmware| firmware.config.accepted_sha256.is_some());
        let instance = self.firmware_instance(id).ok_or(Code::NOT_FOUND)?;
        let FirmwarePhase::Pushed { header } = instance.phase else {
            // The former package was taken back.
            let code = if offset == 0 { Code::CHANGED } else { Code::REQUEST_ENTITY_INCOMPLETE };
            return Ok((Response::new(code), Effect::FirmwareChanged(id)));
        };
        let (skipped, expected) = if offset == 0 { (header, 0) } else { (0, instance.package.length + header) };
        if offset != expected {
            return Err(Code::REQUEST_ENTITY_INCOMPLETE);
        }
        instance.package.append(request.payload.get(skipped as usize..).unwrap_or_default(), with_digest);
        self.block_arrived(id, block)
    }

    /// Goes on after a block of a push was appended.
    fn block_arrived(&mut self, id: u16, block: Option<BlockOption>) -> Result<(Response, Effect), Code> {
        let length = self.package(id).map_or(0, |package| package.length);
        let failure = self.firmware.as_ref().and_then(|firmware| firmware.failure_at(length));
        if let Some(result) = failure {
            self.set_firmware(id, FirmwarePhase::Idle, result);
            return Ok((Response::new(Code::INTERNAL_SERVER_ERROR), Effect::FirmwareChanged(id)));
        }
        let more = block.is_some_and(|block| block.more);
        if !more {
            self.package_arrived(id);
        }
        let mut response = Response::new(if more { Code::CONTINUE } else { Code::CHANGED });
        if let Some(block) = block {
            response.options.add_uint(number::BLOCK1, block.value());
        }
        Ok((response, Effect::FirmwareChanged(id)))
    }

    /// Begins a package at its first block, or takes the former one back.
    fn begin_push(&mut self, id: u16, format: Option<u16>, payload: &[u8], more: bool) -> Result<(), Code> {
        let format = format.unwrap_or(format::TEXT);
        self.formats.check_written(format, Some(&SimulatedValue::Opaque(Vec::new())))?;
        let header = tlv_header(format, payload);
        let is_reset = !more && payload.get(header..).unwrap_or_default() == [0];
        let Some(instance) = self.firmware_instance(id) else { return Err(Code::NOT_FOUND) };
        match (&instance.phase, is_reset) {
            (FirmwarePhase::Updating, _) => return Err(Code::METHOD_NOT_ALLOWED),
            (_, true) => {
                self.set_firmware(id, FirmwarePhase::Idle, NO_RESULT);
                return Ok(());
            }
            (FirmwarePhase::Idle | FirmwarePhase::Pushed { .. }, false) => {}
            (FirmwarePhase::Pulling(_) | FirmwarePhase::Downloaded, false) => return Err(Code::METHOD_NOT_ALLOWED),
        }
        instance.package = ReceivedPackage::default();
        self.set_firmware(id, FirmwarePhase::Pushed { header: header as u64 }, NO_RESULT);
        Ok(())
    }

    fn write_uri(&mut self, request: &Message, id: u16) -> Result<(Response, Effect), Code> {
        let path = resource(id, PACKAGE_URI);
        let Some(instance) = self.firmware_instance(id) else { return Err(Code::NOT_FOUND) };
        let is_idle = matches!(instance.phase, FirmwarePhase::Idle);
        if matches!(instance.phase, FirmwarePhase::Updating) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let written = (request.options.content_format().unwrap_or(format::TEXT), request.payload.as_slice());
        let former = self.objects.resource(path).cloned();
        self.objects.write(path, SimulatedWriteMode::Replace, written, &self.formats)?;
        let uri = match self.objects.resource(path) {
            Some(SimulatedResource::Single(_, SimulatedValue::String(uri))) => uri.clone(),
            _ => return Err(Code::BAD_REQUEST),
        };
        if uri.is_empty() {
            self.set_firmware(id, FirmwarePhase::Idle, NO_RESULT);
            return Ok((Response::new(Code::CHANGED), Effect::FirmwareChanged(id)));
        }
        if !is_idle {
            former.into_iter().for_each(|former| self.objects.insert(OBJECT, id, PACKAGE_URI, former));
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let pull_path = self.firmware.as_ref().map(|firmware| firmware.path_of(&uri));
        match pull_path.unwrap_or(Err(RefusedUri(INVALID_URI))) {
            Ok(path) => {
                if let Some(instance) = self.firmware_instance(id) {
                    instance.package = ReceivedPackage::default();
                }
                let pull = ImageDownload { path, etag: None, token: None, unanswered: 0 };
                self.set_firmware(id, FirmwarePhase::Pulling(pull), NO_RESULT);
            }
            Err(RefusedUri(result)) => self.set_firmware(id, FirmwarePhase::Idle, result),
        }
        Ok((Response::new(Code::CHANGED), Effect::FirmwareChanged(id)))
    }

    fn begin_update(&mut self, id: u16) -> Result<(Response, Effect), Code> {
        let Some(instance) = self.firmware_instance(id) else { return Err(Code::NOT_FOUND) };
        if !matches!(instance.phase, FirmwarePhase::Downloaded) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let firmware = self.firmware.as_ref().ok_or(Code::NOT_FOUND)?;
        if firmware.has(FirmwareFault::Defers) {
            self.set_firmware(id, FirmwarePhase::Downloaded, DEFERRED);
        } else {
            self.set_firmware(id, FirmwarePhase::Updating, NO_RESULT);
        }
        Ok((Response::new(Code::CHANGED), Effect::FirmwareChanged(id)))
    }

    fn cancel_update(&mut self, id: u16) -> Result<(Response, Effect), Code> {
        let Some(instance) = self.firmware_instance(id) else { return Err(Code::NOT_FOUND) };
        match instance.phase {
            FirmwarePhase::Idle | FirmwarePhase::Updating => return Err(Code::METHOD_NOT_ALLOWED),
            FirmwarePhase::Pushed { .. } | FirmwarePhase::Pulling(_) | FirmwarePhase::Downloaded => {}
        }
        self.set_firmware(id, FirmwarePhase::Idle, CANCELLED);
        Ok((Response::new(Code::CHANGED), Effect::FirmwareChanged(id)))
    }
}

/// Acts without a request of the server.
impl SimulatedDevice {
    /// Tells the server what has changed, and does what follows from it.
    pub(super) fn follow_firmware(&mut self, now: Instant, id: u16) {
        let changed = self.firmware.as_mut().map(|firmware| std::mem::take(&mut firmware.changed));
        self.changed(now, &changed.unwrap_or_default());
        let Some(firmware) = &self.firmware else { return };
        let update_time = firmware.config.update_time;
        match firmware.instances.get(&id).map(|instance| &instance.phase) {
            Some(FirmwarePhase::Pulling(pull)) if pull.token.is_none() => self.ask_for_block(now, id),
            Some(FirmwarePhase::Updating) => self.timers.set(DeviceTimer::Firmware(id), now + update_time),
            Some(FirmwarePhase::Pulling(_)) => {}
            Some(FirmwarePhase::Idle | FirmwarePhase::Pushed { .. } | FirmwarePhase::Downloaded) | None => {
                self.timers.cancel(DeviceTimer::Firmware(id));
            }
        }
        if self.package(id).is_some() {
            self.lose_link(now, id);
        }
    }

    /// Does what the timer of an instance stands for.
    pub(super) fn firmware_due(&mut self, now: Instant, id: u16) {
        match self.firmware_instance(id).map(|instance| &instance.phase) {
            Some(FirmwarePhase::Pulling(_)) => self.ask_for_block(now, id),
            Some(FirmwarePhase::Updating) => self.finish_update(now, id),
            Some(FirmwarePhase::Idle | FirmwarePhase::Pushed { .. } | FirmwarePhase::Downloaded) | None => {}
        }
    }

    /// Asks for blocks again whose requests were given up.
    pub(super) fn resume_pulls(&mut self, now: Instant) {
        let Some(firmware) = &mut self.firmware else { return };
        for (id, instance) in &mut firmware.instances {
            if let Some(pull) = instance.pull_mut() {
                pull.token = None;
                self.timers.set(DeviceTimer::Firmware(*id), now + Duration::from_secs(1));
            }
        }
    }

    fn ask_for_block(&mut self, now: Instant, id: u16) {
        let Some(firmware) = &self.firmware else { return };
        let block_size = firmware.config.block_size;
        let Some(instance) = firmware.instances.get(&id) else { return };
        let (Some(pull), offset) = (instance.pull(), instance.package.length) else { return };
        if firmware.stalls_at(offset) {
            return;
        }
        let mut request = Request::new(Code::GET);
        for segment in &pull.path {
            request.options.add_text(number::URI_PATH, segment);
        }
        request.options.add_uint(number::BLOCK2, BlockOption::of_size(offset, block_size).value());
        let token = self.messages.send_request(now, request);
        if let Some(pull) = self.firmware_instance(id).and_then(FirmwareInstance::pull_mut) {
            pull.token = Some(token);
        }
    }

    /// Takes the answer to a request for a block; `None` when there is none.
    pub(super) fn block_answered(&mut self, now: Instant, id: u16, response: Option<&Response>) {
        let Some(instance) = self.firmware_instance(id) else { return };
        let length = instance.package.length;
        let Some(pull) = instance.pull_mut() else { return };
        pull.token = None;
        let Some(response) = response else {
            pull.unanswered += 1;
            if pull.unanswered >= MOST_UNANSWERED {
                return self.fail_pull(now, id, CONNECTION_LOST);
            }
            return self.timers.set(DeviceTimer::Firmware(id), now + RETRY_AFTER);
        };
        pull.unanswered = 0;
        let block = response.options.uint(number::BLOCK2).ok().flatten().map(BlockOption::of);
        let etag = response.options.first(number::ETAG).map(<[u8]>::to_vec);
        let is_of_another = pull.etag.is_some() && pull.etag != etag;
        match (response.code, block) {
            (Code::CONTENT, Some(block)) if block.offset() == length && !is_of_another => {
                pull.etag = etag;
                self.take_block(now, id, &response.payload, block.more);
            }
            (Code::CONTENT, _) => self.fail_pull(now, id, CONNECTION_LOST),
            (Code::SERVICE_UNAVAILABLE, _) => {
                let wait = crate::registration::retry_after(Some(response));
                self.timers.set(DeviceTimer::Firmware(id), now + wait);
            }
            _ => self.fail_pull(now, id, INVALID_URI),
        }
    }

    fn take_block(&mut self, now: Instant, id: u16, bytes: &[u8], more: bool) {
        let Some(firmware) = &mut self.firmware else { return };
        let with_digest = firmware.config.accepted_sha256.is_some();
        let interval = firmware.config.block_interval;
        let Some(instance) = firmware.instances.get_mut(&id) else { return };
        instance.package.append(bytes, with_digest);
        let length = instance.package.length;
        if let Some(result) = firmware.failure_at(length) {
            return self.fail_pull(now, id, result);
        }
        if !more {
            self.package_arrived(id);
            return self.follow_firmware(now, id);
        }
        if self.lose_link(now, id) {
            return;
        }
        if interval.is_zero() {
            self.ask_for_block(now, id);
        } else {
            self.timers.set(DeviceTimer::Firmware(id), now + interval);
        }
    }

    fn fail_pull(&mut self, now: Instant, id: u16, result: i64) {
        self.set_firmware(id, FirmwarePhase::Idle, result);
        self.follow_firmware(now, id);
    }

    /// Checks a whole package.
    fn package_arrived(&mut self, id: u16) {
        let Some(firmware) = &self.firmware else { return };
        let accepted = firmware.config.accepted_sha256;
        let is_accepted = |package: &ReceivedPackage| accepted.is_none_or(|accepted| package.digest() == accepted);
        if self.package(id).is_some_and(is_accepted) {
            self.set_firmware(id, FirmwarePhase::Downloaded, NO_RESULT);
        } else {
            self.set_firmware(id, FirmwarePhase::Idle, INTEGRITY_FAILED);
        }
    }

    fn finish_update(&mut self, now: Instant, id: u16) {
        let Some(firmware) = &self.firmware else { return };
        let failure = firmware.fault(|fault| match fault {
            FirmwareFault::FailsUpdate { result } => Some(result),
            _ => None,
        });
        if let Some(result) = failure {
            self.set_firmware(id, FirmwarePhase::Idle, result);
            return self.follow_firmware(now, id);
        }
        if firmware.has(FirmwareFault::NeverReturns) {
            self.is_link_down = true;
            return;
        }
        let keeps_version = firmware.has(FirmwareFault::KeepsVersion);
        let version = self.package(id).and_then(ReceivedPackage::version).filter(|_| !keeps_version);
        if let Some(version) = version {
            self.objects.set(resource(id, PACKAGE_VERSION), version.as_str().into());
            if id == 0 {
                self.objects.set(FIRMWARE_VERSION.parse().expect("a path"), version.as_str().into());
            }
        }
        self.set_firmware(id, FirmwarePhase::Idle, UPDATED);
        // Nobody observes it any more after the restart.
        if let Some(firmware) = &mut self.firmware {
            firmware.changed.clear();
        }
        self.events.push_back(DeviceEvent::Rebooted);
        self.register_again(now);
    }

    /// Loses the link if a fault says so. Returns whether it was lost.
    fn lose_link(&mut self, now: Instant, id: u16) -> bool {
        let length = self.package(id).map_or(0, |package| package.length);
        let Some(lasts) = self.firmware.as_mut().and_then(|firmware| firmware.take_link_loss(length)) else {
            return false;
        };
        self.is_link_down = true;
        self.timers.set(DeviceTimer::LinkReturns, now + lasts);
        true
    }

    /// The link is back: what was in flight is repeated by its own rules, and blocks are asked for again.
    pub(super) fn link_returned(&mut self, now: Instant) {
        self.is_link_down = false;
        self.resume_pulls(now);
    }

    /// Changes the phase of an instance, and with it State and Update Result.
    fn set_firmware(&mut self, id: u16, phase: FirmwarePhase, result: i64) {
        let state = match phase {
            FirmwarePhase::Idle => IDLE,
            FirmwarePhase::Pushed { .. } | FirmwarePhase::Pulling(_) => DOWNLOADING,
            FirmwarePhase::Downloaded => DOWNLOADED,
            FirmwarePhase::Updating => UPDATING,
        };
        let Some(firmware) = &mut self.firmware else { return };
        let claimed = firmware.fault(|fault| match fault {
            FirmwareFault::ClaimsState(state) => Some(state),
            _ => None,
        });
        let state = claimed.unwrap_or(state);
        for (path, value) in [(resource(id, STATE), state), (resource(id, RESULT), result)] {
            let value = SimulatedValue::Integer(value);
            let is_same =
                matches!(self.objects.resource(path), Some(SimulatedResource::Single(_, old)) if *old == value);
            if !is_same && self.objects.set(path, value) {
                firmware.changed.push(path);
            }
        }
        if let Some(instance) = firmware.instances.get_mut(&id) {
            instance.phase = phase;
        }
        self.events.push_back(DeviceEvent::FirmwareChanged { instance: id, state, result });
    }

    fn firmware_instance(&mut self, id: u16) -> Option<&mut FirmwareInstance> {
        self.firmware.as_mut()?.instances.get_mut(&id)
    }

    fn package(&self, id: u16) -> Option<&ReceivedPackage> {
        Some(&self.firmware.as_ref()?.instances.get(&id)?.package)
    }
}

fn resource(instance: u16, resource: u16) -> Path {
    Path::of(&[OBJECT, instance, resource]).expect("three segments are a path")
}

/// Returns the bytes of the header of a TLV that has a whole package (LwM2M Core 1.1 section 7.4.3); 0 for a package
/// that stands for itself.
fn tlv_header(format: u16, payload: &[u8]) -> usize {
    let Some(kind) = payload.first().filter(|_| matches!(format, format::TLV | format::LEGACY_TLV)) else { return 0 };
    let identifier = if kind & 0x20 == 0 { 1 } else { 2 };
    1 + identifier + usize::from((kind >> 3) & 3)
}
