//! The specification of a campaign, read from JSON. A file in TOML has the same members.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::bootstrap::EndpointPattern;
use crate::command::firmware::{FirmwareAction, PackageSource};
use crate::lwm2m::path::Path;
use crate::mqtt::downlink;

use super::window::{DailyWindow, WindowText};
use crate::gateway::firmware::image::{Image, ImageDigest, ImageName};
use crate::gateway::firmware::jobs::update;

/// The endpoint names that a campaign may list.
pub(crate) const MOST_LISTED: usize = 10_000;
/// The resources that a filter may name, and the values of each.
const MOST_FILTERS: usize = 8;
const MOST_VALUES: usize = 64;
/// Bytes of an endpoint name, a pattern or a value of a filter.
const LONGEST_TEXT: usize = 255;
const LONGEST_NAME: usize = 64;
const MOST_AT_ONCE: u32 = 100_000;
const FASTEST: u32 = 60_000;
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The defaults of a campaign.
const CONCURRENCY: u32 = 10;
const PACE: u32 = 60;
const DURATION: Duration = Duration::from_secs(7 * 24 * 3600);

/// The name of a campaign: letters, digits, `.`, `_` and `-`, so that it is a segment of a path and a level of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CampaignName(Arc<str>);

/// A campaign that can begin when its image has been described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "CampaignText", into = "CampaignText")]
pub struct CampaignSpec {
    pub name: CampaignName,
    pub image: ImageName,
    pub version: String,
    pub who: Selection,
    /// The resources that a device must have, and the values that they may have.
    pub filter: Vec<(Path, Vec<String>)>,
    /// The number of updates that run at once.
    pub concurrency: u32,
    /// The number of updates that begin in a minute.
    pub pace: u32,
    pub stop_after: Option<FailureLimit>,
    pub window: Option<DailyWindow>,
    /// The time after which no update begins any more.
    pub duration: Duration,
    pub instance: u16,
    /// The members of `firmware-update` that are passed on as they are.
    options: UpdateOptions,
}

/// The devices that take part, before the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    Pattern(EndpointPattern),
    Endpoints(Vec<Arc<str>>),
}

/// The failures at which a campaign stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureLimit {
    Number(u32),
    /// Percent of the ended updates, once at least [`FailureLimit::SAMPLE`] have ended.
    Percent(u8),
}

/// A campaign as its JSON has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CampaignText {
    name: String,
    image: String,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<BTreeMap<String, OneOrMany>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pace: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_after: Option<NumberOrText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<WindowText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block_size: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UpdateOptions {
    method: Option<String>,
    sha256: Option<String>,
    instance: Option<u16>,
    block_size: Option<u16>,
    attempts: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u32),
    Text(String),
}

/// The reason why a campaign cannot be begun.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    #[error("{0}")]
    Json(String),
    #[error("name: expected 1 to {LONGEST_NAME} letters, digits, '.', '_' and '-'")]
    Name,
    #[error("{0}")]
    Update(String),
    #[error("version: expected the version that the devices run afterwards")]
    NoVersion,
    #[error("pattern and endpoints exclude each other")]
    TwoSelections,
    #[error("expected pattern, endpoints or filter: without any of them all devices would be updated")]
    NoSelection,
    #[error("pattern: expected 1 to {LONGEST_TEXT} bytes")]
    Pattern,
    #[error("endpoints: expected 1 to {MOST_LISTED} endpoint names of 1 to {LONGEST_TEXT} bytes")]
    Endpoints,
    #[error("endpoints: {0:?} is listed twice")]
    Twice(String),
    #[error("filter: {0:?} is not the path of a resource, such as \"/3/0/1\"")]
    Resource(String),
    #[error("filter: expected at most {MOST_FILTERS} resources, and 1 to {MOST_VALUES} values of each")]
    Filter,
    #[error("concurrency: expected a number from 1 to {MOST_AT_ONCE}")]
    Concurrency,
    #[error("pace: expected updates per minute, a number from 1 to {FASTEST}")]
    Pace,
    #[error("stop_after: expected a number of failures of at least 1, or a percentage such as \"10%\"")]
    StopAfter,
    #[error("duration: expected 1 minute to 366 days, such as \"7d\"")]
    Duration,
    #[error(transparent)]
    Window(#[from] super::window::WindowError),
}

