//! The pace of tokens beside prompts, with steps that cost what they do on a small machine.

use batch::*;
use std::collections::HashMap;

/// Seconds of a step of so many rows, on a machine that is so much slower.
fn cost(rows: usize, slower: f64) -> f64 {
    (0.005 + 0.0003 * rows as f64) * slower
}

struct Server {
    scheduler: Scheduler,
    now: f64,
    slower: f64,
    /// When each request last had a token.
    last: HashMap<RequestId, f64>,
    gaps: Vec<f64>,
}

impl Server {
    fn new(pace: Option<Pace>, slower: f64) -> Self {
        let config = Config {
            block_tokens: 32,
            groups: vec![Group { kind: GroupKind::Full, blocks: 4000 }],
            step_tokens: 512,
            step_outputs: 64,
            max_running: 64,
            max_in_flight: 1,
            context: 8192,
            aging: 1_000_000,
            pace,
            speculation: None,
        };
        let scheduler = Scheduler::new(config).unwrap();
        Self { scheduler, now: 0.0, slower, last: HashMap::new(), gaps: Vec::new() }
    }

    fn submit(&mut self, seed: u32, prompt: u32, new: u32) -> RequestId {
        let prompt = (0..prompt).map(|i| seed.wrapping_mul(7919).wrapping_add(i)).collect();
        self.scheduler.submit(Request::new(prompt, new), (self.now * 1e6) as u64).unwrap()
    }

    /// Runs a step; returns those that ended.
    fn step(&mut self) -> Vec<RequestId> {
        let plan = self.scheduler.plan((self.now * 1e6) as u64).unwrap();
        let mut results = StepResults { seconds: cost(plan.tokens.len(), self.slower), ..StepResults::default() };
        self.now += results.seconds;
        for chunk in &plan.chunks {
            let choices = chunk.samples.min(1);
            results.choices.extend((0..choices).map(|_| 7));
            results.chunks.push(ChunkResult { choices, end: ChunkEnd::Continue });
            if choices > 0
                && let Some(before) = self.last.insert(chunk.request, self.now)
            {
                self.gaps.push(self.now - before);
            }
        }
        self.scheduler.commit(plan.id, &results).unwrap();
        self.scheduler.take_ended().map(|ended| ended.request).collect()
    }
}

/// Neither where those that decode are faster than anyone reads, nor where they are slower.
#[test]
fn a_long_prompt_does_not_make_others_wait_long() {
    for (slower, most) in [(1.0, 0.031), (10.0, 2.0 * cost(8, 10.0))] {
        let mut server = Server::new(Some(PACE), slower);
        (0..8).for_each(|seed| _ = server.submit(seed, 4, 4000));
        (0..50).for_each(|_| _ = server.step());
        server.gaps.clear();
        let asked = server.now;
        let long = server.submit(99, 2000, 2);
        while !server.last.contains_key(&long) {
            server.step();
        }
        let worst = server.gaps.iter().copied().fold(0.0, f64::max);
        assert!(worst <= most, "a token came {worst} s after the one before, {slower} times slower");
        // Alone it would take four steps.
        let alone = 4.0 * cost(500, slower);
        assert!(server.now - asked < 2.6 * alone, "{} s, alone {alone}", server.now - asked);
    }
}

/// 32 clients that ask again when they are answered.
#[test]
fn many_prompts_are_not_held_back() {
    let seconds = |pace| {
        let mut server = Server::new(pace, 1.0);
        (0..32).for_each(|seed| _ = server.submit(seed, 128, 64));
        let mut next = 32;
        while next < 320 {
            for _ in server.step() {
                server.submit(next, 128, 64);
                next += 1;
            }
        }
        server.now
    };
    let (paced, free) = (seconds(Some(PACE)), seconds(None));
    assert!(paced < 1.1 * free, "{paced} s, without a pace {free}");
}
