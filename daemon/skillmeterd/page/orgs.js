// Orgs: the filter by org - a list to choose from, or, where there are too many for one, a field that finds them.

import { ask } from "./api.js";
import { h } from "./dom.js";
import { visible } from "./format.js";
import { address } from "./place.js";

const MOST = 1000; // names in an answer
const OFFERED = 20;

export class Orgs {
  /** `list` gives way to the field, and takes its place again, as need be. */
  constructor(list) {
    this.list = list;
    this.offers = h("datalist", { id: "orgs" });
    this.field = h("input", {
      type: "search",
      list: "orgs",
      placeholder: "All orgs",
      onfocus: () => this.#offer(),
      oninput: (event) => (isTyped(event) ? this.#offer() : this.#find()),
      onchange: () => this.#find(),
    });
    list.addEventListener("change", () => choose(list.value));
  }

  show(names, chosen) {
    this.names = names;
    const [control, other] = names.length < MOST ? [this.list, this.field] : [this.field, this.list];
    if (!control.isConnected) {
      other.replaceWith(control);
      control.after(...(control === this.field ? [this.offers] : []));
    }
    this.mark(chosen);
  }

  /** Show which one is chosen, whether or not it is known. */
  mark(chosen) {
    const wanted = ["", ...new Set(chosen ? [...(this.names ?? []), chosen] : this.names)];
    if (JSON.stringify(wanted) !== JSON.stringify([...this.list.options].map((option) => option.value))) {
      this.list.replaceChildren(...wanted.map((name) => h("option", { value: name }, name ? visible(name) : "All orgs")));
    }
    if (this.list.value !== chosen) this.list.value = chosen;
    if (document.activeElement !== this.field) this.field.value = chosen;
  }

  /** Names that have in them what is typed. */
  async #offer() {
    const typed = this.field.value;
    const names = await having(typed, OFFERED);
    if (names && this.field.value === typed) this.offers.replaceChildren(...names.map((name) => h("option", { value: name })));
  }

  /** Choose the one that has in it what is typed; if there is not just one, what is typed. */
  async #find() {
    const typed = this.field.value;
    const names = typed ? await having(typed, 2) : [];
    if (this.field.value !== typed) return;
    if (names?.length === 1) this.field.value = names[0];
    choose(this.field.value);
  }
}

/** Orgs by a part of their name. Null if nobody answers: of that the page's next refresh tells. */
const having = (find, limit) => ask("orgs", { find, limit }, new AbortController().signal).catch(() => null);

const choose = (name) => { location.hash = address({ org: name }); };

/** Whether somebody types; otherwise an offer was taken, or the field was cleared. */
const isTyped = (event) => event instanceof InputEvent && event.inputType !== "insertReplacementText";