impl CampaignName {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(fits) && !matches!(text, "." | "..");
        is_name.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CampaignName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FailureLimit {
    /// The number of ended updates from which a percentage is compared.
    pub(crate) const SAMPLE: usize = 10;

    /// Returns whether so many failures among so many updates that have ended are too many.
    pub(crate) fn is_reached(self, failures: usize, ended: usize) -> bool {
        match self {
            Self::Number(most) => failures >= most as usize,
            Self::Percent(percent) => ended >= Self::SAMPLE && failures * 100 >= usize::from(percent) * ended,
        }
    }

    fn read(text: &NumberOrText) -> Option<Self> {
        match text {
            NumberOrText::Number(number) => (*number > 0).then_some(Self::Number(*number)),
            NumberOrText::Text(text) => {
                let percent = text.strip_suffix('%')?.trim().parse().ok()?;
                (1..=100).contains(&percent).then_some(Self::Percent(percent))
            }
        }
    }
}

impl CampaignSpec {
    /// Reads a campaign, and checks what does not depend on its image.
    pub fn read(json: &[u8]) -> Result<Self, SpecError> {
        let text: CampaignText = serde_json::from_slice(json).map_err(|error| SpecError::Json(error.to_string()))?;
        text.try_into()
    }

    /// Returns whether this device may take part, before the filter.
    pub(crate) fn selects(&self, endpoint: &str) -> bool {
        match &self.who {
            Selection::Pattern(pattern) => pattern.matches(endpoint),
            // A listed device is a member from the beginning.
            Selection::Endpoints(_) => false,
        }
    }

    /// Returns the `firmware-update` for a device.
    pub fn command(&self) -> Value {
        json!({ "msgType": "firmware-update", "campaign": self.name.as_str(), "data": self.command_data() })
    }

    /// Returns the `firmware-cancel` for a device.
    pub(crate) fn cancel_command(&self) -> Value {
        json!({ "msgType": "firmware-cancel", "data": { "instance": self.instance } })
    }

