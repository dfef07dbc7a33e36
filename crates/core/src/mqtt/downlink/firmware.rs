//! The commands about firmware updates: `firmware-update`, `firmware-activate`, `firmware-cancel` and
//! `firmware-status`. The gateway carries them out itself, by requests to the Firmware Update object of the device.

use serde_json::{Map, Value};

use crate::command::firmware::{FirmwareAction, MethodChoice, PackageSource, UpdateRequest};
use lwm2m_base::secret::Secret;

use super::error::CommandError;

/// Limits the attempts of a transfer.
const MOST_ATTEMPTS: u64 = 100;
/// Default of `attempts`: the number of times that a transfer is begun.
const ATTEMPTS: u32 = 3;
/// Limits the bytes of the version that the command names.
const LONGEST_VERSION: usize = 255;

/// Returns what a command with this `msgType` asks for, and of which instance of the object; `None` if it is no command
/// about firmware.
pub(super) fn action(
    msg_type: Option<&str>,
    data: Option<&Value>,
) -> Option<Result<(u16, FirmwareAction), CommandError>> {
    let read: fn(&Map<String, Value>) -> Result<FirmwareAction, CommandError> = match msg_type? {
        "firmware-update" => |data| update(data).map(Box::new).map(FirmwareAction::Update),
        "firmware-activate" => |_| Ok(FirmwareAction::Activate),
        "firmware-cancel" => |_| Ok(FirmwareAction::Cancel),
        "firmware-status" => |_| Ok(FirmwareAction::Status),
        _ => return None,
    };
    let none = Map::new();
    let data = match data {
        Some(Value::Object(data)) => data,
        None | Some(Value::Null) => &none,
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Some(Err(CommandError::Member { member: "data", expected: "an object" }));
        }
    };
    Some(instance(data).and_then(|instance| Ok((instance, read(data)?))))
}

fn instance(data: &Map<String, Value>) -> Result<u16, CommandError> {
    let Some(instance) = member(data, "instance") else { return Ok(0) };
    let id = instance.as_u64().and_then(|id| u16::try_from(id).ok()).filter(|id| *id < u16::MAX);
    id.ok_or(CommandError::Member { member: "instance", expected: "a number from 0 to 65534" })
}

fn update(data: &Map<String, Value>) -> Result<UpdateRequest, CommandError> {
    let package = match (text(data, "image")?, text(data, "uri")?) {
        (Some(image), None) => PackageSource::Image(image),
        (None, Some(uri)) => PackageSource::Uri(Secret::new(uri)),
        (Some(_), Some(_)) => return Err(CommandError::TwoPackages),
        (None, None) => return Err(CommandError::NoPackage),
    };
    Ok(UpdateRequest {
        package,
        method: method(data)?,
        activate: activate(data)?,
        version: text(data, "version")?.map(checked_version).transpose()?,
        sha256: text(data, "sha256")?,
        block_size: block_size(data)?,
        attempts: attempts(data)?,
    })
}

fn method(data: &Map<String, Value>) -> Result<MethodChoice, CommandError> {
    match text(data, "method")?.as_deref() {
        None | Some("auto") => Ok(MethodChoice::Auto),
        Some("push") => Ok(MethodChoice::Push),
        Some("pull") => Ok(MethodChoice::Pull),
        Some(_) => Err(CommandError::Member { member: "method", expected: "\"auto\", \"push\" or \"pull\"" }),
    }
}

fn activate(data: &Map<String, Value>) -> Result<bool, CommandError> {
    let wrong = CommandError::Member { member: "activate", expected: "true or false" };
    member(data, "activate").map_or(Ok(true), |activate| activate.as_bool().ok_or(wrong))
}

fn checked_version(version: String) -> Result<String, CommandError> {
    if (1..=LONGEST_VERSION).contains(&version.len()) {
        return Ok(version);
    }
    Err(CommandError::Member { member: "version", expected: "a text of 1 to 255 bytes" })
}

