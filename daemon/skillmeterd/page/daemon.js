// Daemon: the ledger, the sinks, and how the daemon and its files are.

import { h, keyed, say } from "./dom.js";
import { ago, amount, bytes, count, duration } from "./format.js";

const OUTCOMES = ["stored", "pending", "dropped", "rejected"];
const NS_IN_MS = 1_000_000;

export class Daemon {
  constructor() {
    this.badge = h("span", { class: "badge" });
    this.attempted = h("strong");
    this.parts = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, h("span", { class: outcome })]));
    this.outcomes = list();
    this.reasons = list();
    this.sinks = h("ul", { class: "sinks" });
    this.facts = list();
    this.incidents = h("ul", { class: "incidents" });
    this.root = h("aside", { "aria-label": "Ledger and daemon" },
      h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Ledger"), this.badge), h("p", { class: "sum" }, this.attempted, " attempted"),
        h("div", { class: "balance", "aria-hidden": "true" }, Object.values(this.parts)), this.outcomes, this.reasons),
      h("section", { class: "card" }, h("h2", {}, "Sinks"), this.sinks),
      h("section", { class: "card" }, h("h2", {}, "Daemon"), this.incidents, this.facts));
  }

  show(status) {
    this.#showLedger(status.ledger);
    keyed(this.sinks, sinksOf(status), (sink) => sink.name, sinkRow, fillSink);
    keyed(this.incidents, incidentsOf(status), (text) => text, (text) => h("li", {}, text), () => {});
    fill(this.facts, [
      ["Version", status.version],
      ["Running for", duration((Date.now() - status.vitals.started_ns / NS_IN_MS) / 1000)],
      ["Last commit", status.vitals.last_commit_ns ? ago(status.vitals.last_commit_ns / NS_IN_MS) : "none since its start"],
      ["Database", status.database.problem || bytes(status.database.bytes + status.database.wal_bytes)],
      ["Journals", journalsOf(status.spool)],
      ["In quarantine", quarantineOf(status.spool)],
    ]);
  }

  #showLedger(ledger) {
    say(this.badge, ledger.problem || (ledger.balance === 0 ? "balances" : `off by ${count(ledger.balance)}`));
    this.badge.dataset.state = ledger.balance === 0 ? "good" : "bad";
    say(this.attempted, count(ledger.attempted));
    for (const outcome of OUTCOMES) {
      this.parts[outcome].style.flexGrow = ledger[outcome];
      this.parts[outcome].hidden = !ledger[outcome];
    }
    fill(this.outcomes, OUTCOMES.map((outcome) => [outcome, count(ledger[outcome])]), true);
    fill(this.reasons, Object.entries(ledger.reasons).map(([reason, events]) => [reason.replace(".", ": ").replaceAll("_", " "), count(events)]));
  }
}

const journalsOf = (spool) => (spool.journals == null ? spool.problem : spool.journals ? `${count(spool.journals)}, ${bytes(spool.bytes)}` : "0");
const quarantineOf = (spool) => (spool.quarantined == null ? spool.problem : count(spool.quarantined));
const list = () => h("dl", { class: "facts" });

/** Names and values. */
function fill(element, facts, isKey = false) {
  keyed(element, facts, ([name]) => name, ([name]) => h("div", {}, h("dt", { class: isKey ? `key ${name}` : "" }, name), h("dd")), (fact, [, value]) => say(fact.lastChild, value));
}

function sinksOf(status) {
  const sqlite = { name: "sqlite", healthy: status.ready, text: status.vitals.store_problem || "every event, once" };
  return [sqlite, ...Object.entries(status.sinks).map(([name, sink]) => ({ name, healthy: sink.healthy, text: progressOf(sink) }))];
}

function progressOf(sink) {
  if (sink.problem) return sink.problem;
  if (!sink.exports) return sink.healthy ? "ready, nothing exported yet" : "has not worked yet";
  return `${amount(sink.exports, "export")}, the last ${ago(sink.last_success_ns / NS_IN_MS)}${sink.failures ? `, ${count(sink.failures)} failed` : ""}`;
}

const sinkRow = () => h("li", {}, h("span", { class: "badge" }), h("strong"), h("span", { class: "note" }));

function fillSink(element, sink) {
  const [badge, name, note] = element.children;
  badge.dataset.state = sink.healthy ? "good" : "bad";
  say(badge, sink.healthy ? "works" : "fails");
  say(name, sink.name);
  say(note, sink.text);
}

function incidentsOf(status) {
  const problem = status.vitals.store_problem ? [`Nothing can be committed: ${status.vitals.store_problem}. Clients keep their events until it works again.`] : [];
  return [...problem, ...status.vitals.incidents];
}
