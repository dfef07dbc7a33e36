//! The labels of the metrics.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CodeLabel {
    pub code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FormatLabel {
    pub format: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DirectionLabel {
    pub direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ChangeLabel {
    pub change: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabels {
    pub r#type: &'static str,
    pub outcome: &'static str,
}

/// Distinguishes the events of firmware updates by phase; failures have an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FirmwareLabels {
    pub phase: &'static str,
    pub error: &'static str,
}

/// Distinguishes campaigns by their status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusLabel {
    pub status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PartLabel {
    pub part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReloadLabels {
    pub part: &'static str,
    pub result: &'static str,
}

/// Distinguishes datagrams by outcome; dropped ones have a reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DatagramLabels {
    Accepted(OutcomeLabel),
    Dropped(DropLabels),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DropLabels {
    outcome: &'static str,
    reason: &'static str,
}

impl DatagramLabels {
    pub(super) fn accepted(outcome: &'static str) -> Self {
        Self::Accepted(OutcomeLabel { outcome })
    }

    pub(super) fn dropped(reason: &'static str) -> Self {
        Self::Dropped(DropLabels { outcome: "dropped", reason })
    }
}

// A derived set with an optional reason would show the label, empty, on datagrams that were not dropped.
impl EncodeLabelSet for DatagramLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        match self {
            Self::Accepted(labels) => labels.encode(encoder),
            Self::Dropped(labels) => labels.encode(encoder),
        }
    }
}
