//! Chats as prompts: messages, the template that lays them out, and who wrote which character.

mod authorship;
mod python;
mod sources;
mod template;
mod time;

pub use template::{ChatRequest, ChatTemplate, Message, RenderedPrompt};
pub use time::CivilTime;

pub(crate) use sources::TemplateSources;
