"use strict";
const { charts, loads } = JSON.parse(document.getElementById("data").textContent);

function html(parent, name, attributes = {}, text = "") {
  const element = parent.appendChild(document.createElement(name));
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  element.textContent = text;
  return element;
}

function svg(parent, name, attributes, text) {
  const element = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A number as a person reads it. */
function show(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  for (const [scale, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "K"]]) {
    if (size >= scale) return +(value / (scale === 1e4 ? 1e3 : scale)).toPrecision(4) + unit;
  }
  return size > 0 && size < 1e-3 ? (+value.toPrecision(4)).toExponential() : String(+value.toPrecision(5));
}

/** Round numbers from `from` to `to`, about `count` of them. */
function ticks(from, to, count) {
  const raw = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const list = [];
  for (let at = Math.ceil(from / step - 1e-9) * step; at <= to + step * 1e-9; at += step) list.push(+at.toPrecision(12));
  return list;
}

/** The index of the entry of a rising list that is nearest to `value`. */
function nearest(list, value) {
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1; else high = middle;
  }
  return low > 0 && value - list[low - 1] < list[low] - value ? low - 1 : low;
}

/** What lies between least and largest of what is shown; early values may lie outside where a curve settles. */
function range(chart, shown) {
  let low = Infinity, high = -Infinity;
  for (const series of shown) {
    const first = chart.settles ? Math.floor(series.y.length / 40) : 0;
    for (let i = first; i < series.y.length; i++) {
      for (const list of [series.y, series.low, series.high]) {
        const value = list && list[i];
        // What settles may have outliers: a range is not what sets the frame.
        if (value === null || value === undefined || (chart.settles && list !== series.y)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  if (low > high) return [0, 1];
  if (chart.line && (chart.line[0] - high) < (high - low) && (low - chart.line[0]) < (high - low)) {
    low = Math.min(low, chart.line[0]);
    high = Math.max(high, chart.line[0]);
  }
  if (low > 0 && low < 0.15 * high) low = 0;
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low === 0 ? 0 : low - room, high + room];
}

/** A path through points; it ends where there is nothing and begins again. */
function path(xs, ys, x, y) {
  let text = "", pen = "M";
  ys.forEach((value, i) => {
    if (value === null) { pen = "M"; return; }
    text += pen + x(xs[i]).toFixed(1) + " " + y(value).toFixed(1);
    pen = "L";
  });
  return text;
}

/** The area between two curves. */
function area(series, x, y) {
  const there = series.x.map((_, i) => i).filter((i) => series.low[i] !== null && series.high[i] !== null);
  const point = (list) => (i) => x(series.x[i]).toFixed(1) + " " + y(list[i]).toFixed(1);
  return there.length ? "M" + [...there.map(point(series.high)), ...there.reverse().map(point(series.low))].join("L") + "Z" : "";
}

function tip(figure) {
  const box = html(figure, "div", { class: "tip", hidden: "" });
  return {
    hide: () => { box.hidden = true; },
    /** Lines of [colour, name, value] beside a point of the figure. */
    show(left, top, title, lines) {
      box.textContent = "";
      html(box, "b", {}, title);
      for (const [colour, name, value] of lines) {
        const line = html(box, "div");
        html(line, "span", { style: `color:${colour}` }, "■ ");
        line.append(name + " ");
        html(line, "b", {}, value);
      }
      box.hidden = false;
      const width = figure.clientWidth;
      const beside = left + 14 + box.offsetWidth > width ? left - 14 - box.offsetWidth : left + 14;
      box.style.left = Math.max(0, Math.min(beside, width - box.offsetWidth)) + "px";
      box.style.top = top + "px";
    },
  };
}

function draw(parent, chart, number) {
  const large = chart.title === "Loss";
  const figure = html(parent, "figure", large ? { class: "large" } : {});
  const caption = html(figure, "figcaption");
  html(caption, "b", {}, chart.title);
  html(caption, "span", {}, chart.about);
  const frame = svg(figure, "svg", { role: "img", "aria-label": chart.title });
  const colour = (i) => `var(--s${chart.series[i].hue % 8})`;
  const hidden = new Set();
  const tooltip = tip(figure);
  let scales = null;

  function paint() {
    const width = Math.max(200, figure.clientWidth - 26), height = large ? 320 : 190;
    const [left, right, top, bottom] = [52, 10, 10, 24];
    const shown = chart.series.filter((_, i) => !hidden.has(i));
    const [low, high] = range(chart, shown);
    const last = Math.max(...chart.series.map((series) => series.x[series.x.length - 1] || 0));
    const x = (step) => left + (step / (last || 1)) * (width - left - right);
    const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
    scales = { x, y, left, right, width, height, last };
    frame.textContent = "";
    frame.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const clip = svg(svg(frame, "clipPath", { id: `clip${number}` }), "rect", {
      x: left, y: top, width: width - left - right, height: height - top - bottom,
    });
    for (const value of ticks(low, high, large ? 7 : 5)) {
      svg(frame, "line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) });
      svg(frame, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, show(value));
    }
    for (const step of ticks(0, last || 1, Math.max(2, Math.floor(width / 130)))) {
      svg(frame, "text", { x: x(step), y: height - 7, "text-anchor": step === 0 ? "start" : "middle" }, show(step));
    }
    const inside = svg(frame, "g", { "clip-path": `url(#clip${number})` });
    for (const step of chart.marks) svg(inside, "line", { class: "mark", x1: x(step), x2: x(step), y1: top, y2: top + 8 });
    if (chart.line) {
      const [value, name] = chart.line;
      svg(inside, "line", { class: "ruler", x1: left, x2: width - right, y1: y(value), y2: y(value) });
      svg(inside, "text", { x: width - right - 4, y: y(value) + (y(value) < top + 16 ? 13 : -4), "text-anchor": "end" }, name);
    }
    chart.series.forEach((series, i) => {
      if (hidden.has(i)) return;
      if (series.low) svg(inside, "path", { d: area(series, x, y), fill: colour(i), opacity: 0.2 });
      const many = series.points && series.x.length > 60;
      svg(inside, "path", {
        d: path(series.x, series.y, x, y), fill: "none", stroke: colour(i), "stroke-linejoin": "round",
        "stroke-width": series.points ? 1 : 1.6, "stroke-dasharray": series.points ? "3 3" : "none",
      });
      if ((series.points && !many) || series.x.length === 1) {
        series.y.forEach((value, at) => {
          if (value !== null) svg(inside, "circle", { cx: x(series.x[at]), cy: y(value), r: 3, fill: colour(i) });
        });
      }
    });
    scales.cross = svg(frame, "line", { class: "cross", y1: top, y2: height - bottom, visibility: "hidden" });
  }

  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const step = ((event.clientX - box.left - scales.left) / (scales.width - scales.left - scales.right)) * scales.last;
    const steps = chart.series[0].x;
    const at = steps[nearest(steps, step)];
    scales.cross.setAttribute("x1", scales.x(at));
    scales.cross.setAttribute("x2", scales.x(at));
    scales.cross.setAttribute("visibility", "visible");
    const lines = [];
    chart.series.forEach((series, i) => {
      if (hidden.has(i)) return;
      const nearby = nearest(series.x, at);
      const where = series.points && series.x[nearby] !== at ? ` (step ${series.x[nearby]})` : "";
      lines.push([colour(i), series.name, show(series.y[nearby]) + where]);
    });
    const around = figure.getBoundingClientRect();
    tooltip.show(scales.x(at) + box.left - around.left, box.top - around.top + 8, `step ${at}`, lines);
  });
  frame.addEventListener("pointerleave", () => {
    tooltip.hide();
    scales.cross.setAttribute("visibility", "hidden");
  });

  if (chart.series.length > 1) {
    const legend = html(figure, "div", { class: "legend" });
    chart.series.forEach((series, i) => {
      const button = html(legend, "button", { "aria-pressed": "true", title: "show or hide" });
      html(button, "i", { class: series.points ? "dot" : "", style: `background:${colour(i)}` });
      button.append(series.name);
      button.addEventListener("click", () => {
        if (!hidden.delete(i)) hidden.add(i);
        button.setAttribute("aria-pressed", String(!hidden.has(i)));
        paint();
      });
    });
  }
  new ResizeObserver(paint).observe(figure);
}

/** The share of an even load that a code stands for; none where nothing was chosen. */
const share = (code) => (code === 255 ? null : code === 0 ? 0 : 2 ** ((code - 128) / 24));
const codes = (text) => Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.substr(2 * i, 2), 16));

