// Main: chooses the view that the address asks for, has it refresh itself, and says what is wrong.

import { NeedsToken, Refused, Unable, Unreachable, ask, keepToken } from "./api.js";
import { Board } from "./board.js";
import { h, say } from "./dom.js";
import { Orgs } from "./orgs.js";
import { address, place } from "./place.js";
import { Skill } from "./skill.js";

const REFRESH_MS = 2500;

const element = (id) => document.getElementById(id);
const [main, problem, period, live, liveText] = ["main", "problem", "period", "live", "live-text"].map(element);
const orgs = new Orgs(element("org"));

const board = new Board(); // kept, so that who comes back from a skill finds it as it was
let boardTop = 0;
let view = null;
let paused = false;
let timer = 0;
let asking = null;

async function refresh() {
  clearTimeout(timer);
  asking?.abort();
  const request = (asking = new AbortController());
  const now = place();
  choose(now);
  try {
    const [names] = await Promise.all([ask("orgs", {}, request.signal), view.refresh(now, request.signal)]);
    orgs.show(names, now.org);
    view.answered = questionOf(now);
    view.root.hidden = false;
    problem.hidden = true;
    showState(paused ? "paused" : "live", paused ? "Paused" : "Live");
  } catch (error) {
    if (error.name === "AbortError" || request !== asking) return;
    showProblem(error, now);
    if (error instanceof NeedsToken) return;
  }
  if (!paused && !document.hidden) timer = setTimeout(refresh, REFRESH_MS);
}

/** The right view for the address; one that is there already is kept. */
function choose(now) {
  if (period.value !== now.days) period.value = now.days;
  orgs.mark(now.org);
  document.title = now.skill ? `${now.skill} - skillmeter` : "skillmeter";
  if (view?.skill === now.skill) return;
  const left = view;
  if (left === board) boardTop = scrollY;
  left?.close?.();
  view = now.skill ? new Skill(now.skill) : board;
  main.replaceChildren(view.root);
  if (left) {
    (view.linkTo?.(left.skill) ?? main).focus({ preventScroll: true });
    scrollTo(0, view === board ? boardTop : 0);
  }
}

const questionOf = ({ days, org }) => `${days} ${org}`;

function showState(state, text) {
  live.dataset.state = state;
  live.title = paused ? "Paused: press to go on" : "Refreshes itself: press to pause";
  say(liveText, text);
}

/** Numbers that are there stay, unless they answer another question. */
function showProblem(error, now) {
  showState("problem", "Not up to date");
  view.root.hidden = view.answered !== questionOf(now) || error instanceof Refused;
  if (error instanceof NeedsToken) return askForToken(error.message);
  const [hint, link] = whatToDo(error);
  const text = `${sentence(error.message)} ${hint}`;
  if (!problem.hidden && problem.said === text) return; // an alert that is made again is read out again
  problem.said = text;
  problem.replaceChildren(h("strong", {}, sentence(error.message)), " ", hint, " ", link);
  problem.hidden = false;
}

function whatToDo(error) {
  if (error instanceof Refused) return ["Go back to", h("a", { href: "#" }, "all skills")];
  if (error instanceof Unreachable) return ["Is it running? Start it with “skillmeter run”; this page goes on by itself.", ""];
  if (error instanceof Unable) return ["“skillmeter doctor” says what to do; this page goes on by itself.", ""];
  console.error(error);
  return ["This is a fault of the page. Please report it with what the browser's console says.", ""];
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;

function askForToken(text) {
  if (!problem.hidden && problem.querySelector("form")) return say(problem.querySelector("output"), text);
  const field = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const form = h("form", {
    onsubmit: (event) => {
      event.preventDefault();
      keepToken(field.value.trim());
      refresh();
    },
  }, h("label", { for: "token" }, "This daemon asks for its token (ANALYTICS_HTTP_TOKEN)"), field, h("button", { type: "submit" }, "Show"), h("output", {}, text));
  problem.said = null;
  problem.replaceChildren(form);
  problem.hidden = false;
  field.focus();
}

period.addEventListener("change", () => { location.hash = address({ days: period.value }); });
live.addEventListener("click", () => {
  paused = !paused;
  refresh();
});
element("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", refresh);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
refresh();
