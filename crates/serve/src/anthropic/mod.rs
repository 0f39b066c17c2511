//! Anthropic's API.

pub mod messages;
mod output;
mod request;
