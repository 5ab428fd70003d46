//! The store survives whatever happens: a conversion, an ingest, an update and a collection are killed, or fail, at each
//! of the system calls that change something, or that read, one run for each call.
//!
//! Afterwards every visible blob verifies, every image is whole or absent, and the same command, run again, ends with
//! the same result. How many points were tried goes to stderr.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::print_stderr, reason = "how many points were tried is what this is about")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use restow_content::LocalStore;
use restow_content::Manager as _;
use restow_content::MetadataStore;
use restow_content::scrub;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::annotations::REF_NAME;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::trace;
use restow_testkit::trace::Injection;
use restow_testkit::trace::Traced;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

const INJECTIONS: [Injection; 6] = [
    Injection::Kill,
    Injection::Fail(EIO),
    Injection::Fail(ENOSPC),
    Injection::Short,
    Injection::FailRead(EIO),
    Injection::ShortRead,
];

/// Where runs take place, one after the other.
struct Ground {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Ground {
    /// Starts with a store `base` that holds the image `src`, and an image `old` that has lost its name.
    fn new() -> Ground {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // In memory where that is to be had: what a disk does is not asked for here, and takes ten times as long.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let ground = Ground { directory, _alone };
        for name in ["src", "old"] {
            let tar = |file: &str| {
                TarBuilder::new().dir("d/").file(file, vec![b'x'; 30_000]).file("d/b", name).finish()
            };
            let image =
                ImageBuilder::new().layer(Layer::gzip(tar("d/one"))).layer(Layer::gzip(tar("d/two"))).build();
            image.write_layout(&ground.path(name), name).unwrap();
            ground.ok(&["--root", "base", "store", "import", name, name]);
        }
        ground.ok(&["--root", "base", "store", "images", "rm", "old"]);
        fs::write(ground.path("file"), vec![b'y'; 100_000]).unwrap();
        fs::write(ground.path("list"), "d/b\n").unwrap();
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restow"));
        command.current_dir(self.directory.path()).args(arguments);
        command
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `store` anew as a copy of `base`.
    fn reset(&self) {
        let store = self.path("store");
        if store.exists() {
            fs::remove_dir_all(&store).unwrap();
        }
        copy_tree(&self.path("base"), &store);
    }

    fn trace(&self, arguments: &[&str], at: u64, injection: Injection) -> Traced {
        let file = |name: &str| {
            let path = self.path(name);
            drop(File::create(&path).unwrap());
            File::options().read(true).append(true).open(path).unwrap()
        };
        trace::run(&mut self.command(arguments), at, injection, [file("stdout"), file("stderr")])
    }

    /// Lets the command meet `injection` at each of its calls, and holds what it leaves behind to `check`. Returns
    /// the number of calls.
    fn at_every_call(&self, arguments: &[&str], injection: Injection, check: &dyn Fn(&Traced)) -> u64 {
        self.at_every_call_on(&|| self.reset(), &|| self.check_store(), arguments, injection, check)
    }

    /// Does so with what `reset` starts with, and `sound` is true of at all times.
    fn at_every_call_on(
        &self,
        reset: &dyn Fn(),
        sound: &dyn Fn(),
        arguments: &[&str],
        injection: Injection,
        check: &dyn Fn(&Traced),
    ) -> u64 {
        for at in 1.. {
            reset();
            let traced = self.trace(arguments, at, injection);
            if !traced.reached {
                assert_eq!(traced.code, Some(0), "{traced:?}");
                return at - 1;
            }
            // Killed, done all the same, or failed with a message; never by a panic.
            let expected = if injection == Injection::Kill { [None, None] } else { [Some(0), Some(1)] };
            assert!(expected.contains(&traced.code), "{injection:?} at call {at}: {traced:?}");
            if traced.code == Some(1) {
                assert!(traced.stderr.contains("error: "), "{injection:?} at call {at}: {traced:?}");
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                sound();
                check(&traced);
                sound();
            }));
            if result.is_err() {
                panic!("{injection:?} at call {at}: {traced:?}");
            }
        }
        unreachable!()
    }

