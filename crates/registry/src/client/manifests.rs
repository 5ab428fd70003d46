//! Manifests and indexes.

use bytes::Bytes;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::header;
use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::Kind;
use restow_oci::MediaType;
use serde_json::Value;

use super::Client;
use super::Core;
use super::Endpoint;
use super::RequestKind;
use super::auth;
use super::hosts::Purpose;
use super::http::Call;
use super::http::Lookup;
use super::http::Response;
use super::http::describe;
use super::http::is_refused;
use super::payload::Payload;
use crate::Error;
use crate::Name;
use crate::Repository;
use crate::Result;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// A manifest or an index, as it came, and what it is.
#[derive(Clone, Debug)]
pub struct Content {
    /// Media type, size and digest, the latter computed from the bytes.
    pub descriptor: Descriptor,
    /// The document.
    pub bytes: Bytes,
}

impl Client {
    /// Returns the manifest or index that `name` means, or nothing where the registry has none. Its digest
    /// decides, then its tag, then `latest`.
    pub fn manifest(&self, name: &Name) -> Result<Option<Content>> {
        self.wait(self.core.manifest(name))
    }

    /// Returns the digest that the registry says a name has, without the document. A registry need not say. Within a
    /// run, it is asked once.
    pub fn digest(&self, name: &Name) -> Result<Option<Digest>> {
        self.wait(self.core.head(name, false)).map(|head| head.and_then(|head| head.digest))
    }

    /// As [`digest`](Client::digest), but a name that means nothing is told apart from a registry that does not say.
    pub(crate) fn said_digest(&self, name: &Name) -> Result<Option<Option<Digest>>> {
        Ok(self.wait(self.core.head(name, false))?.map(|head| head.digest))
    }

    /// As [`digest`](Client::digest), asked where and as one who is about to write.
    pub(crate) fn digest_to_write(&self, name: &Name) -> Result<Option<Digest>> {
        self.wait(self.core.head(name, true)).map(|head| head.and_then(|head| head.digest))
    }

    /// Stores a manifest or an index under its digest, or under the tag of `name` if it has one. A registry
    /// may refuse one of which it lacks the parts.
    pub fn put_manifest(&self, name: &Name, media_type: &MediaType, bytes: &Bytes) -> Result<Descriptor> {
        self.wait(self.core.put_manifest(name, media_type, bytes))
    }

    /// As [`put_manifest`](Client::put_manifest), of a document whose parts are all there. Some registries know of a part
    /// only a moment after they have taken it.
    pub(crate) fn put_whole(&self, name: &Name, media_type: &MediaType, bytes: &Bytes) -> Result<Descriptor> {
        self.wait(async {
            let settings = self.core.settings();
            let mut refusals = 0;
            loop {
                let error = match self.core.put_manifest(name, media_type, bytes).await {
                    Err(error) if lacks_parts(&error, media_type.kind()) => error,
                    done => return done,
                };
                refusals += 1;
                if refusals >= settings.attempts {
                    return Err(error);
                }
                let what = format!("put {name}");
                settings.clock.sleep(self.core.http.backoff(&what, refusals)).await;
            }
        })
    }

    /// Removes a manifest by its digest, or a tag.
    pub fn delete_manifest(&self, name: &Name) -> Result<()> {
        self.wait(self.core.delete_manifest(name))
    }
}

/// What a registry says of a manifest that it did not send.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) digest: Option<Digest>,
}

