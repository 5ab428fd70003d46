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
use restow_layer::path::base;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::TarBuilder;
use restow_testkit::compress;
use restow_testkit::elf as forged;
use restow_testkit::elf::CALLS;
use restow_testkit::elf::LOADER;
use restow_testkit::elf::MUSL_LOADER;
use restow_testkit::elf::NEEDED;
use restow_testkit::elf::RPATH;
use restow_testkit::elf::RUNPATH;

mod limits;

use super::*;
use crate::Layer;
use crate::Reading;

/// A name in a layer: a file, or a link if its content starts with `->`.
type Named<'a> = (&'a str, Vec<u8>);

fn text<'a>(name: &'a str, content: &str) -> Named<'a> {
    (name, content.as_bytes().to_vec())
}

/// Forges a program, or a library.
fn elf<'a>(name: &'a str, interpreter: &str, dynamic: &[(u64, &str)]) -> Named<'a> {
    (name, forged::elf(interpreter, dynamic, 0))
}

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
    predicted_within(layers, launch, PredictionLimits::default())
}

/// Does the same within these limits.
fn predicted_within(layers: &[&[Named<'_>]], launch: &Launch, prediction: PredictionLimits) -> Prediction {
    let limits = Limits { prediction, ..Limits::default() };
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
        let reading = Reading { provider: &store, limits: &limits, threads, stop: &|| false };
        predict(&reading.tree_with_notes(&layers).unwrap(), launch, &limits.prediction)
    });
    assert_eq!(made[0], made[1], "the number of threads shows");
    let gathered = Tree::from_layers(layers.iter().map(|layer| gathered(&store, layer)));
    let gathered = predict(&gathered, launch, &limits.prediction);
    // Of what there is no room for, each keeps what it comes to first.
    if !gathered.notices.iter().any(|notice| notice.contains("than are remembered")) {
        assert_eq!(gathered, made[0], "it shows when notes are written");
    }
    made.into_iter().next().unwrap()
}

/// Returns the paths predicted for one layer with these variables.
fn paths_with(files: &[Named<'_>], variables: &[&str], command: &[&str]) -> Vec<String> {
    let mut launch = launch(command);
    launch.env.extend(variables.iter().map(|&variable| variable.to_owned()));
    predicted(&[files], &launch).files.into_iter().map(|file| file.path).collect()
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
        elf("bin/a", MUSL_LOADER, &[(NEEDED, "libx.so")]),
        text("lib/ld-musl-x86_64.so.1", "loader"),
        text("etc/ld-musl-x86_64.path", "/none:/weird\n"),
    ];
    files.extend(libraries);
    let expected = ["bin/a", "lib/ld-musl-x86_64.so.1", "etc/ld-musl-x86_64.path", "weird/libx.so"];
    assert_eq!(paths(&files, &["/bin/a"]), expected);
}

