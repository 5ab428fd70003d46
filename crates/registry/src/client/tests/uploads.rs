//! Blobs that are pushed.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use restow_testkit::registry::Answer;
use restow_testkit::registry::Ending;

use super::*;

fn push(client: &Client, registry: &Registry, content: &[u8]) -> Result<Pushed> {
    let repository = name(registry, "a").repository;
    client.push_blob(&repository, &layer(content), &blob(content), &[])
}

fn lines(registry: &Registry) -> Vec<String> {
    let lines = registry.take_lines();
    lines
        .iter()
        .map(|line| line.replace("/v2/a/blobs/uploads/", "U ").replace("/v2/a/blobs/", "B "))
        .collect()
}

#[test]
fn small_blobs_are_sent_and_large_ones_are_looked_for_first() {
    let registry = Registry::start();
    let (small, large) = (large(64 << 10), large((64 << 10) + 1));
    for content in [&small, &large] {
        assert_eq!(push(&client(), &registry, content).unwrap(), Pushed::Uploaded);
        assert_eq!(registry.blob("a", &Digest::sha256(content)).as_ref(), Some(content));
    }
    let head = format!("HEAD B {}", Digest::sha256(&large));
    assert_eq!(lines(&registry), ["POST U ", "PUT U upload-1", &head, "POST U ", "PUT U upload-2"]);
    assert_eq!(push(&client(), &registry, &large).unwrap(), Pushed::There);
    assert_eq!(lines(&registry), std::slice::from_ref(&head));
    // Within a run it is known.
    let client = client();
    push(&client, &registry, &large).unwrap();
    push(&client, &registry, &large).unwrap();
    assert_eq!(lines(&registry), [head]);
}

#[test]
fn an_empty_blob_is_a_blob() {
    let registry = Registry::start();
    assert_eq!(push(&client(), &registry, b"").unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("a", &Digest::sha256(b"")), Some(Vec::new()));
    assert_eq!(read_through(&client(), &name(&registry, "a"), &layer(b"")).unwrap(), b"");
}

#[test]
fn blobs_go_up_in_pieces_no_smaller_than_the_registry_wants() {
    let content = large(1000);
    for (minimum, pieces) in [(None, 10), (Some(300), 4), (Some(5000), 0)] {
        let registry = Registry::start();
        registry.intercept(move |request| {
            let minimum = minimum?;
            (request.method == "POST").then(|| {
                Answer::new(202)
                    .header("Location", "/v2/a/blobs/uploads/x")
                    .header("OCI-Chunk-Min-Length", minimum)
            })
        });
        // The registry knows no upload of that name; only what it was sent is looked at.
        let settings = Settings { chunk_size: Some(100), attempts: 1, ..Settings::default() };
        let result = push(&client_with(settings).0, &registry, &content);
        let sent = registry.requests();
        let patches = sent.iter().filter(|request| request.method == "PATCH");
        match minimum {
            None => {
                result.unwrap();
                assert_eq!(patches.count(), pieces);
                assert_eq!(registry.blob("a", &Digest::sha256(&content)), Some(content.clone()));
                assert_eq!(sent[2].headers["content-range"], "100-199");
            }
            Some(minimum) => {
                let size = patches.map(|request| request.body.len() as u64).next();
                assert_eq!(size, (minimum < 1000).then_some(minimum));
            }
        }
    }
}

