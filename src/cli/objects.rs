//! Implements `objects`, which lists the object definitions in force.

use std::io::{self, Write};

use anyhow::bail;

use crate::definitions::Definitions;
use lwm2m_core::lwm2m::model::{BrokenFile, Object, Resource};

use super::{ConfigFile, read_definitions};

/// Lists all objects, the objects whose name contains the query, or the resources of the object with this ID.
pub(super) fn objects(query: &[String], config: &ConfigFile, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    let definitions = read_definitions(&config.xml_dir)?;
    let query = query.join(" ");
    match query.parse() {
        Ok(id) => list_resources(&definitions, id, output)?,
        Err(_) => list_objects(&definitions, &query, output)?,
    }
    for BrokenFile { file, reason } in &definitions.broken {
        writeln!(io::stderr(), "{file}: {reason}")?;
    }
    Ok(())
}

fn list_objects(definitions: &Definitions, name: &str, output: &mut impl Write) -> anyhow::Result<()> {
    let wanted = name.to_lowercase();
    let found = definitions.model.objects().filter(|object| object.name.to_lowercase().contains(&wanted));
    let row = |object: &Object| {
        let resources = object.resources().count().to_string();
        let source = definitions.source(object).to_owned();
        [object.id.to_string(), object.version.to_string(), resources, source, object.name.clone()]
    };
    let rows: Vec<_> = found.map(row).collect();
    if rows.is_empty() {
        bail!("no object that is defined has {name:?} in its name; `lwm2m-gateway objects` lists all of them");
    }
    write_table(["ID", "VERSION", "RESOURCES", "FROM", "NAME"], rows, output)?;
    Ok(())
}

fn list_resources(definitions: &Definitions, id: u16, output: &mut impl Write) -> anyhow::Result<()> {
    let versions: Vec<&Object> = definitions.model.objects().filter(|object| object.id == id).collect();
    if versions.is_empty() {
        bail!(
            "object {id} has no definition: commands and answers whose values need types come to 4.00. Put its OMA XML \
             file into the folder xml_dir"
        );
    }
    for object in versions {
        let instances = if object.multiple { "several instances" } else { "one instance" };
        let source = definitions.source(object);
        writeln!(output, "{} {}, version {}, {instances}, {source}", object.id, object.name, object.version)?;
        let header = ["ID", "OPERATIONS", "TYPE", "INSTANCES", "RANGE", "UNITS", "NAME"];
        write_table(header, object.resources().map(resource_row).collect(), output)?;
    }
    Ok(())
}

fn resource_row(resource: &Resource) -> [String; 7] {
    [
        resource.id.to_string(),
        resource.operations.to_string(),
        resource.resource_type.map(|kind| kind.to_string()).unwrap_or_default(),
        if resource.multiple { "multiple" } else { "single" }.to_owned(),
        resource.range.map(|range| range.to_string()).unwrap_or_default(),
        resource.units.clone(),
        resource.name.clone(),
    ]
}

/// Writes columns as wide as their longest entry, but the last one.
fn write_table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>, output: &mut impl Write) -> io::Result<()> {
    let mut widths = header.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in std::iter::once(header.map(str::to_owned)).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(output, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
