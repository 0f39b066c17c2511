//! `lyceum train` from outside: killed anywhere it ends with the same bytes, and says what became of it by its exit status.
#![cfg(unix)]

#[path = "../../train/tests/common/mod.rs"]
mod common;

use common::{Project, assert_same, checkpoints, log, outcome};
use spec::random::{below, mix};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

fn lyceum<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.args(arguments).env_remove("LYCEUM_FAILPOINT").stdin(Stdio::null());
    command
}

/// Trains in `run`, with settings and fail points.
fn training(project: &Project, run: &Path, settings: &[&str], failpoints: &str) -> Command {
    let mut command = lyceum(["train"]);
    command.arg(project.path("recipe.toml")).arg("--run").arg(run);
    for setting in ["train.checkpoint_every=2"].iter().chain(settings) {
        command.args(["--set", setting]);
    }
    if !failpoints.is_empty() {
        command.env("LYCEUM_FAILPOINT", failpoints);
    }
    command
}

fn train(project: &Project, run: &Path, settings: &[&str], failpoints: &str) -> Output {
    training(project, run, settings, failpoints).output().unwrap()
}

#[track_caller]
fn ended(output: &Output, status: i32, parts: &[&str]) {
    let text = [&*output.stdout, &*output.stderr].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).concat();
    assert_eq!(output.status.code(), Some(status), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// What happens to a run without any disturbance.
fn undisturbed(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let run = project.path("undisturbed");
    ended(&train(project, &run, &[], ""), 0, &["finished after 35 steps"]);
    outcome(&run)
}

/// A program that tells of its fail points on standard error.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
    inside: BTreeSet<String>,
}

impl Running {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines, inside: BTreeSet::new() }
    }

    /// Reads on until a fail point was entered so many times; false if the program ended before.
    fn reaches(&mut self, point: &str, times: u64) -> bool {
        let mut count = 0;
        while count < times {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return false;
            }
            self.take(&line);
            count += u64::from(line.trim_end() == format!("failpoint enter {point}"));
        }
        true
    }

    fn take(&mut self, line: &str) {
        match line.trim_end().strip_prefix("failpoint ").and_then(|line| line.split_once(' ')) {
            Some(("enter", name)) => drop(self.inside.insert(name.to_owned())),
            Some(("leave", name)) => drop(self.inside.remove(name)),
            _ => {}
        }
    }

    /// Kills the program; the fail points that it was in then.
    fn kill(mut self) -> BTreeSet<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest.lines().for_each(|line| self.take(line));
        self.inside
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end; the exit status, and what it said from now on.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

/// What must not depend on threads and recomputation either.
fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = outcome(run);
    files.retain(|name, _| name.ends_with("model.safetensors") || name == "log.jsonl" || name == "ledger.json");
    assert_eq!(files.len(), 6);
    files
}

/// Programs are killed at a fail point reached so many times, plus a moment, all of it random. Where the fail point is not reached, the run has ended.
#[test]
fn a_run_killed_anywhere_ends_with_the_same_bytes() {
    const POINTS: [&str; 4] = ["step", "save", "rename", "renamed"];
    const KILLS: u64 = 10;
    let project = Project::new();
    undisturbed(&project);
    let expected = results(&project.path("undisturbed"));
    let mut hit: BTreeMap<String, u64> = BTreeMap::new();
    let mut seed = 0u64;
    let mut random = |bound: u64| {
        seed += 1;
        below(mix(seed), bound)
    };
    for (i, settings) in [["hardware.threads=2"], ["hardware.threads=1"], ["train.recompute=true"]].iter().enumerate() {
        let run = project.path(&format!("run {i}"));
        let (mut kills, mut attempts) = (0, 0);
        while kills < KILLS && attempts < 5 * KILLS {
            attempts += 1;
            let mut running = Running::new(training(&project, &run, settings, "step:3,save:8,rename:15,renamed:15"));
            // Now and then before anything is reached: while the recipe, the data or a checkpoint is read.
            let point = POINTS[random(POINTS.len() as u64) as usize];
            let times = random(4);
            if !running.reaches(point, times) {
                assert_eq!(running.end().0, Some(0));
                fs::remove_dir_all(&run).unwrap();
                continue;
            }
            sleep(Duration::from_millis(random(16)));
            running.kill().into_iter().for_each(|point| *hit.entry(point).or_default() += 1);
            kills += 1;
            // Sometimes what is left is damaged on top.
            let left = if run.join("checkpoints").is_dir() { checkpoints(&run) } else { Vec::new() };
            if let ([_, .., newest], 0) = (&*left, random(5)) {
                fs::write(run.join(format!("checkpoints/step-{newest}/model.safetensors")), "gone").unwrap();
            }
        }
        assert_eq!(kills, KILLS);
        ended(&train(&project, &run, settings, ""), 0, &["finished after 35 steps"]);
        assert_same(&results(&run), &expected);
    }
    assert!(POINTS.iter().all(|point| hit.contains_key(*point)), "{hit:?}");
}

