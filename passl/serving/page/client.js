// Requests to the server that the page comes from.

const KEY = "passl-token";
const LONGEST = 90_000; // ms

// An answer that is no success; status 0 if there is none.
export class Failure extends Error {
  constructor(status, detail = "", retryAfter = null) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

export function forgetToken() {
  sessionStorage.removeItem(KEY);
}

// The JSON of an answer, with how long it took in ms: in all, and in the server if it says so.
async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const start = performance.now();
  let response, text;
  try {
    response = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(LONGEST) });
    text = await response.text();
  } catch {
    throw new Failure(0);
  }
  const total = performance.now() - start;
  let content = null;
  try {
    content = JSON.parse(text);
  } catch { /* a proxy's page, or a connection that was refused */ }
  if (!response.ok || content === null) {
    const retryAfter = Number.parseInt(response.headers.get("Retry-After"), 10);
    const status = response.ok ? 500 : response.status;
    throw new Failure(status, content?.error ?? "", Number.isNaN(retryAfter) ? null : retryAfter);
  }
  const server = /\bdur=([0-9.]+)/.exec(response.headers.get("Server-Timing") ?? "");
  return { content, total, server: server && Number(server[1]) };
}

export function models() {
  return ask("v1/models");
}

// Ask a model for `predict` or `attention` of one image. The server finds out its format.
export function compute(model, verb, image) {
  return ask(`v1/models/${model}:${verb}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: image,
  });
}
