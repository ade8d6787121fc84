// What the page asks of its server, and how a decision is saved: until the server has said so, it is kept in the browser.

const TRY_AGAIN_MS = 1000;
const KEPT = "l2l-review-unsaved:";
const KEPT_PICTURES = 4;
const NAME = "l2l-review-name"; // as a header carries it
const previews = new Map(); // by image id; promises

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

// The name of whoever decides, where the server asks for it. It is this tab's; a new tab begins with the last one given.
let name = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);

export function setName(given) {
  name = encodeURIComponent(given);
  sessionStorage.setItem(NAME, name);
  localStorage.setItem(NAME, name);
}

// What the page or its server does not do, in words; `status` is that of HTTP, 0 where there was no answer.
export class Refused extends Error {
  constructor(text, status = 0) {
    super(text);
    this.status = status;
  }
}

async function request(path, options = {}, read = (response) => response.json()) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem("l2l-review-token") || ""}`, ...options.headers };
  if (name) headers["x-l2l-reviewer"] = name;
  let response;
  let content;
  try {
    response = await fetch(path, { ...options, headers });
    content = await (response.ok ? read(response) : response.json().catch(() => ({})));
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused("The server does not answer. Is it still running?");
  }
  if (response.ok) return content;
  if (response.status === 401) {
    throw new Refused("This tab does not have the server's token. Open the address that it printed, with #token=... at its end.", 401);
  }
  throw new Refused(content.error || `The server answered ${response.status}.`, response.status);
}

export function get(path, params = {}, signal = null) {
  const query = new URLSearchParams(params).toString();
  return request(query ? `${path}?${query}` : path, { signal });
}

export function post(path, body, signal = null) {
  const headers = { "content-type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export async function picture(sentId, size) {
  const content = await request(`api/labels/${sentId}/picture?size=${size}`, {}, (response) => response.blob());
  return createImageBitmap(content).catch(() => {
    throw new Refused("This browser cannot show the photo.");
  });
}

// The small picture of a label's photo; the last few photos are kept.
export function preview({ image_id: imageId, sent_id: sentId }) {
  if (!previews.has(imageId)) {
    const loading = picture(sentId, "preview");
    loading.catch(() => previews.delete(imageId));
    previews.set(imageId, loading);
    if (previews.size > KEPT_PICTURES) previews.delete(previews.keys().next().value);
  }
  return previews.get(imageId);
}

// `run` is the server's name for this reviewer's work on this run. Send a decision until the server has it on disk, or refuses it. The key makes it harmless to send it twice.
export async function save(run, sentId, decision, onWait) {
  const kept = { run, sentId, decision: { ...decision, key: crypto.randomUUID() } };
  const name = KEPT + kept.decision.key;
  try {
    localStorage.setItem(name, JSON.stringify(kept));
  } catch {
    // The browser keeps nothing: the decision is then only in this tab until it is saved.
  }
  try {
    return await sent(name, kept, onWait);
  } catch (error) {
    if (error.status !== 401) localStorage.removeItem(name); // the page still shows it
    throw error;
  }
}

async function sent(name, kept, onWait) {
  for (;;) {
    try {
      const answer = await post(`api/labels/${kept.sentId}/actions`, kept.decision);
      localStorage.removeItem(name);
      return answer;
    } catch (error) {
      if (!(error instanceof Refused) || error.status) throw error;
      onWait();
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    }
  }
}

// Decisions that an earlier page could not save, those of this reviewer on this run.
export function unsaved(run) {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(KEPT));
  return names.map((name) => ({ name, kept: JSON.parse(localStorage.getItem(name)) })).filter((one) => one.kept.run === run);
}

export const saveAgain = (one, onWait) => sent(one.name, one.kept, onWait);
export const forget = (one) => localStorage.removeItem(one.name);