function palette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim().split(" ").map(Number);
  const [cold, even, hot, dead, blank] = ["--cold", "--even", "--hot", "--dead", "--blank"].map(read);
  return (code) => {
    if (code === 255) return blank;
    if (code === 0) return dead;
    // Eight times more or less than an even share is as far as colours go.
    const far = Math.max(-1, Math.min(1, (code - 128) / 72));
    const end = far < 0 ? cold : hot;
    return even.map((from, i) => from + (end[i] - from) * Math.abs(far));
  };
}

/** Fills a canvas of `columns` by `rows` cells, a pixel each. */
function fill(canvas, columns, rows, code) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows), colour = palette();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      image.data.set([...colour(code(column, row)), 255], 4 * (row * columns + column));
    }
  }
  context.putImageData(image, 0, 0);
}

function heat(parent, title, columns, rows, height, code, name) {
  const figure = html(parent, "figure");
  html(figure, "figcaption", {}, title);
  const canvas = html(figure, "canvas", { style: `height:${height}px`, role: "img", "aria-label": title });
  const tooltip = tip(figure);
  const paint = () => fill(canvas, columns, rows, code);
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const cell = (at, size, count) => Math.max(0, Math.min(count - 1, Math.floor((at / size) * count)));
    const column = cell(event.clientX - box.left, box.width, columns), row = cell(event.clientY - box.top, box.height, rows);
    const value = share(code(column, row)), colour = `rgb(${palette()(code(column, row)).map(Math.round).join(" ")})`;
    const text = value === null ? "no choices" : `${show(+value.toPrecision(2))} of an even share`;
    const left = event.clientX - figure.getBoundingClientRect().left;
    tooltip.show(left, canvas.offsetTop + canvas.offsetHeight + 4, name(column, row), [[colour, "", text]]);
  });
  canvas.addEventListener("pointerleave", tooltip.hide);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  paint();
}

