//! Registries as they are: what the specification does not foresee, and what servers before them do.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use restow_oci::Algorithm;
use restow_oci::Digester;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::compress;
use restow_testkit::registry::Answer;
use serde_json::Value;
use serde_json::json;

use super::*;

/// The statuses with which registries decline questions that they need not know.
const REFUSALS: [u16; 5] = [400, 403, 405, 500, 501];

/// An image, `a:v1` of a new registry.
fn scene() -> (Registry, Image) {
    let (registry, image) = (Registry::start(), ImageBuilder::new().build());
    registry.put("a", "v1", &image);
    (registry, image)
}

/// Settings by which `host` is reached as a `hosts.toml` says.
fn reached(host: &str, text: &str) -> Settings {
    let directory = tempfile::tempdir().unwrap().keep();
    std::fs::create_dir(directory.join(host)).unwrap();
    std::fs::write(directory.join(host).join("hosts.toml"), text).unwrap();
    Settings { hosts: Hosts::load(&[], &[directory]).unwrap(), ..Settings::default() }
}

/// An artifact about an image.
fn artifact(image: &Image) -> Image {
    let subject = json!({
        "mediaType": image.root.media_type.as_str(),
        "digest": image.root.digest.as_str(),
        "size": image.root.size,
    });
    ImageBuilder::new().manifest_field("subject", subject).build()
}

/// Puts the index of referrers in the place of a list.
fn put_fallback(registry: &Registry, image: &Image, artifact: &Image) {
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": artifact.root.media_type.as_str(),
        "digest": artifact.root.digest.as_str(),
        "size": artifact.root.size,
    }]});
    let tag = referrers_tag(&image.root.digest);
    registry.put_manifest("a", Some(&tag), MediaType::OCI_INDEX.as_str(), index.to_string().as_bytes());
}

fn count(registry: &Registry, word: &str) -> usize {
    registry.requests().iter().filter(|request| request.line().starts_with(word)).count()
}

#[test]
fn a_mirror_below_a_path_gets_tokens_by_the_name_that_it_gives_a_repository() {
    let (upstream, mirror, image) = (Registry::start(), Registry::start(), ImageBuilder::new().build());
    mirror.put("cache/a", "v1", &image);
    let content = large(5 << 20);
    mirror.put_blob("cache/a", &content);
    mirror.require_token(None);
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}/v2/cache\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         override_path = true\n",
        upstream.host(),
        mirror.host()
    );
    let (client, _) = client_with(reached("registry.test", &text));
    let name = Name::parse("registry.test/a:v1").unwrap();
    assert_eq!(client.manifest(&name).unwrap().unwrap().bytes, image.root_bytes());
    assert!(read_through(&client, &name, &layer(&content)).unwrap() == content);
    assert!(upstream.requests().is_empty());
    let paths: Vec<_> = mirror.requests().into_iter().map(|request| request.path).collect();
    assert_eq!((paths.len(), paths[1].as_str()), (4, "/token"), "{paths:?}");
}

#[test]
fn a_mirror_that_is_gone_is_met_once() {
    let (upstream, image) = scene();
    let content = large(5 << 20);
    upstream.put_blob("a", &content);
    // Nobody may listen there but who is allowed more than tests are.
    let gone = "127.0.0.1:1";
    let text = format!("server = \"http://{}\"\n[host.\"http://{gone}\"]\n", upstream.host());
    let (client, clock) = client_with(reached("registry.test", &text));
    let name = Name::parse("registry.test/a:v1").unwrap();
    client.manifest(&name).unwrap().unwrap();
    assert!(read_through(&client, &name, &layer(&content)).unwrap() == content);
    assert_eq!(client.blob_size(&name.repository, &Digest::sha256(&content)).unwrap(), Some(5 << 20));
    for (digest, bytes) in image.blobs.iter().filter(|(digest, _)| *digest != image.root.digest) {
        let blob = Descriptor::new(MediaType::OCI_LAYER, digest.clone(), bytes.len() as u64);
        client.small_blob(&name.repository, &blob).unwrap().unwrap();
    }
    assert!(clock.slept().is_empty(), "{:?}", clock.slept());
    let met = client.requests().into_iter().filter(|(host, ..)| host == gone).map(|(.., count)| count);
    assert_eq!(met.sum::<u64>(), 1);
}