    /// Returns an error if the image has another SHA-256 than the campaign names.
    pub(crate) fn check_image(&self, image: &Image) -> Result<(), String> {
        match self.options.sha256.as_deref().and_then(|sha256| sha256.parse::<ImageDigest>().ok()) {
            Some(wanted) if wanted != image.sha256 => {
                Err(format!("the image has the SHA-256 {}, not {wanted}", image.sha256))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn command_data(&self) -> Value {
        let UpdateOptions { method, sha256, instance, block_size, attempts } = &self.options;
        let mut data = json!({ "image": String::from(self.image.clone()), "version": self.version });
        let members = [
            ("method", json!(method)),
            ("sha256", json!(sha256)),
            ("instance", json!(instance)),
            ("blockSize", json!(block_size)),
            ("attempts", json!(attempts)),
        ];
        for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
            data[name] = value;
        }
        data
    }

    /// Checks the members of `firmware-update` as the command is checked.
    fn check_update(&self) -> Result<(), SpecError> {
        let action = downlink::firmware_update(&self.command_data()).map_err(SpecError::Update)?;
        let FirmwareAction::Update(request) = action else { return Ok(()) };
        debug_assert!(matches!(request.package, PackageSource::Image(_)));
        update::check_request(&request).map(drop).map_err(|refusal| SpecError::Update(refusal.reason))
    }
}

impl TryFrom<CampaignText> for CampaignSpec {
    type Error = SpecError;

    fn try_from(text: CampaignText) -> Result<Self, SpecError> {
        let name = CampaignName::parse(&text.name).ok_or(SpecError::Name)?;
        let image = text.image.parse::<ImageName>().map_err(|error| SpecError::Update(error.to_string()))?;
        if text.version.is_empty() {
            return Err(SpecError::NoVersion);
        }
        let wanted = text.filter.unwrap_or_default();
        let who = selection(text.pattern, text.endpoints, wanted.is_empty())?;
        let concurrency = text.concurrency.unwrap_or(CONCURRENCY);
        let pace = text.pace.unwrap_or(PACE);
        if !(1..=MOST_AT_ONCE).contains(&concurrency) {
            return Err(SpecError::Concurrency);
        }
        if !(1..=FASTEST).contains(&pace) {
            return Err(SpecError::Pace);
        }
        let limit = |text: &NumberOrText| FailureLimit::read(text).ok_or(SpecError::StopAfter);
        let CampaignText { method, sha256, instance, block_size, attempts, .. } = text;
        let spec = Self {
            name,
            image,
            version: text.version,
            who,
            filter: filter(wanted)?,
            concurrency,
            pace,
            stop_after: text.stop_after.as_ref().map(limit).transpose()?,
            window: text.window.map(DailyWindow::try_from).transpose()?,
            duration: text.duration.as_deref().map_or(Ok(DURATION), duration)?,
            instance: instance.unwrap_or(0),
            options: UpdateOptions { method, sha256, instance, block_size, attempts },
        };
        spec.check_update()?;
        Ok(spec)
    }
}

impl From<CampaignSpec> for CampaignText {
    fn from(spec: CampaignSpec) -> Self {
        let (pattern, endpoints) = match spec.who {
            Selection::Pattern(pattern) => (Some(pattern.as_str().to_owned()), None),
            Selection::Endpoints(endpoints) => {
                (None, Some(endpoints.iter().map(|endpoint| endpoint.to_string()).collect()))
            }
        };
        let stop_after = spec.stop_after.map(|limit| match limit {
            FailureLimit::Number(number) => NumberOrText::Number(number),
            FailureLimit::Percent(percent) => NumberOrText::Text(format!("{percent}%")),
        });
        let filter = (!spec.filter.is_empty()).then(|| {
            spec.filter.into_iter().map(|(path, values)| (path.to_string(), OneOrMany::Many(values))).collect()
        });
        let UpdateOptions { method, sha256, instance, block_size, attempts } = spec.options;
        Self {
            name: spec.name.as_str().to_owned(),
            image: spec.image.into(),
            version: spec.version,
            pattern,
            endpoints,
            filter,
            concurrency: Some(spec.concurrency),
            pace: Some(spec.pace),
            stop_after,
            window: spec.window.map(WindowText::from),
            duration: Some(format!("{}s", spec.duration.as_secs())),
            method,
            sha256,
            instance,
            block_size,
            attempts,
        }
    }
}

/// Reads which devices take part. A filter without pattern and list is for all devices.
fn selection(
    pattern: Option<String>,
    endpoints: Option<Vec<String>>,
    has_no_filter: bool,
) -> Result<Selection, SpecError> {
    let fits = |text: &str| (1..=LONGEST_TEXT).contains(&text.len());
    match (pattern, endpoints) {
        (Some(_), Some(_)) => Err(SpecError::TwoSelections),
        (None, None) if has_no_filter => Err(SpecError::NoSelection),
        (None, None) => Ok(Selection::Pattern(EndpointPattern::new("*"))),
        (Some(pattern), None) if fits(&pattern) => Ok(Selection::Pattern(EndpointPattern::new(pattern))),
        (Some(_), None) => Err(SpecError::Pattern),
        (None, Some(endpoints)) => {
            let has_room = (1..=MOST_LISTED).contains(&endpoints.len());
            if !has_room || !endpoints.iter().all(|endpoint| fits(endpoint)) {
                return Err(SpecError::Endpoints);
            }
            let mut sorted: Vec<&String> = endpoints.iter().collect();
            sorted.sort_unstable();
            match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                Some(pair) => Err(SpecError::Twice(pair[0].to_string())),
                None => Ok(Selection::Endpoints(endpoints.into_iter().map(Arc::from).collect())),
            }
        }
    }
}

fn filter(text: BTreeMap<String, OneOrMany>) -> Result<Vec<(Path, Vec<String>)>, SpecError> {
    if text.len() > MOST_FILTERS {
        return Err(SpecError::Filter);
    }
    let read = |(path, values): (String, OneOrMany)| {
        let resource = path.parse::<Path>().ok().filter(|resource| resource.len() == 3);
        let resource = resource.ok_or(SpecError::Resource(path))?;
        let values = match values {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        };
        let fits = (1..=MOST_VALUES).contains(&values.len()) && values.iter().all(|value| value.len() <= LONGEST_TEXT);
        if fits { Ok((resource, values)) } else { Err(SpecError::Filter) }
    };
    text.into_iter().map(read).collect()
}

fn duration(text: &str) -> Result<Duration, SpecError> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| (SHORTEST..=LONGEST).contains(duration));
    duration.ok_or(SpecError::Duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: Value) -> Result<CampaignSpec, SpecError> {
        let mut campaign = json!({ "name": "c", "image": "app.bin", "version": "2", "pattern": "*" });
        for (name, value) in members.as_object().expect("an object") {
            match value {
                Value::Null => drop(campaign.as_object_mut().expect("an object").remove(name)),
                value => campaign[name] = value.clone(),
            }
        }
        CampaignSpec::read(campaign.to_string().as_bytes())
    }

