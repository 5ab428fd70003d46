//! Logins and tokens.

use restow_testkit::ImageBuilder;
use restow_testkit::registry::Answer;

use super::*;

fn credentials(text: &str) -> Credentials {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    std::fs::write(&path, text).unwrap();
    Credentials::load(&[path]).unwrap()
}

fn registry() -> Registry {
    let registry = Registry::start();
    registry.put("a", "v1", &ImageBuilder::new().build());
    registry.put("b", "v1", &ImageBuilder::new().build());
    registry
}

fn with(text: &str) -> Client {
    client_with(Settings { credentials: credentials(text), ..Settings::default() }).0
}

#[test]
fn one_token_does_for_a_repository_and_writing_includes_reading() {
    let registry = registry();
    registry.require_token(None);
    let client = client();
    let repository = name(&registry, "a").repository;
    client.push_blob(&repository, &layer(b"x"), &blob(b"x"), &[]).unwrap();
    client.manifest(&name(&registry, "a:v1")).unwrap().unwrap();
    client.small_blob(&repository, &layer(b"x")).unwrap().unwrap();
    client.manifest(&name(&registry, "b:v1")).unwrap().unwrap();
    let lines = registry.take_lines();
    let tokens = lines.iter().filter(|line| *line == "GET /token").count();
    // One refusal teaches how tokens are had; then each repository has one.
    assert_eq!((tokens, lines.len()), (2, 8), "{lines:#?}");
}

#[test]
fn a_mount_asks_for_both_repositories() {
    let registry = registry();
    registry.require_token(None);
    registry.put_blob("a", b"shared");
    let (from, to) = (name(&registry, "a").repository, name(&registry, "b").repository);
    let pushed = client().push_blob(&to, &layer(b"shared"), &blob(b"shared"), &[from]).unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    let token = registry.requests().into_iter().find(|request| request.path == "/token").unwrap();
    assert!(token.query.contains("repository%3Ab%3Apull%2Cpush"), "{}", token.query);
    assert!(token.query.contains("repository%3Aa%3Apull"), "{}", token.query);
}

