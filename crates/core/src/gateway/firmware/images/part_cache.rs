//! The parts of images that were read last. Many devices fetch the same image, each at its own pace.

use std::collections::HashMap;
use std::sync::Arc;

use super::image_part::ImagePart;

/// Parts that are kept, at the most: 8 MiB.
const MOST_PARTS: usize = 256;

/// Keeps parts. A new part replaces one that was not used since the last check ("clock" algorithm), so that a device
/// that reads an image once from its beginning to its end does not evict what others use.
#[derive(Debug, Default)]
pub(super) struct PartCache {
    places: Vec<CachedPart>,
    by_part: HashMap<ImagePart, usize>,
    /// The place that is checked next.
    hand: usize,
}

#[derive(Debug)]
struct CachedPart {
    part: ImagePart,
    bytes: Arc<[u8]>,
    used: bool,
}

impl PartCache {
    pub(super) fn get(&mut self, part: &ImagePart) -> Option<&[u8]> {
        let place = self.places.get_mut(*self.by_part.get(part)?)?;
        place.used = true;
        Some(&place.bytes)
    }

    pub(super) fn insert(&mut self, part: ImagePart, bytes: Vec<u8>) {
        let new = CachedPart { part: part.clone(), bytes: bytes.into(), used: false };
        let index = match self.by_part.get(&part) {
            Some(index) => *index,
            None if self.places.len() < MOST_PARTS => self.places.len(),
            None => self.unused(),
        };
        match self.places.get_mut(index) {
            Some(place) => {
                self.by_part.remove(&place.part);
                *place = new;
            }
            None => self.places.push(new),
        }
        self.by_part.insert(part, index);
    }

    /// Drops the parts that fulfil this condition.
    pub(super) fn forget(&mut self, is_wrong: impl Fn(&ImagePart) -> bool) {
        self.places.retain(|place| !is_wrong(&place.part));
        self.by_part = self.places.iter().enumerate().map(|(index, place)| (place.part.clone(), index)).collect();
        self.hand = 0;
    }

    /// Returns the next place that was not used since the last look, and marks those before it as unused.
    fn unused(&mut self) -> usize {
        loop {
            let index = self.hand % self.places.len().max(1);
            self.hand = index + 1;
            let was_used = self.places.get_mut(index).is_some_and(|place| std::mem::take(&mut place.used));
            if !was_used {
                return index;
            }
        }
    }
}
