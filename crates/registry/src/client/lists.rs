//! Lists: tags, repositories, referrers.

use std::sync::PoisonError;

use bytes::Bytes;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Manifest;
use restow_oci::MediaType;
use serde_json::Value;

use super::Client;
use super::Core;
use super::Endpoint;
use super::RequestKind;
use super::auth;
use super::http::Call;
use super::http::Lookup;
use super::http::Response;
use super::http::at_home;
use super::http::is_refused;
use super::manifests::referrers_tag;
use crate::Error;
use crate::Name;
use crate::Repository;
use crate::Result;
use crate::error::unusable;

/// The most of one page that is read.
const PAGE_SIZE: u64 = 16 << 20;

impl Client {
    /// Returns the tags of a repository, in the registry's order.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>> {
        self.wait(self.core.tags(repository))
    }

    /// Returns the paths of the repositories of a host, if it shows them.
    pub fn repositories(&self, host: &str) -> Result<Vec<String>> {
        self.wait(self.core.repositories(host))
    }

    /// Returns the manifests whose subject is `digest`, of one artifact type or of all. A registry that does
    /// not know the question is asked for the tag that stands in for the answer.
    pub fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&MediaType>,
    ) -> Result<Vec<Descriptor>> {
        self.wait(self.core.referrers(repository, digest, artifact_type))
    }
}

impl Core {
    async fn tags(&self, repository: &Repository) -> Result<Vec<String>> {
        let endpoint = self.upstream(repository)?;
        let scopes = [auth::pull(&endpoint)];
        let first = endpoint.url("tags/list?n=1000");
        let what = repository.to_string();
        self.pages(&endpoint, &scopes, first, "tags", &what).await
    }

    async fn repositories(&self, host: &str) -> Result<Vec<String>> {
        // Any name of the host leads to its endpoint.
        let name = Name::parse(&format!("{host}/restow"))?;
        let endpoint = self.upstream(&name.repository)?;
        let scopes = ["registry:catalog:*".to_owned()];
        let first = endpoint.root("_catalog?n=1000");
        self.pages(&endpoint, &scopes, first, "repositories", host).await
    }

