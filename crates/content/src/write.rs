//! Writing whole blobs, and moving them between stores.

use std::io;
use std::io::Write;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use crate::Blob;
use crate::Check;
use crate::Error;
use crate::Expected;
use crate::Ingest;
use crate::Ingester;
use crate::Labels;
use crate::Provider;
use crate::Result;
use crate::Store;
use crate::read::PIECE;
use crate::read::digester;
use crate::read::open;
use crate::read::read_some;
use crate::read::settle;

/// Writes `bytes` as a blob and returns its descriptor.
pub fn write(ingester: &dyn Ingester, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
    let descriptor = Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
    let key = format!("write-{}", descriptor.digest);
    let mut ingest = ingest_beside(ingester, &key)?;
    ingest.restart()?;
    ingest.write_all(bytes).map_err(|source| Error::Write { key, offset: ingest.offset(), source })?;
    ingest.commit(Some(&descriptor), Labels::new())?;
    Ok(descriptor)
}

/// Copies the blob that `descriptor` names, verified. A blob of the right size that is there already is left
/// alone; a copy that was interrupted is taken up.
pub fn copy(from: &dyn Provider, to: &dyn Store, descriptor: &Descriptor) -> Result<()> {
    if is_there(to, descriptor)? {
        return Ok(());
    }
    let source = open(from, descriptor)?;
    if let Some(file) = source.file()
        && to.adopt(file, descriptor, Check::Digest)?
    {
        return Ok(());
    }
    let key = format!("copy-{}", descriptor.digest);
    let mut ingest = match begin_beside(to, &key, &Expected::from(descriptor)) {
        // Another writer was here first.
        Err(Error::Exists { .. }) => return Ok(()),
        ingest => ingest?,
    };
    loop {
        let resumed = ingest.offset() > 0;
        match append(&source, &descriptor.digest, &mut *ingest, &key) {
            // Where there is no room for all of it, a part of it is in everybody's way.
            Err(error @ Error::Write { .. }) => {
                let _ = ingest.abort();
                return Err(error);
            }
            appended => appended?,
        }
        match settle(Some(descriptor), ingest.digest(), &*ingest.written()?) {
            Ok(_) => return ingest.commit(Some(descriptor), Labels::new()).map(drop),
            // What was there already may not have been the start of this blob, or more than all of it.
            Err(_) if resumed => ingest.restart()?,
            Err(error) => {
                ingest.abort()?;
                return Err(error);
            }
        }
    }
}

/// Brings the blob that `descriptor` names over as [`copy`] does, but where both stores are directories on one
/// file system, nothing but its size is compared, and its place on the disk is shared if it can be. For blobs that
/// were verified before, as those of a store are.
pub fn link(from: &dyn Provider, to: &dyn Store, descriptor: &Descriptor) -> Result<()> {
    if is_there(to, descriptor)? {
        return Ok(());
    }
    let source = open(from, descriptor)?;
    match source.file() {
        Some(file) if to.adopt(file, descriptor, Check::Size)? => Ok(()),
        _ => copy(from, to, descriptor),
    }
}

/// Returns whether a blob need not be copied. A digest that cannot be verified is refused before anything is
/// written.
fn is_there(to: &dyn Store, descriptor: &Descriptor) -> Result<bool> {
    digester(&descriptor.digest)?;
    match to.info(&descriptor.digest) {
        Ok(info) => Ok(info.size == descriptor.size),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the bytes of `source` from where `ingest` stands to their end.
pub(crate) fn append(source: &dyn Blob, digest: &Digest, ingest: &mut dyn Ingest, key: &str) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(source.size()).unwrap_or(usize::MAX).clamp(1, PIECE)];
    while ingest.offset() < source.size() {
        let offset = ingest.offset();
        let count = match read_some(source, &mut buffer, offset) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            result => result,
        };
        let count = count.map_err(|source| Error::Read { digest: digest.clone(), offset, source })?;
        ingest.write_all(&buffer[..count]).map_err(|source| Error::Write {
            key: key.to_owned(),
            offset,
            source,
        })?;
    }
    Ok(())
}

/// Opens the ingest `key`, or one beside it where another writer holds that.
///
/// Two writers of the same blob then do the work twice and both succeed, instead of one waiting for another
/// that may never finish. The names repeat from run to run, so that what a killed writer left is taken up.
pub fn ingest_beside(ingester: &dyn Ingester, key: &str) -> Result<Box<dyn Ingest>> {
    begin_beside(ingester, key, &Expected::default())
}

/// Opens an ingest as [`ingest_beside`] does, for what is `expected`, as [`Ingester::begin`] does.
pub fn begin_beside(ingester: &dyn Ingester, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>> {
    const WRITERS: usize = 64;
    let mut result = ingester.begin(key, expected);
    for neighbour in 1..WRITERS {
        match result {
            Err(Error::Busy { .. }) => result = ingester.begin(&format!("{key}+{neighbour}"), expected),
            result => return result,
        }
    }
    result
}