impl Core {
    pub(crate) async fn manifest(&self, name: &Name) -> Result<Option<Content>> {
        let repository = &name.repository;
        let reference = reference(name);
        let flight = self.cache.flight(format!("manifest {repository} {reference}"));
        let _alone = flight.lock().await;
        let digest = match &name.digest {
            Some(digest) => Some(digest.clone()),
            None => self.cache.tag(repository, name.tag_or_latest()).map(|known| known.digest),
        };
        if let Some((descriptor, bytes)) =
            digest.as_ref().and_then(|digest| self.cache.manifest(repository, digest))
        {
            return Ok(Some(Content { descriptor, bytes }));
        }
        // What the tag meant in this run, it goes on to mean.
        let wanted = digest.map_or(reference, |digest| digest.to_string());
        let purpose = if name.digest.is_some() { Purpose::Pull } else { Purpose::Resolve };
        let endpoints = self.endpoints(repository, purpose)?;
        let mut result = Ok(None);
        for endpoint in &*endpoints {
            result = self.look_or_fetch(endpoint, repository, &wanted).await;
            if matches!(result, Ok(Some(_))) {
                break;
            }
        }
        let Some(content) = result? else { return Ok(None) };
        let tag = name.digest.is_none().then(|| name.tag_or_latest());
        self.cache.keep_manifest(repository, tag, &content.descriptor, &content.bytes);
        Ok(Some(content))
    }

    /// Fetches a manifest. Where that is counted and a look is not, an earlier run's manifest is looked for first: it may
    /// be the same.
    async fn look_or_fetch(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        reference: &str,
    ) -> Result<Option<Content>> {
        if !endpoint.counts_fetches() {
            return self.fetch(endpoint, reference).await;
        }
        if let Some(seen) = self.seen.get(repository, reference)
            && let Ok(Lookup::There(Head { digest: Some(digest) })) =
                self.head_at(endpoint, reference, false).await
            && digest == seen.descriptor.digest
        {
            return Ok(Some(seen));
        }
        let content = self.fetch(endpoint, reference).await?;
        if let Some(content) = &content {
            self.seen.keep(repository, reference, content);
        }
        Ok(content)
    }

