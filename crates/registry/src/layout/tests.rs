use super::*;
use crate::Access;
use crate::Destination;
use crate::Place;
use crate::Reading;
use crate::Settings;
use crate::Writing;
use restow_content::Labels;
use restow_testkit::ImageBuilder;
use restow_testkit::write_layout;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;

fn limits() -> Limits {
    Limits::default()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_blobs_of_a_layout_pass_the_suite_of_stores() {
    let directories = std::sync::Mutex::new(Vec::new());
    let new = || {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(&directory.path().join("layout"), &Limits::default()).unwrap();
        directories.lock().unwrap().push(directory);
        layout.store().clone()
    };
    restow_content::suite::run(new);
    restow_content::suite::run_directory(|| {
        let store = new();
        let root = store.root().to_owned();
        (store, root)
    });
}

#[test]
fn a_layout_is_opened_and_resolved_without_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let image = ImageBuilder::new().build();
    image.write_layout(directory.path(), "v1").unwrap();
    let before = names(directory.path());
    let layout = Layout::open(directory.path(), &limits()).unwrap();
    assert_eq!(layout.tags().unwrap(), ["v1"]);
    for selector in [Selector::Only, Selector::Tag("v1".into()), Selector::Digest(image.root.digest.clone())]
    {
        assert_eq!(layout.resolve(&selector).unwrap().digest, image.root.digest);
    }
    assert_eq!(names(directory.path()), before);
}

#[test]
fn layouts_of_other_tools_are_read() {
    let cases = [
        ("src", "gold"),
        ("zstdchunked", "g:zstdchunked"),
        ("estargz", "estargz"),
        ("estargz-externaltoc-esgztoc", "estargz-externaltoc-esgztoc"),
        ("podman-zstdchunked", "gold"),
    ];
    for (name, tag) in cases {
        let layout = Layout::open(&restow_testkit::testdata("golden").join(name), &limits()).unwrap();
        let root = layout.resolve(&Selector::Tag(tag.into())).unwrap();
        assert_eq!(layout.resolve(&Selector::Only).unwrap(), root, "{name}");
        restow_content::read(layout.store(), &root, limits().manifest_size).unwrap();
    }
}

