// Asks the API, with the token of this tab.

let token = "";
try {
  token = sessionStorage.getItem("larder-token") ?? "";
} catch { /* Storage may be forbidden; then the token lasts as long as the page. */ }

export function keep(text) {
  token = text;
  try {
    if (text) sessionStorage.setItem("larder-token", text);
    else sessionStorage.removeItem("larder-token");
  } catch { /* As above. */ }
}

export const hasToken = () => Boolean(token);

/** What is asked goes with the token, if there is one. */
export const signed = (headers) => (token ? { ...headers, Authorization: `Bearer ${token}` } : headers);

/** An answer that is a refusal; `problem` is its document (RFC 9457). */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`);
    Object.assign(this, { status, problem, hint: problem.hint ?? "", faults: problem.faults ?? [] });
  }
}

/** Asks the API. With a body it is a change. */
export async function ask(path, body, method = body ? "POST" : "GET") {
  const headers = signed({ Accept: "application/json" });
  if (body) headers["Content-Type"] = "application/json";
  const signal = AbortSignal.timeout(body ? 180e3 : 10e3);
  const answer = await fetch("api/v1/" + path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", redirect: "error", signal });
  const text = await answer.text();
  let content = {};
  try {
    content = JSON.parse(text);
  } catch {
    if (answer.ok && text) throw new Refusal(answer.status, { detail: "the answer is no JSON" });
  }
  if (!answer.ok) throw new Refusal(answer.status, content ?? {});
  return content;
}
