//! The firmware image that the demonstration gives to one of its devices.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use crate::config::Config;

/// The name of the image.
const IMAGE: &str = "demo-2.5.0.bin";
/// The version that the device runs after the update. The simulated device reads it in the first line of its image.
const VERSION: &str = "2.5.0";
/// Bytes of the image, so that its transfer takes several blocks.
const LENGTH: usize = 20_000;

/// The folder of the image. It is removed at the end.
pub(crate) struct DemoImages(PathBuf);

impl DemoImages {
    /// Makes the image, in a folder that takes the place of the configured one.
    pub(super) fn write(config: &mut Config) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("lwm2m-gateway-demo-images-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let images = Self(folder);
        let mut image = format!("version: {VERSION}\n").into_bytes();
        image.resize(LENGTH, b'.');
        fs::write(images.0.join(IMAGE), image).with_context(|| images.0.display().to_string())?;
        config.images.dir.clone_from(&images.0);
        Ok(images)
    }
}

impl Drop for DemoImages {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the image folder of the demo was not removed");
        }
    }
}

/// Returns the `data` of the update.
pub(super) fn update() -> Value {
    json!({ "image": IMAGE, "version": VERSION })
}
