//! The runtime's description of a container (OCI runtime specification, config.json).

use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::Launch;

/// What Docker grants to containers.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

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
        mount("/run", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
    ];
    if !settings.host_network {
        mounts.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]));
    }
    mounts.extend(settings.mounts.iter().map(|mount| {
        json!({
            "destination": mount.destination, "type": mount.kind, "source": mount.source, "options": mount.options,
        })
    }));
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
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
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "restow",
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
                "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
