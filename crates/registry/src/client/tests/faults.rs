//! What registries should not do. What concerns logins, uploads and TLS is beside this file; what concerns
//! layouts and archives is with those.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use restow_testkit::ImageBuilder;
use restow_testkit::registry::Answer;
use restow_testkit::registry::Ending;
use restow_testkit::registry::Request;

use super::*;

/// Answers the first `count` requests for blobs by `answer`, and counts them all.
fn first(
    registry: &Registry,
    count: usize,
    answer: impl Fn(&Request) -> Option<Answer> + Send + 'static,
) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    registry.intercept(move |request| {
        if !request.path.contains("/blobs/sha256:") || request.method != "GET" {
            return None;
        }
        if counter.fetch_add(1, Ordering::SeqCst) < count { answer(request) } else { None }
    });
    asked
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    for size in [1000, 5 << 20] {
        let content = large(size);
        let registry = Registry::start();
        registry.put_blob("a", &content);
        let half = content[..size / 2].to_vec();
        let length = content.len() as u64;
        let asked = first(&registry, 1, move |_| {
            Some(Answer::new(200).length(length).body(&half).ending(Ending::Closed))
        });
        let found = read_through(&client(), &name(&registry, "a"), &layer(&content)).unwrap();
        assert_eq!((found == content, asked.load(Ordering::SeqCst)), (true, 2));
        let range = registry.requests()[1].headers["range"].clone();
        // What had come when the connection broke is not asked for again.
        assert!(range != "bytes=0-" && range.ends_with(&format!("-{}", size - 1)), "{range}");
    }
}

#[test]
fn a_registry_that_ignores_or_mistakes_ranges_is_read_from_the_start() {
    let content = large(5 << 20);
    let total = content.len();
    let wrong: [fn(&[u8]) -> Answer; 6] = [
        |content| Answer::new(200).body(content),
        |_| Answer::error(416, "RANGE"),
        |_| Answer::new(501),
        |content| Answer::new(206).header("Content-Range", "bytes 0-9/10").body(&content[..10]),
        |content| Answer::new(206).header("Content-Range", "bytes 7-/*").body(&content[7..]),
        |content| Answer::new(206).body(content),
    ];
    for (case, wrong) in wrong.into_iter().enumerate() {
        let registry = Registry::start();
        registry.put_blob("a", &content);
        let all = content.clone();
        registry.intercept(move |request| {
            if request.headers.contains_key("range") {
                return Some(wrong(&all));
            }
            None
        });
        let client = client();
        let remote = Remote::new(&client, &name(&registry, "a").repository);
        let opened = remote.open(&layer(&content)).unwrap();
        let mut part = vec![0; 1000];
        let count = opened.read_at(&mut part, (total / 2) as u64).unwrap();
        assert_eq!((count, part == content[total / 2..total / 2 + 1000]), (1000, true), "case {case}");
    }
}

#[test]
fn a_blob_of_another_length_is_refused() {
    let content = large(1000);
    type Fault = fn(&[u8]) -> Answer;
    let cases: [(&str, Fault); 2] = [
        ("has 999 bytes", |content| Answer::new(200).body(&content[..999])),
        ("has 1001 bytes", |content| Answer::new(200).body([content, b"x"].concat())),
    ];
    for (expected, wrong) in cases {
        let registry = Registry::start();
        let body = content.clone();
        first(&registry, usize::MAX, move |_| Some(wrong(&body)));
        let error = read_through(&client(), &name(&registry, "a"), &layer(&content)).unwrap_err();
        let message = chain(&error);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_blob_without_a_length_is_taken_if_it_has_the_right_one() {
    for size in [1000, 5 << 20] {
        let content = large(size);
        let short = content[..size - 1].to_vec();
        let long = [&content[..], b"x"].concat();
        for (body, whole) in [(content.clone(), true), (short, false), (long, false)] {
            // Of a large one, nobody need read on behind the last byte that he wants.
            if body.len() > size && size > 1000 {
                continue;
            }
            let registry = Registry::start();
            first(&registry, usize::MAX, move |_| Some(Answer::new(200).body(&body).without_length()));
            let found = read_through(&client(), &name(&registry, "a"), &layer(&content));
            assert_eq!(found.is_ok_and(|found| found == content), whole, "{size}");
        }
    }
}

#[test]
fn a_blob_that_is_there_with_another_size_is_refused() {
    let content = large(100_000);
    let registry = Registry::start();
    registry.intercept(|request| (request.method == "HEAD").then(|| Answer::new(200).length(99_999)));
    let repository = name(&registry, "a").repository;
    let error = client().push_blob(&repository, &layer(&content), &blob(&content), &[]).unwrap_err();
    let expected = (100_000, 99_999);
    assert!(
        matches!(error, Error::Content(restow_content::Error::WrongSize { expected: e, actual, .. }) if (e, actual) == expected),
        "{error}"
    );
}

#[test]
fn bytes_of_another_digest_are_never_returned() {
    for size in [1000, 5 << 20] {
        let content = large(size);
        let registry = Registry::start();
        let mut body = content.clone();
        body[size - 1] ^= 1;
        // The header is of no weight.
        let digest = Digest::sha256(&content);
        first(&registry, usize::MAX, move |_| {
            Some(Answer::new(200).header("Docker-Content-Digest", &digest).body(&body))
        });
        let error = read_through(&client(), &name(&registry, "a"), &layer(&content)).unwrap_err();
        assert!(chain(&error).contains("expected blob"), "{}", chain(&error));
    }
}

#[test]
fn a_manifest_is_what_its_bytes_say() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("a", "v1", &image);
    let other = ImageBuilder::new().annotation("x", "y").build();
    let (lie, body) = (other.root.digest.clone(), image.root_bytes().to_vec());
    registry.intercept(move |_| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let answer = Answer::new(200).header("Docker-Content-Digest", &lie);
        Some(answer.header("Content-Type", media_type).body(&body))
    });
    let found = client().manifest(&name(&registry, "a:v1")).unwrap().unwrap();
    assert_eq!(found.descriptor.digest, image.root.digest);
    // Asked for by digest, it has to be that one, whatever the registry calls it.
    let by_digest = name(&registry, &format!("a:v1@{}", other.root.digest));
    let error = client().manifest(&by_digest).unwrap_err();
    assert!(matches!(error, Error::Content(restow_content::Error::Mismatch { .. })), "{error}");
}

