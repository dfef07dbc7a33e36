//! The account that the demonstration gives to its first device.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use crate::bootstrap::BootstrapFiles;
use crate::config::Config;
use crate::simulation;
use crate::transport::Security;
use lwm2m_core::gateway::config::BootstrapConfig;

/// The file of the account. It is removed at the end.
pub(crate) struct DemoAccounts(PathBuf);

impl DemoAccounts {
    /// Writes the account, whose server is the first listener without DTLS, and switches the bootstrap server on.
    pub(super) fn write(config: &mut Config) -> anyhow::Result<Self> {
        let listener = config.listeners.iter_mut().find(|listener| listener.security == Security::None);
        let listener = listener.ok_or_else(|| anyhow!("the demonstration needs a listener without DTLS"))?;
        if listener.bind.port() == 0 {
            // The account names the port.
            listener.bind = UdpSocket::bind(listener.bind).and_then(|socket| socket.local_addr()).context("a port")?;
        }
        let file = std::env::temp_dir().join(format!("lwm2m-gateway-demo-{}.toml", std::process::id()));
        let account = format!(
            "[[account]]\nmatch = \"demo-*\"\n[[account.server]]\nshort_server_id = 101\nuri = \"coap://{}\"\n\
             lifetime = \"5m\"\n",
            simulation::reachable(listener.bind)
        );
        fs::write(&file, account).with_context(|| file.display().to_string())?;
        config.bootstrap = BootstrapFiles { is_enabled: true, accounts: Some(file.clone()), keys: None };
        config.gateway.bootstrap = Some(BootstrapConfig::default());
        Ok(Self(file))
    }
}

impl Drop for DemoAccounts {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, "the account file of the demo was not removed");
        }
    }
}
