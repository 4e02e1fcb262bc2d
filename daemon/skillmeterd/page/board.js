// Board: all skills - totals, calls over time, the leaderboard, and the daemon beside it.

import { ask } from "./api.js";
import { TimeChart, showSparkline, sparkline } from "./charts.js";
import { Daemon } from "./daemon.js";
import { h, keyed, say } from "./dom.js";
import { count, interval, latency, percent, short } from "./format.js";
import { address, place } from "./place.js";

const MANY = 100;
const MOST = 1000;

/** The columns: those with a metric are ranked by the daemon, which knows how to rank fairly; the others are put in order here. */
const COLUMNS = [
  { name: "skill", label: "Skill", of: (entry) => entry.skill_id },
  { name: "trend", label: "Over time", optional: true },
  { name: "usage_count", label: "Calls", metric: true, number: true },
  { name: "success_rate", label: "Success", metric: true, number: true, title: "With its 95 % interval; ranked by the lower end, so that little evidence does not win" },
  { name: "p50", label: "p50", of: (entry) => entry.p50_latency_ms, number: true, optional: true },
  { name: "performance", label: "p95", metric: true, number: true, title: "Lowest first; skills with fewer than 20 calls come last" },
  { name: "p99", label: "p99", of: (entry) => entry.p99_latency_ms, number: true, optional: true },
  { name: "rating", label: "Rating", metric: true, number: true, optional: true, title: "Ranked by the Bayesian mean, so that few ratings do not win" },
  { name: "adoption", label: "Users", metric: true, number: true, optional: true },
];

export class Board {
  skill = "";

  constructor() {
    this.limit = MANY;
    this.tiles = Object.fromEntries(["Calls", "Success rate", "Latency", "Skills", "Users", "Rating"].map((label) => [label, tile(label)]));
    this.chart = new TimeChart("Calls", [
      { label: "all", colour: "calls", bars: true },
      { label: "failed", colour: "failures", bars: true },
    ], short);
    this.heads = COLUMNS.map(head);
    this.body = h("tbody");
    this.foot = h("p", { class: "note" });
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.#showMore() }, "Show all");
    this.find = h("input", { type: "search", placeholder: "Find a skill", "aria-label": "Find a skill", oninput: () => this.#fillTable() });
    this.daemon = new Daemon();
    const table = h("table", { "aria-label": "Leaderboard of skills" }, h("thead", {}, h("tr", {}, h("th", { class: "rank", scope: "col" }, "#"), this.heads)), this.body);
    const board = h("section", { class: "card board" }, h("div", { class: "head" }, h("h2", {}, "Leaderboard"), this.find), h("div", { class: "scroll" }, table), h("div", { class: "foot" }, this.foot, this.more));
    this.root = h("div", { class: "columns" },
      h("div", { class: "wide" }, h("h1", { class: "hidden" }, "All skills"), h("dl", { class: "tiles" }, Object.values(this.tiles)), this.chart.root, board),
      this.daemon.root);
  }

  close() {
    this.chart.close();
  }

  async refresh(now, signal) {
    const column = COLUMNS.find((candidate) => candidate.name === now.sort) ?? COLUMNS[2];
    const window = { days: now.days, org_id: now.org };
    const [overview, activity, entries, status] = await Promise.all([
      ask("overview", window, signal),
      ask("activity", { ...window, limit: MOST }, signal),
      ask("leaderboard", { ...window, limit: this.limit, metric: column.metric ? column.name : "usage_count" }, signal),
      ask("status", {}, signal),
    ]);
    this.#showTiles(overview);
    this.chart.show(activity, [activity.executions, activity.failures]);
    this.daemon.show(status);
    this.trends = new Map(activity.skills.map((skill) => [skill.skill_id, skill.executions]));
    this.entries = inOrder(entries, column, now.reversed !== "");
    this.overview = overview;
    this.heads.forEach((cell, index) => markSorted(cell, COLUMNS[index], column, now.reversed !== ""));
    this.#fillTable();
  }

  #showTiles(overview) {
    const { Calls, "Success rate": rate, Latency, Skills, Users, Rating } = this.tiles;
    setTile(Calls, count(overview.executions), `${count(overview.failures)} failed`);
    setTile(rate, percent(overview.success_rate), interval(overview.success_rate_low, overview.success_rate_high));
    setTile(Latency, latency(overview.avg_latency_ms), "a call, on average");
    setTile(Skills, count(overview.skills), "used in this period");
    setTile(Users, count(overview.unique_users), "by their ids");
    setTile(Rating, stars(overview.rating_avg), `${count(overview.rating_count)} ratings`);
  }

  #fillTable() {
    if (!this.entries) return;
    const wanted = this.find.value.trim().toLowerCase();
    const shown = this.entries.filter((entry) => entry.skill_id.toLowerCase().includes(wanted));
    keyed(this.body, shown.length ? shown : [null], (entry) => entry?.skill_id ?? this.body, (entry) => (entry ? row(entry) : emptyRow()), (element, entry) => {
      if (entry) this.#fillRow(element, entry);
      else say(element.firstChild, this.#whyEmpty(wanted));
    });
    const all = this.entries.length >= this.overview.skills ? "" : ` of ${count(this.overview.skills)}`;
    say(this.foot, this.entries.length ? `${count(shown.length)}${all} skills. The range under a success rate holds the true one with 95 % confidence.` : "");
    this.more.hidden = this.entries.length < this.limit || this.limit === MOST;
  }

  #whyEmpty(wanted) {
    if (wanted) return `No skill has “${wanted}” in its name.`;
    if (this.overview.executions) return "Nothing to rank by this column in this period: sort by another, or take a longer period.";
    if (place().org || place().days !== "3660") return "Nothing was recorded in this period and org. Take “All time” and “All orgs” to see everything there is.";
    return "Nothing was recorded yet. Record a call with create_analytics_client().record_skill_execution(\"my_skill\", True, 12.5), or run “skillmeter demo”; it shows up here within seconds.";
  }

