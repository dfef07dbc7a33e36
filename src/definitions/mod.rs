//! Object definitions to a [`Model`]: those of a folder, and behind them those that are built into the program.
//!
//! A definition of the folder stands in place of a built-in one of the same object and version, and beside one of
//! another version. Of two files that define the same version of an object the first one counts, and a warning names
//! both. Copies of the built-in files, which packages install into the folder, do not count as definitions of the
//! folder.

mod built_in;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lwm2m_core::lwm2m::model::{BrokenFile, Model, Object, Version, xml};

/// The folder that is read if the configuration names none. It need not exist.
pub(crate) const DEFAULT_FOLDER: &str = "xml";

/// The source of a built-in definition.
const BUILT_IN: &str = "built in";

/// The definitions in force, and the problems of their files.
#[derive(Debug, Default)]
pub struct Definitions {
    pub model: Model,
    /// The files that were rejected. The other files are used all the same.
    pub broken: Vec<BrokenFile>,
    /// Warnings about probable mistakes.
    pub warnings: Vec<String>,
    /// The file that each definition comes from.
    sources: BTreeMap<(u16, Version), String>,
}

/// Reads every `.xml` file of a folder, in the order of their names, and adds the built-in definitions. An empty path
/// is no folder.
///
/// # Errors
/// If the folder cannot be read; `DEFAULT_FOLDER` need not be there.
pub fn read(folder: &Path) -> io::Result<Definitions> {
    let mut definitions = Definitions::default();
    if let Some(files) = xml_files(folder)? {
        if files.is_empty() {
            let warning = format!("xml_dir: the folder {} has no file *.xml", folder.display());
            definitions.warnings.push(warning);
        }
        files.into_iter().for_each(|path| definitions.add_file(&path));
    }
    definitions.add_built_in();
    Ok(definitions)
}

impl Definitions {
    /// Returns the file that a definition comes from, or `built in`.
    pub fn source(&self, object: &Object) -> &str {
        self.sources.get(&(object.id, object.version)).map_or(BUILT_IN, String::as_str)
    }

    /// Returns how many definitions there are, and how many of them are built in.
    pub fn count(&self) -> (usize, usize) {
        let built_in = self.sources.values().filter(|source| *source == BUILT_IN).count();
        (self.sources.len(), built_in)
    }

    fn add_file(&mut self, path: &Path) {
        let file = path.display().to_string();
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) => return self.broken.push(BrokenFile { file, reason: error.to_string() }),
        };
        if built_in::FILES.iter().any(|(_, built_in)| *built_in == content) {
            return;
        }
        match xml::parse(&content) {
            Ok(objects) => objects.into_iter().for_each(|object| self.add(&file, object)),
            Err(error) => self.broken.push(BrokenFile { file, reason: error.to_string() }),
        }
    }

    fn add(&mut self, file: &str, object: Object) {
        let key @ (id, version) = (object.id, object.version);
        let result = self.model.insert(object);
        let Some(first) = self.sources.get(&key) else {
            match result {
                Ok(()) => drop(self.sources.insert(key, file.to_owned())),
                Err(error) => self.broken.push(BrokenFile { file: file.to_owned(), reason: error.to_string() }),
            }
            return;
        };
        let again = format!("object {id} version {version} is defined in {first} already, which counts");
        match result {
            Ok(()) => self.warnings.push(format!("xml_dir: {file}: {again}")),
            Err(_) => {
                let reason = format!("{again}; this file says something else of it");
                self.broken.push(BrokenFile { file: file.to_owned(), reason });
            }
        }
    }

    fn add_built_in(&mut self) {
        for (name, content) in built_in::FILES {
            let objects = xml::parse(content).unwrap_or_else(|error| panic!("{name} is part of the program: {error}"));
            for object in objects {
                let key = (object.id, object.version);
                if !self.sources.contains_key(&key) {
                    self.model.insert(object).expect("no other definition has this object and version");
                    self.sources.insert(key, BUILT_IN.to_owned());
                }
            }
        }
    }
}

/// Returns the files of a folder; `None` where there need not be one, and is none.
fn xml_files(folder: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    if folder.as_os_str().is_empty() {
        return Ok(None);
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder == Path::new(DEFAULT_FOLDER) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().and_then(OsStr::to_str).is_some_and(|name| name.eq_ignore_ascii_case("xml")));
    paths.sort();
    Ok(Some(paths))
}

#[cfg(test)]
mod tests {
    use lwm2m_core::lwm2m::model::ObjectVersion;

    use super::*;

    const SHIPPED: usize = 73;

    /// Another resource than the built-in definition of this object and version has.
    const TEMPERATURE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
        <LWM2M><Object ObjectType="MODefinition"><Name>Temperature</Name><ObjectID>3303</ObjectID>
        <ObjectVersion>1.1</ObjectVersion>
        <MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory><Resources>
        <Item ID="5700"><Name>Sensor Value</Name><Operations>R</Operations><MultipleInstances>Single</MultipleInstances>
        <Mandatory>Mandatory</Mandatory><Type>Float</Type></Item></Resources></Object></LWM2M>"#;

