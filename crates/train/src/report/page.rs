//! A report as one page that needs nothing but a browser: tables written here, curves drawn by the page's own script from data in it.

use super::charts::{Charts, latest, shares};
use super::time::{Event, Session};
use super::{Report, time};
use data::Ledger;
use std::fmt::Write;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Sessions that are listed.
const SESSIONS: usize = 50;
/// An expert with less of an even share than this is told of.
const STARVED: f64 = 0.1;

/// The page of a run called `name`, where an hour costs `price`.
pub fn render(report: &Report, name: &str, price: f64) -> String {
    let charts = Charts::of(report);
    // Inside of a script element nothing may look like markup.
    let data = serde_json::to_string(&charts).unwrap_or_default().replace('<', "\\u003c");
    let mut page = String::new();
    // Each part once, in order, so that nothing in the data is taken for a place of the template.
    let parts = [
        ("{{title}}", escape(name)),
        ("{{style}}", STYLE.to_owned()),
        ("{{name}}", escape(name)),
        ("{{state}}", escape(&state(report))),
        ("{{tiles}}", tiles(report, price)),
        ("{{experts}}", experts(report)),
        ("{{time}}", time_table(report, price)),
        ("{{sessions}}", sessions(report)),
        ("{{skipped}}", skipped(report)),
        ("{{facts}}", facts(report)),
        ("{{ledger}}", report.ledger.as_ref().map_or_else(no_ledger, ledger)),
        ("{{recipe}}", escape(&report.recipe_text)),
        ("{{data}}", data),
        ("{{script}}", SCRIPT.to_owned()),
    ];
    let mut rest = TEMPLATE;
    for (place, text) in parts {
        let Some((before, after)) = rest.split_once(place) else { continue };
        page.push_str(before);
        page.push_str(&text);
        rest = after;
    }
    page + rest
}

/// What the run does now, in a sentence.
pub(super) fn state(report: &Report) -> String {
    let tokens = report.log.tokens;
    let all = report.recipe.as_ref().map_or(0, |recipe| recipe.train.tokens);
    let share = if all > 0 { 100.0 * tokens as f64 / all as f64 } else { 0.0 };
    let how = match report.timing.sessions.last().map(|session| session.end) {
        None => "No step yet",
        Some(Some(Event::Finished)) => "Finished",
        Some(Some(Event::Interrupted)) => "Stopped on request; the same command goes on",
        Some(Some(Event::Diverged)) => "Stopped: too many steps in a row could not be trusted",
        Some(_) => "Running, or killed",
    };
    format!("{how} · step {} · {} of {} tokens ({share:.1}%)", report.log.step, count(tokens), count(all))
}

fn tiles(report: &Report, price: f64) -> String {
    let parts = report.timing.parts();
    let steps = report.log.steps.entries();
    let mut tiles = String::new();
    let mut tile = |title: &str, value: String, about: String| {
        let (title, value, about) = (escape(title), escape(&value), escape(&about));
        let _ = write!(tiles, "<div class=tile><h3>{title}</h3><b>{value}</b><span>{about}</span></div>");
    };
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.4}"));
    let loss = steps.last().and_then(|step| step.loss.mean());
    tile("Loss", number(loss), "nats per token, last steps".into());
    if let Some(last) = report.log.held_out.entries().last() {
        let losses: Vec<f64> = last.losses.values().filter_map(|loss| loss.mean()).collect();
        let mean = (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64);
        let of = if losses.len() == 1 { "" } else { ", mean of the sources" };
        tile("Held out", number(mean), format!("nats per token at step {}{of}", last.step));
    }
    if let Some((rate, mfu)) = report.timing.average() {
        tile("Speed", format!("{}/s", count(rate.round() as u64)), "tokens per second".into());
        tile("MFU", format!("{:.1}%", 100.0 * mfu), "of the machine's peak, in steps".into());
    }
    tile("Goodput", format!("{:.1}%", 100.0 * parts.goodput()), format!("of {}", duration(parts.whole())));
    if price > 0.0 {
        let hours = parts.whole() / 3600.0;
        tile("Money", money(hours * price), format!("{hours:.2} h at {price:.2} an hour"));
    }
    tiles
}

