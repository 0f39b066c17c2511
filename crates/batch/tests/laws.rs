//! What the scheduler promises, one promise at a time.

mod common;

use batch::*;
use common::{Draft, World, mix, plain};

fn request(len: u32, seed: u64, new: u32) -> Request {
    Request::new((0..len).map(|i| 1 + (mix(seed, u64::from(i)) % 1000) as u32).collect(), new)
}

/// A world whose sequences do not stop by themselves (but once in a long while).
fn world(config: Config) -> World {
    let mut world = World::new(config, Draft::Sometimes);
    world.vocab = 1 << 31;
    world
}

fn step(world: &mut World) {
    world.plan();
    world.commit();
    world.now += 1_000;
}

#[test]
fn what_can_never_be_served_is_refused_at_once() {
    let mut config = plain(4);
    config.groups.push(Group { kind: GroupKind::CrossAttention, blocks: 2 });
    config.context = 18;
    let mut world = world(config);
    world.now = 50;
    assert_eq!(world.submit(Request::new(vec![], 1)), Err(Refusal::Empty));
    assert_eq!(world.submit(request(10, 1, 9)), Err(Refusal::Context { prompt: 10, new: 9, context: 18 }));
    // 17 positions are computed for 10 and 8: the last token is not.
    assert_eq!(world.submit(request(10, 1, 8)), Err(Refusal::Cache { group: 0, needed: 5, blocks: 4 }));
    assert!(world.submit(request(10, 1, 7)).is_ok());
    assert_eq!(world.submit(Request { deadline: Some(50), ..request(3, 1, 1) }), Err(Refusal::Late));
    let memory = |positions| Some(Memory { positions, content: 1 });
    assert_eq!(
        world.submit(Request { memory: memory(9), ..request(3, 1, 1) }),
        Err(Refusal::Cache { group: 1, needed: 3, blocks: 2 })
    );
    assert!(world.submit(Request { memory: memory(8), ..request(3, 1, 1) }).is_ok());
    world.drain();
    let mut without = World::new(plain(4), Draft::Never);
    assert_eq!(without.submit(Request { memory: memory(1), ..request(3, 1, 1) }), Err(Refusal::NoMemory));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut Config)| {
        let mut config = plain(4);
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert!(refused(|c| c.block_tokens = 0).contains("`block_tokens` is 0"));
    assert!(refused(|c| c.step_tokens = 7).contains("`step_tokens`"));
    assert!(refused(|c| c.groups.clear()).contains("no cache group"));
    assert!(
        refused(|c| c.groups.extend([Group { kind: GroupKind::Draft, blocks: 1 }; 2]))
            .contains("2 cache groups of kind `Draft`")
    );
    let draft = Speculation { proposer: Proposer::Draft, most: 4, adaptive: true };
    let mut config = plain(4);
    config.speculation = Some(draft);
    assert_eq!(config.validate(), Err(ConfigError::NoDraftCache));
}

/// With 8 clients at once, with several steps in flight, and for the choices of one prompt.
#[test]
fn a_shared_prefix_is_computed_once() {
    for in_flight in [1, 3] {
        let config = Config { max_in_flight: in_flight, step_tokens: 300, context: 2048, ..plain(1000) };
        let mut world = world(config);
        let prefix = request(1024, 7, 0).prompt;
        let ids: Vec<RequestId> = (0..8)
            .map(|i| {
                // The last four are choices of one prompt.
                let own = request(10, i.min(4), 5);
                world.submit(Request::new([prefix.clone(), own.prompt].concat(), 5)).unwrap()
            })
            .collect();
        world.drain();
        let rows: u32 = ids.iter().map(|id| world.requests[id].rows).sum();
        // Of the choices' own 10 tokens, two full blocks are shared: 1024 % 4 = 0, 10 = 4 + 4 + 2.
        assert_eq!(rows, 1024 + 5 * 10 + 3 * 2 + 8 * 4);
        let cached: Vec<u32> = ids.iter().map(|id| world.requests[id].ended.unwrap().cached).collect();
        assert_eq!(cached, [0, 1024, 1024, 1024, 1024, 1032, 1032, 1032]);
    }
}

