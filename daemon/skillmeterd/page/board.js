// Board: all skills - totals, calls over time, the leaderboard, and the daemon beside it.

import { ask } from "./api.js";
import { TimeChart, showSparkline, sparkline } from "./charts.js";
import { Daemon } from "./daemon.js";
import { h, keyed, say } from "./dom.js";
import { NONE, amount, brief, count, interval, latency, percent, short, visible } from "./format.js";
import { address, place } from "./place.js";

const FIRST = 100;
const MOST = 1000;
const FEW_CALLS = 20;
const OTHERS = 20;
const NAME_CHARS = 256;

/**
 * The columns: those with a metric are ranked by the daemon, which knows how to rank fairly; the others are put in order
 * here, by `of`. `turned` is what a metric's column is put in order by when it is turned round, where the reverse of its
 * ranking would put those with little evidence first.
 */
const COLUMNS = [
  { name: "skill", label: "Skill", of: (entry) => entry.skill_id, rising: true },
  { name: "trend", label: "Over time", of: (entry, calls) => growth(calls), title: "Those that grow most first: the later half of the period against the earlier" },
  { name: "usage_count", label: "Calls", metric: true, number: true },
  { name: "success_rate", label: "Success", metric: true, number: true, turned: (entry) => entry.success_rate_high, title: "With its 95 % interval. Ranked by the lower end, and turned round by the upper, so that little evidence neither wins nor loses" },
  { name: "p50", label: "p50", of: (entry) => entry.p50_latency_ms, number: true, rising: true },
  { name: "performance", label: "p95", metric: true, number: true, rising: true, turned: (entry) => (entry.executions < FEW_CALLS ? null : -entry.p95_latency_ms), title: `Skills with fewer than ${FEW_CALLS} calls come last` },
  { name: "p99", label: "p99", of: (entry) => entry.p99_latency_ms, number: true, rising: true },
  { name: "rating", label: "Rating", metric: true, number: true, title: "Ranked by the Bayesian mean, so that few ratings do not win" },
  { name: "adoption", label: "Users", metric: true, number: true },
];
const CALLS = COLUMNS[2];

export class Board {
  skill = "";

  constructor() {
    this.tiles = Object.fromEntries(["Calls", "Success rate", "Latency", "Skills", "Users", "Rating"].map((label) => [label, tile(label)]));
    this.chart = new TimeChart("Calls", [
      { label: "all", colour: "calls", bars: true },
      { label: "failed", colour: "failures", bars: true },
    ], short);
    this.heads = COLUMNS.map(head);
    this.body = h("tbody");
    this.foot = h("p", { class: "note" });
    this.others = h("p", { class: "note others", hidden: true });
    this.more = h("button", { type: "button", hidden: true, onclick: () => { location.hash = address({ rows: place().rows ? "" : "all" }); } });
    this.find = h("input", { type: "search", placeholder: "Find a skill", "aria-label": "Find a skill", oninput: () => this.#search() });
    this.daemon = new Daemon();
    const table = h("table", { "aria-label": "Leaderboard of skills" }, h("thead", {}, h("tr", {}, h("th", { class: "rank", scope: "col" }, "#"), this.heads)), this.body);
    const board = h("section", { class: "card board" }, h("div", { class: "head" }, h("h2", {}, "Leaderboard"), this.find), h("div", { class: "scroll" }, table), this.others, h("div", { class: "foot" }, this.foot, this.more));
    this.root = h("div", { class: "columns" },
      h("div", { class: "wide" }, h("h1", { class: "hidden" }, "All skills"), h("dl", { class: "tiles" }, Object.values(this.tiles)), this.chart.root, board),
      this.daemon.root);
  }

  async refresh(now, signal) {
    const column = COLUMNS.find((candidate) => candidate.name === now.sort) ?? CALLS;
    const window = { days: now.days, org_id: now.org };
    // Only the daemon's own order can be cut after the first.
    const limit = column.metric && !now.reversed && !now.find && !now.rows ? FIRST : MOST;
    const find = now.find.trim();
    const [overview, activity, entries, status, named] = await Promise.all([
      ask("overview", window, signal),
      ask("activity", { ...window, limit: MOST }, signal),
      ask("leaderboard", { ...window, limit, metric: column.metric ? column.name : CALLS.name }, signal),
      ask("status", {}, signal),
      find && find.length <= NAME_CHARS ? ask("skills", { find, limit: OTHERS }, signal) : [],
    ]);
    this.#showTiles(overview);
    this.chart.show(activity, [activity.executions, activity.failures]);
    this.daemon.show(status);
    this.calls = new Map(activity.skills.map((skill) => [skill.skill_id, skill.executions]));
    this.entries = inOrder(entries, column, now.reversed !== "", this.calls);
    this.named = named;
    this.skills = entries.length < limit ? entries.length : overview.skills;
    this.isEmpty = !overview.executions && !overview.rating_count;
    this.isFresh = status.ledger.stored === 0;
    this.heads.forEach((cell, index) => markSorted(cell, COLUMNS[index], column, now.reversed !== ""));
    if (document.activeElement !== this.find) this.find.value = now.find;
    this.#fillTable();
  }

  /** The link that leads to a skill, if it is in the table. */
  linkTo(skill) {
    return [...this.body.children].find((row) => row.key === skill)?.querySelector("a");
  }

  #showTiles(overview) {
    const { Calls, "Success rate": rate, Latency, Skills, Users, Rating } = this.tiles;
    setTile(Calls, brief(overview.executions), `${brief(overview.failures)} failed`);
    setTile(rate, percent(overview.success_rate), interval(overview.success_rate_low, overview.success_rate_high));
    setTile(Latency, latency(overview.avg_latency_ms), "a call, on average");
    setTile(Skills, count(overview.skills), "used in this period");
    setTile(Users, count(overview.unique_users), "by their ids");
    setTile(Rating, stars(overview.rating_avg), amount(overview.rating_count, "rating"));
  }

  /** What is known is searched at once; the refresh brings what is not. */
  #search() {
    history.replaceState(null, "", address({ find: this.find.value }));
    this.#fillTable();
    dispatchEvent(new Event("hashchange"));
  }