/// Which experts get least, and how many get nearly nothing.
fn experts(report: &Report) -> String {
    let Some(loads) = &report.log.loads else {
        return "<p>A dense model: there are no experts.</p>".into();
    };
    let latest = latest(loads.entries());
    let layers = latest.layers.iter().enumerate().filter_map(|(layer, load)| Some((layer, shares(load)?)));
    let all: Vec<_> = layers
        .flat_map(|(layer, shares)| shares.into_iter().enumerate().map(move |(e, share)| (share, layer, e)))
        .collect();
    let Some((least, layer, expert)) = all.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return String::new();
    };
    let starved = all.iter().filter(|(share, ..)| *share < STARVED).count();
    let dropped: u64 = report.log.steps.entries().iter().map(|step| step.dropped).sum();
    let verdict = match starved {
        0 => format!("every expert of {} has at least a tenth of an even share", all.len()),
        n => format!("<strong>{n} of {} experts have less than a tenth of an even share</strong>", all.len()),
    };
    let drops =
        if dropped == 0 { "no choice was dropped".into() } else { format!("{} choices were dropped", count(dropped)) };
    format!(
        "<p>Last steps: {verdict}; the least loaded is expert {expert} of layer {layer} with {least:.3} of it. In the whole run {drops}.</p>"
    )
}

const PARTS: [(&str, &str); 9] = [
    ("productive", "steps done for the first time"),
    ("replayed", "steps done again, because a kill had lost them"),
    ("saving", "checkpoints and the model, while nothing else was done"),
    ("stalled", "steps that waited for a checkpoint to be written"),
    ("measuring", "held-out text"),
    ("restarting", "from each start of the program to its first step"),
    ("other", "what no line of the log tells"),
    ("unknown", "from the last line before a kill to the next start: lost work, or idle"),
    ("stopped", "between an orderly end and the next start"),
];

fn time_table(report: &Report, price: f64) -> String {
    let parts = report.timing.parts();
    let whole = parts.whole();
    let (mut bar, mut rows) = (String::new(), String::new());
    for ((name, seconds), (_, about)) in parts.named().into_iter().zip(PARTS) {
        let share = if whole > 0.0 { 100.0 * seconds / whole } else { 0.0 };
        let (time, money) = (duration(seconds), priced(seconds, price));
        if seconds > 0.0 {
            let _ = write!(
                bar,
                "<i class={name} style=\"flex-grow:{share:.4}\" title=\"{name}: {time}, {share:.2}%\"></i>"
            );
        }
        let _ =
            write!(rows, "<tr><th><i class={name}></i>{name}<td>{time}<td>{share:.2}%{money}<td class=about>{about}");
    }
    let money = priced(whole, price);
    let column = if price > 0.0 { "<th>money" } else { "" };
    let replayed = report.timing.replayed_steps();
    format!(
        "<div class=bar>{bar}</div><div class=wide><table><tr class=head><th>part<th>time<th>share{column}<th class=about>what it is{rows}\
         <tr class=sum><th>in all<td>{}<td>{}{money}<td class=about>{replayed} steps were done again</table></div>",
        duration(whole),
        if whole > 0.0 { "100%" } else { "–" },
    )
}

fn priced(seconds: f64, price: f64) -> String {
    if price > 0.0 { format!("<td>{}", money(seconds / 3600.0 * price)) } else { String::new() }
}

fn sessions(report: &Report) -> String {
    let all = &report.timing.sessions;
    let shown = &all[all.len().saturating_sub(SESSIONS)..];
    let row = |(number, session): (usize, &Session)| {
        let end = match session.end {
            Some(Event::Finished) => "finished",
            Some(Event::Interrupted) => "stopped on request",
            Some(Event::Diverged) => "diverged",
            _ if number + 1 == shown.len() => "killed, or still running",
            _ => "killed",
        };
        format!(
            "<tr><td><time data-s={:.0}>{:.0}</time><td>{}<td>{}<td>{}<td>{}<td class=about>{end}",
            session.begun,
            session.begun,
            duration(session.ended - session.begun),
            session.from,
            session.to,
            session.replayed_steps
        )
    };
    let rows: String = shown.iter().enumerate().map(row).collect();
    let left = all.len() - shown.len();
    let more = if left > 0 { format!("<p>{left} earlier ones are not listed.</p>") } else { String::new() };
    let broken = match report.broken_lines {
        0 => String::new(),
        n => format!("<p>{n} lines of the log were cut off by a kill and are left out.</p>"),
    };
    format!(
        "<div class=wide><table><tr class=head><th>begun<th>for<th>from step<th>to step<th>done again<th class=about>end{rows}</table></div>{more}{broken}"
    )
}

