//! The firmware update, by push and by pull.

use sha2::{Digest, Sha256};

use super::*;

const PACKAGE: &[u8] = b"version: 3.0\n................................................................";
const URI: &str = "coap://gw.example.com:5683/fw/KEY/app.bin";

fn firmware_config() -> SimulatedFirmwareConfig {
    SimulatedFirmwareConfig { block_size: 32, ..SimulatedFirmwareConfig::default() }
}

fn with(firmware: SimulatedFirmwareConfig) -> SimulatorScene {
    SimulatorScene::registered_with(SimulatedDeviceConfig { firmware: Some(firmware), ..config() })
}

fn with_faults(faults: &[FirmwareFault]) -> SimulatorScene {
    with(SimulatedFirmwareConfig { faults: faults.to_vec(), ..firmware_config() })
}

impl SimulatorScene {
    /// Sends one block of a push of 32 bytes.
    fn push(&mut self, number: u32) -> Code {
        let mut request = self.pushed_block(number);
        request.token = Token::new(b"push");
        self.ask(&request).code
    }

    fn pushed_block(&mut self, number: u32) -> Message {
        let begin = 32 * number as usize;
        let end = (begin + 32).min(PACKAGE.len());
        let block1 = (number << 4) | u32::from(end < PACKAGE.len()) << 3 | 1;
        let options = [(number::CONTENT_FORMAT, format::OCTET_STREAM.into()), (number::BLOCK1, block1)];
        let mut request = self.request(Code::PUT, "/5/0/0", &options);
        request.payload = PACKAGE[begin..end].to_vec();
        request
    }

    fn push_all(&mut self) {
        assert_eq!([0, 1, 2].map(|number| self.push(number)), [Code::CONTINUE, Code::CONTINUE, Code::CHANGED]);
    }

    fn write_uri(&mut self, uri: &str) -> Code {
        self.write(Code::PUT, "/5/0/1", format::TEXT, uri.as_bytes())
    }

    fn execute(&mut self, path: &str) -> Code {
        let request = self.request(Code::POST, path, &[]);
        self.ask(&request).code
    }

    /// Returns State and Update Result.
    fn update_state(&mut self) -> (String, String) {
        (self.read("/5/0/3").1, self.read("/5/0/5").1)
    }

    /// Expects the request for the next block, and returns it with its number.
    fn expect_get(&mut self) -> (Message, u32) {
        let request = self.expect_transmitted();
        let path = request.options.texts(number::URI_PATH).unwrap().join("/");
        assert_eq!((request.code, path.as_str()), (Code::GET, "fw/KEY/app.bin"));
        let block2 = request.options.uint(number::BLOCK2).unwrap().unwrap();
        assert_eq!(block2 & 7, 1);
        (request, block2 >> 4)
    }

    fn serve(&mut self, request: &Message, number: u32) {
        let begin = 32 * number as usize;
        let end = (begin + 32).min(PACKAGE.len());
        let mut response = Response::new(Code::CONTENT);
        response.options.add_uint(number::BLOCK2, (number << 4) | u32::from(end < PACKAGE.len()) << 3 | 1);
        response.options.add(number::ETAG, b"etag");
        response.payload = PACKAGE[begin..end].to_vec();
        self.answer(request, response);
    }

    fn serve_all(&mut self) {
        for expected in 0..3 {
            let (request, number) = self.expect_get();
            assert_eq!(number, expected);
            self.serve(&request, number);
        }
    }

    fn reach_deadline(&mut self) {
        let next = self.poll().expect("a deadline");
        self.now = self.now.max(next);
        self.device.handle_timeout(self.now);
    }
}

fn state(state: i64, result: i64) -> (String, String) {
    (state.to_string(), result.to_string())
}

