// The review page: which label is open, what is decided about it, and where the keys lead.
// Every text of the data is put in as text, never as HTML.

import { Refused, get, picture, post, save, saveAgain, unsaved } from "./api.js";
import { Viewer } from "./canvas.js";
import { Drawing } from "./draw.js";
import { area } from "./masks.js";
import { Queue } from "./queue.js";

const byId = (id) => document.getElementById(id);
const ACTION_KEYS = { a: "accept", d: "redraw", r: "reject", w: "wrong_object", n: "no_object", u: "undo" };
const SHOWN = { 1: "mask", 2: "box", 3: "prior", 4: "teacher" };
const KEPT_PICTURES = 4;
const STILL = "The server does not answer. Your decision is kept in this browser and sent again until it is saved …";

const viewer = new Viewer(byId("view"));
const drawing = new Drawing(viewer, { propose, changed: showTools });
const queue = new Queue({ open, say, inTurn });
const pictures = new Map(); // by image id; promises
let run = null;
let item = null;
const steps = []; // what is to be done one after another
let isWorking = false;

// Do one thing after another, so that a slow answer never meets a later one. The first begins at once.
async function inTurn(step) {
  steps.push(step);
  if (isWorking) return;
  isWorking = true;
  document.querySelector("main").setAttribute("aria-busy", "true");
  while (steps.length) await steps.shift()();
  isWorking = false;
  document.querySelector("main").setAttribute("aria-busy", "false");
}

// Decide only about what is shown: a decision while the page is at work is none.
const decide = (action) => isWorking || inTurn(() => act(action));

function say(text, kind = "") {
  byId("says").textContent = text;
  byId("says").className = kind;
}

function fail(error) {
  const text = error instanceof Refused ? error.message : "The server does not answer. Is `l2l review` still running?";
  say(text, "wrong");
}

function listed(id, texts) {
  byId(id).replaceChildren(
    ...texts.map((text) => {
      const line = document.createElement("li");
      line.textContent = text;
      return line;
    }),
  );
}

function progress(counts) {
  const decided = run.num - counts.open;
  byId("bar").value = decided / run.num;
  const parts = run.states.slice(1).filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`);
  const share = `${decided.toLocaleString("en")} of ${run.num.toLocaleString("en")} decided`;
  byId("counts").textContent = [share, ...parts].join(" · ");
}

// Open a label; `says` is what the status line then says.
async function open(sentId, says = "") {
  stopDrawing();
  let found;
  try {
    found = await get(`api/labels/${sentId}`);
    pictureOf(found);
  } catch (error) {
    return fail(error);
  }
  item = found;
  history.replaceState(null, "", `#label=${sentId}`);
  queue.mark(item);
  describe();
  say(says, "good");
  try {
    const shown = await pictureOf(item);
    if (item !== found) return;
    viewer.isFit = true;
    viewer.open(shown, item.edit_size, boxes());
    showMasks();
  } catch (error) {
    if (item === found) fail(error);
  }
  prefetch();
}

