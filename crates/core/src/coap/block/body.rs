//! The body of a request of the gateway that is sent block by block: it is held whole, or its owner supplies it part by
//! part.

/// The bytes of a body.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Vec<u8>),
    Supplied(SuppliedBody),
}

/// A body that its owner supplies part by part, such as a file. Only the part for the next block is held.
#[derive(Debug)]
pub(crate) struct SuppliedBody {
    /// The bytes in front of the supplied ones.
    head: Vec<u8>,
    /// The number of bytes that are supplied.
    size: usize,
    /// The place of `part` among the bytes that are supplied.
    begin: usize,
    part: Vec<u8>,
}

impl SuppliedBody {
    pub(crate) fn new(head: Vec<u8>, size: usize) -> Self {
        Self { head, size, begin: 0, part: Vec::new() }
    }
}

impl Body {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Supplied(body) => body.head.len() + body.size,
        }
    }

    /// Returns the bytes of this range; an error is the offset of the first missing byte among those that are supplied.
    pub(crate) fn get(&self, begin: usize, end: usize) -> Result<Vec<u8>, usize> {
        match self {
            Self::Whole(bytes) => Ok(bytes.get(begin..end).unwrap_or_default().to_vec()),
            Self::Supplied(SuppliedBody { head, begin: at, part, .. }) => {
                let mut bytes = head.get(begin.min(head.len())..end.min(head.len())).unwrap_or_default().to_vec();
                let (from, to) = (begin.saturating_sub(head.len()), end.saturating_sub(head.len()));
                if from < *at {
                    return Err(from);
                }
                let Some(supplied) = part.get(from - at..to - at) else {
                    let held = at + part.len();
                    return Err(if from > held { from } else { held });
                };
                bytes.extend_from_slice(supplied);
                Ok(bytes)
            }
        }
    }

    /// Takes the bytes from this offset on. Those before `needed`, an offset in the whole body, are dropped.
    pub(crate) fn supply(&mut self, place: usize, bytes: &[u8], needed: usize) {
        let Self::Supplied(SuppliedBody { head, size, begin, part }) = self else { return };
        if place != *begin + part.len() {
            (*begin, *part) = (place, Vec::new());
        }
        part.extend_from_slice(bytes);
        part.truncate(size.saturating_sub(*begin));
        let surplus = needed.saturating_sub(head.len()).saturating_sub(*begin).min(part.len());
        part.drain(..surplus);
        *begin += surplus;
    }

    /// Returns how many of the bytes that are supplied are before this place in the whole body.
    pub(crate) fn supplied_before(&self, place: usize) -> usize {
        match self {
            Self::Whole(_) => place,
            Self::Supplied(body) => place.saturating_sub(body.head.len()),
        }
    }
}
