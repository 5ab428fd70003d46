//! Go: what its runtime and standard library open by themselves, whichever libc there is.

use super::Predictor;
use super::command::Program;
use super::passing::Passing;
use super::reads::Reads;

/// What stands at the start of the data of each program that Go's linker made (`debug/buildinfo`).
const MARK: &[u8] = b"\xff Go buildinf:";
/// Bytes of the data among which the mark is.
pub(crate) const MARKED: u64 = 64 << 10;
/// Packages, and how the name of a function begins that is in a program which opens files by them.
const PACKAGES: [(&str, &[u8]); 4] = [
    ("net", b"net.(*conf)"),
    ("crypto/x509", b"crypto/x509.loadSystemRoots"),
    ("time", b"time.initLocal"),
    ("mime", b"mime.TypeByExtension"),
];
/// Those that a program is taken to have whose functions' names lie too far back to be seen.
const ASSUMED: [&str; 3] = ["net", "crypto/x509", "time"];

/// Where Go looks for root certificates, for types of files and for time zones: the first that is there counts.
const CERTIFICATES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/cacert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
];
const TYPES: [&str; 6] = [
    "usr/local/share/mime/globs2",
    "usr/share/mime/globs2",
    "etc/mime.types",
    "etc/apache2/mime.types",
    "etc/apache/mime.types",
    "etc/httpd/conf/mime.types",
];
const ZONES: [&str; 4] =
    ["usr/share/zoneinfo", "usr/share/lib/zoneinfo", "usr/lib/locale/TZ", "etc/zoneinfo"];

/// Programs written in Go.
#[derive(Debug)]
pub(crate) struct Go;

impl Predictor for Go {
    fn note(&self, _: &Passing<'_>) -> Option<String> {
        None
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        let note = reads.note(&program.file);
        let uses = |name: &str| note.lines().any(|line| line.strip_prefix("go ") == Some(name));
        if uses("time") {
            zone(program, reads);
        }
        if uses("net") {
            for path in ["etc/hosts", "etc/resolv.conf", "etc/nsswitch.conf"] {
                reads.open(path, format_args!("{} is written in Go and looks names up", program.file));
            }
        }
        if uses("crypto/x509") {
            let named = reads.variable("SSL_CERT_FILE").map(str::to_owned);
            let candidates = named.as_deref().into_iter().chain(CERTIFICATES);
            first(candidates, "takes these authorities", program, reads);
        }
        if uses("mime") {
            first(TYPES.into_iter(), "knows files by their names", program, reads);
        }
    }
}

/// Adds the file of the time zone that the environment names, or of the image's own.
fn zone(program: &Program, reads: &mut Reads<'_>) {
    let zone = reads.variable("TZ").map(|zone| zone.trim_start_matches(':').to_owned());
    match zone.as_deref() {
        None => first(["etc/localtime"].into_iter(), "tells the time", program, reads),
        // No file is read for it.
        Some("" | "UTC") => {}
        Some(path) if path.starts_with('/') => first([path].into_iter(), "tells the time", program, reads),
        Some(zone) => {
            let paths = ZONES.map(|directory| format!("{directory}/{zone}"));
            first(paths.iter().map(String::as_str), "tells the time", program, reads);
        }
    }
}

fn first<'p>(mut paths: impl Iterator<Item = &'p str>, what: &str, program: &Program, reads: &mut Reads<'_>) {
    let reason = format!("{} is written in Go and {what}", program.file);
    paths.find(|path| reads.open(path, &reason).is_some());
}

/// Returns the packages by which a program opens files, if Go's linker made it; `data` is the start of what it may write to,
/// `head` the start of its `size` bytes.
pub(crate) fn packages(data: &[u8], head: &[u8], size: u64) -> Option<Vec<&'static str>> {
    // The mark stands on a multiple of 16.
    if !data.chunks(16).any(|bytes| bytes.starts_with(MARK)) {
        return None;
    }
    if size > head.len() as u64 {
        return Some(ASSUMED.to_vec());
    }
    let mut found = Vec::new();
    for name in
        head.split(|byte| *byte == 0).filter(|name| matches!(name.first(), Some(b'n' | b'c' | b't' | b'm')))
    {
        let package = PACKAGES.iter().find(|(_, start)| name.starts_with(start)).map(|(package, _)| *package);
        found.extend(package.filter(|package| !found.contains(package)));
    }
    Some(found)
}