#[test]
fn a_tag_means_one_thing_in_a_run_though_it_moves() {
    let registry = Registry::start();
    let (one, two) = (ImageBuilder::new().build(), ImageBuilder::new().annotation("x", "y").build());
    registry.put("a", "v1", &one);
    let client = client();
    let tag = name(&registry, "a:v1");
    assert_eq!(client.manifest(&tag).unwrap().unwrap().descriptor.digest, one.root.digest);
    registry.put("a", "v1", &two);
    assert_eq!(client.manifest(&tag).unwrap().unwrap().descriptor.digest, one.root.digest);
    // The digest decides where both are given.
    let both = name(&registry, &format!("a:v1@{}", two.root.digest));
    assert_eq!(client.manifest(&both).unwrap().unwrap().descriptor.digest, two.root.digest);
}

#[test]
fn a_document_without_end_is_cut_off() {
    let registry = Registry::start();
    registry.intercept(|_| Some(Answer::new(200).body(vec![b' '; 5 << 20])));
    let error = client().manifest(&name(&registry, "a:v1")).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn redirects_are_followed_and_take_no_secret_to_another_host() {
    let content = large(3000);
    let registry = Registry::start();
    let storage = Registry::start();
    storage.put_blob("a", &content);
    let target =
        format!("http://{}/v2/a/blobs/{}?signature=secret", storage.other_host(), Digest::sha256(&content));
    registry.require_password("user", "password");
    let redirect = target.clone();
    registry.intercept(move |request| {
        let authorized = request.headers.contains_key("authorization");
        (authorized && request.path.contains("/blobs/"))
            .then(|| Answer::new(307).header("Location", &redirect))
    });
    let client = client_with(Settings { credentials: login(&registry.host()), ..Settings::default() }).0;
    assert_eq!(read_through(&client, &name(&registry, "a"), &layer(&content)).unwrap(), content);
    assert!(registry.requests().iter().any(|request| request.headers.contains_key("authorization")));
    assert!(storage.requests().iter().all(|request| !request.headers.contains_key("authorization")));
    assert_eq!(storage.requests().len(), 1);
}

/// A password for a registry.
fn login(host: &str) -> Credentials {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    let text = format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"password"}}}}}}"#);
    std::fs::write(&path, text).unwrap();
    Credentials::load(&[path]).unwrap()
}