#[test]
fn an_upload_goes_on_from_what_the_registry_has() {
    let content = large(3 << 20);
    let registry = Registry::start();
    let broken = AtomicUsize::new(0);
    let first = content[..1 << 20].to_vec();
    let kept = Mutex::new(None::<Vec<u8>>);
    registry.intercept(move |request| {
        let mut kept = kept.lock().unwrap();
        match request.method.as_str() {
            // The registry keeps a third, and the connection ends.
            "PUT" if broken.fetch_add(1, Ordering::SeqCst) == 0 => {
                *kept = Some(first.clone());
                Some(Answer::new(200).length(9).ending(Ending::Closed).header("Content-Length", "x"))
            }
            "GET" => {
                let range = format!("0-{}", kept.as_ref()?.len() - 1);
                Some(
                    Answer::new(204)
                        .header("Range", range)
                        .header("Location", "/v2/a/blobs/uploads/upload-1"),
                )
            }
            "PATCH" => {
                let mut all = kept.take()?;
                assert_eq!(request.headers["content-range"], format!("{}-{}", all.len(), (3 << 20) - 1));
                all.extend_from_slice(&request.body);
                let range = format!("0-{}", all.len() - 1);
                *kept = Some(all);
                Some(
                    Answer::new(202)
                        .header("Range", range)
                        .header("Location", "/v2/a/blobs/uploads/upload-1"),
                )
            }
            "PUT" => {
                let all = kept.take()?;
                let right = request.value("digest") == Some(Digest::sha256(&all).to_string());
                Some(Answer::new(if right { 201 } else { 400 }))
            }
            _ => None,
        }
    });
    assert_eq!(push(&client(), &registry, &content).unwrap(), Pushed::Uploaded);
    let head = format!("HEAD B {}", Digest::sha256(&content));
    assert_eq!(
        lines(&registry),
        [&head, "POST U ", "PUT U upload-1", "GET U upload-1", "PATCH U upload-1", "PUT U upload-1"]
    );
}

#[test]
fn a_registry_that_counts_otherwise_is_not_sent_more() {
    let content = large(1000);
    for received in [50, 150] {
        let registry = Registry::start();
        registry.intercept(move |request| {
            (request.method == "PATCH").then(|| {
                Answer::new(202)
                    .header("Location", "/v2/a/blobs/uploads/upload-1")
                    .header("Range", format!("0-{}", received - 1))
            })
        });
        let settings = Settings { chunk_size: Some(100), ..Settings::default() };
        let error = push(&client_with(settings).0, &registry, &content).unwrap_err();
        assert!(
            error.to_string().contains(&format!("has {received} bytes of the blob, was sent 100")),
            "{error}"
        );
        assert_eq!(registry.requests().iter().filter(|request| request.method == "PATCH").count(), 1);
    }
}

#[test]
fn an_upload_that_cannot_go_on_starts_again() {
    let content = large(100);
    let registry = Registry::start();
    let failed = AtomicUsize::new(0);
    registry.intercept(move |request| match request.method.as_str() {
        "PUT" if failed.fetch_add(1, Ordering::SeqCst) < 2 => Some(Answer::new(500)),
        "GET" => Some(Answer::error(404, "BLOB_UPLOAD_UNKNOWN")),
        _ => None,
    });
    push(&client(), &registry, &content).unwrap();
    assert_eq!(registry.blob("a", &Digest::sha256(&content)), Some(content));
    // And not for ever.
    let registry = Registry::start();
    registry.intercept(|request| (request.method == "PUT").then(|| Answer::new(500)));
    let error = push(&client(), &registry, b"x").unwrap_err();
    assert!(matches!(error, Error::Status { status: 500, .. }), "{error}");
    assert_eq!(registry.requests().iter().filter(|request| request.method == "PUT").count(), 5);
}

#[test]
fn a_registry_that_takes_no_blob_whole_gets_pieces() {
    let content = large(17 << 20);
    let registry = Registry::start();
    registry.intercept(|request| (request.body.len() > 16 << 20).then(|| Answer::new(413)));
    push(&client(), &registry, &content).unwrap();
    assert!(registry.blob("a", &Digest::sha256(&content)) == Some(content));
}

