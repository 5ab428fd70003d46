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
use super::http::describe;
use super::payload::Payload;
use crate::Error;
use crate::Repository;
use crate::Result;

/// The most of a token's answer that is read.
const TOKEN_ANSWER_SIZE: u64 = 1 << 20;
/// The longest token that is sent on.
const TOKEN_SIZE: usize = 64 << 10;
/// How long a token lives where its issuer does not say.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
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
        "bearer" => Some(Challenge::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
        }),
        _ => None,
    };
    found.into_iter().filter_map(challenge).collect()
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
    /// By the scopes that each is for, in order.
    tokens: BTreeMap<BTreeSet<String>, Token>,
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
        let Challenge::Bearer { realm, service } = challenge else {
            return basic(self.login(http, endpoint).await?.as_deref());
        };
        let wanted: BTreeSet<String> = scopes.iter().cloned().collect();
        if let Some(token) = registry.token(&wanted, http.settings.clock.now()) {
            return Ok(Some(token));
        }
        let _alone = registry.fetching.lock().await;
        if let Some(token) = registry.token(&wanted, http.settings.clock.now()) {
            return Ok(Some(token));
        }
        let login = self.login(http, endpoint).await?;
        let issuer = Issuer { http, endpoint, realm: &realm, service: service.as_deref(), login };
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
        challenge: Option<Challenge>,
        sent: Option<&HeaderValue>,
        request: &str,
    ) -> Result<bool> {
        let registry = self.registry(endpoint);
        let Some(challenge) = challenge else { return Ok(false) };
        if let Challenge::Bearer { realm, .. } = &challenge {
            check_realm(realm, endpoint, request)?;
        }
        let mut state = registry.state();
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

/// Refuses a place for tokens to which a password must not go.
fn check_realm(realm: &str, endpoint: &Endpoint, request: &str) -> Result<()> {
    let problem = match Url::parse(realm) {
        Err(_) => "its tokens come from no URL".to_owned(),
        Ok(url) if url.scheme() == "https" => return Ok(()),
        // Whoever listens in on the one can listen in on the other.
        Ok(url) if url.scheme() == "http" && endpoint.base.scheme() == "http" => return Ok(()),
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

/// Where tokens come from.
struct Issuer<'a> {
    http: &'a Http,
    endpoint: &'a Endpoint,
    realm: &'a str,
    service: Option<&'a str>,
    login: Option<Arc<Known>>,
}

impl Issuer<'_> {
    async fn fetch(&self, scopes: &BTreeSet<String>) -> Result<Token> {
        let login = self.login.as_ref().map(|known| &known.login);
        if let Some(Login::Registry(token)) = login {
            return self.token(token, None);
        }
        let request = describe(&Method::GET, &self.endpoint.base);
        check_realm(self.realm, self.endpoint, &request)?;
        let mut url = Url::parse(self.realm).map_err(|error| Error::Protocol {
            request: request.clone(),
            problem: format!("its tokens come from no URL: {error}"),
        })?;
        let mut pairs: Vec<(&str, &str)> = self.service.iter().map(|service| ("service", *service)).collect();
        let mut headers = HeaderMap::new();
        let mut payload = Payload::None;
        let method = match login {
            Some(Login::Identity(token)) => {
                let scope = scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
                pairs.extend([("grant_type", "refresh_token"), ("refresh_token", token)]);
                pairs.extend([("client_id", "restow"), ("scope", &scope)]);
                let mut form = Url::parse("form:").map_err(|_| self.malformed("no form"))?;
                form.query_pairs_mut().extend_pairs(pairs);
                payload = Payload::Bytes(Bytes::from(form.query().unwrap_or_default().to_owned()));
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(header::CONTENT_TYPE, form);
                Method::POST
            }
            _ => {
                pairs.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                url.query_pairs_mut().extend_pairs(pairs);
                headers.extend(basic(self.login.as_deref())?.map(|value| (header::AUTHORIZATION, value)));
                Method::GET
            }
        };
        let trust = self.endpoint.trust_at(&url);
        let budget = self.http.budget(&url, self.endpoint);
        let attempt = Attempt {
            kind: RequestKind::Token,
            method: &method,
            url: &url,
            headers,
            payload: &payload,
            again: true,
            trust: &trust,
            budget: &budget,
        };
        let response = self.http.attempts(attempt).await?;
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
        let body = response.bytes(TOKEN_ANSWER_SIZE).await?;
        let body = body.map_err(|broken| Error::Connection {
            request: describe(&method, &url),
            attempts: 1,
            source: Box::new(broken),
        })?;
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

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read_as_they_are_written() {
        let choose = |texts: &[&str]| Challenge::choose(texts.iter().copied());
        for (text, expected) in [
            (&[r#"Basic realm="x""#][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#],
                Some(bearer("https://a/t", Some("s"))),
            ),
            (&[r#"BEARER Realm = "https://a/\"t" , x=y"#], Some(bearer("https://a/\"t", None))),
            (&[r#"Basic realm="a, b", Bearer realm=https://a/t"#], Some(bearer("https://a/t", None))),
            (&["Basic realm=x", "Bearer realm=https://a/t"], Some(bearer("https://a/t", None))),
            (&["Negotiate"], None),
            (&["Bearer"], None),
            (&["Bearer realm="], Some(bearer("", None))),
            (&["=,=,\"\"", ""], None),
            (&[r#"Bearer realm="unterminated"#], Some(bearer("unterminated", None))),
        ] {
            assert_eq!(choose(text), expected, "{text:?}");
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
