//! nginx: its configuration and what that includes and loads.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::rc::Rc;

use super::Predictor;
use super::command::Program;
use super::elf;
use super::passing::Passing;
use super::reads::Reads;

/// Directives whose value is a file that is read at start.
const FILES: [&str; 9] = [
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_dhparam",
    "ssl_trusted_certificate",
    "ssl_client_certificate",
    "auth_basic_user_file",
    "geoip_country",
    "ssl_password_file",
    "js_import",
];

/// nginx.
#[derive(Debug)]
pub(crate) struct Nginx;

impl Predictor for Nginx {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        let concerned = file.path.contains("nginx") && !file.path.starts_with("usr/share/doc/");
        (concerned && file.size <= file.limits.script && !elf::is(file.head()))
            .then(|| directives(&file.text()))
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if !program.is(&["nginx", "openresty"]) {
            return;
        }
        let chosen =
            program.args.iter().position(|word| word == "-c").and_then(|at| program.args.get(at + 1));
        let candidates = match chosen {
            Some(path) => vec![program.absolute(path)],
            None => ["/etc/nginx/nginx.conf", "/usr/local/nginx/conf/nginx.conf"].map(str::to_owned).to_vec(),
        };
        let Some(main) = candidates.into_iter().find(|path| reads.look(path).is_some()) else { return };
        // Paths are relative to where the main file is, those of modules to the directory of installation.
        let root = main.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned();
        // The OpenSSL library reads its own when it is set up.
        for path in ["/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf"] {
            reads.open(path, "the TLS library reads its settings");
        }
        let mut waiting = VecDeque::from([(main, Rc::<str>::from("nginx reads its configuration"))]);
        let mut followed = 0;
        while let Some((path, reason)) = waiting.pop_front().filter(|_| !reads.is_over()) {
            followed += 1;
            let most = reads.limits().configurations;
            let Some(file) = reads.open(&path, reason).filter(|_| followed <= most) else { continue };
            let reason = Rc::<str>::from(format!("{file} includes it"));
            // Once more it would bring nothing new.
            let mut patterns = HashSet::new();
            let mut included = Vec::new();
            for (name, value) in reads.note(&file).lines().filter_map(|line| line.split_once(' ')) {
                let path = if value.starts_with('/') { value.to_owned() } else { format!("{root}/{value}") };
                match name {
                    "include" if patterns.insert(value) => {
                        included
                            .extend(glob(&path, reads).into_iter().map(|path| (path, Rc::clone(&reason))));
                    }
                    "include" => {}
                    "load_module" => {
                        let homes = ["/usr/share/nginx", "/usr/lib/nginx", "/etc/nginx", "/usr/local/nginx"];
                        let mut paths = homes.iter().map(|home| format!("{home}/{value}")).chain([path]);
                        paths.any(|path| elf::load(&path, format_args!("{file} loads it"), reads).is_some());
                    }
                    _ => {
                        reads.open(&path, format_args!("{file} names it"));
                    }
                }
            }
            for entry in included.into_iter().rev() {
                waiting.push_front(entry);
            }
        }
    }
}

/// Returns the directives that name files, one a line.
fn directives(text: &str) -> String {
    let mut note = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        for directive in line.split([';', '{', '}']) {
            let mut words = directive.split_ascii_whitespace();
            if let (Some(name), Some(value)) = (words.next(), words.next())
                && (matches!(name, "include" | "load_module") || FILES.contains(&name))
            {
                note.push_str(&format!("{name} {}\n", value.trim_matches(['"', '\''])));
            }
        }
    }
    note
}

/// Returns the paths a pattern stands for; only its last part may hold a `*`.
pub(super) fn glob(pattern: &str, reads: &mut Reads<'_>) -> Vec<String> {
    let Some((directory, name)) = pattern.rsplit_once('/').filter(|(_, name)| name.contains('*')) else {
        return Vec::from_iter(reads.keep(pattern.len()).then(|| pattern.to_owned()));
    };
    let (before, after) = name.split_once('*').unwrap_or((name, ""));
    let names = reads.names(directory);
    let fits = |name: &&&str| {
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    names
        .iter()
        .filter(fits)
        .filter(|name| !name.starts_with('.'))
        .map(|name| format!("{directory}/{name}"))
        .take_while(|path| reads.keep(path.len()))
        .collect()
}
