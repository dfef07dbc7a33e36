//! The folder of object definitions to a [`Model`].

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::lwm2m::model::{BrokenFile, Model};

/// What a folder defines.
#[derive(Debug)]
pub struct Definitions {
    pub model: Model,
    /// The files that could not be taken; they do not stop the others.
    pub broken: Vec<BrokenFile>,
}

/// Reads every `.xml` file of a folder, in the order of their names. An error when the folder cannot be read.
pub fn read(folder: &Path) -> io::Result<Definitions> {
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    for path in xml_files(folder)? {
        let file = path.display().to_string();
        match fs::read(&path) {
            Ok(content) => files.push((file, content)),
            Err(error) => unreadable.push(BrokenFile { file, reason: error.to_string() }),
        }
    }
    let (model, mut broken) = Model::from_files(files);
    broken.extend(unreadable);
    Ok(Definitions { model, broken })
}

fn xml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().and_then(OsStr::to_str).is_some_and(|name| name.eq_ignore_ascii_case("xml")));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPERATURE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
        <LWM2M><Object ObjectType="MODefinition"><Name>Temperature</Name><ObjectID>3303</ObjectID>
        <MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory><Resources>
        <Item ID="5700"><Name>Sensor Value</Name><Operations>R</Operations><MultipleInstances>Single</MultipleInstances>
        <Mandatory>Mandatory</Mandatory><Type>Float</Type></Item></Resources></Object></LWM2M>"#;

    #[test]
    fn a_broken_file_is_named_and_does_not_stop_the_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("3303.XML"), TEMPERATURE).unwrap();
        fs::write(folder.path().join("broken.xml"), "<LWM2M>").unwrap();
        fs::write(folder.path().join("README.md"), "not a definition").unwrap();

        let definitions = read(folder.path()).unwrap();

        assert_eq!(definitions.model.objects().map(|object| object.id).collect::<Vec<_>>(), [3303]);
        let broken: Vec<_> = definitions.broken.iter().map(|broken| broken.file.clone()).collect();
        assert_eq!(broken, [folder.path().join("broken.xml").display().to_string()]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("folder.xml")).unwrap();
        assert_eq!(read(folder.path()).unwrap().broken.len(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("xml")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