  #fillTable() {
    if (!this.entries) return;
    const wanted = this.find.value.trim().toLowerCase();
    const found = this.entries.map((entry, index) => ({ ...entry, rank: index + 1 })).filter((entry) => entry.skill_id.toLowerCase().includes(wanted));
    const shown = place().rows ? found : found.slice(0, FIRST);
    this.#showOthers(found, wanted);
    keyed(this.body, shown.length ? shown : [null], (entry) => entry?.skill_id ?? this.body, (entry) => (entry ? row(entry) : emptyRow()), (element, entry) => {
      if (entry) this.#fillRow(element, entry);
      else say(element.firstChild.firstChild, this.#whyEmpty(wanted));
    });
    this.#fillFoot(shown.length, wanted ? found.length : this.skills);
  }

  /** Skills of that name which were not used in this period and org, or are not among those that are looked at. */
  #showOthers(found, wanted) {
    const here = new Set(found.map((entry) => entry.skill_id));
    const others = wanted ? this.named.filter((name) => !here.has(name) && name.toLowerCase().includes(wanted)) : [];
    this.others.hidden = !others.length;
    const said = JSON.stringify([others, location.hash]);
    if (this.others.said === said) return; // a link that is made again loses the focus
    this.others.said = said;
    const links = others.map((name) => h("a", { href: address({ skill: name }) }, visible(name)));
    const more = this.named.length < OTHERS ? "" : ", among others";
    this.others.replaceChildren(`Not in this table${more}: `, ...links.flatMap((link, index) => (index ? [", ", link] : [link])));
  }

  #fillFoot(shown, all) {
    const whole = shown < all ? `The first ${count(shown)} of ${amount(all, "skill")}.` : `${amount(shown, "skill")}.`;
    const looked = this.skills > MOST ? ` Looked at: ${count(MOST)} of ${count(this.skills)}.` : "";
    say(this.foot, shown ? `${whole}${looked} The range under a success rate holds the true one with 95 % confidence.` : "");
    this.more.hidden = all <= FIRST;
    say(this.more, place().rows ? `Show the first ${FIRST}` : all > MOST ? `Show ${count(MOST)}` : "Show all");
  }

  #whyEmpty(wanted) {
    if (wanted) return `No skill ${this.others.hidden ? "" : "in this table "}has “${wanted}” in its name.`;
    if (!this.isEmpty) return "Nothing to rank by this column in this period: sort by another, or take a longer period.";
    if (!this.isFresh && (place().org || place().days !== "3660")) return "Nothing was recorded in this period and org. Take “All time” and “All orgs” to see everything there is.";
    return "Nothing was recorded yet. Record a call with create_analytics_client().record_skill_execution(\"my_skill\", True, 12.5), or run “skillmeter demo --keep” and open the page that it names.";
  }

  #fillRow(element, entry) {
    const calls = this.calls.get(entry.skill_id) ?? [];
    const filled = JSON.stringify([entry, calls, location.hash]);
    if (element.filled === filled) return; // of a thousand rows few change at once
    element.filled = filled;
    const cells = element.cells;
    say(cells[0], String(entry.rank));
    cells[1].firstChild.setAttribute("href", address({ skill: entry.skill_id }));
    showSparkline(cells[2].firstChild, calls);
    say(cells[3], count(entry.executions));
    fillRate(cells[4], entry);
    say(cells[5], latency(entry.p50_latency_ms));
    say(cells[6], latency(entry.p95_latency_ms));
    say(cells[7], latency(entry.p99_latency_ms));
    fillRating(cells[8], entry);
    say(cells[9], count(entry.unique_users));
  }
}

