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
        location = "digests.example.com"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "mirror.example.org"
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
    let by_digest = "https://digests.example.com/v2/a/tags/list";
    assert_eq!(list("digests.example.com/a", Purpose::Resolve), [by_digest]);
    assert_eq!(list("digests.example.com/a", Purpose::Pull).len(), 2);
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
    assert_eq!(urls(Purpose::Push), [upstream]);
    let endpoints = found(Purpose::Pull);
    assert!(endpoints[2].trust.unverified && !endpoints[0].trust.unverified && endpoints[1].trust.plain);
    assert_eq!(endpoints[2].headers[0].0, "x-key");
    // A mirror is not shown the credentials of what it mirrors.
    assert_eq!((&*endpoints[0].host, &*endpoints[3].host), ("z.example.org", "example.org"));
    assert!(endpoints[3].trust.authorities[0].ends_with("example.org/up.pem"));
}

#[test]
fn a_table_of_the_host_itself_says_how_that_is_reached() {
    let own = "http://reg.corp:5000/v2/a/tags/list";
    let tls = "https://reg.corp:5000/v2/a/tags/list";
    let mirror = "https://mirror.corp/v2/a/tags/list?ns=reg.corp%3A5000";
    for (capabilities, rest, pull, push) in [
        (r#""pull", "resolve", "push""#, "", &[own][..], own),
        ("", "", &[own], own),
        (r#""pull", "resolve""#, "", &[own], tls),
        (r#""push""#, "", &[tls], own),
        (r#""push""#, "[host.\"https://mirror.corp\"]\n", &[mirror, tls], own),
        ("", "[host.\"https://mirror.corp\"]\n", &[own, mirror], own),
    ] {
        let text = format!("[host.\"http://reg.corp:5000\"]\ncapabilities = [{capabilities}]\n{rest}");
        let hosts = loaded("", &[("reg.corp:5000", &text)]);
        let found = |purpose| endpoints(&hosts, "reg.corp:5000/a", purpose, &Settings::default());
        assert_eq!(found(Purpose::Pull), pull, "{text}");
        assert_eq!(found(Purpose::Push), [push], "{text}");
    }
    // Its login is that of the host, and a server that is named comes last, as ever.
    let text = "server = \"https://up.corp\"\n[host.\"https://reg.corp\"]\nskip_verify = true\n";
    let hosts = loaded("", &[("reg.corp", text)]);
    let repository = Name::parse("reg.corp/a").unwrap().repository;
    let found = hosts.endpoints(&repository, Purpose::Push, &Settings::default()).unwrap();
    let shown: Vec<_> = found.iter().map(|found| (&*found.host, found.base.as_str(), found.spare)).collect();
    assert_eq!(shown, [("reg.corp", "https://reg.corp/v2", true), ("reg.corp", "https://up.corp/v2", false)]);
}

#[test]
fn a_host_with_a_port_has_containerds_directory_or_dockers() {
    let text = |name: &str| format!("server = \"https://{name}.example.org\"");
    let (theirs, plain, default) = (text("theirs"), text("plain"), text("default"));
    let both = [("a.org_5000_", &*theirs), ("a.org:5000", &*plain), ("_default", &*default)];
    for (skipped, expected) in [(0, "theirs"), (1, "plain"), (2, "default")] {
        let hosts = loaded("", &both[skipped..]);
        let found = endpoints(&hosts, "a.org:5000/b", Purpose::Pull, &Settings::default());
        assert_eq!(found, [format!("https://{expected}.example.org/v2/b/tags/list")]);
    }
}

#[test]
fn certificates_alone_are_enough() {
    let certs = tempfile::tempdir().unwrap();
    for (host, files) in [
        ("a.org", &["ca.crt", "other.crt", "client.cert", "client.key"][..]),
        ("localhost:5000", &["ca.crt"]),
        ("b.org", &["README"]),
    ] {
        std::fs::create_dir(certs.path().join(host)).unwrap();
        for file in files {
            std::fs::write(certs.path().join(host).join(file), "").unwrap();
        }
    }
    let hosts = Hosts::load(&[], &[certs.path().to_owned()]).unwrap();
    let settings = Settings { authorities: vec!["own.pem".into()], ..Settings::default() };
    let trust = |name: &str, settings: &Settings| {
        let repository = Name::parse(name).unwrap().repository;
        let endpoint = hosts.endpoints(&repository, Purpose::Push, settings).unwrap().remove(0);
        let files =
            endpoint.trust.authorities.iter().chain(endpoint.trust.identity.iter().flat_map(|(a, b)| [a, b]));
        let names = files.map(|file| file.file_name().unwrap().to_str().unwrap().to_owned());
        (endpoint.base.scheme().to_owned(), names.collect::<Vec<_>>().join(" "))
    };
    let expect = |scheme: &str, files: &str| (scheme.to_owned(), files.to_owned());
    let all = "own.pem ca.crt other.crt client.cert client.key";
    assert_eq!(trust("a.org/x", &settings), expect("https", all));
    assert_eq!(trust("b.org/x", &settings), expect("https", "own.pem"));
    // They are there for TLS, on this machine too.
    assert_eq!(trust("localhost:5000/x", &Settings::default()), expect("https", "ca.crt"));
    let plain = Settings { plain_http: true, ..Settings::default() };
    assert_eq!(trust("localhost:5000/x", &plain), expect("http", "ca.crt"));
}

#[test]
fn what_lies_beside_a_missing_registries_conf_counts() {
    let directory = tempfile::tempdir().unwrap();
    let [user, system] = ["user", "system"].map(|name| directory.path().join(name));
    let write = |path: &Path, location: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = format!("[[registry]]\nprefix = \"a.org\"\nlocation = \"{location}\"\n");
        std::fs::write(path, text).unwrap();
    };
    let files = [user.join("registries.conf"), system.join("registries.conf")];
    let place = || {
        let hosts = Hosts::load(&files, &[]).unwrap();
        endpoints(&hosts, "a.org/x", Purpose::Push, &Settings::default()).remove(0)
    };
    assert_eq!(place(), "https://a.org/v2/x/tags/list");
    for (path, location) in [
        (system.join("registries.conf.d/a.conf"), "one.org"),
        (system.join("registries.conf.d/b.conf"), "two.org"),
        (user.join("registries.conf.d/a.conf"), "three.org"),
    ] {
        write(&path, location);
        assert_eq!(place(), format!("https://{location}/v2/x/tags/list"));
    }
    write(&files[0], "four.org");
    assert_eq!(place(), "https://three.org/v2/x/tags/list");
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
