//! What the flags, which are ctr-remote's, and a file of workloads say about running an image.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use restow::recorder::Exit;
use restow::recorder::Recording;
use restow::workload::Container;
use restow::workload::DEFAULT_PERIOD;
use restow::workload::Network;
use restow::workload::Resolver;
use restow::workload::Until;
use restow::workload::Workload;
use restow_analyze::sandbox::Allowance;
use restow_analyze::sandbox::Mount;
use serde::Deserialize;

use crate::args::parse_size;
use crate::failure::Usage;
use crate::interrupt;
use crate::output;

/// The longest file of settings that is read.
const MAX_FILE: u64 = 1 << 20;
const DEFAULT_SECONDS: i64 = DEFAULT_PERIOD.as_secs().cast_signed();
const DEFAULT_RUNTIME: &str = "runc";
/// Where networks and their plugins are, as in ctr-remote.
const CNI_CONFIGURATIONS: &str = "/etc/cni/net.d";
const CNI_PLUGINS: &str = "/opt/cni/bin";
/// What all devices of a vendor are called (Container Device Interface).
const GPUS: &str = "nvidia.com/gpu";
/// How the workload is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Workload")]
pub(crate) struct WorkloadArguments {
    /// Give the container a terminal, which takes -i and one at the standard input; its output goes to standard error
    #[arg(short, long, requires = "input", conflicts_with_all = ["wait_on_signal", "workload"])]
    pub(crate) terminal: bool,
    /// Let the container read the standard input
    #[arg(short = 'i', id = "input")]
    pub(crate) input: bool,
    /// How many seconds to watch the container; 0 or less means the default
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_SECONDS, allow_negative_numbers = true)]
    period: i64,
    /// Stop watching as soon as the container writes a line that holds this to its standard output
    #[arg(long, value_name = "TEXT")]
    wait_on_line: Option<String>,
    /// Watch until Ctrl-C, which ends the running workload only, instead of for a period or until a line
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
    /// A further environment variable; NAME alone takes the image's away; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A file of environment variables, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Something to mount, what is of the host read-only unless its options say rw; may be given several times
    #[arg(long, value_name = "type=bind,source=PATH,destination=PATH[,options=rbind:rw]")]
    mount: Vec<String>,
    /// Name servers, between commas [default: 8.8.8.8, or the host's with --net-host]
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    dns_nameservers: Vec<String>,
    /// Domains to search names in, between commas
    #[arg(long, value_delimiter = ',', value_name = "DOMAIN")]
    dns_search_domains: Vec<String>,
    /// Options of the resolver, between commas
    #[arg(long, value_delimiter = ',', value_name = "OPTION")]
    dns_options: Vec<String>,
    /// Further lines of /etc/hosts, between commas
    #[arg(long, value_delimiter = ',', value_name = "HOST:ADDRESS")]
    add_hosts: Vec<String>,
    /// Use the host's network; without it the container has none
    #[arg(long, conflicts_with = "cni")]
    pub(crate) net_host: bool,
    /// Attach the container to the first of the networks that CNI is configured for
    #[arg(long)]
    cni: bool,
    /// Where the networks' configurations are [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR", requires = "cni")]
    cni_plugin_conf_dir: Option<PathBuf>,
    /// Where the networks' plugins are [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR", requires = "cni")]
    cni_plugin_dir: Option<PathBuf>,
    /// Give the container these GPUs of NVIDIA's: numbers between commas, or `all`
    ///
    /// /etc/cdi and /var/run/cdi have to describe them; `nvidia-ctk cdi generate` writes such a description.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", value_parser = parse_gpu)]
    gpus: Vec<String>,
    /// A TOML file of workloads to run one after the other, the heavier first in the record
    ///
    /// Each is a table [[workload]] with name, and optionally args, entrypoint, env (arrays), cwd, user, period (seconds),
    /// wait (a part of a line), weight (a number, 1 if left out). What a table leaves out is as the other flags say.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Take what was read although the program failed before the watching ended, which else is an error
    #[arg(long)]
    pub(crate) allow_failure: bool,
    /// How many processes and threads the container may have at once [default: 4096]
    #[arg(long, value_name = "N")]
    max_processes: Option<u64>,
    /// How much memory its processes may take together [default: 8GiB]
    ///
    /// Processes and memory are counted all the time, not by a control group: a container that has more is ended.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_memory: Option<u64>,
    /// How much it may write to files, which are in memory [default: 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_written: Option<u64>,
    /// The program that runs containers
    #[arg(long, value_name = "PROGRAM", default_value = DEFAULT_RUNTIME)]
    pub(crate) runtime: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workloads {
    workload: Vec<Own>,
}

