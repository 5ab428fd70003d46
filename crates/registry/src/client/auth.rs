//! Who we are to a registry: challenges, tokens and the scopes they are for.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header;
use reqwest::header::HeaderMap;
use reqwest::header::HeaderValue;
use serde_json::Value;

use super::Endpoint;
use super::RequestKind;
use super::credentials::Known;
use super::credentials::Login;
use super::http::Attempt;
use super::http::Http;
use super::http::Response;
use super::http::Tries;
use super::http::describe;
use super::payload::Payload;
use crate::Error;
use crate::Repository;
use crate::Result;

/// The most of a token's answer that is read.
const TOKEN_ANSWER_SIZE: u64 = 1 << 20;
/// The most that a challenge may ask for.
const SCOPES_SIZE: usize = 4 << 10;
/// The longest token that is sent on.
const TOKEN_SIZE: usize = 64 << 10;
/// How long a token lives where its issuer does not say.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// Where tokens come from, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    /// What a token for the refused request must be for.
    pub(crate) scopes: BTreeSet<String>,
}

impl Challenge {
    /// Returns the best challenge of those in the headers: a token rather than a password.
    pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let mut found: Vec<_> = headers.flat_map(challenges).collect();
        found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
        found.into_iter().next()
    }
}

/// Parses a header, in which several challenges may stand one after another.
///
/// <https://www.rfc-editor.org/rfc/rfc9110#name-www-authenticate>
fn challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            found.push((word.to_ascii_lowercase(), BTreeMap::new()));
            rest = after;
            continue;
        };
        let (value, after) = parameter(value.trim_start());
        if let Some((_, parameters)) = found.last_mut() {
            parameters.insert(word.to_ascii_lowercase(), value);
        }
        rest = after;
    }
    let challenge = |(scheme, mut parameters): (String, BTreeMap<String, String>)| match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer(Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
            scopes: parameters.get("scope").map(|text| scopes(text)).unwrap_or_default(),
        })),
        _ => None,
    };
    found.into_iter().filter_map(challenge).collect()
}

/// Splits the scopes of a challenge. More than any request needs are none.
fn scopes(text: &str) -> BTreeSet<String> {
    let scopes: BTreeSet<_> = text.split_whitespace().map(str::to_owned).collect();
    if text.len() <= SCOPES_SIZE { scopes } else { BTreeSet::new() }
}

/// Returns what a token has to be for, by what we think and what the registry says: all that either names, with all
/// actions that either wants. A repository that the registry calls by another path, as a mirror does that keeps others
/// below a path of its own, is asked for by that alone.
pub(crate) fn merged(wanted: &BTreeSet<String>, named: &BTreeSet<String>) -> BTreeSet<String> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let parts: Vec<_> = named.iter().filter_map(|scope| parts(scope)).collect();
    for (what, actions) in wanted.iter().filter_map(|scope| scope.rsplit_once(':')) {
        let other_path = |named: &str| {
            let name = |what: &str| Some(format!("/{}", what.strip_prefix("repository:")?));
            let (Some(ours), Some(theirs)) = (name(what), name(named)) else { return false };
            ours != theirs && (theirs.ends_with(&ours) || ours.ends_with(&theirs))
        };
        let there = parts.iter().map(|(named, _)| *named).find(|named| other_path(named));
        let exact = parts.iter().any(|(named, _)| *named == what);
        all.entry(there.filter(|_| !exact).unwrap_or(what)).or_default().extend(actions.split(','));
    }
    for (what, actions) in parts {
        all.entry(what).or_default().extend(actions.split(','));
    }
    let joined = |actions: BTreeSet<&str>| actions.into_iter().collect::<Vec<_>>().join(",");
    all.into_iter().map(|(what, actions)| format!("{what}:{}", joined(actions))).collect()
}

/// Splits a scope, `TYPE:NAME:ACTION,…`, into what it is about and the actions.
fn parts(scope: &str) -> Option<(&str, &str)> {
    scope.rsplit_once(':').filter(|(what, actions)| what.contains(':') && !actions.is_empty())
}

