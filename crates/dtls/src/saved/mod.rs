//! Serialization of associations, so that they survive a restart.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use zeroize::Zeroizing;

use lwm2m_base::AssociationId;

use super::association::{Association, RestoredAssociation};
use super::cipher::{RecordKeys, Suite};
use super::credentials::{KeyKind, KeyMark, KeyTag};
use super::record::PeerCid;
use super::replay_window::ReplayWindow;
use super::write_terms::UsedNumbers;
use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_cluster::Term;

/// The record of an association. It has its keys in it: its `Debug` does not say them.
///
/// Sockets are numbers of a configuration, and the next process may have another one: they stand here, and not in
/// `bytes`, so that who keeps the record can keep the names of the listeners.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedAssociation {
    pub id: AssociationId,
    /// The socket that it was made at: a part of its name, [`lwm2m_base::Peer`].
    pub made_at: u16,
    /// The socket that it is reached by.
    pub reached_by: u16,
    /// All the rest. Opaque; for [`super::DtlsServer::restore`].
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SavedAssociation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedAssociation({:?}, ..)", self.id)
    }
}

/// The record numbers that an association has used, as its stored record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedNumbers {
    /// None is of a later term than this one.
    UpTo(Term),
    /// The record is of a format without terms. A gateway without a cluster restores it, a node of a cluster does not.
    BeforeTerms,
    /// The record cannot be read.
    Unreadable,
}

impl SavedAssociation {
    /// Returns the record numbers that the association has used.
    pub fn numbers(&self) -> SavedNumbers {
        match load(self).map(|loaded| loaded.used_numbers) {
            Some(UsedNumbers::Terms { born, term }) => SavedNumbers::UpTo(born.max(term)),
            Some(UsedNumbers::Sequence(_)) => SavedNumbers::BeforeTerms,
            None => SavedNumbers::Unreadable,
        }
    }
}

/// The news of one association, for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssociationChange {
    /// Replaces the stored record of an association.
    Put(SavedAssociation),
    Remove(AssociationId),
}

impl AssociationChange {
    pub fn id(&self) -> AssociationId {
        match self {
            Self::Put(saved) => saved.id,
            Self::Remove(id) => *id,
        }
    }
}

/// The version of the format. It is raised whenever the meaning of the bytes behind it changes.
const FORMAT: u8 = 4;

/// The format with the next sequence number in the place of the terms.
const FORMAT_WITHOUT_TERMS: u8 = 3;

/// The format without terms and without the tag of the key.
const FORMAT_WITHOUT_TAG: u8 = 2;

/// The format without terms and without the kind of the key. All keys were for registrations.
const FORMAT_WITHOUT_KIND: u8 = 1;

/// Integers are big-endian; what has no fixed length has it before it, in two bytes. The keys are the last, so that no
/// copy of them is left behind by a buffer that grows.
pub(super) fn save(association: &Association) -> SavedAssociation {
    let (window, received) = association.window.parts();
    let mut open = vec![FORMAT, suite_number(association.keys.suite()), association.has_own_cid.into()];
    open.push(kind_number(association.key.map(|key| key.kind)));
    let tag = association.key.and_then(|key| key.tag);
    put(&mut open, tag.as_ref().map_or(&[], |tag| &tag.0));
    let born = association.numbers.born();
    let term = association.numbers.term().unwrap_or(born);
    for number in [born.number(), term.number(), window, received, association.failed_tags] {
        open.extend_from_slice(&number.to_be_bytes());
    }
    put(&mut open, association.peer_cid.as_ref().map_or(&[], PeerCid::as_bytes));
    put_address(&mut open, association.made_at.1);
    put_address(&mut open, association.place.1);
    put_identity(&mut open, &association.identity);
    put_all(&mut open, association.last_flight.iter().map(Vec::as_slice));
    let block = association.keys.block();
    let mut bytes = Zeroizing::new(Vec::with_capacity(open.len() + block.len()));
    bytes.extend_from_slice(&open);
    bytes.extend_from_slice(block);
    let (made_at, reached_by) = (association.made_at.0, association.place.0);
    SavedAssociation { id: association.id, made_at, reached_by, bytes }
}

/// Loads a record; `None` if [`save`] did not write it, or in another version.
pub(super) fn load(saved: &SavedAssociation) -> Option<RestoredAssociation> {
    let mut reader = SavedReader(&saved.bytes);
    let format = reader.byte()?;
    if ![FORMAT, FORMAT_WITHOUT_TERMS, FORMAT_WITHOUT_TAG, FORMAT_WITHOUT_KIND].contains(&format) {
        return None;
    }
    let suite = Suite::ALL.into_iter().find(|suite| Some(suite_number(*suite)) == saved.bytes.get(1).copied())?;
    reader.byte()?;
    let has_own_cid = reader.byte()? != 0;
    let stored_kind = if format == FORMAT_WITHOUT_KIND { None } else { Some(reader.kind()?) };
    let tag = if [FORMAT, FORMAT_WITHOUT_TERMS].contains(&format) { reader.tag()? } else { None };
    let used_numbers = match format {
        FORMAT => UsedNumbers::Terms { born: reader.term()?, term: reader.term()? },
        _ => UsedNumbers::Sequence(reader.number()?),
    };
    let [newest, received, failed_tags] = [reader.number()?, reader.number()?, reader.number()?];
    let peer_cid = PeerCid::new(reader.bytes()?);
    let made_at = (saved.made_at, reader.address()?);
    let place = (saved.reached_by, reader.address()?);
    let identity = reader.identity()?;
    let of_former_format = matches!(identity, Identity::Psk(_)).then_some(KeyKind::Registration);
    let key = stored_kind.unwrap_or(of_former_format).map(|kind| KeyMark { kind, tag });
    let last_flight = (0..reader.length()?).map(|_| Some(reader.bytes()?.to_vec())).collect::<Option<_>>()?;
    let keys = RecordKeys::from_block(suite, reader.0)?;
    let window = ReplayWindow::from_parts(newest, received);
    let id = saved.id;
    let restored = RestoredAssociation {
        id,
        made_at,
        place,
        keys,
        has_own_cid,
        peer_cid,
        used_numbers,
        window,
        failed_tags,
        last_flight,
        identity,
        key,
    };
    Some(restored)
}

