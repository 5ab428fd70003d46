//! What a recording reads of the image's users and of the host's descriptions of networks and devices.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use restow_analyze::sandbox::Network;
use restow_analyze::sandbox::add_devices;
use restow_analyze::sandbox::user;
use serde_json::json;
use tempfile::TempDir;

/// Where the bytes lie while they are read. It is left behind when the fuzzer is killed.
static ROOT: LazyLock<TempDir> = LazyLock::new(|| {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    for directory in ["etc", "networks", "devices"] {
        fs::create_dir(root.path().join(directory)).expect("a directory can be made in it");
    }
    root
});

/// `passwd` and `group` files, networks (CNI), devices (CDI). The first byte says which.
pub fn sandbox(bytes: &[u8]) {
    let Some((choice, content)) = bytes.split_first() else { return };
    let root = ROOT.path();
    let put = |path: &str| {
        let path: PathBuf = root.join(path);
        fs::write(&path, content).expect("a file can be written");
        path
    };
    match choice % 4 {
        0 => {
            put("etc/passwd");
            put("etc/group");
            for name in ["root", "0", "app:app", "1000:staff", ":", ""] {
                let _ = user(root, name);
            }
        }
        1 => {
            put("networks/10-net.conflist");
            let _ = Network::load(&root.join("networks"), root);
        }
        kind => {
            let path = put(if kind == 2 { "devices/a.json" } else { "devices/a.yaml" });
            let mut bundle = json!({ "process": { "env": [] }, "linux": {}, "mounts": [] });
            let _ = add_devices(&mut bundle, &[root.join("devices")], &["vendor.com/gpu=all".into()]);
            fs::remove_file(path).expect("the file just written can be removed");
        }
    }
}
