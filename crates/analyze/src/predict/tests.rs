use std::sync::Arc;

use proptest::prelude::*;
use restow_content::MemoryStore;
use restow_content::write;
use restow_layer::Codec;
use restow_layer::EncodeOptions;
use restow_layer::Header;
use restow_layer::Workers;
use restow_layer::ZstdChunked;
use restow_layer::gather_files;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::TarBuilder;
use restow_testkit::compress;

use super::*;
use crate::Layer;
use crate::Reading;

/// A name in a layer: a file, or a link if its content starts with `->`.
type Named<'a> = (&'a str, Vec<u8>);

fn text<'a>(name: &'a str, content: &str) -> Named<'a> {
    (name, content.as_bytes().to_vec())
}

/// Forges a 64-bit program: one loaded segment, an interpreter, libraries.
fn elf<'a>(name: &'a str, interpreter: &str, dynamic: &[(u64, &str)]) -> Named<'a> {
    elf_padded(name, interpreter, dynamic, 0)
}

/// The same with that many bytes before the dynamic section.
fn elf_padded<'a>(name: &'a str, interpreter: &str, dynamic: &[(u64, &str)], padding: usize) -> Named<'a> {
    const TABLE: usize = 64;
    let mut strings = vec![0];
    let mut entries = Vec::new();
    for (tag, value) in dynamic {
        entries.push((*tag, strings.len() as u64));
        strings.extend_from_slice(value.as_bytes());
        strings.push(0);
    }
    let interpreter_at = TABLE + 3 * 56;
    let strings_at = interpreter_at + interpreter.len() + 1;
    let dynamic_at = strings_at + strings.len() + padding;
    entries.extend([(5, strings_at as u64), (10, strings.len() as u64), (0, 0)]);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(TABLE, 0);
    file[18] = 62;
    file[32..40].copy_from_slice(&(TABLE as u64).to_le_bytes());
    file[54] = 56;
    file[56] = 3;
    let end = (dynamic_at + entries.len() * 16) as u64;
    for (kind, offset, size) in [
        (1_u32, 0, end),
        (2, dynamic_at as u64, entries.len() as u64 * 16),
        (3, interpreter_at as u64, interpreter.len() as u64 + 1),
    ] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        for number in [offset, offset, offset, size, size, 0] {
            file.extend_from_slice(&number.to_le_bytes());
        }
    }
    file.extend_from_slice(interpreter.as_bytes());
    file.push(0);
    file.extend_from_slice(&strings);
    file.resize(dynamic_at, 0);
    for (tag, value) in entries {
        file.extend_from_slice(&tag.to_le_bytes());
        file.extend_from_slice(&value.to_le_bytes());
    }
    (name, file)
}

const NEEDED: u64 = 1;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

fn launch(command: &[&str]) -> Launch {
    let args = command.iter().map(|&word| word.to_owned()).collect();
    Launch { args, env: vec!["PATH=/usr/bin:/bin".into()], directory: "/app".into() }
}

/// Reads a layer as a conversion does, in small chunks.
fn gathered(store: &MemoryStore, descriptor: &Descriptor) -> Layer {
    let codec: Arc<dyn Codec> = Arc::new(ZstdChunked::new(1));
    let options = EncodeOptions { chunk_size: 5000, ..EncodeOptions::new(tempfile::env::temp_dir()) };
    let blob = restow_content::read(store, descriptor, u64::MAX).unwrap();
    let mut names = Layer::gathering();
    let mut add = |header: &Header| names.add(header);
    let (_, files) = gather_files(&*blob, &codec, &options, &Workers::new(1).unwrap(), &mut add).unwrap();
    names.finish(Some(files))
}

