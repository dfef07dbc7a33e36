//! The parts in which images are read.

use crate::gateway::firmware::image::{Image, ImageName, READ_LENGTH};

/// A part of an image. Its bytes begin at `number` times [`READ_LENGTH`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ImagePart {
    pub name: ImageName,
    pub image: Image,
    pub number: u64,
}

impl ImagePart {
    /// Returns the place of the first byte in the image.
    pub(super) fn offset(&self) -> u64 {
        self.number.saturating_mul(READ_LENGTH as u64)
    }

    /// Returns the number of bytes: [`READ_LENGTH`], or fewer at the end of the image.
    pub(super) fn length(&self) -> usize {
        let rest = self.image.size.saturating_sub(self.offset());
        usize::try_from(rest).unwrap_or(usize::MAX).min(READ_LENGTH)
    }
}