function pictureOf({ image_id: imageId, sent_id: sentId }) {
  if (!pictures.has(imageId)) {
    const loading = picture(sentId, "preview");
    loading.catch(() => pictures.delete(imageId));
    pictures.set(imageId, loading);
    if (pictures.size > KEPT_PICTURES) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(imageId);
}

function prefetch() {
  const next = queue.beside(1);
  if (next) pictureOf(next).catch(() => {});
}

// A zoomed photo is fetched at its full size, once.
viewer.sharpen = () => {
  if (!item || !viewer.isCoarse || item.isSharp) return;
  const asked = item;
  asked.isSharp = true;
  picture(asked.sent_id, "full").then((sharp) => item === asked && viewer.open(sharp, item.edit_size, boxes()), fail);
};

function boxes() {
  const [height, width] = item.edit_size;
  const found = item.hint && !item.by_user ? [...item.boxes, item.hint] : item.boxes;
  return found.map(([x1, y1, x2, y2]) => [x1 * width, y1 * height, x2 * width, y2 * height]);
}

function showMasks() {
  viewer.layer("mask", item.masks.now || (item.state === "no such object" ? null : item.masks.label));
  byId("show-prior").disabled = !item.has_prior_mask;
  for (const name of ["prior", "teacher"]) {
    viewer.layer(name, item.masks[name] || null);
    if (viewer.shown[name]) fetchMask(name);
  }
}

function describe() {
  byId("expression").textContent = item.expression;
  const share = area(item.masks.now || item.masks.label) / (item.edit_size[0] * item.edit_size[1]);
  const facts = [`${(100 * item.confidence).toFixed(0)} % confidence`, `${(100 * share).toFixed(1)} % of the photo`];
  if (item.state !== "open") facts.unshift(item.reviewer ? `${item.state} by ${item.reviewer}` : item.state);
  byId("facts").textContent = `${facts.join(" · ")} · ${item.image} · The label is ${item.source}.`;
  listed("reasons", item.reasons.length ? item.reasons : ["Nothing stands out."]);
  listed("history", item.history.length ? item.history : ["Nobody has decided yet."]);
  byId("view").setAttribute("aria-label", `Photo ${item.image} with the mask of “${item.expression}”; ${facts.join(", ")}`);
  byId("others").replaceChildren(
    ...item.others.map((other) => {
      const line = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${other.expression} (${other.state})`;
      button.addEventListener("click", () => inTurn(() => open(other.sent_id)));
      line.append(button);
      return line;
    }),
  );
  for (const button of document.querySelectorAll("#actions button")) {
    button.disabled = button.dataset.action === "undo" && item.state === "open" && !done().length;
  }
}

// Labels that this tab decided, the last one last; they outlive a reload.
const done = () => JSON.parse(sessionStorage.getItem("l2l-review-done") || "[]");
const setDone = (ids) => sessionStorage.setItem("l2l-review-done", JSON.stringify(ids.slice(-200)));

async function act(action) {
  if (!item) return;
  if (action === "redraw" && !drawing.isOn) {
    drawing.start(item.masks.now || item.masks.label);
    byId("view").focus();
    return say("Draw the mask: brush, eraser, polygon, or a box for the model. Enter saves it, Esc cancels.");
  }
  if (action === "undo") return undo();
  const decision = { action, upon: item.number };
  if (action === "redraw") {
    decision.counts = drawing.counts;
    if (decision.counts.length < 2) return say("The mask is empty. Draw it, or cancel and press N.", "wrong");
  } else if (action === "accept" && item.masks.now) {
    return say("This label is redrawn already. Undo that first if the label was right.", "wrong");
  }
  const answer = await saved(item, decision);
  if (!answer) return;
  setDone([...done(), item.sent_id]);
  const moved = answer.iou === null ? "" : ` (IoU with the label: ${answer.iou.toFixed(2)})`;
  const words = `Saved: “${item.expression}” is ${answer.state}${moved}.`;
  const next = await queue.step(1);
  await open(next ? next.sent_id : item.sent_id, next ? words : `${words} That was the last one here.`);
}

async function undo() {
  const ids = done();
  const last = ids.pop();
  if (last !== undefined && last !== item.sent_id) await open(last);
  if (!item.history.length || item.state === "open") {
    setDone(ids);
    return say("There is nothing to undo on this label.", "wrong");
  }
  const answer = await saved(item, { action: "undo", upon: item.number });
  if (!answer) return;
  setDone(ids);
  await open(item.sent_id, `Undone: “${item.expression}” is ${answer.state} again.`);
}

// Save a decision; returns the server's answer, or nothing where it was refused, and then says why.
async function saved(on, decision) {
  say("Saving …");
  try {
    const answer = await save(run.run, on.sent_id, decision, () => say(STILL, "wrong"));
    progress(answer.counts);
    queue.change(on.sent_id, answer);
    return answer;
  } catch (error) {
    await refused(on, error);
    return null;
  }
}

// Somebody else decided meanwhile: show it, and keep what is being drawn.
async function refused(on, error) {
  fail(error);
  if (error.status !== 409) return;
  const fresh = await get(`api/labels/${on.sent_id}`).catch(() => null);
  if (!fresh || item !== on) return;
  Object.assign(item, { ...fresh, masks: drawing.isOn ? item.masks : fresh.masks });
  queue.change(item.sent_id, item);
  describe();
  if (!drawing.isOn) showMasks();
}

async function propose([x, y, width, height]) {
  const asked = item;
  const scale = item.size[1] / item.edit_size[1];
  say("The model looks at the box. The first time it has to be loaded …");
  try {
    const box = [x, y, width, height].map((side) => side * scale);
    const { mask } = await post(`api/labels/${asked.sent_id}/propose`, { box });
    say(area(mask) ? "The model proposes this mask. Correct it, or press Enter to save it." : "The model finds nothing in it.");
    return item === asked && area(mask) ? mask : null;
  } catch (error) {
    fail(error);
    return null;
  }
}

// What the language model marked, or what the finished run's model predicts, is fetched when it is first shown.
async function fetchMask(name) {
  const asked = item;
  if (!asked || asked.masks[name] || (name === "prior" && !asked.has_prior_mask)) return;
  if (name === "teacher") say("The model looks at the photo. The first time it has to be loaded …");
  try {
    asked.masks[name] = (await get(`api/labels/${asked.sent_id}/${name}`)).mask;
    if (item === asked) viewer.layer(name, asked.masks[name]);
    if (name === "teacher") say(area(asked.masks[name]) ? "What the model predicts now is shown." : "The model finds nothing now.");
  } catch (error) {
    toggle(name, false);
    fail(error);
  }
}

function toggle(name, isShown = !viewer.shown[name]) {
  viewer.shown[name] = isShown;
  byId(`show-${name}`).checked = isShown;
  if (isShown && (name === "prior" || name === "teacher")) fetchMask(name);
  viewer.render();
}

function showTools() {
  byId("drawing").hidden = !drawing.isOn;
  for (const tool of ["brush", "eraser", "polygon", "propose"]) {
    byId(tool).setAttribute("aria-pressed", String(drawing.tool === tool));
  }
  byId("size").value = drawing.share;
}

function stopDrawing() {
  drawing.stop();
  showTools();
}

function cancel() {
  stopDrawing();
  if (item) showMasks();
  say("Cancelled; the label stays as it was.");
}

function pressed(event) {
  if (byId("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]):not([type=range]), select")) {
    if (event.key === "Escape") byId("view").focus();
    return;
  }
  const isButton = event.target.closest("button, input") && (event.key === " " || event.key === "Enter");
  if (!isButton && handled(event)) event.preventDefault();
}

function handled(event) {
  const { key } = event;
  const name = key.toLowerCase();
  if (key === "?") return byId("help").showModal(), true;
  if (SHOWN[key]) return toggle(SHOWN[key]), true;
  if (key === "+" || key === "=") return viewer.scale(1.4), true;
  if (key === "-") return viewer.scale(1 / 1.4), true;
  if (key === "0") return viewer.fit(), true;
  if (drawing.isOn) {
    if (key === "Escape") return cancel(), true;
    if (drawing.key(event)) return true;
    return key === "Enter" ? (decide("redraw"), true) : false;
  }
  if (ACTION_KEYS[name]) return event.repeat || decide(ACTION_KEYS[name]), true;
  if (name === "j" || key === "ArrowRight" || key === "ArrowDown") return inTurn(() => go(1)), true;
  if (name === "k" || key === "ArrowLeft" || key === "ArrowUp") return inTurn(() => go(-1)), true;
  if (key === "PageDown" || key === "PageUp") return inTurn(() => queue.turn(key === "PageDown")), true;
  if (key === "/") return byId("text").focus(), true;
  return false;
}

async function go(way) {
  const next = await queue.step(way);
  if (next) await open(next.sent_id);
  else say(way > 0 ? "This is the last label of the list." : "This is the first label of the list.");
}

// What an earlier page could not save is sent first; what is refused then is shown where it belongs, and only then is
// there nothing to say.
async function sendUnsaved() {
  let words = "";
  for (const one of unsaved(run.run)) {
    const { sentId, decision } = one.kept;
    try {
      await saveAgain(one, () => say(STILL, "wrong"));
      setDone([...done(), sentId]);
      words = "A decision that was not saved before is saved now.";
    } catch (error) {
      await open(sentId);
      if (decision.counts) {
        drawing.start({ height: item.edit_size[0], width: item.edit_size[1], counts: decision.counts });
        showTools();
      }
      fail(error);
      return null;
    }
  }
  return words;
}

async function start() {
  try {
    run = await get("api/run");
    byId("run").textContent = run.run;
    byId("reviewer").textContent = `as ${run.reviewer}`;
    document.title = `${run.run}: L2L review`;
    const named = Number(new URLSearchParams(location.hash.slice(1)).get("label"));
    queue.states(run.states);
    const words = await sendUnsaved();
    progress((await get("api/run")).counts);
    const first = await queue.load();
    if (words !== null && (named || first)) await open(named || first.sent_id, words);
    if (run.problems.length) say(run.problems.join(" · "), "wrong");
    queue.kinds(await get("api/kinds"));
  } catch (error) {
    fail(error);
  }
}

document.addEventListener("keydown", pressed);
for (const button of document.querySelectorAll("#actions button")) {
  button.addEventListener("click", () => decide(button.dataset.action));
}
for (const name of Object.values(SHOWN)) {
  byId(`show-${name}`).addEventListener("change", (event) => toggle(name, event.target.checked));
}
for (const tool of ["brush", "eraser", "polygon", "propose"]) {
  byId(tool).addEventListener("click", () => {
    drawing.use(tool);
    byId("view").focus(); // Space and Enter are the tool's then, not the button's
  });
}
byId("size").addEventListener("input", (event) => drawing.resize(Number(event.target.value)));
byId("clear").addEventListener("click", () => drawing.clear());
byId("back").addEventListener("click", () => drawing.back());
byId("cancel").addEventListener("click", cancel);
byId("keep").addEventListener("click", () => decide("redraw"));
byId("smaller").addEventListener("click", () => viewer.scale(1 / 1.4));
byId("larger").addEventListener("click", () => viewer.scale(1.4));
byId("fit").addEventListener("click", () => viewer.fit());
byId("show-help").addEventListener("click", () => byId("help").showModal());
byId("close-help").addEventListener("click", () => byId("help").close());
inTurn(start);
