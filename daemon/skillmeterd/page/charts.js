// Charts: uPlot in the page's colours, the small lines of a table, and bars that are plain elements.

import { h, svg, say } from "./dom.js";
import { NONE, amount, count, duration, latency, moment, visible } from "./format.js";

const styles = getComputedStyle(document.documentElement);
const colour = (name) => () => styles.getPropertyValue(`--${name}`).trim();
const alive = new Set();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of alive) chart.redraw();
});

const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200];
const DAYS = [1, 2, 7, 14, 30, 90, 180, 365].map((days) => days * 86_400);
const WHOLE = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/**
 * A chart over time. Lines: {label, colour, bars}; all are drawn from the same axis; bars are whole numbers. It is a
 * slider over its steps: the arrow keys, as the pointer, show one step's values.
 */
export class TimeChart {
  constructor(title, lines, format) {
    this.lines = lines;
    this.format = format;
    this.step_s = 86_400;
    this.plot = null;
    this.nothing = h("p", { class: "empty", hidden: true }, "No call in this period.");
    this.host = h("div", {
      class: "plot",
      role: "slider",
      tabindex: 0,
      "aria-label": `${title} over time`,
      "aria-valuemin": 1,
      onkeydown: (event) => this.#turn(event),
      onblur: () => this.plot?.setCursor({ left: -10, top: -10 }),
    }, this.nothing);
    this.tip = h("div", { class: "tip", hidden: true });
    this.note = h("span", { class: "note" });
    const legend = lines.map((line) => h("span", { class: `key ${line.colour}` }, line.label));
    this.root = h("figure", { class: "card" }, h("figcaption", {}, h("h2", {}, title), ...legend, this.note), this.host);
    this.sizes = new ResizeObserver(() => this.#resize());
    this.sizes.observe(this.host);
  }

  /** `columns` holds the values of each line, step by step. */
  show({ start, step_s, is_complete }, columns) {
    const start_s = Date.parse(start) / 1000;
    this.step_s = step_s;
    this.isEmpty = !columns.some((column) => column.some(Boolean));
    this.data = [columns[0].map((_, step) => start_s + step * step_s), ...columns];
    say(this.note, this.isEmpty ? "" : this.#noteOf(start_s, is_complete));
    this.nothing.hidden = !this.isEmpty;
    this.host.dataset.state = this.isEmpty ? "empty" : "filled";
    this.host.setAttribute("aria-valuemax", columns[0].length);
    if (document.activeElement !== this.host) this.#tell(columns[0].length, this.isEmpty ? this.nothing.textContent : this.#summary());
    if (!this.plot) return this.#resize();
    this.plot.setData(this.data);
    this.#point(this.plot);
  }

  close() {
    this.sizes.disconnect();
    alive.delete(this.plot);
    this.plot?.destroy();
  }

  #noteOf(start_s, isComplete) {
    const each = this.step_s >= 86_400 ? "UTC days" : `steps of ${duration(this.step_s)}, local time`;
    return isComplete ? each : `${each}; the newest events, since ${moment(start_s, 1)}`;
  }

  #summary() {
    const last = this.lines.map((line, index) => {
      const known = this.data[index + 1].filter((value) => value != null);
      return `${line.label}: latest ${this.format(known.at(-1))}, highest ${this.format(known.length ? Math.max(...known) : null)}`;
    });
    return last.join(". ");
  }

  /** What a screen reader says. */
  #tell(number, text) {
    this.host.setAttribute("aria-valuenow", number);
    this.host.setAttribute("aria-valuetext", text);
  }

  #turn(event) {
    if (!this.plot || this.isEmpty) return;
    const last = this.data[0].length - 1;
    const now = this.plot.cursor.idx ?? last + 1;
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const step = Math.min(last, Math.max(0, to));
    this.plot.setCursor({ left: this.plot.valToPos(this.data[0][step], "x"), top: 0 });
    this.#tell(step + 1, `${moment(this.data[0][step], this.step_s)}: ${this.#valuesAt(step).join(", ")}`);
  }

  #valuesAt(step) {
    return this.lines.map((line, index) => `${line.label} ${this.format(this.data[index + 1][step])}`);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!width || !this.data) return;
    if (this.plot) this.plot.setSize({ width, height });
    else {
      this.plot = new uPlot(this.#options(width, height), this.data, this.host);
      this.plot.over.append(this.tip);
      alive.add(this.plot);
    }
  }

  #options(width, height) {
    const axis = { stroke: colour("muted"), font: "12px system-ui", ticks: { show: false } };
    const grid = { stroke: colour("line"), width: 1 };
    return {
      width,
      height,
      padding: [10, 30, 0, 0], // on the right, half a time with seconds
      legend: { show: false },
      tzDate: (seconds) => (this.step_s >= 86_400 ? uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") : new Date(seconds * 1000)),
      cursor: { y: false, drag: { setScale: false, x: false }, points: { size: 7 } },
      scales: {
        x: { range: () => [this.data[0][0] - this.step_s / 2, this.data[0].at(-1) + this.step_s / 2] }, // of the data: a redraw would widen the last one
        y: { range: (_, low, high) => [0, (high || 1) * 1.08] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 28,
          gap: 8,
          space: 70,
          incrs: () => (this.step_s >= 86_400 ? DAYS : SECONDS),
          values: (_, times, axis, space, apart_s) => times.map((time) => moment(time, Math.max(apart_s, this.step_s))),
        },
        {
          ...axis,
          grid,
          size: (_, texts) => 12 + 7 * Math.max(2, ...(texts ?? []).map((text) => text.length)),
          space: 34,
          incrs: this.lines[0].bars ? WHOLE : undefined,
          values: (_, values) => values.map((value) => trimmed(this.format(value))),
        },
      ],
      series: [{}, ...this.lines.map(series)],
      hooks: { setCursor: [(plot) => this.#point(plot)] },
    };
  }

  #point(plot) {
    const step = plot.cursor.idx;
    this.tip.hidden = step == null || step >= this.data[0].length; // none, or one that is gone
    if (this.tip.hidden) return;
    const values = this.#valuesAt(step).map((text, index) => h("span", { class: `key ${this.lines[index].colour}` }, text));
    this.tip.replaceChildren(h("strong", {}, moment(this.data[0][step], this.step_s)), ...values);
    const [at, room] = [plot.valToPos(this.data[0][step], "x"), this.tip.offsetWidth + 12];
    this.tip.style.left = `${at + room <= plot.over.clientWidth ? at + 12 : Math.max(0, at - room)}px`; // beside it, not over it
  }
}

