//! Blobs on their way down.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use super::Client;
use super::Core;
use super::Endpoint;
use super::RequestKind;
use super::auth;
use super::cache::OBJECT_SIZE;
use super::hosts::Purpose;
use super::http::Call;
use super::http::Lookup;
use super::http::Response;
use super::http::describe;
use super::http::is_refused;
use super::manifests::check;
use crate::Error;
use crate::Repository;
use crate::Result;

/// How often a connection may break in one download, however far it comes each time.
const BREAKS: u32 = 1000;

/// What a registry says of a blob that it did not send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlobHead {
    /// It need not say.
    pub(crate) size: Option<u64>,
}

impl Client {
    /// Returns the size of a blob that the repository holds, or nothing where it does not. Within a run, it is asked once.
    pub fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        let Some(head) = self.blob_head(repository, digest)? else { return Ok(None) };
        let silent = || Error::Protocol {
            request: format!("HEAD {repository}@{digest}"),
            problem: "the answer names no length".to_owned(),
        };
        head.size.ok_or_else(silent).map(Some)
    }

    /// Returns what the registry says of a blob, if the repository holds it. Within a run, it is asked once.
    pub(crate) fn blob_head(&self, repository: &Repository, digest: &Digest) -> Result<Option<BlobHead>> {
        self.wait(self.core.blob_head(repository, digest, false))
    }

    /// Returns a blob of at most 4 MiB.
    pub fn small_blob(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        self.wait(self.core.small_blob(repository, descriptor))
    }

    /// Removes a blob.
    pub fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.wait(async {
            let endpoint = self.core.upstream(repository)?;
            let url = endpoint.url(&format!("blobs/{digest}"));
            self.core.delete(&endpoint, url, &repository.at(digest)).await?;
            self.core.cache.forget(repository, Some(digest), None);
            Ok(())
        })
    }
}

impl Core {
    /// Asks for the head of a blob, once for all who read; `to_write`: in any case, and with a token that does for
    /// writing, too.
    pub(crate) async fn blob_head(
        &self,
        repository: &Repository,
        digest: &Digest,
        to_write: bool,
    ) -> Result<Option<BlobHead>> {
        let flight = self.cache.flight(format!("head {repository} blob {digest}"));
        let _alone = flight.lock().await;
        if !to_write && let Some(known) = self.cache.blob(repository, digest) {
            return Ok(known);
        }
        let purpose = if to_write { Purpose::Push } else { Purpose::Pull };
        let endpoints = self.endpoints(repository, purpose)?;
        let mut result = Ok(Lookup::Absent);
        for endpoint in &*endpoints {
            result = self.blob_head_at(endpoint, digest, to_write).await;
            if matches!(result, Ok(Lookup::There(_))) {
                break;
            }
        }
        let head = match result? {
            Lookup::There(head) => Some(head),
            Lookup::Absent => None,
            // Nobody knows, so it is sent.
            Lookup::Refused => return Ok(None),
        };
        self.cache.keep_blob(repository, digest, head);
        Ok(head)
    }

    async fn blob_head_at(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        to_write: bool,
    ) -> Result<Lookup<BlobHead>> {
        let scopes = [if to_write { auth::push(endpoint) } else { auth::pull(endpoint) }];
        let url = endpoint.url(&format!("blobs/{digest}"));
        let call = Call::new(RequestKind::BlobHead, Method::HEAD, url.clone(), &scopes).doubtful();
        let response = self.http.send(endpoint, call).await?;
        match response.status() {
            StatusCode::OK => {
                let length = response.text_header(header::CONTENT_LENGTH);
                Ok(Lookup::There(BlobHead { size: length.and_then(|length| length.parse().ok()) }))
            }
            StatusCode::NOT_FOUND => Ok(Lookup::Absent),
            status if is_refused(status) && to_write => Ok(Lookup::Refused),
            status if is_refused(status) => self.first_byte(endpoint, url, &scopes).await,
            _ => Err(response.into_error().await),
        }
    }