    async fn fetch(&self, endpoint: &Endpoint, reference: &str) -> Result<Option<Content>> {
        let url = endpoint.url(&format!("manifests/{reference}"));
        let scopes = [auth::pull(endpoint)];
        let limit = self.settings().limits.manifest_size;
        let mut attempts = 0;
        loop {
            let call = Call::new(RequestKind::ManifestGet, Method::GET, url.clone(), &scopes)
                .header(header::ACCEPT, ACCEPT);
            let response = self.http.send(endpoint, call).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                _ => return Err(response.into_error().await),
            }
            let content_type = response.text_header(header::CONTENT_TYPE).map(str::to_owned);
            let named = response.text_header("docker-content-digest").map(str::to_owned);
            match response.bytes(limit).await? {
                Ok(bytes) => {
                    let digest = digest_of(reference, named.as_deref(), &bytes)?;
                    return content(&url, digest, content_type.as_deref(), bytes).map(Some);
                }
                Err(broken) => {
                    attempts += 1;
                    let request = describe(&Method::GET, &url);
                    if attempts >= self.settings().attempts || endpoint.spare {
                        return Err(Error::Connection { request, attempts, source: Box::new(broken) });
                    }
                    self.settings().clock.sleep(self.http.backoff(&request, attempts)).await;
                }
            }
        }
    }

    /// Asks for the head of a manifest, once for all who read. `to_write`: in any case, of the registry itself, and with a
    /// token that does for writing, too.
    pub(crate) async fn head(&self, name: &Name, to_write: bool) -> Result<Option<Head>> {
        let (repository, reference) = (&name.repository, reference(name));
        let flight = self.cache.flight(format!("head {repository} {reference}"));
        let _alone = flight.lock().await;
        if !to_write && let Some(known) = self.cache.head(repository, &reference) {
            return Ok(known);
        }
        let purpose = if to_write { Purpose::Push } else { Purpose::Resolve };
        let endpoints = self.endpoints(repository, purpose)?;
        let mut result = Ok(Lookup::Absent);
        for endpoint in &*endpoints {
            result = self.head_at(endpoint, &reference, to_write).await;
            if matches!(result, Ok(Lookup::There(_))) {
                break;
            }
        }
        let head = match result? {
            // Nobody knows, so it is put.
            Lookup::Refused if to_write => return Ok(None),
            Lookup::Refused | Lookup::There(Head { digest: None }) if !to_write => {
                let digest = self.manifest(name).await?.map(|content| content.descriptor.digest);
                digest.map(|digest| Head { digest: Some(digest) })
            }
            Lookup::There(head) => Some(head),
            Lookup::Absent | Lookup::Refused => None,
        };
        self.cache.keep_head(repository, &reference, &head);
        Ok(head)
    }

    async fn head_at(&self, endpoint: &Endpoint, reference: &str, to_write: bool) -> Result<Lookup<Head>> {
        let scopes = [if to_write { auth::push(endpoint) } else { auth::pull(endpoint) }];
        let url = endpoint.url(&format!("manifests/{reference}"));
        let call = Call::new(RequestKind::ManifestHead, Method::HEAD, url, &scopes)
            .header(header::ACCEPT, ACCEPT)
            .doubtful();
        let response = self.http.send(endpoint, call).await?;
        match response.status() {
            StatusCode::OK => {
                let digest = response.text_header("docker-content-digest");
                Ok(Lookup::There(Head { digest: digest.and_then(|digest| Digest::parse(digest).ok()) }))
            }
            StatusCode::NOT_FOUND => Ok(Lookup::Absent),
            status if is_refused(status) => Ok(Lookup::Refused),
            _ => Err(response.into_error().await),
        }
    }

    pub(crate) async fn put_manifest(
        &self,
        name: &Name,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<Descriptor> {
        let digest = match &name.digest {
            Some(expected) => check(expected, bytes)?,
            None => Digest::sha256(bytes),
        };
        let repository = &name.repository;
        let endpoint = self.upstream(repository)?;
        let stored_as = name.tag.clone().unwrap_or_else(|| digest.to_string());
        let scopes = [auth::push(&endpoint)];
        let url = endpoint.url(&format!("manifests/{stored_as}"));
        let call = Call::new(RequestKind::ManifestPut, Method::PUT, url, &scopes)
            .header(header::CONTENT_TYPE, media_type.as_str())
            .payload(Payload::Bytes(bytes.clone()));
        let response = self.http.send(&endpoint, call).await?;
        if !response.status().is_success() {
            return Err(response.into_error().await);
        }
        if let Some(stored) = response.text_header("docker-content-digest")
            && Digest::parse(stored)
                .is_ok_and(|stored| stored.algorithm() == digest.algorithm() && stored != digest)
        {
            return Err(response.protocol(format!("the registry stored {stored}, expected {digest}")));
        }
        let descriptor = Descriptor::new(media_type.clone(), digest, bytes.len() as u64);
        let registered = response.headers().contains_key("oci-subject");
        self.cache.keep_manifest(repository, name.tag.as_deref(), &descriptor, bytes);
        if !registered {
            self.register_referrer(repository, &descriptor, bytes).await?;
        }
        Ok(descriptor)
    }

    async fn delete_manifest(&self, name: &Name) -> Result<()> {
        let endpoint = self.upstream(&name.repository)?;
        let url = endpoint.url(&format!("manifests/{}", reference(name)));
        // What it is about, it alone says.
        let content = if name.digest.is_some() { self.manifest(name).await.ok().flatten() } else { None };
        self.delete(&endpoint, url, name).await?;
        let tag = name.digest.is_none().then(|| name.tag_or_latest());
        self.cache.forget(&name.repository, name.digest.as_ref(), tag);
        match content {
            Some(Content { descriptor, bytes }) => {
                self.unregister_referrer(&name.repository, &descriptor, &bytes).await
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn delete(&self, endpoint: &Endpoint, url: reqwest::Url, name: &Name) -> Result<()> {
        let scopes = [auth::delete(endpoint)];
        let call = Call::new(RequestKind::Delete, Method::DELETE, url, &scopes);
        let response = self.http.send(endpoint, call).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(Error::NotInRegistry { name: name.to_string() }),
            _ => Err(response.into_error().await),
        }
    }

    /// Reads an answer that holds a JSON document.
    pub(crate) async fn document(&self, response: Response, limit: u64) -> Result<Value> {
        let request = response.protocol("the answer is not JSON");
        let broken = response.protocol("the answer breaks off");
        let bytes = response.bytes(limit).await?.map_err(|_| broken)?;
        serde_json::from_slice(&bytes).map_err(|_| request)
    }
}

/// Returns whether a registry refused a document because it does not have all that this names, and said so.
///
/// <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes>
pub(crate) fn lacks_parts(error: &Error, kind: Kind) -> bool {
    let Error::Status { status: 400..=499, codes, .. } = error else { return false };
    codes.iter().any(|code| match code.as_str() {
        "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" => true,
        // Of a manifest, it may be the subject that is unknown.
        "MANIFEST_UNKNOWN" => kind == Kind::Index,
        _ => false,
    })
}

/// Returns what stands for the manifest in a URL.
fn reference(name: &Name) -> String {
    match &name.digest {
        Some(digest) => digest.to_string(),
        None => name.tag_or_latest().to_owned(),
    }
}

/// Returns the digest of a manifest: the one that it was asked for by, or, where that was a tag, the one that the
/// registry calls it by, if the bytes have it, which need not be of our favourite algorithm.
fn digest_of(reference: &str, named: Option<&str>, bytes: &[u8]) -> Result<Digest> {
    // A tag holds no colon.
    if let Ok(expected) = Digest::parse(reference) {
        return check(&expected, bytes);
    }
    let named = named.and_then(|named| Digest::parse(named).ok());
    let checked = named.and_then(|named| check(&named, bytes).ok());
    Ok(checked.unwrap_or_else(|| Digest::sha256(bytes)))
}

/// Makes of an answer what it holds.
fn content(
    url: &reqwest::Url,
    digest: Digest,
    content_type: Option<&str>,
    bytes: Vec<u8>,
) -> Result<Content> {
    let bytes = Bytes::from(bytes);
    let request = || describe(&Method::GET, url);
    let is_manifest = |media_type: &MediaType| matches!(media_type.kind(), Kind::Manifest | Kind::Index);
    let header = content_type.and_then(|text| text.split(';').next()).map(str::trim);
    let header = header.and_then(|text| MediaType::parse(text).ok());
    // Some registries have one content type for all; then the document says what it is.
    let media_type = header.clone().filter(is_manifest).or_else(|| {
        let document: Value = serde_json::from_slice(&bytes).ok()?;
        MediaType::parse(document.get("mediaType")?.as_str()?).ok()
    });
    let media_type = media_type.or(header).ok_or_else(|| Error::Protocol {
        request: request(),
        problem: "neither the answer nor its document names a media type".to_owned(),
    })?;
    let size = bytes.len() as u64;
    Ok(Content { descriptor: Descriptor::new(media_type, digest, size), bytes })
}

/// Returns the digest if it is that of the bytes.
pub(crate) fn check(expected: &Digest, bytes: &[u8]) -> Result<Digest> {
    if expected.algorithm() == Algorithm::Other {
        return Err(restow_content::Error::UnsupportedAlgorithm { digest: expected.clone() }.into());
    }
    let mut digester = Digester::new(expected.algorithm()).map_err(crate::error::unusable("a digest"))?;
    digester.update(bytes);
    let actual = digester.finish();
    if actual == *expected {
        return Ok(actual);
    }
    let size = bytes.len() as u64;
    Err(restow_content::Error::Mismatch {
        expected: expected.clone(),
        expected_size: size,
        actual,
        actual_size: size,
    }
    .into())
}

/// Returns the fallback tag under which an index of the referrers of `digest` lies.
///
/// <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#referrers-tag-schema>
pub(crate) fn referrers_tag(digest: &Digest) -> String {
    let cut = |text: &str, length: usize| text.chars().take(length).collect::<String>();
    let clean = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let tag = format!("{}-{}", cut(digest.algorithm_name(), 32), cut(digest.encoded(), 64));
    tag.chars().map(clean).collect()
}