#[test]
fn a_prompt_that_is_cached_as_a_whole_still_computes_its_last_token() {
    let mut world = world(plain(50));
    for (len, cached) in [(16, 12), (17, 16), (18, 16)] {
        for expected in [0, cached] {
            let id = world.submit(request(len, u64::from(len), 3)).unwrap();
            world.drain();
            assert_eq!(world.requests[&id].ended.unwrap().cached, expected);
        }
    }
}

#[test]
fn prompt_outputs_bypass_the_cache_and_feed_it() {
    let mut world = world(plain(50));
    for (prompt_outputs, cached) in [(false, 0), (true, 0), (false, 20)] {
        let id = world.submit(Request { prompt_outputs, ..request(23, 1, 2) }).unwrap();
        world.drain();
        assert_eq!(world.requests[&id].ended.unwrap().cached, cached);
        // `common` asserts at the end that each wanted output was given exactly once.
        assert_eq!(world.requests[&id].outputs[..22].iter().sum::<u32>(), if prompt_outputs { 22 } else { 0 });
    }
}

#[test]
fn tenants_and_images_do_not_share() {
    let mut world = world(plain(100));
    let plain = request(20, 1, 2);
    let image = |position, content| Request { images: vec![Image { position, content }], ..plain.clone() };
    let mut cached = |request: &Request| {
        let id = world.submit(request.clone()).unwrap();
        world.drain();
        world.requests[&id].ended.unwrap().cached
    };
    assert_eq!((cached(&plain), cached(&plain)), (0, 16));
    assert_eq!(cached(&Request { salt: 1, ..plain.clone() }), 0);
    // What comes before the image is shared.
    assert_eq!((cached(&image(9, 5)), cached(&image(9, 5))), (8, 16));
    assert_eq!((cached(&image(9, 6)), cached(&image(10, 5))), (8, 8));
}

#[test]
fn a_memory_is_encoded_once_unless_it_was_evicted() {
    let mut config = plain(10);
    config.groups.push(Group { kind: GroupKind::CrossAttention, blocks: 1 });
    let mut world = world(config);
    let with = |content, priority, new| {
        let memory = Some(Memory { positions: 3, content });
        Request { memory, priority, ..request(8, content as u64, new) }
    };
    let twice = world.submit(with(1, 0, 20)).unwrap();
    world.submit(Request { priority: 1, ..request(8, 7, 20) }).unwrap();
    while world.scheduler.totals().preemptions == 0 {
        step(&mut world);
        assert!(world.alive() == 2);
    }
    // It goes first, and evicts the memory of the one that yielded.
    world.submit(with(2, 5, 2)).unwrap();
    world.drain();
    assert_eq!((world.requests[&twice].ended.unwrap().preemptions, world.requests[&twice].encoded), (1, 2));
    let shares = world.submit(with(1, 0, 2)).unwrap();
    world.drain();
    assert_eq!(world.requests[&shares].encoded, 0);
}

#[test]
fn a_cancelled_request_keeps_its_blocks_until_its_step_is_committed() {
    let mut world = world(Config { max_in_flight: 2, ..plain(20) });
    let id = world.submit(request(40, 1, 5)).unwrap();
    world.plan();
    world.plan();
    let owned = |world: &World| world.scheduler.occupancy(0).owned;
    assert_eq!(owned(&world), 8);
    world.cancel(id);
    assert_eq!(owned(&world), 8);
    world.commit();
    assert_eq!(owned(&world), 8);
    world.commit();
    assert_eq!(owned(&world), 0);
    // Waiting, it holds nothing.
    let waiting = world.submit(request(40, 2, 5)).unwrap();
    world.cancel(waiting);
    world.drain();
}

#[test]
fn a_deadline_ends_a_request_wherever_it_is() {
    let mut world = world(Config { max_running: 1, ..plain(20) });
    let runs = world.submit(Request { deadline: Some(3_000), ..request(4, 1, 50) }).unwrap();
    let waits = world.submit(Request { deadline: Some(2_000), ..request(4, 2, 50) }).unwrap();
    world.drain();
    let reason = |id| world.requests[&id].ended.unwrap().reason;
    assert_eq!((reason(runs), reason(waits)), (FinishReason::Deadline, FinishReason::Deadline));
    assert!(world.requests[&runs].generated.len() == 3 && world.requests[&waits].generated.is_empty());
}

