//! Reads the JSON of an application as a command, or returns the reason why it is not one.

mod attributes;
mod composite;
mod error;
mod firmware;
mod formats;
mod values;

use std::time::Duration;

use serde_json::{Map, Value};

use crate::command::firmware::{FirmwareAction, FirmwareCommand};
use crate::command::{Command, Echo, KnownMembers, LONGEST_EXPIRY, MSG_TYPES, Origin, Reply, ResponseTopic};
use crate::lwm2m::codec::Assignment;
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::model::{Model, ObjectVersion, OtherVersions, Resource, Version};
use crate::lwm2m::operation::{Operation, OperationKind, WriteMode};
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;

use super::topics::is_allowed;

use self::error::{CommandError, MAX_QUERY_ITEM, MAX_QUERY_ITEMS};
use self::values::Values;

pub(crate) use self::values::read as read_value;

/// Limits the characters of an unknown type that an answer repeats.
const LONGEST_SHOWN: usize = 64;
/// Limits the letters in which a mistyped type may differ from the intended one.
const TYPING_ERRORS: usize = 2;
/// Stands for the instance id of a create that leaves the choice to the device.
const CHOSEN_BY_DEVICE: &str = "*";

/// Holds a command that cannot be carried out, with what is needed to answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub echo: Echo,
    pub reason: String,
}

/// Holds what is needed to interpret the commands for one device.
#[derive(Clone, Copy, Debug)]
pub struct CommandContext<'a> {
    pub registration: &'a Registration,
    pub model: &'a Model,
    /// Limits the paths of one composite operation.
    pub composite_paths: usize,
}

/// Returns the Response Topic of a command. One that cannot be published to, such as one with wildcards, is ignored.
pub(crate) fn usable_reply(reply: Option<ResponseTopic>) -> Option<ResponseTopic> {
    reply.filter(|reply| !reply.topic.is_empty() && !reply.topic.contains(['+', '#']) && is_allowed(&reply.topic))
}

/// Adds the MQTT properties of a command. The Response Topic is one of [`usable_reply`].
pub(crate) fn with_properties(command: Command, expiry: Option<Duration>, reply: Option<ResponseTopic>) -> Command {
    let expiry = [command.expiry, expiry].into_iter().flatten().min();
    let reply = reply.map(|reply| Box::new(Reply::Topic(reply)));
    Command { expiry, reply, ..command }
}

/// A command that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReadCommand {
    /// An operation on a device.
    Operation(Command),
    /// A command about the firmware of a device.
    Firmware(FirmwareCommand),
}

impl ReadCommand {
    pub(crate) fn msg_type(&self) -> &'static str {
        match self {
            Self::Operation(command) => command.msg_type(),
            Self::Firmware(command) => command.msg_type(),
        }
    }

    pub(crate) fn into_echo(self) -> Echo {
        match self {
            Self::Operation(command) => command.echo,
            Self::Firmware(command) => command.echo,
        }
    }
}

/// Reads a command for a device, or about its firmware.
pub(crate) fn read(payload: &[u8], context: CommandContext<'_>) -> Result<ReadCommand, Refusal> {
    let (echo, members) = Echo::read(payload).map_err(|reason| Refusal { echo: Echo::default(), reason })?;
    let msg_type = members.msg_type.as_ref().and_then(Value::as_str);
    match firmware::action(msg_type, members.data.as_ref()) {
        None => interpret_members(echo, &members, context).map(ReadCommand::Operation),
        Some(Ok((instance, action))) => {
            let (reply, origin) = (None, Origin::Application);
            Ok(ReadCommand::Firmware(FirmwareCommand { echo, instance, action, reply, origin }))
        }
        Some(Err(error)) => Err(Refusal { echo, reason: error.to_string() }),
    }
}

/// Reads a command of the console like [`read`]. Its answers, notifications and events contain `"origin":"console"`.
pub(crate) fn read_of_console(payload: &[u8], context: CommandContext<'_>) -> Result<ReadCommand, Refusal> {
    let marked = |echo: Echo| echo.with_text("origin", "console");
    Ok(match read(payload, context)? {
        ReadCommand::Operation(command) => {
            ReadCommand::Operation(Command { echo: marked(command.echo.clone()), ..command })
        }
        ReadCommand::Firmware(command) => {
            ReadCommand::Firmware(FirmwareCommand { echo: marked(command.echo.clone()), ..command })
        }
    })
}

