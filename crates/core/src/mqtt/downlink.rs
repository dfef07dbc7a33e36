//! Reads the JSON of an application as a command, or finds the reason why it is none.

mod values;

use std::time::Duration;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::command::{Command, Echo, LONGEST_EXPIRY, MSG_TYPES, Reply};
use crate::lwm2m::model::{Model, OtherVersions, Range, Resource};
use crate::lwm2m::operation::{Operation, OperationKind};
use crate::lwm2m::path::{Path, PathError};
use crate::lwm2m::register::Registration;
use crate::lwm2m::value::{ResourceType, UnknownType, ValueError};

use super::topics::is_allowed;

use self::values::Values;

pub(super) use self::values::relative_path;

/// Limits the characters of an unknown type that an answer repeats.
const LONGEST_SHOWN: usize = 64;
/// Limits the letters in which a mistyped type may differ from the intended one.
const TYPING_ERRORS: usize = 2;
/// Limits the bytes of a query item (RFC 7252 section 5.10).
const MAX_QUERY_ITEM: usize = 255;
const MAX_QUERY_ITEMS: usize = 32;
/// Lists the attributes of LwM2M 1.0 to 1.2 in the order in which they are sent.
const ATTRIBUTES: [&str; 10] = ["con", "edge", "epmax", "epmin", "gt", "hqmax", "lt", "pmax", "pmin", "st"];

/// Holds a command that cannot be carried out, with what is needed to answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub echo: Echo,
    pub reason: String,
}

/// Tells why a command cannot be carried out.
#[derive(Debug, Error)]
pub(super) enum CommandError {
    #[error("unknown msgType {0:?}; {1}")]
    UnknownMsgType(String, String),
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The member has a similar name, or is at another place.
    #[error("{0} is missing; {1}")]
    Misplaced(&'static str, String),
    #[error("{member} is not {expected}")]
    Member { member: &'static str, expected: &'static str },
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("{msg_type} takes {allowed}, not {path}")]
    PathLength { msg_type: &'static str, allowed: &'static str, path: Path },
    #[error("a query item has more than {MAX_QUERY_ITEM} bytes, or there are more than {MAX_QUERY_ITEMS}")]
    Query,
    #[error("there is no attribute to write")]
    NoAttribute,
    #[error("{0}")]
    Type(#[from] UnknownType),
    #[error("{path} has no definition{loaded}: type is missing; add \"type\", or the object's XML to xml_dir")]
    NoType { path: Path, loaded: OtherVersions },
    #[error("{path} is of type {defined}, not {given}")]
    OtherType { path: Path, defined: ResourceType, given: ResourceType },
    #[error("{0} is executed, it has no value")]
    NoValue(Path),
    #[error("{0} cannot be executed")]
    NotExecutable(Path),
    #[error("value of {path}: {error}")]
    Value { path: Path, error: ValueError },
    #[error("value of {path}: {range} is allowed")]
    Range { path: Path, range: Range },
    #[error("value of {0} is not hex")]
    Hex(Path),
    #[error("{0} is given a value, and so is an instance of it")]
    Twofold(Path),
    #[error("more than {0} values")]
    TooMany(usize),
    #[error("the values have more than {0} bytes")]
    TooLong(usize),
}

/// Adds the MQTT properties of a command. A response topic that cannot be published to is ignored.
pub fn with_properties(command: Command, expiry: Option<Duration>, reply: Option<Reply>) -> Command {
    let expiry = [command.expiry, expiry].into_iter().flatten().min();
    let reply = reply.filter(|reply| is_response_topic(&reply.topic)).map(Box::new);
    Command { expiry, reply, ..command }
}

fn is_response_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#']) && is_allowed(topic)
}

/// Reads a command for the device of this registration.
pub fn parse(payload: &[u8], registration: &Registration, model: &Model) -> Result<Command, Refusal> {
    let (echo, members) = Echo::read(payload).map_err(|reason| Refusal { echo: Echo::default(), reason })?;
    interpret_members(echo, &members, registration, model)
}

/// Interprets a command whose JSON has been read before.
pub fn interpret(echo: Echo, registration: &Registration, model: &Model) -> Result<Command, Refusal> {
    match echo.known_members() {
        Ok(members) => interpret_members(echo, &members, registration, model),
        Err(reason) => Err(Refusal { echo, reason }),
    }
}

fn interpret_members(
    echo: Echo,
    members: &Map<String, Value>,
    registration: &Registration,
    model: &Model,
) -> Result<Command, Refusal> {
    let source = Source { echo: &echo, members, registration, model };
    match source.operation().and_then(|operation| Ok((operation, source.expiry()?))) {
        Ok((operation, expiry)) => Ok(Command { echo, operation, expiry, reply: None }),
        Err(error) => Err(Refusal { echo, reason: error.to_string() }),
    }
}