/// Splits a value, quoted or not, from what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[place + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

/// What is known of each registry's wishes, and the tokens there are.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    registries: Mutex<HashMap<String, Arc<Registry>>>,
}

#[derive(Default)]
struct Registry {
    state: Mutex<State>,
    /// Held while a token is fetched, so that all who need one wait for the same.
    fetching: tokio::sync::Mutex<()>,
    /// By repository, as far as they were looked up: a helper is asked once.
    logins: tokio::sync::Mutex<HashMap<String, Option<Arc<Known>>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    /// What a token must be for, by what we would ask for, where the registry said so.
    corrected: BTreeMap<BTreeSet<String>, BTreeSet<String>>,
    /// By the scopes that each is for, in order.
    tokens: BTreeMap<BTreeSet<String>, Token>,
    /// Whether its tokens are had by POST alone.
    by_post: bool,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    expires: Duration,
}

impl Auth {
    fn registry(&self, endpoint: &Endpoint) -> Arc<Registry> {
        let key = format!("{} {}", endpoint.base, endpoint.host);
        self.registries.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// Returns what to send along, once it is known that anything is.
    pub(crate) async fn header(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>> {
        let registry = self.registry(endpoint);
        let Some(challenge) = registry.challenge() else { return Ok(None) };
        let Challenge::Bearer(bearer) = challenge else {
            return basic(self.login(http, endpoint).await?.as_deref());
        };
        let wanted = registry.wanted(scopes);
        if let Some(token) = registry.token(&wanted, http.settings.clock.now()) {
            return Ok(Some(token));
        }
        let _alone = registry.fetching.lock().await;
        if let Some(token) = registry.token(&wanted, http.settings.clock.now()) {
            return Ok(Some(token));
        }
        let login = self.login(http, endpoint).await?;
        let issuer = Issuer { http, endpoint, registry: &registry, bearer: &bearer, login };
        let token = issuer.fetch(&wanted).await?;
        registry.state().tokens.insert(wanted, token.clone());
        Ok(Some(token.value))
    }

    async fn login(&self, http: &Http, endpoint: &Endpoint) -> Result<Option<Arc<Known>>> {
        let registry = self.registry(endpoint);
        let mut logins = registry.logins.lock().await;
        if let Some(known) = logins.get(&endpoint.path) {
            return Ok(known.clone());
        }
        let credentials = http.settings.credentials.clone();
        let (host, path) = (endpoint.host.clone(), endpoint.path.clone());
        // A helper is a program of its own.
        let found = tokio::task::spawn_blocking(move || credentials.find(&host, &path)).await;
        let known = found.unwrap_or_else(|_| Ok(None))?.map(Arc::new);
        logins.insert(endpoint.path.clone(), known.clone());
        Ok(known)
    }

    /// Says for a message by which login somebody was refused, or where none was found.
    pub(crate) async fn explain(&self, http: &Http, endpoint: &Endpoint) -> String {
        match self.login(http, endpoint).await {
            Ok(Some(known)) => format!("the login is that of {}", known.place),
            Ok(None) => http.settings.credentials.searched(),
            Err(error) => error.to_string(),
        }
    }

    /// Takes note of a challenge that answered a request with this authorization. Returns whether another try
    /// may do better.
    pub(crate) fn challenged(
        &self,
        endpoint: &Endpoint,
        response: &Response,
        scopes: &[String],
        sent: Option<&HeaderValue>,
    ) -> Result<bool> {
        let registry = self.registry(endpoint);
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenge = Challenge::choose(challenges.iter().filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else { return Ok(false) };
        let mut state = registry.state();
        if let Challenge::Bearer(bearer) = &challenge {
            check_realm(&bearer.realm, endpoint, response.request())?;
            let wanted: BTreeSet<_> = scopes.iter().cloned().collect();
            let corrected = merged(&wanted, &bearer.scopes);
            if corrected != wanted {
                state.corrected.insert(wanted, corrected);
            }
        }
        let basic_again = challenge == Challenge::Basic && sent.is_some();
        if let Some(sent) = sent {
            state.tokens.retain(|_, token| token.value != *sent);
        }
        state.challenge = Some(challenge);
        // The same password would be refused again.
        Ok(!basic_again)
    }
}

impl Registry {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn challenge(&self) -> Option<Challenge> {
        self.state().challenge.clone()
    }

    /// Returns what a token for these scopes has to be for, as far as the registry has said.
    fn wanted(&self, scopes: &[String]) -> BTreeSet<String> {
        let wanted = scopes.iter().cloned().collect();
        self.state().corrected.get(&wanted).cloned().unwrap_or(wanted)
    }

    fn token(&self, wanted: &BTreeSet<String>, now: Duration) -> Option<HeaderValue> {
        let mut state = self.state();
        state.tokens.retain(|_, token| token.expires > now);
        let enough = |has: &BTreeSet<String>| {
            wanted.iter().all(|wanted| has.iter().any(|scope| covers(scope, wanted)))
        };
        let token = state.tokens.iter().find(|(has, _)| enough(has));
        token.map(|(_, token)| token.value.clone())
    }
}

/// Returns whether a token for `scope` does for `wanted`: the same thing, and all actions.
fn covers(scope: &str, wanted: &str) -> bool {
    let split =
        |scope: &str| scope.rsplit_once(':').map(|(what, actions)| (what.to_owned(), actions.to_owned()));
    match (split(scope), split(wanted)) {
        (Some((what, has)), Some((other, wanted))) => {
            what == other
                && wanted.split(',').all(|action| has.split(',').any(|has| has == action || has == "*"))
        }
        _ => scope == wanted,
    }
}

/// Returns the place of tokens, or refuses one to which a password must not go.
fn check_realm(realm: &str, endpoint: &Endpoint, request: &str) -> Result<Url> {
    let problem = match Url::parse(realm) {
        Err(_) => "its tokens come from no URL".to_owned(),
        Ok(url) if url.scheme() == "https" => return Ok(url),
        // Whoever listens in on the one can listen in on the other.
        Ok(url) if url.scheme() == "http" && endpoint.base.scheme() == "http" => return Ok(url),
        Ok(url) => format!("its tokens come by {} from {}", url.scheme(), url.host_str().unwrap_or_default()),
    };
    Err(Error::Protocol { request: request.to_owned(), problem })
}

fn basic(known: Option<&Known>) -> Result<Option<HeaderValue>> {
    let Some(Login::Password { user, password }) = known.map(|known| &known.login) else { return Ok(None) };
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok();
    value.iter_mut().for_each(|value| value.set_sensitive(true));
    Ok(value)
}

/// Who issues tokens.
struct Issuer<'a> {
    http: &'a Http,
    endpoint: &'a Endpoint,
    registry: &'a Registry,
    bearer: &'a Bearer,
    login: Option<Arc<Known>>,
}

impl Issuer<'_> {
    async fn fetch(&self, scopes: &BTreeSet<String>) -> Result<Token> {
        let login = self.login.as_ref().map(|known| &known.login);
        if let Some(Login::Registry(token)) = login {
            return self.token(token, None);
        }
        let request = describe(&Method::GET, &self.endpoint.base);
        let url = check_realm(&self.bearer.realm, self.endpoint, &request)?;
        let identity = matches!(login, Some(Login::Identity(_)));
        let password = matches!(login, Some(Login::Password { .. }));
        if identity || (password && self.registry.state().by_post) {
            return self.read(self.post(&url, scopes).await?, scopes).await;
        }
        let response = self.get(&url, scopes).await?;
        let unknown = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        if !(unknown && password) {
            return self.read(response, scopes).await;
        }
        let token = self.read(self.post(&url, scopes).await?, scopes).await?;
        self.registry.state().by_post = true;
        Ok(token)
    }

    /// Asks by the scheme of the first version.
    async fn get(&self, url: &Url, scopes: &BTreeSet<String>) -> Result<Response> {
        let mut url = url.clone();
        let service = self.bearer.service.iter().map(|service| ("service", service.as_str()));
        let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
        url.query_pairs_mut().extend_pairs(service.chain(scopes));
        let headers = basic(self.login.as_deref())?.map(|value| (header::AUTHORIZATION, value));
        self.send(&Method::GET, &url, headers.into_iter().collect(), &Payload::None).await
    }

    /// Asks by the scheme of OAuth.
    ///
    /// <https://distribution.github.io/distribution/spec/auth/oauth/>
    async fn post(&self, url: &Url, scopes: &BTreeSet<String>) -> Result<Response> {
        let scope = scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let mut pairs = vec![("client_id", "restow"), ("scope", &scope)];
        pairs.extend(self.bearer.service.iter().map(|service| ("service", service.as_str())));
        match self.login.as_ref().map(|known| &known.login) {
            Some(Login::Identity(token)) => {
                pairs.extend([("grant_type", "refresh_token"), ("refresh_token", token)]);
            }
            Some(Login::Password { user, password }) => {
                pairs.extend([("grant_type", "password"), ("username", user), ("password", password)]);
            }
            _ => {}
        }
        let mut form = Url::parse("form:").map_err(|_| self.malformed("no form"))?;
        form.query_pairs_mut().extend_pairs(pairs);
        let payload = Payload::Bytes(Bytes::from(form.query().unwrap_or_default().to_owned()));
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]);
        self.send(&Method::POST, url, headers, &payload).await
    }

    async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        payload: &Payload,
    ) -> Result<Response> {
        let trust = self.endpoint.trust_at(url);
        let budget = self.http.budget(url, self.endpoint);
        let attempt = Attempt {
            kind: RequestKind::Token,
            method,
            url,
            headers,
            payload,
            tries: Tries::Usual,
            spare: self.endpoint.spare.then_some(&self.endpoint.base),
            trust: &trust,
            budget: &budget,
        };
        self.http.attempts(attempt).await
    }

    /// Takes the token from an answer.
    async fn read(&self, response: Response, scopes: &BTreeSet<String>) -> Result<Token> {
        if !response.status().is_success() {
            let known = match &self.login {
                Some(known) => format!("the login of {} is refused", known.place),
                None => self.http.settings.credentials.searched(),
            };
            let error = response.into_error().await;
            return Err(Error::Unauthorized {
                host: self.endpoint.host.clone(),
                what: self.what(scopes),
                problem: format!("{known} ({error})"),
            });
        }
        let request = response.request().to_owned();
        let body = response.bytes(TOKEN_ANSWER_SIZE).await?;
        let body =
            body.map_err(|broken| Error::Connection { request, attempts: 1, source: Box::new(broken) })?;
        let document: Value = serde_json::from_slice(&body).map_err(|_| self.malformed("is not JSON"))?;
        let token = ["token", "access_token"].into_iter().find_map(|key| document[key].as_str());
        let token =
            token.filter(|token| !token.is_empty()).ok_or_else(|| self.malformed("holds no token"))?;
        self.token(token, document["expires_in"].as_u64())
    }

    fn token(&self, token: &str, seconds: Option<u64>) -> Result<Token> {
        if token.len() > TOKEN_SIZE {
            return Err(self.malformed(&format!("holds a token of {} bytes", token.len())));
        }
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|_| self.malformed("holds a token that cannot be sent"))?;
        value.set_sensitive(true);
        let life = seconds.map_or(TOKEN_LIFE, Duration::from_secs).max(Duration::from_secs(10));
        // Some time passes on the way, and clocks do not go at one pace.
        let expires = self.http.settings.clock.now().saturating_add(life.mul_f64(0.9));
        Ok(Token { value, expires })
    }

    fn what(&self, scopes: &BTreeSet<String>) -> String {
        scopes.iter().next().cloned().unwrap_or_else(|| self.endpoint.path.clone())
    }

    fn malformed(&self, problem: &str) -> Error {
        Error::Unauthorized {
            host: self.endpoint.host.clone(),
            what: self.endpoint.path.clone(),
            problem: format!("the answer of the token service {problem}"),
        }
    }
}