  #fillRow(element, entry) {
    const cells = element.cells;
    say(cells[0], String(entry.rank));
    cells[1].firstChild.setAttribute("href", address({ skill: entry.skill_id }));
    showSparkline(cells[2].firstChild, this.trends.get(entry.skill_id) ?? []);
    say(cells[3], count(entry.executions));
    fillRate(cells[4], entry);
    say(cells[5], latency(entry.p50_latency_ms));
    say(cells[6], latency(entry.p95_latency_ms));
    say(cells[7], latency(entry.p99_latency_ms));
    fillRating(cells[8], entry);
    say(cells[9], count(entry.unique_users));
  }

  #showMore() {
    this.limit = MOST;
    dispatchEvent(new Event("hashchange"));
  }
}

export const stars = (average) => (average == null ? "–" : `★ ${average.toFixed(1)}`);

export function tile(label) {
  return h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, "–"), h("dd", { class: "note" }));
}

export function setTile(element, value, note) {
  say(element.children[1], value);
  say(element.children[2], note);
}

function head(column) {
  const kind = `${column.number ? "number" : ""} ${column.optional ? "optional" : ""}`;
  if (!column.metric && !column.of) return h("th", { scope: "col", class: kind }, column.label);
  return h("th", { scope: "col", class: kind }, h("button", { type: "button", title: column.title ?? `Sort by ${column.label}`, onclick: () => sortBy(column) }, column.label));
}

function sortBy(column) {
  const now = place();
  const again = now.sort === column.name && !now.reversed;
  location.hash = address({ sort: column.name, reversed: again ? "1" : "" });
}

const RISING = new Set(["skill", "p50", "performance", "p99"]);

function markSorted(cell, column, sorted, reversed) {
  if (column !== sorted) cell.removeAttribute("aria-sort");
  else cell.setAttribute("aria-sort", RISING.has(column.name) !== reversed ? "ascending" : "descending");
}

function inOrder(entries, column, reversed) {
  const list = [...entries];
  if (column.of) list.sort((one, other) => compare(column.of(one), column.of(other)));
  return reversed ? list.reverse() : list;
}

const compare = (one, other) => (one === other ? 0 : one == null ? 1 : other == null ? -1 : one < other ? -1 : 1);

function row(entry) {
  const cells = COLUMNS.map((column) => h("td", { class: `${column.number ? "number" : ""} ${column.optional ? "optional" : ""}` }));
  cells[0].append(h("a", { href: "#", title: entry.skill_id }, entry.skill_id));
  cells[1].append(sparkline());
  cells[3].append(h("span"), h("span", { class: "range", "aria-hidden": "true" }, h("span")), h("span", { class: "note" }));
  cells[7].append(h("span"), h("span", { class: "note" }));
  return h("tr", {}, h("td", { class: "rank" }), cells);
}

const emptyRow = () => h("tr", { class: "empty" }, h("td", { colspan: COLUMNS.length + 1 }));

function fillRate(cell, entry) {
  const [rate, range, note] = cell.children;
  say(rate, percent(entry.success_rate));
  say(note, interval(entry.success_rate_low, entry.success_rate_high));
  range.firstChild.style.left = `${100 * (entry.success_rate_low ?? 0)}%`;
  range.firstChild.style.right = `${100 - 100 * (entry.success_rate_high ?? 0)}%`;
}

function fillRating(cell, entry) {
  say(cell.children[0], stars(entry.rating_avg));
  say(cell.children[1], entry.rating_count ? ` of ${count(entry.rating_count)}` : "");
}
