//! Send.

use super::*;

const TEMPERATURE: &str = "/3303/0/5700";

fn scene() -> SimulatorScene {
    let config = SimulatedDeviceConfig::of_version("dev-7", SimulatedVersion::V1_2);
    SimulatorScene::registered_with(SimulatedDeviceConfig { notification_interval: None, wave: None, ..config })
}

fn sample(path: &str, value: f64, time: Option<f64>) -> SimulatedSample {
    SimulatedSample { path: at(path), value: SimulatedValue::Float(value), time }
}

/// Two temperatures, ten seconds apart.
fn history(format: u16) -> SimulatedSend {
    let samples = vec![sample(TEMPERATURE, 21.5, Some(0.0)), sample(TEMPERATURE, 22.0, Some(10.0))];
    SimulatedSend { format, base_time: Some(1_717_886_813.0), samples }
}

#[test]
fn a_history_is_sent_with_its_times_and_the_answer_is_an_event() {
    let mut scene = scene();
    assert_eq!(scene.device.send(scene.now, &history(format::SENML_CBOR)), Ok(()));
    let send = scene.expect_transmitted();
    assert_eq!((send.kind, send.code, send.options.content_format()), (Kind::Confirmable, Code::POST, Some(112)));
    assert_eq!(send.options.texts(number::URI_PATH), Ok(vec!["dp"]));
    assert_eq!(
        send.payload,
        b"\x82\xa4\x21\x6c/3303/0/5700\x22\x1a\x66\x64\xdf\x5d\x06\x00\x02\xfb\x40\x35\x80\x00\x00\x00\x00\x00\
          \xa2\x06\x0a\x02\xfb\x40\x36\x00\x00\x00\x00\x00\x00"
    );
    scene.answer(&send, Response::new(Code::CHANGED));
    scene.expect_event(DeviceEvent::SendAnswered { code: Some(Code::CHANGED) });
    assert!(scene.device.is_registered());
    scene.expect_nothing_more();
}

#[test]
fn values_of_several_paths_are_sent_with_times_before_the_arrival() {
    let mut scene = scene();
    let samples = vec![sample(TEMPERATURE, 21.5, Some(-30.0)), sample("/3303/0/5601", 18.0, None)];
    let send = SimulatedSend { format: format::SENML_JSON, base_time: None, samples };
    assert_eq!(scene.device.send(scene.now, &send), Ok(()));
    let json = scene.expect_transmitted().payload;
    assert_eq!(
        String::from_utf8_lossy(&json),
        r#"[{"n":"/3303/0/5700","t":-30,"v":21.5},{"n":"/3303/0/5601","v":18.0}]"#
    );
}

#[test]
fn lwm2m_cbor_has_one_value_of_each_path() {
    let mut scene = scene();
    let values = vec![sample(TEMPERATURE, 21.5, None), sample("/3303/0/5601", 18.0, None)];
    let send = SimulatedSend { format: format::LWM2M_CBOR, base_time: None, samples: values };
    assert_eq!(scene.device.send(scene.now, &send), Ok(()));
    assert_eq!(
        scene.expect_transmitted().payload,
        b"\xa1\x19\x0c\xe7\xa1\x00\xa2\x19\x15\xe1\xfb\x40\x32\x00\x00\x00\x00\x00\x00\
          \x19\x16\x44\xfb\x40\x35\x80\x00\x00\x00\x00\x00"
    );
    assert_eq!(scene.device.send(scene.now, &history(format::LWM2M_CBOR)), Err(SimulatedSendError::History));
    assert_eq!(scene.device.send(scene.now, &history(format::TLV)), Err(SimulatedSendError::Format(11_542)));
}

#[test]
fn a_refused_or_unanswered_send_leaves_the_registration_alone() {
    let mut scene = scene();
    assert_eq!(scene.device.send(scene.now, &history(format::SENML_CBOR)), Ok(()));
    let send = scene.expect_transmitted();
    scene.answer(&send, Response::new(Code::NOT_FOUND));
    scene.expect_event(DeviceEvent::SendAnswered { code: Some(Code::NOT_FOUND) });

    assert_eq!(scene.device.send(scene.now, &history(format::SENML_CBOR)), Ok(()));
    let send = scene.expect_transmitted();
    for _ in 0..4 {
        scene.advance_to_next_deadline();
        assert_eq!(scene.expect_transmitted(), send);
    }
    scene.advance_to_next_deadline();
    scene.expect_event(DeviceEvent::SendAnswered { code: None });
    assert!(scene.device.is_registered());
}

#[test]
fn a_device_that_is_muted_or_not_registered_sends_nothing() {
    let mut scene = scene();
    assert_eq!(scene.write(Code::PUT, "/1/0/23", format::TEXT, b"1"), Code::CHANGED);
    assert_eq!(scene.device.send(scene.now, &history(format::SENML_CBOR)), Err(SimulatedSendError::Muted));
    assert_eq!(scene.write(Code::PUT, "/1/0/23", format::TEXT, b"0"), Code::CHANGED);
    assert_eq!(scene.device.send(scene.now, &history(format::SENML_CBOR)), Ok(()));
    let send = scene.expect_transmitted();

    scene.device.stop(scene.now);
    scene.expect_event(DeviceEvent::SendAnswered { code: None });
    assert_eq!(scene.device.send(scene.now, &history(format::SENML_CBOR)), Err(SimulatedSendError::NotRegistered));
    scene.answer(&send, Response::new(Code::CHANGED));
    assert_eq!(scene.expect_transmitted().code, Code::DELETE);
    scene.expect_nothing_more();
}
