// The live engine: what waits and runs, what a step does, how long tokens take, which experts work.

import { errorNotice, getJson } from "./api.js";
import { byId, el } from "./dom.js";
import { History, memory, quantile, rate, ratio, readSnapshot, share, since } from "./live.js";
import { HeatMap, Plot, show, showSeconds, showShare } from "./plots.js";

const interval = 1000;
/** Latencies of one moment are those of so many seconds before it. */
const latencyWindow = 10;
const quantiles = [["median", 0.5, 0], ["95%", 0.95, 1], ["99%", 0.99, 6]];

/** Starts the view. `page` is what `app.js` offers. */
export function startEngine(page) {
  const engine = new EngineView(page);
  document.addEventListener("visibilitychange", () => engine.retry());
  return engine;
}

class EngineView {
  #page;
  #history = new History();
  #shown = false;
  #timer = null;
  #asking = false;
  #tiles = new Map(); // by name: the elements of its value and of what is said about it
  #plots = makePlots();
  #draftBlocks = null; // a plot, once there is a draft model
  #speculation = null; // a plot, once something was drafted
  #experts;
  #recentExperts = false; // whether the heat map shows the last minute only

  constructor(page) {
    this.#page = page;
    const control = el("button", { type: "button", class: "link", "aria-pressed": "false", click: () => {
      this.#recentExperts = !this.#recentExperts;
      control.setAttribute("aria-pressed", String(this.#recentExperts));
      control.textContent = this.#recentExperts ? "Last minute" : "Since the start";
      this.#drawExperts();
    } }, "Since the start");
    this.#experts = new HeatMap({ title: "Expert load", about: "How many tokens the router gave to each expert (columns) of each layer (rows)",
      row: "layer", column: "expert", controls: [control] });
    this.#experts.element.hidden = true;
    byId("plots").append(...Object.values(this.#plots).map(({ element }) => element), this.#experts.element);
  }

  /** Whether the view is looked at; the server is asked only then. */
  show(shown) {
    this.#shown = shown;
    this.retry();
  }

  /** Asks the server now, if the view is looked at. */
  retry() {
    clearTimeout(this.#timer);
    if (this.#shown && document.visibilityState === "visible" && !this.#asking) this.#ask();
  }

  /** Draws what depends on the theme. */
  repaint() {
    this.#experts.paint();
  }

  async #ask() {
    this.#asking = true;
    let wait = interval;
    try {
      this.#history.add(readSnapshot(await getJson("api/live", AbortSignal.timeout(5 * interval))));
      byId("engine-notice").replaceChildren();
      this.#draw();
    } catch (error) {
      byId("engine-notice").replaceChildren(errorNotice(error));
      if (error.wantsKey) this.#page.askKey();
      wait = error.wantsKey ? null : 3 * interval;
    }
    this.#asking = false;
    if (this.#shown && wait !== null) this.#timer = setTimeout(() => this.retry(), wait);
  }

  #draw() {
    this.#drawTiles();
    const history = this.#history;
    const { last } = history;
    const x = history.times();
    const from = Math.max(-memory, Math.min(-60, x[0]));
    const overTime = (values, top) => ({ x, values, from, to: 0, ends: [from <= -120 ? `${Math.round(-from / 60)} min ago` : `${Math.round(-from)} s ago`, "now"], top });
    const plots = this.#plots;
    plots.speed.draw(overTime([history.changes(rate((now) => now.tokensOut), 2), history.changes(rate((now) => now.tokensIn), 2)]));
    plots.queue.draw(overTime([history.levels((now) => now.running), history.levels((now) => now.waiting)], 4));
    plots.blocks.draw(overTime(blocksOf(history, 0)));
    plots.first.draw(overTime(latencies(history, (now) => now.firstToken)));
    plots.between.draw(overTime(latencies(history, (now) => now.interToken)));

    const steps = last.recent;
    const perStep = (values, top) => ({ x: steps.map((_, index) => index - steps.length), values, from: -Math.max(32, steps.length) - 0.5, to: -0.5,
      ends: [`${Math.max(32, steps.length)} steps ago`, "last step"], top });
    plots.batch.draw(perStep([steps.map(({ rows }) => rows ?? 0), steps.map(({ sequences }) => sequences ?? 0)], 4));
    plots.step.draw(perStep([steps.map(({ seconds }) => seconds ?? null)]));

    if (last.groups.length > 1) {
      this.#draftBlocks ??= this.#addPlot(plots.blocks, blocksPlot("KV blocks of the draft model"));
      this.#draftBlocks.draw(overTime(blocksOf(history, 1)));
    }
    if (last.drafted > 0) {
      this.#speculation ??= this.#addPlot(plots.step, new Plot({ title: "Speculation", about: "Drafted tokens that were the model's own choice",
        series: [{ name: "accepted", colour: 3 }], format: showShare }));
      this.#speculation.draw(overTime([history.changes(share((now) => now.accepted, (now) => now.drafted), latencyWindow)], 1));
    }
    this.#drawExperts();
  }

