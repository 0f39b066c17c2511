//! Random lives of random requests: each trace asserts everything that `common` knows, after every call.

mod common;

use batch::*;
use common::{Draft, World, plain};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Submit(Wish),
    Cancel(prop::sample::Index),
    Plan,
    Commit,
    Fail(usize),
    Wait(Time),
}

#[derive(Clone, Debug)]
struct Wish {
    /// Length of the beginning that it shares with others of the same family.
    family: u32,
    shared: usize,
    own: usize,
    new: u32,
    priority: i32,
    deadline: Option<Time>,
    prompt_outputs: bool,
    salt: u128,
    image: Option<(u32, u128)>,
    memory: Option<(u32, u128)>,
    choices: usize,
}

impl Wish {
    fn request(&self, number: u32, now: Time, memories: bool) -> Request {
        let shared = (0..self.shared as u32).map(|i| 1 + (i * 7 + self.family) % 9);
        let own = (0..self.own as u32).map(|i| 1 + (i * i + number) % 9);
        let prompt: Vec<u32> = shared.chain(own).collect();
        Request {
            priority: self.priority,
            deadline: self.deadline.map(|after| now + after),
            prompt_outputs: self.prompt_outputs,
            salt: self.salt,
            images: self.image.iter().map(|&(position, content)| Image { position, content }).collect(),
            memory: self.memory.filter(|_| memories).map(|(positions, content)| Memory { positions, content }),
            ..Request::new(prompt, self.new)
        }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        (0u32..3, prop_oneof![Just(0usize), 4usize..30], 0usize..12, 0u32..20),
        (-2i32..3, prop::option::weighted(0.15, 1u64..60_000), prop::bool::weighted(0.15)),
        (0u128..2, prop::option::weighted(0.2, (0u32..20, 1u128..3)), prop::option::weighted(0.5, (1u32..9, 1u128..3))),
        prop_oneof![4 => Just(1usize), 1 => 2usize..4],
    )
        .prop_map(
            |((family, shared, own, new), (priority, deadline, prompt_outputs), (salt, image, memory), choices)| Wish {
                family,
                shared,
                own,
                new,
                priority,
                deadline,
                prompt_outputs,
                salt,
                image,
                memory,
                choices,
            },
        )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => wish().prop_map(Action::Submit),
        1 => any::<prop::sample::Index>().prop_map(Action::Cancel),
        10 => Just(Action::Plan),
        9 => Just(Action::Commit),
        1 => (0usize..4).prop_map(Action::Fail),
        2 => (1u64..30_000).prop_map(Action::Wait),
    ]
}

#[derive(Clone, Debug)]
struct Setup {
    config: Config,
    draft: Draft,
    eager: bool,
    all_choices: bool,
    vocab: u64,
}

fn setup() -> impl Strategy<Value = Setup> {
    let speculation = prop_oneof![
        Just(None),
        (1u32..5, any::<bool>()).prop_map(|(most, adaptive)| Some(Speculation {
            proposer: Proposer::Draft,
            most,
            adaptive
        })),
        (1u32..5, any::<bool>()).prop_map(|(most, adaptive)| {
            Some(Speculation { proposer: Proposer::Ngram { longest: 3, shortest: 1 }, most, adaptive })
        }),
    ];
    let groups = prop_oneof![
        3 => (8u32..24).prop_map(|blocks| vec![Group { kind: GroupKind::Full, blocks }]),
        1 => (4u32..16, 1u32..12).prop_map(|(blocks, window)| vec![Group { kind: GroupKind::Sliding { window }, blocks }]),
        2 => (8u32..24, 4u32..16, 1u32..12).prop_map(|(full, sliding, window)| {
            vec![Group { kind: GroupKind::Sliding { window }, blocks: sliding }, Group { kind: GroupKind::Full, blocks: full }]
        }),
    ];
    let draft = prop_oneof![Just(Draft::Never), Just(Draft::Always), Just(Draft::Sometimes)];
    (
        (groups, speculation, draft, 1u32..30, prop::option::of(2u32..8)),
        (1u32..7, 0u32..24, 0u32..16, 1u32..4, prop_oneof![Just(1u32), Just(4), Just(5)]),
        (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            prop_oneof![Just(3u64), Just(50)],
            prop::option::of((1u32..300, 0u64..40_000).prop_map(|(percent, step)| Pace { percent, step })),
        ),
    )
        .prop_map(
            |(
                (mut groups, speculation, draft, draft_blocks, memory_blocks),
                (running, tokens, outputs, in_flight, block),
                (eager, all_choices, pipelined, vocab, pace),
            )| {
                groups.iter_mut().for_each(|g| g.blocks *= if block == 1 { 4 } else { 1 });
                groups.push(Group { kind: GroupKind::Draft, blocks: draft_blocks });
                groups.extend(memory_blocks.map(|blocks| Group { kind: GroupKind::CrossAttention, blocks }));
                // In a pipeline a step may have rows for a share of the sequences only.
                let rows = if pipelined { running.div_ceil(in_flight) } else { running };
                let config = Config {
                    block_tokens: block,
                    groups,
                    step_tokens: rows + tokens,
                    step_outputs: rows + outputs,
                    max_running: running,
                    max_in_flight: in_flight,
                    pace,
                    speculation,
                    context: 64,
                    ..plain(1)
                };
                Setup { config, draft, eager, all_choices, vocab }
            },
        )
}

