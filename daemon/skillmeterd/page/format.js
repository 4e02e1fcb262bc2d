// Format: numbers and times for people.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const NONE = "–";

export const count = (value) => (value == null ? NONE : whole.format(value));
/** A name as it is; one of nothing but blanks in quotation marks, so that there is something to see. */
export const visible = (name) => (name.trim() ? name : `“${name}”`);

/** An amount of things: one call, two calls. */
export const amount = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** In few letters: of 10,000 or more, three digits. */
export const short = (value) => cut(value, 10_000);
/** The whole number, as long as it fits into a tile. */
export const brief = (value) => cut(value, 1_000_000);

const cut = (value, from) => (value == null ? NONE : value < from ? whole.format(value) : compact.format(value));

const DAY_MS = 86_400_000;
const YEAR_MS = 365.25 * DAY_MS;

export function latency(ms) {
  if (ms == null) return NONE;
  if (ms === 0) return "0 ms";
  if (ms >= 1000 * YEAR_MS) return `${short(Math.round(ms / YEAR_MS))} y`;
  if (ms >= 2 * YEAR_MS) return `${digits(ms / YEAR_MS)} y`;
  if (ms >= 2 * DAY_MS) return `${digits(ms / DAY_MS)} d`;
  if (ms >= 7_200_000) return `${digits(ms / 3_600_000)} h`;
  if (ms >= 60_000) return `${digits(ms / 60_000)} min`;
  if (ms >= 1000) return `${digits(ms / 1000)} s`;
  if (ms >= 0.1) return `${digits(ms)} ms`;
  return `${digits(ms * 1000)} µs`;
}

const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

/** A share in percent; 100 % only if nothing is missing. */
export function percent(share) {
  if (share == null) return NONE;
  if (share === 1 || share === 0) return `${100 * share} %`;
  return `${Math.min(99.9, Math.max(0.1, 100 * share)).toFixed(1)} %`;
}

/** Rounded outwards, so that it holds all that it held. */
export const interval = (low, high) => (low == null ? "" : `${(Math.floor(1000 * low) / 10).toFixed(1)}–${(Math.ceil(1000 * high) / 10).toFixed(1)} %`);

export function bytes(value) {
  const unit = Math.min(4, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${(value / 1024 ** unit).toFixed(unit && value / 1024 ** unit < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86_400 * 2) return `${(seconds / 3600).toFixed(1).replace(".0", "")} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const ago = (ms) => `${duration((Date.now() - ms) / 1000)} ago`;

/** When a step of a chart is: a UTC day, or a local time. */
export function moment(seconds, step_s) {
  const date = new Date(seconds * 1000);
  if (step_s >= 86_400) return date.toLocaleDateString("en", { timeZone: "UTC", day: "numeric", month: "short" });
  return date.toLocaleTimeString("en-GB", step_s < 60 ? {} : { hour: "2-digit", minute: "2-digit" });
}

/** A point in local time, with its day. */
export const dateTime = (ms) => new Date(ms).toLocaleString("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });
