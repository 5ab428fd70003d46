//! What a registry holds, and how it answers when nobody tells it otherwise.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use restow_oci::Digest;
use serde_json::Value;
use serde_json::json;

use super::Answer;
use super::Request;

#[derive(Default)]
pub(super) struct State {
    repositories: BTreeMap<String, Repository>,
    uploads: BTreeMap<String, Vec<u8>>,
    next_upload: usize,
    gate: Gate,
    pub(super) referrers: bool,
    /// Whether manifests are taken without a look for their blobs, and indexes without one for their manifests.
    pub(super) takes_any_manifest: bool,
    pub(super) takes_any_index: bool,
    /// How what lacks parts is refused, if not in the specification's words.
    pub(super) refusal: Option<(u16, &'static str)>,
}

#[derive(Default)]
struct Repository {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Media type and bytes by digest.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    tags: BTreeMap<String, String>,
}

#[derive(Default)]
enum Gate {
    #[default]
    Open,
    Password(String),
    Token {
        host: String,
        login: Option<String>,
        issued: BTreeSet<String>,
    },
}

/// Returns the media type that a manifest gives itself, if it is one.
pub(super) fn manifest_type(bytes: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    let is_manifest = document.get("layers").is_some() || document.get("manifests").is_some();
    let default = if document.get("manifests").is_some() { "index" } else { "manifest" };
    let default = format!("application/vnd.oci.image.{default}.v1+json");
    is_manifest.then(|| document["mediaType"].as_str().unwrap_or(&default).to_owned())
}

impl State {
    pub(super) fn put_blob(&mut self, repository: &str, digest: &str, bytes: Vec<u8>) {
        self.repository(repository).blobs.insert(digest.to_owned(), bytes);
    }

    pub(super) fn remove_blob(&mut self, repository: &str, digest: &str) {
        self.repository(repository).blobs.remove(digest);
    }

    pub(super) fn remove_manifest(&mut self, repository: &str, digest: &str) -> bool {
        let repository = self.repository(repository);
        repository.tags.retain(|_, tagged| tagged != digest);
        repository.manifests.remove(digest).is_some()
    }

    /// Returns what is reached from a manifest or an index and is not there.
    pub(super) fn missing(&self, repository: &str, reference: &str) -> Vec<String> {
        let Some((_, _, bytes)) = self.manifest(repository, reference) else {
            return vec![reference.to_owned()];
        };
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let below = entries(&document["manifests"]).flat_map(|(digest, _)| self.missing(repository, digest));
        let has_blob = |digest: &str| self.blob(repository, digest).is_some();
        let blobs = blobs(&document).filter(|(digest, elsewhere)| !elsewhere && !has_blob(digest));
        below.chain(blobs.map(|(digest, _)| digest.to_owned())).collect()
    }

    pub(super) fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.repositories.get(repository)?.blobs.get(digest).cloned()
    }

