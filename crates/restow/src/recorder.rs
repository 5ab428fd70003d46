//! Running the workloads of an image to see what they read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use restow_analyze::Access;
use restow_analyze::Kind;
use restow_analyze::Launch;
use restow_analyze::Reading;
use restow_analyze::Share;
use restow_analyze::Tree;
use restow_analyze::sandbox;
use restow_analyze::sandbox::Mount;
use restow_analyze::sandbox::Sandbox;
use restow_analyze::sandbox::Settings;
use restow_analyze::sandbox::Trace;
use restow_content::Provider;
use restow_convert::Cancel;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::Manifest;

use crate::Error;
use crate::Result;
use crate::Warning;
use crate::WarningKind;
use crate::roots::Home;
use crate::workload::Container;
use crate::workload::Network;
use crate::workload::Workload;

/// Where devices are described (Container Device Interface, "CDI spec files").
const DEVICES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What a recording needs.
pub struct Recorder<'a> {
    /// How the containers are run.
    pub container: &'a Container,
    /// The command that starts this program, or another one, as a part of the sandbox: the part's name comes behind it.
    pub helper: &'a [OsString],
    pub provider: &'a dyn Provider,
    pub limits: &'a Limits,
    pub threads: usize,
    pub cancel: &'a Cancel,
    /// Below which directory unpacked images are kept between runs, if they are.
    pub keep: Option<PathBuf>,
}

/// What the workloads of an image read.
pub struct Recording {
    pub accesses: Vec<Access>,
    /// How each workload ended.
    pub exits: Vec<Exit>,
    /// What went otherwise than asked.
    pub warnings: Vec<Warning>,
    /// The image's names, to tell sizes by.
    pub tree: Tree,
}

/// How a workload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// What the workload is called.
    pub workload: String,
    /// The exit status of its program, if it ended before the watching.
    pub code: Option<i32>,
}

impl Recorder<'_> {
    /// Runs the workloads of the image with this manifest.
    pub fn record(&self, descriptor: &Descriptor) -> Result<Recording> {
        let bytes = restow_content::read(self.provider, descriptor, self.limits.manifest_size)?;
        let manifest = Manifest::parse_as(bytes, &descriptor.media_type, self.limits)?;
        let config = restow_content::read(self.provider, manifest.config(), self.limits.config_size)?;
        let config = Config::parse(config, self.limits)?;
        let reading = Reading {
            provider: self.provider,
            limits: self.limits,
            threads: self.threads,
            stop: &|| self.cancel.is_cancelled(),
        };
        // What is unpacked is kept under the names in the config, and found again by whoever names the same.
        let tree = reading.tree_of(manifest.layers(), config.diff_ids())?;
        let home = Home::open(self.keep.as_deref())?;
        sandbox::clean_networks(&home.networks)?;
        let root = home.root(&chain_id(config.diff_ids()), total(&tree), |directory| {
            Ok(reading.unpack(manifest.layers(), &tree, directory)?)
        })?;
        let mut merged = Merged::default();
        let (mut exits, mut warnings) = (Vec::new(), Vec::new());
        for workload in &self.container.workloads {
            let sandbox = self.sandbox(workload, &config, root.path(), &home, &mut warnings)?;
            let over = self.container.until.as_ref().map(|until| until());
            let stop = || self.cancel.is_cancelled() || over.as_ref().is_some_and(|over| over());
            let saved = Terminal::save(self.container.terminal);
            let trace = sandbox::record(self.helper()?, &sandbox, &stop)?;
            drop(saved);
            warnings.extend(trace.notices.iter().map(|text| Warning::new(WarningKind::Workload, text)));
            self.cancel.check()?;
            let name = workload.name.clone();
            if let Some(code) = trace.exit.filter(|code| *code != 0 && !self.container.allow_failure) {
                return Err(Error::WorkloadFailed { name, code });
            }
            exits.push(Exit { workload: name, code: trace.exit });
            merged.add(trace, &tree, &descriptor.digest);
        }
        Ok(Recording { accesses: merged.accesses, exits, warnings, tree })
    }

    fn sandbox(
        &self,
        workload: &Workload,
        config: &Config,
        root: &Path,
        home: &Home,
        warnings: &mut Vec<Warning>,
    ) -> Result<Sandbox> {
        let container = self.container;
        let mut launch = Launch::of(config);
        let field = |name: &str| config.get("config").and_then(|config| config.get(name));
        if workload.args.is_some() || workload.entrypoint.is_some() {
            let own = |name: &str| -> Vec<String> {
                field(name).and_then(|words| serde_json::from_value(words.clone()).ok()).unwrap_or_default()
            };
            let given = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.is_empty());
            let entrypoint = given(&workload.entrypoint).unwrap_or_else(|| own("Entrypoint"));
            launch.args = [entrypoint, given(&workload.args).unwrap_or_else(|| own("Cmd"))].concat();
        }
        if launch.args.is_empty() {
            let problem = "the image's config names no command; --args gives one";
            return Err(Error::Options(problem.into()));
        }
        set(&mut launch.env, &workload.env);
        if let Some(directory) = &workload.directory {
            launch.directory.clone_from(directory);
        }
        let user =
            workload.user.clone().or_else(|| field("User")?.as_str().map(str::to_owned)).unwrap_or_default();
        let of_host = |name: &str| std::fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        let files = [
            ("resolv.conf".to_owned(), container.resolver(&of_host("resolv.conf"))),
            ("hosts".to_owned(), container.hosts(&of_host("hosts"))),
        ];
        // They are this run's own, so the container may write to them.
        let own = files.iter().map(|(name, _)| Mount {
            source: Sandbox::file(&home.scratch, name),
            destination: format!("/etc/{name}"),
            kind: "bind".into(),
            options: vec!["bind".into()],
        });
        let settings = Settings {
            user: sandbox::user(root, &user)?,
            mounts: own.chain(container.mounts.iter().cloned()).collect(),
            host_network: container.network == Network::Host,
            terminal: container.terminal,
        };
        let mut bundle = sandbox::bundle(&launch, &settings);
        let devices = &container.devices;
        if !devices.is_empty() {
            let problems = sandbox::add_devices(&mut bundle, &DEVICES.map(PathBuf::from), devices)?;
            warnings.extend(problems.into_iter().map(|text| Warning::new(WarningKind::Workload, text)));
        }
        let network = match &container.network {
            Network::None | Network::Host => None,
            Network::Cni { configurations, plugins } => {
                Some((sandbox::Network::load(configurations, plugins)?, home.networks.clone()))
            }
        };
        let until = container.until.is_some();
        Ok(Sandbox {
            root: root.to_owned(),
            scratch: home.scratch.clone(),
            runtime: container.runtime.clone(),
            bundle,
            files: files.to_vec(),
            network,
            allowance: container.allowance,
            input: container.input,
            period: (!until).then(|| u64::try_from(workload.period.as_millis()).unwrap_or(u64::MAX)),
            wait_on_line: workload.line.clone().filter(|_| !until),
        })
    }

    /// Returns the command that starts the outer part of the sandbox.
    fn helper(&self) -> Result<Command> {
        let [program, arguments @ ..] = self.helper else {
            return Err(Error::Options("no program is named that makes a sandbox".into()));
        };
        let mut command = Command::new(program);
        command.args(arguments).arg("outer");
        Ok(command)
    }
}

