//! Devices of the host, as files of the Container Device Interface describe them: what such a file says of a device is
//! added to the description of the container.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::Error;
use crate::Result;

/// The longest description that is read.
const MAX_FILE: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u64>,
    minor: Option<u64>,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: PathBuf,
    container_path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

/// Adds devices, named as `vendor/class=name`, to a container's description.
///
/// They are described by the files in `directories`; the later directory counts, where two describe a device. Returns what
/// is wrong with files that were not needed.
pub fn add_devices(bundle: &mut Value, directories: &[PathBuf], names: &[String]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut known: BTreeMap<String, (usize, Edits)> = BTreeMap::new();
    let mut of_kinds = Vec::new();
    for path in files(directories) {
        let specification = match load(&path) {
            Ok(specification) => specification,
            // It may be another vendor's.
            Err(problem) => {
                problems.push(format!("{}: {problem}", path.display()));
                continue;
            }
        };
        for device in specification.devices {
            let name = format!("{}={}", specification.kind, device.name);
            known.insert(name, (of_kinds.len(), device.container_edits));
        }
        of_kinds.push(Some(specification.container_edits));
    }
    for name in names {
        let Some((kind, edits)) = known.get(name) else {
            let searched: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
            let nothing = format!("no device {name} is described in {}", searched.join(" or "));
            let problem = [&[nothing], &*problems].concat().join("; ");
            return Err(Error::Sandbox { problem });
        };
        // What all devices of a file need is added once.
        if let Some(edits) = of_kinds[*kind].take() {
            edits.apply(bundle)?;
        }
        edits.apply(bundle)?;
    }
    Ok(problems)
}

fn files(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in directories {
        let entries = fs::read_dir(directory).into_iter().flatten();
        let mut here: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        here.retain(|path| {
            path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
        });
        here.sort();
        files.extend(here);
    }
    files
}

fn load(path: &Path) -> std::result::Result<Specification, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| error.to_string())?;
    parse(&text, path.extension().is_some_and(|end| end == "json"))
}

fn parse(text: &str, is_json: bool) -> std::result::Result<Specification, String> {
    if is_json {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }
}

impl Edits {
    fn apply(&self, bundle: &mut Value) -> Result<()> {
        let env: Vec<Value> = self.env.iter().map(|line| json!(line)).collect();
        extend(bundle, &["process", "env"], env);
        let groups = self.additional_gids.iter().map(|group| json!(group)).collect();
        extend(bundle, &["process", "user", "additionalGids"], groups);
        let nodes = self.device_nodes.iter().map(DeviceNode::describe).collect::<Result<_>>()?;
        extend(bundle, &["linux", "devices"], nodes);
        let mounts = self.mounts.iter().map(|mount| {
            let kind = mount.kind.as_deref().unwrap_or("bind");
            json!({
                "destination": mount.container_path, "source": mount.host_path, "type": kind, "options": mount.options,
            })
        });
        extend(bundle, &["mounts"], mounts.collect());
        for hook in &self.hooks {
            let mut described = json!({ "path": hook.path, "args": hook.args, "env": hook.env });
            if let Some(timeout) = hook.timeout {
                described["timeout"] = timeout.into();
            }
            extend(bundle, &["hooks", &hook.hook_name], vec![described]);
        }
        Ok(())
    }
}

impl DeviceNode {
    fn describe(&self) -> Result<Value> {
        use std::os::unix::fs::FileTypeExt as _;
        use std::os::unix::fs::MetadataExt as _;
        let host = self.host_path.clone().unwrap_or_else(|| PathBuf::from(&self.path));
        let found = || {
            let problem =
                |error| Error::Sandbox { problem: format!("the device {}: {error}", host.display()) };
            fs::metadata(&host).map_err(problem)
        };
        let (kind, major, minor) = match (&self.kind, self.major, self.minor) {
            (Some(kind), Some(major), Some(minor)) => (kind.clone(), major, minor),
            _ => {
                let metadata = found()?;
                let kind = if metadata.file_type().is_block_device() { "b" } else { "c" };
                let device = metadata.rdev();
                (kind.into(), rustix::fs::major(device).into(), rustix::fs::minor(device).into())
            }
        };
        let mut described = json!({ "path": self.path, "type": kind, "major": major, "minor": minor });
        for (name, value) in [("fileMode", self.file_mode), ("uid", self.uid), ("gid", self.gid)] {
            if let Some(value) = value {
                described[name] = value.into();
            }
        }
        Ok(described)
    }
}

/// Appends to a list somewhere in a document, which is made if it is not there.
fn extend(document: &mut Value, path: &[&str], values: Vec<Value>) {
    if values.is_empty() {
        return;
    }
    let place = path.iter().fold(document, |place, name| &mut place[*name]);
    match place {
        Value::Array(list) => list.extend(values),
        other => *other = Value::Array(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/null
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/zero
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-ctk
    args: [nvidia-ctk, hook, update-ldcache, --folder, /usr/lib]
  mounts:
  - hostPath: /usr/lib/libcuda.so.1
    containerPath: /usr/lib/libcuda.so.1
    options: [ro, nosuid, nodev, bind]
"#;

    #[test]
    fn what_a_file_says_of_a_device_is_added_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("nvidia.yaml"), YAML).unwrap();
        let directories = [directory.path().join("none"), directory.path().to_owned()];
        let mut bundle = json!({ "process": { "env": ["A=1"], "user": {} }, "mounts": [], "linux": {} });
        let names = ["nvidia.com/gpu=0".to_owned(), "nvidia.com/gpu=all".to_owned()];
        fs::write(directory.path().join("other.json"), "{").unwrap();
        let problems = add_devices(&mut bundle, &directories, &names).unwrap();
        assert!(problems.len() == 1 && problems[0].contains("other.json: EOF"), "{problems:?}");
        let expected = json!({
            "process": { "env": ["A=1", "NVIDIA_VISIBLE_DEVICES=void"], "user": {} },
            "mounts": [{
                "destination": "/usr/lib/libcuda.so.1", "source": "/usr/lib/libcuda.so.1", "type": "bind",
                "options": ["ro", "nosuid", "nodev", "bind"],
            }],
            "linux": { "devices": [
                { "path": "/dev/nvidia0", "type": "c", "major": 1, "minor": 3 },
                { "path": "/dev/zero", "type": "c", "major": 1, "minor": 5 },
            ] },
            "hooks": { "createContainer": [{
                "path": "/usr/bin/nvidia-ctk", "args": ["nvidia-ctk", "hook", "update-ldcache", "--folder", "/usr/lib"],
                "env": [],
            }] },
        });
        assert_eq!(bundle, expected);
        let error = add_devices(&mut bundle, &directories, &["nvidia.com/gpu=7".into()]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no device nvidia.com/gpu=7 is described in"), "{error}");
        assert!(error.contains("other.json"), "{error}");
    }

    #[test]
    fn a_description_that_is_none_is_an_error() {
        for (text, is_json) in
            [("", true), ("[]", true), ("{\"kind\": 1}", true), ("kind: [", false), ("a: b", false)]
        {
            assert!(parse(text, is_json).is_err(), "{text}");
        }
        assert!(parse(r#"{"kind": "a/b", "devices": [{"name": "c"}]}"#, true).is_ok());
    }
}