/** Without zeros behind the point: 1.00 ms is 1 ms. */
const trimmed = (text) => text.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");

function series(line) {
  const shared = { stroke: colour(line.colour), points: { show: false } };
  if (line.bars) return { ...shared, fill: colour(line.colour), width: 0, paths: uPlot.paths.bars({ size: [0.72, 40], radius: 0.15 }) };
  return { ...shared, width: 2, points: { show: true, size: 4, fill: colour(line.colour) } };
}

const WIDE = 96;
const HIGH = 26;

/** A line as small as a word. */
export function sparkline() {
  const area = svg("polygon", { class: "area" });
  const line = svg("polyline", { class: "line" });
  return svg("svg", { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img" }, area, line);
}

export function showSparkline(spark, values) {
  const [area, line] = spark.children;
  spark.setAttribute("aria-label", `latest ${count(values.at(-1))}, highest ${count(Math.max(0, ...values))}`);
  const top = Math.max(1, ...values);
  const steps = Math.max(1, values.length - 1);
  const points = values.map((value, step) => `${((step / steps) * WIDE).toFixed(1)},${(HIGH - 2 - (value / top) * (HIGH - 4)).toFixed(1)}`);
  if (points.length === 1) points.push(`${WIDE},${points[0].split(",")[1]}`);
  line.setAttribute("points", points.join(" "));
  area.setAttribute("points", points.length ? `0,${HIGH} ${points.join(" ")} ${WIDE},${HIGH}` : "");
}

/** How latencies are distributed: a column for each bin, with marks for the percentiles. */
export function histogram(bins, marks) {
  if (!bins.length) return h("p", { class: "empty" }, "No call in this period.");
  const most = Math.max(...bins.map((bin) => bin.executions));
  const columns = bins.map((bin) => {
    const column = h("span", { title: `${latency(bin.from_ms)} to ${latency(bin.to_ms)}: ${amount(bin.executions, "call")}` });
    column.style.height = bin.executions ? `max(2px, ${(100 * bin.executions) / most}%)` : "0";
    return column;
  });
  const lines = marks.filter(([, value]) => value != null).map(([label, value]) => {
    const mark = h("span", { class: `mark ${label}` });
    mark.style.left = `${100 * placeOf(value, bins)}%`;
    return mark;
  });
  const middle = bins[Math.floor(bins.length / 2)];
  const ends = [bins[0].from_ms, middle.from_ms, bins.at(-1).to_ms].map((value) => h("span", {}, latency(value)));
  const label = `Most calls took between ${widest(bins, most)}. ${marks.map(([name, value]) => `${name} ${latency(value)}`).join(", ")}.`;
  return h("div", { role: "img", "aria-label": label }, h("div", { class: "histogram" }, columns, lines), h("div", { class: "ends" }, ends));
}

function widest(bins, most) {
  const bin = bins.find((candidate) => candidate.executions === most);
  return `${latency(bin.from_ms)} and ${latency(bin.to_ms)}`;
}

function placeOf(value, bins) {
  const at = bins.findIndex((bin) => value <= bin.to_ms);
  if (at < 0) return 1;
  const { from_ms: from, to_ms: to } = bins[at];
  return (at + Math.min(1, Math.max(0, (value - from) / (to - from)))) / bins.length;
}

/** Named amounts as bars, each relative to the largest. Items: {name, amount, note, kind}. */
export function bars(items, empty) {
  if (!items.length) return h("p", { class: "empty" }, empty);
  const most = Math.max(1, ...items.map((item) => item.amount));
  return h("ul", { class: "bars" }, items.map((item) => {
    const bar = h("span", { class: `bar ${item.kind ?? ""}` });
    bar.style.width = `${(100 * item.amount) / most}%`;
    bar.hidden = !item.amount;
    return h("li", {}, h("span", { class: "name", title: item.name ?? NONE }, item.name == null ? h("i", {}, item.absent) : visible(item.name)), h("span", { class: "amount" }, item.note ?? count(item.amount)), bar);
  }));
}