/// A workload of the file: what differs from the image and the flags.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    name: String,
    args: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    env: Vec<String>,
    cwd: Option<String>,
    user: Option<String>,
    period: Option<i64>,
    wait: Option<String>,
    weight: Option<f64>,
}

/// Returns how long so many seconds are; 0 or less are the default.
fn period(seconds: i64) -> Duration {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds.map_or(DEFAULT_PERIOD, Duration::from_secs)
}

impl WorkloadArguments {
    /// Says whether any of these flags was given.
    pub(crate) fn given(&self) -> bool {
        *self != Self { period: DEFAULT_SECONDS, runtime: DEFAULT_RUNTIME.into(), ..Self::default() }
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
                directory: self.cwd.clone(),
                user: self.user.clone(),
                period: period(self.period),
                line: self.wait_on_line.clone(),
            })
        };
        let Some(path) = &self.workload else { return Ok(vec![base("workload".into())?]) };
        let text = read(path)?;
        let parsed: Workloads = toml::from_str(&text).with_context(|| path.display().to_string())?;
        if parsed.workload.is_empty() {
            return Err(Usage(format!("{}: there is no workload in it", path.display())).into());
        }
        let mut own = parsed.workload;
        let weight = |own: &Own| own.weight.unwrap_or(1.0);
        own.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        let merge = |own: Own| -> anyhow::Result<Workload> {
            let base = base(own.name)?;
            Ok(Workload {
                name: base.name,
                args: own.args.or(base.args),
                entrypoint: own.entrypoint.or(base.entrypoint),
                env: [base.env, own.env].concat(),
                directory: own.cwd.or(base.directory),
                user: own.user.or(base.user),
                period: own.period.map_or(base.period, period),
                line: own.wait.or(base.line),
            })
        };
        own.into_iter().map(merge).collect()
    }

    /// Returns how containers are run.
    pub(crate) fn container(&self) -> anyhow::Result<Container> {
        self.check_terminal()?;
        let mut container = Container::default();
        container.workloads = self.workloads()?;
        container.terminal = self.terminal;
        container.input = self.input;
        container.until = self.wait_on_signal.then(|| -> Until {
            Arc::new(|| {
                let wait = interrupt::Wait::begin();
                Box::new(move || wait.is_over())
            })
        });
        container.resolver = Resolver {
            servers: self.dns_nameservers.clone(),
            search: self.dns_search_domains.clone(),
            options: self.dns_options.clone(),
        };
        container.hosts = self.hosts()?;
        container.mounts = self.mount.iter().map(|text| parse_mount(text)).collect::<anyhow::Result<_>>()?;
        container.network = self.network();
        container.devices = self.gpus.iter().map(|gpu| format!("{GPUS}={gpu}")).collect();
        container.allow_failure = self.allow_failure;
        let default = container.allowance;
        container.allowance = Allowance {
            processes: self.max_processes.unwrap_or(default.processes),
            memory: self.max_memory.unwrap_or(default.memory),
            written: self.max_written.unwrap_or(default.written),
        };
        container.runtime.clone_from(&self.runtime);
        Ok(container)
    }

    fn hosts(&self) -> Result<Vec<(String, String)>, Usage> {
        let split = |line: &String| match line.split_once(':') {
            Some((host, address)) => Ok((host.to_owned(), address.to_owned())),
            None => Err(Usage(format!("--add-hosts {line}: expected HOST:ADDRESS"))),
        };
        self.add_hosts.iter().map(split).collect()
    }

    fn network(&self) -> Network {
        let directory =
            |given: &Option<PathBuf>, default: &str| given.clone().unwrap_or_else(|| default.into());
        match self.cni {
            _ if self.net_host => Network::Host,
            true => Network::Cni {
                configurations: directory(&self.cni_plugin_conf_dir, CNI_CONFIGURATIONS),
                plugins: directory(&self.cni_plugin_dir, CNI_PLUGINS),
            },
            false => Network::None,
        }
    }

    /// Refuses a terminal where there is none.
    fn check_terminal(&self) -> Result<(), Usage> {
        if self.terminal && !std::io::stdin().is_terminal() {
            return Err(Usage("--terminal: the standard input is no terminal".into()));
        }
        Ok(())
    }
}

