//! Logins: docker's `config.json`, podman's `auth.json`, and the helpers they name.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::Result;
use crate::name::DOCKER_HUB;

/// How long a helper may take if nobody says so: it may have to ask its user.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that is read of a helper's answer.
const ANSWER_SIZE: u64 = 1 << 20;
/// What docker calls its own registry.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The logins that the files hold or know how to get.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    files: Vec<File>,
    /// Where files were looked for, there or not.
    paths: Vec<PathBuf>,
    /// How long a helper may take.
    patience: Option<Duration>,
}

/// A login, and who said so.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) login: Login,
    /// For messages: a file, or a helper and the file that names it.
    pub(crate) place: String,
}

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password {
        user: String,
        password: String,
    },
    /// For the token service, in place of a password.
    Identity(String),
    /// For the registry itself.
    Registry(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
    #[serde(skip)]
    path: PathBuf,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("File").field(&self.path).finish()
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// Reads those of the files that exist; for each registry, the first that knows it counts.
    pub fn load(paths: &[PathBuf]) -> Result<Credentials> {
        let existing = paths.iter().filter(|path| path.exists());
        let files = existing.map(|path| File::load(path)).collect::<Result<_>>()?;
        Ok(Credentials { files, paths: paths.to_vec(), patience: None })
    }

    /// Reads what a variable of the environment holds in place of a file; `place` is its name, for messages.
    pub fn parse(place: &str, text: &str) -> Result<Credentials> {
        let file = File::parse(Path::new(place), text.as_bytes())?;
        Ok(Credentials { files: vec![file], paths: vec![place.into()], patience: None })
    }

    /// Returns these logins, and those of `others` for registries that these do not know.
    pub fn followed_by(mut self, others: Credentials) -> Credentials {
        self.files.extend(others.files);
        self.paths.extend(others.paths);
        self
    }

    /// Returns whether the files name programs to ask.
    #[cfg(feature = "fuzz")]
    pub(crate) fn names_helpers(&self) -> bool {
        self.files.iter().any(|file| !file.cred_helpers.is_empty() || !file.creds_store.is_empty())
    }

    /// Gives up a helper that says nothing for so long; without it, for a minute.
    pub fn patience(self, patience: Duration) -> Credentials {
        Credentials { patience: Some(patience), ..self }
    }

    /// Returns the login for the repository `path` of `host`. Helpers are started and waited for.
    pub(crate) fn find(&self, host: &str, path: &str) -> Result<Option<Known>> {
        for file in &self.files {
            if let Some(known) = file.find(host, path, self.patience.unwrap_or(PATIENCE))? {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// Says for a message where a login was looked for in vain.
    pub(crate) fn searched(&self) -> String {
        let listed = |paths: &mut dyn Iterator<Item = &PathBuf>| {
            paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        match (self.files.is_empty(), self.paths.is_empty()) {
            (_, true) => "no login is known".to_owned(),
            (true, _) => format!("no login is known: there is no {}", listed(&mut self.paths.iter())),
            (false, _) => {
                let files = listed(&mut self.files.iter().map(|file| &file.path));
                format!("no login for it is in {files}")
            }
        }
    }
}

impl File {
    fn load(path: &Path) -> Result<File> {
        File::parse(path, &restow_content::file::read(path, 4 << 20)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<File> {
        // An empty file is what some installers leave.
        if bytes.trim_ascii().is_empty() {
            return Ok(File { path: path.to_owned(), ..File::default() });
        }
        // The message of the parser could quote a secret, its place does not.
        let malformed = |error: serde_json::Error| Error::Configuration {
            path: path.to_owned(),
            problem: format!(
                "it is not what it should be at line {} column {}",
                error.line(),
                error.column()
            ),
        };
        let file: File = serde_json::from_slice(bytes).map_err(malformed)?;
        Ok(File { path: path.to_owned(), ..file })
    }

    fn find(&self, host: &str, path: &str, patience: Duration) -> Result<Option<Known>> {
        let own = self.path.display();
        let asked = |helper: &str, server: &str| -> Result<Option<Known>> {
            let place = format!("docker-credential-{helper}, which {own} names");
            Ok(ask(helper, server, patience)?.map(|login| Known { login, place }))
        };
        for key in keys(host, path) {
            // As docker has it: a helper for just this registry first, then the store for all, then the file.
            if let Some((named, helper)) =
                self.cred_helpers.iter().find(|(named, _)| normalized(named) == key)
            {
                let server = if key == DOCKER_HUB { DOCKER_HUB_KEY } else { named };
                return asked(helper, server);
            }
            // Stores go by hosts.
            if !self.creds_store.is_empty() && !key.contains('/') {
                let server = if key == DOCKER_HUB { DOCKER_HUB_KEY } else { &key };
                if let Some(known) = asked(&self.creds_store, server)? {
                    return Ok(Some(known));
                }
            }
            let entry = self.auths.iter().find(|(named, _)| normalized(named) == key);
            if let Some(login) = entry.and_then(|(_, entry)| entry.login()) {
                return Ok(Some(Known { login, place: own.to_string() }));
            }
        }
        Ok(None)
    }
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if !self.identitytoken.is_empty() {
            return Some(Login::Identity(self.identitytoken.clone()));
        }
        if !self.registrytoken.is_empty() {
            return Some(Login::Registry(self.registrytoken.clone()));
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = match pair {
            Some((user, password)) => (user, password.trim_end_matches('\0')),
            None => (self.username.as_str(), self.password.as_str()),
        };
        let known = !user.is_empty() || !password.is_empty();
        known.then(|| Login::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Returns the keys under which a repository's login may stand, the most special first.
fn keys(host: &str, path: &str) -> Vec<String> {
    let mut keys = vec![format!("{host}/{path}")];
    while let Some((shorter, _)) = keys.last().and_then(|key| key.rsplit_once('/')) {
        keys.push(shorter.to_owned());
    }
    keys
}

/// Returns the key in podman's form: without a scheme and docker's version.
fn normalized(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key.split_once('/') {
        _ if ["index.docker.io", "registry-1.docker.io"].contains(&key) => DOCKER_HUB.to_owned(),
        Some(("index.docker.io" | "registry-1.docker.io", rest)) => format!("{DOCKER_HUB}/{rest}"),
        _ => key.to_owned(),
    }
}

/// Asks a helper for the login of a server.
///
/// <https://github.com/docker/docker-credential-helpers#development>
fn ask(helper: &str, server: &str, patience: Duration) -> Result<Option<Login>> {
    let program = format!("docker-credential-{helper}");
    let failed = |problem: String| Error::CredentialHelper { helper: program.clone(), problem };
    if helper.contains('/') {
        return Err(failed("its name is a path".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that needs no input may be gone already.
        let _ = writeln!(input, "{server}");
    }
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut answer = Vec::new();
            let _ = sender.send(output.take(ANSWER_SIZE).read_to_end(&mut answer).map(|_| answer));
        });
    }
    let Ok(answer) = receiver.recv_timeout(patience) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(format!("it said nothing for {} s", patience.as_secs())));
    };
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer);
    if !status.success() {
        // Its words for "I know nobody there" are the protocol's.
        if answer.contains("credentials not found") || answer.trim().is_empty() {
            return Ok(None);
        }
        return Err(failed(answer.trim().chars().filter(|c| !c.is_control()).take(200).collect()));
    }
    let document: Value =
        serde_json::from_str(&answer).map_err(|_| failed("its answer is not JSON".to_owned()))?;
    let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
    let (user, secret) = (text("Username"), text("Secret"));
    Ok(match (user.as_str(), secret.is_empty()) {
        (_, true) => None,
        ("<token>", _) => Some(Login::Identity(secret)),
        _ => Some(Login::Password { user, password: secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Credentials> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Credentials::load(&[file.path().to_owned()])
    }

    fn find(credentials: &Credentials, host: &str, path: &str) -> Option<Login> {
        credentials.find(host, path).unwrap().map(|known| known.login)
    }

    fn password(user: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: "p:w".to_owned() })
    }

    fn auth(user: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(format!("{user}:p:w")))
    }

    #[test]
    fn the_most_special_key_counts() {
        let text = format!(
            r#"{{"auths":{{"quay.io/ns/repo":{},"quay.io/ns":{},"quay.io":{},"https://index.docker.io/v1/":{},
               "http://old.example.org/v2/":{},"empty.example.org":{{}}}}}}"#,
            auth("repo"),
            auth("ns"),
            auth("host"),
            auth("hub"),
            auth("old"),
        );
        let credentials = file(&text).unwrap();
        for (host, path, user) in [
            ("quay.io", "ns/repo", Some("repo")),
            ("quay.io", "ns/repo/below", Some("repo")),
            ("quay.io", "ns/other", Some("ns")),
            ("quay.io", "nsx/other", Some("host")),
            ("docker.io", "library/debian", Some("hub")),
            ("old.example.org", "a", Some("old")),
            ("empty.example.org", "a", None),
            ("example.org", "a", None),
        ] {
            assert_eq!(find(&credentials, host, path), user.and_then(password), "{host}/{path}");
        }
    }

    #[test]
    fn the_first_file_that_knows_counts_and_missing_ones_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a"), format!(r#"{{"auths":{{"a.org":{}}}}}"#, auth("first"))).unwrap();
        std::fs::write(path("b"), format!(r#"{{"auths":{{"a.org":{0},"b.org":{0}}}}}"#, auth("second")))
            .unwrap();
        std::fs::write(path("c"), "").unwrap();
        let credentials = Credentials::load(&["missing", "c", "a", "b"].map(path)).unwrap();
        assert_eq!(find(&credentials, "a.org", "x"), password("first"));
        assert_eq!(find(&credentials, "b.org", "x"), password("second"));
    }

    #[test]
    fn tokens_stand_in_for_passwords() {
        let credentials = file(
            r#"{"auths":{"i.org":{"auth":"YTpi","identitytoken":"id"},"r.org":{"registrytoken":"reg"},
                "u.org":{"username":"u","password":"p:w"}}}"#,
        )
        .unwrap();
        assert_eq!(find(&credentials, "i.org", "x"), Some(Login::Identity("id".into())));
        assert_eq!(find(&credentials, "r.org", "x"), Some(Login::Registry("reg".into())));
        assert_eq!(find(&credentials, "u.org", "x"), password("u"));
    }

    #[test]
    fn a_variable_holds_what_a_file_would_and_stands_between_files() {
        let text = |user: &str| format!(r#"{{"auths":{{"{user}.org":{0},"a.org":{0}}}}}"#, auth(user));
        let variable = Credentials::parse("VARIABLE", &text("variable")).unwrap();
        let found = |credentials: &Credentials, host| find(credentials, host, "x");
        let first = file(&text("first")).unwrap().followed_by(variable.clone());
        assert_eq!(found(&first, "a.org"), password("first"));
        assert_eq!(found(&first, "variable.org"), password("variable"));
        let second = variable.followed_by(file(&text("last")).unwrap());
        assert_eq!(found(&second, "a.org"), password("variable"));
        assert_eq!(found(&second, "last.org"), password("last"));
        assert!(second.searched().contains("in VARIABLE, "), "{}", second.searched());
        let error = Credentials::parse("VARIABLE", r#"{"auths":"c2VjcmV0""#).unwrap_err().to_string();
        assert!(error.contains("VARIABLE") && !error.contains("c2Vj"), "{error}");
    }

    #[test]
    fn neither_messages_nor_debug_output_hold_a_secret() {
        let error = file(r#"{"auths":{"a.org":{"auth":"c2VjcmV0"},}}"#).unwrap_err();
        assert!(
            matches!(&error, Error::Configuration { .. }) && !error.to_string().contains("c2Vj"),
            "{error}"
        );
        let credentials = file(r#"{"auths":{"a.org":{"auth":"dXNlcjpzZWNyZXQ="}}}"#).unwrap();
        let login = find(&credentials, "a.org", "x");
        assert!(!format!("{credentials:?} {login:?}").contains("secret"));
    }

    #[test]
    fn a_helper_that_is_missing_or_a_path_is_an_error() {
        for helper in ["surely-not-installed", "../../bin/sh"] {
            let credentials = file(&format!(r#"{{"credHelpers":{{"a.org":"{helper}"}}}}"#)).unwrap();
            let error = credentials.find("a.org", "x").unwrap_err();
            assert!(matches!(error, Error::CredentialHelper { .. }), "{error}");
            assert_eq!(find(&credentials, "b.org", "x"), None);
        }
    }
}
