//! Suggests a command for a mistyped one.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::Arguments;

/// Maximum edit distance at which a mistyped command is taken for a known one.
const TYPING_ERRORS: usize = 2;

/// Returns the nearest command for an unknown one, unless the library has its own suggestion.
pub(crate) fn suggestion(error: &Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand || error.get(ContextKind::SuggestedSubcommand).is_some() {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let arguments = Arguments::command();
    let names = arguments.get_subcommands().map(clap::Command::get_name);
    let (distance, nearest) =
        names.map(|name| (strsim::damerau_levenshtein(given, name), name)).min_by_key(|(distance, _)| *distance)?;
    (distance <= TYPING_ERRORS).then(|| nearest.to_owned())
}