fn skipped(report: &Report) -> String {
    if report.log.skipped_steps == 0 {
        return "<p>No step was skipped.</p>".into();
    }
    let rows: String =
        report.log.skipped.iter().map(|s| format!("<tr><td>{}<td class=about>{}", s.step, escape(&s.reason))).collect();
    format!(
        "<p>{} steps left the weights as they were; the last of them:</p>\
         <div class=wide><table><tr class=head><th>step<th class=about>because{rows}</table></div>",
        report.log.skipped_steps
    )
}

fn facts(report: &Report) -> String {
    let mut rows = String::new();
    let mut row = |title: &str, text: String| {
        let _ = write!(rows, "<tr><th>{}<td class=about>{}", escape(title), escape(&text));
    };
    if let Some(time::Machine { parameters, active_parameters, flops_per_token, peak_gflops, threads }) =
        report.timing.machine
    {
        row(
            "parameters",
            format!("{} ({parameters}), {} active per token", count(parameters), count(active_parameters)),
        );
        row("arithmetic", format!("{:.3} GFLOP per token, forward and backward", flops_per_token / 1e9));
        row("machine", format!("{peak_gflops:.0} GFLOP/s at most with {threads} threads"));
    }
    if let Some(recipe) = &report.recipe {
        let (model, train) = (&recipe.model, &recipe.train);
        let start = match (&model.from, &model.upcycle) {
            (Some(from), _) => format!("goes on from {from}"),
            (_, Some(dense)) => format!("experts from {dense}"),
            _ => "from random weights".into(),
        };
        row("model", format!("{}, {start}", model.family()));
        let shape = [
            ("layers", model.layers),
            ("wide", model.hidden_size),
            ("heads", model.heads),
            ("experts", model.experts),
            ("of them for each token", model.top_k),
            ("wide inside", model.ffn_size),
        ];
        let shape: Vec<_> = shape.iter().filter_map(|(name, n)| Some(format!("{} {name}", (*n)?))).collect();
        if !shape.is_empty() {
            row("shape", shape.join(", "));
        }
        let optimiser = format!("{:?}", train.optimiser).to_lowercase();
        let schedule = format!("{:?}", train.schedule).to_lowercase();
        row("learning", format!("{optimiser}, learning rate {}, {schedule}, seed {}", train.lr, train.seed));
        row("tokens", format!("{} seen of {}, {} at once", report.log.tokens, train.tokens, recipe.data.context));
    }
    format!("<div class=wide><table>{rows}</table></div>")
}

fn ledger(ledger: &Ledger) -> String {
    let rows: String = ledger
        .sources
        .iter()
        .map(|source| {
            format!(
                "<tr><th>{}<td>{}<td>{}<td>{:.3}<td>{}<td>{}",
                escape(&source.name),
                source.samples,
                count(source.tokens),
                source.epochs,
                count(source.unique_tokens),
                count(source.available_tokens)
            )
        })
        .collect();
    format!(
        "<div class=wide><table><tr class=head><th>source<th>samples<th>tokens<th>epochs<th>seen at least once<th>available{rows}\
         <tr class=sum><th>in all<td>{}<td>{}<td><td><td></table></div>",
        ledger.samples,
        count(ledger.tokens())
    )
}

fn no_ledger() -> String {
    "<p>There is no ledger before the first checkpoint.</p>".into()
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A count with a unit.
pub(super) fn count(n: u64) -> String {
    let scales = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    match scales.into_iter().find(|(scale, _)| n as f64 >= *scale) {
        Some((scale, unit)) => format!("{:.2}{unit}", n as f64 / scale),
        None => n.to_string(),
    }
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86400, whole % 86400 / 3600),
    }
}

pub(super) fn money(amount: f64) -> String {
    if amount > 0.0 && amount < 1.0 { format!("{amount:.4}") } else { format!("{amount:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_are_told_in_units() {
        assert_eq!(
            [0.25, 59.6, 61.0, 3700.0, 90000.0].map(duration),
            ["0.2 s", "1 min 0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
        );
        assert_eq!([7, 1_500, 2_000_000].map(count), ["7", "1.50K", "2.00M"]);
    }

    #[test]
    fn the_parts_of_time_are_all_told() {
        let names = super::super::Parts::default().named().map(|(name, _)| name);
        assert_eq!(names, PARTS.map(|(name, _)| name));
        assert!(names.iter().all(|name| STYLE.contains(&format!(".{name} "))));
    }
}
