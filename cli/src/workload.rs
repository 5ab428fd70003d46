//! Running an image's workload to see what it reads: its flags, which are ctr-remote's, and the run itself.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use restow_analyze::Access;
use restow_analyze::Launch;
use restow_analyze::Reading;
use restow_analyze::Tree;
use restow_analyze::sandbox;
use restow_analyze::sandbox::Mount;
use restow_analyze::sandbox::Sandbox;
use restow_analyze::sandbox::Settings;
use restow_content::Provider;
use restow_content::publish;
use restow_convert::Cancel;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::Manifest;
use serde::Deserialize;

use crate::failure::Usage;
use crate::output;

/// The longest file of settings that is read.
const MAX_FILE: u64 = 1 << 20;
/// Seconds to watch.
const DEFAULT_PERIOD: u64 = 10;
const DEFAULT_RUNTIME: &str = "runc";

/// How the workload is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Workload")]
pub(crate) struct WorkloadArguments {
    /// How many seconds to watch the container
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_PERIOD)]
    period: u64,
    /// Stop watching as soon as the container writes this line to its standard output
    #[arg(long, value_name = "LINE")]
    wait_on_line: Option<String>,
    /// Watch until Ctrl-C instead of for a period
    #[arg(long)]
    pub(crate) wait_on_signal: bool,
    /// The user to run as: a name or number, with or without `:GROUP` [default: the image's]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The working directory [default: the image's]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// The arguments, as a JSON array, instead of the image's command
    #[arg(long, value_name = "JSON")]
    args: Option<String>,
    /// The entrypoint, as a JSON array, instead of the image's
    #[arg(long, value_name = "JSON")]
    entrypoint: Option<String>,
    /// A further environment variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A file of environment variables, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Something of the host to mount, read-only unless its options say rw; may be given several times
    #[arg(long, value_name = "type=bind,source=PATH,destination=PATH[,options=rbind:rw]")]
    mount: Vec<String>,
    /// Name servers, between commas
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    dns_nameservers: Vec<String>,
    /// Domains to search names in, between commas
    #[arg(long, value_delimiter = ',', value_name = "DOMAIN")]
    dns_search_domains: Vec<String>,
    /// Options of the resolver, between commas
    #[arg(long, value_delimiter = ',', value_name = "OPTION")]
    dns_options: Vec<String>,
    /// Lines of /etc/hosts, between commas
    #[arg(long, value_delimiter = ',', value_name = "HOST:ADDRESS")]
    add_hosts: Vec<String>,
    /// Use the host's network; without it the container has none
    #[arg(long)]
    net_host: bool,
    /// A TOML file of workloads to run one after the other, the heavier first in the record
    ///
    /// Each is a table [[workload]] with name, and optionally args, entrypoint, env (arrays), cwd, user, period (seconds),
    /// wait (a line), weight (a number, 1 if left out). What a table leaves out is as the other flags say.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// The program that runs containers
    #[arg(long, value_name = "PROGRAM", default_value = DEFAULT_RUNTIME)]
    runtime: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workloads {
    workload: Vec<Workload>,
}

/// One workload: what differs from the image and the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    name: String,
    args: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    env: Vec<String>,
    cwd: Option<String>,
    user: Option<String>,
    period: Option<u64>,
    wait: Option<String>,
    weight: Option<f64>,
}

/// What a recording needs besides the flags.
pub(crate) struct Recorder<'a> {
    pub(crate) arguments: &'a WorkloadArguments,
    pub(crate) provider: &'a dyn Provider,
    pub(crate) limits: &'a Limits,
    pub(crate) threads: usize,
    pub(crate) cancel: &'a Cancel,
    /// Where unpacked images are kept between runs.
    pub(crate) cache: Option<PathBuf>,
}

/// What the workloads of an image read.
pub(crate) struct Recording {
    pub(crate) accesses: Vec<Access>,
    /// The image's names, to tell sizes by.
    pub(crate) tree: Tree,
}