/// Returns the command of `auto_observe`. Its answers contain `"is_auto_observe":true`.
pub fn auto_observe(path: &Path) -> Command {
    let members = json!({ "msgType": "observe", "is_auto_observe": true, "data": { "path": path.to_string() } });
    let operation = Operation::new(*path, Vec::new(), OperationKind::Observe);
    Command { echo: Echo::of(&members), operation, expiry: None, reply: None }
}

/// Joins the object of a command and what is known about its device.
struct Source<'a> {
    echo: &'a Echo,
    /// Holds the members that have a meaning for this program.
    members: &'a Map<String, Value>,
    registration: &'a Registration,
    model: &'a Model,
}

impl<'a> Source<'a> {
    fn operation(&self) -> Result<Operation, CommandError> {
        let msg_type = self.members.get("msgType").ok_or_else(|| missing("msgType", self.names()))?;
        let msg_type = msg_type.as_str().ok_or(CommandError::Member { member: "msgType", expected: "a text" })?;
        match msg_type {
            "read" => self.plain("read", 1..=4, OperationKind::Read),
            "discover" => self.plain("discover", 1..=3, OperationKind::Discover),
            "observe" => self.plain("observe", 1..=4, OperationKind::Observe),
            "cancel-observe" => self.plain("cancel-observe", 1..=4, OperationKind::CancelObserve),
            "write" => self.write(),
            "write-attr" => self.write_attributes(),
            "execute" => self.execute(),
            "create" => self.create(),
            "delete" => self.delete(),
            unknown => {
                let unknown: String = unknown.chars().take(LONGEST_SHOWN).collect();
                let known = known_msg_types(&unknown);
                Err(CommandError::UnknownMsgType(unknown, known))
            }
        }
    }

    fn expiry(&self) -> Result<Option<Duration>, CommandError> {
        let wrong = || CommandError::Member { member: "mheaders.ttl", expected: "a number of seconds" };
        let Some(ttl) = self.members.get("mheaders").and_then(|headers| headers.get("ttl")) else { return Ok(None) };
        let ttl = match ttl.as_u64() {
            Some(seconds) => Duration::from_secs(seconds),
            None => Duration::try_from_secs_f64(ttl.as_f64().ok_or_else(wrong)?).map_err(|_| wrong())?,
        };
        Ok(Some(ttl.min(LONGEST_EXPIRY)))
    }

    /// Reads an operation that needs nothing but its path.
    fn plain(&self, msg_type: &'static str, lengths: Lengths, kind: OperationKind) -> Result<Operation, CommandError> {
        let (path, query) = self.target(msg_type, lengths)?;
        Ok(Operation::new(path, query, kind))
    }

    fn write(&self) -> Result<Operation, CommandError> {
        let data = self.data()?;
        let Some(content) = data.get("content") else {
            let (path, query) = self.target("write", 3..=4)?;
            let value = data.get("value").filter(|value| !value.is_null()).ok_or(CommandError::Missing("value"))?;
            let mut values = Values::new(self);
            values.add(path, data.get("type"), value)?;
            return Ok(Operation::new(path, query, OperationKind::Write { values: values.finish()? }));
        };
        let (path, query) = self.base("write", 2..=4)?;
        let values = self.content(path, content)?;
        if values.is_empty() {
            return Err(CommandError::Member { member: "content", expected: "a list with values" });
        }
        Ok(Operation::new(path, query, OperationKind::Write { values }))
    }

    fn create(&self) -> Result<Operation, CommandError> {
        let content = self.data()?.get("content").ok_or(CommandError::Missing("content"))?;
        let (path, query) = self.base("create", 1..=1)?;
        Ok(Operation::new(path, query, OperationKind::Create { values: self.content(path, content)? }))
    }

    fn content(&self, base: Path, content: &Value) -> Result<Vec<crate::lwm2m::codec::Assignment>, CommandError> {
        let items = content.as_array().ok_or(CommandError::Member { member: "content", expected: "a list" })?;
        let mut values = Values::new(self);
        items.iter().try_for_each(|item| values.add_item(base, item))?;
        values.finish()
    }

    fn write_attributes(&self) -> Result<Operation, CommandError> {
        let (path, query) = self.target("write-attr", 1..=4)?;
        let data = self.data()?;
        let mut attributes = Vec::new();
        for name in ATTRIBUTES {
            if let Some(value) = data.get(name).filter(|value| !value.is_null()) {
                attributes.push((name, attribute_text(name, value)?));
            }
        }
        if attributes.is_empty() && query.is_empty() {
            return Err(CommandError::NoAttribute);
        }
        Ok(Operation::new(path, query, OperationKind::WriteAttributes { attributes }))
    }

    fn execute(&self) -> Result<Operation, CommandError> {
        let (path, query) = self.target("execute", 3..=3)?;
        if self.definition(path).is_some_and(|resource| !resource.operations.execute) {
            return Err(CommandError::NotExecutable(path));
        }
        let arguments = match self.data()?.get("args") {
            None | Some(Value::Null) => "",
            Some(Value::String(text)) if text == "undefined" => "",
            Some(Value::String(text)) => text,
            Some(_) => return Err(CommandError::Member { member: "args", expected: "a text" }),
        };
        Ok(Operation::new(path, query, OperationKind::Execute { arguments: arguments.to_owned() }))
    }