    fn ids(definitions: &Definitions) -> Vec<u16> {
        definitions.model.objects().map(|object| object.id).collect()
    }

    fn version(text: &str) -> ObjectVersion {
        ObjectVersion::Announced(text.parse().unwrap())
    }

    fn built_in() -> Definitions {
        read(Path::new("")).unwrap()
    }

    #[test]
    fn every_shipped_file_is_built_in_as_it_is() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml");
        let mut shipped: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        shipped.sort();
        let mut files: Vec<_> = built_in::FILES.iter().map(|(name, _)| OsStr::new(name).to_owned()).collect();
        files.sort();
        assert_eq!(files, shipped);
        for (name, content) in built_in::FILES {
            assert_eq!(*content, fs::read(folder.join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn copies_of_the_built_in_files_are_no_definitions_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in built_in::FILES {
            fs::write(folder.path().join(name), content).unwrap();
        }
        // Its name sorts behind that of the built-in file.
        fs::write(folder.path().join("3303.xml"), TEMPERATURE).unwrap();

        let definitions = read(folder.path()).unwrap();

        assert_eq!((definitions.count(), definitions.warnings.as_slice()), ((SHIPPED, SHIPPED - 1), &[][..]));
        assert_eq!(definitions.broken, []);
        assert_eq!(definitions.model.object(3303, version("1.1")).unwrap().resources().count(), 1);
    }

    #[test]
    fn several_versions_of_an_object_are_built_in_side_by_side() {
        let definitions = built_in();
        let versions: Vec<_> = definitions.model.objects().filter(|object| object.id == 4).collect();
        assert_eq!(
            versions.iter().map(|object| object.version.to_string()).collect::<Vec<_>>(),
            ["1.3", "1.2", "1.1", "1.0"]
        );
        assert_eq!(versions.iter().map(|object| object.resources().count()).collect::<Vec<_>>(), [14, 13, 12, 11]);
    }

    #[test]
    fn without_a_folder_there_are_those_that_are_built_in() {
        assert_eq!(built_in().count(), (SHIPPED, SHIPPED));
        // The tests run where there is such a folder; this one has another name.
        assert_eq!(read(Path::new("no such folder")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_definition_of_the_folder_replaces_the_built_in_one_of_its_version() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine.xml"), TEMPERATURE).unwrap();
        let other = TEMPERATURE.replace("3303", "33303");
        fs::write(folder.path().join("other.xml"), other).unwrap();

        let definitions = read(folder.path()).unwrap();

        assert_eq!((definitions.count(), definitions.warnings.as_slice()), ((SHIPPED + 1, SHIPPED - 1), &[][..]));
        let temperature = definitions.model.object(3303, version("1.1")).unwrap();
        assert_eq!(temperature.resources().count(), 1);
        assert!(definitions.source(temperature).ends_with("mine.xml"));
        assert_eq!(definitions.source(definitions.model.object(3, version("1.2")).unwrap()), "built in");
    }

    #[test]
    fn a_broken_file_is_named_and_does_not_stop_the_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("33303.XML"), TEMPERATURE.replace("3303", "33303")).unwrap();
        fs::write(folder.path().join("broken.xml"), "<LWM2M>").unwrap();
        fs::write(folder.path().join("README.md"), "not a definition").unwrap();

        let definitions = read(folder.path()).unwrap();

        assert!(ids(&definitions).contains(&33303));
        let broken: Vec<_> = definitions.broken.iter().map(|broken| broken.file.clone()).collect();
        assert_eq!(broken, [folder.path().join("broken.xml").display().to_string()]);
    }

    #[test]
    fn of_two_files_with_one_object_and_version_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.xml"), TEMPERATURE).unwrap();
        fs::write(at("b.xml"), TEMPERATURE).unwrap();
        fs::write(at("c.xml"), TEMPERATURE.replace("Float", "Integer")).unwrap();

        let definitions = read(folder.path()).unwrap();

        let [a, b] = ["a.xml", "b.xml"].map(|name| at(name).display().to_string());
        let again = format!("object 3303 version 1.1 is defined in {a} already, which counts");
        assert_eq!(definitions.warnings, [format!("xml_dir: {b}: {again}")]);
        assert_eq!(definitions.broken[0].reason, format!("{again}; this file says something else of it"));
    }

    #[test]
    fn a_folder_without_definitions_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let definitions = read(folder.path()).unwrap();
        let expected = format!("xml_dir: the folder {} has no file *.xml", folder.path().display());
        assert_eq!((definitions.warnings, definitions.model.objects().count()), (vec![expected], SHIPPED));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("folder.xml")).unwrap();
        assert_eq!(read(folder.path()).unwrap().broken.len(), 1);
    }
}
