// Api: asks the daemon. The token, if one is needed, stays in this tab and goes nowhere but into the request's header.

const TOKEN = "skillmeter.token";

export class NeedsToken extends Error {}
export class Refused extends Error {}
export class Unreachable extends Error {}

export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);

/** The answer of /api/v1/NAME. */
export async function ask(name, params = {}, signal = undefined) {
  const given = Object.entries(params).filter(([, value]) => value != null && value !== "");
  const token = sessionStorage.getItem(TOKEN);
  let response;
  try {
    response = await fetch(`api/v1/${name}?${new URLSearchParams(given)}`, {
      headers: token ? { authorization: `Bearer ${token}` } : {},
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the daemon does not answer");
  }
  if (response.status === 401) throw new NeedsToken(token ? "That is not the token." : "");
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(body?.error ?? `the daemon answered ${response.status}`);
  return body;
}