impl Recorder<'_> {
    /// Runs the workloads of the image with this manifest.
    pub(crate) fn record(&self, descriptor: &Descriptor) -> anyhow::Result<Recording> {
        let workloads = self.arguments.workloads()?;
        let bytes = restow_content::read(self.provider, descriptor, self.limits.manifest_size)?;
        let manifest = Manifest::parse(bytes, self.limits)?;
        let config = restow_content::read(self.provider, manifest.config(), self.limits.config_size)?;
        let config = Config::parse(config, self.limits)?;
        let reading = Reading {
            provider: self.provider,
            limits: self.limits,
            threads: self.threads,
            stop: &|| self.cancel.is_cancelled(),
        };
        let tree = reading.tree(manifest.layers())?;
        let home = Home::open(self.cache.as_deref())?;
        let root = home.root(&chain_id(config.diff_ids()), |directory| {
            Ok(reading.unpack(manifest.layers(), &tree, directory)?)
        })?;
        let mut accesses: Vec<Access> = Vec::new();
        for workload in &workloads {
            let sandbox = self.sandbox(workload, &config, &root, &home.scratch)?;
            let stop = || self.cancel.is_cancelled();
            let trace = sandbox::record(helper("outer")?, &sandbox, &stop)?;
            if let Some(code) = trace.exit {
                output::tell(&format!("{}: the container's program ended with {code}", workload.name));
            }
            for path in trace.paths {
                // What the container made itself is in no layer.
                let Some(position) = tree.resolve(&path) else { continue };
                let access = Access {
                    path,
                    manifest_digest: Some(descriptor.digest.clone()),
                    layer_index: Some(position),
                };
                if !accesses.contains(&access) {
                    accesses.push(access);
                }
            }
            if self.cancel.is_cancelled() {
                break;
            }
        }
        if !self.arguments.wait_on_signal {
            self.cancel.check()?;
        }
        Ok(Recording { accesses, tree })
    }

    fn sandbox(
        &self,
        workload: &Workload,
        config: &Config,
        root: &Path,
        scratch: &Path,
    ) -> anyhow::Result<Sandbox> {
        let arguments = self.arguments;
        let mut launch = Launch::of(config);
        let field = |name: &str| config.get("config").and_then(|config| config.get(name));
        if workload.args.is_some() || workload.entrypoint.is_some() {
            let own = |name: &str| -> Vec<String> {
                field(name).and_then(|words| serde_json::from_value(words.clone()).ok()).unwrap_or_default()
            };
            // Without its entrypoint, the image's command means nothing.
            let command = workload.args.clone().unwrap_or_else(|| match workload.entrypoint {
                Some(_) => Vec::new(),
                None => own("Cmd"),
            });
            launch.args =
                [workload.entrypoint.clone().unwrap_or_else(|| own("Entrypoint")), command].concat();
        }
        if launch.args.is_empty() {
            return Err(Usage("the image's config names no command; --args gives one".into()).into());
        }
        for line in &workload.env {
            let name = line.split_once('=').map_or(line.as_str(), |(name, _)| name);
            launch.env.retain(|old| old.split_once('=').map_or(old.as_str(), |(name, _)| name) != name);
            launch.env.push(line.clone());
        }
        if let Some(directory) = &workload.cwd {
            launch.directory.clone_from(directory);
        }
        let user =
            workload.user.clone().or_else(|| field("User")?.as_str().map(str::to_owned)).unwrap_or_default();
        let mut settings = Settings {
            user: sandbox::user(root, &user)?,
            mounts: arguments.mount.iter().map(|text| parse_mount(text)).collect::<anyhow::Result<_>>()?,
            host_network: arguments.net_host,
        };
        let mut files = Vec::new();
        let mut mount_file = |name: &str, content: String| {
            settings.mounts.push(bind(Sandbox::file(scratch, name), &format!("/etc/{name}")));
            files.push((name.to_owned(), content));
        };
        let resolver = arguments.resolver();
        if !resolver.is_empty() {
            mount_file("resolv.conf", resolver);
        }
        if !arguments.add_hosts.is_empty() {
            mount_file("hosts", arguments.hosts()?);
        }
        if arguments.net_host
            && arguments.dns_nameservers.is_empty()
            && Path::new("/etc/resolv.conf").exists()
        {
            settings.mounts.push(bind("/etc/resolv.conf".into(), "/etc/resolv.conf"));
        }
        Ok(Sandbox {
            root: root.to_owned(),
            scratch: scratch.to_owned(),
            runtime: arguments.runtime.clone(),
            bundle: sandbox::bundle(&launch, &settings),
            files,
            period: (!arguments.wait_on_signal)
                .then(|| workload.period.unwrap_or(arguments.period).saturating_mul(1000)),
            wait_on_line: workload.wait.clone(),
        })
    }
}

