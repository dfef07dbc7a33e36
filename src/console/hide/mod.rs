//! Values that the console never shows. By default they are those of the objects that hold keys: Security (0) and
//! OSCORE (21).
//!
//! [`HiddenPaths::message`] covers them in the JSON of commands and of published messages, member by member. Where it
//! is not certain which path a value belongs to, the value is covered.

mod json_start;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use lwm2m_core::lwm2m::path::Path;

/// Stands for each covered value.
pub(crate) const COVERED: &str = "***";
/// A member of this name marks an object with a covered value.
const MARK: &str = "hidden";

/// The paths at and below which no value is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HiddenPaths(Vec<Path>);

/// The path that the values of a JSON object belong to, and the meaning of the paths in its `content`.
#[derive(Clone, Debug)]
struct Scope {
    /// `None` if no path is given.
    at: Option<Vec<Path>>,
    items: ItemPaths,
    /// Whether the path may stand in a part of the message that is missing.
    is_cut: bool,
}

/// The base of the paths in `content`.
#[derive(Clone, Copy, Debug)]
enum ItemPaths {
    /// The names of an answer, which are whole paths.
    Absolute,
    /// The names of a command with `basePath`, which begin there.
    Relative,
    Unknown,
}

impl HiddenPaths {
    pub fn new(paths: Vec<Path>) -> Self {
        Self(paths)
    }

    /// Returns whether this path, or one above it, is hidden.
    pub fn covers(&self, path: &Path) -> bool {
        self.0.iter().any(|hidden| path.is_at_or_below(hidden))
    }

    /// Returns whether a payload about this path may have a hidden value, because a hidden path lies at, above or below
    /// it.
    pub(crate) fn may_cover(&self, path: &Path) -> bool {
        self.0.iter().any(|hidden| path.is_at_or_below(hidden) || hidden.is_at_or_below(path))
    }

    /// Returns the JSON of a command or of a published message with its hidden values covered. A payload that is not
    /// JSON is covered as a whole.
    pub fn message(&self, payload: &[u8]) -> Box<RawValue> {
        match serde_json::from_slice::<&RawValue>(payload) {
            Ok(written) => self.covered(written.get(), false).unwrap_or_else(|| written.to_owned()),
            Err(_) => raw(&self.text(payload)),
        }
    }

    /// Returns as much of a message as its first bytes have, as valid JSON with its hidden values covered.
    pub(crate) fn message_start(&self, start: &[u8]) -> Box<RawValue> {
        let closed = json_start::closed(start);
        let written = closed.as_ref().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        match written {
            Some(written) => self.covered(written.get(), true).unwrap_or_else(|| written.to_owned()),
            None => raw(&self.text(start)),
        }
    }

