//! Reload of the files of pre-shared keys: those for registrations and those of bootstrap accounts. Both are read
//! before either is in force, so that an identity can move from one file to the other in one edit.

use std::collections::HashSet;
use std::path::PathBuf;

use tracing::{info, warn};

use crate::bootstrap::second_kind;
use crate::credentials::{CredentialsConfig, FileKeys, PskFileConfig, PskFileContents, PskFileError, PskTable};
use crate::driver::control::SettingsChange;
use crate::transport::UdpListener;
use lwm2m_base::identity::PskIdentity;

use crate::file_snapshot::FileSnapshot;

/// The keys in force.
pub(crate) struct ReloadableKeys {
    registration: KeyFile,
    bootstrap: KeyFile,
    /// The listeners that are bound, whatever the configuration says by now.
    listeners: Vec<UdpListener>,
}

/// The result of reading one of the files.
type KeysRead = Result<Option<SettingsChange>, String>;

/// A file of keys.
struct KeyFile {
    keys: FileKeys,
    /// The settings and the state of the file in force; `None` if it could not be loaded.
    in_force: Option<KeyFileState>,
}

type KeyFileState = (Option<PskFileConfig>, FileSnapshot);

/// The contents of a changed file, before they are in force.
struct NewKeys {
    contents: PskFileContents,
    state: KeyFileState,
}

impl ReloadableKeys {
    /// Creates the keys; `read_at` is the state of the files before they were loaded at the start, `None` if one could
    /// not be loaded.
    pub(crate) fn new(
        config: &CredentialsConfig,
        read_at: Option<&FileSnapshot>,
        (registration, bootstrap): (FileKeys, FileKeys),
        listeners: Vec<UdpListener>,
    ) -> Self {
        let file = |keys, config: &Option<PskFileConfig>| KeyFile {
            keys,
            in_force: read_at.map(|files| (config.clone(), files.only(file_of(config.as_ref())))),
        };
        Self {
            registration: file(registration, &config.psk_file),
            bootstrap: file(bootstrap, &config.bootstrap_psk_file),
            listeners,
        }
    }

    /// Reads both files. Returns the changes of the keys for registrations, and of those of bootstrap accounts.
    pub(super) fn read(&mut self, config: &CredentialsConfig) -> (KeysRead, KeysRead) {
        let registration = self.registration.read(config.psk_file.as_ref(), || config.load_keys());
        let registration = registration.map_err(|error| error.to_string());
        let bootstrap = self.bootstrap.read(config.bootstrap_psk_file.as_ref(), || config.load_bootstrap_keys());
        let bootstrap = bootstrap.map_err(|error| format!("bootstrap.psk_file = {error}"));
        if let Err(problem) = self.check_kinds(table(&registration), table(&bootstrap)) {
            let refuse = |read: Result<Option<NewKeys>, String>| match read {
                Ok(Some(_)) => Err(problem.clone()),
                Ok(None) => Ok(None),
                Err(why) => Err(why),
            };
            return (refuse(registration), refuse(bootstrap));
        }
        (registration.map(|new| self.apply_registration(new?)), bootstrap.map(|new| self.apply_bootstrap(new?)))
    }

    /// Checks that no identity would have a key of both kinds at a listener that serves both. `None` stands for a file
    /// that keeps its keys.
    fn check_kinds(&self, registration: Option<&PskTable>, bootstrap: Option<&PskTable>) -> Result<(), String> {
        let check = |registration: &PskTable, bootstrap: &PskTable| {
            second_kind(&self.listeners, registration, bootstrap).map_or(Ok(()), |identity| {
                Err(format!(
                    "{identity:?} has a key in dtls.psk_file and in bootstrap.psk_file, and a listener serves both"
                ))
            })
        };
        match (registration, bootstrap) {
            (None, None) => Ok(()),
            (Some(registration), Some(bootstrap)) => check(registration, bootstrap),
            (Some(registration), None) => self.bootstrap.keys.with(|bootstrap| check(registration, bootstrap)),
            (None, Some(bootstrap)) => self.registration.keys.with(|registration| check(registration, bootstrap)),
        }
    }

    fn apply_registration(&mut self, new: NewKeys) -> Option<SettingsChange> {
        info!(keys = new.contents.keys.len(), "pre-shared keys reloaded");
        let revoked = self.registration.apply(new);
        Some(SettingsChange::Keys { revoked, identities: self.registration.keys.identities() })
    }

    fn apply_bootstrap(&mut self, new: NewKeys) -> Option<SettingsChange> {
        info!(keys = new.contents.keys.len(), "pre-shared keys of bootstrap accounts reloaded");
        let revoked = self.bootstrap.apply(new);
        Some(SettingsChange::BootstrapKeys { revoked, identities: self.bootstrap.keys.identities() })
    }
}