/// Returns the scope for reading a repository, as it is called at `endpoint`.
pub(crate) fn pull(endpoint: &Endpoint) -> String {
    format!("repository:{}:pull", endpoint.path)
}

/// Returns the scope for writing to a repository.
pub(crate) fn push(endpoint: &Endpoint) -> String {
    format!("repository:{}:pull,push", endpoint.path)
}

/// Returns the scope for taking blobs from another repository of the same registry.
pub(crate) fn pull_from(repository: &Repository) -> String {
    format!("repository:{}:pull", repository.path())
}

/// Returns the scope for removing from a repository.
pub(crate) fn delete(endpoint: &Endpoint) -> String {
    format!("repository:{}:delete", endpoint.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scopes: &str) -> BTreeSet<String> {
        scopes.split_whitespace().map(str::to_owned).collect()
    }

    fn bearer(realm: &str, service: Option<&str>, scopes: &str) -> Challenge {
        let (realm, service) = (realm.into(), service.map(str::to_owned));
        Challenge::Bearer(Bearer { realm, service, scopes: set(scopes) })
    }

    #[test]
    fn challenges_are_read_as_they_are_written() {
        let choose = |texts: &[&str]| Challenge::choose(texts.iter().copied());
        for (text, expected) in [
            (&[r#"Basic realm="x""#][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#],
                Some(bearer("https://a/t", Some("s"), "repository:a/b:pull,push")),
            ),
            (&[r#"BEARER Realm = "https://a/\"t" , x=y"#], Some(bearer("https://a/\"t", None, ""))),
            (&[r#"Basic realm="a, b", Bearer realm=https://a/t"#], Some(bearer("https://a/t", None, ""))),
            (&["Basic realm=x", "Bearer realm=https://a/t"], Some(bearer("https://a/t", None, ""))),
            (&["Negotiate"], None),
            (&["Bearer"], None),
            (&["Bearer realm="], Some(bearer("", None, ""))),
            (&["=,=,\"\"", ""], None),
            (&[r#"Bearer realm="unterminated"#], Some(bearer("unterminated", None, ""))),
        ] {
            assert_eq!(choose(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_the_registry_says_of_a_scope_counts() {
        for (wanted, named, expected) in [
            ("repository:a:pull", "", "repository:a:pull"),
            ("repository:a:pull,push", "repository:a:pull", "repository:a:pull,push"),
            ("repository:a:pull", "repository:a:metadata_read", "repository:a:metadata_read,pull"),
            ("repository:a:pull,push", "repository:cache/a:pull", "repository:cache/a:pull,push"),
            ("repository:a:pull", "repository:cache/a:pull", "repository:cache/a:pull"),
            // Of a mount, only the one it goes to may be named.
            (
                "repository:a:pull,push repository:b:pull",
                "repository:a:pull,push",
                "repository:a:pull,push repository:b:pull",
            ),
            (
                "repository:a:pull,push repository:b:pull",
                "repository:x/a:pull,push repository:x/b:pull",
                "repository:x/a:pull,push repository:x/b:pull",
            ),
            ("repository:a/b:pull", "repository:b:pull", "repository:b:pull"),
            ("repository:a:pull", "repository:ca:pull", "repository:a:pull repository:ca:pull"),
            ("repository:a:pull", "registry:catalog:*", "registry:catalog:* repository:a:pull"),
            ("repository:a:pull", "aws", "repository:a:pull"),
            ("repository:a:pull", ":,: ::: ,", "repository:a:pull"),
        ] {
            assert_eq!(merged(&set(wanted), &set(named)), set(expected), "{wanted} | {named}");
        }
    }

    #[test]
    fn a_token_that_may_more_does_for_less() {
        for (scope, wanted, expected) in [
            ("repository:a:pull,push", "repository:a:pull", true),
            ("repository:a:pull", "repository:a:pull,push", false),
            ("repository:a:pull,push", "repository:a:push,pull", true),
            ("repository:a:*", "repository:a:delete", true),
            ("repository:a/b:pull", "repository:a:pull", false),
            ("registry:catalog:*", "registry:catalog:*", true),
        ] {
            assert_eq!(covers(scope, wanted), expected, "{scope} {wanted}");
        }
    }
}
