// Place: what is shown, as it stands in the address: #skill=...&days=...&org=...&sort=...&find=...

export const DEFAULTS = { skill: "", days: "30", org: "", sort: "usage_count", reversed: "", find: "", rows: "" };
const PERIODS = ["1", "7", "30", "90", "3660"];

/** What the address says, with what it leaves out. */
export function place() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
  return PERIODS.includes(known.days) ? known : { ...known, days: DEFAULTS.days };
}

/** The address of the same page with something changed. */
export function address(changes) {
  const told = Object.entries({ ...place(), ...changes }).filter(([name, value]) => value !== DEFAULTS[name]);
  return `#${new URLSearchParams(told)}`;
}