#[test]
fn the_lowest_priority_yields_then_the_least_computed() {
    // Room for three of the four to end, but not for all.
    for (priorities, lens, yields) in [([1, 0, 1, 1], [8, 8, 8, 8], 1), ([0, 0, 0, 0], [9, 9, 6, 9], 2)] {
        let mut world = world(Config { step_tokens: 64, ..plain(16) });
        for (seed, (priority, len)) in priorities.into_iter().zip(lens).enumerate() {
            world.submit(Request { priority, ..request(len, seed as u64, 12) }).unwrap();
        }
        world.drain();
        let preempted: Vec<u32> = world.order.iter().map(|id| world.requests[id].ended.unwrap().preemptions).collect();
        assert!(preempted[yields] > 0, "{preempted:?}");
        assert!(preempted.iter().enumerate().all(|(i, &times)| i == yields || times == 0), "{preempted:?}");
    }
}

/// Both grow at the same pace, and the first in order takes the last block.
#[test]
fn who_has_computed_more_waits_and_does_not_yield() {
    let mut world = world(Config { step_tokens: 64, ..plain(11) });
    let less = world.submit(request(4, 1, 20)).unwrap();
    let more = world.submit(request(20, 2, 20)).unwrap();
    world.drain();
    let preemptions = |id| world.requests[&id].ended.unwrap().preemptions;
    assert!(preemptions(less) > 0 && preemptions(more) == 0);
}

/// A request of low priority under a load of urgent ones that never ends: it starts as soon as those are through that came while
/// its age was worth less than the difference.
#[test]
fn nothing_starves() {
    for priority in [0, -3, -20] {
        let mut world = world(Config { max_running: 4, aging: 5_000, ..plain(16) });
        let submit = |world: &mut World, seed| world.submit(request(12, seed, 8)).unwrap();
        (0..8).for_each(|seed| _ = submit(&mut world, seed));
        let low = world.submit(Request { priority, ..request(40, 99, 8) }).unwrap();
        let mut steps = 0;
        while world.requests[&low].ended.is_none() {
            // More comes than can be done.
            submit(&mut world, 100 + steps);
            step(&mut world);
            steps += 1;
            assert!(steps < 2_000);
        }
        // A step is 1 ms: by 5 ms a level, and one for rounding, so many urgent requests came in time to go before it; each of them,
        // and it itself, is done within as many steps as it has tokens, even alone.
        let before = 8 + 5 * (1 - i64::from(priority)) as u64;
        assert!(steps <= before * 20 + 48, "{steps} steps at priority {priority}");
        let overtaken =
            world.order.iter().filter(|id| world.requests[id].lives > 0 && world.requests[id].number > 8).count();
        assert!(overtaken as u64 <= before + 4, "{overtaken} went before it");
    }
}

/// It was short of more blocks than others can give back while room was also kept for them to grow.
#[test]
fn what_fits_alone_is_admitted_once_it_is_alone() {
    let mut world = world(plain(8));
    (0..4).for_each(|seed| _ = world.submit(request(1, seed, 3)).unwrap());
    let large = world.submit(request(28, 9, 4)).unwrap();
    world.drain();
    assert_eq!(world.requests[&large].generated.len(), 4);
}

#[test]
fn decoding_goes_on_beside_a_long_prompt() {
    let mut world = world(plain(100));
    // The long one is more urgent, and its prompt takes several steps.
    let long = world.submit(Request { priority: 1, ..request(100, 1, 2) }).unwrap();
    let short: Vec<RequestId> = (2..6).map(|seed| world.submit(request(2, seed, 30)).unwrap()).collect();
    while world.requests[&long].generated.is_empty() {
        let before: Vec<usize> = short.iter().map(|id| world.requests[id].generated.len()).collect();
        step(&mut world);
        for (id, before) in short.iter().zip(before) {
            let now = world.requests[id].generated.len();
            assert!(before == 0 || now == before + 1, "a decoding sequence waited");
        }
    }
    world.drain();
}

