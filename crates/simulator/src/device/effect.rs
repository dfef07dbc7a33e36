//! The effect of a server's request on the device.

use lwm2m_core::lwm2m::path::Path;

/// The consequence of a request, which comes after its answer.
pub(super) enum Effect {
    None,
    /// The values at or below these paths are new.
    Changed(Vec<Path>),
    /// An instance came or went at or below this path.
    InstancesChanged(Path),
    RebootRequested,
    UpdateRequested,
    /// The firmware update of this instance of object 5 is in another state.
    FirmwareChanged(u16),
}