impl KeyFile {
    /// Reads the file if it has changed.
    fn read(
        &self,
        config: Option<&PskFileConfig>,
        load: impl FnOnce() -> Result<PskFileContents, PskFileError>,
    ) -> Result<Option<NewKeys>, PskFileError> {
        let state = key_file_state(config);
        if self.in_force.as_ref() == Some(&state) {
            return Ok(None);
        }
        Ok(Some(NewKeys { contents: load()?, state }))
    }

    /// Puts new keys in force. Returns the identities whose key was removed or changed.
    fn apply(&mut self, NewKeys { contents, state }: NewKeys) -> HashSet<PskIdentity> {
        contents.warnings.iter().for_each(|warning| warn!("{warning}"));
        self.in_force = Some(state);
        self.keys.replace(contents.keys)
    }
}

fn table(read: &Result<Option<NewKeys>, String>) -> Option<&PskTable> {
    read.as_ref().ok()?.as_ref().map(|new| &new.contents.keys)
}

fn key_file_state(config: Option<&PskFileConfig>) -> KeyFileState {
    (config.cloned(), FileSnapshot::at(file_of(config)))
}

fn file_of(config: Option<&PskFileConfig>) -> Option<PathBuf> {
    config.map(|config| config.file.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;

    /// The keys of a gateway with one listener for both, whose files have these contents.
    struct SharedKeys {
        folder: TempDir,
        config: Config,
        keys: ReloadableKeys,
    }

    impl SharedKeys {
        fn new(registration: &str, bootstrap: &str) -> Self {
            let folder = TempDir::new().unwrap();
            let path = |name: &str| folder.path().join(name);
            let text = format!(
                "bootstrap.enable = true\nbootstrap.accounts = \"accounts.toml\"\nbootstrap.psk_file = {:?}\n\
                 dtls.psk_file = {:?}\nlisteners.dtls.default.bind = \"127.0.0.1:0\"\n",
                path("bootstrap.psk"),
                path("keys.psk"),
            );
            fs::write(path("gateway.toml"), text).unwrap();
            let config = Config::load(Some(&path("gateway.toml")), []).unwrap();
            let (listeners, credentials) = (config.listeners.clone(), &config.credentials);
            let keys = ReloadableKeys::new(credentials, None, Default::default(), listeners);
            let mut shared = Self { folder, config, keys };
            shared.write(registration, bootstrap);
            assert!(matches!(shared.read(), (Ok(Some(_)), Ok(Some(_)))));
            shared
        }

        fn write(&self, registration: &str, bootstrap: &str) {
            fs::write(self.folder.path().join("keys.psk"), registration).unwrap();
            fs::write(self.folder.path().join("bootstrap.psk"), bootstrap).unwrap();
        }

        fn read(&mut self) -> (KeysRead, KeysRead) {
            self.keys.read(&self.config.credentials)
        }
    }

    fn revoked(read: KeysRead) -> Vec<String> {
        match read.unwrap() {
            Some(SettingsChange::Keys { revoked, .. } | SettingsChange::BootstrapKeys { revoked, .. }) => {
                revoked.iter().map(|identity| identity.as_str().to_owned()).collect()
            }
            _ => panic!("no keys"),
        }
    }

    #[test]
    fn two_identities_change_places_in_one_edit_of_both_files() {
        let mut shared = SharedKeys::new("one:first\n", "two:second\n");
        shared.write("two:other keys\n", "one:another key\n");
        let (registration, bootstrap) = shared.read();
        assert_eq!((revoked(registration), revoked(bootstrap)), (vec!["one".to_owned()], vec!["two".to_owned()]));
        assert!(matches!(shared.read(), (Ok(None), Ok(None))));
    }

    #[test]
    fn an_edit_between_the_reading_at_the_start_and_the_first_look_is_a_change() {
        let shared = SharedKeys::new("one:first\n", "two:second\n");
        let (config, listeners) = (&shared.config.credentials, shared.config.listeners.clone());
        let read_at =
            FileSnapshot::at([shared.folder.path().join("keys.psk"), shared.folder.path().join("bootstrap.psk")]);
        let file_keys = FileKeys::default();
        file_keys.replace(config.load_keys().unwrap().keys);
        shared.write("one:another key\n", "two:second\n");
        let mut keys = ReloadableKeys::new(config, Some(&read_at), (file_keys, FileKeys::default()), listeners);
        assert_eq!(revoked(keys.read(config).0), vec!["one".to_owned()]);
    }

    #[test]
    fn an_identity_of_both_kinds_is_refused_by_the_listeners_that_are_bound() {
        let mut shared = SharedKeys::new("one:first\n", "two:second\n");
        // The listener gets another role in the file only.
        shared.config.listeners.clear();
        fs::write(shared.folder.path().join("keys.psk"), "one:first\ntwo:other keys\n").unwrap();
        let (registration, bootstrap) = shared.read();
        assert!(registration.is_err_and(|why| why.contains("\"two\" has a key in dtls.psk_file and in bootstrap")));
        assert!(matches!(bootstrap, Ok(None)));
    }
}
