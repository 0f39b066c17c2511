//! Who may ask, and how much: keys, compared in constant time, each with its own limits.

use crate::App;
use crate::error::{ApiError, Result};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use subtle::ConstantTimeEq;

/// Characters of a key at least: fewer could be guessed.
const SHORTEST: usize = 16;

/// All keys. None: everybody may ask.
#[derive(Debug, Default)]
pub struct Keys(Vec<Arc<Key>>);

/// A key and what it may.
#[derive(Debug)]
struct Key {
    name: String,
    /// The key itself is not kept.
    digest: [u8; 32],
    limits: Limits,
    running: AtomicU32,
    /// Requests that may be made now, and as of when.
    allowance: Mutex<(f64, Instant)>,
}

/// What a key may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Limits {
    requests_per_minute: Option<u32>,
    concurrent: Option<u32>,
}

/// A file of keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    key: String,
    requests_per_minute: Option<u32>,
    concurrent: Option<u32>,
}

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {message}; a key is written as [[key]], name = \"...\", key = \"...\", and perhaps requests_per_minute and concurrent", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A key is too short.
    #[error("the key `{name}` has fewer than {SHORTEST} characters and could be guessed; take a longer one")]
    Short {
        /// Whose.
        name: String,
    },
    /// A limit of nothing.
    #[error("the key `{name}` may do nothing: its limits must be at least 1")]
    Nothing {
        /// Whose.
        name: String,
    },
    /// Two keys are the same.
    #[error("the keys `{first}` and `{second}` are the same")]
    Equal {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// There are no keys where there should be some.
    #[error("there are no keys in {0}, so nobody could ask")]
    Empty(String),
}

impl Keys {
    /// Keys from a TOML file: `[[key]]` with `name`, `key`, and perhaps `requests_per_minute` and `concurrent`.
    ///
    /// # Errors
    /// The file is missing or wrong; a key is too short or there twice.
    pub fn from_file(path: &Path) -> std::result::Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::File { path: path.into(), source })?;
        let file: KeyFile = toml::from_str(&text).map_err(|error| {
            // Only the message: the parser's picture of the place would show the key.
            KeyError::Format { path: path.into(), message: error.message().to_string() }
        })?;
        let entries = file.key.into_iter().map(|entry| {
            let limits = Limits { requests_per_minute: entry.requests_per_minute, concurrent: entry.concurrent };
            (entry.name, entry.key, limits)
        });
        Self::new(entries).and_then(|keys| keys.some(&path.display().to_string()))
    }

    /// Keys separated by commas, without limits.
    ///
    /// # Errors
    /// As [`Keys::from_file`].
    pub fn from_list(list: &str, origin: &str) -> std::result::Result<Self, KeyError> {
        let keys = list.split(',').map(str::trim).filter(|key| !key.is_empty()).enumerate();
        let entries = keys.map(|(index, key)| (format!("{origin}[{index}]"), key.to_string(), Limits::default()));
        Self::new(entries).and_then(|keys| keys.some(origin))
    }

    fn some(self, origin: &str) -> std::result::Result<Self, KeyError> {
        if self.0.is_empty() { Err(KeyError::Empty(origin.to_string())) } else { Ok(self) }
    }

    fn new(entries: impl Iterator<Item = (String, String, Limits)>) -> std::result::Result<Self, KeyError> {
        let mut keys: Vec<Arc<Key>> = Vec::new();
        for (name, key, limits) in entries {
            if key.chars().count() < SHORTEST {
                return Err(KeyError::Short { name });
            }
            if limits.requests_per_minute == Some(0) || limits.concurrent == Some(0) {
                return Err(KeyError::Nothing { name });
            }
            let digest = Sha256::digest(key.as_bytes()).into();
            if let Some(other) = keys.iter().find(|other| other.digest == digest) {
                return Err(KeyError::Equal { first: other.name.clone(), second: name });
            }
            let allowance = Mutex::new((limits.requests_per_minute.unwrap_or(0).into(), Instant::now()));
            keys.push(Arc::new(Key { name, digest, limits, running: AtomicU32::new(0), allowance }));
        }
        Ok(Self(keys))
    }

    /// Whether everybody may ask.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose key this is. All keys are compared in full, whichever it is.
    fn find(&self, sent: &str) -> Option<&Arc<Key>> {
        let digest: [u8; 32] = Sha256::digest(sent.as_bytes()).into();
        self.0.iter().fold(None, |found, key| if bool::from(key.digest.ct_eq(&digest)) { Some(key) } else { found })
    }
}

impl Key {
    /// One request more, if it may be made now; else seconds until it may.
    fn spend(&self, now: Instant) -> std::result::Result<(), f64> {
        let Some(rate) = self.limits.requests_per_minute.map(f64::from) else { return Ok(()) };
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(allowance.1).as_secs_f64() * rate / 60.0;
        *allowance = ((allowance.0 + earned).min(rate), now);
        if allowance.0 < 1.0 {
            return Err((1.0 - allowance.0) * 60.0 / rate);
        }
        allowance.0 -= 1.0;
        Ok(())
    }
}

/// Whoever asks; as long as this lives, the request counts among those of its key.
#[derive(Clone, Debug, Default)]
pub struct Guest(Option<Arc<Running>>);