    #[test]
    fn a_campaign_that_cannot_be_begun_is_refused_with_the_reason() {
        for (members, reason) in [
            (json!({ "nmae": "x" }), "unknown field `nmae`"),
            (json!({ "name": "a/b" }), "name: "),
            (json!({ "image": "../app.bin" }), "firmware.dir"),
            (json!({ "version": "" }), "version: "),
            (json!({ "version": null }), "missing field `version`"),
            (json!({ "pattern": "" }), "pattern: "),
            (json!({ "pattern": null }), "without any of them"),
            (json!({ "endpoints": ["a"] }), "exclude each other"),
            (json!({ "pattern": null, "endpoints": [] }), "endpoints: "),
            (json!({ "pattern": null, "endpoints": ["a", ""] }), "endpoints: "),
            (json!({ "pattern": null, "endpoints": ["a", "b", "a"] }), "\"a\" is listed twice"),
            (json!({ "pattern": null, "endpoints": vec!["a"; MOST_LISTED + 1] }), "1 to 10000"),
            (json!({ "filter": { "/3/0": "x" } }), "\"/3/0\" is not the path of a resource"),
            (json!({ "filter": { "/3/0/1": [] } }), "filter: "),
            (json!({ "concurrency": 0 }), "concurrency: "),
            (json!({ "pace": 0 }), "pace: "),
            (json!({ "stop_after": 0 }), "stop_after: "),
            (json!({ "stop_after": "0%" }), "stop_after: "),
            (json!({ "stop_after": "many" }), "stop_after: "),
            (json!({ "duration": "1s" }), "duration: "),
            (json!({ "duration": "for ever" }), "duration: "),
            (json!({ "window": { "start": "22:00", "end": "22:00" } }), "no length"),
            (json!({ "window": { "start": "22:00" } }), "missing field `end`"),
            (json!({ "method": "pigeon" }), "method"),
            (json!({ "sha256": "12" }), "64 hexadecimal digits"),
            (json!({ "block_size": 17 }), "blockSize"),
        ] {
            let error = read(members.clone()).expect_err(&members.to_string()).to_string();
            assert!(error.contains(reason), "{members}: {error}");
        }
    }

    #[test]
    fn what_is_left_out_has_a_default_and_a_filter_alone_is_for_all_devices() {
        let spec = read(json!({ "pattern": null, "filter": { "/3/0/1": "AX-7" } })).unwrap();
        assert!(spec.selects("any"));
        assert_eq!((spec.concurrency, spec.pace, spec.duration), (10, 60, Duration::from_secs(7 * 86_400)));
        assert_eq!((spec.stop_after, spec.window, spec.instance), (None, None, 0));
    }

    #[test]
    fn null_is_a_member_that_is_left_out() {
        let text =
            r#"{"name":"c","image":"app.bin","version":"2","pattern":"*","filter":null,"window":null,"pace":null}"#;
        assert_eq!(CampaignSpec::read(text.as_bytes()), read(json!({})));
    }

    #[test]
    fn a_campaign_is_read_back_as_it_was() {
        let spec = read(json!({
            "pattern": null, "endpoints": ["a", "b"], "filter": { "/3/0/1": "AX-7", "/3/0/3": ["1", "2"] },
            "stop_after": "10%", "window": { "start": "22:00", "end": "05:00", "zone": "+02:00" },
            "duration": "2h", "instance": 1, "method": "push", "block_size": 512, "attempts": 5
        }));
        let spec = spec.unwrap();
        let json = serde_json::to_vec(&spec).unwrap();
        assert_eq!(CampaignSpec::read(&json), Ok(spec));
    }

    #[test]
    fn a_percentage_of_failures_needs_some_updates() {
        let limit = FailureLimit::Percent(20);
        assert!(!limit.is_reached(9, 9), "the sample is too small");
        assert!(limit.is_reached(2, 10));
        assert!(!limit.is_reached(2, 11));
        assert!(FailureLimit::Number(2).is_reached(2, 2));
    }
}
