//! The four cases of containerd's suite for stores with namespaces.

use std::io::Write;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use super::containerd::create_content;
use super::describe;
use crate::Error;
use crate::Expected;
use crate::Labels;
use crate::Store;
use crate::read;
use crate::write;

/// `CrossNSShare` and `CrossNSAppend`, and `SharedNSIsolate` where only the first namespace is shared: what
/// one store wrote is given to the other, once that asks for it by its digest.
pub fn shared<S: Store>(new: impl Fn() -> (S, S)) {
    let (first, second) = new();
    let (bytes, descriptor) = given(&first);
    let ingest = take(&second, &descriptor);
    ingest.commit(Some(&descriptor), Labels::new()).unwrap();
    assert_eq!(read(&first, &descriptor, 1000).unwrap(), bytes);
    assert_eq!(read(&second, &descriptor, 1000).unwrap(), bytes);
    // Each has what it says of the blob for itself.
    second.update(&descriptor.digest, Labels::from([("key".into(), "value".into())])).unwrap();
    assert_eq!(first.info(&descriptor.digest).unwrap().labels, Labels::new());
    second.remove(&descriptor.digest).unwrap();
    assert_eq!(read(&first, &descriptor, 1000).unwrap(), bytes);

    let (first, second) = new();
    let (bytes, descriptor) = given(&first);
    let mut ingest = take(&second, &descriptor);
    ingest.write_all(b"appended bytes").unwrap();
    let longer = describe(&[&bytes[..], b"appended bytes"].concat());
    ingest.commit(Some(&longer), Labels::new()).unwrap();
    assert_eq!(read(&first, &descriptor, 1000).unwrap(), bytes);
    assert!(matches!(second.info(&descriptor.digest), Err(Error::NotFound { .. })));
    assert_eq!(second.info(&longer.digest).unwrap().size, 1014);
}

/// `CrossNSIsolate`: knowing a digest gives nobody its bytes.
pub fn isolated<S: Store>(new: impl Fn() -> (S, S)) {
    let (first, second) = new();
    let (bytes, descriptor) = given(&first);
    assert!(matches!(second.open(&descriptor).map(drop), Err(Error::NotFound { .. })));
    let mut ingest = second.begin("key", &Expected::from(&descriptor)).unwrap();
    assert_eq!((ingest.offset(), ingest.digest()), (0, Digest::sha256(b"")));
    ingest.write_all(&bytes).unwrap();
    ingest.commit(Some(&descriptor), Labels::new()).unwrap();
    assert_eq!(read(&second, &descriptor, 1000).unwrap(), bytes);
}

fn given(store: &dyn Store) -> (Vec<u8>, Descriptor) {
    let bytes = create_content(1, 1000);
    let descriptor = write(store, MediaType::OCI_LAYER, &bytes).unwrap();
    (bytes, descriptor)
}

/// Begins an ingest of a blob that another namespace has.
fn take(store: &dyn Store, descriptor: &Descriptor) -> Box<dyn crate::Ingest> {
    assert!(matches!(store.open(descriptor).map(drop), Err(Error::NotFound { .. })));
    let ingest = store.begin("key", &Expected::from(descriptor)).unwrap();
    assert_eq!((ingest.offset(), ingest.digest()), (1000, descriptor.digest.clone()));
    let status = store.status("key").unwrap();
    assert_eq!((status.offset, status.total), (1000, Some(1000)));
    ingest
}