/// Reads the `data` of a `firmware-update`.
pub(crate) fn firmware_update(data: &Value) -> Result<FirmwareAction, String> {
    match firmware::action(Some("firmware-update"), Some(data)) {
        Some(Ok((_, action))) => Ok(action),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("no command about firmware".to_owned()),
    }
}

/// Reads an operation on a device.
pub fn parse(payload: &[u8], context: CommandContext<'_>) -> Result<Command, Refusal> {
    let (echo, members) = Echo::read(payload).map_err(|reason| Refusal { echo: Echo::default(), reason })?;
    interpret_members(echo, &members, context)
}

/// Interprets a command whose JSON has been read before.
pub(crate) fn interpret(echo: Echo, context: CommandContext<'_>) -> Result<Command, Refusal> {
    match echo.known_members() {
        Ok(members) => interpret_members(echo, &members, context),
        Err(reason) => Err(Refusal { echo, reason }),
    }
}

fn interpret_members(echo: Echo, members: &KnownMembers, context: CommandContext<'_>) -> Result<Command, Refusal> {
    let source = Source { echo: &echo, members, context };
    match source.operation().and_then(|operation| Ok((operation, source.expiry()?))) {
        Ok((operation, expiry)) => {
            Ok(Command { number: 0, echo, operation, expiry, reply: None, origin: Origin::Application })
        }
        Err(error) => Err(Refusal { echo, reason: error.to_string() }),
    }
}

/// Joins the object of a command and what is known about its device.
struct Source<'a> {
    echo: &'a Echo,
    /// Holds the members that have a meaning for this program.
    members: &'a KnownMembers,
    context: CommandContext<'a>,
}

impl<'a> Source<'a> {
    fn operation(&self) -> Result<Operation, CommandError> {
        let msg_type = self.members.msg_type.as_ref().ok_or_else(|| missing("msgType", self.names()))?;
        let msg_type = msg_type.as_str().ok_or(CommandError::Member { member: "msgType", expected: "a text" })?;
        match msg_type {
            "read" => self.read(),
            "discover" => self.discover(),
            "observe" => self.observe(),
            "cancel-observe" => self.plain("cancel-observe", 1..=4, OperationKind::CancelObserve),
            "write" => self.write(),
            "write-attr" => self.write_attributes(),
            "execute" => self.execute(),
            "bootstrap" => self.bootstrap(),
            "create" => self.create(),
            "delete" => self.delete(),
            "read-composite" => self.read_composite(),
            "write-composite" => self.write_composite(),
            "observe-composite" => self.observe_composite(),
            "cancel-observe-composite" => self.cancel_observe_composite(),
            known if MSG_TYPES.contains(&known) => Err(CommandError::NoOperation(known.to_owned())),
            unknown => {
                let unknown: String = unknown.chars().take(LONGEST_SHOWN).collect();
                let known = known_msg_types(&unknown);
                Err(CommandError::UnknownMsgType(unknown, known))
            }
        }
    }

