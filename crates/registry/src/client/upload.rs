//! Blobs on their way up.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header;
use restow_content::Blob;
use restow_oci::Descriptor;
use restow_oci::Digest;

use super::Client;
use super::Core;
use super::Endpoint;
use super::RequestKind;
use super::auth;
use super::http::Call;
use super::http::Response;
use super::payload::Digesters;
use super::payload::Part;
use super::payload::Payload;
use crate::Error;
use crate::Remote;
use crate::Repository;
use crate::Result;

/// Blobs larger than this are looked for before they are sent; smaller ones cost less to send.
pub(crate) const WORTH_A_HEAD: u64 = 64 << 10;
/// The sizes of pieces for a registry, or a proxy before it, that takes no blob whole. The last is the most that nginx
/// takes if nobody has told it otherwise.
const CHUNKS: [u64; 3] = [16 << 20, 4 << 20, 1 << 20];

/// How a blob came to lie in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// It was there.
    There,
    /// It was taken from another repository of the registry.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// Which blobs a repository is asked for before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// All of them: they may well be there.
    Always,
    /// Those that are larger than [`WORTH_A_HEAD`]: they hardly are.
    IfLarge,
}

impl Client {
    /// Sees to it that a blob lies in a repository: it is taken from one of `others` of the same registry, or
    /// sent, unless it is there. `blob` must be what `descriptor` says, and is verified while it is read.
    pub fn push_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        blob: &Arc<dyn Blob>,
        others: &[Repository],
    ) -> Result<Pushed> {
        let open = || Ok(blob.clone());
        self.push_opened(repository, descriptor, &open, others, Look::IfLarge)
    }

    /// As [`push_blob`](Client::push_blob), with a blob that is opened only if it has to be sent.
    pub(crate) fn push_opened(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        open: &dyn Fn() -> Result<Arc<dyn Blob>>,
        others: &[Repository],
        look: Look,
    ) -> Result<Pushed> {
        // Two images may share a blob: it is sent once.
        let flight = self.core.cache.flight(format!("push {repository} {}", descriptor.digest));
        let _alone = flight.blocking_lock();
        let found = self.wait(self.core.find_or_mount(repository, descriptor, others, look))?;
        let session = match found {
            Found::Is(pushed) => return Ok(pushed),
            Found::Not(session) => session,
        };
        // Opening may itself ask a registry, and wait for it.
        let blob = open()?;
        self.upload(repository, descriptor, blob, session)
    }

    /// Sees to it that a blob of another repository lies in this one: taken from there where the registry is the same,
    /// fetched and sent otherwise. Nothing need be known of it but its digest.
    pub(crate) fn copy_blob(&self, from: &Repository, digest: &Digest, to: &Repository) -> Result<Pushed> {
        let flight = self.core.cache.flight(format!("push {to} {digest}"));
        let _alone = flight.blocking_lock();
        if self.core.cache.holds(to, digest) {
            return Ok(Pushed::There);
        }
        if from == to {
            let missing = || Error::NotInRegistry { name: from.at(digest).to_string() };
            return if self.blob_head(to, digest)?.is_some() { Ok(Pushed::There) } else { Err(missing()) };
        }
        let mut session = None;
        if from.host() == to.host() {
            match self.wait(self.core.mount(to, digest, from))? {
                Ok(()) => return Ok(Pushed::Mounted),
                Err(opened) => session = opened,
            }
        }
        let (descriptor, blob) = Remote::new(self, from).begin(digest)?;
        match self.wait(self.core.find(to, &descriptor, session, Look::IfLarge))? {
            Found::Is(pushed) => Ok(pushed),
            Found::Not(session) => self.upload(to, &descriptor, blob, session),
        }
    }

    fn upload(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        blob: Arc<dyn Blob>,
        session: Option<Session>,
    ) -> Result<Pushed> {
        let endpoint = self.core.upstream(repository)?;
        let scopes = [auth::push(&endpoint)];
        let digesters = Arc::new(Digesters::new(&descriptor.digest));
        let upload =
            Upload { core: &self.core, endpoint: &endpoint, scopes: &scopes, descriptor, blob, digesters };
        self.wait(upload.run(session))?;
        self.core.cache.sent(repository, &descriptor.digest);
        Ok(Pushed::Uploaded)
    }

    /// Returns whether a repository that is written to holds a blob. Within a run, it is asked once.
    pub(crate) fn holds(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        if self.core.cache.holds(repository, digest) {
            return Ok(true);
        }
        Ok(self.wait(self.core.blob_head(repository, digest, true))?.is_some())
    }
}

/// What a look at the registry brought.
enum Found {
    Is(Pushed),
    /// It has to be sent, perhaps by an upload that is open already.
    Not(Option<Session>),
}

