//! Networks of the Container Network Interface, versions 0.3.0 to 1.1.0: programs that join a network namespace to one.
//!
//! An attachment leaves traces outside of the namespace: addresses that are taken, rules of a firewall. What takes them
//! away is written down before the first plugin runs, in a file that is locked as long as the sandbox lives; so whoever
//! comes after a sandbox that was killed can clean up.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nix::sched::CloneFlags;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::socket;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::Error;
use crate::Result;

/// The longest configuration that is read.
const MAX_FILE: u64 = 1 << 20;
/// What the container calls its interface.
const INTERFACE: &str = "eth0";
/// The version of a configuration that names none (specification, "Network configuration format").
const OLDEST: &str = "0.2.0";
/// The first version in which a plugin is told on removal what it added.
const TOLD_ON_REMOVAL: (u32, u32) = (0, 4);

/// A network to attach a container to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The version of the specification its plugins are called by.
    version: String,
    /// The configuration of each plugin, in the order of their calling.
    plugins: Vec<Map<String, Value>>,
    /// Where the plugins are.
    directories: Vec<PathBuf>,
}

impl Network {
    /// Reads the first configuration of a directory, by name; `plugins` says where the programs are.
    pub fn load(configurations: &Path, plugins: &Path) -> Result<Self> {
        let problem = |problem: String| Error::Sandbox { problem };
        let shown = configurations.display();
        let unreadable = |error: io::Error| problem(format!("networks of {shown}: {error}"));
        let mut files: Vec<_> = fs::read_dir(configurations)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(unreadable)?;
        let known = ["conf", "conflist", "json"];
        files.retain(|file: &PathBuf| {
            file.extension().is_some_and(|end| known.iter().any(|known| end == *known))
        });
        let first = files
            .iter()
            .min()
            .ok_or_else(|| problem(format!("{shown} holds no .conf, .conflist or .json")))?;
        let text = read(first).map_err(|error| problem(format!("{}: {error}", first.display())))?;
        Self::parse(&text, plugins).map_err(|error| problem(format!("{}: {error}", first.display())))
    }

    fn parse(text: &[u8], directory: &Path) -> std::result::Result<Self, String> {
        let document: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        let plugins = match document.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => {
                plugins.iter().map(|plugin| plugin.as_object().cloned()).collect::<Option<Vec<_>>>()
            }
            Some(_) => None,
            None => Some(vec![document.clone()]),
        };
        let plugins = plugins.ok_or("plugins is not a list of objects")?;
        for plugin in &plugins {
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
                return Err(format!("{kind:?} is not the type of a plugin"));
            }
        }
        Ok(Self {
            name: text("name").ok_or("the network has no name")?,
            version: text("cniVersion").unwrap_or_else(|| OLDEST.into()),
            plugins,
            directories: vec![directory.to_owned()],
        })
    }

    /// Calls a plugin; returns what it wrote.
    fn call(
        &self,
        plugin: &Map<String, Value>,
        command: &str,
        id: &str,
        namespace: &str,
        previous: Option<&Value>,
    ) -> io::Result<Option<Value>> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let programs = self.directories.iter().map(|directory| directory.join(kind));
        let program = programs.into_iter().find(|program| program.is_file());
        let program = program.ok_or_else(|| {
            io::Error::other(format!(
                "the network {}: {:?} has no plugin {kind}",
                self.name, self.directories
            ))
        })?;
        let mut configuration = plugin.clone();
        configuration.insert("name".into(), self.name.as_str().into());
        configuration.insert("cniVersion".into(), self.version.as_str().into());
        if let Some(previous) = previous {
            configuration.insert("prevResult".into(), previous.clone());
        }
        let path = std::env::join_paths(&self.directories).map_err(io::Error::other)?;
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", namespace)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // A plugin that does not listen says why in its answer.
            let _ = input.write_all(&serde_json::to_vec(&configuration)?);
        }
        let output = child.wait_with_output()?;
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() {
            return Ok(answer);
        }
        let word =
            |name: &str| answer.as_ref().and_then(|answer| answer.get(name)?.as_str()).unwrap_or_default();
        let said = [word("msg"), word("details")].join(" ");
        Err(io::Error::other(format!(
            "the network {}: {} {command} ended with {}: {}",
            self.name,
            program.display(),
            output.status,
            if said == " " { String::from_utf8_lossy(&output.stdout).into_owned() } else { said },
        )))
    }

    fn tells_on_removal(&self) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= TOLD_ON_REMOVAL
    }
}

