//! Charts of a plan, as SVG.

use super::Step;
use mesh::schedule::{Op, Timeline};
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 170.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 40.0;

/// A waterfall: what each part adds to the peak's time, down to what failures leave.
pub fn waterfall(step: &Step, goodput: f64) -> String {
    let mut parts: Vec<_> = step.parts().into_iter().map(|(name, seconds)| (name.to_owned(), seconds)).collect();
    parts.push(("failures".to_owned(), step.seconds / goodput - step.seconds));
    let whole = step.seconds / goodput;
    let scale = (WIDTH - LEFT - 150.0) / whole;
    let height = HEAD + ROW * parts.len() as f64 + 16.0;
    let mut svg = open(height, &format!("A step of {whole:.2} s, failures included"));
    let mut at = 0.0_f64;
    for (row, (name, seconds)) in parts.iter().enumerate() {
        let (x, y, width) = (LEFT + at.min(at + seconds) * scale, HEAD + ROW * row as f64, seconds.abs() * scale);
        let colour = if row == 0 { "#2f7d4f" } else { "#b5533c" };
        let share = 100.0 * seconds / whole;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{seconds:.2} s, {share:.1}%</text>",
            LEFT - 8.0,
            y + 14.0,
            y,
            width.max(0.5),
            x + width + 6.0,
            y + 14.0,
        );
        at += seconds;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The pipeline in time: one row a stage, as the schedule that a trainer executes has it.
pub fn timeline(timeline: &Timeline) -> String {
    let row = (560.0 / timeline.stages.len().max(1) as f64).clamp(6.0, ROW);
    let scale = (WIDTH - LEFT - 20.0) / timeline.seconds.max(f64::MIN_POSITIVE);
    let height = HEAD + row * timeline.stages.len() as f64 + 34.0;
    let bubble = 100.0 * timeline.bubble();
    let mut svg = open(height, &format!("{:.2} s of pipeline, {bubble:.1}% of them waiting", timeline.seconds));
    for (stage, spans) in timeline.stages.iter().enumerate() {
        let y = HEAD + row * stage as f64;
        let middle = y + row / 2.0 + 4.0;
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">stage {stage}</text>", LEFT - 8.0);
        for span in spans {
            let (x, width) = (LEFT + span.start * scale, (span.end - span.start) * scale);
            let fill = colour(span.action.op);
            // Later chunks are paler.
            let opacity = 1.0 / (1.0 + 0.35 * span.action.chunk as f64);
            let _ = write!(
                svg,
                "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{:.1}\" fill=\"{fill}\" fill-opacity=\"{opacity:.2}\"/>",
                row - 1.0
            );
        }
    }
    let names = [
        (Op::Forward, "forward"),
        (Op::Backward, "backward"),
        (Op::BackwardInput, "gradients of inputs"),
        (Op::BackwardWeight, "gradients of weights"),
    ];
    for (index, (op, name)) in names.into_iter().enumerate() {
        let (x, y) = (LEFT + 180.0 * index as f64, height - 12.0);
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{y:.1}\">{name}</text>",
            y - 10.0,
            colour(op),
            x + 18.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"16\" y=\"24\" font-size=\"16\">{title}</text>"
    )
}

fn colour(op: Op) -> &'static str {
    match op {
        Op::Forward => "#3b6ea5",
        Op::Backward | Op::BackwardInput => "#d08a2e",
        Op::BackwardWeight => "#6a9a4a",
    }
}