#[test]
fn locations_of_every_form_are_followed() {
    let own =
        |registry: &Registry| format!("http://{}/v2/a/blobs/uploads/upload-1?state=a%2Fb", registry.host());
    let forms: [&dyn Fn(&Registry) -> String; 4] = [
        &own,
        &|_| "/v2/a/blobs/uploads/upload-1?state=a%2Fb&x".to_owned(),
        &|_| "upload-1?state=a%2Fb".to_owned(),
        &|registry| format!("//{}/v2/a/blobs/uploads/upload-1?state=a%2Fb", registry.host()),
    ];
    for form in forms {
        let registry = Registry::start();
        let location = form(&registry);
        registry.intercept(move |request| {
            if request.method == "POST" {
                return Some(Answer::new(202).header("Location", &location));
            }
            let right =
                request.path == "/v2/a/blobs/uploads/upload-1" && request.query.contains("state=a%2Fb");
            Some(Answer::new(if right && request.value("digest").is_some() { 201 } else { 400 }))
        });
        push(&client(), &registry, b"x").unwrap();
    }
    for (location, expected) in [(None, "no location"), (Some("ftp://x/y"), "no location")] {
        let registry = Registry::start();
        registry.intercept(move |_| {
            let answer = Answer::new(202);
            Some(match location {
                Some(location) => answer.header("Location", location),
                None => answer,
            })
        });
        let error = push(&client(), &registry, b"x").unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_mount_that_is_declined_becomes_an_upload() {
    let registry = Registry::start();
    let (from, to) = (name(&registry, "other").repository, name(&registry, "a").repository);
    let client = client();
    let push =
        |content: &[u8]| client.push_blob(&to, &layer(content), &blob(content), std::slice::from_ref(&from));
    // The upload that the registry opened instead is used.
    assert_eq!(push(b"x").unwrap(), Pushed::Uploaded);
    assert_eq!(lines(&registry), ["POST U ", "PUT U upload-1"]);
    registry.put_blob("other", b"y");
    assert_eq!(push(b"y").unwrap(), Pushed::Mounted);
    assert_eq!(registry.take_lines().len(), 1);
    // A refusal is no failure.
    registry.intercept(|request| request.value("mount").map(|_| Answer::error(403, "DENIED")));
    assert_eq!(push(b"z").unwrap(), Pushed::Uploaded);
    // What is there though it cannot be mounted is not sent, and the upload is closed.
    registry.intercept(|_| None);
    let there = large(100_000);
    registry.put_blob("a", &there);
    registry.take_lines();
    let client = super::client();
    assert_eq!(client.push_blob(&to, &layer(&there), &blob(&there), &[from]).unwrap(), Pushed::There);
    assert!(registry.take_lines().last().unwrap().starts_with("DELETE "));
}

#[test]
fn whatever_the_refusal_of_a_mount_is_the_blob_is_sent_and_no_other_mount_tried() {
    for (status, again) in [(400, true), (401, false), (403, false), (404, true), (405, false), (500, false)]
    {
        let registry = Registry::start();
        registry.put_blob("other", b"x");
        registry.intercept(move |request| request.value("mount").map(|_| Answer::new(status)));
        let (from, to) = (name(&registry, "other").repository, name(&registry, "a").repository);
        let (client, clock) = client_with(Settings::default());
        for content in [b"x", b"y"] {
            let from = std::slice::from_ref(&from);
            let pushed = client.push_blob(&to, &layer(content), &blob(content), from).unwrap();
            assert_eq!(pushed, Pushed::Uploaded, "{status}");
        }
        let mounts = registry.requests().iter().filter(|request| request.value("mount").is_some()).count();
        assert_eq!(mounts, if again { 2 } else { 1 }, "{status}");
        assert!(clock.slept().is_empty(), "{status}");
    }
}

#[test]
fn a_token_service_that_refuses_two_repositories_at_once_costs_the_mount_only() {
    for status in [400, 401, 403] {
        let registry = Registry::start();
        registry.require_token(None);
        registry.put_blob("other", b"x");
        registry.intercept(move |request| {
            let scopes = request.query.matches("scope=").count();
            (request.path == "/token" && scopes > 1).then(|| Answer::error(status, "DENIED"))
        });
        let (from, to) = (name(&registry, "other").repository, name(&registry, "a").repository);
        let pushed = client().push_blob(&to, &layer(b"x"), &blob(b"x"), &[from]).unwrap();
        assert_eq!(pushed, Pushed::Uploaded, "{status}");
        assert!(registry.blob("a", &Digest::sha256(b"x")).is_some(), "{status}");
    }
}

#[test]
fn an_upload_is_opened_by_any_success_and_is_never_taken_for_a_mount() {
    for status in [200, 201, 202] {
        let registry = Registry::start();
        registry.intercept(move |request| {
            let location = "/v2/a/blobs/uploads/upload-1";
            (request.method == "POST").then(|| Answer::new(status).header("Location", location))
        });
        let (from, to) = (name(&registry, "other").repository, name(&registry, "a").repository);
        registry.open_upload("upload-1");
        let pushed = client().push_blob(&to, &layer(b"x"), &blob(b"x"), &[from]).unwrap();
        assert_eq!(pushed, Pushed::Uploaded, "{status}");
        assert!(registry.blob("a", &Digest::sha256(b"x")).is_some(), "{status}");
        registry.open_upload("upload-1");
        assert_eq!(push(&client(), &registry, b"y").unwrap(), Pushed::Uploaded, "{status}");
        assert!(registry.blob("a", &Digest::sha256(b"y")).is_some(), "{status}");
    }
}

#[test]
fn pieces_become_smaller_until_a_proxy_lets_them_pass() {
    let content = large(17 << 20);
    for (limit, sizes) in [(16 << 20, 16 << 20), ((4 << 20) + 1, 4 << 20), (1 << 20, 1 << 20)] {
        let registry = Registry::start();
        registry.intercept(move |request| (request.body.len() > limit).then(|| Answer::new(413)));
        let (client, clock) = client_with(Settings::default());
        push(&client, &registry, &content).unwrap();
        assert!(registry.blob("a", &Digest::sha256(&content)).as_ref() == Some(&content));
        let largest = registry.requests().iter().rfind(|request| request.method == "PATCH").cloned();
        assert!(largest.is_some_and(|request| request.body.len() <= sizes), "{limit}");
        assert!(clock.slept().is_empty(), "a proxy that takes no more will not take more later");
    }
    let registry = Registry::start();
    registry.intercept(|request| (request.body.len() > 1000).then(|| Answer::new(413)));
    let error = push(&client(), &registry, &content).unwrap_err();
    assert!(matches!(error, Error::Status { status: 413, .. }), "{error}");
    // Once whole and once in pieces of each size.
    assert_eq!(registry.requests().iter().filter(|request| request.body.len() > 1000).count(), 4);
}

#[test]
fn a_blob_that_is_not_what_it_should_be_never_arrives_whole() {
    let registry = Registry::start();
    let mut content = large(1 << 20);
    let descriptor = layer(&content);
    content[77] ^= 1;
    let repository = name(&registry, "a").repository;
    let error = client().push_blob(&repository, &descriptor, &blob(&content), &[]).unwrap_err();
    assert!(matches!(error, Error::Content(restow_content::Error::Mismatch { .. })), "{error}");
    assert_eq!(registry.blob("a", &descriptor.digest), None);
    assert!(registry.requests().iter().all(|request| request.method != "PUT"));
}

#[test]
fn a_registry_that_stores_something_else_is_found_out() {
    let registry = Registry::start();
    let other = Digest::sha256(b"other");
    registry.intercept(move |_| Some(Answer::new(201).header("Docker-Content-Digest", &other)));
    let document = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    let error =
        client().put_manifest(&name(&registry, "a:v1"), &MediaType::OCI_INDEX, &document).unwrap_err();
    assert!(error.to_string().contains("the registry stored sha256:"), "{error}");
}

#[test]
fn pieces_go_on_from_what_the_registry_has_whatever_it_said_of_one() {
    let content = large(1000);
    // The connection ends without a word, the registry fails, or it has other bytes than we thought.
    let faults: [fn() -> Answer; 3] = [
        || Answer::new(202).header("Content-Length", "x").ending(Ending::Closed),
        || Answer::new(500),
        || Answer::error(416, "BLOB_UPLOAD_INVALID").header("Range", "0-299"),
    ];
    for fault in faults {
        let registry = Registry::start();
        let pieces = AtomicUsize::new(0);
        registry.intercept(move |request| {
            (request.method == "PATCH" && pieces.fetch_add(1, Ordering::SeqCst) == 3).then(fault)
        });
        let settings = Settings { chunk_size: Some(100), ..Settings::default() };
        push(&client_with(settings).0, &registry, &content).unwrap();
        assert_eq!(registry.blob("a", &Digest::sha256(&content)).as_ref(), Some(&content));
        let lines = lines(&registry);
        let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
        // One piece comes twice, after a look at how far it has come.
        assert_eq!((count("POST"), count("PATCH"), count("GET")), (1, 11, 1), "{lines:#?}");
    }
}

#[test]
fn a_damaged_blob_never_arrives_whole_in_pieces_either() {
    let registry = Registry::start();
    let mut content = large(1000);
    let descriptor = layer(&content);
    content[77] ^= 1;
    let settings = Settings { chunk_size: Some(100), ..Settings::default() };
    let repository = name(&registry, "a").repository;
    let error =
        client_with(settings).0.push_blob(&repository, &descriptor, &blob(&content), &[]).unwrap_err();
    assert!(matches!(error, Error::Content(restow_content::Error::Mismatch { .. })), "{error}");
    let pieces = registry.requests().iter().filter(|request| request.method == "PATCH").count();
    assert_eq!((pieces, registry.blob("a", &descriptor.digest)), (9, None));
}

#[test]
fn a_registry_that_names_no_length_has_the_blob_all_the_same() {
    let registry = Registry::start();
    registry.intercept(|request| (request.method == "HEAD").then(|| Answer::new(200).without_length()));
    let content = large(100_000);
    assert_eq!(push(&client(), &registry, &content).unwrap(), Pushed::There);
    let repository = name(&registry, "a").repository;
    let error = client().blob_size(&repository, &Digest::sha256(&content)).unwrap_err();
    assert!(error.to_string().contains("names no length"), "{error}");
}

/// Zeros without end, or nearly so.
struct Zeros;

impl Blob for Zeros {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn read_at(&self, buffer: &mut [u8], _: u64) -> std::io::Result<usize> {
        buffer.fill(0);
        Ok(buffer.len())
    }
}

#[test]
fn a_registry_that_stops_reading_an_upload_is_given_up() {
    use std::io::Read as _;
    use std::io::Write as _;
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = server.local_addr().unwrap();
    let (done, ends) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let mut kept = Vec::new();
        for answer in ["404 x\r\n", "202 x\r\nLocation: /v2/a/blobs/uploads/x\r\n"] {
            let mut stream = server.accept().unwrap().0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let answer = format!("HTTP/1.1 {answer}Content-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        // The bytes come, and nobody takes them.
        kept.push(server.accept().unwrap().0);
        let _ = ends.recv();
    });
    let clock = Arc::new(SystemClock::default());
    let settings =
        Settings { idle_timeout: Duration::from_millis(20), attempts: 1, clock, ..Settings::default() };
    let repository = Name::parse(&format!("{host}/a")).unwrap().repository;
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(b"never reached"), 1 << 30);
    let zeros: Arc<dyn Blob> = Arc::new(Zeros);
    let error = Client::new(settings).unwrap().push_blob(&repository, &descriptor, &zeros, &[]).unwrap_err();
    assert!(chain(&error).contains("nothing came for"), "{}", chain(&error));
    drop(done);
    thread.join().unwrap();
}