export const stars = (average) => (average == null ? NONE : `★ ${average.toFixed(1)}`);

export function tile(label) {
  return h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, NONE), h("dd", { class: "note" }));
}

/** The note explains the value, and is nothing without one. */
export function setTile(element, value, note) {
  say(element.children[1], value);
  say(element.children[2], value === NONE ? "" : note);
}

function head(column) {
  const sort = h("button", { type: "button", title: column.title ?? `Sort by ${column.label}`, onclick: () => sortBy(column) }, column.label);
  return h("th", { scope: "col", class: column.number ? "number" : "" }, sort);
}

function sortBy(column) {
  const now = place();
  const again = now.sort === column.name && !now.reversed;
  location.hash = address({ sort: column.name, reversed: again ? "1" : "" });
}

function markSorted(cell, column, sorted, reversed) {
  if (column !== sorted) cell.removeAttribute("aria-sort");
  else cell.setAttribute("aria-sort", Boolean(column.rising) !== reversed ? "ascending" : "descending");
}

function inOrder(entries, column, reversed, calls) {
  const of = reversed ? column.turned ?? column.of : column.of;
  if (!of) return reversed ? [...entries].reverse() : entries;
  const values = new Map(entries.map((entry) => [entry, of(entry, calls.get(entry.skill_id))]));
  const sign = column.metric || Boolean(column.rising) !== reversed ? 1 : -1;
  return [...entries].sort((one, other) => compare(values.get(one), values.get(other), sign));
}

/** What is not known comes last, either way. */
function compare(one, other, sign) {
  if (one == null || other == null) return (one == null) - (other == null);
  return one === other ? 0 : one < other ? -sign : sign;
}

/** From -1, all calls were in the earlier half of the steps, to 1, all were in the later. */
function growth(calls = []) {
  const half = Math.floor(calls.length / 2);
  const [earlier, later] = [calls.slice(0, half), calls.slice(calls.length - half)].map((part) => part.reduce((sum, value) => sum + value, 0));
  return earlier + later ? (later - earlier) / (later + earlier) : null;
}

function row(entry) {
  const [name, ...cells] = COLUMNS.map((column) => h(column.name === "skill" ? "th" : "td", { scope: column.name === "skill" && "row", class: column.number ? "number" : "" }));
  name.append(h("a", { href: "#", title: entry.skill_id }, visible(entry.skill_id)));
  cells[0].append(sparkline());
  cells[2].append(h("span"), h("span", { class: "range", "aria-hidden": "true" }, h("span")), h("span", { class: "note" }));
  cells[6].append(h("span"), h("span", { class: "note" }));
  return h("tr", {}, h("td", { class: "rank" }), name, cells);
}

const emptyRow = () => h("tr", { class: "empty" }, h("td", { colspan: COLUMNS.length + 1 }, h("div")));

function fillRate(cell, entry) {
  const [rate, range, note] = cell.children;
  say(rate, percent(entry.success_rate));
  say(note, interval(entry.success_rate_low, entry.success_rate_high));
  range.firstChild.style.left = `min(${100 * (entry.success_rate_low ?? 0)}%, 100% - 3px)`;
  range.firstChild.style.right = `${100 - 100 * (entry.success_rate_high ?? 0)}%`;
}

function fillRating(cell, entry) {
  say(cell.children[0], stars(entry.rating_avg));
  say(cell.children[1], entry.rating_count ? amount(entry.rating_count, "rating") : "");
}