#[test]
fn a_window_bounds_what_a_sequence_holds() {
    let mut config = Config { context: 1000, ..plain(5) };
    config.groups = vec![Group { kind: GroupKind::Sliding { window: 9 }, blocks: 5 }];
    let mut world = world(config);
    world.submit(request(300, 1, 100)).unwrap();
    world.drain();
    assert_eq!(world.scheduler.totals().preemptions, 0);
}

fn speculating(draft: Draft, cost: fn(u32) -> f64, draft_cost: f64) -> World {
    let speculation = Some(Speculation { proposer: Proposer::Draft, most: 4, adaptive: true });
    let mut config = Config { context: 10_000, step_tokens: 64, step_outputs: 64, speculation, ..plain(3000) };
    config.groups.push(Group { kind: GroupKind::Draft, blocks: 3000 });
    let mut world = World::new(config, draft);
    (world.vocab, world.cost, world.draft_cost) = (1 << 31, cost, draft_cost);
    world
}

/// Drafted and accepted tokens per step after it has settled.
fn settled(world: &mut World, sequences: u64) -> (f64, f64) {
    for seed in 0..sequences {
        world.submit(request(5, seed, 2000)).unwrap();
    }
    (0..100).for_each(|_| step(world));
    let before = world.scheduler.totals();
    (0..100).for_each(|_| step(world));
    let after = world.scheduler.totals();
    let each = 100.0 * sequences as f64;
    ((after.drafted - before.drafted) as f64 / each, (after.accepted - before.accepted) as f64 / each)
}

#[test]
fn drafts_are_as_many_as_pay() {
    // Rows are nearly free, as where weights must be read anyway: draft all that there may be.
    let memory_bound = |rows| 0.1 + 0.001 * f64::from(rows);
    let (drafted, accepted) = settled(&mut speculating(Draft::Always, memory_bound, 0.001), 1);
    assert!(drafted > 3.9 && accepted > 3.9, "{drafted} {accepted}");
    // A draft that is never right, or that takes as long as the target, loses.
    for (draft, draft_cost) in [(Draft::Never, 0.02), (Draft::Always, 0.2)] {
        let (drafted, _) = settled(&mut speculating(draft, memory_bound, draft_cost), 1);
        assert!(drafted < 0.2, "{drafted}");
    }
    // Each row costs as much as a token: nothing to gain from drafts that are right two times of three.
    let compute_bound = |rows| 0.1 * f64::from(rows);
    let (drafted, _) = settled(&mut speculating(Draft::Sometimes, compute_bound, 0.01), 4);
    assert!(drafted < 0.2, "{drafted}");
    // The same machine may gain with one sequence and lose with many.
    let mixed = |rows: u32| 0.1 * f64::from(rows.max(6));
    let (alone, _) = settled(&mut speculating(Draft::Sometimes, mixed, 0.01), 1);
    let (many, _) = settled(&mut speculating(Draft::Sometimes, mixed, 0.01), 8);
    assert!(alone > 1.5 && many < 0.2, "{alone} {many}");
}

#[test]
fn speculation_returns_when_it_pays_again() {
    let mut world = speculating(Draft::Never, |rows| 0.1 + 0.001 * f64::from(rows), 0.02);
    let (drafted, _) = settled(&mut world, 1);
    assert!(drafted < 0.2, "{drafted}");
    world.draft = Draft::Always;
    (0..3000).for_each(|_| step(&mut world));
    // A new sequence, and it drafts.
    world.submit(request(5, 77, 2000)).unwrap();
    let before = world.scheduler.totals().accepted;
    (0..100).for_each(|_| step(&mut world));
    assert!(world.scheduler.totals().accepted > before + 300);
}

#[test]
fn the_draft_model_catches_up_after_a_prefix_hit_and_a_pause() {
    let mut world = speculating(Draft::Always, |_| 0.1, 0.001);
    let prompt = request(400, 3, 20);
    world.submit(prompt.clone()).unwrap();
    world.drain();
    // The draft's blocks are used for something else; the target's are not.
    let used = world.scheduler.totals();
    let id = world.submit(prompt).unwrap();
    world.drain();
    let ended = world.requests[&id].ended.unwrap();
    assert!(ended.cached >= 396 && ended.accepted >= 14, "{ended:?}");
    assert!(world.scheduler.totals().found > used.found);
}