    pub(super) fn put_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Vec<u8>,
    ) {
        let digest = Digest::sha256(&bytes).to_string();
        let repository = self.repository(repository);
        repository.manifests.insert(digest.clone(), (media_type.to_owned(), bytes));
        repository.tags.extend(tag.map(|tag| (tag.to_owned(), digest)));
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<(String, String, Vec<u8>)> {
        let repository = self.repositories.get(repository)?;
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        let (media_type, bytes) = repository.manifests.get(digest)?;
        Some((digest.to_owned(), media_type.clone(), bytes.clone()))
    }

    pub(super) fn open_upload(&mut self, id: &str) {
        self.uploads.insert(id.to_owned(), Vec::new());
    }

    pub(super) fn require_token(&mut self, login: Option<(&str, &str)>, host: &str) {
        let login = login.map(|(user, password)| basic(user, password));
        self.gate = Gate::Token { host: host.to_owned(), login, issued: BTreeSet::new() };
    }

    pub(super) fn require_password(&mut self, user: &str, password: &str) {
        self.gate = Gate::Password(basic(user, password));
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        if request.path == "/token" {
            return self.issue(request);
        }
        if let Some(refusal) = self.refuse(request) {
            return refusal;
        }
        let Some(path) = request.path.strip_prefix("/v2/") else { return Answer::error(404, "UNSUPPORTED") };
        if path == "_catalog" {
            let names: Vec<_> = self.repositories.keys().cloned().collect();
            return page(request, "repositories", &names);
        }
        let parts =
            [("/manifests/", 0), ("/blobs/uploads/", 1), ("/blobs/", 2), ("/tags/", 3), ("/referrers/", 4)];
        let found = parts.iter().find_map(|(part, kind)| {
            path.split_once(part).map(|(name, rest)| (*kind, name.to_owned(), rest.to_owned()))
        });
        match found {
            Some((0, name, rest)) => self.manifests(request, &name, &rest),
            Some((1, name, rest)) => self.uploads(request, &name, &rest),
            Some((2, name, rest)) => self.blobs(request, &name, &rest),
            Some((3, name, _)) => match self.repositories.get(&name) {
                Some(repository) => {
                    page(request, "tags", &repository.tags.keys().cloned().collect::<Vec<_>>())
                }
                None => Answer::error(404, "NAME_UNKNOWN"),
            },
            Some((4, name, rest)) if self.referrers => self.referrers(&name, &rest),
            _ => Answer::error(404, "UNSUPPORTED"),
        }
    }

    fn refuse(&self, request: &Request) -> Option<Answer> {
        let sent = request.headers.get("authorization").map(String::as_str).unwrap_or_default();
        let refusal = Answer::error(401, "UNAUTHORIZED");
        match &self.gate {
            Gate::Open => None,
            Gate::Password(expected) => {
                (sent != expected).then(|| refusal.header("WWW-Authenticate", "Basic realm=\"test\""))
            }
            Gate::Token { host, issued, .. } => {
                let token = sent.strip_prefix("Bearer ").unwrap_or_default();
                // A token is its scopes, in order.
                let wanted = scopes(request);
                let enough = wanted.iter().all(|wanted| {
                    let (what, actions) = wanted.rsplit_once(':').unwrap_or_default();
                    token.split(' ').any(|scope| {
                        let (had, may) = scope.rsplit_once(':').unwrap_or_default();
                        had == what
                            && actions.split(',').all(|action| may.split(',').any(|may| may == action))
                    })
                });
                if issued.contains(token) && enough {
                    return None;
                }
                let scope = wanted.join(" ");
                let challenge =
                    format!(r#"Bearer realm="http://{host}/token",service="test",scope="{scope}""#);
                Some(refusal.header("WWW-Authenticate", challenge))
            }
        }
    }

    fn issue(&mut self, request: &Request) -> Answer {
        let Gate::Token { login, issued, .. } = &mut self.gate else { return Answer::new(404) };
        let sent = request.headers.get("authorization");
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let identity = form.contains("grant_type=refresh_token") && form.contains("refresh_token=identity");
        if login.is_some() && sent != login.as_ref() && !identity {
            return Answer::error(401, "DENIED");
        }
        let query = if identity { form } else { request.query.clone() };
        let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
        let decode =
            |text: &str| text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace('+', " ");
        let token = scopes.map(decode).collect::<Vec<_>>().join(" ");
        issued.insert(token.clone());
        Answer::new(200).body(json!({"token": token, "expires_in": 300}).to_string())
    }

    fn manifests(&mut self, request: &Request, name: &str, reference: &str) -> Answer {
        match request.method.as_str() {
            "GET" | "HEAD" => match self.manifest(name, reference) {
                Some((digest, media_type, bytes)) => Answer::new(200)
                    .header("Content-Type", media_type)
                    .header("Docker-Content-Digest", digest)
                    .body(bytes),
                None => Answer::error(404, "MANIFEST_UNKNOWN"),
            },
            "PUT" => self.accept_manifest(request, name, reference),
            "DELETE" => {
                let removed = self.remove_manifest(name, reference);
                let untagged = self.repository(name).tags.remove(reference).is_some();
                Answer::new(if removed || untagged { 202 } else { 404 })
            }
            _ => Answer::error(405, "UNSUPPORTED"),
        }
    }

    fn accept_manifest(&mut self, request: &Request, name: &str, reference: &str) -> Answer {
        let document: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let lacking = |status, code| {
            let (status, code) = self.refusal.unwrap_or((status, code));
            Answer::error(status, code)
        };
        let known = self.repositories.get(name);
        let has_manifest = |digest: &str| known.is_some_and(|known| known.manifests.contains_key(digest));
        if !self.takes_any_index && !entries(&document["manifests"]).all(|(digest, _)| has_manifest(digest)) {
            return lacking(404, "MANIFEST_UNKNOWN");
        }
        let has_blob = |digest: &str| known.is_some_and(|known| known.blobs.contains_key(digest));
        if !self.takes_any_manifest
            && !blobs(&document).all(|(digest, elsewhere)| elsewhere || has_blob(digest))
        {
            return lacking(400, "MANIFEST_BLOB_UNKNOWN");
        }
        let digest = Digest::sha256(&request.body).to_string();
        let tag = (!reference.contains(':')).then_some(reference);
        if tag.is_none() && reference != digest {
            return Answer::error(400, "DIGEST_INVALID");
        }
        let media_type = request.headers.get("content-type").cloned().unwrap_or_default();
        self.put_manifest(name, tag, &media_type, request.body.clone());
        let answer = Answer::new(201).header("Docker-Content-Digest", digest);
        match document["subject"]["digest"].as_str() {
            Some(subject) if self.referrers => answer.header("OCI-Subject", subject),
            _ => answer,
        }
    }

    fn blobs(&mut self, request: &Request, name: &str, digest: &str) -> Answer {
        let Some(bytes) = self.blob(name, digest) else { return Answer::error(404, "BLOB_UNKNOWN") };
        if request.method == "DELETE" {
            self.remove_blob(name, digest);
            return Answer::new(202);
        }
        let answer = |status| Answer::new(status).header("Content-Type", "application/octet-stream");
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((start, end)) = range.and_then(|range| range.split_once('-')) else {
            return answer(200).body(bytes);
        };
        let size = bytes.len();
        let start: usize = start.parse().unwrap_or(0);
        let end = end.parse().unwrap_or(size.saturating_sub(1)).min(size.saturating_sub(1));
        if start >= size || end < start {
            return Answer::error(416, "RANGE");
        }
        answer(206).header("Content-Range", format!("bytes {start}-{end}/{size}")).body(&bytes[start..=end])
    }

    fn uploads(&mut self, request: &Request, name: &str, id: &str) -> Answer {
        let location = |id: &str| format!("/v2/{name}/blobs/uploads/{id}");
        let range = |bytes: &[u8]| format!("0-{}", bytes.len().saturating_sub(1));
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (request.value("mount"), request.value("from"))
                && let Some(bytes) = self.blob(&from, &digest)
            {
                self.put_blob(name, &digest, bytes);
                return Answer::new(201).header("Location", format!("/v2/{name}/blobs/{digest}"));
            }
            self.next_upload += 1;
            let id = format!("upload-{}", self.next_upload);
            self.uploads.insert(id.clone(), Vec::new());
            return Answer::new(202).header("Location", location(&id)).header("Range", "0-0");
        }
        let Some(bytes) = self.uploads.get_mut(id) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
        match request.method.as_str() {
            "GET" => Answer::new(204).header("Location", location(id)).header("Range", range(bytes)),
            "PATCH" => {
                let start = request.headers.get("content-range").and_then(|range| range.split('-').next());
                if start.is_some_and(|start| start != bytes.len().to_string()) {
                    return Answer::error(416, "BLOB_UPLOAD_INVALID").header("Range", range(bytes));
                }
                bytes.extend_from_slice(&request.body);
                Answer::new(202).header("Location", location(id)).header("Range", range(bytes))
            }
            "PUT" => {
                bytes.extend_from_slice(&request.body);
                let bytes = std::mem::take(bytes);
                let digest = Digest::sha256(&bytes).to_string();
                if request.value("digest").as_deref() != Some(&digest) {
                    return Answer::error(400, "DIGEST_INVALID");
                }
                self.uploads.remove(id);
                self.put_blob(name, &digest, bytes);
                Answer::new(201).header("Location", format!("/v2/{name}/blobs/{digest}"))
            }
            "DELETE" => {
                self.uploads.remove(id);
                Answer::new(204)
            }
            _ => Answer::error(405, "UNSUPPORTED"),
        }
    }

    fn referrers(&self, name: &str, subject: &str) -> Answer {
        let manifests = self.repositories.get(name).map(|repository| &repository.manifests);
        let mut found = Vec::new();
        for (digest, (media_type, bytes)) in manifests.into_iter().flatten() {
            let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
            if document["subject"]["digest"] == subject {
                let own = &document["artifactType"];
                let artifact_type = if own.is_string() { own } else { &document["config"]["mediaType"] };
                found.push(json!({
                    "mediaType": media_type,
                    "digest": digest,
                    "size": bytes.len(),
                    "artifactType": artifact_type,
                }));
            }
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": found});
        Answer::new(200).header("Content-Type", media_type).body(index.to_string())
    }
}

/// Returns the digests in a list of descriptors, and whether each may be had elsewhere.
fn entries(list: &Value) -> impl Iterator<Item = (&str, bool)> {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().map(entry)
}

/// Returns the same of the blobs of a manifest.
fn blobs(document: &Value) -> impl Iterator<Item = (&str, bool)> {
    entries(&document["layers"]).chain(document.get("config").map(entry))
}

fn entry(descriptor: &Value) -> (&str, bool) {
    let is_foreign = descriptor["mediaType"].as_str().unwrap_or_default().contains("foreign");
    (descriptor["digest"].as_str().unwrap_or_default(), is_foreign || descriptor.get("urls").is_some())
}

/// Returns the scopes that a request needs.
fn scopes(request: &Request) -> Vec<String> {
    let Some(path) = request.path.strip_prefix("/v2/") else { return Vec::new() };
    if path == "_catalog" {
        return vec!["registry:catalog:*".to_owned()];
    }
    let ends = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let Some(name) = ends.iter().find_map(|end| path.split_once(end)).map(|(name, _)| name) else {
        return Vec::new();
    };
    let actions = match request.method.as_str() {
        "GET" | "HEAD" => "pull",
        "DELETE" => "delete",
        _ => "pull,push",
    };
    let from = request.value("from").map(|from| format!("repository:{from}:pull"));
    [format!("repository:{name}:{actions}")].into_iter().chain(from).collect()
}

/// Answers with the part of a list that was asked for.
fn page(request: &Request, key: &str, names: &[String]) -> Answer {
    let count = request.value("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let last = request.value("last").unwrap_or_default();
    let rest: Vec<_> = names.iter().filter(|name| **name > last).collect();
    let page: Vec<_> = rest.iter().take(count).collect();
    let answer = Answer::new(200).body(json!({"name": "x", key: page}).to_string());
    match page.last() {
        Some(last) if page.len() < rest.len() => {
            let next = format!("<{}?n={count}&last={last}>; rel=\"next\"", request.path);
            answer.header("Link", next)
        }
        _ => answer,
    }
}

fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{user}:{password}");
    let mut encoded = String::from("Basic ");
    for group in text.as_bytes().chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            encoded.push(if place <= group.len() { digit.into() } else { '=' });
        }
    }
    encoded
}
