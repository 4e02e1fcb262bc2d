// Api: asks the daemon. The token, if one is needed, stays in this tab and goes nowhere but into the request's header.

const TOKEN = "skillmeter.token";
const PATIENCE_MS = 10_000;

export class NeedsToken extends Error {}
/** Nobody answers. */
export class Unreachable extends Error {}
/** Another question would be answered. */
export class Refused extends Error {}
/** No question would be answered now. */
export class Unable extends Error {}

export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);

/** The answer of /api/v1/NAME. */
export async function ask(name, params, signal) {
  const given = Object.entries(params).filter(([, value]) => value != null && value !== "");
  const token = sessionStorage.getItem(TOKEN);
  let response, body;
  try {
    response = await fetch(`api/v1/${name}?${new URLSearchParams(given)}`, {
      headers: token ? { authorization: `Bearer ${token}` } : {},
      signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)]),
    });
    body = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the daemon does not answer");
  }
  if (response.ok) return JSON.parse(body);
  if (response.status === 401) throw new NeedsToken(token ? "That is not the token." : "");
  const Kind = [400, 404].includes(response.status) ? Refused : Unable;
  throw new Kind(problemIn(body) ?? `the daemon answered ${response.status}`);
}

function problemIn(body) {
  try {
    return JSON.parse(body).error;
  } catch {
    return null;
  }
}