/// Sets environment variables, a line each; a name alone takes the variable away.
fn set(env: &mut Vec<String>, lines: &[String]) {
    let name = |line: &str| line.split_once('=').map_or(line, |(name, _)| name).to_owned();
    for line in lines {
        env.retain(|old| name(old) != name(line));
        if line.contains('=') {
            env.push(line.clone());
        }
    }
}

/// What several workloads read, each file once.
#[derive(Default)]
struct Merged {
    accesses: Vec<Access>,
    places: HashMap<String, usize>,
}

impl Merged {
    fn add(&mut self, trace: Trace, tree: &Tree, manifest: &Digest) {
        for file in trace.files {
            // What the container made itself is in no layer.
            let Some(position) = tree.resolve(&file.path) else { continue };
            let share = file.read.and_then(|(read, touched)| {
                let size = tree.size(&file.path)?;
                Some(Share { size, read, touched: touched.min(size) })
            });
            match self.places.get(&file.path) {
                // Which bytes is not known: at least as many as the one of them that read more.
                Some(place) => {
                    let known = &mut self.accesses[*place].share;
                    *known =
                        known.zip(share).map(|(one, other)| if one.read < other.read { other } else { one });
                }
                None => {
                    self.places.insert(file.path.clone(), self.accesses.len());
                    self.accesses.push(Access {
                        path: file.path,
                        manifest_digest: Some(manifest.clone()),
                        layer_index: Some(position),
                        share,
                    });
                }
            }
        }
    }
}

/// Returns the bytes of all files that a container sees.
pub fn total(tree: &Tree) -> u64 {
    let files = tree.visible(|_| true).filter(|(_, path)| matches!(tree.kind(path), Some(Kind::File { .. })));
    files.filter_map(|(_, path)| tree.size(path)).sum()
}

/// The state of the terminal, which comes back when this goes.
struct Terminal(Option<rustix::termios::Termios>);

impl Terminal {
    fn save(wanted: bool) -> Self {
        Self(wanted.then(|| rustix::termios::tcgetattr(std::io::stdin()).ok()).flatten())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            // The runtime made it raw, and has no time to undo that.
            let _ =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, state);
        }
    }
}

/// Returns what names a stack of layers (OCI image specification, "Layer ChainID").
fn chain_id(diff_ids: &[Digest]) -> Digest {
    let mut ids = diff_ids.iter();
    let first = ids.next().cloned().unwrap_or_else(|| Digest::sha256(b""));
    ids.fold(first, |chain, next| Digest::sha256(format!("{chain} {next}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_replaced_or_taken_away() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut env = words("A=1 B=2 AB=3 C=");
        set(&mut env, &words("A=4 D=5=6 B NONE C"));
        assert_eq!(env, words("AB=3 A=4 D=5=6"));
    }

    #[test]
    fn a_chain_of_layers_has_one_name() {
        let ids: Vec<_> = [b"a", b"b"].map(|id| Digest::sha256(id)).to_vec();
        assert_eq!(chain_id(&ids[..1]), ids[0]);
        assert_eq!(chain_id(&ids), Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes()));
    }
}