#[test]
fn signals_save_and_leave_after_the_step() {
    let project = Project::new();
    let expected = undisturbed(&project);
    let run = project.path("run");
    for signal in ["-TERM", "-INT"] {
        let mut running = Running::new(training(&project, &run, &["train.checkpoint_every=100"], "step:50"));
        assert!(running.reaches("step", 5));
        running.signal(signal);
        let (status, _) = running.end();
        assert_eq!(status, Some(0));
        // There is a checkpoint of the last step that is in the log, and every step in it is whole.
        let last = *checkpoints(&run).last().unwrap();
        let of_steps = log(&run).into_iter().rfind(|line| line.get("lr").is_some()).unwrap();
        assert_eq!(of_steps["step"], last);
    }
    ended(&train(&project, &run, &[], ""), 0, &["going on from"]);
    assert_same(&outcome(&run), &expected);
    // Once there is nothing left to do, the same command does nothing.
    ended(&train(&project, &run, &[], ""), 0, &["finished after 35 steps"]);
    assert_same(&outcome(&run), &expected);
}

/// A run that was killed, with two checkpoints at least.
fn killed(project: &Project, run: &Path) -> Vec<u64> {
    let mut running = Running::new(training(project, run, &[], "step:20,renamed:1"));
    assert!(running.reaches("renamed", 2) && running.reaches("step", 2));
    running.kill();
    let left = checkpoints(run);
    assert!(left.len() > 1, "{left:?}");
    left
}