function drawLoads(parent) {
  const latest = loads.latest.map(codes);
  const experts = Math.max(...latest.map((layer) => layer.length));
  const scale = html(parent, "div", { class: "scale" });
  html(scale, "span", {}, "an eighth of an even share, or less");
  const bar = html(scale, "canvas");
  const paint = () => fill(bar, 145, 1, (column) => 56 + column);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  paint();
  html(scale, "span", {}, "eight times as much, or more; no choice at all stands out in black (white on dark)");
  const overview = html(parent, "div", { class: "heat", style: "grid-template-columns:1fr" });
  heat(overview, "Now: layers down, experts across", experts, latest.length, Math.max(latest.length * 10, 40),
    (column, row) => latest[row][column] ?? 255, (column, row) => `layer ${row}, expert ${column}`);
  html(parent, "p", { class: "about" }, "In time, layer by layer: experts down, steps across");
  const grid = html(parent, "div", { class: "heat" });
  loads.layers.forEach(([count, text], layer) => {
    const cells = codes(text);
    heat(grid, `Layer ${layer}`, loads.x.length, count, Math.max(count * 5, 48),
      (column, row) => cells[column * count + row], (column, row) => `expert ${row}, up to step ${loads.x[column]}`);
  });
}

charts.forEach((chart, number) => draw(document.getElementById("charts"), chart, number));
if (loads) drawLoads(document.getElementById("loads"));
for (const time of document.querySelectorAll("time[data-s]")) {
  time.textContent = new Date(1000 * time.dataset.s).toLocaleString();
}
