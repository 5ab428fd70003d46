use super::*;
use crate::Access;
use crate::Reading;
use crate::Reference;
use crate::Settings;
use restow_testkit::Entry;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::compress;
use std::fs;

fn image() -> Image {
    let layer = |content: &str| Layer::gzip(TarBuilder::new().file("file", content).finish());
    ImageBuilder::new().layer(layer("one")).layer(layer("two")).build()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm_name(), digest.encoded())
}

/// Returns the names and contents in an archive, in the order in which skopeo writes them.
fn files(image: &Image) -> Vec<(String, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    image.write_layout(directory.path(), "v1").unwrap();
    let blobs: BTreeMap<_, _> = image.blobs.iter().cloned().collect();
    let blobs = blobs.into_iter().map(|(digest, bytes)| (blob_name(&digest), bytes));
    let documents = ["index.json", "oci-layout"];
    let documents = documents.map(|name| (name.to_owned(), fs::read(directory.path().join(name)).unwrap()));
    blobs.chain(documents).collect()
}

/// Makes the entries of an archive without some of them.
fn entries_without(image: &Image, left_out: &[&str]) -> Vec<Entry> {
    let files = files(image).into_iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
    let directories = ["blobs/", "blobs/sha256/"].map(Entry::dir);
    directories.into_iter().chain(files.map(|(name, bytes)| Entry::file(name, bytes))).collect()
}

fn entries(image: &Image) -> Vec<Entry> {
    entries_without(image, &[])
}

fn open(tar: &[u8]) -> Result<OciArchive> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    fs::write(&path, tar).unwrap();
    OciArchive::open(&path, &Limits::default())
}

fn refused(tar: &[u8], expected: &str) {
    let error = open(tar).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}\nexpected: {expected}");
    assert!(error.contains("image.tar"), "{error}");
}

fn read_all(archive: &OciArchive, image: &Image) {
    let root = archive.resolve(&Selector::Tag("v1".into())).unwrap();
    assert_eq!(root.digest, image.root.digest);
    assert_eq!(archive.tags(), ["v1"]);
    for (digest, bytes) in &image.blobs {
        let descriptor = Descriptor::new(root.media_type.clone(), digest.clone(), bytes.len() as u64);
        assert_eq!(&restow_content::read(archive, &descriptor, 1 << 20).unwrap(), bytes);
        let shorter = Descriptor { size: descriptor.size - 1, ..descriptor };
        assert!(matches!(archive.open(&shorter), Err(restow_content::Error::WrongSize { .. })));
    }
    let absent = Descriptor::new(root.media_type, Digest::sha256(b"absent"), 6);
    assert!(matches!(archive.open(&absent), Err(restow_content::Error::NotFound { .. })));
}

#[test]
fn blobs_are_read_where_they_lie() {
    let image = image();
    let plain = TarBuilder::new().entries(entries(&image));
    read_all(&open(&plain.clone().finish()).unwrap(), &image);
    // Without an end, and with its last block cut short.
    let endless = plain.finish_with(restow_testkit::End::None);
    read_all(&open(&endless).unwrap(), &image);
    let marker = br#"{"imageLayoutVersion":"1.0.0"}"#.len();
    read_all(&open(&endless[..endless.len() - 512 + marker]).unwrap(), &image);
    // By the formats that tools write.
    let gnu = entries(&image).into_iter().map(Entry::gnu);
    read_all(&open(&TarBuilder::new().entries(gnu).finish()).unwrap(), &image);
    let base256 = entries(&image).into_iter().map(|entry| entry.gnu().base256());
    read_all(&open(&TarBuilder::new().entries(base256).finish()).unwrap(), &image);
}

#[test]
fn extensions_name_and_measure_the_entry_that_follows_them() {
    let image = image();
    let mut builder = TarBuilder::new().global_pax(&[("path", "global"), ("comment", "x")]);
    for (number, (name, bytes)) in files(&image).into_iter().enumerate() {
        let (name, size) = (format!("./{name}"), bytes.len().to_string());
        let replaced = builder.pax(&[("path", "replaced"), ("size", "1")]);
        // What the header itself says does not count, except where no extension names the entry.
        let (extended, own_name) = match number % 3 {
            0 => (replaced.pax(&[("path", &name), ("size", &size)]), "x"),
            1 => (replaced.pax(&[("path", "less than GNU's"), ("size", &size)]).long_name(&name), "x"),
            _ => (replaced.pax(&[("size", &size)]), name.as_str()),
        };
        builder = extended.entry(Entry::file(own_name, bytes).claim_size(0));
    }
    read_all(&open(&builder.finish()).unwrap(), &image);
}