    /// Opens the store again: every visible blob verifies, every image is whole.
    fn check_store(&self) {
        let (store, rebuilt) = MetadataStore::create(&self.path("store"), &Limits::default()).unwrap();
        assert_eq!(rebuilt, None);
        let scrubbed = scrub(&store, NonZeroUsize::MIN, &|| false).unwrap();
        assert!(scrubbed.rotten.is_empty(), "{:?}", scrubbed.rotten);
        let images = store.images().unwrap();
        assert!(images.iter().any(|image| image.name == "src"));
        for image in images {
            let bytes = restow_content::read(&store, &image.target, 1 << 20).unwrap();
            let manifest = Manifest::parse(bytes, &Limits::default()).unwrap();
            for blob in manifest.layers().iter().chain([manifest.config()]) {
                assert_eq!(store.info(&blob.digest).unwrap().size, blob.size, "{}", image.name);
            }
        }
    }

    /// Starts the layout `out` anew as a copy of `old`.
    fn reset_layout(&self) {
        let out = self.path("out");
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        copy_tree(&self.path("old"), &out);
    }

    /// Looks at the layout `out` again: every visible blob verifies, every image is whole, and `old` is there.
    fn check_layout(&self) {
        let store = LocalStore::open(&self.path("out")).unwrap();
        let scrubbed = scrub(&store, NonZeroUsize::MIN, &|| false).unwrap();
        assert!(scrubbed.rotten.is_empty(), "{:?}", scrubbed.rotten);
        let index = fs::read(self.path("out/index.json")).unwrap();
        let index = Index::parse(index, &Limits::default()).unwrap();
        let tags: Vec<_> = index.manifests().iter().map(|entry| entry.annotations.get(REF_NAME)).collect();
        assert!(tags.contains(&Some(&"old".to_owned())), "{tags:?}");
        for target in index.manifests() {
            let bytes = restow_content::read(&store, target, 1 << 20).unwrap();
            let manifest = Manifest::parse(bytes, &Limits::default()).unwrap();
            for blob in manifest.layers().iter().chain([manifest.config()]) {
                assert_eq!(store.info(&blob.digest).unwrap().size, blob.size, "{tags:?}");
            }
        }
    }

    /// Runs a command that writes to the layout `out`, and holds what it leaves behind to `check`.
    fn at_every_call_on_layout(&self, arguments: &[&str], injection: Injection, check: &dyn Fn()) -> u64 {
        self.reset_layout();
        let expected = self.ok(arguments);
        let again = |_: &Traced| {
            check();
            assert_eq!(self.ok(arguments), expected);
            check();
        };
        self.at_every_call_on(&|| self.reset_layout(), &|| self.check_layout(), arguments, injection, &again)
    }