#[test]
fn what_is_no_layout_is_refused_with_its_reason() {
    let write = |name: &'static str, bytes: &'static [u8]| {
        move |path: &Path| {
            fs::remove_file(path.join(name)).unwrap();
            fs::write(path.join(name), bytes).unwrap();
        }
    };
    let remove = |name: &'static str| move |path: &Path| fs::remove_file(path.join(name)).unwrap();
    let version = write(MARKER, br#"{"imageLayoutVersion":"1.0.1"}"#);
    let number = write(MARKER, br#"{"imageLayoutVersion":1}"#);
    let link = |path: &Path| {
        fs::copy(path.join(INDEX), path.join("elsewhere")).unwrap();
        fs::remove_file(path.join(INDEX)).unwrap();
        symlink(path.join("elsewhere"), path.join(INDEX)).unwrap();
    };
    let fifo = |path: &Path| {
        fs::remove_file(path.join(INDEX)).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.join(INDEX), rustix::fs::Mode::RWXU).unwrap();
    };
    let large = |path: &Path| {
        let padding = " ".repeat(usize::try_from(limits().manifest_size).unwrap());
        fs::write(path.join(INDEX), format!(r#"{{"schemaVersion":2,"manifests":[]{padding}}}"#)).unwrap();
    };
    type Spoil<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Spoil<'_>); 12] = [
        ("it has no oci-layout", &remove(MARKER)),
        ("it has no index.json", &remove(INDEX)),
        (r#"its version is "1.0.1", expected "1.0.0""#, &version),
        ("its version is 1, expected", &number),
        ("names no version", &write(MARKER, b"{}")),
        ("cannot use oci-layout", &write(MARKER, b"1.0.0")),
        ("cannot use index.json", &write(INDEX, b"")),
        ("cannot use index.json", &write(INDEX, br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#)),
        (
            "cannot use index.json",
            &write(
                INDEX,
                br#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","size":1,"digest":"sha256:../../x"}]}"#,
            ),
        ),
        ("symbolic link, not a regular file", &link),
        ("FIFO, not a regular file", &fifo),
        ("more than the limit of 4194304", &large),
    ];
    for (expected, spoil) in cases {
        let directory = tempfile::tempdir().unwrap();
        ImageBuilder::new().build().write_layout(directory.path(), "v1").unwrap();
        spoil(directory.path());
        let error = Layout::open(directory.path(), &limits()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
    }
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let missing = directory.path().join("missing");
    assert!(matches!(Layout::open(&missing, &limits()), Err(Error::NoSuchPath { .. })));
    assert!(matches!(Layout::open(&file, &limits()), Err(Error::NotALayout { .. })));
    assert!(matches!(Layout::create(&file, &limits()), Err(Error::NotALayout { .. })));
}

#[test]
fn a_layout_is_made_where_nothing_is() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["new", "new/nested/deep", "empty"] {
        let path = directory.path().join(name);
        if name == "empty" {
            fs::create_dir(&path).unwrap();
            // Left by a run that was killed.
            fs::write(path.join(".oci-layout.draft"), b"{").unwrap();
        }
        let layout = Layout::create(&path, &limits()).unwrap();
        assert!(layout.tags().unwrap().is_empty());
        assert!(matches!(layout.resolve(&Selector::Only), Err(Error::Empty { .. })));
        let marker = fs::read_to_string(path.join(MARKER)).unwrap();
        assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
    }
    assert_eq!(names(&directory.path().join("empty")), [INDEX, MARKER]);
}

#[test]
fn a_layout_is_not_made_among_other_files() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), b"").unwrap();
    let error = Layout::create(directory.path(), &limits()).unwrap_err();
    assert!(matches!(&error, Error::NotEmpty { found, .. } if found == "thesis.tex"), "{error}");
    assert_eq!(names(directory.path()), ["thesis.tex"]);
}

#[test]
fn creating_a_layout_that_exists_opens_it_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let image = ImageBuilder::new().build();
    image.write_layout(directory.path(), "v1").unwrap();
    fs::write(directory.path().join("README"), b"").unwrap();
    let index = fs::read(directory.path().join(INDEX)).unwrap();
    let layout = Layout::create(directory.path(), &limits()).unwrap();
    assert_eq!(layout.resolve(&Selector::Only).unwrap().digest, image.root.digest);
    assert_eq!(fs::read(directory.path().join(INDEX)).unwrap(), index);
}

#[test]
fn many_creators_make_one_layout() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = directory.path().join(format!("round {round}"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| Layout::create(&path, &limits()).unwrap());
            }
        });
        assert_eq!(names(&path), [INDEX, MARKER]);
    }
}