#[test]
fn links_duplicates_and_special_files_in_place_of_blobs_are_refused() {
    let image = image();
    let name = blob_name(&image.root.digest);
    let with = |entry: Entry| TarBuilder::new().entries(entries(&image)).entry(entry).finish();
    let instead =
        |name: &str, entry| TarBuilder::new().entries(entries_without(&image, &[name])).entry(entry).finish();

    refused(&with(Entry::file(&name, "x")), &format!("a second {name} at byte"));
    refused(&with(Entry::file("./index.json", "{}")), "a second index.json at byte");
    refused(
        &instead(&name, Entry::symlink(&name, "/etc/passwd")),
        &format!("{name} is a link, not a regular file"),
    );
    refused(&instead(&name, Entry::hardlink(&name, "index.json")), &format!("{name} is a link"));
    refused(&instead(&name, Entry::fifo(&name)), &format!("{name} is a special file"));
    refused(&instead(&name, Entry::dir(&name)), &format!("{name} is a directory"));
    refused(&instead("index.json", Entry::symlink("index.json", "/etc/passwd")), "index.json is a link");
    // Elsewhere they mean nothing.
    let harmless = TarBuilder::new()
        .symlink("blobs/sha256/../../etc", "/etc")
        .symlink("latest", "index.json")
        // A link has no content, whatever its size.
        .entry(Entry::hardlink("newest", "index.json").claim_size(1000))
        .fifo("pipe")
        .file("../../etc/passwd", "x")
        .entries(entries(&image));
    read_all(&open(&harmless.finish()).unwrap(), &image);
}

#[test]
fn what_is_no_archive_of_a_layout_is_refused_with_its_reason() {
    let image = image();
    let tar = TarBuilder::new().entries(entries(&image)).finish();
    let only = |names: &[&str]| {
        let kept = files(&image).into_iter().filter(|(name, _)| names.contains(&name.as_str()));
        TarBuilder::new().entries(kept.map(|(name, bytes)| Entry::file(name, bytes)))
    };
    let damaged = |position: usize| {
        let mut tar = tar.clone();
        tar[position] ^= 1;
        tar
    };
    let huge = " ".repeat(usize::try_from(Limits::default().manifest_size).unwrap() + 1);

    refused(&only(&["index.json"]).finish(), "it has no oci-layout");
    refused(&only(&["oci-layout"]).finish(), "it has no index.json");
    refused(
        &only(&[]).file("manifest.json", "[]").dir("abc/").finish(),
        "is a docker archive, not an OCI one",
    );
    refused(
        &only(&["index.json"]).file("oci-layout", r#"{"imageLayoutVersion":"2"}"#).finish(),
        "its version is \"2\"",
    );
    refused(&only(&["oci-layout"]).file("index.json", huge).finish(), "more than the limit");
    refused(b"", "it has no oci-layout");
    refused(b"short", "the archive ends in a header at byte 0");
    refused(&[b'x'; 2048], "the file is not a tar at byte 0");
    refused(&compress::gzip(&tar), "the archive is compressed");
    refused(&compress::zstd(&tar), "the archive is compressed");
    refused(&damaged(1024 + 3), "a header is damaged at byte 1024");
    refused(&tar[..1024 + 100], "the archive ends in a header at byte 1024");
    refused(&tar[..1024 + 512 + 10], "the archive ends in an entry at byte 1024");
    let negative = only(&[]).entry(Entry::file("x", "").gnu().claim_size(-1));
    refused(&negative.finish(), "a size is malformed at byte 0");
    let one_zero_block = only(&["index.json"]).zero_blocks(1).file("oci-layout", "{}");
    refused(&one_zero_block.finish(), "a single block of zeros");
    for records in ["5 path=x\n", "9999 path=x\n", "9 path=x\n\n", "x", "0 path=x\n", "12 size=12x\n"] {
        refused(
            &only(&[]).raw_pax(b'x', records).file("x", "").finish(),
            "an extension is malformed at byte 0",
        );
    }
    let large = vec![b'x'; (1 << 20) + 1];
    refused(&only(&[]).long_name(&large).file("x", "").finish(), "an extension is too large");
    refused(
        &only(&[]).long_name("x").finish_with(restow_testkit::End::None),
        "an extension without its entry",
    );
}

#[test]
fn the_number_of_entries_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    fs::write(&path, TarBuilder::new().entries(entries(&image())).finish()).unwrap();
    let limits = Limits { nodes: 5, ..Limits::default() };
    assert!(matches!(OciArchive::open(&path, &limits), Err(Error::TooMany { limit: 5, .. })));
}

#[test]
fn a_source_is_opened_by_its_reference() {
    let directory = tempfile::tempdir().unwrap();
    let image = image();
    let access = Access::new(Limits::default(), directory.path(), || Ok(Settings::default()));
    fs::write(directory.path().join("image.tar"), TarBuilder::new().entries(entries(&image)).finish())
        .unwrap();
    image.write_layout(&directory.path().join("layout"), "v1").unwrap();
    let at = |name: &str| format!("{}/{name}", directory.path().display());
    for text in
        [at("image.tar"), at("image.tar:v1"), at("layout"), at("layout:v1"), format!("oci:{}", at("layout"))]
    {
        let source = access.open_source(&Reference::parse(&text).unwrap(), Reading::Once).unwrap();
        assert_eq!(source.root.digest, image.root.digest, "{text}");
        assert!(source.name.contains(directory.path().to_str().unwrap()));
        let bytes = restow_content::read(&*source.provider, &source.root, 10_000).unwrap();
        assert_eq!(bytes, image.root_bytes(), "{text}");
    }
    for (text, expected) in [
        (at("missing.tar"), "does not exist"),
        (at("missing"), "does not exist"),
        (format!("oci:{}", at("image.tar")), "it is no directory"),
        (format!("oci-archive:{}", at("layout")), "is a directory, not a regular file"),
        (at("layout:v2"), "holds no image \"v2\", only v1"),
        (at("image.tar:v2"), "holds no image \"v2\", only v1"),
    ] {
        let error =
            access.open_source(&Reference::parse(&text).unwrap(), Reading::Once).map(drop).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}