    fn blobs(&self) -> BTreeSet<Digest> {
        let (store, _) = MetadataStore::create(&self.path("store"), &Limits::default()).unwrap();
        let mut found = BTreeSet::new();
        store
            .walk(&mut |info| {
                found.insert(info.digest);
                Ok(())
            })
            .unwrap();
        found
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A conversion from the store into the store.
const CONVERT: [&str; 13] = [
    "--root",
    "store",
    "optimize",
    "store:src",
    "store:dst",
    "--zstdchunked",
    "--prefetch-list",
    "list",
    "--no-cache",
    "--tmp-dir",
    ".",
    "--jobs",
    "1",
];

fn convert_at_every_call(injection: Injection) {
    let ground = Ground::new();
    ground.reset();
    let expected = ground.ok(&CONVERT);
    let points = ground.at_every_call(&CONVERT, injection, &|_| {
        assert_eq!(ground.ok(&CONVERT), expected);
    });
    assert!(points > 20, "{points}");
    eprintln!("{points} points of a conversion tried with {injection:?}");
}

#[test]
fn a_conversion_survives_a_kill_at_every_call() {
    convert_at_every_call(Injection::Kill);
}

#[test]
fn a_conversion_survives_a_full_disk_at_every_call() {
    convert_at_every_call(Injection::Fail(ENOSPC));
}

#[test]
fn a_conversion_survives_a_broken_disk_at_every_call() {
    convert_at_every_call(Injection::Fail(EIO));
}

#[test]
fn a_conversion_survives_short_writes() {
    convert_at_every_call(Injection::Short);
}

#[test]
fn a_conversion_survives_reads_that_fail() {
    convert_at_every_call(Injection::FailRead(EIO));
}

#[test]
fn a_conversion_survives_short_reads() {
    convert_at_every_call(Injection::ShortRead);
}

#[test]
fn a_collection_survives_kills_and_errors_at_every_call() {
    const COLLECT: [&str; 4] = ["--root", "store", "store", "gc"];
    let ground = Ground::new();
    ground.reset();
    let before = ground.blobs();
    ground.ok(&COLLECT);
    let after = ground.blobs();
    assert!(after.is_subset(&before) && after.len() == 4, "{before:?} {after:?}");
    for injection in INJECTIONS {
        let points = ground.at_every_call(&COLLECT, injection, &|_| {
            assert!(ground.blobs().is_superset(&after));
            ground.ok(&COLLECT);
            assert_eq!(ground.blobs(), after);
            let (store, _) = MetadataStore::create(&ground.path("store"), &Limits::default()).unwrap();
            let mut files = 0;
            store
                .blobs()
                .walk(&mut |_| {
                    files += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(files, after.len());
        });
        assert!(points > 5, "{points}");
        eprintln!("{points} points of a collection tried with {injection:?}");
    }
}

#[test]
fn an_ingest_and_an_update_survive_kills_and_errors_at_every_call() {
    const INGEST: [&str; 8] = ["--root", "store", "store", "ingest", "file", "--ref", "key", "--label=a=b"];
    let ground = Ground::new();
    ground.reset();
    let expected = ground.ok(&INGEST);
    let digest = Digest::parse(expected.trim()).unwrap();
    let label = ["--root", "store", "store", "label", digest.as_str(), "a=c", "d=e"];
    let info = || {
        let (store, _) = MetadataStore::create(&ground.path("store"), &Limits::default()).unwrap();
        store.info(&digest)
    };
    for injection in INJECTIONS {
        let points = ground.at_every_call(&INGEST, injection, &|_| {
            // It is there with its labels, or not there.
            match info() {
                Ok(info) => assert_eq!(info.labels.get("a").map(String::as_str), Some("b")),
                Err(error) => assert!(error.is_not_found(), "{error}"),
            }
            assert_eq!(ground.ok(&INGEST), expected);
            info().unwrap();
        });
        assert!(points > 5, "{points}");
        eprintln!("{points} points of an ingest tried with {injection:?}");
    }

    // From here on it is part of what every run starts with.
    ground.reset();
    ground.ok(&INGEST);
    fs::remove_dir_all(ground.path("base")).unwrap();
    copy_tree(&ground.path("store"), &ground.path("base"));
    for injection in INJECTIONS {
        let points = ground.at_every_call(&label, injection, &|_| {
            let labels = info().unwrap().labels;
            let found = ["a", "d"].map(|key| labels.get(key).map(String::as_str));
            assert!([[Some("b"), None], [Some("c"), Some("e")]].contains(&found), "{found:?}");
            ground.ok(&label);
        });
        assert!(points > 2, "{points}");
        eprintln!("{points} points of an update tried with {injection:?}");
    }
}

#[test]
fn a_conversion_between_layouts_survives_kills_and_a_full_disk_at_every_call() {
    const CONVERT: [&str; 8] =
        ["optimize", "src:src", "out:dst", "--zstdchunked", "--no-optimize", "--no-cache", "--jobs", "1"];
    let ground = Ground::new();
    for injection in [Injection::Kill, Injection::Fail(ENOSPC)] {
        let points = ground.at_every_call_on_layout(&CONVERT, injection, &|| ());
        assert!(points > 20, "{points}");
        eprintln!("{points} points of a conversion between layouts tried with {injection:?}");
    }
}

#[test]
fn a_copy_that_links_survives_kills_and_errors_at_every_call() {
    const COPY: [&str; 4] = ["copy", "--link", "src:src", "out:dst"];
    let ground = Ground::new();
    for injection in [Injection::Kill, Injection::Fail(EIO)] {
        let points = ground.at_every_call_on_layout(&COPY, injection, &|| ());
        assert!(points > 20, "{points}");
        eprintln!("{points} points of a copy that links tried with {injection:?}");
    }
}

#[test]
fn an_ingest_without_a_database_survives_kills_and_errors_at_every_call() {
    const INGEST: [&str; 7] = ["--root", "out", "store", "ingest", "--plain", "file", "--label=a=b"];
    let ground = Ground::new();
    let digest = Digest::sha256(&fs::read(ground.path("file")).unwrap());
    // It is there with its labels, or not there.
    let check = || match LocalStore::open(&ground.path("out")).unwrap().info(&digest) {
        Ok(info) => assert_eq!(info.labels.get("a").map(String::as_str), Some("b")),
        Err(error) => assert!(error.is_not_found(), "{error}"),
    };
    for injection in INJECTIONS {
        let points = ground.at_every_call_on_layout(&INGEST, injection, &check);
        assert!(points > 0, "{points}");
        eprintln!("{points} points of an ingest without a database tried with {injection:?}");
    }
}

#[test]
fn the_first_ingest_into_a_new_store_survives_kills_and_errors_at_every_call() {
    const INGEST: [&str; 5] = ["--root", "new", "store", "ingest", "file"];
    let ground = Ground::new();
    let expected = ground.ok(&INGEST);
    let reset = || drop(fs::remove_dir_all(ground.path("new")));
    let sound = || {
        if ground.path("new/blobs").exists() {
            let (store, _) = MetadataStore::create(&ground.path("new"), &Limits::default()).unwrap();
            assert!(scrub(store.blobs(), NonZeroUsize::MIN, &|| false).unwrap().rotten.is_empty());
        }
    };
    for injection in [Injection::Kill, Injection::Fail(EIO)] {
        let again = |_: &Traced| assert_eq!(ground.ok(&INGEST), expected);
        let points = ground.at_every_call_on(&reset, &sound, &INGEST, injection, &again);
        assert!(points > 5, "{points}");
        eprintln!("{points} points of a first ingest tried with {injection:?}");
    }
}

#[test]
fn a_database_that_is_made_again_survives_kills_and_errors_at_every_call() {
    const LIST: [&str; 6] = ["--root", "store", "store", "ls", "--format", "json"];
    let ground = Ground::new();
    ground.reset();
    let blobs = ground.blobs();
    let reset = || {
        ground.reset();
        for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
            let _ = fs::remove_file(ground.path("store").join(name));
        }
    };
    // Whoever looks makes it again, or goes on.
    let sound = || {
        assert_eq!(ground.blobs(), blobs);
        let (store, _) = MetadataStore::create(&ground.path("store"), &Limits::default()).unwrap();
        let images = store.images().unwrap();
        assert!(images.len() == 2 && images.iter().all(|image| image.name.starts_with("recovered@")));
    };
    for injection in [Injection::Kill, Injection::Fail(EIO), Injection::FailRead(EIO)] {
        let points = ground.at_every_call_on(&reset, &sound, &LIST, injection, &|_| ());
        assert!(points > 5, "{points}");
        eprintln!("{points} points of making a database again tried with {injection:?}");
    }
}

/// While a large file comes in, it is synced from time to time. A failure there is told to nobody else by the kernel.
#[test]
fn an_ingest_of_a_large_file_fails_where_one_of_its_syncs_does() {
    const INGEST: [&str; 6] = ["--root", "store", "store", "ingest", "large", "--ref=large"];
    let ground = Ground::new();
    fs::write(ground.path("large"), vec![b'z'; 36 << 20]).unwrap();
    ground.reset();
    let expected = ground.ok(&INGEST);
    let syncs = Cell::new(0);
    let mut points = 0;
    // One on the way, and one at the end. Which call of a run they are is up to its threads, so one may be missed.
    for _ in 0..5 {
        points += ground.at_every_call(&INGEST, Injection::Fail(EIO), &|traced| {
            if traced.synced.as_ref().is_some_and(|file| file.ends_with("data")) {
                syncs.set(syncs.get() + 1);
                assert_eq!(traced.code, Some(1));
            }
            assert_eq!(ground.ok(&INGEST), expected);
        });
        if syncs.get() > 1 {
            break;
        }
    }
    assert!(syncs.get() > 1, "{}", syncs.get());
    eprintln!("{points} points of a large ingest tried, {} of them syncs of its data", syncs.get());
}