#[test]
fn a_pushed_package_is_downloaded_behind_its_last_block_and_runs_after_the_restart() {
    let mut scene = with(firmware_config());
    assert_eq!(scene.update_state(), state(0, 0));
    assert_eq!(scene.execute("/5/0/2"), Code::METHOD_NOT_ALLOWED);
    assert_eq!(scene.push(0), Code::CONTINUE);
    assert_eq!(scene.update_state(), state(1, 0));
    assert_eq!(scene.push(2), Code::REQUEST_ENTITY_INCOMPLETE);
    scene.push_all();
    assert_eq!(scene.update_state(), state(2, 0));
    assert_eq!(scene.execute("/5/0/2"), Code::CHANGED);
    assert_eq!(scene.update_state(), state(3, 0));
    assert_eq!(scene.push(0), Code::METHOD_NOT_ALLOWED);

    scene.reach_deadline();
    let register = scene.expect_transmitted();
    assert!(String::from_utf8_lossy(&register.payload).contains("</5>;ver=1.1,</5/0>"));
    scene.answer(&register, created());
    assert_eq!(scene.update_state(), state(0, 1));
    assert_eq!((scene.read("/3/0/3").1, scene.read("/5/0/7").1), ("3.0".to_owned(), "3.0".to_owned()));
}

#[test]
fn a_package_in_a_tlv_is_the_same_package() {
    let mut scene =
        with(SimulatedFirmwareConfig { accepted_sha256: Some(Sha256::digest(PACKAGE).into()), ..firmware_config() });
    let mut tlv = vec![0xc8, 0, PACKAGE.len() as u8];
    tlv.extend_from_slice(PACKAGE);
    let mut request =
        scene.request(Code::PUT, "/5/0/0", &[(number::CONTENT_FORMAT, format::TLV.into()), (number::BLOCK1, 8 | 2)]);
    request.payload = tlv[..64].to_vec();
    assert_eq!(scene.ask(&request).code, Code::CONTINUE);
    let mut request =
        scene.request(Code::PUT, "/5/0/0", &[(number::CONTENT_FORMAT, format::TLV.into()), (number::BLOCK1, 16 | 2)]);
    request.payload = tlv[64..].to_vec();
    assert_eq!(scene.ask(&request).code, Code::CHANGED);
    assert_eq!(scene.update_state(), state(2, 0));
}

#[test]
fn a_package_from_a_uri_is_fetched_block_by_block() {
    let mut scene = with(firmware_config());
    let observation = scene.observe("/5/0/3");
    assert_eq!(scene.write_uri(URI), Code::CHANGED);
    scene.expect_notification(observation, Kind::NonConfirmable, 2, "1");
    scene.serve_all();
    scene.expect_notification(observation, Kind::NonConfirmable, 3, "2");
    assert_eq!(scene.update_state(), state(2, 0));
    assert_eq!(scene.write_uri(URI), Code::METHOD_NOT_ALLOWED);
    assert_eq!(scene.write_uri(""), Code::CHANGED);
    scene.expect_notification(observation, Kind::NonConfirmable, 4, "0");
    assert_eq!(scene.update_state(), state(0, 0));
}

#[test]
fn each_failure_has_its_update_result() {
    let mut scene = with(firmware_config());
    for (uri, result) in [("http://gw/a", 9), ("coaps://gw/a", 9), ("gw", 7), ("coap://gw", 7), ("coap:///a", 7)] {
        assert_eq!(scene.write_uri(uri), Code::CHANGED);
        assert_eq!(scene.update_state(), state(0, result), "{uri}");
    }
    let mut scene = with(SimulatedFirmwareConfig { accepted_sha256: Some([0; 32]), ..firmware_config() });
    scene.push_all();
    assert_eq!(scene.update_state(), state(0, 5));
    let mut scene = with_faults(&[FirmwareFault::FailsAt { byte: 32, result: 2 }]);
    assert_eq!(scene.push(0), Code::INTERNAL_SERVER_ERROR);
    assert_eq!(scene.update_state(), state(0, 2));
    let mut scene = with_faults(&[FirmwareFault::RefusesUri { result: 7 }]);
    assert_eq!(scene.write_uri(URI), Code::CHANGED);
    assert_eq!(scene.update_state(), state(0, 7));
    let mut scene = with_faults(&[FirmwareFault::Defers]);
    scene.push_all();
    assert_eq!(scene.execute("/5/0/2"), Code::CHANGED);
    assert_eq!(scene.update_state(), state(2, 11));
    let mut scene = with_faults(&[FirmwareFault::FailsUpdate { result: 8 }]);
    scene.push_all();
    assert_eq!(scene.execute("/5/0/2"), Code::CHANGED);
    scene.reach_deadline();
    assert_eq!(scene.update_state(), state(0, 8));
}