#[test]
fn results_of_another_step_are_refused_and_change_nothing() {
    let mut scheduler = Scheduler::new(Config { max_in_flight: 2, ..plain(20) }).unwrap();
    scheduler.submit(request(20, 1, 5), 0).unwrap();
    let (first, second) = (scheduler.plan(0).unwrap(), scheduler.plan(0).unwrap());
    let result = |choices| ChunkResult { choices, end: ChunkEnd::Continue };
    let none = StepResults { chunks: vec![result(0)], ..StepResults::default() };
    let one = StepResults { chunks: vec![result(1)], choices: vec![5], ..StepResults::default() };
    let expected = Some(first.id);
    assert_eq!(scheduler.commit(second.id, &one), Err(CommitError::Order { given: second.id, expected }));
    assert_eq!(scheduler.commit(first.id, &one), Err(CommitError::Choices { chunk: 0, given: 1, least: 0, most: 0 }));
    let wrong = StepResults::default();
    assert_eq!(scheduler.commit(first.id, &wrong), Err(CommitError::Length { what: "chunks", given: 0, expected: 1 }));
    scheduler.check().unwrap();
    assert_eq!(scheduler.commit(first.id, &none), Ok(&[0][..]));
    assert_eq!(scheduler.commit(second.id, &none), Err(CommitError::Choices { chunk: 0, given: 0, least: 1, most: 1 }));
    assert_eq!(scheduler.commit(second.id, &one), Ok(&[1][..]));
    scheduler.check().unwrap();
}

/// Four stages, each with rows for a quarter of the sequences: every sequence has a row in one of the steps in flight, and none waits for a second round.
#[test]
fn a_full_pipeline_serves_all_sequences_in_turn() {
    let config = Config { step_tokens: 4, step_outputs: 4, max_running: 16, max_in_flight: 4, ..plain(200) };
    let mut world = world(config);
    for seed in 0..16 {
        world.submit(request(1, seed, 20)).unwrap();
    }
    for _ in 0..4 {
        world.plan();
    }
    for round in 0..19 {
        let generated = |world: &World| world.requests.values().map(|known| known.generated.len()).collect::<Vec<_>>();
        for _ in 0..4 {
            world.commit();
            world.plan();
        }
        assert!(generated(&world).iter().all(|&tokens| tokens == round + 1), "round {round}: {:?}", generated(&world));
    }
    world.drain();
}

/// A step whose only row was kept for a sequence that then yielded its blocks is planned for those that are left.
#[test]
fn rows_kept_for_one_that_yields_are_not_lost() {
    let group = |kind, blocks| Group { kind, blocks };
    let groups = vec![group(GroupKind::Full, 40), group(GroupKind::Draft, 1)];
    let small = Config {
        block_tokens: 1,
        groups,
        step_tokens: 1,
        step_outputs: 1,
        max_running: 2,
        max_in_flight: 2,
        ..plain(40)
    };
    let mut scheduler = Scheduler::new(small).unwrap();
    scheduler.submit(request(4, 1, 5), 0).unwrap();
    scheduler.submit(Request { priority: 1, ..request(33, 2, 5) }, 0).unwrap();
    let mut ended = 0;
    loop {
        let plans = [scheduler.plan(0), scheduler.plan(0)];
        if plans[0].is_none() {
            break;
        }
        for plan in plans.into_iter().flatten() {
            let chunks = plan.chunks.iter().map(|c| ChunkResult { choices: c.samples.min(1), end: ChunkEnd::Continue });
            let mut results = StepResults { chunks: chunks.collect(), ..StepResults::default() };
            results.choices = vec![5; results.chunks.iter().map(|c| c.choices as usize).sum()];
            scheduler.commit(plan.id, &results).unwrap();
        }
        scheduler.check().unwrap();
        ended += scheduler.take_ended().count();
    }
    assert_eq!((ended, scheduler.load().waiting, scheduler.load().running), (2, 0, 0));
}
