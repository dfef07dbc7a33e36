//! A file that is opened as a database without being changed: writes of the database, such as the repair after a kill
//! or the tables of a newer format, are kept in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Size of a part that is kept in memory as a whole if something in it is written.
const PART: u64 = 4096;

type FilePart = Box<[u8; PART as usize]>;

/// The file, and what was written.
#[derive(Debug)]
pub(super) struct UnchangedFile(Mutex<Written>);

#[derive(Debug)]
struct Written {
    file: File,
    /// The length of the part of the file that is valid. Zeros follow it.
    of_file: u64,
    length: u64,
    /// The parts that differ from the file, by number.
    parts: BTreeMap<u64, FilePart>,
}

impl UnchangedFile {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self(Mutex::new(Written { file, of_file: length, length, parts: BTreeMap::new() })))
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for UnchangedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.written().read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.written().set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written().write(offset, data)
    }
}

impl Written {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check_end(offset, out.len())?;
        let mut rest = out;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, within) = (at / PART, (at % PART) as usize);
            let length = rest.len().min(PART as usize - within);
            let (now, after) = rest.split_at_mut(length);
            match self.parts.get(&number) {
                Some(part) => now.copy_from_slice(&part[within..within + length]),
                None => self.read_file(at, now)?,
            }
            (rest, at) = (after, at + length as u64);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_end(offset, data.len())?;
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % PART) as usize;
            let (now, after) = rest.split_at(rest.len().min(PART as usize - within));
            self.part(at / PART)?[within..within + now.len()].copy_from_slice(now);
            (rest, at) = (after, at + now.len() as u64);
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        if length < self.length {
            // The part that is cut off is zero if the length grows again.
            let within = (length % PART) as usize;
            if within > 0 {
                self.part(length / PART)?[within..].fill(0);
            }
            self.parts.split_off(&length.div_ceil(PART));
            self.of_file = self.of_file.min(length);
        }
        self.length = length;
        Ok(())
    }

    /// Returns a part that may be written.
    fn part(&mut self, number: u64) -> io::Result<&mut FilePart> {
        if !self.parts.contains_key(&number) {
            let mut part: FilePart = Box::new([0; PART as usize]);
            self.read_file(number * PART, &mut part[..])?;
            self.parts.insert(number, part);
        }
        Ok(self.parts.get_mut(&number).expect("the part was read above"))
    }

    /// Reads bytes of the file, and zeros after those that count.
    fn read_file(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let of_file = self.of_file.saturating_sub(at).min(out.len() as u64) as usize;
        let (read, zeros) = out.split_at_mut(of_file);
        self.file.read_exact_at(read, at)?;
        zeros.fill(0);
        Ok(())
    }

    fn check_end(&self, offset: u64, length: usize) -> io::Result<()> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.length => Ok(()),
            Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a place for a file");
        file.write_all(bytes).expect("room for a file");
        file
    }

    fn contents(backend: &UnchangedFile) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(backend.len().unwrap()).unwrap()];
        backend.read(0, &mut bytes).unwrap();
        bytes
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLength(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let data = prop::collection::vec(1_u8.., 0..9_000);
        let write = (0..20_000_u64, data).prop_map(|(at, data)| Step::Write(at, data));
        prop::collection::vec(prop_oneof![write, (0..20_000_u64).prop_map(Step::SetLength)], 0..12)
    }

    proptest! {
        #[test]
        fn it_reads_as_a_file_that_was_written_and_the_file_does_not_change(
            before in prop::collection::vec(1_u8.., 0..13_000), steps in steps(),
        ) {
            let file = file(&before);
            let backend = UnchangedFile::new(file.try_clone().unwrap()).unwrap();
            let mut expected = before.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = usize::try_from(at).unwrap() + data.len();
                        prop_assert_eq!(backend.write(at, &data).is_ok(), end <= expected.len());
                        if end <= expected.len() {
                            expected[end - data.len()..end].copy_from_slice(&data);
                        }
                    }
                    Step::SetLength(length) => {
                        backend.set_len(length).unwrap();
                        expected.resize(usize::try_from(length).unwrap(), 0);
                    }
                }
                prop_assert_eq!(&contents(&backend), &expected);
            }
            let mut after = vec![0; before.len()];
            file.read_exact_at(&mut after, 0).unwrap();
            prop_assert_eq!((after, file.metadata().unwrap().len()), (before.clone(), before.len() as u64));
        }
    }
}