/// Tells how the containers of a recording ended, and what went otherwise than asked.
pub(crate) fn tell(recording: &Recording) {
    for warning in &recording.warnings {
        output::tell(&format!("notice: {warning}"));
    }
    for Exit { workload, code, .. } in &recording.exits {
        if let Some(code) = code {
            output::tell(&format!("{workload}: the container's program ended with {code}"));
        }
    }
}

/// Returns the command line by which this program becomes a part of a sandbox.
pub(crate) fn helper() -> anyhow::Result<Vec<OsString>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(vec![program.into(), "sandbox".into()])
}

fn parse_gpu(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text == "all" || text.parse::<u16>().is_ok() {
        Ok(text.into())
    } else {
        Err("expected a number, or all".into())
    }
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
    let has = |wanted: &[&str]| mount.options.iter().any(|option| wanted.contains(&option.as_str()));
    let (bound, said) = (has(&["bind", "rbind"]), has(&["ro", "rw"]));
    let of_host = bound || mount.kind == "bind";
    if of_host && !bound {
        mount.options.push("rbind".into());
    }
    if of_host && !said {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_host_is_read_only_unless_it_is_said_otherwise() {
        for (text, expected) in [
            ("type=bind,source=/a,destination=/b", Some("rbind ro")),
            ("source=/a,dst=/b,options=bind:rw", Some("bind rw")),
            ("type=none,source=/a,destination=/b,options=bind", Some("bind ro")),
            ("type=tmpfs,source=tmpfs,destination=/b", Some("")),
            ("type=tmpfs,source=tmpfs,destination=/b,options=ro", Some("ro")),
            ("source=/a,destination=b", None),
            ("nonsense", None),
        ] {
            let found = parse_mount(text).ok().map(|mount| mount.options.join(" "));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    fn arguments(words: &[&str]) -> WorkloadArguments {
        use clap::FromArgMatches as _;
        let command = WorkloadArguments::augment_args(clap::Command::new("test"));
        let words = ["test"].iter().chain(words);
        WorkloadArguments::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
    }

    #[test]
    fn the_network_is_none_or_the_hosts_and_names_are_as_the_flags_say() {
        let container = |words: &[&str]| arguments(words).container().unwrap();
        assert_eq!(container(&[]).network, Network::None);
        assert_eq!(container(&["--net-host"]).network, Network::Host);
        let cni = container(&["--cni", "--cni-plugin-dir", "/plugins"]).network;
        let expected = Network::Cni { configurations: CNI_CONFIGURATIONS.into(), plugins: "/plugins".into() };
        assert_eq!(cni, expected);
        let named = container(&["--dns-nameservers", "1.1.1.1,::1", "--dns-search-domains", "a.test,b.test"]);
        let expected = "nameserver 1.1.1.1\nnameserver ::1\nsearch a.test b.test\n";
        assert_eq!(named.resolver("nameserver 10.0.0.1"), expected);
        let hosts = container(&["--add-hosts", "db:10.0.0.2,six:fe80::1"]).hosts("");
        assert!(hosts.ends_with("10.0.0.2\tdb\nfe80::1\tsix\n"), "{hosts}");
        assert!(arguments(&["--add-hosts", "db"]).container().is_err());
    }

    #[test]
    fn a_period_that_is_none_is_the_default() {
        for (given, own, expected) in
            [("3", None, 3), ("0", None, 10), ("-1", None, 10), ("3", Some(5), 5), ("3", Some(0), 10)]
        {
            let file = tempfile::NamedTempFile::new().unwrap();
            let own = own.map(|seconds| format!("period = {seconds}\n")).unwrap_or_default();
            fs::write(file.path(), format!("[[workload]]\nname = \"a\"\n{own}")).unwrap();
            let words = ["--period", given, "--workload", file.path().to_str().unwrap()];
            let found = arguments(&words).workloads().unwrap();
            assert_eq!(found[0].period, Duration::from_secs(expected), "{given} {own:?}");
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
        assert_eq!((found[0].line.as_deref(), found[1].env.join(" ")), (Some("up"), "A=1".into()));
        for wrong in ["[[workload]]\nnames = 1\n", "workload = []\n", ""] {
            fs::write(file.path(), wrong).unwrap();
            assert!(arguments.workloads().is_err(), "{wrong}");
        }
        let wrong = WorkloadArguments { args: Some("b".into()), ..WorkloadArguments::default() };
        assert!(wrong.workloads().is_err());
    }
}