/// What is written down of an attachment.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    network: Network,
    id: String,
    result: Option<Value>,
}

impl Note {
    /// Takes the attachment away; every plugin is asked, whatever the others say.
    fn detach(&self, namespace: &str) -> io::Result<()> {
        let told = self.result.as_ref().filter(|_| self.network.tells_on_removal());
        let mut outcome = Ok(());
        for plugin in self.network.plugins.iter().rev() {
            outcome = outcome.and(self.network.call(plugin, "DEL", &self.id, namespace, told).map(|_| ()));
        }
        outcome
    }
}

/// A network namespace that is attached to a network.
#[derive(Debug)]
pub(super) struct Attachment {
    note: Note,
    file: PathBuf,
    /// Locked while this lives.
    _lock: File,
    namespace: File,
}

impl Attachment {
    /// Makes a network namespace and attaches it; `notes` is the directory to write that down in.
    pub(super) fn attach(network: &Network, notes: &Path) -> io::Result<Self> {
        let id = format!("restow-{}", fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim());
        let file = notes.join(&id).with_extension("json");
        let lock = File::create_new(&file)?;
        lock.lock()?;
        let note = Note { network: network.clone(), id, result: None };
        let mut attachment = Self { note, file, _lock: lock, namespace: namespace()? };
        attachment.write()?;
        let path = attachment.path();
        for plugin in &network.plugins {
            let previous = attachment.note.result.as_ref();
            match network.call(plugin, "ADD", &attachment.note.id, &path, previous) {
                Ok(result) => attachment.note.result = result.or(attachment.note.result),
                Err(error) => {
                    let _ = attachment.detach();
                    return Err(error);
                }
            }
        }
        attachment.write()?;
        Ok(attachment)
    }

    fn write(&self) -> io::Result<()> {
        fs::write(&self.file, serde_json::to_vec(&self.note)?)
    }

    /// Returns where the namespace is, as long as this value lives.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// Takes the attachment away.
    pub(super) fn detach(self) -> io::Result<()> {
        self.note.detach(&self.path())?;
        fs::remove_file(&self.file)
    }
}

