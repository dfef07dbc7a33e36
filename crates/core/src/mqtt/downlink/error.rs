//! Errors of commands: the reasons why a command cannot be carried out.

use thiserror::Error;

use crate::lwm2m::content_format::{ContentFormat, UnknownFormat};
use crate::lwm2m::model::{OtherVersions, Range, Version};
use crate::lwm2m::path::{Path, PathError};
use crate::lwm2m::value::{ResourceType, UnknownType, ValueError};

/// Limits the bytes of a query item (RFC 7252 section 5.10).
pub(super) const MAX_QUERY_ITEM: usize = 255;
pub(super) const MAX_QUERY_ITEMS: usize = 32;

#[derive(Debug, Error)]
pub(super) enum CommandError {
    #[error("unknown msgType {0:?}; {1}")]
    UnknownMsgType(String, String),
    #[error("an update has either image or uri, and it has neither")]
    NoPackage,
    #[error("an update has either image or uri, and it has both")]
    TwoPackages,
    /// The command is about firmware where an operation on a device is expected, such as in a stored command.
    #[error("the gateway itself executes {0}; it is not an operation on a device")]
    NoOperation(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The member has a similar name, or is at another place.
    #[error("{0} is missing; {1}")]
    Misplaced(&'static str, String),
    #[error("{member} is not {expected}")]
    Member { member: &'static str, expected: &'static str },
    #[error("the device registered as LwM2M {registered}; {feature} needs {needed}")]
    Version { registered: String, feature: String, needed: Version },
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("{msg_type} takes {allowed}, not {path}")]
    PathLength { msg_type: &'static str, allowed: &'static str, path: Path },
    #[error("a query item has more than {MAX_QUERY_ITEM} bytes, or there are more than {MAX_QUERY_ITEMS}")]
    Query,
    #[error("there is no attribute to write")]
    NoAttribute,
    #[error("{0}")]
    Format(#[from] UnknownFormat),
    #[error("{member} {format} cannot hold the paths or values of the command")]
    CannotHold { member: &'static str, format: ContentFormat },
    #[error(
        "only TLV leaves the instance id to the device, which did not announce it: give an id, or \"format\":\"tlv\""
    )]
    NoFormatWithoutId,
    #[error("either all paths of content begin with *, or none does")]
    SomeWithoutId,
    #[error("mode update is only for paths with instances below them, and {0} has none")]
    NothingToUpdate(Path),
    #[error("null removes a resource instance, and {0} is none")]
    NoInstance(Path),
    #[error("{0} is listed twice")]
    Twice(Path),
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
    #[error("value of {path}: expected {range}")]
    Range { path: Path, range: Range },
    #[error("value of {0} is not hex")]
    Hex(Path),
    #[error("{0} and one of its instances are both given a value")]
    Twofold(Path),
    #[error("more than {limit} {what}")]
    TooMany { limit: usize, what: &'static str },
    #[error("the values have more than {0} bytes")]
    TooLong(usize),
}
