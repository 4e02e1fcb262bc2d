// Skill: one skill - its numbers, calls and latencies over time, how latencies are distributed, who calls it, what fails.

import { ask } from "./api.js";
import { setTile, stars, tile } from "./board.js";
import { TimeChart, bars, histogram } from "./charts.js";
import { h, say } from "./dom.js";
import { NONE, ago, amount, brief, count, dateTime, interval, latency, moment, percent, short, visible } from "./format.js";
import { address } from "./place.js";

const TILES = ["Calls", "Success rate", "p50", "p95", "p99", "Users", "Rating", "Health"];
const PERCENTILES = ["p50", "p95", "p99"];

export class Skill {
  constructor(skill) {
    this.skill = skill;
    this.back = h("a", { class: "back" }, "← All skills");
    this.used = h("span", { class: "note" });
    this.hint = h("p", { class: "hint", hidden: true }, "No call in this period and org. Take “All time” and “All orgs” to see everything there is.");
    this.tiles = TILES.map(tile);
    this.calls = new TimeChart("Calls", [
      { label: "all", colour: "calls", bars: true },
      { label: "failed", colour: "failures", bars: true },
    ], short);
    this.latencies = new TimeChart("Latency", PERCENTILES.map((name) => ({ label: name, colour: name })), latency);
    this.parts = {
      "Latency distribution": panel("Latency distribution", PERCENTILES),
      ...Object.fromEntries(["Ratings", "Error types", "Users", "Orgs"].map((title) => [title, panel(title)])),
    };
    this.root = h("div", { class: "skill" },
      h("div", { class: "title" }, this.back, h("h1", {}, visible(skill)), this.used, this.hint),
      h("dl", { class: "tiles" }, this.tiles),
      h("div", { class: "pair" }, this.calls.root, this.latencies.root),
      h("div", { class: "panels" }, Object.values(this.parts)));
  }

  close() {
    this.calls.close();
    this.latencies.close();
  }

  async refresh(now, signal) {
    this.back.href = address({ skill: "" });
    const asked = { skill_id: this.skill, days: now.days, org_id: now.org };
    const [usage, metrics, health, timeline, bins, parts] = await Promise.all([
      ask("usage", asked, signal),
      ask("metrics", { skill_id: this.skill }, signal),
      ask("health", { skill_id: this.skill }, signal),
      ask("timeline", asked, signal),
      ask("distribution", asked, signal),
      ask("breakdown", asked, signal),
    ]);
    this.hint.hidden = usage.execution_count > 0 || !metrics?.last_used || (now.days === "3660" && !now.org);
    this.#showTiles(usage, parts, metrics, health, now.org);
    this.#showTimeline(timeline);
    this.#showParts(usage, parts, bins);
  }

  #showTiles(usage, parts, metrics, health, org) {
    const [calls, rate, p50, p95, p99, users, rating, score] = this.tiles;
    const rated = parts.ratings.reduce((sum, stars) => sum + stars, 0);
    const points = parts.ratings.reduce((sum, stars, index) => sum + stars * (index + 1), 0);
    say(this.used, metrics?.last_used ? `last called ${ago(Date.parse(metrics.last_used))}` : "never called");
    setTile(calls, brief(usage.execution_count), `${brief(usage.failure_count)} failed`);
    setTile(rate, percent(usage.success_rate), interval(parts.success_rate_low, parts.success_rate_high));
    setTile(p50, latency(usage.p50_latency_ms), `${latency(usage.min_latency_ms)} at least`);
    setTile(p95, latency(usage.p95_latency_ms), `${latency(usage.avg_latency_ms)} on average`);
    setTile(p99, latency(usage.p99_latency_ms), `${latency(usage.max_latency_ms)} at most`);
    setTile(users, count(usage.unique_users), "by their ids");
    setTile(rating, stars(rated ? points / rated : null), amount(rated, "rating"));
    setTile(score, ...healthOf(health, metrics?.health_score, org ? ", in all orgs" : ""));
  }

  #showTimeline(timeline) {
    const column = (name) => timeline.points.map((point) => point[name]);
    this.calls.show(timeline, [column("executions"), column("failures")]);
    this.latencies.show(timeline, PERCENTILES.map((name) => column(`${name}_latency_ms`)));
  }

  #showParts(usage, parts, bins) {
    const since = parts.errors_since ? ` since ${dateTime(Date.parse(parts.errors_since))}` : "";
    const marks = PERCENTILES.map((name) => [name, usage[`${name}_latency_ms`]]);
    const starred = parts.ratings.map((amount, index) => ({ name: "★".repeat(index + 1), amount, kind: "rating" })).reverse();
    this.#show("Latency distribution", "", histogram, bins, marks);
    this.#show("Ratings", "", bars, parts.ratings.some(Boolean) ? starred : [], "No rating in this period.");
    this.#show("Error types", since && `of the newest events,${since}`, bars, parts.errors.map((part) => named(part, "no type given", "failures")), `No failure in this period${since}.`);
    const sinceUsers = parts.users_since ? `since ${moment(Date.parse(parts.users_since) / 1000, 86_400)}, as there are many` : "";
    this.#show("Users", sinceUsers, bars, parts.users.map((part) => named(part, "no user given")), "No call in this period.");
    this.#show("Orgs", "", bars, parts.orgs.map((part) => named(part, "no org given")), "No call in this period.");
  }

  /** Draw a part anew, if it has changed: what is selected, or under the pointer, stays. */
  #show(title, note, draw, ...shown) {
    const part = this.parts[title];
    say(part.firstChild.lastChild, note);
    const drawn = JSON.stringify(shown);
    if (part.drawn !== drawn) part.lastChild.replaceWith(draw(...shown));
    part.drawn = drawn;
  }
}

const named = (part, absent, kind = "calls") => ({ name: part.name, absent, amount: part.executions, kind, note: amountOf(part, kind) });

const amountOf = (part, kind) => (kind === "failures" || !part.failures ? count(part.executions) : `${count(part.executions)}, ${count(part.failures)} failed`);

/** What the record says, and what was reported; if the record says nothing, what was reported. */
function healthOf(computed, reported, where) {
  if (computed == null) return [reported?.toFixed(0) ?? NONE, "of 100, as reported"];
  return [computed.toFixed(0), `of 100${where}${reported == null ? "" : `; ${reported.toFixed(0)} reported`}`];
}

function panel(title, keys = []) {
  const caption = h("div", { class: "caption" }, h("h2", {}, title), keys.map((name) => h("span", { class: `key ${name}` }, name)), h("span", { class: "note" }));
  return h("section", { class: "card" }, caption, h("div"));
}