    /// Collects the texts of a list, page after page.
    async fn pages(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        first: Url,
        key: &str,
        what: &str,
    ) -> Result<Vec<String>> {
        let limit = self.settings().limits.nodes;
        let mut found = Vec::new();
        let mut next = Some(first);
        while let Some(url) = next {
            let call = Call::new(RequestKind::List, Method::GET, url, scopes);
            let response = self.http.send(endpoint, call).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(Error::NotInRegistry { name: what.to_owned() }),
                _ => return Err(response.into_error().await),
            }
            next = following(&response, &endpoint.base)?;
            let document = self.document(response, PAGE_SIZE).await?;
            let page = document[key].as_array().map(Vec::as_slice).unwrap_or_default();
            // An empty page that names another one would go on for ever.
            if page.is_empty() {
                next = None;
            }
            found.extend(page.iter().filter_map(Value::as_str).map(str::to_owned));
            if found.len() > limit {
                return Err(Error::TooMany { what: format!("the list of {what}"), limit });
            }
        }
        Ok(found)
    }

    pub(crate) async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&MediaType>,
    ) -> Result<Vec<Descriptor>> {
        let endpoint = self.upstream(repository)?;
        let mut found = match self.listed_referrers(repository, &endpoint, digest, artifact_type).await? {
            Some(found) => found,
            None => {
                let tag = repository.tagged(&referrers_tag(digest))?;
                self.fallback(&tag, digest).await?.map_or(Vec::new(), |index| index.manifests().to_vec())
            }
        };
        found.retain(|referrer| {
            artifact_type.is_none_or(|wanted| referrer.artifact_type.as_ref() == Some(wanted))
        });
        Ok(found)
    }

    /// Returns the index that stands in for a list of referrers, if there is one. Some registries take the tag for the
    /// digest that it is made of, and return the subject itself.
    async fn fallback(&self, tag: &Name, subject: &Digest) -> Result<Option<Index>> {
        let Some(content) = self.manifest(tag).await? else { return Ok(None) };
        let Descriptor { media_type, digest, .. } = &content.descriptor;
        if media_type.kind() != Kind::Index || digest == subject {
            return Ok(None);
        }
        self.index(&content.bytes, tag).map(Some)
    }

    /// Returns nothing where the registry does not know such a list, or does not show it. That is found out once.
    async fn listed_referrers(
        &self,
        repository: &Repository,
        endpoint: &Endpoint,
        digest: &Digest,
        artifact_type: Option<&MediaType>,
    ) -> Result<Option<Vec<Descriptor>>> {
        let lists =
            self.lists_referrers.lock().unwrap_or_else(PoisonError::into_inner).get(repository).copied();
        if lists == Some(false) {
            return Ok(None);
        }
        let found = self.referrers_at(endpoint, digest, artifact_type, lists.is_some()).await?;
        if let Lookup::There(_) | Lookup::Refused = &found {
            let lists = matches!(found, Lookup::There(_));
            let mut known = self.lists_referrers.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(repository.clone(), lists);
        }
        Ok(match found {
            Lookup::There(found) => Some(found),
            Lookup::Absent | Lookup::Refused => None,
        })
    }

    /// `known`: the registry has shown such a list before, so that a refusal is an error.
    async fn referrers_at(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        artifact_type: Option<&MediaType>,
        known: bool,
    ) -> Result<Lookup<Vec<Descriptor>>> {
        let scopes = [auth::pull(endpoint)];
        let mut first = endpoint.url(&format!("referrers/{digest}"));
        if let Some(artifact_type) = artifact_type {
            first.query_pairs_mut().append_pair("artifactType", artifact_type.as_str());
        }
        let limit = self.settings().limits.nodes;
        let mut found = Vec::new();
        let mut next = Some(first);
        while let Some(url) = next {
            let name = url.path().to_owned();
            let call = Call::new(RequestKind::List, Method::GET, url, &scopes)
                .header(header::ACCEPT, MediaType::OCI_INDEX.as_str());
            let call = if known { call } else { call.doubtful() };
            let response = self.http.send(endpoint, call).await?;
            match response.status() {
                StatusCode::OK => {}
                // Of another subject, it may know it.
                StatusCode::BAD_REQUEST => return Ok(Lookup::Absent),
                StatusCode::NOT_FOUND => {
                    // It may know the question, and not yet what it is about.
                    let unknown = response.into_error().await.to_string().contains("_UNKNOWN");
                    return Ok(if unknown { Lookup::Absent } else { Lookup::Refused });
                }
                status if !known && (is_refused(status) || status == StatusCode::UNAUTHORIZED) => {
                    return Ok(Lookup::Refused);
                }
                _ => return Err(response.into_error().await),
            }
            next = following(&response, &endpoint.base)?;
            let broken = response.protocol("the answer breaks off");
            let bytes = response.bytes(PAGE_SIZE).await?.map_err(|_| broken)?;
            let limits = &self.settings().limits;
            // Some answer every unknown path with a page for people.
            let Ok(index) = Index::parse(bytes, limits) else { return Ok(Lookup::Refused) };
            if index.manifests().is_empty() {
                next = None;
            }
            found.extend_from_slice(index.manifests());
            if found.len() > limit {
                return Err(Error::TooMany { what: name, limit });
            }
        }
        Ok(Lookup::There(found))
    }

    /// Adds a manifest that has a subject to the list of that subject's referrers, for a registry that does
    /// not keep such lists itself.
    pub(crate) async fn register_referrer(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) -> Result<()> {
        let Some((subject, entry)) = self.referrer(descriptor, bytes) else { return Ok(()) };
        let endpoint = self.upstream(repository)?;
        let is_listed = |listed: &[Descriptor]| listed.iter().any(|one| one.digest == entry.digest);
        if self
            .listed_referrers(repository, &endpoint, &subject, None)
            .await?
            .is_some_and(|listed| is_listed(&listed))
        {
            return Ok(());
        }
        let add = |index: &mut Index| {
            let new = !is_listed(index.manifests());
            if new {
                index.push(&entry);
            }
            new
        };
        self.edit_fallback(repository, &subject, add).await
    }

    /// Takes a manifest that is gone from such a list.
    pub(crate) async fn unregister_referrer(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) -> Result<()> {
        let Some((subject, entry)) = self.referrer(descriptor, bytes) else { return Ok(()) };
        let endpoint = self.upstream(repository)?;
        if self.listed_referrers(repository, &endpoint, &subject, None).await?.is_some() {
            return Ok(());
        }
        let remove = |index: &mut Index| {
            let before = index.manifests().len();
            index.retain(|_, listed| listed.digest != entry.digest);
            index.manifests().len() < before
        };
        self.edit_fallback(repository, &subject, remove).await
    }

    /// Returns the subject of a manifest and what a list of its referrers says of that manifest, if it has one.
    fn referrer(&self, descriptor: &Descriptor, bytes: &Bytes) -> Option<(Digest, Descriptor)> {
        let limits = &self.settings().limits;
        let (subject, artifact_type, annotations) = match descriptor.media_type.kind() {
            Kind::Manifest => {
                let manifest = Manifest::parse(bytes.to_vec(), limits).ok()?;
                let config = manifest.config().media_type.clone();
                let artifact_type = manifest.artifact_type().cloned().unwrap_or(config);
                (manifest.subject().cloned(), Some(artifact_type), manifest.annotations().clone())
            }
            Kind::Index => {
                let index = Index::parse(bytes.to_vec(), limits).ok()?;
                (index.subject().cloned(), index.artifact_type().cloned(), index.annotations().clone())
            }
            _ => return None,
        };
        Some((subject?.digest, Descriptor { artifact_type, annotations, ..descriptor.clone() }))
    }

    /// Changes the index that stands in for a list of referrers, if `edit` says that it has.
    async fn edit_fallback(
        &self,
        repository: &Repository,
        subject: &Digest,
        edit: impl FnOnce(&mut Index) -> bool,
    ) -> Result<()> {
        let tag = repository.tagged(&referrers_tag(subject))?;
        let flight = self.cache.flight(format!("referrers {tag}"));
        let _alone = flight.lock().await;
        // Another program may have changed it since it was read.
        self.cache.forget(repository, None, Some(tag.tag_or_latest()));
        let mut index = self.fallback(&tag, subject).await?.unwrap_or_else(|| Index::new(Vec::new()));
        if !edit(&mut index) {
            return Ok(());
        }
        let bytes = Bytes::from(index.into_bytes());
        // An index of referrers has no subject itself, so this goes no deeper.
        Box::pin(self.put_manifest(&tag, &MediaType::OCI_INDEX, &bytes)).await.map(drop)
    }

    fn index(&self, bytes: &Bytes, name: &Name) -> Result<Index> {
        Index::parse(bytes.to_vec(), &self.settings().limits).map_err(unusable(name.to_string()))
    }
}

