// What the page asks of its server, and how a decision is saved: until the server has said so, it is kept in the browser.

const TRY_AGAIN_MS = 1000;
const KEPT = "l2l-review-unsaved:";

// `#token=...` never reaches the server; it is taken out of the address, which would stay in the history.
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return false;
  sessionStorage.setItem("l2l-review-token", token);
  history.replaceState(null, "", location.pathname);
  return true;
}

takeToken();
// The address of a server that was started again, in the same tab, differs behind `#` only: nothing would be loaded.
window.addEventListener("hashchange", () => takeToken() && location.reload());

export class Refused extends Error {
  constructor(status, text, last) {
    super(text);
    this.status = status;
    this.last = last;
  }
}

async function request(path, options = {}) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem("l2l-review-token") || ""}`, ...options.headers };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) {
    throw new Refused(401, "This tab does not have the server's token. Open the address that `l2l review` printed.");
  }
  const body = await response.json().catch(() => ({}));
  throw new Refused(response.status, body.error || `The server answered ${response.status}.`, body.last);
}

export async function get(path, params = {}) {
  const query = new URLSearchParams(params).toString();
  return (await request(query ? `${path}?${query}` : path)).json();
}

export async function post(path, body) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return (await request(path, options)).json();
}

export async function picture(sentId, size) {
  return createImageBitmap(await (await request(`api/labels/${sentId}/picture?size=${size}`)).blob());
}

// Send a decision until the server has it on disk, or refuses it. The key makes it harmless to send it twice.
export async function save(run, sentId, decision, onWait) {
  const kept = { run, sentId, decision: { ...decision, key: crypto.randomUUID() } };
  const name = KEPT + kept.decision.key;
  try {
    localStorage.setItem(name, JSON.stringify(kept));
  } catch {
    // The browser keeps nothing: the decision is then only in this tab until it is saved.
  }
  return sent(name, kept, onWait);
}

async function sent(name, kept, onWait) {
  for (;;) {
    try {
      const answer = await post(`api/labels/${kept.sentId}/actions`, kept.decision);
      localStorage.removeItem(name);
      return answer;
    } catch (error) {
      if (error instanceof Refused) {
        if (error.status !== 401) localStorage.removeItem(name);
        throw error;
      }
      onWait();
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    }
  }
}

// Decisions that an earlier page could not save, those of this run.
export function unsaved(run) {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(KEPT));
  return names.map((name) => ({ name, kept: JSON.parse(localStorage.getItem(name)) })).filter((one) => one.kept.run === run);
}

export const saveAgain = (one, onWait) => sent(one.name, one.kept, onWait);