    /// Reads a delete of an instance or of a resource instance (LwM2M 1.2 section 6.3.8).
    fn delete(&self) -> Result<Operation, CommandError> {
        let (path, query) = self.target("delete", 2..=4)?;
        if path.len() == 3 {
            return Err(path_length("delete", &(2..=4), path));
        }
        Ok(Operation::new(path, query, OperationKind::Delete))
    }

    fn definition(&self, path: Path) -> Option<&'a Resource> {
        let (object, resource) = (path.object()?, path.resource()?);
        self.model.resource(object, self.registration.object_version(object), resource)
    }

    fn other_versions(&self, path: Path) -> OtherVersions {
        let versions = |object| self.model.other_versions(object, self.registration.object_version(object));
        path.object().map(versions).unwrap_or_default()
    }

    /// Returns the names of all members as written.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.echo.members().map(|(name, _)| name)
    }

    fn data(&self) -> Result<&'a Map<String, Value>, CommandError> {
        let data = self.members.get("data").ok_or_else(|| {
            match ["path", "basePath"].into_iter().find(|name| self.names().any(|there| there == *name)) {
                Some(name) => CommandError::Misplaced("data", format!("{name} belongs inside data")),
                None => missing("data", self.names()),
            }
        })?;
        data.as_object().ok_or(CommandError::Member { member: "data", expected: "an object" })
    }

    fn target(&self, msg_type: &'static str, lengths: Lengths) -> Result<(Path, Vec<String>), CommandError> {
        self.path("path", msg_type, lengths)
    }

    fn base(&self, msg_type: &'static str, lengths: Lengths) -> Result<(Path, Vec<String>), CommandError> {
        self.path("basePath", msg_type, lengths)
    }

    /// Returns the path, and the query items behind its `?`.
    fn path(
        &self,
        member: &'static str,
        msg_type: &'static str,
        lengths: Lengths,
    ) -> Result<(Path, Vec<String>), CommandError> {
        let data = self.data()?;
        let text = data.get(member).ok_or_else(|| missing(member, data.keys().map(String::as_str)))?;
        let text = text.as_str().ok_or(CommandError::Member { member, expected: "a text" })?;
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let path: Path = path.parse()?;
        if !lengths.contains(&path.len()) {
            return Err(path_length(msg_type, &lengths, path));
        }
        let query: Vec<_> = query.split('&').filter(|item| !item.is_empty()).map(str::to_owned).collect();
        if query.len() > MAX_QUERY_ITEMS || query.iter().any(|item| item.len() > MAX_QUERY_ITEM) {
            return Err(CommandError::Query);
        }
        Ok((path, query))
    }
}

/// Returns a text that lists the known types and names the one that was probably meant.
fn known_msg_types(unknown: &str) -> String {
    let like = unknown.to_lowercase().replace('_', "-");
    let nearest = MSG_TYPES.into_iter().min_by_key(|known| strsim::damerau_levenshtein(&like, known));
    let meant = nearest.filter(|known| strsim::damerau_levenshtein(&like, known) <= TYPING_ERRORS);
    let known = MSG_TYPES.join(", ");
    match meant {
        Some(meant) => format!("did you mean {meant:?}? Known are {known}"),
        None => format!("known are {known}"),
    }
}

/// Returns the error for a missing member. It names a member with a similar name.
fn missing<'n>(name: &'static str, mut names: impl Iterator<Item = &'n str>) -> CommandError {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    match names.find(|there| plain(there) == plain(name)) {
        Some(like) => CommandError::Misplaced(name, format!("the command has {like:?}")),
        None => CommandError::Missing(name),
    }
}

/// Bounds the number of segments of a path.
type Lengths = std::ops::RangeInclusive<usize>;

fn path_length(msg_type: &'static str, lengths: &Lengths, path: Path) -> CommandError {
    let allowed = match (lengths.start(), lengths.end()) {
        (1, 1) => "an object",
        (1, 3) => "an object, an instance or a resource",
        (3, 3) => "a resource",
        (2, 4) if msg_type == "delete" => "an instance or a resource instance",
        (2, 4) => "an instance, a resource or a resource instance",
        (3, 4) => "a resource or a resource instance",
        _ => "a path of one to four segments",
    };
    CommandError::PathLength { msg_type, allowed, path }
}

/// Returns the text of an attribute. Numbers have no exponent, because devices read decimals.
fn attribute_text(name: &'static str, value: &Value) -> Result<String, CommandError> {
    let wrong = || CommandError::Member { member: name, expected: "a number or its text" };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map(|number| number.to_string()).ok_or_else(wrong)?
        }
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(wrong()),
    };
    let allowed = !text.is_empty() && name.len() + 1 + text.len() <= MAX_QUERY_ITEM;
    if allowed { Ok(text) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests;