/// Takes away the attachments of sandboxes that were killed, as the notes in a directory say.
///
/// What cannot be taken away stays written down.
pub fn clean(notes: &Path) -> io::Result<()> {
    for entry in fs::read_dir(notes)? {
        let path = entry?.path();
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        // Without its namespace, there is nothing in there to take away (specification, "DEL").
        let done = match serde_json::from_slice::<Note>(&read(&path)?) {
            Ok(note) => note.detach("").is_ok(),
            // Killed before the first plugin was called.
            Err(_) => true,
        };
        if done {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a network namespace. It lives as long as what is returned is open.
fn namespace() -> io::Result<File> {
    // Only the thread changes its namespace; the plugins have to start in the host's.
    let made = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
        raise_loopback()?;
        File::open("/proc/thread-self/ns/net")
    });
    made.join().map_err(|_| io::Error::other("making a network namespace"))?
}

/// Sets the loopback interface of this thread's network to work. A runtime does so only in a network that it makes itself.
fn raise_loopback() -> io::Result<()> {
    /// Head and body of a message, and head and error of its answer (netlink(7), rtnetlink(7)).
    const LENGTH: usize = 32;
    /// The message changes an interface, the first, and wants an answer.
    const NEW_LINK: u16 = 16;
    const REQUEST: u16 = 1;
    const ACKNOWLEDGE: u16 = 4;
    const FIRST: u32 = 1;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(LENGTH);
    message.extend((LENGTH as u32).to_ne_bytes());
    message.extend([NEW_LINK, REQUEST | ACKNOWLEDGE].map(u16::to_ne_bytes).concat());
    // Number and sender of the message; family and type of the interface.
    message.extend([0; 8 + 4]);
    message.extend([FIRST, UP, UP].map(u32::to_ne_bytes).concat());
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    let mut kernel = File::from(socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?);
    kernel.write_all(&message)?;
    let mut answer = [0; 4 * LENGTH];
    let length = io::Read::read(&mut kernel, &mut answer)?;
    let code = answer[..length].get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A plugin that writes down how it is called.
    const PLUGIN: &str = "#!/bin/sh\n\
        { echo \"$CNI_COMMAND $CNI_CONTAINERID [$CNI_NETNS] $CNI_IFNAME $CNI_PATH\"; cat; echo; } >> \"$0.log\"\n\
        if [ -e \"$0.fails\" ]; then echo '{\"code\": 7, \"msg\": \"no\", \"details\": \"room\"}'; exit 1; fi\n\
        [ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\": \"1.0.0\", \"by\": \"'${0##*/}'\"}'\n";

    fn plugins(directory: &Path) -> PathBuf {
        let plugins = directory.join("bin");
        fs::create_dir(&plugins).unwrap();
        for name in ["first", "second"] {
            fs::write(plugins.join(name), PLUGIN).unwrap();
            fs::set_permissions(plugins.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        plugins
    }

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "first", "key": 1}, {"type": "second"}]}"#;

    #[test]
    fn the_first_configuration_counts_and_a_plugin_is_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let load = || Network::load(directory.path(), Path::new("/bin"));
        assert!(load().unwrap_err().to_string().contains("holds no"));
        fs::write(directory.path().join("20-b.conf"), r#"{"name": "one", "type": "bridge"}"#).unwrap();
        let one = load().unwrap();
        assert_eq!((one.name.as_str(), one.version.as_str(), one.plugins.len()), ("one", OLDEST, 1));
        fs::write(directory.path().join("10-a.conflist"), LIST).unwrap();
        fs::write(directory.path().join("00-notes.txt"), "").unwrap();
        assert_eq!((load().unwrap().name.as_str(), load().unwrap().plugins.len()), ("net", 2));
        for wrong in [
            "",
            "[]",
            r#"{"type": "bridge"}"#,
            r#"{"name": "a", "type": "../sh"}"#,
            r#"{"name": "a", "plugins": []}"#,
            r#"{"name": "a", "plugins": [1]}"#,
        ] {
            assert!(Network::parse(wrong.as_bytes(), Path::new("/bin")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn plugins_are_called_in_order_and_taken_away_in_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let plugins = plugins(directory.path());
        let network = Network::parse(LIST.as_bytes(), &plugins).unwrap();
        let log =
            |name: &str| fs::read_to_string(plugins.join(name).with_extension("log")).unwrap_or_default();
        let added = network.call(&network.plugins[0], "ADD", "id", "/ns", None).unwrap().unwrap();
        let second = network.call(&network.plugins[1], "ADD", "id", "/ns", Some(&added)).unwrap();
        assert_eq!(log("first").lines().next().unwrap(), format!("ADD id [/ns] eth0 {}", plugins.display()));
        let told: Value = serde_json::from_str(log("second").lines().nth(1).unwrap()).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "type": "second", "name": "net", "cniVersion": "1.0.0",
                "prevResult": { "cniVersion": "1.0.0", "by": "first" },
            })
        );

        // A sandbox that was killed left its note, one that lives has locked its own.
        let notes = directory.path().join("notes");
        fs::create_dir(&notes).unwrap();
        let note = Note { network, id: "id".into(), result: second };
        for name in ["dead.json", "alive.json"] {
            fs::write(notes.join(name), serde_json::to_vec(&note).unwrap()).unwrap();
        }
        fs::write(notes.join("early.json"), "").unwrap();
        let alive = File::open(notes.join("alive.json")).unwrap();
        alive.lock().unwrap();
        fs::write(plugins.join("first.fails"), "").unwrap();
        clean(&notes).unwrap();
        let left = || {
            let mut names: Vec<_> = fs::read_dir(&notes)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(left(), ["alive.json", "dead.json"]);
        fs::remove_file(plugins.join("first.fails")).unwrap();
        clean(&notes).unwrap();
        assert_eq!(left(), ["alive.json"]);
        let last = log("second");
        let mut last = last.lines().rev().filter(|line| !line.is_empty());
        assert!(last.next().unwrap().contains(r#""prevResult":{"cniVersion":"1.0.0","by":"second"}"#));
        assert!(last.next().unwrap().starts_with("DEL id [] eth0"));
    }

    #[test]
    fn what_a_plugin_says_is_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let plugins = plugins(directory.path());
        let network = Network::parse(LIST.as_bytes(), &plugins).unwrap();
        fs::write(plugins.join("first.fails"), "").unwrap();
        let error = network.call(&network.plugins[0], "ADD", "id", "/ns", None).unwrap_err().to_string();
        assert!(error.contains("the network net") && error.ends_with("no room"), "{error}");
        fs::remove_file(plugins.join("second")).unwrap();
        let error = network.call(&network.plugins[1], "ADD", "id", "/ns", None).unwrap_err().to_string();
        assert!(error.contains("has no plugin second"), "{error}");
    }
}