#[test]
fn a_long_programs_libraries_are_found_behind_what_is_kept_of_it() {
    let program = forged::elf(LOADER, &[(NEEDED, "libx.so")], 20 << 20);
    let files = [("bin/a", program), elf("lib/libx.so", "", &[])];
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
fn a_shell_that_changes_its_directory_finds_programs_there() {
    let files = [
        elf("bin/sh", "", &[]),
        elf("usr/bin/run", "", &[]),
        text("opt/app/main.sh", "#!/usr/bin/run\n"),
        text("opt/app/set.sh", "./lib/next.sh"),
        text("opt/app/lib/next.sh", "#!/bin/sh\ncd ../..\n./there.sh\n"),
        text("opt/there.sh", ""),
        text("app/main.sh", "#!/bin/sh\n"),
        text("app/late.sh", "#!/bin/sh\n"),
        text("opt/link", "->app"),
    ];
    let app = ["bin/sh", "opt/app/main.sh", "usr/bin/run"];
    for (script, expected) in [
        ("cd /opt/app && ./main.sh", &app[..]),
        ("cd /opt; cd app; exec ./main.sh", &app),
        ("cd ../opt/app\nsh -c ./main.sh", &app),
        ("cd /opt/link && ./main.sh", &["bin/sh", "opt/link", "opt/app/main.sh", "usr/bin/run"]),
        // By its way and not by where the link leads.
        ("cd /opt/link/../app && ./main.sh", &app),
        ("(cd /opt/app; ls); ./main.sh", &["bin/sh", "app/main.sh"]),
        ("cd \"$DIR\"; ./main.sh", &["bin/sh", "app/main.sh"]),
        ("cd /opt/app; . ./set.sh", &["bin/sh", "opt/app/set.sh", "opt/app/lib/next.sh"]),
        ("cd /opt/app/lib; ./next.sh", &["bin/sh", "opt/app/lib/next.sh", "opt/there.sh"]),
        ("cd /gone; ./main.sh", &["bin/sh"]),
    ] {
        assert_eq!(paths(&files, &["/bin/sh", "-c", script]), expected, "{script}");
    }
    let deep = format!("{}a; {}./late.sh", "(cd a;".repeat(9000), ")".repeat(9000));
    let grown = "cd a;".repeat(9000) + "./main.sh";
    assert_eq!(paths(&files, &["/bin/sh", "-c", &deep]), ["bin/sh", "app/late.sh"]);
    assert_eq!(paths(&files, &["/bin/sh", "-c", &grown]), ["bin/sh"]);
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
    let found = paths(&files, &["python3", "-m", "pkg.sub"]);
    assert!(found.iter().any(|path| path.ends_with("pkg/sub.py")), "{found:?}");
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
fn servers_written_in_python_lead_to_the_application_they_are_told_to_run() {
    const PACKAGES: &str = "usr/lib/python3.11/site-packages";
    let package = |path: &str| -> &'static str { Box::leak(format!("{PACKAGES}/{path}").into_boxed_str()) };
    let script = |name: &str, module: &str| {
        text(
            Box::leak(format!("usr/bin/{name}").into_boxed_str()),
            &format!("#!/usr/bin/python3\nfrom {module} import run"),
        )
    };
    let files = [
        text("usr/bin/python3", "->python3.11"),
        elf("usr/bin/python3.11", "", &[]),
        text("usr/lib/python3.11/os.py", ""),
        script("gunicorn", "gunicorn"),
        script("uvicorn", "uvicorn"),
        script("flask", "flask"),
        script("celery", "celery"),
        text(package("gunicorn/__init__.py"), ""),
        text(package("gunicorn/__main__.py"), ""),
        text(package("gunicorn/glogging.py"), ""),
        text(package("gunicorn/workers/sync.py"), ""),
        text(package("gunicorn/workers/gthread.py"), ""),
        text(package("gunicorn/workers/ggevent.py"), ""),
        text(package("uvicorn/__init__.py"), ""),
        text(package("uvicorn/workers.py"), ""),
        text(package("uvicorn/lifespan/on.py"), ""),
        text(package("flask/__init__.py"), ""),
        text(package("celery/__init__.py"), ""),
        text("app/wsgi.py", "from site_a import create\ndef f():\n    import lazily"),
        text("app/site_a/__init__.py", "from . import views"),
        text("app/site_a/views.py", ""),
        text("app/site_a/celery.py", ""),
        text("app/lazily.py", ""),
        text("app/gunicorn.conf.py", "import confer"),
        text("app/confer.py", ""),
        text("other/elsewhere.py", ""),
    ];
    let wsgi = &["app/wsgi.py", "app/site_a/__init__.py", "app/site_a/views.py", "app/lazily.py"][..];
    let gunicorn = |worker| {
        [
            package("gunicorn/__init__.py"),
            package("gunicorn/glogging.py"),
            "app/gunicorn.conf.py",
            "app/confer.py",
            worker,
        ]
    };
    for (command, variables, before, after) in [
        (
            &["gunicorn", "-b", "localhost:80", "wsgi:app"][..],
            &[][..],
            &gunicorn(package("gunicorn/workers/sync.py"))[..],
            wsgi,
        ),
        (&["gunicorn", "--threads=4", "wsgi"], &[], &gunicorn(package("gunicorn/workers/gthread.py")), wsgi),
        (
            &["gunicorn", "wsgi:make()"],
            &["GUNICORN_CMD_ARGS=-k gevent"],
            &gunicorn(package("gunicorn/workers/ggevent.py")),
            wsgi,
        ),
        (
            &["gunicorn", "-k", "uvicorn.workers.Worker", "--chdir", "/other", "elsewhere:app"],
            &[],
            &[package("uvicorn/workers.py")],
            &["other/elsewhere.py"],
        ),
        (
            &["python3", "-m", "gunicorn", "wsgi:app"],
            &[],
            &[package("gunicorn/__main__.py"), package("gunicorn/workers/sync.py")],
            wsgi,
        ),
        (
            &["uvicorn", "--host", "0.0.0.0", "wsgi:app"],
            &[],
            &[package("uvicorn/__init__.py"), package("uvicorn/lifespan/on.py")],
            wsgi,
        ),
        (&["flask", "run"], &[], &[package("flask/__init__.py")], wsgi),
        (&["flask", "--app", "site_a", "run"], &[], &[], &["app/site_a/__init__.py", "app/site_a/views.py"]),
        (
            &["flask", "run"],
            &["FLASK_APP=site_a:create()"],
            &[],
            &["app/site_a/__init__.py", "app/site_a/views.py"],
        ),
        (
            &["celery", "-A", "site_a", "worker"],
            &[],
            &[package("celery/__init__.py")],
            &["app/site_a/__init__.py", "app/site_a/views.py", "app/site_a/celery.py"],
        ),
    ] {
        let found = paths_with(&files, variables, command);
        let (start, end) = found.split_at(found.len() - after.len());
        assert_eq!(end, after, "{command:?}: {found:?}");
        assert!(before.iter().all(|path| start.iter().any(|found| found == path)), "{command:?}: {found:?}");
    }
    // Nothing that serves, nothing to be served.
    assert!(!paths(&files, &["gunicorn", "--version"]).iter().any(|path| path == "app/wsgi.py"));
}

#[test]
fn ruby_finds_gems_where_they_are_installed() {
    let files = [
        elf("usr/local/bin/ruby", "", &[]),
        text("usr/local/lib/ruby/3.3.0/rubygems.rb", ""),
        text("usr/local/lib/ruby/3.3.0/bundler/setup.rb", ""),
        text("usr/local/lib/ruby/gems/3.3.0/specifications/default/json-2.7.gemspec", ""),
        text(
            "usr/local/bin/bundle",
            "#!/usr/local/bin/ruby\nload Gem.activate_bin_path('bundler', 'bundle', v)",
        ),
        text(
            "usr/local/lib/ruby/gems/3.3.0/gems/bundler-2.5/exe/bundle",
            "#!/usr/bin/env ruby\nrequire 'bundler'",
        ),
        text(
            "usr/local/bundle/bin/puma",
            "#!/usr/local/bin/ruby\nload Gem.activate_bin_path('puma', 'puma', v)",
        ),
        text("usr/local/bundle/gems/puma-6.4.2/bin/puma", "#!/usr/bin/env ruby\nrequire 'puma/cli'"),
        text("usr/local/bundle/gems/puma-6.4.2/lib/puma/cli.rb", "require 'puma/puma_http11'"),
        elf("usr/local/bundle/extensions/x86_64-linux/3.3.0/puma-6.4.2/puma/puma_http11.so", "", &[]),
        text("usr/local/bundle/specifications/puma-6.4.2.gemspec", ""),
        text("usr/local/bundle/gems/rack-2.0/lib/rack.rb", ""),
        text("usr/local/bundle/gems/rack-3.0.8/lib/rack.rb", ""),
        text("usr/local/bundle/gems/rack-3.0.8/exe/rackup", "#!/usr/bin/env ruby\nrequire 'rack'"),
        text("usr/local/bundle/gems/rack-test-1.0/lib/rack/test.rb", ""),
        text("app/Gemfile", "gem 'rack'\ngem 'rack-test'"),
        text("app/Gemfile.lock", "GEM\n  specs:\n    puma (6.4.2)\n    rack (3.0.8)\n"),
        text("app/config.ru", "require_relative 'app'"),
        text("app/app.rb", "Bundler.require"),
        text("app/config/puma.rb", ""),
    ];
    let variables = ["GEM_HOME=/usr/local/bundle", "PATH=/usr/local/bundle/bin:/usr/local/bin"];
    let gems = [
        "usr/local/bundle/gems/rack-3.0.8/lib/rack.rb",
        "usr/local/bundle/gems/rack-test-1.0/lib/rack/test.rb",
    ];
    let puma = [
        "usr/local/bundle/bin/puma",
        "usr/local/bundle/gems/puma-6.4.2/bin/puma",
        "usr/local/bundle/gems/puma-6.4.2/lib/puma/cli.rb",
        "usr/local/bundle/specifications/puma-6.4.2.gemspec",
        "usr/local/bundle/extensions/x86_64-linux/3.3.0/puma-6.4.2/puma/puma_http11.so",
        "app/config/puma.rb",
        "app/config.ru",
        "app/app.rb",
        gems[0],
        gems[1],
    ];
    let start = [
        "usr/local/bin/ruby",
        "usr/local/lib/ruby/3.3.0/rubygems.rb",
        "usr/local/lib/ruby/gems/3.3.0/specifications/default/json-2.7.gemspec",
    ];
    let found = paths_with(&files, &variables, &["puma"]);
    assert_eq!(found, [&puma[..1], &start, &puma[1..]].concat());

    let bundler = [
        "usr/local/bin/bundle",
        "usr/local/lib/ruby/gems/3.3.0/gems/bundler-2.5/exe/bundle",
        "app/Gemfile",
        "app/Gemfile.lock",
        "usr/local/lib/ruby/3.3.0/bundler/setup.rb",
    ];
    let found = paths_with(&files, &variables, &["bundle", "exec", "puma", "-p", "80"]);
    assert_eq!(found, [&bundler[..1], &start, &bundler[1..], &puma].concat());
    // No binstub, nor anything on the path.
    let found = paths_with(&files, &variables, &["bundle", "exec", "rackup"]);
    let rackup = [
        "usr/local/bundle/gems/rack-3.0.8/exe/rackup",
        gems[0],
        puma[5],
        "app/config.ru",
        "app/app.rb",
        gems[1],
    ];
    assert_eq!(found, [&bundler[..1], &start, &bundler[1..], &rackup].concat());
    let found = paths_with(
        &files,
        &["GEM_PATH=/none:/usr/local/bundle"],
        &["/usr/local/bin/ruby", "-rrack", "-e", "1"],
    );
    assert_eq!(found, [start[0], start[1], gems[0], start[2]]);
}

#[test]
fn java_finds_classes_in_directories_and_jars_by_name() {
    let class = |names: &[&str]| {
        let mut class = vec![0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 61, 0, names.len() as u8 * 2 + 1];
        for (index, name) in names.iter().enumerate() {
            class.extend([7, 0, index as u8 * 2 + 2, 1, 0, name.len() as u8]);
            class.extend_from_slice(name.as_bytes());
        }
        class
    };
    let files = [
        elf("opt/jdk/bin/java", "", &[]),
        ("app/classes/com/Main.class", class(&["com/Main", "com/Other", "java/lang/Object", "com/InJar"])),
        ("app/classes/com/Other.class", class(&["com/Main", "[I"])),
        text("app/classes/com/unused.jar", ""),
        text("app/classes/loose.jar", ""),
        text("app/libs/a.jar", ""),
        text("app/libs/b.jar", ""),
        text("app/agent.jar", ""),
        text("app/jib-classpath-file", "/app/classes:/app/libs/a.jar"),
        text("app/java.args", "-cp \"/app/libs/*\" # all\n--add-opens java.base/x=ALL\ncom.Main"),
    ];
    let classes = ["app/classes/com/Main.class", "app/classes/com/Other.class"];
    let libs = ["app/libs/a.jar", "app/libs/b.jar"];
    for (command, variables, expected) in [
        (
            &["-Xmx1g", "-cp", "/app/resources:/app/classes:/app/libs/*", "com.Main", "x"][..],
            &[][..],
            [&libs[..], &classes].concat(),
        ),
        (
            &["-cp", "@/app/jib-classpath-file", "com.Main"],
            &[],
            [&["app/jib-classpath-file", libs[0]][..], &classes].concat(),
        ),
        (&["@java.args"], &[], [&["app/java.args"][..], &libs].concat()),
        (&["com.Main"], &["CLASSPATH=classes"], classes.to_vec()),
        (&["com.Main"], &["JDK_JAVA_OPTIONS=-cp /app/classes"], classes.to_vec()),
        (
            &["-jar", "libs/b.jar"],
            &["JAVA_TOOL_OPTIONS=-javaagent:/app/agent.jar=x"],
            vec!["app/agent.jar", libs[1]],
        ),
        (&["-p", "/app/libs", "-m", "mod/com.Main"], &["CLASSPATH=/none"], libs.to_vec()),
    ] {
        let command = [&["/opt/jdk/bin/java"], command].concat();
        assert_eq!(paths_with(&files, variables, &command)[1..], expected, "{command:?} {variables:?}");
    }
}

#[test]
fn programs_of_go_read_what_their_packages_open() {
    let etc = [
        text("etc/hosts", ""),
        text("etc/nsswitch.conf", ""),
        text("etc/pki/tls/certs/ca-bundle.crt", ""),
        text("etc/ssl/cert.pem", ""),
        text("etc/mime.types", ""),
        text("etc/localtime", ""),
        text("usr/share/zoneinfo/Asia/Tokyo", ""),
        text("my.crt", ""),
    ];
    let found = |program: Vec<u8>, variables: &[&str]| {
        let files = [&[("bin/server", program)], &etc[..]].concat();
        paths_with(&files, variables, &["server"])[1..].join(" ")
    };
    let names = ["net.(*conf).hostLookupOrder", "crypto/x509.loadSystemRoots"];
    assert_eq!(
        found(forged::go(&names, 0), &[]),
        "etc/hosts etc/nsswitch.conf etc/pki/tls/certs/ca-bundle.crt"
    );
    assert_eq!(found(forged::go(&["mime.TypeByExtension", "a.mime"], 0), &[]), "etc/mime.types");
    assert_eq!(found(forged::go(&["time.initLocal"], 0), &[]), "etc/localtime");
    assert_eq!(
        found(forged::go(&["time.initLocal"], 0), &["TZ=Asia/Tokyo"]),
        "usr/share/zoneinfo/Asia/Tokyo"
    );
    assert_eq!(found(forged::go(&["time.initLocal"], 0), &["TZ="]), "");
    assert_eq!(found(forged::go(&names[1..], 0), &["SSL_CERT_FILE=/my.crt"]), "my.crt");
    // Too long to be seen as a whole: the mark is, the names of functions are not.
    let long = "etc/localtime etc/hosts etc/nsswitch.conf etc/pki/tls/certs/ca-bundle.crt";
    assert_eq!(found(forged::go(&[], 20 << 20), &[]), long);
    // Not made by Go, whatever it holds.
    assert_eq!(found(forged::elf("", &[(CALLS, names[0])], 0), &[]), "");
}

#[test]
fn node_heeds_patterns_variables_and_names_of_its_own() {
    let files = [
        elf("usr/bin/node", "", &[]),
        text("app/main.mjs", "import '#db'; import '#lib/a'; import 'dep/feature/x'; import 'shared'"),
        text("app/package.json", r##"{"imports":{"#db":"pg","#lib/*":"./src/*.js"}}"##),
        text("app/src/a.js", ""),
        text("app/node_modules/pg/index.js", ""),
        text("app/node_modules/dep/package.json", r#"{"exports":{"./feature/*":"./dist/*.js"}}"#),
        text("app/node_modules/dep/dist/x.js", ""),
        text("opt/modules/shared/index.js", ""),
        text("opt/trace.js", ""),
    ];
    let variables =
        ["NODE_PATH=/none:/opt/modules", "NODE_OPTIONS=--max-old-space-size=9 --require /opt/trace.js"];
    let expected = [
        "opt/trace.js",
        "app/main.mjs",
        "app/package.json",
        "app/node_modules/pg/index.js",
        "app/src/a.js",
        "app/node_modules/dep/package.json",
        "app/node_modules/dep/dist/x.js",
        "opt/modules/shared/index.js",
    ];
    assert_eq!(paths_with(&files, &variables, &["node", "main.mjs"])[1..], expected);
    let expected = ["opt/trace.js", "app/main.mjs"];
    assert_eq!(paths(&files, &["node", "--require=/opt/trace.js", "main.mjs"])[1..3], expected);
}

#[test]
fn php_fpm_reads_the_settings_of_its_pools() {
    let files = [
        elf("usr/local/sbin/php-fpm", "", &[]),
        text("usr/local/etc/php-fpm.conf", "; include=no\n[global]\ninclude=etc/php-fpm.d/*.conf"),
        text("usr/local/etc/php-fpm.d/www.conf", "[www]\nuser = x"),
        text("usr/local/etc/php-fpm.d/zz.conf", "include = /usr/local/etc/php-fpm.conf"),
        text("usr/local/etc/php-fpm.d/www.conf.default", ""),
        text("opt/php.conf", ""),
    ];
    let expected =
        ["usr/local/etc/php-fpm.conf", "usr/local/etc/php-fpm.d/www.conf", "usr/local/etc/php-fpm.d/zz.conf"];
    assert_eq!(paths(&files, &["/usr/local/sbin/php-fpm", "-F"])[1..], expected);
    assert_eq!(paths(&files, &["/usr/local/sbin/php-fpm", "-y", "/opt/php.conf"])[1..], ["opt/php.conf"]);
}

#[test]
fn the_c_library_opens_what_the_program_calls_for() {
    let calls = |interpreter, names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (CALLS, *name)).collect();
        elf("bin/a", interpreter, &names)
    };
    let base = [
        text("usr/lib/locale/locale-archive", "archive"),
        text("usr/lib/locale/C.utf8/LC_CTYPE", ""),
        text("usr/lib/locale/C.utf8/LC_TIME", ""),
        text("usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache", ""),
        text(
            "etc/nsswitch.conf",
            "# all\npasswd: files sss [NOTFOUND=return] # no\nhosts:\tfiles mdns4 dns\n",
        ),
        text("etc/host.conf", ""),
        text("etc/gai.conf", ""),
        elf("usr/lib/libnss_files.so.2", "", &[]),
        elf("usr/lib/libnss_dns.so.2", "", &[]),
        elf("usr/lib/libnss_sss.so.2", "", &[(NEEDED, "libsss.so")]),
        elf("usr/lib/libsss.so", "", &[]),
        elf("usr/lib/libnss_mdns4.so.2", "", &[]),
    ];
    let new = [elf("lib/libc.so.6", "", &[])];
    let old = [elf("lib/libc-2.31.so", "", &[]), text("lib/libc.so.6", "->libc-2.31.so")];
    let (archive, gconv) =
        ("usr/lib/locale/locale-archive", "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache");
    let (characters, time) = ("usr/lib/locale/C.utf8/LC_CTYPE", "usr/lib/locale/C.utf8/LC_TIME");
    let sss = ["usr/lib/libnss_sss.so.2", "usr/lib/libsss.so"];
    for (called, libc, variables, expected) in [
        (&["setlocale"][..], &new[..], &["LANG=C.UTF-8"][..], vec![archive, time, characters, gconv]),
        (&["setlocale"], &new, &["LC_CTYPE=C.UTF-8", "LANG=C"], vec![archive, characters, gconv]),
        (&["setlocale"], &new, &["LANG=POSIX"], vec![]),
        (&["setlocale"], &new, &["LANG=../../x"], vec![archive, gconv]),
        (&["setlocale"], &new, &[], vec![]),
        (&[], &new, &["LANG=C.UTF-8"], vec![]),
        (&["getpwnam"], &new, &[], [&["etc/nsswitch.conf"][..], &sss].concat()),
        (&["getpwuid"], &old, &[], [&["etc/nsswitch.conf", "usr/lib/libnss_files.so.2"][..], &sss].concat()),
        (
            &["getaddrinfo"],
            &new,
            &[],
            vec!["etc/nsswitch.conf", "usr/lib/libnss_mdns4.so.2", "etc/host.conf", "etc/gai.conf"],
        ),
        (
            &["getaddrinfo"],
            &old,
            &[],
            vec![
                "etc/nsswitch.conf",
                "usr/lib/libnss_files.so.2",
                "usr/lib/libnss_mdns4.so.2",
                "usr/lib/libnss_dns.so.2",
                "etc/host.conf",
                "etc/gai.conf",
            ],
        ),
    ] {
        let files = [&[calls(LOADER, called)], &base[..], libc].concat();
        assert_eq!(paths_with(&files, variables, &["/bin/a"])[1..], expected, "{called:?} {variables:?}");
    }
    // musl has neither locales nor services.
    let files = [&[calls(MUSL_LOADER, &["setlocale", "getpwnam", "getaddrinfo"])], &base[..]].concat();
    assert_eq!(paths_with(&files, &["LANG=C.UTF-8"], &["/bin/a"]), ["bin/a"]);
}

#[test]
fn of_large_files_it_is_said_how_much_is_read() {
    let large = |name| (name, vec![7; 30 << 20]);
    let files = [
        elf("bin/a", LOADER, &[(CALLS, "setlocale"), (NEEDED, "libicudata.so.72"), (NEEDED, "liblarge.so")]),
        large("usr/lib/locale/locale-archive"),
        ("lib/libicudata.so.72", forged::elf("", &[], 30 << 20)),
        ("lib/liblarge.so", forged::elf("", &[], 30 << 20)),
    ];
    let mut launch = launch(&["/bin/a"]);
    launch.env.push("LANG=C.UTF-8".into());
    let prediction = predicted(&[&files], &launch);
    let read: Vec<_> = prediction.files.iter().map(|file| (base(&file.path), file.read >> 20)).collect();
    assert_eq!(read, [("a", 0), ("libicudata.so.72", 12), ("liblarge.so", 30), ("locale-archive", 1)]);
    assert!(prediction.files.iter().all(|file| file.read <= file.size));
    assert_eq!(prediction.layer_sizes, [files.iter().map(|(_, content)| content.len() as u64).sum::<u64>()]);
}

/// The image of [`a_prediction_changes_with_its_version_only`]: something of every runtime.
const PINNED: &[(&str, &str)] = &[
    ("bin/sh", "program"),
    ("lib/libc.so.6", "library"),
    ("lib/libx.so", "library"),
    ("lib64/ld-linux-x86-64.so.2", "library"),
    ("etc/passwd", ""),
    ("etc/nsswitch.conf", "passwd: files"),
    (
        "entry.sh",
        "#!/bin/sh\n/usr/bin/python3 -m gunicorn main:app\nnode main.js\nruby main.rb\nphp main.php\njava -jar main.jar\nnginx\n",
    ),
    ("usr/bin/python3.11", "program"),
    ("usr/bin/python3", "->python3.11"),
    ("usr/lib/python3.11/encodings/__init__.py", ""),
    ("usr/lib/python3.11/json/__init__.py", "from . import decoder"),
    ("usr/lib/python3.11/json/decoder.py", ""),
    ("usr/lib/python3.11/site-packages/gunicorn/__init__.py", ""),
    ("usr/lib/python3.11/site-packages/gunicorn/__main__.py", ""),
    ("usr/lib/python3.11/site-packages/gunicorn/workers/sync.py", ""),
    ("app/main.py", "import json\nopen('/etc/nsswitch.conf')"),
    ("usr/bin/node", "program"),
    ("app/main.js", "require('dep'); require('./lib')"),
    ("app/lib.js", ""),
    ("app/node_modules/dep/package.json", "{\"main\":\"x.js\"}"),
    ("app/node_modules/dep/x.js", ""),
    ("usr/bin/ruby", "program"),
    ("usr/lib/ruby/3.3.0/set.rb", ""),
    ("app/main.rb", "require 'set'"),
    ("usr/bin/php", "program"),
    ("app/main.php", "<?php require 'lib.php';"),
    ("app/lib.php", ""),
    ("usr/bin/java", "program"),
    ("usr/lib/server/libjvm.so", "library"),
    ("usr/lib/modules", ""),
    ("app/main.jar", ""),
    ("usr/bin/nginx", "program"),
    ("etc/nginx/nginx.conf", "include x.conf;"),
    ("etc/nginx/x.conf", ""),
];

#[test]
fn a_prediction_changes_with_its_version_only() {
    let program = [(NEEDED, "libx.so"), (CALLS, "getpwnam")];
    let files: Vec<_> = PINNED
        .iter()
        .map(|(path, content)| match *content {
            "program" => elf(path, LOADER, &program),
            "library" => elf(path, "", &[]),
            content => text(path, content),
        })
        .collect();
    let prediction = predicted(&[&files], &launch(&["/entry.sh"]));
    let files = prediction.files.iter().map(|file| format!("{} ({})\n", file.path, file.reason));
    let found = format!("version {VERSION}\n{}", files.collect::<String>());
    assert!(
        found == include_str!("pinned.txt"),
        "another prediction than before: raise `VERSION`, so that remembered ones are made anew, and write this to pinned.txt:\n{found}"
    );
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
    fn no_bytes_make_a_note_panic(start in 0_usize..8, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (_, program) = elf("", LOADER, &[(NEEDED, "libx.so")]);
        let (prefix, name) = [
            (&b"\x7fELF\x02\x01"[..], "a"), (b"PK\x03\x04", "a.jar"), (b"#!/bin/sh\n", "a.sh"),
            (b"glibc-ld.so.cache1.1", "etc/ld.so.cache"), (b"import ", "a.py"), (&program[..200], "a"),
            (b"\xca\xfe\xba\xbe\0\0\0\x3d", "a.class"), (b"    a (1)\n", "Gemfile.lock"),
        ][start];
        let content = [prefix, &bytes].concat();
        passing::write(&Passing::new(name, content.len() as u64, &content, &PredictionLimits::default()));
    }

    #[test]
    fn a_damaged_program_is_still_no_panic(at in 0_usize..300, byte in any::<u8>()) {
        let (_, mut program) = elf("", LOADER, &[(NEEDED, "libx.so"), (RPATH, "/x")]);
        let at = at % program.len();
        program[at] = byte;
        passing::write(&Passing::new("a", program.len() as u64, &program, &PredictionLimits::default()));
    }
}
