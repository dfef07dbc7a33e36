//! Commands of firmware campaigns. Their answers go to the campaign only.

use std::time::Duration;

use serde_json::Value;

use crate::command::firmware::FirmwareCommand;
use crate::command::{AskId, Command, Origin, Reply};
use crate::mqtt::downlink::{self, ReadCommand};
use crate::registry::{Device, PendingCommand};

use super::CommandScheduler;
use super::command_expiry::expiry_of;
use super::sending::admit;
use crate::gateway::context::Context;

/// The longest time that a read may wait. The device was awake a moment ago.
const READ_EXPIRY: Duration = Duration::from_secs(60);

impl CommandScheduler {
    /// Takes a command of a campaign. Returns whether an answer with this `ask` follows.
    pub(crate) fn handle_campaign(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        ask: AskId,
        command: &Value,
    ) -> bool {
        if context.draining {
            return false;
        }
        let payload = command.to_string();
        let parsed = downlink::read(payload.as_bytes(), context.command_context(&device.registration));
        let (reply, origin) = (Some(Box::new(Reply::Asker(ask))), Origin::Campaign);
        match parsed {
            Ok(ReadCommand::Operation(command)) => {
                let command = Command { reply, origin, expiry: Some(READ_EXPIRY), ..command };
                let expires = expiry_of(context.now, &command, READ_EXPIRY);
                let number = self.next_number();
                let waiting = PendingCommand::new(number, command, expires, self.bytes.take(payload.len()));
                let admission = admit(context, device, waiting);
                self.admitted(context, device, admission).is_ok()
            }
            Ok(ReadCommand::Firmware(command)) => {
                self.handle_firmware(context, device, FirmwareCommand { reply, origin, ..command }, None);
                true
            }
            Err(_) => false,
        }
    }
}