fn block_size(data: &Map<String, Value>) -> Result<Option<u16>, CommandError> {
    let Some(size) = member(data, "blockSize") else { return Ok(None) };
    let size = size.as_u64().and_then(|size| u16::try_from(size).ok());
    let size = size.filter(|size| size.is_power_of_two() && (16..=1024).contains(size));
    size.map(Some).ok_or(CommandError::Member { member: "blockSize", expected: "16, 32, 64, 128, 256, 512 or 1024" })
}

fn attempts(data: &Map<String, Value>) -> Result<u32, CommandError> {
    let Some(attempts) = member(data, "attempts") else { return Ok(ATTEMPTS) };
    let attempts = attempts.as_u64().filter(|attempts| (1..=MOST_ATTEMPTS).contains(attempts));
    let attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok());
    attempts.ok_or(CommandError::Member { member: "attempts", expected: "a number from 1 to 100" })
}

fn text(data: &Map<String, Value>, name: &'static str) -> Result<Option<String>, CommandError> {
    match member(data, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(CommandError::Member { member: name, expected: "a text" })
        }
    }
}

/// Returns a member that has a value.
fn member<'d>(data: &'d Map<String, Value>, name: &str) -> Option<&'d Value> {
    data.get(name).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(msg_type: &str, data: Value) -> Result<(u16, FirmwareAction), String> {
        action(Some(msg_type), Some(&data)).unwrap().map_err(|error| error.to_string())
    }

    #[test]
    fn an_update_has_an_image_or_a_uri_and_defaults_for_the_rest() {
        let plain = UpdateRequest {
            package: PackageSource::Image("app.bin".to_owned()),
            method: MethodChoice::Auto,
            activate: true,
            version: None,
            sha256: None,
            block_size: None,
            attempts: 3,
        };
        let update = |request| Ok((0, FirmwareAction::Update(Box::new(request))));
        assert_eq!(read("firmware-update", json!({ "image": "app.bin" })), update(plain.clone()));
        let all = json!({ "uri": "http://a/b", "method": "pull", "activate": false, "version": "2", "sha256": "00",
            "blockSize": 256, "attempts": 1, "instance": 7 });
        let named = UpdateRequest {
            package: PackageSource::Uri(Secret::new("http://a/b")),
            method: MethodChoice::Pull,
            activate: false,
            version: Some("2".to_owned()),
            sha256: Some("00".to_owned()),
            block_size: Some(256),
            attempts: 1,
        };
        assert_eq!(read("firmware-update", all), Ok((7, FirmwareAction::Update(Box::new(named)))));
    }

    #[test]
    fn the_other_commands_need_no_data() {
        for (msg_type, expected) in [
            ("firmware-activate", FirmwareAction::Activate),
            ("firmware-cancel", FirmwareAction::Cancel),
            ("firmware-status", FirmwareAction::Status),
        ] {
            assert_eq!(action(Some(msg_type), None).unwrap().unwrap(), (0, expected.clone()));
            assert_eq!(read(msg_type, json!({ "instance": 1 })), Ok((1, expected)));
        }
        assert!(action(Some("read"), None).is_none());
        assert!(action(None, None).is_none());
    }

    #[test]
    fn every_mistake_is_named() {
        for (data, named) in [
            (json!({}), "image or uri"),
            (json!({ "image": "a", "uri": "coap://a" }), "image or uri"),
            (json!({ "image": 7 }), "image is not a text"),
            (json!({ "image": "a", "method": "ftp" }), "method"),
            (json!({ "image": "a", "activate": "yes" }), "activate"),
            (json!({ "image": "a", "version": "" }), "version"),
            (json!({ "image": "a", "blockSize": 100 }), "blockSize"),
            (json!({ "image": "a", "blockSize": 2048 }), "blockSize"),
            (json!({ "image": "a", "attempts": 0 }), "attempts"),
            (json!({ "image": "a", "instance": 65535 }), "instance"),
            (json!("a"), "data"),
        ] {
            let error = read("firmware-update", data.clone()).unwrap_err();
            assert!(error.contains(named), "{data}: {error}");
        }
    }
}