/// An upload that the registry has opened.
#[derive(Debug)]
struct Session {
    location: Url,
    /// The smallest piece that the registry takes, the last one excepted.
    minimum: u64,
}

impl Core {
    async fn find_or_mount(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        others: &[Repository],
        look: Look,
    ) -> Result<Found> {
        if self.cache.holds(repository, &descriptor.digest) {
            return Ok(Found::Is(Pushed::There));
        }
        let mut session = None;
        for other in others.iter().filter(|other| *other != repository && other.host() == repository.host()) {
            match self.mount(repository, &descriptor.digest, other).await? {
                Ok(()) => return Ok(Found::Is(Pushed::Mounted)),
                Err(opened) => session = opened.or(session),
            }
        }
        self.find(repository, descriptor, session, look).await
    }

    /// Looks for a blob, if it is worth a look. `session` is an upload that is open for it.
    async fn find(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        session: Option<Session>,
        look: Look,
    ) -> Result<Found> {
        let Descriptor { digest, size, .. } = descriptor;
        if (look == Look::Always || *size > WORTH_A_HEAD)
            && let Some(head) = self.blob_head(repository, digest, true).await?
        {
            if let Some(found) = head.size.filter(|found| found != size) {
                let (digest, expected) = (digest.clone(), *size);
                return Err(restow_content::Error::WrongSize { digest, expected, actual: found }.into());
            }
            if let Some(Session { location, .. }) = session {
                // Nobody waits for what will not come.
                let endpoint = self.upstream(repository)?;
                let scopes = [auth::push(&endpoint)];
                let call = Call::new(RequestKind::Upload, Method::DELETE, location, &scopes);
                drop(self.http.send(&endpoint, call.once()).await);
            }
            return Ok(Found::Is(Pushed::There));
        }
        Ok(Found::Not(session))
    }

    /// Takes a blob from another repository. A registry that declines may have opened an upload instead. Whatever the
    /// refusal is, the blob can be sent.
    async fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        other: &Repository,
    ) -> Result<Result<(), Option<Session>>> {
        if self.unmountable(repository, other) {
            return Ok(Err(None));
        }
        let endpoint = self.upstream(repository)?;
        let scopes = [auth::push(&endpoint), auth::pull_from(other)];
        let mut url = endpoint.url("blobs/uploads/");
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", other.path());
        let call = Call::new(RequestKind::BlobMount, Method::POST, url, &scopes)
            .payload(Payload::Bytes(Bytes::new()))
            .once();
        let response = match self.http.send(&endpoint, call).await {
            Ok(response) => response,
            // There may be no token for both repositories, though there is one for each.
            Err(Error::Unauthorized { .. } | Error::Connection { .. }) => {
                self.give_up_mounting(repository, other);
                return Ok(Err(None));
            }
            Err(error) => return Err(error),
        };
        match response.status() {
            StatusCode::CREATED if !opens_upload(&response) => {
                self.cache.sent(repository, digest);
                Ok(Ok(()))
            }
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => {
                Ok(Err(session(&endpoint, &response).ok()))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(response.into_error().await),
            // The other repository may lack the blob.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Ok(Err(None)),
            _ => {
                self.give_up_mounting(repository, other);
                Ok(Err(None))
            }
        }
    }
}

/// Returns whether an answer is that to the beginning of an upload, and not that to a mount: some registries give both
/// the same status.
fn opens_upload(response: &Response) -> bool {
    let location = response.text_header(header::LOCATION).unwrap_or_default();
    response.headers().contains_key("docker-upload-uuid") || location.contains("/blobs/uploads/")
}

/// Takes an open upload from the answer that opened it or went on with it.
fn session(endpoint: &Endpoint, response: &Response) -> Result<Session> {
    let location = response.text_header(header::LOCATION);
    let location = location.and_then(|location| response.url().join(location).ok());
    let Some(mut location) = location.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return Err(response.protocol("the upload has no location"));
    };
    if location.scheme() == "http" && endpoint.base.scheme() == "https" {
        // A registry behind a proxy that ends TLS may not know that it is behind one. Elsewhere, no bytes go
        // in the clear that came by TLS.
        let _ = location.set_scheme("https");
        if location.host() != endpoint.base.host() {
            return Err(response.protocol("the upload goes on without TLS"));
        }
    }
    let minimum = response.text_header("oci-chunk-min-length").and_then(|length| length.parse().ok());
    Ok(Session { location, minimum: minimum.unwrap_or(0) })
}

/// A blob that has to be sent.
struct Upload<'a> {
    core: &'a Arc<Core>,
    endpoint: &'a Endpoint,
    scopes: &'a [String],
    descriptor: &'a Descriptor,
    blob: Arc<dyn Blob>,
    digesters: Arc<Digesters>,
}

