//! What scheduling costs: `cargo bench -p batch`.
//!
//! One iteration is a plan and its commit with so many sequences decoding; finished ones are replaced, so that admission, prefix lookups,
//! publishing and eviction have their share. Divide by the number of sequences for the time of a token.

use batch::{
    ChunkEnd, ChunkResult, Config, Group, GroupKind, Proposer, Request, Scheduler, Speculation, StepPlan, StepResults,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const PROMPT: u32 = 128;
const NEW: u32 = 64;

/// A scheduler kept at `sequences` requests by somebody who answers every row with a token.
struct Load {
    scheduler: Scheduler,
    sequences: u32,
    submitted: u32,
    now: u64,
    plan: StepPlan,
    results: StepResults,
}

impl Load {
    fn new(sequences: u32, speculation: Option<Speculation>) -> Self {
        let blocks = sequences * 8;
        let mut groups = vec![Group { kind: GroupKind::Full, blocks }];
        groups.extend(speculation.map(|_| Group { kind: GroupKind::Draft, blocks }));
        let config = Config {
            block_tokens: 32,
            groups,
            step_tokens: sequences * 8,
            step_outputs: sequences * 8,
            max_running: sequences,
            max_in_flight: 1,
            context: 4096,
            aging: 1_000_000,
            pace: Some(batch::PACE),
            speculation,
        };
        let scheduler = Scheduler::new(config).expect("the configuration is sound");
        let mut load = Self {
            scheduler,
            sequences,
            submitted: 0,
            now: 0,
            plan: StepPlan::default(),
            results: StepResults::default(),
        };
        // Every sequence has reached its own place between prompt and end.
        (0..2 * NEW).for_each(|_| load.step());
        load
    }

    fn step(&mut self) {
        let load = self.scheduler.load();
        for _ in load.waiting + load.running..self.sequences as usize {
            // Some tokens are the tenant's common beginning.
            let shared = 0..PROMPT / 2;
            let number = self.submitted;
            self.submitted += 1;
            let own = (0..PROMPT / 2).map(|i| i ^ number.wrapping_mul(0x9e37_79b9));
            // The first ones end at different times.
            let new = if number < self.sequences { 1 + number % NEW } else { NEW };
            let request = Request::new(shared.chain(own).collect(), new);
            self.scheduler.submit(request, self.now).expect("it fits");
        }
        self.now += 10_000;
        assert!(self.scheduler.plan_into(self.now, &mut self.plan));
        self.results.clear();
        self.results.seconds = 0.01;
        for chunk in &self.plan.chunks {
            // A draft model that is right every other time.
            self.results.proposed.extend((0..chunk.draft.propose).map(|i| i % 2));
            self.results.choices.extend((0..chunk.samples).map(|_| 0));
            self.results.chunks.push(ChunkResult { choices: chunk.samples, end: ChunkEnd::Continue });
        }
        self.scheduler.commit(self.plan.id, &self.results).expect("the results are of this step");
        self.scheduler.take_ended();
    }
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan and commit");
    let draft = Speculation { proposer: Proposer::Draft, most: 4, adaptive: false };
    for sequences in [256, 4096] {
        group.throughput(Throughput::Elements(sequences.into()));
        for (name, speculation) in [("decode", None), ("draft 4", Some(draft))] {
            let mut load = Load::new(sequences, speculation);
            group.bench_function(BenchmarkId::new(name, sequences), |b| b.iter(|| load.step()));
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = steps
}
criterion_main!(benches);