impl WorkloadArguments {
    /// Says whether any of these flags was given.
    pub(crate) fn given(&self) -> bool {
        *self != Self { period: DEFAULT_PERIOD, runtime: DEFAULT_RUNTIME.into(), ..Self::default() }
    }

    /// Returns the workloads, the heaviest first.
    fn workloads(&self) -> anyhow::Result<Vec<Workload>> {
        let words = |text: &Option<String>, flag: &str| -> anyhow::Result<Option<Vec<String>>> {
            let parse = |text: &String| serde_json::from_str(text);
            let parsed = text.as_ref().map(parse).transpose();
            parsed.map_err(|_| Usage(format!("{flag}: expected a JSON array of strings")).into())
        };
        let mut env = match &self.env_file {
            Some(path) => read(path)?
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned)
                .collect(),
            None => Vec::new(),
        };
        env.extend_from_slice(&self.env);
        let base = |name: String| -> anyhow::Result<Workload> {
            Ok(Workload {
                name,
                args: words(&self.args, "--args")?,
                entrypoint: words(&self.entrypoint, "--entrypoint")?,
                env: env.clone(),
                cwd: self.cwd.clone(),
                user: self.user.clone(),
                period: None,
                wait: self.wait_on_line.clone(),
                weight: None,
            })
        };
        let Some(path) = &self.workload else { return Ok(vec![base("workload".into())?]) };
        let text = read(path)?;
        let parsed: Workloads = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let mut workloads = Vec::new();
        for own in parsed.workload {
            let base = base(own.name)?;
            workloads.push(Workload {
                name: base.name,
                args: own.args.or(base.args),
                entrypoint: own.entrypoint.or(base.entrypoint),
                env: [base.env, own.env].concat(),
                cwd: own.cwd.or(base.cwd),
                user: own.user.or(base.user),
                period: own.period,
                wait: own.wait.or(base.wait),
                weight: own.weight,
            });
        }
        let weight = |workload: &Workload| workload.weight.unwrap_or(1.0);
        workloads.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        Ok(workloads)
    }

    fn resolver(&self) -> String {
        let mut text: String =
            self.dns_nameservers.iter().map(|address| format!("nameserver {address}\n")).collect();
        for (word, values) in [("search", &self.dns_search_domains), ("options", &self.dns_options)] {
            if !values.is_empty() {
                text.push_str(&format!("{word} {}\n", values.join(" ")));
            }
        }
        text
    }

    fn hosts(&self) -> anyhow::Result<String> {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for line in &self.add_hosts {
            let wrong = || Usage(format!("--add-hosts {line}: expected HOST:ADDRESS"));
            let (host, address) = line.split_once(':').ok_or_else(wrong)?;
            text.push_str(&format!("{address} {host}\n"));
        }
        Ok(text)
    }
}

fn bind(source: PathBuf, destination: &str) -> Mount {
    let options = ["rbind", "ro"].map(str::to_owned).to_vec();
    Mount { source, destination: destination.to_owned(), kind: "bind".into(), options }
}

/// Parses a mount as ctr-remote spells it.
fn parse_mount(text: &str) -> anyhow::Result<Mount> {
    let mut mount = Mount {
        source: PathBuf::new(),
        destination: String::new(),
        kind: "bind".into(),
        options: Vec::new(),
    };
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("type", value)) => value.clone_into(&mut mount.kind),
            Some(("source" | "src", value)) => mount.source = value.into(),
            Some(("destination" | "dst" | "target", value)) => value.clone_into(&mut mount.destination),
            Some(("options", value)) => mount.options = value.split(':').map(str::to_owned).collect(),
            _ => {
                return Err(Usage(format!(
                    "--mount: {field:?} is not type=, source=, destination= or options="
                ))
                .into());
            }
        }
    }
    if !mount.destination.starts_with('/') {
        return Err(Usage("--mount: the destination is not a path from the root on".into()).into());
    }
    if mount.kind == "bind" && !mount.options.iter().any(|option| option.ends_with("bind")) {
        mount.options.push("rbind".into());
    }
    if !mount.options.iter().any(|option| option == "rw" || option == "ro") {
        mount.options.push("ro".into());
    }
    Ok(mount)
}

