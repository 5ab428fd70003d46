//! The runtime's description of a container (OCI runtime specification, config.json).

use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use super::seccomp;
use crate::Launch;

/// What Docker grants to containers, but for the making of devices: no control group says which of them may be opened.
const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// How readily the kernel ends a program where memory runs out; 1000 is the most.
const FIRST_TO_GO: i32 = 1000;

/// Something of the host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where the container sees it.
    pub destination: String,
    /// What kind of file system; `bind` for a part of the host's.
    pub kind: String,
    /// How it is mounted.
    pub options: Vec<String>,
}

/// What besides the command describes a container.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// User, group and further groups.
    pub user: (u32, u32, Vec<u32>),
    /// What of the host the container sees.
    pub mounts: Vec<Mount>,
    /// Whether it uses the host's network; otherwise it has one of its own, which leads nowhere unless a
    /// [`Network`](super::Network) is attached.
    pub host_network: bool,
    /// Whether its standard streams are a terminal.
    pub terminal: bool,
}

/// Describes a container that runs the command on an overlay.
pub fn bundle(launch: &Launch, settings: &Settings) -> Value {
    let directory = if launch.directory.starts_with('/') {
        launch.directory.clone()
    } else {
        format!("/{}", launch.directory)
    };
    let mut env = launch.env.clone();
    if !env.iter().any(|line| line.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/run", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=755", "size=65536k"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    mounts.extend(settings.mounts.iter().map(|mount| {
        json!({
            "destination": mount.destination, "type": mount.kind, "source": mount.source, "options": mount.options,
        })
    }));
    // In a namespace of its own, the control group that it runs in has no path of the host's.
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if !settings.host_network {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let (user, group, groups) = &settings.user;
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": settings.terminal,
            "user": { "uid": user, "gid": group, "additionalGids": groups },
            "args": launch.args,
            "env": env,
            "cwd": directory,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": true,
            // Where memory runs out, the container goes first.
            "oomScoreAdj": FIRST_TO_GO,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "restow",
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "seccomp": seccomp::profile(std::env::consts::ARCH),
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
                "/proc/scsi", "/sys/firmware", "/sys/fs/cgroup",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &Value, key: &str) -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_container_is_described_by_its_command_and_what_it_may_have() {
        let launch = Launch {
            args: vec!["server".into(), "-v".into()],
            env: vec!["A=1".into()],
            directory: "srv".into(),
        };
        let mount = Mount {
            source: "/host".into(),
            destination: "/in".into(),
            kind: "bind".into(),
            options: vec!["rbind".into(), "ro".into()],
        };
        let settings =
            Settings { user: (3, 4, vec![5]), mounts: vec![mount], host_network: false, terminal: true };
        let alone = bundle(&launch, &settings);
        let process = &alone["process"];
        assert_eq!(
            (&process["args"], &process["cwd"], &process["terminal"]),
            (&json!(["server", "-v"]), &json!("/srv"), &json!(true))
        );
        assert_eq!(process["user"], json!({ "uid": 3, "gid": 4, "additionalGids": [5] }));
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(process["env"], json!(["A=1", path]));
        assert_eq!(process["noNewPrivileges"], true);
        for set in ["bounding", "effective", "permitted"] {
            let held = process["capabilities"][set].as_array().unwrap();
            assert!(
                !held.contains(&json!("CAP_MKNOD")) && !held.contains(&json!("CAP_SYS_ADMIN")),
                "{held:?}"
            );
        }
        let last = alone["mounts"].as_array().unwrap().last().unwrap();
        let expected =
            json!({ "destination": "/in", "source": "/host", "type": "bind", "options": ["rbind", "ro"] });
        assert_eq!(*last, expected);
        // But for /dev, whose files the runtime makes, no file system of the container has devices.
        for mount in alone["mounts"].as_array().unwrap().iter().filter(|mount| mount["type"] != "bind") {
            let destination = mount["destination"].as_str().unwrap();
            let devices = !mount["options"].as_array().unwrap().contains(&json!("nodev"));
            assert_eq!(devices, ["/dev", "/dev/pts"].contains(&destination), "{destination}");
        }
        let namespaces = names(&alone["linux"]["namespaces"], "type");
        assert_eq!(namespaces, ["pid", "ipc", "uts", "mount", "cgroup", "network"]);
        let shared = bundle(&launch, &Settings { host_network: true, ..settings });
        assert_eq!(names(&shared["linux"]["namespaces"], "type"), ["pid", "ipc", "uts", "mount", "cgroup"]);
    }

    #[test]
    fn the_search_path_of_the_image_stays() {
        let launch = Launch { env: vec!["PATH=/x".into()], directory: "/".into(), ..Launch::default() };
        assert_eq!(bundle(&launch, &Settings::default())["process"]["env"], json!(["PATH=/x"]));
    }
}
