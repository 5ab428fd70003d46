//! What the predictors read: programs, the loader's files, scripts, modules, configurations and archives of an image.

use std::collections::BTreeMap;

use restow_analyze::Launch;
use restow_analyze::Prediction;
use restow_analyze::Reading;
use restow_analyze::Tree;
use restow_content::MemoryStore;
use restow_content::write;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::TarBuilder;
use restow_testkit::elf;

/// Where the bytes are, and the command that leads to them.
const CASES: &[(&str, &[&str])] = &[
    ("bin/program", &["program"]),
    ("lib/libx.so", &["real"]),
    ("etc/ld.so.cache", &["real"]),
    ("etc/ld.so.preload", &["real"]),
    ("etc/nsswitch.conf", &["real"]),
    ("etc/ld-musl-x86_64.path", &["musl"]),
    ("app/run.sh", &["sh", "/app/run.sh", "real"]),
    ("app/script", &["/app/script", "real"]),
    ("app/main.py", &["python3", "main.py"]),
    ("app/main.py", &["gunicorn", "-k", "gthread", "main:app"]),
    ("usr/lib/python3.11/site-packages/x.pth", &["python3", "main.py"]),
    ("app/pyvenv.cfg", &["/app/bin/python3", "main.py"]),
    ("app/main.js", &["node", "/app/main.js"]),
    ("app/package.json", &["node", "main.js"]),
    ("app/package.json", &["npm", "start"]),
    ("app/node_modules/dep/package.json", &["node", "main.js"]),
    ("app/main.rb", &["ruby", "main.rb"]),
    ("app/Gemfile", &["bundle", "exec", "rackup"]),
    ("app/Gemfile.lock", &["bundle", "exec", "rackup"]),
    ("app/config.ru", &["rackup"]),
    ("app/index.php", &["php", "index.php"]),
    ("usr/etc/php/php.ini", &["php", "index.php"]),
    ("usr/etc/php-fpm.conf", &["php-fpm"]),
    ("app/app.jar", &["java", "-jar", "app.jar"]),
    ("app/classes/com/Main.class", &["java", "-cp", "classes", "com.Main"]),
    ("app/java.args", &["java", "@java.args"]),
    ("etc/nginx/nginx.conf", &["nginx"]),
];

/// A file of any kind in an image that leads to it. The first byte says of which kind the rest is.
pub fn predict(bytes: &[u8]) {
    let Some((choice, content)) = bytes.split_first() else { return };
    let (path, command) = CASES[usize::from(*choice) % CASES.len()];
    let (tree, prediction) = prediction(path, command, content);
    for file in &prediction.files {
        assert!(tree.resolve(&file.path).is_some(), "{} is not in the image", file.path);
    }
}

/// Predicts what the command reads of an image with this file.
fn prediction(path: &str, command: &[&str], content: &[u8]) -> (Tree, Prediction) {
    let program = |loader| {
        let calls = ["setlocale", "getpwnam", "getaddrinfo"].map(|name| (elf::CALLS, name));
        elf::elf(loader, &[&[(elf::NEEDED, "libx.so")], &calls[..]].concat(), 0)
    };
    let library = elf::elf("", &[], 0);
    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("bin/real", program(elf::LOADER)),
        ("bin/musl", program(elf::MUSL_LOADER)),
        ("lib/ld-musl-x86_64.so.1", library.clone()),
        ("lib/libc.so.6", library.clone()),
        ("lib/libx.so", library),
        ("usr/lib/python3.11/encodings/__init__.py", Vec::new()),
        ("usr/lib/python3.11/site-packages/gunicorn/workers/gthread.py", Vec::new()),
        ("usr/bin/gunicorn", b"#!/usr/bin/python3\nimport gunicorn".to_vec()),
        ("usr/bin/bundle", b"#!/usr/bin/ruby\nrequire 'bundler'".to_vec()),
        ("usr/bin/rackup", b"#!/usr/bin/ruby\nrequire 'rack'".to_vec()),
        ("usr/lib/ruby/gems/3.3.0/gems/rack-3.0.8/lib/rack.rb", Vec::new()),
        ("app/bin/python3", b"->/usr/bin/python3".to_vec()),
        ("app/main.py", b"import x".to_vec()),
        ("app/main.js", b"require('dep/sub'); require('#own')".to_vec()),
        ("app/node_modules/dep/sub.js", Vec::new()),
        ("app/index.php", b"<?php".to_vec()),
    ]);
    for runtime in ["bin/sh", "usr/bin/python3", "usr/bin/node", "usr/bin/npm", "usr/bin/ruby"] {
        files.insert(runtime, program(elf::LOADER));
    }
    for runtime in ["usr/bin/php", "usr/bin/php-fpm", "usr/bin/java", "usr/bin/nginx"] {
        files.insert(runtime, program(elf::LOADER));
    }
    files.insert(path, content.to_vec());
    let tar = files.into_iter().fold(TarBuilder::new(), |tar, (path, content)| {
        match content.strip_prefix(b"->").and_then(|target| std::str::from_utf8(target).ok()) {
            Some(target) if path == "app/bin/python3" => tar.symlink(path, target),
            _ => tar.file(path, content),
        }
    });
    let store = MemoryStore::new();
    let layer = write(&store, MediaType::OCI_LAYER, &tar.finish()).expect("a memory takes everything");
    let reading = Reading { provider: &store, limits: &Limits::default(), threads: 1, stop: &|| false };
    let args = command.iter().map(|word| (*word).to_owned()).collect();
    let env = vec!["PATH=/usr/bin:/bin".into(), "LANG=C.UTF-8".into()];
    let launch = Launch { args, env, directory: "/app".into() };
    let tree = reading.tree_with_notes(&[layer]).expect("a sound layer is read");
    let prediction = restow_analyze::predict(&tree, &launch, &Default::default());
    (tree, prediction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_leads_to_its_file() {
        for (path, command) in CASES {
            let content = match *path {
                "bin/program" | "lib/libx.so" => elf::elf("", &[], 0),
                "app/script" => b"#!/bin/sh".to_vec(),
                _ => Vec::new(),
            };
            let (_, prediction) = prediction(path, command, &content);
            assert!(prediction.files.iter().any(|file| file.path == *path), "{path} by {command:?}");
        }
    }
}