#[test]
fn an_update_is_cancelled_or_taken_back_before_it_is_carried_out() {
    let mut scene = with(firmware_config());
    assert_eq!(scene.execute("/5/0/10"), Code::METHOD_NOT_ALLOWED);
    scene.push(0);
    assert_eq!(scene.execute("/5/0/10"), Code::CHANGED);
    assert_eq!(scene.update_state(), state(0, 10));
    scene.push_all();
    assert_eq!(scene.write(Code::PUT, "/5/0/0", format::OCTET_STREAM, &[0]), Code::CHANGED);
    assert_eq!(scene.update_state(), state(0, 0));
    let mut scene = with(SimulatedFirmwareConfig { can_cancel: false, ..firmware_config() });
    scene.push(0);
    assert_eq!(scene.execute("/5/0/10"), Code::NOT_FOUND);
}

#[test]
fn a_device_that_stalls_asks_for_nothing_and_does_not_answer_blocks() {
    let mut scene = with_faults(&[FirmwareFault::StallsAt(64)]);
    assert_eq!(scene.push(0), Code::CONTINUE);
    let block = scene.pushed_block(1);
    scene.receive(&block);
    scene.expect_nothing_more();
    let mut scene = with_faults(&[FirmwareFault::StallsAt(64)]);
    scene.write_uri(URI);
    for number in 0..2 {
        let (request, _) = scene.expect_get();
        scene.serve(&request, number);
    }
    scene.expect_nothing_more();
    assert_eq!(scene.update_state(), state(1, 0));
}

#[test]
fn after_a_lost_link_the_device_goes_on_with_the_next_block() {
    let mut scene = with_faults(&[FirmwareFault::LosesLinkAt { byte: 32, lasts: Duration::from_secs(20) }]);
    scene.write_uri(URI);
    let (request, number) = scene.expect_get();
    scene.serve(&request, number);
    scene.expect_nothing_more();
    let unheard = scene.request(Code::GET, "/3/0/3", &[]);
    scene.receive(&unheard);
    scene.expect_nothing_more();
    scene.reach_deadline();
    scene.reach_deadline();
    let (_, number) = scene.expect_get();
    assert_eq!(number, 1);
}

#[test]
fn lies_about_state_version_and_observations_are_told() {
    let mut scene = with_faults(&[FirmwareFault::ClaimsState(2), FirmwareFault::RefusesObserve]);
    scene.push(0);
    assert_eq!(scene.update_state(), state(2, 0));
    let observe = scene.request(Code::GET, "/5/0/3", &[(number::OBSERVE, 0)]);
    assert_eq!(scene.ask(&observe).code, Code::METHOD_NOT_ALLOWED);
    let mut scene = with_faults(&[FirmwareFault::KeepsVersion]);
    scene.push_all();
    scene.execute("/5/0/2");
    scene.reach_deadline();
    let register = scene.expect_transmitted();
    scene.answer(&register, created());
    assert_eq!((scene.update_state(), scene.read("/3/0/3").1), (state(0, 1), "2.4.1".to_owned()));
}

#[test]
fn each_instance_has_an_update_of_its_own() {
    let mut scene = with(SimulatedFirmwareConfig { instances: 2, ..firmware_config() });
    scene.push_all();
    assert_eq!((scene.read("/5/0/3").1, scene.read("/5/1/3").1), ("2".to_owned(), "0".to_owned()));
}
