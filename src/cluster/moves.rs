//! Converts the frames about moves of devices between nodes to the questions and answers of the core.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use lwm2m_base::{Peer, Shard};
use lwm2m_cluster::endpoint_move::MoveNumber;
use lwm2m_cluster::frame::{Fetch, FetchAnswer, FetchReason, FetchedDevice};
use lwm2m_core::gateway::moves::claims::{ClaimPurpose, ClaimQuestion, DeviceName};
use lwm2m_core::gateway::persistence::record::IdentityRecord;
use lwm2m_core::gateway::report::Forbidden;

/// The answer of a node that was asked for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAnswer {
    /// The device can be taken from this shard and version of its endpoint name.
    Frozen {
        shard: Shard,
        version: u64,
        endpoint: String,
    },
    /// The node does not have the device, or the device stays.
    Absent,
    /// The node cannot answer now.
    Busy,
    Forbidden(Forbidden),
}

/// Returns the identity of a question as text; `None` if its association was closed meanwhile.
pub fn identity_text(question: &ClaimQuestion) -> Option<String> {
    let record = IdentityRecord::from(question.identity.as_deref()?);
    Some(serde_json::to_string(&record).expect("an identity is text"))
}

/// Returns the frame that asks another node for a device; `None` over plain UDP.
pub fn fetch<'q>(
    number: MoveNumber,
    shard: Shard,
    question: &'q ClaimQuestion,
    identity: &'q str,
) -> Option<Fetch<'q>> {
    let reason = match question.purpose {
        ClaimPurpose::Register => FetchReason::Register,
        ClaimPurpose::Request => FetchReason::Request,
        ClaimPurpose::Handshake => FetchReason::Handshake,
    };
    let device = match &question.device {
        DeviceName::Endpoint(endpoint) => FetchedDevice::Endpoint(endpoint),
        DeviceName::Location(location) => FetchedDevice::Location(location),
    };
    Some(Fetch { number, shard, reason, device, association: question.peer.association?, identity })
}

/// Returns the question of another node. The address of its peer is not known here: no device of this node has it.
pub fn question(fetch: &Fetch<'_>) -> Option<ClaimQuestion> {
    let identity: IdentityRecord = serde_json::from_str(fetch.identity).ok()?;
    let purpose = match fetch.reason {
        FetchReason::Register => ClaimPurpose::Register,
        FetchReason::Request => ClaimPurpose::Request,
        FetchReason::Handshake => ClaimPurpose::Handshake,
    };
    let device = match fetch.device {
        FetchedDevice::Endpoint(endpoint) => DeviceName::Endpoint(endpoint.to_owned()),
        FetchedDevice::Location(location) => DeviceName::Location(location.to_owned()),
    };
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let peer = Peer { socket: 0, address: nowhere, association: Some(fetch.association) };
    Some(ClaimQuestion { device, purpose, peer, identity: Some(Arc::new(identity.into_identity())) })
}

impl SourceAnswer {
    pub fn read(answer: FetchAnswer<'_>) -> Self {
        match answer {
            FetchAnswer::Frozen { shard, version, endpoint } => {
                Self::Frozen { shard, version, endpoint: endpoint.to_owned() }
            }
            FetchAnswer::Absent => Self::Absent,
            FetchAnswer::Busy => Self::Busy,
            FetchAnswer::Forbidden(reason) => Self::Forbidden(forbidden(reason)),
        }
    }

    pub fn to_frame(&self) -> FetchAnswer<'_> {
        match self {
            Self::Frozen { shard, version, endpoint } => {
                FetchAnswer::Frozen { shard: *shard, version: *version, endpoint }
            }
            Self::Absent => FetchAnswer::Absent,
            Self::Busy => FetchAnswer::Busy,
            Self::Forbidden(reason) => FetchAnswer::Forbidden(forbidden_number(*reason)),
        }
    }
}

/// The number of a reason in frames. It is never given to another reason.
fn forbidden_number(reason: Forbidden) -> u8 {
    match reason {
        Forbidden::OtherName => 0,
        Forbidden::OtherIdentity => 1,
        Forbidden::Unsecured => 2,
        Forbidden::HasKey => 3,
        Forbidden::BootstrapOnly => 4,
    }
}

/// Returns the reason of a number. A reason of a newer node means that the name is another device's.
fn forbidden(number: u8) -> Forbidden {
    match number {
        1 => Forbidden::OtherIdentity,
        2 => Forbidden::Unsecured,
        3 => Forbidden::HasKey,
        4 => Forbidden::BootstrapOnly,
        _ => Forbidden::OtherName,
    }
}

#[cfg(test)]
mod tests {
    use lwm2m_base::AssociationId;
    use lwm2m_base::identity::{Identity, PskIdentity};

    use super::*;

    #[test]
    fn a_question_comes_to_the_other_node_without_the_address_of_its_peer() {
        for (device, purpose, identity) in [
            (DeviceName::Endpoint("a".to_owned()), ClaimPurpose::Register, Identity::Unknown),
            (
                DeviceName::Location("AbCdEfGhIjKl".to_owned()),
                ClaimPurpose::Request,
                Identity::Certificate { common_name: None, alternative_names: vec!["urn:a".to_owned()] },
            ),
            (
                DeviceName::Endpoint("a".to_owned()),
                ClaimPurpose::Handshake,
                Identity::Psk(PskIdentity::new(b"a").unwrap()),
            ),
        ] {
            let peer = Peer {
                socket: 3,
                address: SocketAddr::from(([192, 0, 2, 1], 5684)),
                association: Some(AssociationId(77)),
            };
            let asked = ClaimQuestion { device, purpose, peer, identity: Some(Arc::new(identity)) };
            let identity = identity_text(&asked).unwrap();
            let frame = fetch(MoveNumber(1), Shard::new(7), &asked, &identity).unwrap();
            let read = question(&frame).unwrap();
            assert_eq!((&read.device, read.purpose, &read.identity), (&asked.device, asked.purpose, &asked.identity));
            assert_eq!(read.peer.association, asked.peer.association);
            let nobody = ClaimQuestion { identity: None, ..asked.clone() };
            assert_eq!(identity_text(&nobody), None);
            let plain = ClaimQuestion { peer: Peer::udp(0, peer.address), ..asked.clone() };
            assert_eq!(fetch(MoveNumber(1), Shard::new(7), &plain, &identity), None);
        }
    }

    #[test]
    fn each_reason_to_forbid_a_device_has_a_number() {
        for reason in [
            Forbidden::OtherName,
            Forbidden::OtherIdentity,
            Forbidden::Unsecured,
            Forbidden::HasKey,
            Forbidden::BootstrapOnly,
        ] {
            assert_eq!(SourceAnswer::read(SourceAnswer::Forbidden(reason).to_frame()), SourceAnswer::Forbidden(reason));
        }
        assert_eq!(forbidden(9), Forbidden::OtherName);
    }
}
