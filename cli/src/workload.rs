//! What the flags, which are ctr-remote's, and a file of workloads say about running an image.

use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use restow_analyze::sandbox::Mount;
use restow_analyze::sandbox::Network;
use serde::Deserialize;

use crate::failure::Usage;

/// The longest file of settings that is read.
const MAX_FILE: u64 = 1 << 20;
/// Seconds to watch.
const DEFAULT_PERIOD: i64 = 10;
const DEFAULT_RUNTIME: &str = "runc";
/// Where networks and their plugins are, as in ctr-remote.
const CNI_CONFIGURATIONS: &str = "/etc/cni/net.d";
const CNI_PLUGINS: &str = "/opt/cni/bin";
/// Who is asked for names if nobody is named, as in ctr-remote.
const DEFAULT_NAMESERVER: &str = "8.8.8.8";
/// What all devices of a vendor are called (Container Device Interface).
const GPUS: &str = "nvidia.com/gpu";
/// What a container knows of hosts, as in ctr-remote and Docker.
const HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

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
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_PERIOD, allow_negative_numbers = true)]
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
    /// The program that runs containers
    #[arg(long, value_name = "PROGRAM", default_value = DEFAULT_RUNTIME)]
    pub(crate) runtime: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workloads {
    workload: Vec<Workload>,
}

/// One workload: what differs from the image and the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) user: Option<String>,
    period: Option<i64>,
    pub(crate) wait: Option<String>,
    pub(crate) weight: Option<f64>,
}

impl Workload {
    /// Returns how many milliseconds to watch it, by what the flags say or itself.
    pub(crate) fn milliseconds(&self, arguments: &WorkloadArguments) -> u64 {
        let seconds = self.period.unwrap_or(arguments.period);
        let seconds = if seconds > 0 { seconds } else { DEFAULT_PERIOD };
        seconds.unsigned_abs().saturating_mul(1000)
    }
}

impl WorkloadArguments {
    /// Says whether any of these flags was given.
    pub(crate) fn given(&self) -> bool {
        *self != Self { period: DEFAULT_PERIOD, runtime: DEFAULT_RUNTIME.into(), ..Self::default() }
    }

    /// Returns the workloads, the heaviest first.
    pub(crate) fn workloads(&self) -> anyhow::Result<Vec<Workload>> {
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
        if parsed.workload.is_empty() {
            return Err(Usage(format!("{}: there is no workload in it", path.display())).into());
        }
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

    /// Returns the content of resolv.conf; `of_host` is the host's.
    pub(crate) fn resolver(&self, of_host: &str) -> String {
        let given = [&self.dns_nameservers, &self.dns_search_domains, &self.dns_options];
        if self.net_host && given.iter().all(|values| values.is_empty()) {
            return of_host.to_owned();
        }
        let default = [DEFAULT_NAMESERVER.to_owned()];
        let servers = if self.dns_nameservers.is_empty() { &default[..] } else { &self.dns_nameservers };
        let mut text: String = servers.iter().map(|address| format!("nameserver {address}\n")).collect();
        for (word, values) in [("search", &self.dns_search_domains), ("options", &self.dns_options)] {
            if !values.is_empty() {
                text.push_str(&format!("{word} {}\n", values.join(" ")));
            }
        }
        text
    }

    /// Returns the content of the file of hosts; `of_host` is the host's.
    pub(crate) fn hosts(&self, of_host: &str) -> anyhow::Result<String> {
        let mut text = if self.net_host { of_host } else { HOSTS }.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for line in &self.add_hosts {
            let wrong = || Usage(format!("--add-hosts {line}: expected HOST:ADDRESS"));
            let (host, address) = line.split_once(':').ok_or_else(wrong)?;
            text.push_str(&format!("{address}\t{host}\n"));
        }
        Ok(text)
    }

    /// Returns what else the container mounts.
    pub(crate) fn mounts(&self) -> anyhow::Result<Vec<Mount>> {
        self.mount.iter().map(|text| parse_mount(text)).collect()
    }

    /// Returns the network to attach the container to, if it is to be attached to one.
    pub(crate) fn network(&self) -> anyhow::Result<Option<Network>> {
        if !self.cni {
            return Ok(None);
        }
        let directory =
            |given: &Option<PathBuf>, default: &str| given.clone().unwrap_or_else(|| default.into());
        let configurations = directory(&self.cni_plugin_conf_dir, CNI_CONFIGURATIONS);
        Ok(Some(Network::load(&configurations, &directory(&self.cni_plugin_dir, CNI_PLUGINS))?))
    }

    /// Returns the names of the devices that the container gets.
    pub(crate) fn devices(&self) -> Vec<String> {
        self.gpus.iter().map(|gpu| format!("{GPUS}={gpu}")).collect()
    }

    /// Refuses a terminal where there is none.
    pub(crate) fn check_terminal(&self) -> Result<(), Usage> {
        if self.terminal && !std::io::stdin().is_terminal() {
            return Err(Usage("--terminal: the standard input is no terminal".into()));
        }
        Ok(())
    }
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
    fn the_resolver_is_told_what_the_flags_say_or_the_host() {
        for (words, expected) in [
            (&[][..], "nameserver 8.8.8.8\n"),
            (&["--net-host"], "nameserver 10.0.0.1"),
            (&["--net-host", "--dns-options", "debug"], "nameserver 8.8.8.8\noptions debug\n"),
            (
                &["--dns-nameservers", "1.1.1.1,::1", "--dns-search-domains", "a.test,b.test"],
                "nameserver 1.1.1.1\nnameserver ::1\nsearch a.test b.test\n",
            ),
            (&["--dns-options", "ndots:2,rotate"], "nameserver 8.8.8.8\noptions ndots:2 rotate\n"),
        ] {
            assert_eq!(arguments(words).resolver("nameserver 10.0.0.1"), expected, "{words:?}");
        }
    }

    #[test]
    fn hosts_are_the_usual_ones_or_the_host_s_and_those_of_the_flags() {
        let added = ["--add-hosts", "db:10.0.0.2,six:fe80::1"];
        let lines = "10.0.0.2\tdb\nfe80::1\tsix\n";
        for (words, expected) in [
            (&[][..], HOSTS.to_owned()),
            (&added, format!("{HOSTS}{lines}")),
            (&["--net-host"], "127.0.0.1 me\n".into()),
            (&["--net-host", added[0], added[1]], format!("127.0.0.1 me\n{lines}")),
        ] {
            assert_eq!(arguments(words).hosts("127.0.0.1 me").unwrap(), expected, "{words:?}");
        }
        assert!(arguments(&["--add-hosts", "db"]).hosts("").is_err());
    }

    #[test]
    fn a_period_that_is_none_is_the_default() {
        for (period, own, expected) in [
            ("3", None, 3000),
            ("0", None, 10_000),
            ("-1", None, 10_000),
            ("3", Some(5), 5000),
            ("3", Some(0), 10_000),
        ] {
            let workload = Workload { period: own, ..Workload::default() };
            assert_eq!(
                workload.milliseconds(&arguments(&["--period", period])),
                expected,
                "{period} {own:?}"
            );
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
        for wrong in ["[[workload]]\nnames = 1\n", "workload = []\n", ""] {
            fs::write(file.path(), wrong).unwrap();
            assert!(arguments.workloads().is_err(), "{wrong}");
        }
        let wrong = WorkloadArguments { args: Some("b".into()), ..WorkloadArguments::default() };
        assert!(wrong.workloads().is_err());
    }
}