fn read(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    file.take(MAX_FILE).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    Ok(text)
}

/// Returns the command that starts this program as a part of the sandbox.
pub(crate) fn helper(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(["sandbox", role]);
    Ok(command)
}

/// Returns what names a stack of layers (OCI image specification, "Layer ChainID").
fn chain_id(diff_ids: &[Digest]) -> Digest {
    let mut ids = diff_ids.iter();
    let first = ids.next().cloned().unwrap_or_else(|| Digest::sha256(b""));
    ids.fold(first, |chain, next| Digest::sha256(format!("{chain} {next}").as_bytes()))
}

/// Where unpacked images lie and sandboxes mount.
struct Home {
    roots: PathBuf,
    scratch: PathBuf,
    /// Goes with this value, if nothing is to be kept.
    _own: Option<tempfile::TempDir>,
}

impl Home {
    fn open(cache: Option<&Path>) -> anyhow::Result<Self> {
        let own = match cache {
            Some(_) => None,
            None => Some(tempfile::tempdir()?),
        };
        let place = cache.or_else(|| own.as_ref().map(tempfile::TempDir::path)).unwrap_or(Path::new("."));
        let home = Self { roots: place.join("roots"), scratch: place.join("sandbox"), _own: own };
        for directory in [&home.roots, &home.scratch] {
            publish::create_directory(directory)?;
        }
        Ok(home)
    }

    /// Returns the unpacked image of this name, unpacking it if it is not there.
    fn root(
        &self,
        chain: &Digest,
        unpack: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let root = self.roots.join(chain.encoded());
        let lock = fs::File::create(self.roots.join("lock"))?;
        lock.lock()?;
        if root.is_dir() {
            return Ok(root);
        }
        // Whoever holds the lock is alone: what was begun and not finished is left from a run that was killed.
        let begun = self.roots.join("begun");
        if begun.exists() {
            fs::remove_dir_all(&begun)?;
        }
        fs::create_dir(&begun)?;
        unpack(&begun)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a cache need not be durable; half of it is never under its name"
        )]
        fs::rename(&begun, &root)?;
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_only_unless_they_say_otherwise() {
        for (text, expected) in [
            ("type=bind,source=/a,destination=/b", Some("rbind ro")),
            ("source=/a,dst=/b,options=bind:rw", Some("bind rw")),
            ("type=tmpfs,source=tmpfs,destination=/b", Some("ro")),
            ("source=/a,destination=b", None),
            ("nonsense", None),
        ] {
            let found = parse_mount(text).ok().map(|mount| mount.options.join(" "));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn workloads_come_by_weight_and_keep_what_the_flags_say() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[[workload]]\nname = \"light\"\nargs = [\"a\"]\n[[workload]]\nname = \"heavy\"\nweight = 2.5\nwait = \"up\"\n";
        fs::write(file.path(), text).unwrap();
        let arguments = WorkloadArguments {
            workload: Some(file.path().into()),
            args: Some("[\"b\"]".into()),
            env: vec!["A=1".into()],
            ..WorkloadArguments::default()
        };
        let found = arguments.workloads().unwrap();
        assert_eq!((found[0].name.as_str(), found[1].name.as_str()), ("heavy", "light"));
        assert_eq!(
            (found[0].args.clone().unwrap(), found[1].args.clone().unwrap()),
            (vec!["b".to_owned()], vec!["a".to_owned()])
        );
        assert_eq!((found[0].wait.as_deref(), found[1].env.join(" ")), (Some("up"), "A=1".into()));
        fs::write(file.path(), "[[workload]]\nnames = 1\n").unwrap();
        assert!(arguments.workloads().is_err());
        let wrong = WorkloadArguments { args: Some("b".into()), ..WorkloadArguments::default() };
        assert!(wrong.workloads().is_err());
    }

    #[test]
    fn a_chain_of_layers_has_one_name() {
        let ids: Vec<_> = [b"a", b"b"].map(|id| Digest::sha256(id)).to_vec();
        assert_eq!(chain_id(&ids[..1]), ids[0]);
        assert_eq!(chain_id(&ids), Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes()));
    }
}
