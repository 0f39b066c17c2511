//! Which sequences run next? A pure state machine: no I/O, no clock, no tensors.
//!
//! # The life of a request
//!
//! 1. [`Scheduler::submit`] accepts a [`Request`] or refuses it at once, if it could never fit. It waits, ordered by effective priority.
//! 2. [`Scheduler::plan`] makes a [`StepPlan`]. There are no phases of prefill and decode: each sequence has *known* tokens (the prompt
//!    and what was generated) and *computed* ones (whose keys and values lie in blocks), and a step lets computed catch up with known
//!    under a budget of rows. A decoding sequence is one that lacks a single token; beside these, prompts get as many rows as keep the
//!    pace ([`Config::pace`]). Running sequences come first, in order of rank; then waiting ones are admitted, with as many blocks from the prefix cache as hold the beginning of their tokens.
//! 3. Whoever executes the step (an engine, a simulator that only knows what it costs) follows the block tables with [`BlockTables`],
//!    lets the draft model propose where the plan says so, computes the rows, and chooses a token for each sampled row.
//! 4. [`Scheduler::commit`] takes the choices as [`StepResults`]. Drafted tokens count up to the first that is not the target's own choice:
//!    output is the same as without speculation. Full blocks are published to the prefix cache; blocks that fell out of a
//!    sliding window are given back. Several steps may be planned before the first is committed; a sequence whose next token is
//!    not known yet is simply not in them.
//! 5. When blocks are short, the sequence of lowest effective priority, then with the least computed, gives up its own and waits again. It
//!    computes its tokens anew, and continues with the same.
//! 6. It ends once: stopped by the engine, at `max_tokens`, cancelled, late or failed. [`Scheduler::take_ended`] says so. If a step that writes
//!    to its blocks is in flight, they come free when that step is committed.
//!
//! ```
//! use batch::{ChunkEnd, ChunkResult, Config, Group, GroupKind, Request, Scheduler, StepResults};
//! let mut scheduler = Scheduler::new(Config {
//!     block_tokens: 32,
//!     groups: vec![Group { kind: GroupKind::Full, blocks: 64 }],
//!     step_tokens: 512,
//!     step_outputs: 64,
//!     max_running: 32,
//!     max_in_flight: 1,
//!     context: 2048,
//!     aging: 1_000_000,
//!     pace: None,
//!     speculation: None,
//! })?;
//! scheduler.submit(Request::new(vec![1, 2, 3], 2), 0)?;
//! let mut now = 0;
//! while let Some(plan) = scheduler.plan(now) {
//!     now += 1_000;
//!     let mut results = StepResults { seconds: 0.001, ..StepResults::default() };
//!     for chunk in &plan.chunks {
//!         let choices = chunk.samples.min(1);
//!         results.choices.extend((0..choices).map(|_| 7));
//!         results.chunks.push(ChunkResult { choices, end: ChunkEnd::Continue });
//!     }
//!     scheduler.commit(plan.id, &results)?;
//! }
//! assert_eq!(scheduler.take_ended().next().map(|ended| ended.generated), Some(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission;
mod check;
mod committing;
mod config;
mod costs;
pub mod ngram;
mod pace;
mod plan;
mod planning;
mod pool;
mod prefix;
mod request;
mod scheduler;
mod sequence;
mod speculation;

pub use committing::accepted;
pub use config::{Config, ConfigError, Group, GroupKind, PACE, Pace, Proposer, Speculation, Time};
pub use plan::{
    BlockTables, Chunk, ChunkEnd, ChunkResult, CommitError, DraftChunk, StepId, StepPlan, StepResults, TableUpdate,
};
pub use pool::{NO_BLOCK, Occupancy};
pub use request::{Ended, FinishReason, Image, Memory, Refusal, Request, RequestId};
pub use scheduler::{Load, Scheduler, Totals};
