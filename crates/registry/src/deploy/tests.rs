use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::Registry;

use super::*;
use crate::Settings;

const INDEX: &str = "sha256:0ae6b7b9d0bc73ee36c1adef005deb431e94cf009c6a947718b31da3d668032d";
const A: &str = "sha256:9ef42f1d602fb423fad935aac1caa0cfdbce1ad7edce64d080a4eb7b13f7cd9d";
const B: &str = "sha256:25be82253336f0b8c4347bc4ecbbcdc85d0e0f118ccf8dc2e119c0a47a0a486e";
const BLOB: &str = "sha256:1a51828d59323e0e02522c45652b6a7a44a032b464b06d574f067d2358b0e9f1";

fn parse(text: &str) -> Result<Deployment> {
    Deployment::parse(serde_json::from_str(text).unwrap())
}

/// What docker-library/meta-scripts infers from inputs, in `cmd/deploy/input_test.go`.
#[test]
fn what_an_input_leaves_out_is_inferred() {
    let index = r#"{"mediaType": "application/vnd.oci.image.index.v1+json"}"#;
    let raw = STANDARD.encode(index);
    let local = "localhost:5000/example";
    let part = |media_type: &str, digest: &str| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{media_type}","digest":"{digest}","size":9}}"#)
    };
    let children = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{}]}}"#,
        part("manifest.v1+json", A),
        part("manifest.v1+json", B)
    );
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        part("config.v1+json", BLOB),
        part("layer.v1.tar+gzip", B)
    );
    // The rest of the input; the ref that is pushed to; where lookup leads; what is copied.
    let hub = "docker.io/tianon/true";
    let table = [
        (
            format!(r#""type":"manifest","refs":["{local}:test"],"data":{index}"#),
            format!("{local}:test@{INDEX}"),
            vec![],
            None,
        ),
        (
            format!(r#""type":"manifest","refs":["{local}"],"data":"{raw}""#),
            format!("{local}@{INDEX}"),
            vec![],
            None,
        ),
        (
            format!(
                r#""type":"manifest","refs":["{local}@{INDEX}"],"lookup":{{"{A}":"tianon/true"}},"data":{index}"#
            ),
            format!("{local}@{INDEX}"),
            vec![(A, hub)],
            None,
        ),
        (
            format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"":"tianon/true"}},"data":{index}"#),
            format!("{local}@{INDEX}"),
            vec![("", hub)],
            None,
        ),
        (
            format!(
                r#""type":"blob","refs":["{local}@{BLOB}"],"data":"YnVmZnkgdGhlIHZhbXBpcmUgc2xheWVyCg==""#
            ),
            format!("{local}@{BLOB}"),
            vec![],
            None,
        ),
        (
            format!(
                "\"type\":\"blob\",\"refs\":[\"{local}@sha256:d914176fd50bd7f565700006a31aa97b79d3ad17cee20c8e5ff2061d5cb74817\"],\"data\":{{\n}}"
            ),
            format!("{local}@sha256:d914176fd50bd7f565700006a31aa97b79d3ad17cee20c8e5ff2061d5cb74817"),
            vec![],
            None,
        ),
        (
            format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"{A}":"tianon/true"}}"#),
            format!("{local}@{A}"),
            vec![("", hub), (A, hub)],
            Some(format!("{hub}@{A}")),
        ),
        (
            format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"":"tianon/true@{A}"}},"data":null"#),
            format!("{local}@{A}"),
            vec![("", hub)],
            Some(format!("{hub}@{A}")),
        ),
        (
            format!(r#""type":"manifest","refs":["{local}@{A}"],"lookup":{{"":"tianon/true"}}"#),
            format!("{local}@{A}"),
            vec![("", hub)],
            Some(format!("{hub}@{A}")),
        ),
        (
            format!(r#""type":"manifest","refs":["{local}:test"],"lookup":{{"":"tianon/true:oci"}}"#),
            format!("{local}:test"),
            vec![("", hub)],
            Some(format!("{hub}:oci")),
        ),
        (
            format!(r#""type":"manifest","refs":["{local}:test"],"lookup":{{"":"tianon/true:oci@{A}"}}"#),
            format!("{local}:test@{A}"),
            vec![("", hub)],
            Some(format!("{hub}@{A}")),
        ),
        (
            format!(r#""type":"blob","refs":["{local}"],"lookup":{{"{B}":"tianon/true"}}"#),
            format!("{local}@{B}"),
            vec![("", hub), (B, hub)],
            Some(format!("{hub}@{B}")),
        ),
        (
            format!(r#""type":"blob","refs":["{local}"],"lookup":{{"":"tianon/true@{B}"}}"#),
            format!("{local}@{B}"),
            vec![("", hub)],
            Some(format!("{hub}@{B}")),
        ),
        (
            format!(r#""type":"blob","refs":["{local}@{B}"],"lookup":{{"":"tianon/true"}}"#),
            format!("{local}@{B}"),
            vec![("", hub)],
            Some(format!("{hub}@{B}")),
        ),
        (
            format!(
                r#""type":"manifest","refs":["{local}@{A}"],"lookup":{{"{A}":"tianon/true","{B}":"tianon/true"}}"#
            ),
            format!("{local}@{A}"),
            vec![("", hub), (B, hub), (A, hub)],
            Some(format!("{hub}@{A}")),
        ),
        (
            format!(r#""type":"manifest","refs":["{local}:test"],"lookup":{{"{A}":"tianon/true"}}"#),
            format!("{local}:test@{A}"),
            vec![("", hub), (A, hub)],
            Some(format!("{hub}@{A}")),
        ),
        (
            format!(
                r#""type":"manifest","refs":["{local}:test"],"lookup":{{"{A}":"tianon/true","{B}":"tianon/true"}},"data":{children}"#
            ),
            format!("{local}:test@{}", Digest::sha256(children.as_bytes())),
            vec![(B, hub), (A, hub)],
            None,
        ),
        (
            format!(
                r#""type":"manifest","refs":["{local}:test"],"lookup":{{"{B}":"tianon/true","":"tianon/test"}},"data":{image}"#
            ),
            format!("{local}:test@{}", Digest::sha256(image.as_bytes())),
            vec![("", "docker.io/tianon/test"), (B, hub)],
            None,
        ),
        (
            format!(r#""type":"manifest","refs":["{local}:test"],"lookup":null,"data":{index}"#),
            format!("{local}:test@{INDEX}"),
            vec![],
            None,
        ),
    ];
    for (input, name, lookup, copied) in table {
        let deployment = parse(&format!("{{{input}}}")).unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(deployment.names[0].to_string(), name, "{input}");
        let found: Vec<_> = deployment
            .lookup
            .iter()
            .map(|(key, repository)| {
                (key.as_ref().map(ToString::to_string).unwrap_or_default(), repository.to_string())
            })
            .collect();
        let media_type = deployment.to_json(deployment.names())["mediaType"].as_str().map(str::to_owned);
        let is_manifest = input.contains(r#""type":"manifest""#) && copied.is_none();
        assert_eq!(media_type.is_some(), is_manifest, "{input}");
        let lookup: Vec<_> = lookup.iter().map(|(key, to)| ((*key).to_owned(), (*to).to_owned())).collect();
        assert_eq!(found, lookup, "{input}");
        match (&deployment.what, &copied) {
            (What::Copy(from), Some(copied)) => assert_eq!(from.to_string(), *copied),
            (What::Bytes(bytes, _), None) => {
                assert_eq!(Some(&Digest::sha256(bytes)), deployment.digest());
            }
            other => panic!("{input}: {other:?}"),
        }
        // What is written of it says the same.
        let again = parse(&deployment.to_json(deployment.names()).to_string()).unwrap();
        assert_eq!(again, deployment, "{input}");
    }
}

#[test]
fn one_digest_is_that_of_all_refs() {
    let texts = [&format!("localhost:5000/foo@{A}"), "localhost:5000/bar:some-tag", "localhost:5000/baz"];
    let refs = texts.map(|text| format!("{text:?}")).join(",");
    for lookup in [r#""":"tianon/true""#.to_owned(), format!(r#""{A}":"tianon/true","{B}":"tianon/true""#)] {
        let input = format!(r#"{{"type":"manifest","refs":[{refs}],"lookup":{{{lookup}}}}}"#);
        let deployment = parse(&input).unwrap();
        let names: Vec<_> = deployment.names().iter().map(ToString::to_string).collect();
        let expected = ["foo", "bar:some-tag", "baz"].map(|name| format!("localhost:5000/{name}@{A}"));
        assert_eq!(names, expected);
        assert_eq!(deployment.what, What::Copy(Name::parse(&format!("tianon/true@{A}")).unwrap()));
        assert_eq!(parse(&deployment.to_json(deployment.names()).to_string()).unwrap(), deployment);
    }
}

#[test]
fn lookup_keys_are_digests_and_their_names_may_have_tags() {
    let input = format!(
        r#"{{"type":"manifest","refs":["localhost:5000/a@{A}"],"lookup":{{"{A}":"example:foo","{INDEX}":"foo/bar:baz","{B}":"localhost:5000/example:bar"}}}}"#
    );
    let deployment = parse(&input).unwrap();
    let found: BTreeMap<_, _> = deployment
        .lookup
        .iter()
        .filter_map(|(key, to)| Some((key.as_ref()?.to_string(), to.to_string())))
        .collect();
    let expected =
        [(A, "docker.io/library/example"), (INDEX, "docker.io/foo/bar"), (B, "localhost:5000/example")];
    assert_eq!(found, expected.map(|(key, to)| (key.to_owned(), to.to_owned())).into());
}

#[test]
fn inputs_that_contradict_themselves_are_refused() {
    let local = "localhost:5000/a";
    let index = r#""data":{"mediaType":"application/vnd.oci.image.index.v1+json"}"#;
    for (input, expected) in [
        (format!(r#""refs":["{local}"],{index}"#), "has no type"),
        (format!(r#""type":"image","refs":["{local}"],{index}"#), "neither manifest nor blob"),
        (format!(r#""type":"manifest",{index}"#), "has no refs"),
        (format!(r#""type":"manifest","refs":[],{index}"#), "has no refs"),
        (format!(r#""type":"manifest","refs":["{local}@bad_digest"],{index}"#), "not the name of an image"),
        (format!(r#""type":"manifest","refs":["..."],{index}"#), "not the name of an image"),
        (format!(r##""type":"manifest","refs":["{local}:#"],{index}"##), "not the name of an image"),
        (format!(r#""type":"manifest","refs":["{local}?test"],{index}"#), "not the name of an image"),
        (format!(r#""type":"manifest","refs":["{local}@{A}","{local}@{B}"],{index}"#), "want both"),
        (format!(r#""type":"manifest","refs":["{local}@{B}"],"lookup":{{"{A}":"a"}}"#), "its lookup has"),
        (format!(r#""type":"blob","refs":["{local}:tag"],"data":"""#), "a blob has no tag"),
        (
            format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"no digest":"a:b"}},{index}"#),
            "lookup: ",
        ),
        (format!(r##""type":"manifest","refs":["{local}"],"lookup":{{"{A}":"://#"}},{index}"##), "lookup: "),
        (format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"{A}":"a@{B}"}},{index}"#), "leads to"),
        (format!(r#""type":"manifest","refs":["{local}@{A}"],{index}"#), "its data is"),
        (format!(r#""type":"manifest","refs":["{local}@{A}"],"lookup":{{"":"a@{B}"}}"#), "its lookup has"),
        (format!(r#""type":"manifest","refs":["{local}"],"data":{{}}"#), "names no mediaType"),
        (format!(r#""type":"manifest","refs":["{local}"],"data":"e30""#), "data: "),
        (format!(r#""type":"manifest","refs":["{local}"]"#), "has no data"),
        (format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"":"a"}}"#), "has no data"),
        (format!(r#""type":"manifest","refs":["{local}"],"lookup":{{"{A}":"a","{B}":"a"}}"#), "has no data"),
        (format!(r#""type":"blob","refs":["{local}"],"lookup":{{"":"a:b"}}"#), "by its digest"),
    ] {
        let error = parse(&format!("{{{input}}}")).unwrap_err();
        assert!(matches!(error, Error::Deployment { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{input}: {error}");
    }
}

#[test]
fn parts_are_found_by_lookup_and_what_is_in_place_is_not_pushed_again() {
    let registry = Registry::start();
    let (one, two) = (
        ImageBuilder::new().layer(Layer::gzip("one")).build(),
        ImageBuilder::new().platform("linux/arm64").layer(Layer::gzip("two")).build(),
    );
    registry.put("one", "v1", &one);
    registry.put("two", "v1", &two);
    let index = IndexBuilder::new().image(&one).image(&two).build();
    let host = registry.host();
    let input = format!(
        r#"{{"type":"manifest","refs":["{host}/new:v1","{host}/new:v2"],"lookup":{{"{}":"{host}/two","":"{host}/one"}},"data":{}}}"#,
        two.root.digest,
        String::from_utf8(index.root_bytes().to_vec()).unwrap(),
    );
    let deployment = parse(&input).unwrap();
    let client = || Client::new(Settings::default()).unwrap();
    assert_eq!(deployment.pending(&client()).unwrap().len(), 2);
    assert!(registry.take_lines().iter().all(|line| line.starts_with("HEAD")));
    deployment.run(&client(), Existing::Trust).unwrap();
    for tag in ["v1", "v2"] {
        assert_eq!(registry.manifest("new", tag).as_deref(), Some(index.root_bytes()));
    }
    // All blobs are of this registry, so none is sent.
    assert!(registry.requests().iter().all(|request| !request.path.contains("/uploads/upload-")));
    registry.take_lines();
    deployment.run(&client(), Existing::Trust).unwrap();
    assert_eq!(registry.take_lines().len(), 2);
    assert!(deployment.pending(&client()).unwrap().is_empty());
}

#[test]
fn many_tags_of_a_repository_cost_their_parts_once() {
    let (from, to) = (Registry::start(), Registry::start());
    let image = ImageBuilder::new().layer(Layer::gzip("one")).build();
    from.put("a", "v1", &image);
    let refs: Vec<_> = (0..20).map(|number| format!("{}/b:v{number}", to.host())).collect();
    let input = json!({"type": "manifest", "refs": refs, "lookup": {"": format!("{}/a:v1", from.host())}});
    parse(&input.to_string())
        .unwrap()
        .run(&Client::new(Settings::default()).unwrap(), Existing::Trust)
        .unwrap();
    let lines = to.take_lines();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    // A look and a put for each, a look and two requests for each of two blobs; the source is read once.
    assert_eq!((count("HEAD"), count("PUT /v2/b/manifests/"), count("POST")), (22, 20, 2), "{lines:#?}");
    assert_eq!(from.take_lines().len(), 3);
}

#[test]
fn blobs_and_tags_are_copied_between_registries() {
    let (from, to) = (Registry::start(), Registry::start());
    let image = ImageBuilder::new().layer(Layer::gzip("one")).build();
    from.put("a", "v1", &image);
    let large = restow_testkit::Random::new(3).bytes(5 << 20);
    let digest = from.put_blob("a", &large);
    let client = Client::new(Settings::default()).unwrap();
    for input in [
        format!(
            r#"{{"type":"manifest","refs":["{}/b:v2"],"lookup":{{"":"{}/a:v1"}}}}"#,
            to.host(),
            from.host()
        ),
        format!(
            r#"{{"type":"blob","refs":["{}/b"],"lookup":{{"{digest}":"{}/a"}}}}"#,
            to.host(),
            from.host()
        ),
        format!(r#"{{"type":"blob","refs":["{}/b"],"data":"{}"}}"#, to.host(), STANDARD.encode("raw")),
    ] {
        let deployment = parse(&input).unwrap();
        deployment.run(&client, Existing::Trust).unwrap();
        assert!(deployment.pending(&client).unwrap().is_empty(), "{input}");
    }
    assert_eq!(to.manifest("b", "v2").as_deref(), Some(image.root_bytes()));
    assert!(to.blob("b", &digest).unwrap() == large);
    assert_eq!(to.blob("b", &Digest::sha256(b"raw")).as_deref(), Some(b"raw".as_slice()));
}

#[test]
fn a_blob_is_copied_without_a_look_before() {
    let (from, to) = (Registry::start(), Registry::start());
    let (small, large) = (b"small".to_vec(), restow_testkit::Random::new(3).bytes(5 << 20));
    for content in [small, large] {
        let digest = from.put_blob("a", &content);
        let input = |host: &Registry| {
            let refs = [format!("{}/b", host.host())];
            let input = json!({"type": "blob", "refs": refs, "lookup": {digest.as_str(): from.name("a")}});
            parse(&input.to_string()).unwrap()
        };
        let run = |host: &Registry| {
            input(host).run(&Client::new(Settings::default()).unwrap(), Existing::Trust).map(drop)
        };
        // In the same registry it is taken over, whatever its size.
        run(&from).unwrap();
        assert_eq!(from.take_lines(), ["POST /v2/b/blobs/uploads/"]);
        from.remove_blob("b", &digest);
        // To another it is fetched, and looked for there once its size is known to be worth it.
        run(&to).unwrap();
        assert_eq!(from.take_lines(), [format!("GET /v2/a/blobs/{digest}")]);
        let lines: Vec<_> = to.take_lines().iter().map(|line| line[..4].to_owned()).collect();
        let expected = ["HEAD", "POST", "PUT "];
        assert_eq!(lines, expected[usize::from(content.len() < 65_536)..]);
        assert_eq!(to.blob("b", &digest), Some(content));
        // What is nowhere is an error.
        let declines = Registry::start();
        declines.put_blob("a", b"other");
        let missing = json!({"type": "blob", "refs": [declines.name("b")], "lookup": {digest.as_str(): declines.name("a")}});
        let error = parse(&missing.to_string())
            .unwrap()
            .run(&Client::new(Settings::default()).unwrap(), Existing::Trust);
        assert!(error.unwrap_err().is_not_found());
    }
}

#[test]
fn ten_copies_of_a_tag_are_looked_at_with_eleven_requests() {
    let registry = Registry::start();
    registry.put("a", "v1", &ImageBuilder::new().build());
    let client = Client::new(Settings::default()).unwrap();
    for number in 0..10 {
        let refs = [registry.name(&format!("b:v{number}"))];
        let input = json!({"type": "manifest", "refs": refs, "lookup": {"": registry.name("a:v1")}});
        assert_eq!(parse(&input.to_string()).unwrap().pending(&client).unwrap().len(), 1);
    }
    assert_eq!(registry.take_lines().len(), 11);
}

#[test]
fn a_copied_tag_comes_to_the_digest_that_was_pushed() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("a", "v1", &image);
    let input =
        json!({"type": "manifest", "refs": [registry.name("b:v1")], "lookup": {"": registry.name("a:v1")}});
    let client = Client::new(Settings::default()).unwrap();
    assert_eq!(parse(&input.to_string()).unwrap().run(&client, Existing::Trust).unwrap(), image.root.digest);
}

#[test]
fn what_others_need_comes_first() {
    let blob = |text: &str| {
        parse(&format!(r#"{{"type":"blob","refs":["localhost/a"],"data":"{}"}}"#, STANDARD.encode(text)))
            .unwrap()
    };
    let manifest = |config: &str, name: &str| {
        let digest = Digest::sha256(config.as_bytes());
        let media_type = MediaType::OCI_MANIFEST;
        let data = format!(r#"{{"mediaType":"{media_type}","config":{{"digest":"{digest}"}},"layers":[]}}"#);
        parse(&format!(r#"{{"type":"manifest","refs":["localhost/{name}"],"data":{data}}}"#)).unwrap()
    };
    let inputs = [blob("x"), manifest("x", "a:v1"), blob("y"), manifest("y", "a:v1"), manifest("z", "a:v2")];
    assert_eq!(rounds(&inputs), [vec![0, 2, 4], vec![1], vec![3]]);
}