/// What it does to a checkpoint, and what is said of it.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn a_corrupt_checkpoint_falls_back_to_the_one_before_and_says_so() {
    let project = Project::new();
    let expected = undisturbed(&project);
    let damages: [Damage<'_>; 3] = [
        ("the checksum of optimiser/first/model.safetensors", &|step| {
            let path = step.join("optimiser/first/model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            fs::write(path, bytes).unwrap();
        }),
        ("model.safetensors has 100 bytes", &|step| {
            fs::OpenOptions::new().write(true).open(step.join("model.safetensors")).unwrap().set_len(100).unwrap();
        }),
        ("state.json: ", &|step| fs::remove_file(step.join("state.json")).unwrap()),
    ];
    for (i, (problem, damage)) in damages.iter().enumerate() {
        let run = project.path(&format!("run {i}"));
        let left = killed(&project, &run);
        let [.., before, newest] = &*left else { panic!("{left:?}") };
        damage(&run.join(format!("checkpoints/step-{newest}")));
        let said = [
            &format!("step-{newest} is damaged ({problem}"),
            &format!("set aside as {}", run.join(format!("checkpoints/damaged-step-{newest}")).display()),
            &format!("going on from {}", run.join(format!("checkpoints/step-{before}")).display()),
        ];
        ended(&train(&project, &run, &[], ""), 0, &said.map(String::as_str));
        assert_same(&outcome(&run), &expected);
    }
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before_and_says_so() {
    let project = Project::new();
    let expected = undisturbed(&project);
    for point in ["save:full", "rename:full", "renamed:full"] {
        let run = project.path(point);
        let before = killed(&project, &run);
        let newest = before.last().unwrap();
        let full = train(&project, &run, &[], point);
        ended(&full, 1, &["could not be written", &format!("that of step {newest} stays"), "error: "]);
        assert!(checkpoints(&run).contains(newest));
        ended(&train(&project, &run, &[], ""), 0, &["going on from"]);
        assert_same(&outcome(&run), &expected);
    }
}

#[test]
fn a_checkpoint_is_a_model() {
    let project = Project::new();
    let run = project.path("run");
    let short = train(&project, &run, &["train.tokens=640", "train.warmup_tokens=0"], "");
    ended(&short, 0, &["finished after 5 steps"]);
    for folder in ["checkpoints/step-5", "model"] {
        let arguments = ["--prompt", "Hi", "--max-tokens", "3", "--temperature", "0"];
        let output = lyceum(["generate"]).arg(run.join(folder)).args(arguments).output().unwrap();
        ended(&output, 0, &[]);
    }
}

#[test]
fn a_bias_on_the_choice_of_experts_goes_where_it_can_be_held() {
    let project = Project::new();
    let run = project.path("run");
    let settings = ["train.tokens=640", "train.warmup_tokens=0", "train.bias_rate=0.01"];
    ended(&train(&project, &run, &settings, ""), 0, &["LyceumMixtralForCausalLM", "other programs refuse"]);
    let model = run.join("model");
    ended(&lyceum(["inspect"]).arg(&model).output().unwrap(), 0, &["LyceumMixtralForCausalLM"]);
    let generate = lyceum(["generate"]).arg(&model).args(["--prompt", "Hi", "--max-tokens", "3"]).output().unwrap();
    ended(&generate, 0, &[]);
    let convert = |to: &str| lyceum(["convert"]).arg(&model).arg(project.path(to)).output().unwrap();
    ended(&convert("model.gguf"), 1, &["bias on the choice of experts"]);
    ended(&convert("copy"), 0, &[]);
    ended(&lyceum(["inspect"]).arg(project.path("copy")).output().unwrap(), 0, &["LyceumMixtralForCausalLM"]);
}

#[test]
fn a_learning_rate_that_blows_up_ends_the_run_before_its_weights_are_lost() {
    let project = Project::new();
    let run = project.path("run");
    ended(&train(&project, &run, &["train.tokens=2_560"], ""), 0, &["finished after 15 steps"]);
    // Some steps on, a learning rate that no model survives.
    let wild = ["train.lr=1e20", "train.clip=0", "train.max_skips=3", "train.checkpoint_every=1"];
    let output = train(&project, &run, &wild, "");
    ended(&output, 3, &["train.lr was 0.01", "changes nothing", "3 steps in a row", "A lower train.lr"]);
    // The checkpoint that is named is the one that the run goes on from, and its weights are sound.
    let text = String::from_utf8(output.stderr).unwrap();
    let last = checkpoints(&run).pop().unwrap();
    let named = run.join(format!("checkpoints/step-{last}"));
    assert!(text.contains(&format!("goes on from {}", named.display())), "{text}");
    let entry =
        |step: u64| log(&run).into_iter().find(|line| line["step"] == step && line.get("lr").is_some()).unwrap();
    assert!(entry(last + 1)["loss"].is_f64() && entry(last + 1).get("skipped").is_none(), "{text}");
    ended(&train(&project, &run, &["train.final_lr=0.001"], ""), 0, &["going on from", "finished after 35 steps"]);
    assert!(log(&run).iter().all(|line| line.get("skipped").is_none()));
}

#[test]
fn ends_have_their_exit_status() {
    let project = Project::new();
    let run = project.path("run");
    let set = |setting: &str| train(&project, &run, &[setting], "");
    ended(&set("train.lr"), 2, &["--set train.lr", "key=value"]);
    ended(&set("train.learning_rate=1"), 1, &["recipe.toml", "learning_rate"]);
    ended(&set("train.batch=100"), 1, &["train.batch is 100", "multiples of 64"]);
    ended(&set("data.sources.0.path=nowhere"), 1, &["nowhere"]);
    ended(&lyceum(["train", "/no/such/recipe.toml"]).output().unwrap(), 1, &["/no/such/recipe.toml"]);
    assert!(!run.exists());
    // A folder that cannot be one.
    fs::write(&run, "precious").unwrap();
    ended(&set("train.lr=1e-3"), 1, &[&run.display().to_string()]);
    assert_eq!(fs::read(&run).unwrap(), b"precious");
}