#[test]
fn logins_of_every_kind_open_the_door() {
    let registry = registry();
    let host = registry.host();
    registry.require_token(Some(("user", "password")));
    let right = [
        format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNzd29yZA=="}}}}}}"#),
        format!(r#"{{"auths":{{"{host}/a":{{"username":"user","password":"password"}}}}}}"#),
        format!(r#"{{"auths":{{"{host}":{{"identitytoken":"identity"}}}}}}"#),
    ];
    for text in right {
        with(&text).manifest(&name(&registry, "a:v1")).unwrap().unwrap();
    }
    let wrong = [
        "{}".to_owned(),
        format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"wrong"}}}}}}"#),
        format!(r#"{{"auths":{{"{host}/b":{{"username":"user","password":"password"}}}}}}"#),
    ];
    for text in wrong {
        let error = with(&text).manifest(&name(&registry, "a:v1")).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        assert!(!chain(&error).contains("wrong"), "{}", chain(&error));
    }
    registry.require_password("user", "password");
    let text = format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"password"}}}}}}"#);
    with(&text).manifest(&name(&registry, "a:v1")).unwrap().unwrap();
    let error = with("{}").manifest(&name(&registry, "a:v1")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[test]
fn a_door_that_never_opens_is_left() {
    let registry = Registry::start();
    let host = registry.host();
    registry.intercept(move |request| {
        Some(match request.path.as_str() {
            "/token" => Answer::new(200).body(r#"{"token":"x"}"#),
            _ => {
                let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
                Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", challenge)
            }
        })
    });
    let error = client().manifest(&name(&registry, "a:v1")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    // Twice with the same token would be once too often.
    let lines = registry.take_lines();
    assert_eq!(lines.iter().filter(|line| *line == "GET /token").count(), 2, "{lines:#?}");
    assert_eq!(lines.len(), 4, "{lines:#?}");
}

#[test]
fn tokens_that_no_service_should_issue_are_refused() {
    let huge = format!(r#"{{"token":"{}"}}"#, "x".repeat(2 << 20));
    let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(100 << 10));
    for (body, expected) in [
        (huge.as_str(), "more than 1048576 bytes"),
        (&long, "a token of 102400 bytes"),
        (r#"{"token":"a\r\nX-Evil: b"}"#, "cannot be sent"),
        ("{}", "no token"),
        ("<html>", "not JSON"),
    ] {
        let registry = Registry::start();
        let (host, body) = (registry.host(), body.to_owned());
        registry.intercept(move |request| {
            Some(match request.path.as_str() {
                "/token" => Answer::new(200).body(&body),
                _ => Answer::new(401)
                    .header("WWW-Authenticate", format!(r#"Bearer realm="http://{host}/token""#)),
            })
        });
        let error = client().manifest(&name(&registry, "a:v1")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_password_goes_to_no_place_that_is_not_a_service() {
    for (realm, expected) in
        [("ftp://127.0.0.1/token", "by ftp"), ("/token", "from no URL"), ("file:///etc/passwd", "by file")]
    {
        let registry = Registry::start();
        registry.intercept(move |_| {
            Some(Answer::new(401).header("WWW-Authenticate", format!(r#"Bearer realm="{realm}""#)))
        });
        let text = format!(r#"{{"auths":{{"{}":{{"username":"u","password":"p"}}}}}}"#, registry.host());
        let error = with(&text).manifest(&name(&registry, "a:v1")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(registry.requests().iter().all(|request| !request.headers.contains_key("authorization")));
    }
}

#[test]
fn who_is_refused_hears_which_login_that_was() {
    let registry = registry();
    let (host, name) = (registry.host(), name(&registry, "a:v1"));
    let directory = tempfile::tempdir().unwrap();
    let path = |file: &str| directory.path().join(file);
    let refused = |files: &[&str]| {
        let paths: Vec<_> = files.iter().map(|file| path(file)).collect();
        let credentials = Credentials::load(&paths).unwrap();
        let client = client_with(Settings { credentials, ..Settings::default() }).0;
        let error = client.manifest(&name).unwrap_err();
        assert!(matches!(&error, Error::Unauthorized { .. }), "{error}");
        error.to_string()
    };
    std::fs::write(path("others"), "{}").unwrap();
    let own = format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"wrong"}}}}}}"#);
    std::fs::write(path("own"), own).unwrap();
    let shown = |file: &str| path(file).display().to_string();
    type Close = fn(&Registry);
    let doors: [Close; 3] = [
        |registry| registry.require_password("user", "password"),
        |registry| registry.require_token(Some(("user", "password"))),
        // Who may not write need not be asked for a password.
        |registry| registry.intercept(|_| Some(Answer::error(403, "DENIED"))),
    ];
    for close in doors {
        close(&registry);
        let text = refused(&["missing"]);
        assert!(text.contains(&format!("there is no {}", shown("missing"))), "{text}");
        let text = refused(&["missing", "others"]);
        assert!(text.contains(&format!("no login for it is in {}", shown("others"))), "{text}");
        let text = refused(&["others", "own"]);
        assert!(text.contains(&format!("that of {}", shown("own"))) || text.contains("is refused"), "{text}");
        assert!(text.contains(&shown("own")), "{text}");
    }
}

#[test]
fn a_challenge_that_nobody_understands_is_answered_once() {
    for challenge in ["Negotiate", "Bearer", "\"", "Bearer realm=\"", ""] {
        let registry = Registry::start();
        registry.intercept(move |_| Some(Answer::new(401).header("WWW-Authenticate", challenge)));
        let error = client().manifest(&name(&registry, "a:v1")).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. } | Error::Protocol { .. }), "{error}");
        assert_eq!(registry.requests().len(), 1, "{challenge}");
    }
    // Without a password there is nothing to try again with.
    let registry = Registry::start();
    registry.require_password("user", "password");
    client().manifest(&name(&registry, "a:v1")).unwrap_err();
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn only_the_registry_itself_is_heard_when_it_wants_a_login() {
    let challenges: [fn(&str) -> String; 2] =
        [|host| format!(r#"Bearer realm="http://{host}/token""#), |_| r#"Basic realm="x""#.to_owned()];
    for challenge in challenges {
        let (registry, other) = (Registry::start(), Registry::start());
        let challenge = challenge(&other.host());
        other.intercept(move |request| {
            Some(match request.path.as_str() {
                "/token" => Answer::new(200).body(r#"{"token":"x"}"#),
                _ => Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge),
            })
        });
        let login =
            format!(r#"{{"auths":{{"{}":{{"username":"user","password":"secret"}}}}}}"#, registry.host());
        let elsewhere = format!("http://{}/v2/a/elsewhere", other.host());
        registry.intercept(move |request| {
            let status = if request.method == "GET" { 307 } else { 202 };
            Some(Answer::new(status).header("Location", &elsewhere))
        });
        // Sent on to it, by a redirect or for an upload.
        let client = with(&login);
        let error = client.manifest(&name(&registry, "a:v1")).unwrap_err();
        assert!(matches!(error, Error::Status { status: 401, .. }), "{error}");
        let repository = name(&registry, "a").repository;
        let error = client.push_blob(&repository, &layer(b"x"), &blob(b"x"), &[]).unwrap_err();
        assert!(matches!(error, Error::Status { status: 401, .. }), "{error}");
        let asked = other.requests();
        assert_eq!(asked.len(), 2);
        assert!(asked.iter().all(|request| !request.headers.contains_key("authorization")));
        assert!(registry.requests().iter().all(|request| !request.headers.contains_key("authorization")));
    }
}

#[test]
fn a_token_is_asked_for_again_when_it_is_about_to_expire() {
    let registry = registry();
    registry.require_token(None);
    let (client, clock) = client_with(Settings::default());
    let tokens = || registry.take_lines().iter().filter(|line| *line == "GET /token").count();
    let look = || client.digest_to_write(&name(&registry, "a:v1")).unwrap().unwrap();
    // It lives for 300 s, of which the last tenth does not count.
    for (seconds, expected) in [(0, 1), (269, 0), (2, 1), (100, 0), (1000, 1)] {
        *clock.now.lock().unwrap() += Duration::from_secs(seconds);
        look();
        assert_eq!(tokens(), expected, "{seconds}");
    }
}

#[test]
fn a_token_that_expires_in_an_upload_is_replaced_and_the_bytes_come_again() {
    let registry = Registry::start();
    let host = registry.host();
    let issued = std::sync::atomic::AtomicUsize::new(0);
    registry.intercept(move |request| {
        use std::sync::atomic::Ordering::SeqCst;
        if request.path == "/token" {
            let number = issued.fetch_add(1, SeqCst) + 1;
            return Some(Answer::new(200).body(format!(r#"{{"token":"t{number}"}}"#)));
        }
        // The first token is good for all but the bytes themselves.
        let good = if request.method == "PUT" { "Bearer t2" } else { "Bearer t" };
        let sent = request.headers.get("authorization").map(String::as_str).unwrap_or_default();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="test""#);
        (!sent.starts_with(good))
            .then(|| Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", challenge))
    });
    let content = large(300_000);
    let repository = name(&registry, "a").repository;
    let pushed = client().push_blob(&repository, &layer(&content), &blob(&content), &[]).unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(registry.blob("a", &Digest::sha256(&content)), Some(content));
    assert_eq!(registry.take_lines().iter().filter(|line| line.starts_with("PUT")).count(), 2);
}