    /// Returns a reason in words. If it is about a hidden path it is covered, because it may quote the value.
    pub fn reason<'a>(&self, path: Option<&Path>, reason: &'a str) -> &'a str {
        let is_hidden = path.is_some_and(|path| self.covers(path)) || self.names_hidden_path(reason);
        if is_hidden { COVERED } else { reason }
    }

    fn text(&self, payload: &[u8]) -> Value {
        let shown = if self.0.is_empty() { String::from_utf8_lossy(payload).into_owned() } else { COVERED.to_owned() };
        Value::String(shown)
    }

    /// Returns the message with covered values; `None` if it has nothing to cover.
    fn covered(&self, json: &str, is_cut: bool) -> Option<Box<RawValue>> {
        if self.0.is_empty() {
            return None;
        }
        let mut message: Value = serde_json::from_str(json).ok()?;
        let scope = Scope { at: None, items: ItemPaths::Unknown, is_cut };
        self.cover(&mut message, &scope).then(|| raw(&message))
    }

    /// Covers the hidden values. Returns whether there was one.
    fn cover(&self, json: &mut Value, outer: &Scope) -> bool {
        match json {
            // Every item is covered, so there is no `any`, which stops at the first.
            Value::Array(items) => {
                items.iter_mut().filter_map(|item| self.cover(item, outer).then_some(())).count() > 0
            }
            Value::Object(members) => {
                let scope = outer.inside(members);
                let (mut here, mut below) = (false, false);
                for (name, value) in members.iter_mut() {
                    match (name.as_str(), &*value) {
                        (_, Value::Null) => {}
                        ("value" | "args", _) if self.is_hidden(&scope) => {
                            *value = COVERED.into();
                            here = true;
                        }
                        ("value" | "args", _) => {}
                        ("reason", Value::String(reason)) => {
                            if self.is_covered(&scope) || self.names_hidden_path(reason) {
                                *value = COVERED.into();
                                here = true;
                            }
                        }
                        _ => below |= self.cover(value, &scope),
                    }
                }
                if here {
                    members.insert(MARK.to_owned(), true.into());
                }
                here || below
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }

    /// Returns whether a value may be one of a hidden path.
    fn is_hidden(&self, scope: &Scope) -> bool {
        scope.at.as_ref().is_none_or(|paths| paths.iter().any(|path| self.may_cover(path)))
    }

    /// Returns whether everything here is about a hidden path.
    fn is_covered(&self, scope: &Scope) -> bool {
        scope.at.iter().flatten().any(|path| self.covers(path))
    }

    fn names_hidden_path(&self, text: &str) -> bool {
        let words = text.split(|c: char| c != '/' && !c.is_ascii_digit()).filter(|word| word.starts_with('/'));
        words.filter_map(|word| word.parse().ok()).any(|path: Path| !path.is_empty() && self.covers(&path))
    }
}

impl Scope {
    /// Returns the scope of the values in this object.
    fn inside(&self, members: &Map<String, Value>) -> Self {
        let is_cut = self.is_cut;
        let written = |name: &str| members.get(name).and_then(Value::as_str).map(parse);
        if let Some(base) = written("basePath") {
            return Self { at: base.map(|base| vec![base]), items: ItemPaths::Relative, is_cut };
        }
        if let Some(requested) = written("reqPath") {
            return Self { at: requested.map(|path| vec![path]), items: ItemPaths::Absolute, is_cut };
        }
        if members.contains_key("reqPath") || members.contains_key("reqPaths") {
            return Self { at: None, items: ItemPaths::Absolute, is_cut };
        }
        match written("path") {
            Some(Some(path)) => Self { at: self.below(&path), items: ItemPaths::Unknown, is_cut },
            // An instance ID that is left to the device is written as a star.
            Some(None) => Self { items: ItemPaths::Unknown, ..self.clone() },
            None => self.clone(),
        }
    }

    /// Returns the paths that the path of an item may stand for.
    fn below(&self, path: &Path) -> Option<Vec<Path>> {
        let joined = |base: &Path| path.segments().iter().try_fold(*base, |path, id| path.child(*id)).unwrap_or(*base);
        let joined = self.at.as_ref().map(|bases| bases.iter().map(joined).collect::<Vec<_>>());
        match (self.items, joined) {
            (ItemPaths::Absolute, _) => Some(vec![*path]),
            (ItemPaths::Relative, joined) => joined,
            (ItemPaths::Unknown, None) if self.is_cut => None,
            (ItemPaths::Unknown, joined) => Some(joined.into_iter().flatten().chain([*path]).collect()),
        }
    }
}

/// Parses a path of a command, which may have a query.
fn parse(written: &str) -> Option<Path> {
    written.split('?').next().unwrap_or_default().parse().ok()
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("members with text keys and finite numbers are JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys() -> HiddenPaths {
        hidden(&["/0", "/21"])
    }

    fn hidden(paths: &[&str]) -> HiddenPaths {
        HiddenPaths::new(paths.iter().map(|path| path.parse().unwrap()).collect())
    }

    fn shown(hidden: &HiddenPaths, message: &Value) -> Value {
        serde_json::from_str(hidden.message(message.to_string().as_bytes()).get()).unwrap()
    }

    #[test]
    fn values_of_hidden_paths_are_covered_in_an_answer_and_others_are_not() {
        let answer = json!({ "reqID": 1, "msgType": "read-composite", "data": { "reqPaths": ["/"], "code": "2.05",
            "content": [{ "path": "/0/0/5", "value": "a2V5" }, { "path": "/3/0/0", "value": "ACME" }] } });
        let expected = json!({ "reqID": 1, "msgType": "read-composite", "data": { "reqPaths": ["/"], "code": "2.05",
            "content": [{ "path": "/0/0/5", "value": "***", "hidden": true },
            { "path": "/3/0/0", "value": "ACME" }] } });
        assert_eq!(shown(&keys(), &answer), expected);
        let relative = json!({ "data": { "reqPath": "0/0", "content": [{ "path": "0/0/5", "value": 1 }] } });
        assert_eq!(shown(&keys(), &relative)["data"]["content"][0]["value"], COVERED);
    }

    #[test]
    fn values_of_hidden_paths_are_covered_in_a_command_whatever_its_form() {
        for (data, pointer) in [
            (json!({ "path": "/0/0/5", "value": "secret" }), "/value"),
            (json!({ "value": "secret", "path": "/0/0/5?pmin=1" }), "/value"),
            (json!({ "path": "/21/0/9", "args": "0='secret'" }), "/args"),
            (json!({ "basePath": "/0/0", "content": [{ "path": "/5", "value": "secret" }] }), "/content/0/value"),
            (json!({ "content": [{ "value": "secret", "path": "5" }], "basePath": "0/0" }), "/content/0/value"),
            (json!({ "basePath": "/0", "content": [{ "path": "*/5", "value": "secret" }] }), "/content/0/value"),
            (json!({ "content": [{ "path": "/0/0/5", "value": "secret" }] }), "/content/0/value"),
            (json!({ "value": "secret" }), "/value"),
            (json!({ "path": "/0/0/5", "value": { "a": "secret" } }), "/value"),
        ] {
            let message = shown(&keys(), &json!({ "msgType": "coap_timeout", "data": data }));
            assert_eq!(message["data"].pointer(pointer), Some(&json!(COVERED)), "{data}");
        }
    }

    #[test]
    fn a_message_without_hidden_values_keeps_its_text() {
        for message in [
            r#"{"data":{"path":"/3/0/15", "value":18446744073709551616}}"#,
            r#"{ "data": { "basePath": "/3/0", "content": [{ "path": "/0", "value": "ACME" }] } }"#,
            r#"{"msgType":"status","status":"online","since":1}"#,
            r#"{"data":{"reqPath":"/","content":[{"path":"/3303/0/5700","value":1.0}]}}"#,
            r#"{"data":{"reqPath":"/0/0","code":"4.01","codeMsg":"unauthorized"}}"#,
        ] {
            assert_eq!(keys().message(message.as_bytes()).get(), message);
        }
        let key = r#"{"data":{"path":"/0/0/5","value":"shown"}}"#;
        assert_eq!(hidden(&[]).message(key.as_bytes()).get(), key);
    }

    #[test]
    fn a_hidden_resource_is_covered_where_its_parent_is_written_in_one_piece() {
        let one = hidden(&["/3/0/6/1"]);
        let write = |path| json!({ "data": { "path": path, "value": [1, 2] } });
        assert_eq!(shown(&one, &write("/3/0/6"))["data"]["value"], COVERED);
        assert_eq!(shown(&one, &write("/3/0/7"))["data"]["value"], json!([1, 2]));
        assert!(one.may_cover(&Path::ROOT) && !one.covers(&Path::ROOT));
    }

    #[test]
    fn a_reason_that_may_quote_a_hidden_value_is_covered() {
        let reason = |path: Option<&str>, reason: &str| {
            let refused = json!({ "data": { "reqPath": path, "code": "4.00", "reason": reason } });
            shown(&keys(), &refused)["data"]["reason"].clone()
        };
        assert_eq!(reason(None, "value of /0/0/5: \"secret\" is not a valid Opaque"), COVERED);
        assert_eq!(reason(Some("/0/0"), "\"secret\" is not a valid Opaque"), COVERED);
        assert_eq!(reason(None, "msgType is missing"), "msgType is missing");
        assert_eq!(reason(Some("/"), "value of /3/0/5: no"), "value of /3/0/5: no");
        assert_eq!(keys().reason("/0/0/5".parse().ok().as_ref(), "secret"), COVERED);
    }

    #[test]
    fn the_start_of_a_message_is_json_and_covered_too() {
        let entry = |id: u16| json!({ "path": format!("/{id}/0/1"), "value": "secret" });
        let message =
            json!({ "msgType": "read", "data": { "reqPath": "/", "content": [entry(0), entry(3), entry(4)] } });
        let text = message.to_string();
        let cut = text.find("/4/0").unwrap();
        let start: Value = serde_json::from_str(keys().message_start(&text.as_bytes()[..cut]).get()).unwrap();
        let covered = json!({ "path": "/0/0/1", "value": "***", "hidden": true });
        assert_eq!(start["data"]["content"][0], covered);
        assert_eq!(start["data"]["content"][1], entry(3));
    }

    #[test]
    fn the_start_of_a_message_shows_no_value_whose_base_path_is_missing() {
        let write = json!({ "data": { "content": [{ "path": "/5", "value": "secret" }], "basePath": "/0/0" } });
        let text = write.to_string();
        for cut in 0..text.find("basePath").unwrap() {
            let start = keys().message_start(&text.as_bytes()[..cut]);
            assert!(!start.get().contains("secret"), "{start}");
        }
    }

    #[test]
    fn what_is_no_json_is_covered_as_a_whole() {
        assert_eq!(keys().message(b"key=secret").get(), "\"***\"");
        assert_eq!(keys().message_start(b"key=secret").get(), "\"***\"");
        assert_eq!(hidden(&[]).message(b"text").get(), "\"text\"");
    }
}