#[derive(Debug)]
struct Running(Arc<Key>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guest {
    /// Cache blocks are shared only among requests of one key.
    pub fn salt(&self) -> u128 {
        let first = |digest: &[u8; 32]| digest.iter().take(16).fold(0, |sum, &byte| sum << 8 | u128::from(byte));
        self.0.as_ref().map_or(0, |running| first(&running.0.digest))
    }

    fn admit(keys: &Keys, headers: &HeaderMap) -> Result<Self> {
        let sent = sent_key(headers)?;
        if keys.is_open() {
            return Ok(Self(None));
        }
        let sent =
            sent.ok_or_else(|| ApiError::unauthorized("An API key is needed: send `Authorization: Bearer KEY`."))?;
        let key = keys.find(&sent).ok_or_else(|| ApiError::unauthorized("The API key is not known to this server."))?;
        let running = key.running.fetch_add(1, Ordering::Relaxed);
        let running_guard = Running(key.clone());
        if let Some(most) = key.limits.concurrent.filter(|most| running >= *most) {
            let message = format!("The key `{}` may have {most} requests running at once, and has them.", key.name);
            return Err(ApiError::rate_limited(message, 1));
        }
        key.spend(Instant::now()).map_err(|seconds| {
            let message = format!("The key `{}` has made its requests of this minute.", key.name);
            ApiError::rate_limited(message, seconds.ceil() as u64)
        })?;
        Ok(Self(Some(Arc::new(running_guard))))
    }
}

/// The key that was sent, as OpenAI's clients or Anthropic's do.
fn sent_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut authorization = headers.get_all(header::AUTHORIZATION).iter();
    let mut api_key = headers.get_all("x-api-key").iter();
    let (bearer, key) = (authorization.next(), api_key.next());
    if authorization.next().is_some() || api_key.next().is_some() {
        return Err(ApiError::malformed("There is more than one key in the request's headers; send one."));
    }
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let Some(bearer) = bearer.map(text) else { return Ok(key.map(text)) };
    match bearer.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(key.trim().to_string())),
        _ => Ok(key.map(text)),
    }
}

/// Lets those in who may ask.
pub async fn admit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Result<Response> {
    let guest = Guest::admit(&app.options.keys, request.headers())?;
    request.extensions_mut().insert(guest);
    Ok(next.run(request).await)
}

impl FromRequestParts<Arc<App>> for Guest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::internal("The request was not admitted."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn keys(limits: Limits) -> Keys {
        Keys::new([("a".to_string(), "0123456789abcdef".to_string(), limits)].into_iter()).unwrap()
    }

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_key_is_found_in_either_header_and_only_once() {
        let keys = keys(Limits::default());
        let ask = |entries: &[(&'static str, &'static str)]| {
            Guest::admit(&keys, &headers(entries)).map(|guest| guest.salt()).map_err(|error| error.status.as_u16())
        };
        let salt = ask(&[("authorization", "Bearer 0123456789abcdef")]).unwrap();
        assert_ne!(salt, 0);
        assert_eq!(ask(&[("authorization", "bearer  0123456789abcdef")]), Ok(salt));
        assert_eq!(ask(&[("x-api-key", "0123456789abcdef")]), Ok(salt));
        assert_eq!(ask(&[("x-api-key", "0123456789abcdeg")]), Err(401));
        assert_eq!(ask(&[("authorization", "Basic 0123456789abcdef")]), Err(401));
        assert_eq!(ask(&[]), Err(401));
        assert_eq!(ask(&[("authorization", "Bearer 0123456789abcdef"), ("authorization", "Bearer x")]), Err(400));
    }

    #[test]
    fn requests_that_run_count_until_they_end() {
        let keys = keys(Limits { concurrent: Some(2), requests_per_minute: None });
        let headers = headers(&[("x-api-key", "0123456789abcdef")]);
        let first = Guest::admit(&keys, &headers).unwrap();
        let clone = first.clone();
        let second = Guest::admit(&keys, &headers).unwrap();
        assert_eq!(Guest::admit(&keys, &headers).unwrap_err().status.as_u16(), 429);
        drop(first);
        assert_eq!(Guest::admit(&keys, &headers).unwrap_err().status.as_u16(), 429);
        drop((clone, second));
        assert!(Guest::admit(&keys, &headers).is_ok());
    }

    #[test]
    fn a_rate_is_kept_and_says_when_to_come_back() {
        let keys = keys(Limits { requests_per_minute: Some(30), concurrent: None });
        let start = Instant::now();
        let spend = |after: f64| keys.0[0].spend(start + Duration::from_secs_f64(after));
        assert_eq!((0..40).filter(|_| spend(1.0).is_ok()).count(), 30);
        let wait = spend(1.0).unwrap_err();
        assert!((1.9..=2.0).contains(&wait), "{wait}");
        assert!(spend(1.0 + wait + 0.01).is_ok());
        assert!(spend(1.0 + wait + 0.02).is_err());
    }

    #[test]
    fn a_file_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let path = folder.path().join("keys.toml");
            std::fs::write(&path, text).unwrap();
            Keys::from_file(&path).map(|keys| keys.0.len()).map_err(|error| error.to_string())
        };
        let one = "[[key]]\nname = \"a\"\nkey = \"0123456789abcdef\"\n";
        assert_eq!(read(&format!("{one}concurrent = 3\n")), Ok(1));
        assert!(read(&format!("{one}{}", one.replace("\"a\"", "\"b\""))).unwrap_err().contains("are the same"));
        assert!(read(&format!("{one}burst = 3\n")).unwrap_err().contains("burst"));
        assert!(read(&format!("{one}concurrent = 0\n")).unwrap_err().contains("at least 1"));
        assert!(read("[[key]]\nname = \"a\"\nkey = \"short\"\n").unwrap_err().contains("fewer than 16"));
        assert!(read("").unwrap_err().contains("no keys"));
        let secret = read("[[key]]\nname = \"a\"\nkey = \"0123456789abcdef\" x\n").unwrap_err();
        assert!(!secret.contains("0123456789"), "{secret}");
    }
}
