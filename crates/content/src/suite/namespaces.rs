//! The four cases of containerd's suite for stores with namespaces, under their names there.
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/core/content/testsuite/testsuite.go>

use std::io::Write;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use super::NamespaceCase;
use super::containerd::create_content;
use super::describe;
use crate::Error;
use crate::Expected;
use crate::Ingest;
use crate::Labels;
use crate::Store;
use crate::read;
use crate::write;

/// For namespaces that share: what one has, the other is given once it asks for it by its digest.
pub const CROSS_NAMESPACE_SHARED: &[(&str, NamespaceCase)] =
    &[("CrossNSAppend", append), ("CrossNSShare", share)];

/// For namespaces that keep to themselves.
pub const CROSS_NAMESPACE_ISOLATED: &[(&str, NamespaceCase)] = &[("CrossNSIsolate", isolate)];

/// For namespaces that keep to themselves, of which the first shares all the same.
pub const SHARED_NAMESPACE_ISOLATED: &[(&str, NamespaceCase)] = &[("SharedNSIsolate", share_one_way)];

fn append(first: &dyn Store, second: &dyn Store) {
    let (bytes, descriptor) = given(first);
    let mut ingest = take(second, &descriptor);
    ingest.write_all(b"appended bytes").unwrap();
    let longer = describe(&[&bytes[..], b"appended bytes"].concat());
    ingest.commit(Some(&longer), Labels::new()).unwrap();
    assert_eq!(read(first, &descriptor, 1000).unwrap(), bytes);
    assert!(matches!(second.info(&descriptor.digest), Err(Error::NotFound { .. })));
    assert_eq!(second.info(&longer.digest).unwrap().size, 1014);
}

fn share(first: &dyn Store, second: &dyn Store) {
    let (bytes, descriptor) = given(first);
    let ingest = take(second, &descriptor);
    ingest.commit(Some(&descriptor), Labels::new()).unwrap();
    assert_eq!(read(first, &descriptor, 1000).unwrap(), bytes);
    assert_eq!(read(second, &descriptor, 1000).unwrap(), bytes);
    // Each has what it says of the blob for itself.
    second.update(&descriptor.digest, Labels::from([("key".into(), "value".into())])).unwrap();
    assert_eq!(first.info(&descriptor.digest).unwrap().labels, Labels::new());
    second.remove(&descriptor.digest).unwrap();
    assert_eq!(read(first, &descriptor, 1000).unwrap(), bytes);
}

/// Knowing a digest gives nobody its bytes.
fn isolate(first: &dyn Store, second: &dyn Store) {
    let (bytes, descriptor) = given(first);
    assert!(matches!(second.open(&descriptor).map(drop), Err(Error::NotFound { .. })));
    let mut ingest = second.begin("key", &Expected::from(&descriptor)).unwrap();
    assert_eq!((ingest.offset(), ingest.digest()), (0, Digest::sha256(b"")));
    ingest.write_all(&bytes).unwrap();
    ingest.commit(Some(&descriptor), Labels::new()).unwrap();
    assert_eq!(read(second, &descriptor, 1000).unwrap(), bytes);
}

fn share_one_way(first: &dyn Store, second: &dyn Store) {
    share(first, second);
    let own = write(second, MediaType::OCI_LAYER, b"of the second alone").unwrap();
    assert_eq!(first.begin("key", &Expected::from(&own)).unwrap().offset(), 0);
}

fn given(store: &dyn Store) -> (Vec<u8>, Descriptor) {
    let bytes = create_content(1, 1000);
    let descriptor = write(store, MediaType::OCI_LAYER, &bytes).unwrap();
    (bytes, descriptor)
}

/// Begins an ingest of a blob that another namespace has.
fn take(store: &dyn Store, descriptor: &Descriptor) -> Box<dyn Ingest> {
    assert!(matches!(store.open(descriptor).map(drop), Err(Error::NotFound { .. })));
    let ingest = store.begin("key", &Expected::from(descriptor)).unwrap();
    assert_eq!((ingest.offset(), ingest.digest()), (1000, descriptor.digest.clone()));
    let status = store.status("key").unwrap();
    assert_eq!((status.offset, status.total), (1000, Some(1000)));
    ingest
}
