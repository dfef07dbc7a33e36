//! The command that a mistyped one was meant to be.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::Arguments;

/// Letters in which two commands may differ and still be the same one mistyped.
const TYPING_ERRORS: usize = 2;

/// Returns the command that was perhaps meant, where the error is an unknown one and the library has no suggestion itself.
pub fn suggestion(error: &Error) -> Option<String> {
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