impl Upload<'_> {
    /// Sends the blob, from where the registry has got to if a connection breaks.
    async fn run(&self, open: Option<Session>) -> Result<()> {
        let settings = self.core.settings();
        let mut chunk = settings.chunk_size;
        let mut open = open.map(|session| (session, 0));
        let mut failures = 0;
        loop {
            let (session, offset) = match open.take() {
                Some(open) => open,
                None => (self.start().await?, 0),
            };
            let location = session.location.clone();
            let error = match self.send(session, offset, chunk).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                Error::Connection { .. } => {}
                Error::Status { status, .. } if *status >= 500 => {}
                // The registry has other bytes than we thought, or has forgotten the upload.
                Error::Status { status: 416, .. } => {}
                Error::Status { status: 404, .. } if failures > 0 => {}
                Error::Status { status: 413, .. } => {
                    let size = chunk.unwrap_or(u64::MAX).min(self.descriptor.size);
                    let Some(smaller) = CHUNKS.into_iter().find(|&smaller| smaller < size) else {
                        return Err(error);
                    };
                    chunk = Some(smaller);
                    continue;
                }
                _ => return Err(error),
            }
            failures += 1;
            if failures >= settings.attempts {
                return Err(error);
            }
            let what = format!("upload {}", self.descriptor.digest);
            settings.clock.sleep(self.core.http.backoff(&what, failures)).await;
            // Each second time anew, in case what is there is of no use.
            if failures % 2 == 1 {
                open = self.resume(location).await;
            }
        }
    }

    async fn start(&self) -> Result<Session> {
        let url = self.endpoint.url("blobs/uploads/");
        let call = Call::new(RequestKind::Upload, Method::POST, url, self.scopes)
            .payload(Payload::Bytes(Bytes::new()));
        let response = self.core.http.send(self.endpoint, call).await?;
        match response.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => session(self.endpoint, &response),
            _ => Err(response.into_error().await),
        }
    }

    /// Asks how far an upload has come.
    async fn resume(&self, location: Url) -> Option<(Session, u64)> {
        let call = Call::new(RequestKind::Upload, Method::GET, location.clone(), self.scopes).once();
        let response = self.core.http.send(self.endpoint, call).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let offset = received(&response)?;
        let session = session(self.endpoint, &response).unwrap_or(Session { location, minimum: 0 });
        (offset <= self.descriptor.size).then_some((session, offset))
    }

    /// Sends what is missing from `offset` on, in one piece or in several, and closes the upload.
    async fn send(&self, mut session: Session, offset: u64, chunk: Option<u64>) -> Result<()> {
        let size = self.descriptor.size;
        let chunk = chunk.unwrap_or(u64::MAX).max(session.minimum).max(1);
        // What was begun in pieces ends in pieces.
        if offset == 0 && size <= chunk {
            return self.close(session, Some((0, size))).await;
        }
        let mut offset = offset;
        while offset < size {
            let end = offset.saturating_add(chunk).min(size);
            let call = Call::new(RequestKind::Upload, Method::PATCH, session.location.clone(), self.scopes)
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_RANGE, format!("{offset}-{}", end - 1))
                .payload(self.part(offset, end))
                .once();
            let response = self.core.http.send(self.endpoint, call).await?;
            if !response.status().is_success() {
                return Err(response.into_error().await);
            }
            // A single byte and none look the same.
            if let Some(received) = received(&response).filter(|&received| received != end && end > 1) {
                let problem = format!("the registry has {received} bytes of the blob, was sent {end}");
                return Err(response.protocol(problem));
            }
            session = super::upload::session(self.endpoint, &response)
                .map(|next| Session { minimum: next.minimum.max(session.minimum), ..next })?;
            offset = end;
        }
        self.close(session, None).await
    }

    async fn close(&self, session: Session, part: Option<(u64, u64)>) -> Result<()> {
        let mut url = session.location;
        url.query_pairs_mut().append_pair("digest", self.descriptor.digest.as_str());
        let payload = match part {
            Some((start, end)) if end > start => self.part(start, end),
            _ => Payload::Bytes(Bytes::new()),
        };
        let call = Call::new(RequestKind::Upload, Method::PUT, url, self.scopes)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .payload(payload)
            .once();
        let response = self.core.http.send(self.endpoint, call).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(response.into_error().await),
        }
    }

    fn part(&self, start: u64, end: u64) -> Payload {
        let (blob, descriptor) = (self.blob.clone(), self.descriptor.clone());
        let digesters = self.digesters.clone();
        Payload::Part(Box::new(Part { blob, descriptor, start, end, digesters }))
    }
}

/// Returns how many bytes the registry says it has.
fn received(response: &Response) -> Option<u64> {
    let range = response.text_header(header::RANGE)?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    // Nothing is written as 0-0 too, and a single byte is not worth the difference.
    (start == 0).then_some(if end == 0 { 0 } else { end + 1 })
}