#[test]
fn only_a_layout_that_was_made_for_nothing_is_discarded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    let write = |layout: &Layout| {
        restow_content::write(layout.store(), restow_oci::MediaType::OCI_LAYER, b"layer").unwrap()
    };

    let layout = Layout::create(&path, &limits()).unwrap();
    write(&layout);
    layout.discard().unwrap();
    assert!(!path.exists());

    // Somebody else's file stays, and its directory with it.
    let layout = Layout::create(&path, &limits()).unwrap();
    fs::write(path.join("README"), b"").unwrap();
    layout.discard().unwrap();
    assert_eq!(names(&path), ["README"]);
    fs::remove_file(path.join("README")).unwrap();

    // The directory was there before.
    let layout = Layout::create(&path, &limits()).unwrap();
    let root = write(&layout);
    layout.discard().unwrap();
    assert_eq!(names(&path), ["blobs", INDEX, MARKER]);
    fs::remove_dir_all(&path).unwrap();

    // There is an image by now.
    let layout = Layout::create(&path, &limits()).unwrap();
    layout.edit(|catalogue| catalogue.set(&root, Some("v1"))).unwrap();
    layout.discard().unwrap();
    assert_eq!(Layout::open(&path, &limits()).unwrap().tags().unwrap(), ["v1"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    // The kernel lets nobody make anything there, and says that there is no such file.
    let error = Layout::create(Path::new("/proc/layout"), &limits()).unwrap_err();
    assert!(matches!(error, Error::Content(restow_content::Error::Io { .. })), "{error}");
}

#[test]
fn a_layout_that_others_write_to_is_not_discarded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    let first = Layout::create(&path, &limits()).unwrap();
    let second = Layout::create(&path, &limits()).unwrap();
    first.discard().unwrap();
    assert_eq!(names(&path), [INDEX, MARKER]);
    drop(second);

    // Whoever comes while it is taken away makes it anew.
    fs::remove_dir_all(&path).unwrap();
    for _ in 0..50 {
        let first = Layout::create(&path, &limits()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let layout = Layout::create(&path, &limits()).unwrap();
                let root = restow_content::write(layout.store(), restow_oci::MediaType::OCI_LAYER, b"layer")
                    .unwrap();
                layout.edit(|catalogue| catalogue.set(&root, Some("v1"))).unwrap();
                layout
            });
            first.discard().unwrap();
            assert_eq!(second.join().unwrap().tags().unwrap(), ["v1"]);
        });
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn what_is_unfinished_goes_when_the_program_ends() {
    let directory = tempfile::tempdir().unwrap();
    let access = Access::new(limits(), directory.path(), || Ok(Settings::default()));
    let path = |name: &str| directory.path().join(name);
    write_layout(&path("old"), &[("v1", &ImageBuilder::new().build())]).unwrap();
    let open = |name: &str| access.open_destination(&Place::Layout(path(name)), Writing::default()).unwrap();
    let (old, new) = (open("old"), open("new"));
    let begin = |place: &dyn Destination| {
        let mut ingest = place.store().ingest("key").unwrap();
        ingest.write_all(b"half a layer").unwrap();
        ingest
    };
    let ingests = [begin(&*old), begin(&*new)];
    assert_eq!(names(&path("old")), ["blobs", INDEX, "ingest", MARKER]);
    access.abandon();
    assert_eq!(names(&path("old")), ["blobs", INDEX, MARKER]);
    assert!(!path("new").exists());
    for ingest in ingests {
        assert!(ingest.commit(None, Labels::new()).is_err());
    }
    assert_eq!(names(&path("old")), ["blobs", INDEX, MARKER]);
    assert!(!path("new").exists());
}

#[test]
fn a_missing_blob_matters_only_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (there, gone) = (ImageBuilder::new().build(), ImageBuilder::new().annotation("a", "b").build());
    write_layout(directory.path(), &[("there", &there), ("gone", &gone)]).unwrap();
    let layout = Layout::open(directory.path(), &limits()).unwrap();
    fs::remove_file(layout.store().path(&gone.root.digest)).unwrap();
    let read = |tag: &str| {
        let root = layout.resolve(&Selector::Tag(tag.into())).unwrap();
        restow_content::read(layout.store(), &root, 10_000)
    };
    assert_eq!(read("there").unwrap(), there.root_bytes());
    assert!(read("gone").unwrap_err().is_not_found());
}

#[test]
fn an_image_that_is_being_read_stays_the_one_that_was_found() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (ImageBuilder::new().build(), ImageBuilder::new().annotation("a", "b").build());
    write_layout(directory.path(), &[("v1", &old), ("v2", &new)]).unwrap();
    let access = Access::new(limits(), directory.path(), || Ok(Settings::default()));
    let tagged = |tag: &str| format!("oci:{}:{tag}", directory.path().display());
    let open = |tag: &str| access.open_source(&tagged(tag).parse().unwrap(), Reading::Once).unwrap();
    let source = open("v1");
    // The tag moves under it.
    let layout = Layout::open(directory.path(), &limits()).unwrap();
    layout.edit(|catalogue| catalogue.set(&new.root, Some("v1"))).unwrap();
    assert_eq!(restow_content::read(&*source.provider, &source.root, 10_000).unwrap(), old.root_bytes());
    assert_eq!(open("v1").root.digest, new.root.digest);
    // And so does what its digest names.
    let path = layout.store().path(&old.root.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![b' '; old.root_bytes().len()]).unwrap();
    let error = restow_content::read(&*source.provider, &source.root, 10_000).unwrap_err();
    assert!(error.to_string().contains(old.root.digest.as_str()), "{error}");
}
