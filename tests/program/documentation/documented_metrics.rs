//! What `docs/operations.md`, the dashboard and the alerts say of the metrics is what the page has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use lwm2m_gateway::observability::page::MetricsPage;
use lwm2m_gateway::observability::snapshot::DriverSnapshot;
use serde_json::Value;

/// Where the table stands in the page of operations.
const MARKS: [&str; 2] = ["<!-- metrics -->\n", "<!-- /metrics -->"];

#[test]
fn the_table_of_metrics_is_that_of_the_page() {
    let file = at("docs/operations.md");
    let document = fs::read_to_string(&file).expect("the page of operations");
    let (before, rest) = document.split_once(MARKS[0]).expect("the begin of the table");
    let (_, after) = rest.split_once(MARKS[1]).expect("the end of the table");
    let made = format!("{before}{}{}{}{after}", MARKS[0], table(), MARKS[1]);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &made).expect("a page that can be written");
        return;
    }
    assert!(
        made == document,
        "docs/operations.md is stale: UPDATE_DOCS=1 cargo test --test program documented_metrics writes it"
    );
}

#[test]
fn every_series_that_the_dashboard_asks_for_is_on_the_page() {
    let dashboard = fs::read_to_string(at("deploy/grafana/lwm2m-gateway.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    assert!(queries.len() > 40);
    queries.iter().for_each(|query| expect_on_the_page(query));
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn every_series_that_an_alert_watches_is_on_the_page_and_every_alert_is_explained() {
    let alerts = fs::read_to_string(at("deploy/prometheus/alerts.yaml")).expect("the alerts");
    expect_on_the_page(&alerts);
    let operations = fs::read_to_string(at("docs/operations.md")).expect("the page of operations");
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(operations.contains(&format!("| `{name}` |")), "docs/operations.md does not say what to do at {name}");
    }
}

/// Each name of a metric in a text, and each of its labels with the values that are asked for.
fn expect_on_the_page(text: &str) {
    let page = page();
    let mut found = 0;
    for (begin, _) in text.match_indices("lwm2m_").chain(text.match_indices("process_")) {
        if text[..begin].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[begin..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let series: Vec<&str> = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name)).collect();
        assert!(!series.is_empty(), "{name} is not on the page");
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        for matcher in matchers.split(',').filter(|matcher| !matcher.contains("instance") && !matcher.contains("job")) {
            let Some((label, values)) = matcher.split_once('=') else { continue };
            for value in values.trim_matches(['~', '"']).split('|') {
                let wanted = format!("{label}=\"{value}\"");
                assert!(series.iter().any(|line| line.contains(&wanted)), "{name} has no {wanted}");
            }
        }
        found += 1;
    }
    assert!(found > 0, "{text} asks for nothing");
}

/// A row for each metric: name, kind, labels with their values, meaning.
fn table() -> String {
    let page = page();
    let mut rows = vec!["| Metric | Kind | Labels | Meaning |".to_owned(), "|---|---|---|---|".to_owned()];
    for family in page.split("# HELP ").skip(1) {
        let (name, rest) = family.split_once(' ').expect("a meaning");
        let (meaning, rest) = rest.split_once('\n').expect("a type");
        let kind = rest.split(['\n', ' ']).nth(3).expect("a kind");
        let name = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        rows.push(format!("| `{name}` | {kind} | {} | {meaning} |", labels(rest)));
    }
    rows.join("\n") + "\n"
}

fn labels(series: &str) -> String {
    let mut labels: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let braces = series.lines().filter_map(|line| line.split_once('{')?.1.split_once('}'));
    for pair in braces.flat_map(|(pairs, _)| pairs.split(',')) {
        let (label, value) = pair.split_once('=').expect("a value");
        let values = labels.entry(label).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    // Buckets are of no interest, and a version changes.
    labels.retain(|label, _| *label != "le" && *label != "version");
    // The page has the series of a family in no order.
    labels.values_mut().for_each(|values| values.sort_unstable());
    let told = labels.iter().map(|(label, values)| format!("`{label}`: {}", values.join(", ").replace('"', "")));
    told.collect::<Vec<_>>().join("; ")
}

fn page() -> String {
    MetricsPage { metrics: Default::default(), snapshot: Some(DriverSnapshot::default()) }.text()
}

fn at(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
