// Api: asks the daemon. The token, if one is needed, stays in this tab and goes nowhere but into the request's header.

const TOKEN = "skillmeter.token";
const NOT_THE_TOKEN = "That is not the token.";
const PATIENCE_MS = 10_000;

export class NeedsToken extends Error {}
/** Nobody answers. */
export class Unreachable extends Error {}
/** Another question would be answered. */
export class Refused extends Error {}
/** No question would be answered now. */
export class Unable extends Error {}

let token = stored(() => sessionStorage.getItem(TOKEN));

export function keepToken(given) {
  token = given;
  stored(() => sessionStorage.setItem(TOKEN, given));
}

/** The answer of /api/v1/NAME. */
export async function ask(name, params, signal) {
  const given = Object.entries(params).filter(([, value]) => value != null && value !== "");
  const headers = headersWith(token);
  let response, body;
  try {
    response = await fetch(`api/v1/${name}?${new URLSearchParams(given)}`, {
      headers,
      signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)]),
    });
    body = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the daemon does not answer");
  }
  const answer = parsed(body);
  if (response.status === 401) throw new NeedsToken(token ? NOT_THE_TOKEN : "");
  if (answer === undefined) throw new Unreachable("what answers is not the daemon");
  if (response.ok) return answer;
  const Kind = [400, 404].includes(response.status) ? Refused : Unable;
  throw new Kind(answer?.error ?? `the daemon answered ${response.status}`);
}

function headersWith(token) {
  try {
    return new Headers(token ? { authorization: `Bearer ${token}` } : {});
  } catch {
    throw new NeedsToken(NOT_THE_TOKEN); // it has letters that no header can have
  }
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

/** A browser may forbid to store anything; the token then holds until the page is loaded anew. */
function stored(access) {
  try {
    return access();
  } catch {
    return null;
  }
}