/// Returns the next page, which must be on the same host. A registry behind a proxy may not know by which scheme and port
/// it is reached.
fn following(response: &Response, base: &Url) -> Result<Option<Url>> {
    let links = response.headers().get_all(header::LINK);
    let next = links.iter().filter_map(|link| link.to_str().ok()).find_map(next_page);
    let Some(target) = next else { return Ok(None) };
    match response.url().join(target) {
        Ok(url) if url.host() == base.host() && matches!(url.scheme(), "http" | "https") => {
            Ok(Some(at_home(url, base)))
        }
        _ => Err(response.protocol("the next page is on another host")),
    }
}

/// Returns the target of the link to the next page, of those in a header.
///
/// <https://www.rfc-editor.org/rfc/rfc8288>
pub(crate) fn next_page(text: &str) -> Option<&str> {
    let mut rest = text;
    // A target may hold commas, which separate links elsewhere.
    while let Some((target, after)) = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        let parameters = &after[..after.find('<').unwrap_or(after.len())];
        let is_next = |parameter: &str| {
            let Some((name, value)) = parameter.trim_matches([' ', '\t', ',']).split_once('=') else {
                return false;
            };
            let value = value.trim().trim_matches(['"', '\'']);
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
        };
        if parameters.split([';', ',']).any(is_next) {
            return Some(target);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_read_out_of_any_header() {
        for (text, expected) in [
            ("</a>; rel=next", Some("/a")),
            ("</a?last=x,y>; rel=\"prev next\"", Some("/a?last=x,y")),
            ("</a>; rel=\"last\", </b>;REL=\"Next\"", Some("/b")),
            ("</a>; rel=nextpage", None),
            ("</a>; title=\"next\"", None),
            ("</a>", None),
            ("<", None),
            (">; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_page(text), expected, "{text}");
        }
    }
}