/// Returns the number of a suite in the stored format. A number never changes, since the store outlives the process.
fn suite_number(suite: Suite) -> u8 {
    match suite {
        Suite::Aes128Ccm8 => 1,
        Suite::Aes128Ccm => 2,
        Suite::Aes128Gcm => 3,
        Suite::Aes128CbcSha256 => 4,
        Suite::Aes256Ccm8 => 5,
        Suite::Aes256Ccm => 6,
        Suite::Aes256Gcm => 7,
        Suite::Aes256CbcSha384 => 8,
    }
}

/// Returns the number of a kind of keys in the stored format.
fn kind_number(kind: Option<KeyKind>) -> u8 {
    match kind {
        None => 0,
        Some(KeyKind::Registration) => 1,
        Some(KeyKind::Generated) => 2,
        Some(KeyKind::Bootstrap) => 3,
    }
}

fn put(bytes: &mut Vec<u8>, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("a datagram, a key or a name is shorter than 64 KiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
}

fn put_all<'a>(bytes: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]> + Clone) {
    let number =
        u16::try_from(values.clone().count()).expect("a certificate has fewer names, a flight fewer datagrams");
    bytes.extend_from_slice(&number.to_be_bytes());
    values.for_each(|value| put(bytes, value));
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => put(bytes, &[&v4.ip().octets()[..], &v4.port().to_be_bytes()].concat()),
        SocketAddr::V6(v6) => {
            let ip = v6.ip().octets();
            put(bytes, &[&ip[..], &v6.port().to_be_bytes(), &v6.scope_id().to_be_bytes()].concat());
        }
    }
}

fn put_identity(bytes: &mut Vec<u8>, identity: &Identity) {
    match identity {
        Identity::Unknown => bytes.push(0),
        Identity::Psk(identity) => {
            bytes.push(1);
            put(bytes, identity.as_str().as_bytes());
        }
        Identity::Certificate { common_name, alternative_names } => {
            bytes.push(if common_name.is_some() { 2 } else { 3 });
            put_all(bytes, common_name.iter().chain(alternative_names).map(String::as_bytes));
        }
        Identity::RawPublicKey { name } => {
            bytes.push(4);
            put(bytes, name.as_bytes());
        }
    }
}

struct SavedReader<'a>(&'a [u8]);

impl<'a> SavedReader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn kind(&mut self) -> Option<Option<KeyKind>> {
        let kinds = [None, Some(KeyKind::Registration), Some(KeyKind::Generated), Some(KeyKind::Bootstrap)];
        let number = self.byte()?;
        kinds.into_iter().find(|kind| kind_number(*kind) == number)
    }

    fn tag(&mut self) -> Option<Option<KeyTag>> {
        match self.bytes()? {
            [] => Some(None),
            tag => Some(Some(KeyTag(tag.try_into().ok()?))),
        }
    }

    fn length(&mut self) -> Option<usize> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*length).into())
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn term(&mut self) -> Option<Term> {
        self.number().map(Term::new)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn address(&mut self) -> Option<SocketAddr> {
        match *self.bytes()? {
            [a, b, c, d, p0, p1] => Some((IpAddr::from([a, b, c, d]), u16::from_be_bytes([p0, p1])).into()),
            ref v6 => {
                let (ip, rest) = v6.split_first_chunk::<16>()?;
                let [p0, p1, s0, s1, s2, s3] = *rest else { return None };
                let (port, scope) = (u16::from_be_bytes([p0, p1]), u32::from_be_bytes([s0, s1, s2, s3]));
                Some(SocketAddrV6::new((*ip).into(), port, 0, scope).into())
            }
        }
    }

    fn identity(&mut self) -> Option<Identity> {
        match self.byte()? {
            0 => Some(Identity::Unknown),
            1 => Some(Identity::Psk(PskIdentity::new(self.bytes()?)?)),
            2 => {
                let mut names = self.names()?.into_iter();
                Some(Identity::Certificate { common_name: names.next(), alternative_names: names.collect() })
            }
            3 => Some(Identity::Certificate { common_name: None, alternative_names: self.names()? }),
            4 => Some(Identity::RawPublicKey { name: self.text()? }),
            _ => None,
        }
    }

    fn names(&mut self) -> Option<Vec<String>> {
        let number = self.length()?;
        std::iter::repeat_with(|| self.text()).take(number).collect()
    }
}

#[cfg(test)]
mod tests;
