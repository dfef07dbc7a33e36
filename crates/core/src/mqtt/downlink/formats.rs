//! The formats that a command names: `accept` for its answer, `format` for its request.

use serde_json::{Map, Value as Json};

use crate::lwm2m::codec::{self, Assignment, Patch};
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::format_choice;
use crate::lwm2m::formats::Formats;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::ResourceType;

use super::Source;
use super::error::CommandError;

impl Source<'_> {
    /// Reads `accept` of a read or an observe of this path.
    pub(super) fn formats_of_read(&self, path: Path) -> Result<Formats, CommandError> {
        let accept = named(self.data()?, "accept")?;
        let is_opaque = |path| {
            let defined = self.definition(path).and_then(|resource| resource.resource_type);
            defined.is_none_or(|defined| defined == ResourceType::Opaque)
        };
        let holds = |format: ContentFormat| {
            format.holds_values_of(path) && (format != ContentFormat::Opaque || is_opaque(path))
        };
        Ok(Formats { accept: checked("accept", accept, holds)?, format: None })
    }

    /// Reads `format` of a write or a create with these values.
    pub(super) fn formats_of_values(&self, target: Path, values: &[Assignment]) -> Result<Formats, CommandError> {
        let format = named(self.data()?, "format")?;
        let format = checked("format", format, |format| format_choice::can_hold(format, target, values))?;
        Ok(Formats { accept: None, format })
    }

    /// Reads `format` of a create whose instance id is left to the device.
    pub(super) fn formats_without_id(&self) -> Result<Formats, CommandError> {
        let format = checked("format", named(self.data()?, "format")?, |format| format == ContentFormat::Tlv)?;
        Ok(Formats { accept: None, format })
    }

    /// Reads `format` and `accept` of a composite read or observe.
    pub(super) fn formats_of_paths(&self) -> Result<Formats, CommandError> {
        let data = self.data()?;
        Ok(Formats {
            accept: checked("accept", named(data, "accept")?, ContentFormat::names_paths)?,
            format: checked("format", named(data, "format")?, ContentFormat::lists_paths)?,
        })
    }

    /// Reads `format` of a composite write.
    pub(super) fn formats_of_patches(&self, patches: &[Patch]) -> Result<Formats, CommandError> {
        let format = named(self.data()?, "format")?;
        let format = checked("format", format, |format| codec::can_hold_patches(format, patches))?;
        Ok(Formats { accept: None, format })
    }
}

/// Reads a format by its name or its number.
fn named(data: &Map<String, Json>, member: &'static str) -> Result<Option<ContentFormat>, CommandError> {
    match data.get(member) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(name)) => Ok(Some(ContentFormat::from_name(name)?)),
        Some(Json::Number(number)) if number.is_u64() => {
            Ok(Some(ContentFormat::from_number(number.as_u64().unwrap_or(u64::MAX))?))
        }
        Some(Json::Number(_) | Json::Bool(_) | Json::Array(_) | Json::Object(_)) => {
            Err(CommandError::Member { member, expected: "the name or the number of a format" })
        }
    }
}

fn checked(
    member: &'static str,
    format: Option<ContentFormat>,
    holds: impl FnOnce(ContentFormat) -> bool,
) -> Result<Option<ContentFormat>, CommandError> {
    match format {
        Some(format) if !holds(format) => Err(CommandError::CannotHold { member, format }),
        format => Ok(format),
    }
}
