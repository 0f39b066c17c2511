//! A response in events.

use super::output::Output;
use crate::error::{ApiError, Result};
use crate::jobs::{failed, interrupted};
use crate::stream::{Item, Translate};
use engine::live::Event;
use serde_json::json;

/// Turns events of the engine into those of the API.
pub struct ResponsesStream {
    output: Output,
}

impl ResponsesStream {
    /// Nothing was told yet.
    pub fn new(output: Output) -> Self {
        Self { output }
    }

    fn flush(&mut self, out: &mut Vec<Item>) {
        out.extend(self.output.take_events().iter().map(|&(name, ref event)| Item::named(name, event)));
    }
}

impl Translate for ResponsesStream {
    fn begin(&mut self, out: &mut Vec<Item>) {
        self.output.tell_whole("response.created");
        self.output.tell_whole("response.in_progress");
        self.flush(out);
    }

    fn event(&mut self, _job: usize, event: Event, out: &mut Vec<Item>) -> Result<()> {
        match event {
            Event::Prompt(_) | Event::Embedding(_) => {}
            Event::Delta { tokens, text, .. } => self.output.push(&text, &tokens),
            Event::Finished { finish, usage, .. } => self.output.finish(&finish, &usage)?,
            Event::Failed(reason) => return Err(failed(&reason)),
        }
        self.flush(out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Item>) -> Result<()> {
        match self.output.status() {
            "completed" => self.output.tell_whole("response.completed"),
            "incomplete" => self.output.tell_whole("response.incomplete"),
            _ => return Err(interrupted()),
        }
        self.flush(out);
        Ok(())
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<Item>) {
        let detail = &error.detail;
        let told = json!({ "code": detail.code, "message": detail.message, "param": detail.param, "error": detail });
        self.output.tell("error", told);
        self.flush(out);
    }
}