    /// Learns by the first byte of a blob what its head would have told.
    async fn first_byte(&self, endpoint: &Endpoint, url: Url, scopes: &[String]) -> Result<Lookup<BlobHead>> {
        let call =
            Call::new(RequestKind::BlobGet, Method::GET, url, scopes).header(header::RANGE, "bytes=0-0");
        let response = self.http.send(endpoint, call).await?;
        let size = match response.status() {
            StatusCode::OK => {
                response.text_header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok())
            }
            StatusCode::PARTIAL_CONTENT => {
                response.text_header(header::CONTENT_RANGE).and_then(content_range).and_then(|(_, size)| size)
            }
            // It has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE => None,
            StatusCode::NOT_FOUND => return Ok(Lookup::Absent),
            _ => return Err(response.into_error().await),
        };
        Ok(Lookup::There(BlobHead { size }))
    }

    /// Returns a blob of at most 4 MiB, from memory where it has been seen.
    pub(crate) async fn small_blob(
        self: &Arc<Self>,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Option<Bytes>> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > OBJECT_SIZE {
            let what = format!("blob {digest}");
            return Err(restow_content::Error::TooLarge { what, size: *size, limit: OBJECT_SIZE }.into());
        }
        let flight = self.cache.flight(format!("blob {repository} {digest}"));
        let _alone = flight.lock().await;
        if let Some(bytes) = self.cache.content(repository, digest) {
            return Ok(Some(bytes));
        }
        let mut download = Download::new(self, repository, descriptor, 0, *size)?;
        let mut bytes = Vec::new();
        loop {
            match download.next().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => break,
                Err(Error::NotInRegistry { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        check(digest, &bytes)?;
        let bytes = Bytes::from(bytes);
        self.cache.keep(repository, digest, &bytes);
        Ok(Some(bytes))
    }
}

/// The bytes of a blob from one offset to another, whatever happens to connections meanwhile. They are not
/// verified here: whoever reads all of them does that.
#[derive(Debug)]
pub(crate) struct Download {
    core: Arc<Core>,
    repository: Repository,
    descriptor: Descriptor,
    offset: u64,
    end: u64,
    endpoints: Arc<[Endpoint]>,
    /// Which of them is asked.
    place: usize,
    answer: Option<Answer>,
    /// Whether the endpoint is believed to understand ranges.
    ranges: bool,
    breaks: u32,
    /// Of the breaks, those since the last byte came.
    in_vain: u32,
}

#[derive(Debug)]
struct Answer {
    response: Response,
    /// How many bytes come first that are not asked for.
    skip: u64,
    /// Whether it should end where the blob does.
    whole: bool,
}

impl Download {
    pub(crate) fn new(
        core: &Arc<Core>,
        repository: &Repository,
        descriptor: &Descriptor,
        start: u64,
        end: u64,
    ) -> Result<Download> {
        Ok(Download {
            endpoints: core.endpoints(repository, Purpose::Pull)?,
            core: core.clone(),
            repository: repository.clone(),
            descriptor: descriptor.clone(),
            offset: start,
            end: end.min(descriptor.size),
            place: 0,
            answer: None,
            ranges: true,
            breaks: 0,
            in_vain: 0,
        })
    }

    /// Begins with a blob of which only the digest is known, and waits for the answer, which tells the rest.
    pub(crate) async fn begin(
        core: &Arc<Core>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Download> {
        let unknown = Descriptor::new(MediaType::OCI_LAYER, digest.clone(), u64::MAX);
        let mut download = Download::new(core, repository, &unknown, 0, u64::MAX)?;
        download.answer = Some(download.connect().await?);
        Ok(download)
    }

    /// Returns what is known of the blob.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns the next piece, or nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        // An empty blob is asked for nevertheless: it may be missing.
        let empty = self.descriptor.size == 0 && self.breaks == 0 && self.answer.is_none();
        loop {
            if self.offset >= self.end && !empty {
                return self.finish().await.map(|()| None);
            }
            let mut answer = match self.answer.take() {
                Some(answer) => answer,
                None => self.connect().await?,
            };
            match answer.response.chunk().await {
                Ok(Some(chunk)) => {
                    let piece = self.cut(chunk, &mut answer)?;
                    self.answer = Some(answer);
                    if !piece.is_empty() {
                        self.offset += piece.len() as u64;
                        self.in_vain = 0;
                        return Ok(Some(piece));
                    }
                }
                Ok(None) if empty => return Ok(None),
                Ok(None) => {
                    let problem =
                        format!("the blob ends after {} of {} bytes", self.offset, self.descriptor.size);
                    self.broke(problem.into()).await?;
                }
                Err(broken) => self.broke(Box::new(broken)).await?,
            }
        }
    }

    /// Cuts off what was not asked for. More bytes than the blob has are an error.
    fn cut(&self, mut chunk: Bytes, answer: &mut Answer) -> Result<Bytes> {
        let skipped = usize::try_from(answer.skip).unwrap_or(usize::MAX).min(chunk.len());
        answer.skip -= skipped as u64;
        let mut piece = chunk.split_off(skipped);
        let left = self.end - self.offset;
        if piece.len() as u64 > left {
            if answer.whole && self.end == self.descriptor.size {
                return Err(self.too_long(answer));
            }
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        Ok(piece)
    }

    fn too_long(&self, answer: &Answer) -> Error {
        answer.response.protocol(format!("the blob has more than {} bytes", self.descriptor.size))
    }

    /// Reads the end of an answer, so that its connection can be used again.
    async fn finish(&mut self) -> Result<()> {
        let Some(mut answer) = self.answer.take() else { return Ok(()) };
        if answer.whole && self.end == self.descriptor.size {
            // What breaks now is of no interest; what comes still is.
            if let Ok(Some(more)) = answer.response.chunk().await
                && !more.is_empty()
            {
                return Err(self.too_long(&answer));
            }
        }
        Ok(())
    }

    /// Asks for what is missing, one endpoint after the other.
    async fn connect(&mut self) -> Result<Answer> {
        loop {
            match self.ask().await {
                Err(error) if self.place + 1 < self.endpoints.len() => {
                    // The last one's error is what is told.
                    drop(error);
                    self.place += 1;
                    self.ranges = true;
                }
                result => return result,
            }
        }
    }

    async fn ask(&mut self) -> Result<Answer> {
        let endpoint = self.endpoints[self.place].clone();
        let url = endpoint.url(&format!("blobs/{}", self.descriptor.digest));
        let scopes = [auth::pull(&endpoint)];
        loop {
            let size = self.descriptor.size;
            let whole = self.offset == 0 && self.end == size;
            let mut call = Call::new(RequestKind::BlobGet, Method::GET, url.clone(), &scopes);
            if !whole && self.ranges {
                let range = format!("bytes={}-{}", self.offset, self.end.saturating_sub(1));
                call = call.header(header::RANGE, range);
            }
            let response = self.core.http.send(&endpoint, call).await?;
            match response.status() {
                StatusCode::OK => {
                    let length = response.text_header(header::CONTENT_LENGTH);
                    let length: Option<u64> = length.and_then(|length| length.parse().ok());
                    if size == u64::MAX {
                        let length = length.ok_or_else(|| response.protocol("the answer names no length"))?;
                        (self.descriptor.size, self.end) = (length, length);
                        return Ok(Answer { response, skip: 0, whole: true });
                    }
                    if let Some(length) = length.filter(|&length| length != size) {
                        let problem = format!("the blob has {length} bytes, expected {size}");
                        return Err(response.protocol(problem));
                    }
                    // The range was ignored, so what came before it comes again.
                    return Ok(Answer { response, skip: self.offset, whole: true });
                }
                StatusCode::PARTIAL_CONTENT if self.ranges && !whole => {
                    let range = response.text_header(header::CONTENT_RANGE);
                    if range.and_then(content_range).is_some_and(|(start, total)| {
                        start == self.offset && total.is_none_or(|total| total == size)
                    }) {
                        let whole = self.end == size;
                        return Ok(Answer { response, skip: 0, whole });
                    }
                    self.ranges = false;
                }
                StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_IMPLEMENTED if self.ranges && !whole => {
                    self.ranges = false;
                }
                StatusCode::PARTIAL_CONTENT => {
                    return Err(response.protocol("a part came where the whole was asked for"));
                }
                StatusCode::NOT_FOUND => {
                    let name = self.repository.at(&self.descriptor.digest).to_string();
                    return Err(Error::NotInRegistry { name });
                }
                _ => return Err(response.into_error().await),
            }
        }
    }

    /// Waits before another try, if there is to be one.
    async fn broke(&mut self, source: Box<dyn std::error::Error + Send + Sync>) -> Result<()> {
        self.breaks += 1;
        self.in_vain += 1;
        let settings = self.core.settings();
        let url = self.endpoints[self.place].url(&format!("blobs/{}", self.descriptor.digest));
        let request = describe(&Method::GET, &url);
        let most =
            if self.endpoints[self.place].spare { settings.attempts.min(2) } else { settings.attempts };
        if self.in_vain >= most || self.breaks >= BREAKS {
            if self.place + 1 < self.endpoints.len() {
                (self.place, self.in_vain, self.ranges) = (self.place + 1, 0, true);
                return Ok(());
            }
            return Err(Error::Connection { request, attempts: self.breaks, source });
        }
        settings.clock.sleep(self.core.http.backoff(&request, self.in_vain)).await;
        Ok(())
    }
}

/// Parses `bytes START-END/TOTAL` into the start and the total, if that is known.
pub(crate) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}