/// Predicts through everything: tars in a store, read back.
fn predicted(layers: &[&[Named<'_>]], launch: &Launch) -> Prediction {
    let store = MemoryStore::new();
    let layer = |files: &&[Named<'_>]| {
        let tar = files.iter().fold(TarBuilder::new(), |tar, (name, content)| {
            match std::str::from_utf8(content).ok().and_then(|text| text.strip_prefix("->")) {
                Some(target) => tar.symlink(name, target),
                None => tar.file(name, content.clone()),
            }
        });
        write(&store, MediaType::OCI_LAYER_GZIP, &compress::gzip(tar.finish())).unwrap()
    };
    let layers: Vec<_> = layers.iter().map(layer).collect();
    let made = [1, 4].map(|threads| {
        let reading = Reading { provider: &store, limits: &Limits::default(), threads, stop: &|| false };
        predict(&reading.tree_with_notes(&layers).unwrap(), launch)
    });
    assert_eq!(made[0], made[1], "the number of threads shows");
    let gathered = Tree::from_layers(layers.iter().map(|layer| gathered(&store, layer)).collect());
    assert_eq!(predict(&gathered, launch), made[0], "it shows when notes are written");
    made.into_iter().next().unwrap()
}

/// Returns the paths predicted for one layer.
fn paths(files: &[Named<'_>], command: &[&str]) -> Vec<String> {
    predicted(&[files], &launch(command)).files.into_iter().map(|file| file.path).collect()
}

#[test]
fn a_program_is_found_through_path_and_links_with_its_loader_and_libraries() {
    let base = [
        text("bin", "->usr/bin"),
        text("lib64", "->usr/lib64"),
        text("usr/lib64/ld-linux-x86-64.so.2", "loader"),
        text("usr/bin/tool", "->/opt/tool"),
        elf("usr/lib/liba.so.1", "", &[(NEEDED, "libb.so")]),
        elf("usr/lib/libb.so", "", &[(NEEDED, "liba.so.1"), (NEEDED, "libgone.so")]),
        text("etc/passwd", "root"),
    ];
    let top = [
        elf("opt/tool", LOADER, &[(NEEDED, "liba.so.1"), (NEEDED, "libown.so"), (RUNPATH, "$ORIGIN/lib")]),
        elf("opt/lib/libown.so", "", &[]),
        // For another machine: passed over.
        text("opt/lib/liba.so.1", "not for this machine"),
    ];
    let prediction = predicted(&[&base, &top], &launch(&["tool", "--flag"]));
    let files: Vec<_> = prediction.files.iter().map(|file| (file.position, file.path.as_str())).collect();
    assert_eq!(
        files,
        [
            (0, "etc/passwd"),
            (0, "usr/bin/tool"),
            (1, "opt/tool"),
            (0, "lib64"),
            (0, "usr/lib64/ld-linux-x86-64.so.2"),
            (0, "usr/lib/liba.so.1"),
            (1, "opt/lib/libown.so"),
            (0, "usr/lib/libb.so"),
        ]
    );
    assert_eq!(prediction.files[7].reason, "shared library that usr/lib/liba.so.1 needs");
    assert_eq!((prediction.files[1].size, prediction.files[4].size), (0, 6));
    assert_eq!(prediction.notices, Vec::<String>::new());
}

#[test]
fn a_whiteout_hides_what_is_below() {
    let below = [elf("usr/bin/a", LOADER, &[(NEEDED, "libx.so")]), elf("usr/lib/libx.so", "", &[])];
    let prediction = predicted(&[&below, &[text("usr/lib/.wh.libx.so", "")]], &launch(&["a"]));
    assert_eq!(prediction.files.len(), 1);
    let prediction = predicted(&[&below, &[text("usr/bin/.wh..wh..opq", "")]], &launch(&["a"]));
    assert_eq!(prediction.notices, ["the program \"a\" is not in the image"]);
}

#[test]
fn search_paths_are_taken_in_the_order_of_the_loader() {
    let libraries =
        ["rpath", "preferred", "runpath", "usr/lib"].map(|directory| format!("{directory}/libx.so"));
    for (dynamic, preferred, expected) in [
        (&[(NEEDED, "libx.so"), (RPATH, "/rpath")][..], "/preferred", "rpath/libx.so"),
        (&[(NEEDED, "libx.so"), (RPATH, "/rpath"), (RUNPATH, "/runpath")], "/preferred", "preferred/libx.so"),
        (&[(NEEDED, "libx.so"), (RUNPATH, "/none:/runpath")], "", "runpath/libx.so"),
        (&[(NEEDED, "libx.so"), (RUNPATH, "relative")], "", "usr/lib/libx.so"),
        (&[(NEEDED, "/runpath/libx.so")], "", "runpath/libx.so"),
    ] {
        let mut files: Vec<_> = libraries.iter().map(|name| elf(name, "", &[])).collect();
        files.push(elf("bin/a", LOADER, dynamic));
        let mut launch = launch(&["/bin/a"]);
        launch.env.push(format!("LD_LIBRARY_PATH={preferred}"));
        let prediction = predicted(&[&files], &launch);
        assert_eq!(prediction.files.last().unwrap().path, expected, "{dynamic:?}");
        assert_eq!(prediction.files.len(), 2);
    }
}

#[test]
fn the_loaders_cache_and_musls_path_are_heeded() {
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    let strings = b"libx.so\0/weird/libx.so\0libx.so\0/special/libx.so\0";
    let start = 48 + 2 * 24_u32;
    cache.extend_from_slice(&2_u32.to_le_bytes());
    cache.resize(48, 0);
    for (key, value, special) in [(24, 32, 1_u32), (0, 8, 0)] {
        for number in [3, start + key, start + value, 0, 0, special] {
            cache.extend_from_slice(&number.to_le_bytes());
        }
    }
    cache.extend_from_slice(strings);
    let program = elf("bin/a", LOADER, &[(NEEDED, "libx.so")]);
    let libraries = [elf("weird/libx.so", "", &[]), elf("special/libx.so", "", &[])];
    let mut files = vec![("etc/ld.so.cache", cache), program];
    files.extend(libraries.clone());
    assert_eq!(paths(&files, &["/bin/a"]), ["bin/a", "etc/ld.so.cache", "weird/libx.so"]);

    let mut files = vec![
        elf("bin/a", "/lib/ld-musl-x86_64.so.1", &[(NEEDED, "libx.so")]),
        text("lib/ld-musl-x86_64.so.1", "loader"),
        text("etc/ld-musl-x86_64.path", "/none:/weird\n"),
    ];
    files.extend(libraries);
    let expected = ["bin/a", "lib/ld-musl-x86_64.so.1", "etc/ld-musl-x86_64.path", "weird/libx.so"];
    assert_eq!(paths(&files, &["/bin/a"]), expected);
}

#[test]
fn a_long_programs_libraries_are_found_behind_what_is_kept_of_it() {
    let program = elf_padded("bin/a", LOADER, &[(NEEDED, "libx.so")], 20 << 20);
    let files = [program, elf("lib/libx.so", "", &[])];
    assert_eq!(paths(&files, &["/bin/a"]), ["bin/a", "lib/libx.so"]);
}

#[test]
fn scripts_lead_to_their_interpreters_and_to_what_they_exec() {
    let files = [
        elf("bin/sh", "", &[]),
        elf("usr/bin/env", "", &[]),
        elf("usr/bin/tini", "", &[]),
        elf("usr/bin/server", "", &[]),
        text("etc/defaults", "A=1"),
        text("entry.sh", "#! /bin/sh -e\n. /etc/defaults\nif [ \"$1\" ]; then\n  exec \"$@\"\nfi\n"),
        text("script", "#!/usr/bin/env -S sh\nexec server --now\n"),
    ];
    let expected = ["usr/bin/tini", "entry.sh", "bin/sh", "etc/defaults", "usr/bin/server"];
    assert_eq!(paths(&files, &["tini", "--", "/entry.sh", "server"]), expected);
    assert_eq!(paths(&files, &["/script"]), ["script", "usr/bin/env", "bin/sh", "usr/bin/server"]);
    assert_eq!(paths(&files, &["sh", "-c", "A=1 exec server"]), ["bin/sh", "usr/bin/server"]);
}

#[test]
fn python_reads_its_start_up_set_and_what_the_script_imports() {
    let files = [
        text("usr/bin/python3", "->python3.11"),
        elf("usr/bin/python3.11", "", &[]),
        text("usr/lib/python3.11/encodings/__init__.py", "from . import aliases"),
        text("usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc", "compiled"),
        text("usr/lib/python3.11/encodings/aliases.py", ""),
        text("usr/lib/python3.11/os.py", "carried by the interpreter"),
        text("usr/lib/python3.11/json/__init__.py", "def f():\n    import late"),
        text("usr/lib/python3.11/late.py", ""),
        text("usr/lib/python3/dist-packages/pkg/__init__.py", "from .core import thing\nfrom . import sub"),
        text("usr/lib/python3/dist-packages/pkg/core.py", "import pkg._fast"),
        text("usr/lib/python3/dist-packages/pkg/sub.py", "import pkg"),
        elf(
            "usr/lib/python3/dist-packages/pkg/_fast.cpython-311-x86_64-linux-gnu.so",
            "",
            &[(NEEDED, "libx.so")],
        ),
        elf("usr/lib/libx.so", "", &[]),
        text("usr/lib/python3/dist-packages/extra.pth", "/opt/more\nimport json"),
        text("opt/more/more.py", ""),
        text("app/main.py", "import pkg, more, os, nothing\nopen('/etc/data/x.csv')"),
        text("etc/data/x.csv", "1"),
        text("pip", "#!/usr/bin/python3 -s\nimport more\n"),
    ];
    let startup = [
        "usr/bin/python3",
        "usr/bin/python3.11",
        "usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc",
        "usr/lib/python3.11/encodings/aliases.py",
        "usr/lib/python3/dist-packages/extra.pth",
        "usr/lib/python3.11/json/__init__.py",
    ];
    let script = [
        "app/main.py",
        "usr/lib/python3/dist-packages/pkg/__init__.py",
        "usr/lib/python3/dist-packages/pkg/core.py",
        "usr/lib/python3/dist-packages/pkg/_fast.cpython-311-x86_64-linux-gnu.so",
        "usr/lib/libx.so",
        "usr/lib/python3/dist-packages/pkg/sub.py",
        "opt/more/more.py",
        "etc/data/x.csv",
    ];
    assert_eq!(paths(&files, &["python3", "-u", "main.py"]), [&startup[..], &script[..]].concat());
    let found = paths(&files, &["/pip"]);
    assert_eq!((found[0].as_str(), found[7].as_str()), ("pip", "opt/more/more.py"));
    assert_eq!(paths(&files, &["python3", "-m", "more"]).last().unwrap(), "opt/more/more.py");
}

#[test]
fn node_follows_modules_from_the_entry() {
    let files = [
        elf("usr/bin/node", "", &[]),
        elf("usr/bin/npm", "", &[]),
        elf("bin/sh", "", &[]),
        text("app/package.json", r#"{"scripts":{"start":"node server.js"}}"#),
        text("app/server.js", "const a = require('./lib'); import('dep'); import x from '@s/p/sub'"),
        text("app/lib/index.js", "require('../server.js'); require('fs'); require('./native.node')"),
        elf("app/lib/native.node", "", &[(NEEDED, "libx.so")]),
        elf("lib/libx.so", "", &[]),
        text("app/node_modules/dep/package.json", r#"{"main":"./main"}"#),
        text("app/node_modules/dep/main.js", ""),
        text("node_modules/@s/p/package.json", r#"{"exports":{"./sub":"./deep/sub.js"}}"#),
        text("node_modules/@s/p/deep/sub.js", ""),
    ];
    let modules = [
        "app/server.js",
        "app/package.json",
        "app/lib/index.js",
        "app/lib/native.node",
        "lib/libx.so",
        "app/node_modules/dep/package.json",
        "app/node_modules/dep/main.js",
        "node_modules/@s/p/package.json",
        "node_modules/@s/p/deep/sub.js",
    ];
    assert_eq!(paths(&files, &["node", "."])[1..], ["app/package.json"]);
    assert_eq!(paths(&files, &["node", "server"])[1..], modules);
    assert_eq!(
        paths(&files, &["npm", "start"])[..4],
        ["usr/bin/npm", "app/package.json", "bin/sh", "usr/bin/node"]
    );
}

#[test]
fn the_other_runtimes_find_what_they_are_told_to_read() {
    let nginx = [
        elf("usr/sbin/nginx", "", &[]),
        text("etc/nginx/nginx.conf", "include modules/*.conf;\nhttp { include mime.types; # include no;\n}"),
        text("etc/nginx/mime.types", "types {}"),
        text("etc/nginx/no", ""),
        text("etc/nginx/modules/a.conf", "load_module modules/x.so;"),
        elf("usr/share/nginx/modules/x.so", "", &[]),
    ];
    let expected = [
        "etc/nginx/nginx.conf",
        "etc/nginx/modules/a.conf",
        "usr/share/nginx/modules/x.so",
        "etc/nginx/mime.types",
    ];
    assert_eq!(paths(&nginx, &["/usr/sbin/nginx", "-g", "daemon off;"])[1..], expected);

    let ruby = [
        elf("usr/local/bin/ruby", "", &[]),
        text("usr/local/lib/ruby/3.3.0/set.rb", ""),
        text("usr/local/lib/ruby/3.3.0/rubygems.rb", "require 'monitor'"),
        text("app/main.rb", "require 'set'\nrequire_relative \"lib/x\""),
        text("app/lib/x.rb", "require 'set'"),
    ];
    let expected = [
        "usr/local/lib/ruby/3.3.0/rubygems.rb",
        "app/main.rb",
        "usr/local/lib/ruby/3.3.0/set.rb",
        "app/lib/x.rb",
    ];
    let found = paths(&ruby, &["/usr/local/bin/ruby", "main.rb"]);
    assert!(expected.iter().all(|path| found.iter().any(|found| found == path)), "{found:?}");

    let php = [
        elf("usr/bin/php8.2", "", &[]),
        text("etc/php/8.2/cli/conf.d/10-x.ini", "; no\nextension=x.so"),
        elf("usr/lib/php/20220829/x.so", "", &[]),
        text("app/index.php", "<?php require __DIR__ . '/lib.php'; include $x;"),
        text("app/lib.php", "<?php"),
    ];
    let expected =
        ["etc/php/8.2/cli/conf.d/10-x.ini", "usr/lib/php/20220829/x.so", "app/index.php", "app/lib.php"];
    assert_eq!(paths(&php, &["php8.2", "index.php"])[1..], expected);

    let manifest = "Manifest-Version: 1.0\r\nClass-Path: lib/a.j\r\n ar b.jar\r\n";
    let mut jar = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    for number in [manifest.len() as u32, manifest.len() as u32] {
        jar.extend_from_slice(&number.to_le_bytes());
    }
    jar.extend_from_slice(&[20, 0, 0, 0]);
    jar.extend_from_slice(b"META-INF/MANIFEST.MF");
    jar.extend_from_slice(manifest.as_bytes());
    let java = [
        elf("opt/jdk/bin/java", "", &[]),
        elf("opt/jdk/lib/server/libjvm.so", "", &[]),
        text("opt/jdk/lib/modules", ""),
        ("app/app.jar", jar),
        text("app/lib/a.jar", ""),
        text("app/b.jar", ""),
    ];
    let expected =
        ["opt/jdk/lib/server/libjvm.so", "opt/jdk/lib/modules", "app/app.jar", "app/lib/a.jar", "app/b.jar"];
    assert_eq!(paths(&java, &["/opt/jdk/bin/java", "-Xmx1g", "-jar", "app.jar"])[1..], expected);
}

#[test]
fn what_is_hostile_ends_and_stays_inside() {
    // Scripts that run themselves and each other, sources that source themselves.
    let loops = [
        elf("bin/sh", "", &[]),
        text("self", "#!/self\n"),
        text("a", "#!/b\n"),
        text("b", "#!/a\n"),
        text("again.sh", "#!/bin/sh\n. /again.sh\n/again.sh; exec /again.sh x\n"),
        text("link", "->link"),
        text("out", "->../../../../etc/hostname"),
        text("up/down", "->../up"),
    ];
    for command in [
        &["/self"][..],
        &["/a"],
        &["/again.sh"],
        &["/link"],
        &["/out"],
        &["/up/down/down/down"],
        &["../../bin/sh"],
    ] {
        let found = predicted(&[&loops], &launch(command));
        assert!(found.files.len() <= 4, "{command:?}: {found:?}");
    }
    for odd in [&[][..], &[""], &["/"], &[".."], &["a\0b"], &["\u{1b}[2J"], &["x".repeat(9000).as_str()]] {
        let found = predicted(&[&loops], &launch(odd));
        assert_eq!((found.files.len(), found.notices.len()), (0, 1), "{odd:?}");
    }
    // A program that needs more than there can be, and one that needs itself.
    let names: Vec<String> = (0..3000).map(|number| format!("lib{number}.so")).collect();
    let needed: Vec<_> = names.iter().map(|name| (NEEDED, name.as_str())).collect();
    let mut files = vec![elf("bin/a", "/bin/a", &needed)];
    files.extend(names.iter().map(|name| format!("lib/{name}")).map(|path| {
        let (_, content) = elf("", "", &[(NEEDED, "a")]);
        (Box::leak(path.into_boxed_str()) as &str, content)
    }));
    assert_eq!(paths(&files, &["/bin/a"]).len(), 2001);
}

#[test]
fn a_hundred_thousand_libraries_are_looked_for_and_that_is_all() {
    let names: Vec<String> = (0..100_000).map(|number| format!("lib{number}.so")).collect();
    let needed: Vec<_> = names.iter().map(|name| (NEEDED, name.as_str())).collect();
    // All at once: no linker writes such a table, and it is not read.
    assert_eq!(paths(&[elf("bin/a", "/bin/a", &needed)], &["/bin/a"]), ["bin/a"]);
    // A hundred each, for a thousand libraries, none of which is there.
    let holders: Vec<String> = (0..1000).map(|number| format!("holder{number}.so")).collect();
    let held: Vec<_> = holders.iter().map(|name| (NEEDED, name.as_str())).collect();
    let places: Vec<String> = holders.iter().map(|name| format!("lib/{name}")).collect();
    let mut files = vec![elf("bin/a", "/bin/a", &held)];
    files.extend(places.iter().zip(needed.chunks(100)).map(|(place, needed)| elf(place, "", needed)));
    let found = paths(&files, &["/bin/a"]);
    assert_eq!((found.len(), found.last().unwrap().as_str()), (1001, "lib/holder999.so"));
}

#[test]
fn a_config_of_odd_types_starts_what_can_be_read_of_it() {
    let parse = |config: &str| {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#
        );
        Launch::of(&Config::parse(text.into_bytes(), &Limits::default()).unwrap())
    };
    let launch = parse(r#"{"Entrypoint":["a"],"Cmd":["b","c"],"Env":["PATH=/x"],"WorkingDir":"/w"}"#);
    assert_eq!(
        (launch.args.join(" "), launch.env.join(" "), launch.directory.as_str()),
        ("a b c".into(), "PATH=/x".into(), "/w")
    );
    for odd in [r#"{"Entrypoint":null,"Cmd":null}"#, "null", "{}", r#"{"Entrypoint":[],"Cmd":[1,{}]}"#] {
        assert!(parse(odd).args.is_empty(), "{odd}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_note_panic(start in 0_usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (_, program) = elf("", LOADER, &[(NEEDED, "libx.so")]);
        let (prefix, name) = [
            (&b"\x7fELF\x02\x01"[..], "a"), (b"PK\x03\x04", "a.jar"), (b"#!/bin/sh\n", "a.sh"),
            (b"glibc-ld.so.cache1.1", "etc/ld.so.cache"), (b"import ", "a.py"), (&program[..200], "a"),
        ][start];
        let content = [prefix, &bytes].concat();
        passing::write(&Passing::new(name, content.len() as u64, &content));
    }

    #[test]
    fn a_damaged_program_is_still_no_panic(at in 0_usize..300, byte in any::<u8>()) {
        let (_, mut program) = elf("", LOADER, &[(NEEDED, "libx.so"), (RPATH, "/x")]);
        let at = at % program.len();
        program[at] = byte;
        passing::write(&Passing::new("a", program.len() as u64, &program));
    }
}
