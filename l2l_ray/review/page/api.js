// What the page asks of its server.

export const OTHER_RUN = 412; // the server shows another run than the one that was decided about
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
// `isOwn`: the server itself says why. Without that, what answers is a proxy before it.
export class Refused extends Error {
  constructor(text, status = 0, isOwn = false) {
    super(text);
    this.status = status;
    this.isOwn = isOwn;
  }

  // Nothing that knows of labels has answered: the server is down, or only a part of it is up (404).
  get isSilence() {
    return !this.status || this.status === 404 || (this.status >= 500 && !(this.status === 500 && this.isOwn));
  }

  // The server will not take it, however often it is sent. With another token (401), or with its run there, it may.
  get isFinal() {
    return this.isOwn && this.status < 500 && !this.isSilence && ![401, OTHER_RUN].includes(this.status);
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
  const why = content?.error;
  throw new Refused(why || `The server answered ${response.status}.`, response.status, Boolean(why));
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
