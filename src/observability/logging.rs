//! Starts the log: text or JSON, to the standard error output.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use thiserror::Error;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filter of the log that was started.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The configuration of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub filter: LogFilter,
    pub format: LogFormat,
}

/// Filter directives of `tracing_subscriber`; only [`filter`] creates them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Error)]
pub enum FilterError {
    #[error(
        "{0:?} is not a level; expected off, error, warn, info, debug, trace, or directives such as \"info,h2=debug\""
    )]
    NoLevel(String),
    #[error("not a filter directive: {0}")]
    NoDirective(#[from] ParseError),
}

/// Parses a level, or directives separated by commas.
///
/// A level alone is that of this program and of its audit log: the libraries below it stay at `warn`, or a debug log
/// would be theirs.
pub fn filter(text: &str) -> Result<LogFilter, FilterError> {
    if text == "off" || text == "error" {
        return Ok(LogFilter(text.to_owned()));
    }
    if is_level(text) {
        return Ok(LogFilter(format!("warn,audit={text},lwm2m_gateway={text}")));
    }
    // A lone word is a module to the parser, so a misspelt level would log everything of a module that does not exist.
    let lone_word = |part: &&str| !part.contains(['=', '[']) && !is_level(part);
    if let Some(word) = text.split(',').find(lone_word) {
        return Err(FilterError::NoLevel(word.to_owned()));
    }
    EnvFilter::try_new(text)?;
    Ok(LogFilter(text.to_owned()))
}

/// Starts the log of the process. Fails if it was started before.
pub fn start(config: &LogConfig) -> Result<(), TryInitError> {
    let filter = EnvFilter::try_new(&config.filter.0).expect("a filter was checked when it was made");
    let colours = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    match config.format {
        LogFormat::Text => {
            let builder = builder.event_format(LineFormat::of(format())).with_filter_reloading();
            keep(builder.reload_handle());
            builder.finish().try_init()
        }
        LogFormat::Json => {
            let json = format().json().flatten_event(true);
            let builder = builder.json().event_format(LineFormat::of(json)).with_filter_reloading();
            keep(builder.reload_handle());
            builder.finish().try_init()
        }
    }
}

/// Formats lines. Those of this program name their module at `debug` and `trace` only; those of libraries always.
struct LineFormat<F> {
    named: Format<F>,
    bare: Format<F>,
}

impl<F: Clone> LineFormat<F> {
    fn of(format: Format<F>) -> Self {
        Self { bare: format.clone().with_target(false), named: format }
    }
}

impl<S, N, F> FormatEvent<S, N> for LineFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<F>: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let ours = event.metadata().target().starts_with(env!("CARGO_CRATE_NAME"));
        let lines = if ours && *event.metadata().level() <= Level::INFO { &self.bare } else { &self.named };
        lines.format_event(context, writer, event)
    }
}

/// Replaces the filter; without effect before the log has started.
pub(crate) fn set_filter(filter: &LogFilter) -> Result<(), reload::Error> {
    let filter = EnvFilter::try_new(&filter.0).expect("a filter was checked when it was made");
    SET_FILTER.get().map_or(Ok(()), |set| set(filter))
}

/// Keeps the handle by which the filter of the log can be replaced.
fn keep<S: 'static>(handle: reload::Handle<EnvFilter, S>)
where
    reload::Handle<EnvFilter, S>: Send + Sync,
{
    SET_FILTER.get_or_init(|| Box::new(move |filter| handle.reload(filter)));
}

fn is_level(text: &str) -> bool {
    LEVELS.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_leaves_the_libraries_at_warn() {
        assert_eq!(filter("debug").unwrap().0, "warn,audit=debug,lwm2m_gateway=debug");
        assert_eq!(filter("error").unwrap().0, "error");
    }

    #[test]
    fn directives_are_taken_as_they_are() {
        assert_eq!(filter("info,h2=debug").unwrap().0, "info,h2=debug");
    }

    #[test]
    fn a_misspelt_level_is_no_filter() {
        let error = filter("info,debgu").unwrap_err().to_string();
        assert!(error.starts_with("\"debgu\" is not a level"), "{error}");
        assert!(filter("h2=loud").is_err());
        assert!(filter("").is_err());
    }
}
