//! Keeps the members of a command, which every answer repeats as the application wrote them.
//!
//! The members are kept as JSON texts. Numbers in them are not parsed, so that each is repeated in its form and size.
//! Only [`Echo::known_members`] parses the few members that this program knows.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::lwm2m::firmware;

use super::MSG_TYPES;
use super::members::{KnownMembers, Members, WrittenValue};

/// Holds the object of a command and its path. Clones share it. It is serialized as a JSON text, so that its depth does
/// not add to that of the value that contains it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Echo {
    command: Arc<WrittenCommand>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct WrittenCommand {
    members: Members,
    msg_type: Option<Cow<'static, str>>,
    target: RequestTarget,
}

/// The path or the paths of a command, as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RequestTarget {
    /// Holds the path without the query.
    Path(Option<String>),
    /// Holds the paths of a composite operation.
    Paths(Option<Vec<Value>>),
}

impl Default for RequestTarget {
    fn default() -> Self {
        Self::Path(None)
    }
}

impl Echo {
    /// Reads a command, and returns its known members parsed.
    pub(crate) fn read(payload: &[u8]) -> Result<(Self, KnownMembers), String> {
        let members: Members =
            serde_json::from_slice(payload).map_err(|error| match serde_json::from_slice::<&RawValue>(payload) {
                Ok(_) => "the command is no JSON object".to_owned(),
                Err(_) => format!("the command is no JSON: {error}"),
            })?;
        let known = members.known().map_err(|error| format!("the command is no JSON: {error}"))?;
        let msg_type = known.msg_type.as_ref().and_then(Value::as_str).map(msg_type);
        let target = RequestTarget::of(msg_type.as_deref(), known.data.as_ref());
        Ok((Self { command: Arc::new(WrittenCommand { members, msg_type, target }) }, known))
    }

    /// Makes the echo of a command that the gateway gives itself.
    pub(crate) fn of(members: &Value) -> Self {
        let (echo, _) = Self::read(members.to_string().as_bytes()).expect("the gateway writes JSON objects");
        echo
    }

    /// Adds a member with a text, in place of one with this name.
    pub(crate) fn with_text(mut self, name: &str, text: &str) -> Self {
        let value = serde_json::value::to_raw_value(text).expect("a text is JSON");
        let command = Arc::make_mut(&mut self.command);
        command.members = command.members.with(name, &value);
        self
    }

    /// Parses the known members again.
    pub(crate) fn known_members(&self) -> Result<KnownMembers, String> {
        self.command.members.known().map_err(|error| format!("the command is no JSON: {error}"))
    }

    /// Returns the command as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.command.members).expect("what was JSON is JSON")
    }

    /// Returns `msgType` of the command, or `error` if there is none.
    pub fn msg_type(&self) -> &str {
        self.command.msg_type.as_deref().unwrap_or("error")
    }

    /// Returns the path of the command as written, without the query.
    pub(crate) fn request_path(&self) -> Option<&str> {
        match &self.command.target {
            RequestTarget::Path(path) => path.as_deref(),
            RequestTarget::Paths(_) => None,
        }
    }

    pub(crate) fn target(&self) -> &RequestTarget {
        &self.command.target
    }

    /// Returns the members, each as it was written.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, WrittenValue<'_>)> {
        self.command.members.iter()
    }

    pub(crate) fn data(&self) -> Option<WrittenValue<'_>> {
        self.command.members.get("data")
    }
}

impl From<Echo> for String {
    fn from(echo: Echo) -> Self {
        echo.to_json()
    }
}

impl TryFrom<String> for Echo {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::read(text.as_bytes()).map(|(echo, _)| echo)
    }
}

impl RequestTarget {
    fn of(msg_type: Option<&str>, data: Option<&Value>) -> Self {
        match msg_type {
            Some("read-composite" | "observe-composite" | "cancel-observe-composite") => {
                Self::Paths(data.and_then(|data| data.get("paths")?.as_array()).cloned())
            }
            Some("write-composite") => {
                let items = data.and_then(|data| data.get("content")?.as_array());
                let path = |item: &Value| item.get("path").cloned().unwrap_or(Value::Null);
                Self::Paths(items.map(|items| items.iter().map(path).collect()))
            }
            Some("firmware-update" | "firmware-activate" | "firmware-cancel" | "firmware-status") => {
                let instance = data.and_then(|data| data.get("instance")?.as_u64()).unwrap_or(0);
                Self::Path(Some(format!("/{}/{instance}", firmware::OBJECT)))
            }
            Some(_) | None => Self::Path(data.and_then(request_path).map(str::to_owned)),
        }
    }
}

/// Keeps a `msgType` that this program knows without a copy.
fn msg_type(written: &str) -> Cow<'static, str> {
    let known = MSG_TYPES.into_iter().find(|known| *known == written);
    known.map_or_else(|| Cow::Owned(written.to_owned()), Cow::Borrowed)
}

fn request_path(data: &Value) -> Option<&str> {
    let text = |member| data.get(member).and_then(Value::as_str);
    let written = text("path").or_else(|| text("basePath"))?;
    Some(written.split_once('?').map_or(written, |(path, _)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_members_with_one_name_wins_in_the_place_of_the_earlier() {
        for count in [1, 2, 50] {
            let members = |value: usize| (0..count).map(move |name| format!("\"{name}\":{value}"));
            let twice = members(1).chain(members(2)).collect::<Vec<_>>().join(",");
            let once = members(2).collect::<Vec<_>>().join(",");
            let (echo, _) = Echo::read(format!("{{{twice}}}").as_bytes()).unwrap();
            assert_eq!(echo.to_json(), format!("{{{once}}}"), "{count}");
        }
    }

    #[test]
    fn a_text_that_is_added_replaces_the_member_of_its_name_and_leaves_clones_alone() {
        let (echo, _) = Echo::read(br#"{"origin":7,"msgType":"read"}"#).unwrap();
        let marked = echo.clone().with_text("origin", "con\"sole");
        assert_eq!(marked.to_json(), r#"{"msgType":"read","origin":"con\"sole"}"#);
        assert_eq!((marked.msg_type(), echo.to_json().as_str()), ("read", r#"{"origin":7,"msgType":"read"}"#));
    }
}