fn run(setup: &Setup, actions: &[Action], record: bool) -> World {
    let mut world = World::new(setup.config.clone(), setup.draft);
    (world.eager, world.all_choices) = (setup.eager, setup.all_choices);
    (world.vocab, world.record) = (setup.vocab, record);
    world.cost = |rows| 0.001 + 0.0005 * f64::from(rows);
    let memories = setup.config.groups.iter().any(|g| g.kind == GroupKind::CrossAttention);
    for action in actions {
        match action {
            Action::Submit(wish) => {
                let request = wish.request(world.order.len() as u32, world.now, memories);
                // Whether it is refused must not depend on what else there is.
                let refused = Scheduler::new(setup.config.clone()).unwrap().submit(request.clone(), world.now).err();
                for _ in 0..wish.choices {
                    assert_eq!(world.submit(request.clone()).err(), refused);
                }
            }
            Action::Cancel(index) if !world.order.is_empty() => world.cancel(*index.get(&world.order)),
            Action::Cancel(_) => {}
            Action::Plan => {
                if world.in_flight.len() < setup.config.max_in_flight as usize {
                    world.plan();
                }
            }
            Action::Commit => world.commit(),
            Action::Fail(index) => world.fail = Some(*index),
            Action::Wait(time) => world.now += time,
        }
    }
    world.drain();
    assert!(world.requests.values().all(|known| known.ended.is_some()));
    world
}

/// So many traces, or more if `PROPTEST_CASES` says so.
fn cases(least: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(least), max_shrink_iters: 20_000, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn every_request_ends_once_with_the_output_of_plain_decoding(
        setup in setup(), actions in prop::collection::vec(action(), 1..80),
    ) {
        run(&setup, &actions, false);
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn the_same_trace_gives_the_same_plans(setup in setup(), actions in prop::collection::vec(action(), 1..60)) {
        prop_assert_eq!(run(&setup, &actions, true).plans, run(&setup, &actions, true).plans);
    }
}

/// Traces that never preempt, share or speculate would prove nothing.
#[test]
fn the_traces_reach_what_they_are_for() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut sums = [0u64; 8];
    for _ in 0..400 {
        let setup = setup().new_tree(&mut runner).unwrap().current();
        let actions = prop::collection::vec(action(), 1..80).new_tree(&mut runner).unwrap().current();
        let world = run(&setup, &actions, false);
        let totals = world.scheduler.totals();
        let ended = |reason| world.requests.values().filter(|k| k.ended.unwrap().reason == reason).count() as u64;
        let reached = [
            totals.preemptions,
            totals.found,
            totals.accepted,
            totals.drafted - totals.accepted,
            ended(FinishReason::Cancelled),
            ended(FinishReason::Deadline),
            ended(FinishReason::Failed),
            ended(FinishReason::Length),
        ];
        sums.iter_mut().zip(reached).for_each(|(sum, reached)| *sum += reached);
    }
    assert!(sums.iter().all(|&sum| sum > 100), "{sums:?}");
}
