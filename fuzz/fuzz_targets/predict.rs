//! What the predictors read: programs, the loader's cache, scripts, modules, configurations and archives of an image.
//!
//! The first byte chooses what the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use restow_analyze::Launch;
use restow_analyze::Reading;
use restow_analyze::predict;
use restow_content::MemoryStore;
use restow_content::write;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::TarBuilder;

/// Where the bytes are, and the command that leads to them.
const CASES: [(&str, &[&str]); 11] = [
    ("bin/program", &["/bin/program"]),
    ("etc/ld.so.cache", &["/bin/real"]),
    ("app/run.sh", &["/bin/sh", "/app/run.sh"]),
    ("app/main.py", &["/usr/bin/python3", "/app/main.py"]),
    ("app/main.js", &["/usr/bin/node", "/app/main.js"]),
    ("app/package.json", &["/usr/bin/node", "."]),
    ("app/main.rb", &["/usr/bin/ruby", "main.rb"]),
    ("app/index.php", &["/usr/bin/php", "index.php"]),
    ("app/app.jar", &["/usr/bin/java", "-jar", "app.jar"]),
    ("etc/nginx/nginx.conf", &["/usr/sbin/nginx"]),
    ("etc/ld.so.conf", &["/bin/real"]),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, content)) = bytes.split_first() else { return };
    let (path, command) = CASES[usize::from(*choice) % CASES.len()];
    let mut tar = TarBuilder::new().file(path, content);
    for runtime in ["bin/sh", "bin/real", "usr/bin/python3", "usr/bin/node", "usr/bin/ruby", "usr/bin/php", "usr/bin/java"] {
        tar = tar.file(runtime, b"\x7fELF\x02\x01\x01");
    }
    let store = MemoryStore::new();
    let layer = write(&store, MediaType::OCI_LAYER, &tar.finish()).expect("a memory takes everything");
    let reading = Reading { provider: &store, limits: &Limits::default(), threads: 1, stop: &|| false };
    let args = command.iter().map(|word| (*word).to_owned()).collect();
    let launch = Launch { args, env: vec!["PATH=/usr/bin:/bin".into()], directory: "/app".into() };
    let tree = reading.tree_with_notes(&[layer]).expect("a sound layer is read");
    let prediction = predict(&tree, &launch);
    assert!(prediction.files.iter().all(|file| !file.path.split('/').any(|part| part == "..")));
});
