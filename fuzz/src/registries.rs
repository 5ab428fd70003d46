//! What registries, and the files that say how they are reached, may hold.

use restow_registry::Name;
use restow_registry::Reference;
use restow_registry::client::fuzz;

/// What registries answer: challenges, links, ranges, dates, errors.
pub fn answers(bytes: &[u8]) {
    fuzz::answer(bytes);
}

/// `hosts.toml`, and `registries.conf` behind the first zero.
pub fn hosts(bytes: &[u8]) {
    fuzz::hosts(bytes);
}

/// Files of logins.
pub fn logins(bytes: &[u8]) {
    fuzz::logins(bytes);
}

/// References and names. One that was parsed is written so that it is parsed to the same.
pub fn references(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Reference::parse(text);
    if let Ok(name) = Name::parse(text) {
        assert_eq!(Name::parse(&name.to_string()).ok().as_ref(), Some(&name), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_mean_something_reach_every_part() {
        answers(br#"Bearer realm="https://a/t",scope="repository:c/a/b:pull registry:catalog:*""#);
        answers(br#"<https://a/b?last=x,y>; rel="next""#);
        answers(br#"{"errors":[{"code":"A","message":"b\u0007"}]}"#);
        answers(b"bytes 0-4/5");
        hosts(b"[host.\"http://example.org:5000\"]\ncapabilities = [\"push\"]\0[[registry]]\nprefix = \"docker.io\"\n");
        logins(br#"{"auths":{"docker.io":{"auth":"YTpi"}}}"#);
        for text in ["debian:12", "example.org:5000/a/b:v1@sha256:00", "oci:a:b", "@", ":"] {
            references(text.as_bytes());
        }
    }
}