  #addPlot(after, plot) {
    after.element.after(plot.element);
    return plot;
  }

  #drawTiles() {
    const history = this.#history;
    const { last } = history;
    const recently = history.before(latencyWindow);
    const second = history.snapshots.length > 1;
    const blocks = last.groups[0];
    const total = blocks ? blocks.free + blocks.cached + blocks.owned : 0;
    const first = last.firstToken;
    const between = last.interToken;
    const speed = second && last.at > recently.at ? rate((now) => now.tokensOut)(last, recently) : null;
    this.#tile("Output", speed === null ? "–" : `${show(speed)} tokens/s`, `${show(last.tokensOut)} tokens so far`);
    this.#tile("Requests", `${show(last.running)} running`, `${show(last.waiting)} waiting`);
    this.#tile("KV cache", showShare(blocks ? ratio(blocks.owned, total) : null), blocks ? `of ${show(total)} blocks, ${show(blocks.cached)} kept for reuse` : "");
    this.#tile("Time to first token", showSeconds(quantile(first, 0.5)), `99%: ${showSeconds(quantile(first, 0.99))}`);
    this.#tile("Between tokens", showSeconds(quantile(between, 0.5)), `99%: ${showSeconds(quantile(between, 0.99))}`);
    this.#tile("Prefix cache", showShare(ratio(last.found, last.lookedUp)), "of prompt tokens found");
    if (last.drafted > 0) this.#tile("Speculation", showShare(ratio(last.accepted, last.drafted)), `of ${show(last.drafted)} drafted tokens accepted`);
    if (last.answers > 0) {
      const [read, skim] = last.readable.map((count) => showShare(count / last.answers));
      this.#tile("Fast enough to read", read ?? "–", `of answers at 8.3 tokens/s; ${skim ?? "–"} at 33.3, to skim`);
    }
    const times = Object.values(last.spent).filter((value) => typeof value === "number");
    const whole = times.reduce((sum, value) => sum + value, 0);
    if (whole > 0) {
      const inModels = (last.spent.model ?? 0) + (last.spent.draft ?? 0);
      this.#tile("Beside the model", showShare((whole - inModels) / whole), "of step time: scheduling, sampling, text");
    }
    if (last.weightBytes) this.#tile("Memory", bytes(last.weightBytes + last.kvBytes), `weights ${bytes(last.weightBytes)}, K/V ${bytes(last.kvBytes)}`);
    if (last.context) this.#tile("Context", `${show(last.context)} tokens`, "of prompt and answer together");
    this.#tile("Up", duration(last.at), `${show(last.steps)} steps, ${show(last.preemptions)} preemptions`);
  }

  #tile(name, value, about) {
    let parts = this.#tiles.get(name);
    if (!parts) {
      parts = [el("b"), el("span", { class: "faint" })];
      this.#tiles.set(name, parts);
      byId("tiles").append(el("div", { class: "card tile" }, el("h3", { class: "faint" }, name), ...parts));
    }
    parts[0].textContent = value;
    parts[1].textContent = about;
  }

  #drawExperts() {
    const { last } = this.#history;
    if (!last) return;
    const before = this.#recentExperts ? this.#history.before(60).experts : [];
    const rows = last.experts
      .map((counts, index) => ({ index, cells: evenShares(counts.map((count, expert) => count - (before[index]?.[expert] ?? 0))) }))
      .filter(({ cells }) => cells.length > 0);
    this.#experts.element.hidden = rows.length === 0;
    if (rows.length) this.#experts.draw(rows, summarise(rows));
  }
}

function makePlots() {
  const latency = quantiles.map(([name, , colour]) => ({ name, colour }));
  return {
    speed: new Plot({ title: "Tokens per second", about: "Generated, and prompts that came in", series: [{ name: "out", colour: 0 }, { name: "in", colour: 7 }] }),
    queue: new Plot({ title: "Requests", about: "With and without a place in the cache", series: [{ name: "running", colour: 2 }, { name: "waiting", colour: 1 }] }),
    blocks: blocksPlot("KV blocks"),
    batch: new Plot({ title: "Batch", about: "Rows of each step, and their sequences", form: "bars",
      series: [{ name: "rows", colour: 0 }, { name: "sequences", colour: 1 }] }),
    step: new Plot({ title: "Step time", about: "Of each step", form: "bars", series: [{ name: "step", colour: 5 }], format: showSeconds }),
    first: new Plot({ title: "Time to first token", about: `Over ${latencyWindow} s`, series: latency, format: showSeconds }),
    between: new Plot({ title: "Between tokens", about: `Over ${latencyWindow} s`, series: latency, format: showSeconds }),
  };
}

function blocksPlot(title) {
  return new Plot({ title, about: "In use, kept for reuse, and free", form: "stack",
    series: [{ name: "in use", colour: 0 }, { name: "kept", colour: 2 }, { name: "free", colour: 8 }] });
}

function blocksOf(history, group) {
  return ["owned", "cached", "free"].map((kind) => history.levels((now) => now.groups[group]?.[kind] ?? 0));
}

function latencies(history, histogram) {
  return quantiles.map(([, part]) => history.changes((now, before) => quantile(since(histogram(now), histogram(before)), part), latencyWindow));
}

/** Counts as multiples of their mean; all 1 where nothing was counted. */
function evenShares(counts) {
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  return counts.map((count) => (mean > 0 ? count / mean : 1));
}

function summarise(rows) {
  let busiest = { value: -1 };
  let idle = 0;
  for (const { index, cells } of rows) {
    cells.forEach((value, expert) => {
      if (value > busiest.value) busiest = { value, index, expert };
      idle += value === 0;
    });
  }
  const idlers = idle ? `${idle} ${idle === 1 ? "expert" : "experts"} had no token` : "every expert had tokens";
  return `Busiest: layer ${busiest.index}, expert ${busiest.expert}, ${show(busiest.value)} times the even share; ${idlers}.`;
}

function bytes(count) {
  return count >= 2 ** 30 ? `${show(count / 2 ** 30)} GiB` : `${show(count / 2 ** 20)} MiB`;
}

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours >= 48) return `${Math.floor(hours / 24)} days`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}