#[test]
fn a_mirror_without_tls_that_is_called_insecure_is_not_passed_over() {
    let (mirror, image) = scene();
    let upstream = Registry::start();
    let content = large(5 << 20);
    mirror.put_blob("a", &content);
    // Not known as this machine, so it is tried with TLS first.
    let place = mirror.host().replace("127.0.0.1", "0.0.0.0");
    let text = format!(
        "[[registry]]\nprefix = \"registry.test\"\nlocation = \"{}\"\n\
         [[registry.mirror]]\nlocation = \"{place}\"\ninsecure = true\n",
        upstream.host()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let hosts = Hosts::load(&[file.path().to_owned()], &[]).unwrap();
    let (client, _) = client_with(Settings { hosts, ..Settings::default() });
    let name = Name::parse("registry.test/a:v1").unwrap();
    assert_eq!(client.manifest(&name).unwrap().unwrap().bytes, image.root_bytes());
    assert!(read_through(&client, &name, &layer(&content)).unwrap() == content);
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_mirror_that_fails_or_wants_rest_is_not_waited_for() {
    for (status, pause, asked) in [(500, None, 2), (502, None, 2), (503, Some(60), 1), (429, Some(60), 1)] {
        let (upstream, image) = scene();
        let mirror = Registry::start();
        mirror.intercept(move |_| {
            let answer = Answer::new(status);
            Some(pause.map_or(answer.clone(), |pause| answer.header("Retry-After", pause)))
        });
        let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", upstream.host(), mirror.host());
        let (client, clock) = client_with(reached("registry.test", &text));
        let name = Name::parse("registry.test/a:v1").unwrap();
        client.manifest(&name).unwrap().unwrap();
        let config = &image.blobs.iter().find(|(digest, _)| *digest != image.root.digest).unwrap();
        let config = Descriptor::new(MediaType::OCI_CONFIG, config.0.clone(), config.1.len() as u64);
        client.small_blob(&name.repository, &config).unwrap().unwrap();
        assert_eq!((mirror.take_lines().len(), clock.slept().len()), (asked, 0), "{status}");
        // It is asked again once it has had its rest.
        *clock.now.lock().unwrap() += Duration::from_secs(61);
        let missing = name.repository.tagged("missing").unwrap();
        assert!(client.manifest(&missing).unwrap().is_none());
        assert_eq!(mirror.take_lines().len(), 1, "{status}");
    }
}

#[test]
fn a_head_that_is_refused_is_no_end_and_proves_nothing() {
    for status in REFUSALS {
        let (registry, image) = scene();
        let (there, empty) = (registry.put_blob("a", b"there"), registry.put_blob("a", b""));
        registry.intercept(move |request| (request.method == "HEAD").then(|| Answer::new(status)));
        let (client, clock) = client_with(Settings::default());
        let tag = name(&registry, "a:v1");
        let repository = &tag.repository;
        // To write, nobody knows, so it is written.
        assert_eq!(client.digest_to_write(&tag).unwrap(), None, "{status}");
        assert_eq!(client.digest_to_write(&repository.at(&image.root.digest)).unwrap(), None, "{status}");
        assert!(!client.holds(repository, &there).unwrap(), "{status}");
        let content = large(100_000);
        let pushed = client.push_blob(repository, &layer(&content), &blob(&content), &[]).unwrap();
        assert_eq!(pushed, Pushed::Uploaded, "{status}");
        // To read, what is there says so itself.
        assert_eq!(client.digest(&tag).unwrap().as_ref(), Some(&image.root.digest), "{status}");
        assert_eq!(client.digest(&name(&registry, "a:v2")).unwrap(), None, "{status}");
        assert_eq!(client.blob_size(repository, &there).unwrap(), Some(5), "{status}");
        assert!(client.blob_head(repository, &empty).unwrap().is_some(), "{status}");
        assert_eq!(client.blob_size(repository, &Digest::sha256(b"none")).unwrap(), None, "{status}");
        // One 500 may be an accident.
        let heads = count(&registry, "HEAD");
        assert_eq!(heads, if status == 500 { 2 * clock.slept().len() } else { 9 }, "{status}");
    }
    // Who is not let in hears so.
    let (registry, _) = scene();
    registry.intercept(|request| (request.method == "HEAD").then(|| Answer::new(401)));
    let error = client().digest_to_write(&name(&registry, "a:v1")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[test]
fn a_registry_that_does_not_say_the_digest_is_asked_for_the_manifest() {
    let (registry, image) = scene();
    registry.intercept(|request| (request.method == "HEAD").then(|| Answer::new(200)));
    assert_eq!(client().digest(&name(&registry, "a:v1")).unwrap(), Some(image.root.digest));
}

#[test]
fn a_list_of_referrers_that_is_refused_is_looked_for_under_the_tag_and_not_asked_for_again() {
    for status in [401, 403, 404, 405, 500, 501] {
        let (registry, image) = scene();
        let other = IndexBuilder::new().image(&image).build();
        let artifact = artifact(&image);
        put_fallback(&registry, &image, &artifact);
        registry.intercept(move |request| request.path.contains("/referrers/").then(|| Answer::new(status)));
        let (client, clock) = client_with(Settings::default());
        let repository = name(&registry, "a").repository;
        let found = client.referrers(&repository, &image.root.digest, None).unwrap();
        assert_eq!(found.len(), 1, "{status}");
        assert_eq!(found[0].digest, artifact.root.digest);
        assert!(client.referrers(&repository, &other.root.digest, None).unwrap().is_empty());
        // One 500 may be an accident.
        let tries = if status == 500 { 2 } else { 1 };
        assert_eq!(count(&registry, "GET /v2/a/referrers/"), tries, "{status}");
        assert_eq!(clock.slept().len(), tries - 1, "{status}");
    }
}

#[test]
fn a_registry_that_has_listed_referrers_once_is_held_to_it() {
    let (registry, image) = scene();
    registry.list_referrers();
    let client = client();
    let repository = name(&registry, "a").repository;
    client.referrers(&repository, &image.root.digest, None).unwrap();
    registry.intercept(|request| request.path.contains("/referrers/").then(|| Answer::new(500)));
    let error = client.referrers(&repository, &image.root.digest, None).unwrap_err();
    assert!(matches!(error, Error::Status { status: 500, .. }), "{error}");
    // Of a repository that is not there yet it knows nothing, but will.
    let registry = Registry::start();
    registry.list_referrers();
    let repository = name(&registry, "a").repository;
    registry.intercept(|request| {
        request.path.contains("/referrers/").then(|| Answer::error(404, "NAME_UNKNOWN"))
    });
    let client = super::client();
    assert!(client.referrers(&repository, &image.root.digest, None).unwrap().is_empty());
    registry.intercept(|_| None);
    let artifact = artifact(&image);
    for (_, bytes) in &artifact.blobs {
        registry.put_blob("a", bytes);
    }
    let media_type = artifact.root.media_type.to_string();
    registry.put_manifest("a", None, &media_type, artifact.root_bytes());
    assert_eq!(client.referrers(&repository, &image.root.digest, None).unwrap().len(), 1);
}

#[test]
fn a_tag_that_means_the_subject_itself_is_no_list_of_referrers() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    let index = IndexBuilder::new().image(&image).build();
    registry.put("a", "v1", &index);
    let tag = format!("/v2/a/manifests/{}", referrers_tag(&index.root.digest));
    let (media_type, bytes) = (index.root.media_type.to_string(), index.root_bytes().to_vec());
    registry.intercept(move |request| {
        (request.method == "GET" && request.path == tag)
            .then(|| Answer::new(200).header("Content-Type", &media_type).body(&bytes))
    });
    let client = client();
    let repository = name(&registry, "a").repository;
    assert!(client.referrers(&repository, &index.root.digest, None).unwrap().is_empty());
    // Nor does one that is made take its entries for referrers.
    let artifact = artifact(&index);
    for (_, bytes) in &artifact.blobs {
        registry.put_blob("a", bytes);
    }
    let bytes = Bytes::from(artifact.root_bytes().to_vec());
    client.put_manifest(&repository.at(&artifact.root.digest), &MediaType::OCI_MANIFEST, &bytes).unwrap();
    let made = registry.manifest("a", &referrers_tag(&index.root.digest)).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let digests: Vec<_> =
        made["manifests"].as_array().unwrap().iter().map(|entry| &entry["digest"]).collect();
    assert_eq!(digests, [artifact.root.digest.as_str()]);
}

#[test]
fn a_registry_that_has_not_noticed_a_blob_yet_is_asked_again() {
    for (code, refusals, tries) in
        [("MANIFEST_BLOB_UNKNOWN", 2, 3), ("BLOB_UNKNOWN", 99, 5), ("TAG_INVALID", 99, 1)]
    {
        let (registry, image) = scene();
        let puts = AtomicUsize::new(0);
        registry.intercept(move |request| {
            (request.method == "PUT" && puts.fetch_add(1, SeqCst) < refusals)
                .then(|| Answer::error(404, code))
        });
        let (client, clock) = client_with(Settings::default());
        let bytes = Bytes::from(image.root_bytes().to_vec());
        let put = client.put_whole(&name(&registry, "a:v2"), &image.root.media_type, &bytes);
        assert_eq!(put.is_ok(), refusals < 5, "{code}");
        assert_eq!((count(&registry, "PUT"), clock.slept().len()), (tries, tries - 1), "{code}");
    }
}

#[test]
fn a_registry_that_a_redirect_leads_to_gets_a_token_of_its_own() {
    let (other, image) = scene();
    let content = large(5 << 20);
    other.put_blob("a", &content);
    other.require_token(None);
    let registry = Registry::start();
    let host = other.host();
    registry.require_password("user", "secret");
    let right = "Basic dXNlcjpzZWNyZXQ=";
    registry.intercept(move |request| {
        let let_in = request.headers.get("authorization").is_some_and(|sent| sent == right);
        let there = format!("http://{host}{}", request.path);
        let_in.then(|| Answer::new(307).header("Location", there))
    });
    let directory = tempfile::tempdir().unwrap();
    let logins = directory.path().join("auth.json");
    let text = format!(r#"{{"auths":{{"{}":{{"username":"user","password":"secret"}}}}}}"#, registry.host());
    std::fs::write(&logins, text).unwrap();
    let credentials = Credentials::load(&[logins]).unwrap();
    let (client, _) = client_with(Settings { credentials, ..Settings::default() });
    let name = name(&registry, "a:v1");
    assert_eq!(client.manifest(&name).unwrap().unwrap().bytes, image.root_bytes());
    assert!(read_through(&client, &name, &layer(&content)).unwrap() == content);
    // The other registry says once what it wants, and never sees our password.
    let sent = other.requests().into_iter().map(|request| request.headers.get("authorization").cloned());
    let sent: Vec<_> = sent.map(|sent| sent.unwrap_or_default()).collect();
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert!(sent.iter().all(|sent| sent.is_empty() || sent.starts_with("Bearer ")), "{sent:?}");
}

#[test]
fn a_manifest_has_the_digest_that_its_registry_calls_it_by() {
    let (registry, image) = scene();
    let bytes = image.root_bytes().to_vec();
    let mut digester = Digester::new(Algorithm::Sha512).unwrap();
    digester.update(&bytes);
    let right = digester.finish();
    let wrong = Digester::new(Algorithm::Sha512).unwrap().finish();
    for (named, expected) in [
        (right.to_string(), &right),
        (wrong.to_string(), &image.root.digest),
        ("blake3:00".to_owned(), &image.root.digest),
        (String::new(), &image.root.digest),
    ] {
        let (bytes, media_type) = (bytes.clone(), image.root.media_type.to_string());
        registry.intercept(move |_| {
            let answer = Answer::new(200).header("Content-Type", &media_type).body(&bytes);
            Some(answer.header("Docker-Content-Digest", &named))
        });
        let found = client().manifest(&name(&registry, "a:v1")).unwrap().unwrap();
        assert_eq!(found.descriptor.digest, *expected);
        let by_digest = name(&registry, &format!("a@{right}"));
        assert_eq!(client().manifest(&by_digest).unwrap().unwrap().descriptor.digest, right);
    }
}

#[test]
fn documents_that_come_compressed_are_what_they_hold() {
    let (registry, image) = scene();
    let media_type = image.root.media_type.to_string();
    let answer = move |body: Vec<u8>| {
        Answer::new(200).header("Content-Type", &media_type).header("Content-Encoding", "gzip").body(body)
    };
    let fetch = |body: Vec<u8>| {
        let answer = answer(body);
        registry.intercept(move |_| Some(answer.clone()));
        client().manifest(&name(&registry, "a:v1"))
    };
    let bytes = image.root_bytes();
    for body in [compress::gzip(bytes), bytes.to_vec()] {
        assert_eq!(fetch(body).unwrap().unwrap().bytes, bytes);
    }
    let bomb = compress::gzip(vec![b' '; 64 << 20]);
    let error = fetch(bomb).unwrap_err();
    assert!(error.to_string().contains("the answer has more than"), "{error}");
    let whole = compress::gzip(bytes);
    let error = fetch(whole[..whole.len() / 2].to_vec()).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    // Errors, too.
    let said = compress::gzip(br#"{"errors":[{"code":"DENIED","message":"no"}]}"#);
    let answer = Answer::new(418).header("Content-Encoding", "gzip").body(said);
    registry.intercept(move |_| Some(answer.clone()));
    let error = client().manifest(&name(&registry, "a:v1")).unwrap_err();
    assert!(error.to_string().ends_with("418, DENIED: no"), "{error}");
}

#[test]
fn a_token_service_that_takes_post_alone_is_posted_to() {
    for status in [404, 405] {
        let (registry, _) = scene();
        registry.put("b", "v1", &ImageBuilder::new().build());
        registry.require_token(Some(("user", "password")));
        let host = registry.host();
        registry.intercept(move |request| {
            let form = String::from_utf8_lossy(&request.body).into_owned();
            let granted = ["grant_type=password", "username=user", "password=password", "service=test"];
            let granted = granted.iter().all(|part| form.contains(part));
            match (request.path.as_str(), request.method.as_str()) {
                ("/token", "POST") if granted => Some(Answer::new(200).body(r#"{"access_token":"posted"}"#)),
                ("/token", _) => Some(Answer::new(status)),
                _ => {
                    let sent = request.headers.get("authorization").cloned().unwrap_or_default();
                    let challenge = format!(r#"Bearer realm="http://{host}/token",service="test""#);
                    let answer = Answer::new(401).header("WWW-Authenticate", challenge);
                    match sent == "Bearer posted" {
                        true => Some(Answer::new(404)),
                        false => Some(answer),
                    }
                }
            }
        });
        let logins =
            format!(r#"{{"auths":{{"{}":{{"username":"user","password":"password"}}}}}}"#, registry.host());
        let credentials = Credentials::parse("logins", &logins).unwrap();
        let (client, _) = client_with(Settings { credentials, ..Settings::default() });
        for repository in ["a", "b"] {
            assert!(client.manifest(&name(&registry, &format!("{repository}:v1"))).unwrap().is_none());
        }
        // It is found out once.
        assert_eq!((count(&registry, "GET /token"), count(&registry, "POST /token")), (1, 2), "{status}");
    }
}

#[test]
fn the_next_page_is_found_behind_a_proxy_that_the_registry_does_not_know() {
    for next in [
        "<https://127.0.0.1/v2/a/tags/list?last=x%2C,y>; rel=\"next\"",
        "<http://127.0.0.1:5000/v2/a/tags/list?last=x>; rel=next",
        "</v2/a/tags/list?last=a>; rel=\"first\", </v2/a/tags/list?last=x>; title=\"a\"; REL='next'",
    ] {
        let registry = Registry::start();
        registry.intercept(move |request| {
            Some(match request.query.contains("last") {
                true => Answer::new(200).body(r#"{"tags":["b"]}"#),
                false => Answer::new(200).header("Link", next).body(r#"{"tags":["a"]}"#),
            })
        });
        assert_eq!(client().tags(&name(&registry, "a").repository).unwrap(), ["a", "b"], "{next}");
    }
}

#[test]
fn docker_hub_is_asked_by_head_for_what_an_earlier_run_has_fetched() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("library/debian", "12", &image);
    let directory = tempfile::tempdir().unwrap();
    let text = format!("server = \"http://{}\"\n", registry.host());
    let run = |host: &str| {
        let manifests = Some(directory.path().join("manifests"));
        let client = client_with(Settings { manifests, ..reached(host, &text) }).0;
        let found = client.manifest(&Name::parse(&format!("{host}/library/debian:12")).unwrap()).unwrap();
        let lines = registry.take_lines();
        let methods = lines.iter().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>().join(" ");
        (found.map(|found| found.bytes), methods)
    };
    let first = Some(Bytes::from(image.root_bytes().to_vec()));
    for expected in ["GET", "HEAD", "HEAD"] {
        assert_eq!(run("docker.io"), (first.clone(), expected.to_owned()));
    }
    // Others do not count, so a look would be one request too many.
    for expected in ["GET", "GET"] {
        assert_eq!(run("registry.test"), (first.clone(), expected.to_owned()));
    }
    // What has changed is fetched, and known from then on.
    let image = ImageBuilder::new().config_field("author", "x".into()).build();
    registry.put("library/debian", "12", &image);
    let second = Some(Bytes::from(image.root_bytes().to_vec()));
    assert_ne!(first, second);
    for expected in ["HEAD GET", "HEAD"] {
        assert_eq!(run("docker.io"), (second.clone(), expected.to_owned()));
    }
    // What is gone is gone, whatever is kept here.
    registry.intercept(|_| Some(Answer::error(404, "MANIFEST_UNKNOWN")));
    assert_eq!(run("docker.io"), (None, "HEAD GET".to_owned()));
}
