// Plots, drawn as SVG (curves and bars) and on a canvas (the heat map, which may have thousands of cells).

import { el, svg } from "./dom.js";

const height = 150;
const margin = { left: 50, right: 6, top: 8, bottom: 20 };

/** A number as a person reads it. */
export function show(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  for (const [scale, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "K"]]) {
    if (size >= scale) return +(value / (scale === 1e4 ? 1e3 : scale)).toPrecision(3) + unit;
  }
  return String(size >= 100 ? Math.round(value) : +value.toPrecision(size >= 10 ? 3 : 2));
}

/** Seconds as a person reads them. */
export function showSeconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${show(value * 1000)} ms` : `${show(value)} s`;
}

/** A share as a person reads it. */
export function showShare(value) {
  return value === null || value === undefined ? "–" : `${show(value * 100)}%`;
}

/**
 * A figure with a plot. `form` is `lines`, `stack` (areas on top of each other) or `bars`; each series has a `name` and the number of its
 * colour. The legend says the latest values, or those under the pointer.
 */
export class Plot {
  #options;
  #values = [];
  #drawing = svg("svg", { class: "plot", role: "img", height });
  #cross = svg("line", { class: "cross", y1: margin.top, y2: height - margin.bottom, visibility: "hidden" });
  #data = null;
  #pointed = null; // the index under the pointer

  constructor({ title, about, form = "lines", series, format = show }) {
    this.#options = { title, form, series, format };
    const legend = series.map(({ name, colour }) => {
      const value = el("b", {}, "–");
      this.#values.push(value);
      return el("span", {}, el("i", { class: `swatch s${colour}` }), `${name} `, value);
    });
    this.element = el("figure", { class: "card" },
      el("figcaption", {}, el("h3", {}, title), el("p", { class: "faint" }, about), el("div", { class: "legend" }, ...legend)),
      this.#drawing);
    this.#drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.#drawing.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.#paint()).observe(this.element);
  }

  /**
   * Draws `values[series][index]` over `x[index]`; null is a gap. `from` and `to` are the ends of the x axis and `ends` their names; `top`
   * is the least upper end of the y axis.
   */
  draw(data) {
    this.#data = data;
    this.#paint();
  }

  #paint() {
    const width = this.#drawing.clientWidth;
    if (!this.#data || width === 0) return;
    const { form, series, format, title } = this.#options;
    const { x, values, from, to, ends, top = 0 } = this.#data;
    const sums = form === "stack" ? stacked(values) : values;
    const ceiling = Math.max(top, ...sums.flat().filter((value) => value !== null && Number.isFinite(value)));
    const ticks = niceTicks(ceiling > 0 ? ceiling : 1);
    const high = ticks.at(-1);
    const plane = {
      x: (value) => margin.left + ((value - from) / (to - from || 1)) * (width - margin.left - margin.right),
      y: (value) => height - margin.bottom - (value / high) * (height - margin.top - margin.bottom),
    };
    const marks = ticks.flatMap((tick) => [
      svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: plane.y(tick), y2: plane.y(tick) }),
      svg("text", { x: margin.left - 6, y: plane.y(tick) + 4, "text-anchor": "end" }, format(tick)),
    ]);
    const names = [
      svg("text", { x: margin.left, y: height - 4 }, ends[0]),
      svg("text", { x: width - margin.right, y: height - 4, "text-anchor": "end" }, ends[1]),
    ];
    const shapes = series.map(({ colour }, index) => {
      const under = form === "stack" && index > 0 ? sums[index - 1] : null;
      if (form === "stack") return svg("path", { class: `area s${colour}`, d: areaPath(x, sums[index], under, plane) });
      if (form === "bars") return svg("path", { class: `bar s${colour}`, d: barPath(x, sums[index], plane) });
      return svg("path", { class: `line s${colour}`, d: linePath(x, sums[index], plane) });
    });
    this.#drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#drawing.replaceChildren(...marks, ...shapes, ...names, this.#cross);
    this.#tell(plane);
    const latest = series.map(({ name }, index) => `${name} ${format(values[index].at(-1) ?? null)}`).join(", ");
    this.#drawing.setAttribute("aria-label", `${title}: ${latest}`);
  }

  /** Says the values under the pointer, else the latest. */
  #tell(plane) {
    const { x, values } = this.#data;
    const index = this.#pointed === null ? x.length - 1 : Math.min(this.#pointed, x.length - 1);
    values.forEach((list, series) => (this.#values[series].textContent = this.#options.format(list[index] ?? null)));
    this.#cross.setAttribute("visibility", this.#pointed === null || index < 0 ? "hidden" : "visible");
    if (index >= 0) {
      this.#cross.setAttribute("x1", plane.x(x[index]));
      this.#cross.setAttribute("x2", plane.x(x[index]));
    }
  }

  #point(event) {
    this.#pointed = null;
    if (event && this.#data?.x.length) {
      const box = this.#drawing.getBoundingClientRect();
      const { x, from, to } = this.#data;
      const at = from + ((event.clientX - box.left - margin.left) / (box.width - margin.left - margin.right)) * (to - from);
      this.#pointed = x.reduce((best, value, index) => (Math.abs(value - at) < Math.abs(x[best] - at) ? index : best), 0);
    }
    this.#paint();
  }
}

/** A figure with a heat map: rows of cells coloured by how far a value is below or above 1. */
export class HeatMap {
  #canvas = el("canvas", { role: "img" });
  #said = el("p", { class: "faint" });
  #rows = [];
  #summary = "";
  #names;

  constructor({ title, about, row, column, controls = [] }) {
    this.#names = { title, row, column };
    this.element = el("figure", { class: "card large" },
      el("figcaption", {}, el("div", { class: "row spread" }, el("h3", {}, title), el("div", { class: "row" }, ...controls)),
        el("p", { class: "faint" }, about), this.#said),
      this.#canvas,
      el("div", { class: "scale faint" }, "idle", el("span", { class: "gradient" }), "twice the even share or more"));
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerleave", () => this.#said.replaceChildren(this.#summary));
  }

  /** Draws rows `{ index, cells }`, all of one length; `summary` is what it comes to, in words. */
  draw(rows, summary) {
    this.#rows = rows;
    this.#summary = summary;
    this.#said.replaceChildren(summary);
    this.#canvas.setAttribute("aria-label", `${this.#names.title}: ${summary}`);
    this.paint();
  }

  /** Paints it again, where the theme has changed. */
  paint() {
    const columns = Math.max(0, ...this.#rows.map(({ cells }) => cells.length));
    if (columns === 0) return;
    this.#canvas.width = columns;
    this.#canvas.height = this.#rows.length;
    this.#canvas.style.height = `${this.#rows.length * Math.max(6, Math.min(22, 360 / this.#rows.length))}px`;
    const style = getComputedStyle(this.#canvas);
    const [cold, even, hot] = ["--cold", "--even", "--hot"].map((name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number));
    const context = this.#canvas.getContext("2d");
    const image = context.createImageData(columns, this.#rows.length);
    this.#rows.forEach(({ cells }, y) => cells.forEach((value, x) => {
      const [end, part] = value < 1 ? [cold, 1 - value] : [hot, Math.min(1, value - 1)];
      const colour = even.map((channel, index) => channel + (end[index] - channel) * part);
      image.data.set([...colour, 255], 4 * (y * columns + x));
    }));
    context.putImageData(image, 0, 0);
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const row = this.#rows[Math.floor(((event.clientY - box.top) / box.height) * this.#rows.length)];
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.#canvas.width);
    if (row?.cells[column] === undefined) return;
    const { row: rowName, column: columnName } = this.#names;
    this.#said.replaceChildren(`${rowName} ${row.index}, ${columnName} ${column}: ${show(row.cells[column])} times the even share`);
  }
}

