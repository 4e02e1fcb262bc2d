// Skill: one skill - its numbers, calls and latencies over time, how latencies are distributed, who calls it, what fails.

import { ask } from "./api.js";
import { setTile, stars, tile } from "./board.js";
import { TimeChart, bars, histogram } from "./charts.js";
import { h, say } from "./dom.js";
import { NONE, ago, count, interval, latency, moment, percent, short } from "./format.js";
import { address } from "./place.js";

const TILES = ["Calls", "Success rate", "p50", "p95", "p99", "Users", "Rating", "Health"];

export class Skill {
  constructor(skill) {
    this.skill = skill;
    this.back = h("a", { class: "back" }, "← All skills");
    this.used = h("span", { class: "note" });
    this.tiles = TILES.map(tile);
    this.calls = new TimeChart("Calls", [
      { label: "all", colour: "calls", bars: true },
      { label: "failed", colour: "failures", bars: true },
    ], short);
    this.latencies = new TimeChart("Latency", [
      { label: "p50", colour: "p50" },
      { label: "p95", colour: "p95" },
      { label: "p99", colour: "p99" },
    ], latency);
    this.parts = Object.fromEntries(["Latency distribution", "Ratings", "Error types", "Users", "Orgs"].map((title) => [title, panel(title)]));
    this.root = h("div", { class: "skill" },
      h("div", { class: "title" }, this.back, h("h1", {}, skill), this.used),
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
    this.#showTiles(usage, parts, metrics, health);
    this.#showTimeline(timeline);
    this.#showParts(usage, parts, bins);
  }

  #showTiles(usage, parts, metrics, health) {
    const [calls, rate, p50, p95, p99, users, rating, score] = this.tiles;
    const rated = parts.ratings.reduce((sum, stars) => sum + stars, 0);
    const points = parts.ratings.reduce((sum, stars, index) => sum + stars * (index + 1), 0);
    const last = metrics?.last_used ? Date.parse(metrics.last_used) : null;
    say(this.used, last === null ? "never called" : `last called ${ago(last)}`);
    setTile(calls, count(usage.execution_count), `${count(usage.failure_count)} failed`);
    setTile(rate, percent(usage.success_rate), interval(parts.success_rate_low, parts.success_rate_high));
    setTile(p50, latency(usage.p50_latency_ms), `${latency(usage.min_latency_ms)} at least`);
    setTile(p95, latency(usage.p95_latency_ms), `${latency(usage.avg_latency_ms)} on average`);
    setTile(p99, latency(usage.p99_latency_ms), `${latency(usage.max_latency_ms)} at most`);
    setTile(users, count(usage.unique_users), "by their ids");
    setTile(rating, stars(rated ? points / rated : null), `${count(rated)} ratings`);
    setTile(score, health == null ? NONE : health.toFixed(0), reported(metrics));
  }

  #showTimeline(timeline) {
    const column = (name) => timeline.points.map((point) => point[name]);
    this.calls.show(timeline, [column("executions"), column("failures")]);
    this.latencies.show(timeline, ["p50", "p95", "p99"].map((name) => column(`${name}_latency_ms`)));
  }

  #showParts(usage, parts, bins) {
    const since = parts.errors_since ? ` since ${moment(Date.parse(parts.errors_since) / 1000, 1)}` : "";
    const marks = ["p50", "p95", "p99"].map((name) => [name, usage[`${name}_latency_ms`]]);
    const starred = parts.ratings.map((amount, index) => ({ name: "★".repeat(index + 1), amount, kind: "rating" })).reverse();
    const shown = {
      "Latency distribution": histogram(bins, marks),
      Ratings: bars(parts.ratings.some(Boolean) ? starred : [], "No rating in this period."),
      "Error types": bars(parts.errors.map((part) => named(part, "no type given", "failures")), `No failure in this period${since}.`),
      Users: bars(parts.users.map((part) => named(part, "no user given")), "No call in this period."),
      Orgs: bars(parts.orgs.map((part) => named(part, "no org given")), "No call in this period."),
    };
    for (const [title, content] of Object.entries(shown)) this.parts[title].lastChild.replaceWith(content);
    say(this.parts["Error types"].firstChild.lastChild, since && `of the newest events,${since}`);
    say(this.parts.Users.firstChild.lastChild, parts.users_since ? `since ${moment(Date.parse(parts.users_since) / 1000, 86_400)}, as there are many` : "");
  }
}

const named = (part, absent, kind = "calls") => ({ name: part.name, absent, amount: part.executions, kind, note: amountOf(part, kind) });

const amountOf = (part, kind) => (kind === "failures" || !part.failures ? count(part.executions) : `${count(part.executions)}, ${count(part.failures)} failed`);

const reported = (metrics) => (metrics?.health_score == null ? "of 100" : `of 100; ${metrics.health_score.toFixed(0)} reported`);

const panel = (title) => h("section", { class: "card" }, h("h2", {}, title, " ", h("span", { class: "note" })), h("div"));
