//! What the fuzz targets see of the client: what registries and files say, as it is taken apart.

use std::collections::BTreeSet;

use super::Credentials;
use super::Hosts;
use super::Settings;
use super::auth;
use super::auth::Challenge;
use super::download::content_range;
use super::hosts::Purpose;
use super::http;
use super::lists::next_page;
use crate::Name;

/// The headers and bodies of answers: challenges and the scopes in them, links, ranges, dates, errors.
///
/// # Panics
///
/// If what is made of them is not what it should be.
pub fn answer(bytes: &[u8]) {
    let (_, message) = http::error_message(bytes);
    assert!(!message.contains(char::is_control), "a message can be shown");
    let Ok(text) = str::from_utf8(bytes) else { return };
    let wanted = BTreeSet::from(["repository:a/b:pull".to_owned()]);
    if let Some(Challenge::Bearer(bearer)) = Challenge::choose(text.lines()) {
        let merged = auth::merged(&wanted, &bearer.scopes);
        assert!(!merged.is_empty(), "something is asked for");
        assert_eq!(auth::merged(&merged, &bearer.scopes), merged, "what was corrected stays");
    }
    if let Some(target) = next_page(text) {
        assert!(text.contains(target), "a target is a part of the header");
    }
    let _ = content_range(text);
    let _ = http::date(text);
}

/// `hosts.toml` and `registries.conf`: the bytes up to the first zero are the one, the rest is the other.
///
/// # Panics
///
/// If a repository is reached nowhere, or no temporary file can be written.
pub fn hosts(bytes: &[u8]) {
    let (toml, conf) = match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, bytes),
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (own, path) = (directory.path().join("_default"), directory.path().join("registries.conf"));
    std::fs::create_dir(&own).expect("a directory");
    std::fs::write(own.join("hosts.toml"), toml).expect("a file");
    std::fs::write(&path, conf).expect("a file");
    let directories = [directory.path().to_owned()];
    let settings = Settings::default();
    for files in [&[][..], &[path]] {
        let Ok(hosts) = Hosts::load(files, &directories) else { continue };
        for name in ["docker.io/library/debian", "example.org:5000/a/b"] {
            let Ok(name) = Name::parse(name) else { continue };
            for purpose in [Purpose::Pull, Purpose::Resolve, Purpose::Push] {
                if let Ok(endpoints) = hosts.endpoints(&name.repository, purpose, &settings) {
                    let last = endpoints.last().expect("a repository is reached somewhere");
                    assert!(!last.spare, "the last is not passed over");
                    let _ = last.url("manifests/v1");
                }
            }
        }
    }
}

/// Files of logins. Helpers are programs, so none is started.
pub fn logins(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(credentials) = Credentials::parse("logins", text) else { return };
    if credentials.names_helpers() {
        return;
    }
    for (host, path) in [("docker.io", "library/debian"), ("example.org:5000", "a/b/c")] {
        let _ = credentials.find(host, path);
    }
}