#[test]
fn redirects_that_lead_nowhere_end() {
    let cases: [(&str, &str); 4] = [
        ("more than 10 redirects", "/v2/a/again"),
        ("a redirect to file:", "file:///etc/passwd"),
        ("a redirect to nowhere", "http://[::"),
        ("a redirect to ftp:", "ftp://127.0.0.1/x"),
    ];
    for (expected, location) in cases {
        let registry = Registry::start();
        registry.intercept(move |_| Some(Answer::new(302).header("Location", location)));
        let error = client().manifest(&name(&registry, "a:v1")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(registry.requests().len() <= 11);
    }
}

#[test]
fn an_upload_is_not_sent_on_to_another_host() {
    let (registry, other) = (Registry::start(), Registry::start());
    let target = format!("http://{}/v2/a/blobs/uploads/x", other.host());
    registry.intercept(move |request| {
        (request.method == "PUT").then(|| Answer::new(307).header("Location", &target))
    });
    let error =
        client().push_blob(&name(&registry, "a").repository, &layer(b"x"), &blob(b"x"), &[]).unwrap_err();
    assert!(error.to_string().contains("was sent on to"), "{error}");
    assert!(other.requests().is_empty());
}

#[test]
fn a_host_that_asks_for_patience_gets_it() {
    let registry = Registry::start();
    registry.put("a", "v1", &ImageBuilder::new().build());
    let moment = "Sun, 06 Nov 1994 08:49:44 GMT";
    for (status, wish) in [(429, "7"), (503, "7"), (429, moment), (503, moment)] {
        let refused = AtomicUsize::new(0);
        registry.intercept(move |_| {
            let answer = Answer::new(status).header("Retry-After", wish);
            let answer = answer.header("Date", "Sun, 06 Nov 1994 08:49:37 GMT");
            (refused.fetch_add(1, Ordering::SeqCst) < 2).then_some(answer)
        });
        let (client, clock) = client_with(Settings::default());
        client.manifest(&name(&registry, "a:v1")).unwrap().unwrap();
        assert_eq!(clock.slept(), [Duration::from_secs(7); 2]);
        // An upload is not sent again by itself, but it is if the host has not looked at it.
        let refused = AtomicUsize::new(0);
        registry.intercept(move |request| {
            let answer = Answer::new(status).header("Retry-After", 9);
            (request.method == "PUT" && refused.fetch_add(1, Ordering::SeqCst) == 0).then_some(answer)
        });
        let content = large(100_000);
        let (client, clock) = client_with(Settings::default());
        let repository = name(&registry, &format!("b{status}{}", wish.len())).repository;
        client.push_blob(&repository, &layer(&content), &blob(&content), &[]).unwrap();
        assert_eq!(clock.slept(), [Duration::from_secs(9)]);
        // The whole body has come again.
        assert_eq!(registry.blob(repository.path(), &Digest::sha256(&content)), Some(content));
    }
}

/// A clock on which time stands still until all who sleep are woken.
#[derive(Debug, Default)]
struct Standing {
    slept: Arc<Mutex<Vec<Duration>>>,
    woken: Arc<Mutex<bool>>,
}

impl Clock for Standing {
    fn now(&self) -> Duration {
        let woken = *self.woken.lock().unwrap();
        if woken { Duration::from_secs(60) } else { Duration::ZERO }
    }

    fn sleep(&self, duration: Duration) -> Wait {
        self.slept.lock().unwrap().push(duration);
        let woken = self.woken.clone();
        Box::pin(async move {
            while !*woken.lock().unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }

    fn patience(&self, _: Duration) -> Wait {
        Box::pin(std::future::pending())
    }
}

#[test]
fn a_host_that_one_was_refused_by_is_left_alone_by_all() {
    let registry = Registry::start();
    registry.put("a", "v1", &ImageBuilder::new().build());
    registry.put("b", "v1", &ImageBuilder::new().build());
    let refused = AtomicUsize::new(0);
    registry.intercept(move |_| {
        let answer = Answer::new(429).header("Retry-After", 7);
        (refused.fetch_add(1, Ordering::SeqCst) == 0).then_some(answer)
    });
    let clock = Arc::new(Standing::default());
    let client = Client::new(Settings { clock: clock.clone(), ..Settings::default() }).unwrap();
    let get = |rest: &str| {
        let (client, name) = (client.clone(), name(&registry, rest));
        std::thread::spawn(move || client.manifest(&name).unwrap().unwrap())
    };
    let sleepers = || clock.slept.lock().unwrap().len();
    let one = get("a:v1");
    while sleepers() < 1 {
        std::thread::yield_now();
    }
    let other = get("b:v1");
    while sleepers() < 2 && !other.is_finished() {
        std::thread::yield_now();
    }
    assert_eq!((sleepers(), registry.requests().len()), (2, 1));
    *clock.woken.lock().unwrap() = true;
    one.join().unwrap();
    other.join().unwrap();
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn a_service_of_tokens_that_asks_for_patience_gets_it_from_all_registries() {
    let service = Registry::start();
    let refused = AtomicUsize::new(0);
    service.intercept(move |_| {
        Some(match refused.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::new(429).header("Retry-After", 7),
            _ => Answer::new(200).body(r#"{"token":"x"}"#),
        })
    });
    let registries = [Registry::start(), Registry::start()];
    for registry in &registries {
        registry.put("a", "v1", &ImageBuilder::new().build());
        let challenge = format!(r#"Bearer realm="http://{}/token""#, service.host());
        registry.intercept(move |request| {
            let known = request.headers.contains_key("authorization");
            (!known).then(|| Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge))
        });
    }
    let clock = Arc::new(Standing::default());
    let client = Client::new(Settings { clock: clock.clone(), ..Settings::default() }).unwrap();
    let get = |registry: &Registry| {
        let (client, name) = (client.clone(), name(registry, "a:v1"));
        std::thread::spawn(move || client.manifest(&name).unwrap().unwrap())
    };
    let sleepers = || clock.slept.lock().unwrap().len();
    let one = get(&registries[0]);
    while sleepers() < 1 {
        std::thread::yield_now();
    }
    let other = get(&registries[1]);
    while sleepers() < 2 && !other.is_finished() {
        std::thread::yield_now();
    }
    assert_eq!((sleepers(), service.requests().len()), (2, 1));
    *clock.woken.lock().unwrap() = true;
    one.join().unwrap();
    other.join().unwrap();
    assert_eq!(service.requests().len(), 3);
}

#[test]
fn a_storm_of_refusals_ends() {
    let registry = Registry::start();
    registry.intercept(|_| Some(Answer::error(429, "TOOMANYREQUESTS")));
    let (client, clock) = client_with(Settings::default());
    let error = client.manifest(&name(&registry, "a:v1")).unwrap_err();
    assert!(matches!(&error, Error::Status { status: 429, .. }), "{error}");
    assert!(error.to_string().ends_with(": 429, TOOMANYREQUESTS: the TOOMANYREQUESTS message"), "{error}");
    assert_eq!(registry.requests().len(), 9);
    // Each time twice as long, up to half a minute.
    let slept = clock.slept();
    assert!(slept.len() == 8 && slept[0] < Duration::from_secs(1) && slept[7] >= Duration::from_secs(16));

    // Who asks for hours is not waited for.
    let registry = Registry::start();
    registry.intercept(|_| Some(Answer::new(429).header("Retry-After", 3600)));
    let (client, clock) = client_with(Settings::default());
    client.manifest(&name(&registry, "a:v1")).unwrap_err();
    assert_eq!((registry.requests().len(), clock.slept().len()), (1, 0));
}

#[test]
fn servers_that_fail_are_asked_again_and_not_for_ever() {
    let image = ImageBuilder::new().build();
    let failures: [fn() -> Answer; 3] = [
        || Answer::new(500),
        || Answer::new(502),
        // The connection ends without an answer that can be read.
        || Answer::new(200).length(10).ending(Ending::Closed),
    ];
    for failure in failures {
        for (count, works) in [(4, true), (usize::MAX, false)] {
            let registry = Registry::start();
            registry.put("a", "v1", &image);
            let failed = AtomicUsize::new(0);
            registry.intercept(move |_| (failed.fetch_add(1, Ordering::SeqCst) < count).then(failure));
            let (client, clock) = client_with(Settings::default());
            let result = client.manifest(&name(&registry, "a:v1"));
            assert_eq!(result.is_ok(), works, "{result:?}");
            assert_eq!((registry.requests().len(), clock.slept().len()), (5, 4));
        }
    }
}

#[test]
fn a_host_that_is_not_there_is_an_error_with_its_address() {
    let registry = Registry::start();
    let name = name(&registry, "a:v1");
    drop(registry);
    let error = client().manifest(&name).unwrap_err();
    assert!(matches!(&error, Error::Connection { attempts: 5, .. }), "{error}");
    assert!(chain(&error).contains("/v2/a/manifests/v1: failed 5 times: "), "{}", chain(&error));
}

#[test]
fn a_body_that_stalls_is_given_up_and_taken_up_elsewhere() {
    let content = large(5 << 20);
    let registry = Registry::start();
    registry.put_blob("a", &content);
    let (client, clock) = client_with(Settings::default());
    let (length, half) = (content.len() as u64, content[..content.len() / 2].to_vec());
    let asked = first(&registry, 1, move |_| {
        Some(Answer::new(200).length(length).body(&half).ending(Ending::Stalled))
    });
    let registry = Arc::new(registry);
    *clock.peer.lock().unwrap() = Some(registry.clone());
    let found = read_through(&client, &name(&registry, "a"), &layer(&content));
    assert!(found.unwrap() == content);
    assert!(asked.load(Ordering::SeqCst) >= 2);
}

#[test]
fn a_registry_that_never_answers_is_given_up() {
    let registry = Registry::start();
    registry.intercept(|_| Some(Answer::new(200).length(10).ending(Ending::Stalled)));
    let clock = Arc::new(SystemClock::default());
    let idle = Duration::from_millis(50);
    let settings = Settings { idle_timeout: idle, attempts: 2, clock, ..Settings::default() };
    let error = Client::new(settings).unwrap().manifest(&name(&registry, "a:v1")).unwrap_err();
    assert!(chain(&error).contains("nothing came for"), "{}", chain(&error));
}
