//! The client against a registry that counts and misbehaves.

mod auth;
mod blobs;
mod economy;
mod faults;
mod mirrors;
mod patience;
mod proxies;
mod quirks;
mod tls;
mod uploads;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use restow_content::Blob;
use restow_content::InMemory;
use restow_content::Provider as _;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use restow_testkit::Registry;

use super::*;
use crate::Name;
use crate::Remote;

/// A clock that goes on by itself while somebody sleeps, and loses patience when a peer has surely stalled.
#[derive(Debug, Default)]
struct Manual {
    now: Mutex<Duration>,
    slept: Mutex<Vec<Duration>>,
    /// Whose answers are waited for until they are known to hang.
    peer: Mutex<Option<Arc<Registry>>>,
    /// How many of those have been given up.
    given_up: Arc<std::sync::atomic::AtomicUsize>,
}

impl Manual {
    fn slept(&self) -> Vec<Duration> {
        self.slept.lock().unwrap().clone()
    }
}

impl Clock for Manual {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) -> Wait {
        *self.now.lock().unwrap() += duration;
        self.slept.lock().unwrap().push(duration);
        Box::pin(std::future::ready(()))
    }

    fn patience(&self, _: Duration) -> Wait {
        if let Some(peer) = self.peer.lock().unwrap().clone() {
            let given_up = self.given_up.clone();
            return Box::pin(async move {
                while peer.stalled() <= given_up.load(std::sync::atomic::Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                given_up.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        Box::pin(std::future::pending())
    }
}

fn client_with(settings: Settings) -> (Client, Arc<Manual>) {
    let clock = Arc::new(Manual::default());
    let client = Client::new(Settings { clock: clock.clone(), ..settings }).unwrap();
    (client, clock)
}

fn client() -> Client {
    client_with(Settings::default()).0
}

fn name(registry: &Registry, rest: &str) -> Name {
    Name::parse(&registry.name(rest)).unwrap()
}

fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(bytes), bytes.len() as u64)
}

/// Bytes as a blob.
fn blob(bytes: &[u8]) -> Arc<dyn Blob> {
    Arc::new(InMemory(bytes.to_vec()))
}

/// Bytes that do not repeat, more than are kept in memory.
fn large(size: usize) -> Vec<u8> {
    restow_testkit::Random::new(7).bytes(size)
}

/// Reads a blob as a copy does.
fn read_through(client: &Client, name: &Name, descriptor: &Descriptor) -> restow_content::Result<Vec<u8>> {
    let remote = Remote::new(client, &name.repository).expecting(&descriptor.digest);
    restow_content::read(&remote, descriptor, u64::MAX)
}
