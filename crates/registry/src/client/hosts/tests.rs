use super::*;
use crate::Name;

fn endpoints(hosts: &Hosts, name: &str, purpose: Purpose, settings: &Settings) -> Vec<String> {
    let repository = Name::parse(name).unwrap().repository;
    let endpoints = hosts.endpoints(&repository, purpose, settings).unwrap();
    endpoints.iter().map(|endpoint| endpoint.url("tags/list").to_string()).collect()
}

fn loaded(registries_conf: &str, hosts_toml: &[(&str, &str)]) -> Hosts {
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("registries.conf");
    std::fs::write(&conf, registries_conf).unwrap();
    let certs = directory.keep().join("certs.d");
    for (host, text) in hosts_toml {
        std::fs::create_dir_all(certs.join(host)).unwrap();
        std::fs::write(certs.join(host).join("hosts.toml"), text).unwrap();
    }
    Hosts::load(&[conf], &[certs]).unwrap()
}

#[test]
fn a_host_is_reached_by_tls_unless_it_is_this_machine() {
    let hosts = Hosts::default();
    let plain = Settings { plain_http: true, ..Settings::default() };
    let with_authority = Settings { authorities: vec!["ca.pem".into()], ..Settings::default() };
    for (name, settings, expected) in [
        ("debian", &Settings::default(), "https://registry-1.docker.io/v2/library/debian/tags/list"),
        ("example.org/a/b", &Settings::default(), "https://example.org/v2/a/b/tags/list"),
        ("example.org:8443/a", &Settings::default(), "https://example.org:8443/v2/a/tags/list"),
        ("example.org/a", &plain, "http://example.org/v2/a/tags/list"),
        ("localhost/a", &Settings::default(), "http://localhost/v2/a/tags/list"),
        ("127.0.0.2:5000/a", &Settings::default(), "http://127.0.0.2:5000/v2/a/tags/list"),
        ("[::1]:5000/a", &Settings::default(), "http://[::1]:5000/v2/a/tags/list"),
        ("localhost.example.org/a", &Settings::default(), "https://localhost.example.org/v2/a/tags/list"),
        ("localhost:5000/a", &with_authority, "https://localhost:5000/v2/a/tags/list"),
    ] {
        assert_eq!(endpoints(&hosts, name, Purpose::Push, settings), [expected]);
    }
}

#[test]
fn registries_conf_names_mirrors_and_other_places() {
    let hosts = loaded(
        r#"
        unqualified-search-registries = ["example.com"]
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example.org/hub"
        [[registry.mirror]]
        location = "digests.example.org"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "example.org/team"
        location = "elsewhere.example.org/x"
        [[registry]]
        prefix = "*.internal.example.org"
        insecure = true
        [[registry]]
        prefix = "bad.example.org"
        blocked = true
        "#,
        &[],
    );
    let settings = Settings::default();
    let list = |name: &str, purpose| endpoints(&hosts, name, purpose, &settings);
    let hub = "https://registry-1.docker.io/v2/library/debian/tags/list";
    let mirror = "https://mirror.example.org/v2/hub/library/debian/tags/list";
    let digests = "https://digests.example.org/v2/library/debian/tags/list";
    assert_eq!(list("debian", Purpose::Pull), [mirror, digests, hub]);
    assert_eq!(list("debian", Purpose::Resolve), [mirror, hub]);
    assert_eq!(list("debian", Purpose::Push), [hub]);
    assert_eq!(list("example.org/team/a", Purpose::Push), ["https://elsewhere.example.org/v2/x/a/tags/list"]);
    assert_eq!(list("example.org/teams", Purpose::Push), ["https://example.org/v2/teams/tags/list"]);
    let internal = Name::parse("a.internal.example.org/b").unwrap().repository;
    let internal = hosts.endpoints(&internal, Purpose::Pull, &settings).unwrap();
    assert_eq!(internal[0].url("x").as_str(), "https://a.internal.example.org/v2/b/x");
    assert!(internal[0].trust.unverified);
    let bad = Name::parse("bad.example.org/a").unwrap().repository;
    assert!(matches!(hosts.endpoints(&bad, Purpose::Pull, &settings), Err(Error::Unauthorized { .. })));
}

#[test]
fn hosts_toml_names_servers_in_their_order() {
    let hosts = loaded(
        "",
        &[(
            "example.org",
            r#"
            server = "https://upstream.example.org"
            ca = "up.pem"
            [host."https://z.example.org"]
            capabilities = ["pull"]
            [host."http://a.example.org:5000/v2"]
            capabilities = ["pull", "resolve"]
            [host."https://b.example.org/custom/path"]
            override_path = true
            skip_verify = true
            [host."https://b.example.org/custom/path".header]
            x-key = ["value"]
            "#,
        )],
    );
    let settings = Settings::default();
    let repository = Name::parse("example.org/a").unwrap().repository;
    let found = |purpose| hosts.endpoints(&repository, purpose, &settings).unwrap();
    let urls =
        |purpose| -> Vec<_> { found(purpose).iter().map(|endpoint| endpoint.url("x").to_string()).collect() };
    let z = "https://z.example.org/v2/a/x?ns=example.org";
    let a = "http://a.example.org:5000/v2/a/x?ns=example.org";
    let b = "https://b.example.org/custom/path/a/x?ns=example.org";
    let upstream = "https://upstream.example.org/v2/a/x";
    assert_eq!(urls(Purpose::Pull), [z, a, b, upstream]);
    assert_eq!(urls(Purpose::Resolve), [a, b, upstream]);
    assert_eq!(urls(Purpose::Push), [b, upstream]);
    let endpoints = found(Purpose::Pull);
    assert!(endpoints[2].trust.unverified && !endpoints[0].trust.unverified && endpoints[1].trust.plain);
    assert_eq!(endpoints[2].headers[0].0, "x-key");
    // A mirror is not shown the credentials of what it mirrors.
    assert_eq!((&*endpoints[0].host, &*endpoints[3].host), ("z.example.org", "example.org"));
    assert!(endpoints[3].trust.authorities[0].ends_with("example.org/up.pem"));
}

#[test]
fn files_that_cannot_be_meant_are_refused() {
    let path = Path::new("x");
    for text in [
        "[[registry]]\nblocked = true",
        "[[registry]]\nlocation = 1",
        "registry = ",
        "[registries.search]\nregistries = []",
    ] {
        assert!(matches!(containers::parse(path, text), Err(Error::Configuration { .. })), "{text}");
    }
    for text in [
        "server = 1",
        "server = \"ftp://x\"",
        "[host]\na = 1",
        "server = \"https://x\"\n[header]\n\"a b\" = \"c\"",
    ] {
        assert!(matches!(hosts_toml::parse(path, text), Err(Error::Configuration { .. })), "{text}");
    }
}