/** Round numbers from 0 to at least `high`. */
function niceTicks(high) {
  const raw = high / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const count = Math.ceil(high / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, index) => +(index * step).toPrecision(12));
}

function stacked(values) {
  const sums = [];
  for (const list of values) sums.push(list.map((value, index) => (value ?? 0) + (sums.at(-1)?.[index] ?? 0)));
  return sums;
}

function linePath(x, values, plane) {
  let path = "";
  let gap = true;
  values.forEach((value, index) => {
    if (value === null || !Number.isFinite(value)) {
      gap = true;
      return;
    }
    const alone = gap && (values[index + 1] ?? null) === null;
    path += `${gap ? "M" : "L"}${round(plane.x(x[index]))} ${round(plane.y(value))}${alone ? "h0.1" : ""}`;
    gap = false;
  });
  return path;
}

function areaPath(x, values, under, plane) {
  if (!x.length) return "";
  const point = (value, index) => `${round(plane.x(x[index]))} ${round(plane.y(value))}`;
  const back = x.map((_, index) => point(under?.[index] ?? 0, index)).reverse();
  return `M${values.map(point).join("L")}L${back.join("L")}Z`;
}

function barPath(x, values, plane) {
  const width = x.length > 1 ? Math.max(1, (plane.x(x[1]) - plane.x(x[0])) * 0.8) : 4;
  const foot = plane.y(0);
  return values.map((value, index) => {
    const left = round(plane.x(x[index]) - width / 2);
    return value ? `M${left} ${foot}V${round(plane.y(value))}h${round(width)}V${foot}Z` : "";
  }).join("");
}

function round(value) {
  return Math.round(value * 10) / 10;
}
