//! Server-sent events: an engine's events, translated, one JSON object each.

use crate::error::ApiError;
use crate::jobs::Events;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use engine::live::Event;
use futures_util::stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

/// Silence after which a comment tells the client, and the proxies between, that the answer is still coming.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What OpenAI's streams end with.
pub const DONE: &str = "[DONE]";

/// One server-sent event.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name, where the protocol names events.
    pub event: Option<&'static str>,
    /// Its data.
    pub data: String,
}

impl Item {
    /// A nameless event.
    pub fn data(value: &impl Serialize) -> Self {
        Self { event: None, data: json(value) }
    }

    /// A nameless event that is no JSON.
    pub fn raw(data: &str) -> Self {
        Self { event: None, data: data.into() }
    }

    /// An event with a name.
    pub fn named(event: &'static str, value: &impl Serialize) -> Self {
        Self { event: Some(event), data: json(value) }
    }
}

/// JSON without characters that some clients take for ends of lines, though the protocol does not.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    if !text.contains(['\u{85}', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // They can only stand inside of strings.
    text.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// How one API tells what happens.
pub trait Translate: Send + 'static {
    /// Before anything happened.
    fn begin(&mut self, _out: &mut Vec<Item>) {}

    /// Something happened to job `job`.
    ///
    /// # Errors
    /// The answer cannot go on.
    fn event(&mut self, job: usize, event: Event, out: &mut Vec<Item>) -> Result<(), ApiError>;

    /// All jobs have ended.
    ///
    /// # Errors
    /// They ended before they were complete.
    fn end(&mut self, out: &mut Vec<Item>) -> Result<(), ApiError>;

    /// The answer cannot go on: the last that is told.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<Item>);
}

struct State<T> {
    events: Events,
    translate: T,
    ready: VecDeque<Item>,
    done: bool,
    /// The request's, for the log.
    span: tracing::Span,
}

impl<T: Translate> State<T> {
    async fn next(mut self) -> Option<(Item, Self)> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some((item, self));
            }
            if self.done {
                return None;
            }
            let mut out = Vec::new();
            let translated = match self.events.next().await {
                Some((job, event)) => self.translate.event(job, event, &mut out),
                None => {
                    self.done = true;
                    self.translate.end(&mut out)
                }
            };
            if let Err(error) = translated {
                self.done = true;
                self.span.in_scope(|| tracing::warn!(error = error.detail.message, "a stream broke off"));
                self.translate.fail(&error, &mut out);
            }
            self.ready.extend(out);
        }
    }
}

/// The answer. When the client leaves it is dropped, and the jobs with it.
pub fn respond(events: Events, mut translate: impl Translate) -> Response {
    let mut first = Vec::new();
    translate.begin(&mut first);
    let state = State { events, translate, ready: first.into(), done: false, span: tracing::Span::current() };
    let sent = |item: Item| {
        let event = Sent::default().data(item.data);
        Ok::<_, Infallible>(match item.event {
            Some(name) => event.event(name),
            None => event,
        })
    };
    let items = stream::unfold(state, move |state| async move {
        let (item, state) = state.next().await?;
        Some((sent(item), state))
    });
    let mut response = Sse::new(items).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies must not wait for more.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::json;

    #[test]
    fn characters_that_look_like_line_ends_are_escaped_and_read_back() {
        let text = "a\u{2028}b\u{2029}c\u{85}d\r\ne";
        let sent = json(&text);
        assert!(!sent.contains(['\u{2028}', '\u{2029}', '\u{85}', '\r', '\n']));
        assert_eq!(serde_json::from_str::<String>(&sent).unwrap(), text);
    }
}