    fn expiry(&self) -> Result<Option<Duration>, CommandError> {
        let wrong = || CommandError::Member { member: "mheaders.ttl", expected: "a number of seconds" };
        let Some(ttl) = self.members.mheaders.as_ref().and_then(|headers| headers.get("ttl")) else { return Ok(None) };
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

    /// Reads a read. LwM2M has no GET of the root for servers, so that a read of it is a composite one.
    fn read(&self) -> Result<Operation, CommandError> {
        let (path, query) = self.target("read", 0..=4)?;
        if path.is_empty() {
            self.require(Version::LWM2M_1_1, "read of /")?;
            let operation = Operation::new(path, query, OperationKind::ReadComposite { paths: vec![Path::ROOT] });
            return Ok(operation.with_formats(self.formats_of_paths()?));
        }
        Ok(Operation::new(path, query, OperationKind::Read).with_formats(self.formats_of_read(path)?))
    }

    fn observe(&self) -> Result<Operation, CommandError> {
        let (path, mut query) = self.target("observe", 1..=4)?;
        query.extend(self.observe_attributes("observe")?);
        Ok(Operation::new(path, query, OperationKind::Observe).with_formats(self.formats_of_read(path)?))
    }

    /// Reads a discover. `depth` is the number of levels to list below the path (LwM2M 1.2 section 6.3.2).
    fn discover(&self) -> Result<Operation, CommandError> {
        let (path, mut query) = self.target("discover", 1..=3)?;
        if let Some(depth) = self.data()?.get("depth").filter(|depth| !depth.is_null()) {
            let levels = depth.as_u64().filter(|levels| *levels <= 3);
            let levels = levels.ok_or(CommandError::Member { member: "depth", expected: "a number from 0 to 3" })?;
            self.require(Version::LWM2M_1_2, "depth of discover")?;
            query.push(format!("depth={levels}"));
        }
        Ok(Operation::new(path, query, OperationKind::Discover))
    }

    fn write(&self) -> Result<Operation, CommandError> {
        let data = self.data()?;
        let (path, query, values) = match data.get("content") {
            Some(content) => {
                let (path, query) = self.base("write", 2..=4)?;
                (path, query, self.content(path, content)?)
            }
            None => {
                let (path, query) = self.target("write", 3..=4)?;
                let value = data.get("value").filter(|value| !value.is_null()).ok_or(CommandError::Missing("value"))?;
                let mut values = Values::new(self);
                values.add(path, data.get("type"), value)?;
                (path, query, values.finish()?)
            }
        };
        if values.is_empty() {
            return Err(CommandError::Member { member: "content", expected: "a list with values" });
        }
        let (mode, formats) = (self.mode(path)?, self.formats_of_values(path, &values)?);
        Ok(Operation::new(path, query, OperationKind::Write { values, mode }).with_formats(formats))
    }

    /// Reads `mode`. Without it a write updates an instance, and replaces anything else.
    fn mode(&self, path: Path) -> Result<WriteMode, CommandError> {
        let is_instance = path.len() == 2;
        match self.data()?.get("mode") {
            None | Some(Value::Null) if is_instance => Ok(WriteMode::Update),
            None | Some(Value::Null) => Ok(WriteMode::Replace),
            Some(Value::String(mode)) if mode == "replace" => Ok(WriteMode::Replace),
            Some(Value::String(mode)) if mode == "update" && path.len() == 4 => {
                Err(CommandError::NothingToUpdate(path))
            }
            Some(Value::String(mode)) if mode == "update" => Ok(WriteMode::Update),
            Some(_) => Err(CommandError::Member { member: "mode", expected: "\"update\" or \"replace\"" }),
        }
    }

    fn create(&self) -> Result<Operation, CommandError> {
        let content = self.data()?.get("content").ok_or(CommandError::Missing("content"))?;
        let (path, query) = self.base("create", 1..=1)?;
        if let Some(values) = self.content_without_id(path, content)? {
            let kind = OperationKind::Create { values, device_chooses_id: true };
            return Ok(Operation::new(path, query, kind).with_formats(self.formats_without_id()?));
        }
        let values = self.content(path, content)?;
        let formats = self.formats_of_values(path, &values)?;
        let kind = OperationKind::Create { values, device_chooses_id: false };
        Ok(Operation::new(path, query, kind).with_formats(formats))
    }

    /// Reads the content of a create whose paths begin with `*`. Returns `None` if none does. TLV is the one format
    /// that can leave the instance id to the device.
    fn content_without_id(&self, base: Path, content: &Value) -> Result<Option<Vec<Assignment>>, CommandError> {
        let items = content.as_array().map_or(&[][..], Vec::as_slice);
        let below = |item: &'_ Value| {
            let path = item.get("path").and_then(Value::as_str)?.trim_start_matches('/');
            path.strip_prefix(CHOSEN_BY_DEVICE).filter(|rest| rest.starts_with('/')).map(str::to_owned)
        };
        let paths: Vec<_> = items.iter().map(below).collect();
        if paths.iter().all(Option::is_none) {
            return Ok(None);
        }
        let registration = self.context.registration;
        let announced = base.object().map(|object| registration.object_formats(object)).unwrap_or_default();
        // A format that the command names is used although the device did not announce it.
        let is_named = self.formats_without_id()?.format.is_some();
        let announces_others = !announced.is_empty() && !announced.contains(ContentFormat::Tlv);
        if !is_named && registration.supports(Version::LWM2M_1_1) && announces_others {
            return Err(CommandError::NoFormatWithoutId);
        }
        let instance = base.child(0).unwrap_or(base);
        let mut values = Values::new(self);
        for (item, path) in items.iter().zip(paths) {
            values.add_item_at(instance, &path.ok_or(CommandError::SomeWithoutId)?, item)?;
        }
        values.finish().map(Some)
    }

