//! Mirrors that the machine's files name.

use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::registry::Answer;

use super::*;

/// A registry, its mirror, and an image.
struct Scene {
    upstream: Registry,
    mirror: Registry,
    image: Image,
}

impl Scene {
    fn new() -> Scene {
        Scene { upstream: Registry::start(), mirror: Registry::start(), image: ImageBuilder::new().build() }
    }

    /// A client that knows `registry.test` by what containers' file says of it.
    fn by_registries_conf(&self, mirror: &str) -> Client {
        let (place, upstream) = (self.mirror.host(), self.upstream.host());
        let text = format!(
            "[[registry]]\nprefix = \"registry.test\"\nlocation = \"{upstream}\"\n\
             [[registry.mirror]]\nlocation = \"{place}/mirror\"\n{mirror}\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        let hosts = Hosts::load(&[path], &[]).unwrap();
        client_with(Settings { hosts, ..Settings::default() }).0
    }

    /// The same by what containerd's file says, with a password for the registry.
    fn by_hosts_toml(&self, capabilities: &str) -> Client {
        let (mirror, upstream) = (self.mirror.host(), self.upstream.host());
        let text = format!(
            "server = \"http://{upstream}\"\n[host.\"http://{mirror}\"]\ncapabilities = [{capabilities}]\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("registry.test");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("hosts.toml"), text).unwrap();
        let logins = directory.path().join("auth.json");
        let login = r#"{"auths":{"registry.test":{"username":"user","password":"password"}}}"#;
        std::fs::write(&logins, login).unwrap();
        let settings = Settings {
            hosts: Hosts::load(&[], &[directory.keep()]).unwrap(),
            credentials: Credentials::load(&[logins]).unwrap(),
            ..Settings::default()
        };
        client_with(settings).0
    }

    fn by_tag(&self) -> Name {
        Name::parse("registry.test/a:v1").unwrap()
    }

    fn by_digest(&self) -> Name {
        self.by_tag().repository.at(&self.image.root.digest)
    }
}

#[test]
fn what_a_mirror_has_is_not_asked_of_the_registry() {
    let scene = Scene::new();
    scene.mirror.put("mirror/a", "v1", &scene.image);
    let client = scene.by_registries_conf("");
    assert_eq!(client.manifest(&scene.by_tag()).unwrap().unwrap().bytes, scene.image.root_bytes());
    let content = large(5 << 20);
    scene.mirror.put_blob("mirror/a", &content);
    assert!(read_through(&client, &scene.by_tag(), &layer(&content)).unwrap() == content);
    assert!(scene.upstream.requests().is_empty());
}

#[test]
fn what_a_mirror_lacks_or_spoils_comes_from_the_registry() {
    let scene = Scene::new();
    scene.upstream.put("a", "v1", &scene.image);
    let content = large(5 << 20);
    scene.upstream.put_blob("a", &content);
    let spoilt = scene.image.root_bytes().to_vec();
    type Fault = Box<dyn Fn() -> Option<Answer> + Send>;
    let faults: [Fault; 4] = [
        Box::new(|| None),
        Box::new(|| Some(Answer::new(500))),
        Box::new(|| Some(Answer::error(403, "DENIED"))),
        Box::new(move || {
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            Some(Answer::new(200).header("Content-Type", media_type).body([&spoilt[..], b" "].concat()))
        }),
    ];
    for fault in faults {
        scene.mirror.intercept(move |_| fault());
        let client = scene.by_registries_conf("");
        let found = client.manifest(&scene.by_digest()).unwrap().unwrap();
        assert_eq!(found.descriptor.digest, scene.image.root.digest);
        assert!(read_through(&client, &scene.by_tag(), &layer(&content)).unwrap() == content);
        assert!(!scene.mirror.take_lines().is_empty());
    }
}

#[test]
fn a_mirror_is_asked_for_what_it_is_for() {
    let scene = Scene::new();
    for (registry, repository) in [(&scene.upstream, "a"), (&scene.mirror, "mirror/a")] {
        registry.put(repository, "v1", &scene.image);
    }
    for (pull, tags, digests) in
        [("all", true, true), ("digest-only", false, true), ("tag-only", true, false)]
    {
        let line = format!("pull-from-mirror = \"{pull}\"");
        for (name, expected) in [(scene.by_tag(), tags), (scene.by_digest(), digests)] {
            scene.by_registries_conf(&line).manifest(&name).unwrap().unwrap();
            assert_eq!(!scene.mirror.take_lines().is_empty(), expected, "{pull} {name}");
            assert_eq!(scene.upstream.take_lines().is_empty(), expected, "{pull} {name}");
        }
    }
    // Nobody writes to a mirror.
    let client = scene.by_registries_conf("");
    client.push_blob(&scene.by_tag().repository, &layer(b"x"), &blob(b"x"), &[]).unwrap();
    assert!(scene.mirror.requests().is_empty());
    assert_eq!(scene.upstream.blob("a", &Digest::sha256(b"x")).as_deref(), Some(b"x".as_slice()));
}

#[test]
fn containerds_mirror_is_told_whom_it_mirrors_and_shown_no_password() {
    let scene = Scene::new();
    scene.upstream.put("a", "v1", &scene.image);
    scene.upstream.require_password("user", "password");
    scene.mirror.put("b", "v1", &scene.image);
    let client = scene.by_hosts_toml(r#""pull", "resolve""#);
    client.manifest(&scene.by_tag()).unwrap().unwrap();
    let asked = scene.mirror.requests();
    assert_eq!(
        (asked[0].line(), &*asked[0].query),
        ("GET /v2/a/manifests/v1".to_owned(), "ns=registry.test")
    );
    assert!(asked.iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(scene.upstream.requests().iter().any(|request| request.headers.contains_key("authorization")));
    assert!(scene.upstream.requests().iter().all(|request| request.query.is_empty()));
    // Without the capability, it is not asked what a tag means.
    scene.mirror.take_lines();
    let client = scene.by_hosts_toml(r#""pull""#);
    client.manifest(&scene.by_tag()).unwrap().unwrap();
    assert!(scene.mirror.requests().is_empty());
    scene.mirror.put("a", "v1", &scene.image);
    scene.by_hosts_toml(r#""pull""#).manifest(&scene.by_digest()).unwrap().unwrap();
    assert_eq!(scene.mirror.take_lines().len(), 1);
}

#[test]
fn what_a_mirror_has_is_pushed_to_the_registry_nevertheless() {
    let scene = Scene::new();
    scene.mirror.put("a", "v1", &scene.image);
    scene.mirror.put("mirror/a", "v1", &scene.image);
    for capabilities in ["", r#""pull", "resolve", "push""#] {
        let client = scene.by_hosts_toml(capabilities);
        assert_eq!(client.digest_to_write(&scene.by_tag()).unwrap(), None);
    }
    assert_eq!(scene.by_registries_conf("").digest_to_write(&scene.by_tag()).unwrap(), None);
    assert!(scene.mirror.requests().is_empty());
    // To read, it does.
    let found = scene.by_registries_conf("").digest(&scene.by_tag()).unwrap();
    assert_eq!(found, Some(scene.image.root.digest.clone()));
}

#[test]
fn a_registry_that_is_called_insecure_need_not_speak_tls() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("a", "v1", &image);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registries.conf");
    // Not known as this machine, so it is tried with TLS first.
    let place = registry.host().replace("127.0.0.1", "0.0.0.0");
    let client = |insecure: bool| {
        let text = format!(
            "[[registry]]\nprefix = \"registry.test\"\nlocation = \"{place}\"\ninsecure = {insecure}\n"
        );
        std::fs::write(&path, text).unwrap();
        let hosts = Hosts::load(std::slice::from_ref(&path), &[]).unwrap();
        client_with(Settings { hosts, ..Settings::default() }).0
    };
    let name = Name::parse("registry.test/a:v1").unwrap();
    let error = client(false).manifest(&name).unwrap_err();
    assert!(matches!(error, Error::NoTls { .. }), "{error}");
    let client = client(true);
    client.manifest(&name).unwrap().unwrap();
    client.push_blob(&name.repository, &layer(b"x"), &blob(b"x"), &[]).unwrap();
    assert_eq!(registry.blob("a", &Digest::sha256(b"x")).as_deref(), Some(b"x".as_slice()));
    // It is found out once.
    let sent: u64 = client.requests().iter().map(|(_, _, count)| count).sum();
    assert_eq!(sent, 1 + 3);
}