    fn content(&self, base: Path, content: &Value) -> Result<Vec<Assignment>, CommandError> {
        let items = content.as_array().ok_or(CommandError::Member { member: "content", expected: "a list" })?;
        let mut values = Values::new(self);
        items.iter().try_for_each(|item| values.add_item(base, item))?;
        values.finish()
    }

    fn write_attributes(&self) -> Result<Operation, CommandError> {
        let (path, mut query) = self.target("write-attr", 1..=4)?;
        query.extend(attributes::items(self.data()?)?);
        if query.is_empty() {
            return Err(CommandError::NoAttribute);
        }
        Ok(Operation::new(path, query, OperationKind::WriteAttributes))
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

    /// Reads a bootstrap: the execution of the bootstrap trigger of a server (LwM2M 1.1 appendix E.2).
    fn bootstrap(&self) -> Result<Operation, CommandError> {
        let (path, query) = self.target("bootstrap", 3..=3)?;
        if !matches!(path.segments(), [1, _, 9]) {
            return Err(CommandError::Member {
                member: "path",
                expected: "that of a bootstrap trigger, such as /1/0/9",
            });
        }
        Ok(Operation::new(path, query, OperationKind::TriggerBootstrap))
    }

    /// Reads a delete of an instance or of a resource instance (LwM2M 1.2 section 6.3.8).
    fn delete(&self) -> Result<Operation, CommandError> {
        let (path, query) = self.target("delete", 2..=4)?;
        if path.len() == 3 {
            return Err(path_length("delete", &(2..=4), path));
        }
        Ok(Operation::new(path, query, OperationKind::Delete))
    }

    /// Returns an error if the device registered as an older version of LwM2M than the feature needs.
    fn require(&self, needed: Version, feature: &str) -> Result<(), CommandError> {
        let registration = self.context.registration;
        if registration.supports(needed) {
            return Ok(());
        }
        let registered = registration.version().to_owned();
        Err(CommandError::Version { registered, feature: feature.to_owned(), needed })
    }

    fn definition(&self, path: Path) -> Option<&'a Resource> {
        let (object, resource) = (path.object()?, path.resource()?);
        self.context.model.resource(object, self.object_version(object), resource)
    }

    fn other_versions(&self, path: Path) -> OtherVersions {
        let versions = |object| self.context.model.other_versions(object, self.object_version(object));
        path.object().map(versions).unwrap_or_default()
    }

    fn object_version(&self, object: u16) -> ObjectVersion {
        self.context.registration.object_version(object)
    }

    /// Returns the names of all members as written.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.echo.members().map(|(name, _)| name)
    }

    fn data(&self) -> Result<&'a Map<String, Value>, CommandError> {
        let data = self.members.data.as_ref().ok_or_else(|| {
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

/// Returns the path of an item of `content` below the base path. An instance id that is left to the device is 0.
pub(super) fn below_base(written: Option<&Value>) -> Option<Path> {
    match written.and_then(Value::as_str).and_then(|text| text.trim_start_matches('/').strip_prefix(CHOSEN_BY_DEVICE)) {
        Some(below) => format!("0{below}").parse().ok(),
        None => values::relative_path(written).ok(),
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
        (0, 4) => "a path of up to four segments",
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

#[cfg(test)]
mod tests;
