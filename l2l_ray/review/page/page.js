// The review page: which label is open, what is decided about it, and what the page says.
// Every text of the data is put in as text, never as HTML.

import { Refused, get, picture, post, preview } from "./api.js";
import { Viewer } from "./canvas.js";
import { Drawing } from "./draw.js";
import { forget, save, sendUnsaved } from "./kept.js";
import { listen } from "./keys.js";
import { area } from "./masks.js";
import { Queue } from "./queue.js";
import { introduced, rename } from "./who.js";

const byId = (id) => document.getElementById(id);
const STILL = "The server does not answer. Your decision is kept in this browser and sent again until it is saved …";
const LOOKS = "The model looks at the photo. The first time it has to be loaded …";

const viewer = new Viewer(byId("view"));
const drawing = new Drawing(viewer, { propose, changed: showTools });
const queue = new Queue({ open, say, inTurn, progress });
let run = null;
let item = null;
let looking = new AbortController(); // ends what is still asked about the open label
const steps = []; // what is to be done one after another
let isWorking = false;

// Do one thing after another, so that a slow answer never meets a later one. The first begins at once.
async function inTurn(step) {
  steps.push(step);
  if (isWorking) return;
  busy(true);
  while (steps.length) {
    say("");
    try {
      await steps.shift()();
    } catch (error) {
      fail(error);
    }
  }
  busy(false);
}

function busy(isBusy) {
  isWorking = isBusy;
  document.querySelector("main").setAttribute("aria-busy", String(isBusy));
  byId("drawing").inert = isBusy;
}

// Decide only about what is shown: a decision while the page is at work is none.
const decide = (action) => isWorking || inTurn(() => act(action));
const keep = () => isWorking || inTurn(saveDrawing);

function say(text, kind = "") {
  byId("says").textContent = text;
  byId("says").className = kind;
}

// Say what went wrong, behind what was saved or went wrong before.
function fail(error) {
  const { textContent: before, className: kind } = byId("says");
  if (!(error instanceof Refused)) reportError(error); // a fault of this page: the console has more
  const isKept = (kind === "good" || kind === "wrong") && !before.includes(error.message);
  say(isKept ? `${before} · ${error.message}` : error.message, "wrong");
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

// Open a label; `words` are then said. Throws where the label, or its photo, cannot be shown.
async function open(sentId, words = "") {
  if (drawing.isOn) throw new Refused("Save the mask that you draw with Enter, or cancel it with Esc, first.");
  item = await get(`api/labels/${sentId}`);
  progress(item.counts);
  looking.abort();
  looking = new AbortController();
  viewer.close();
  remember(sentId);
  queue.mark(item);
  describe();
  say(words, "good");
  viewer.open(await preview(item), item.edit_size, boxes());
  showMasks();
  const next = queue.beside(1);
  if (next) preview(next).catch(() => {}); // the next photo is fetched ahead
}

// A reload opens the same label again.
function remember(sentId) {
  try {
    history.replaceState(null, "", `#label=${sentId}`);
  } catch {
    // Browsers refuse too many of these within seconds; the address then names an earlier label.
  }
}

// A zoomed photo is fetched at its full size, once.
viewer.sharpen = () => {
  if (!item || !viewer.isCoarse || item.isSharp) return;
  const asked = item;
  asked.isSharp = true;
  picture(asked.sent_id, "full").then(
    (sharp) => item === asked && viewer.open(sharp, item.edit_size, boxes()),
    (error) => item === asked && fail(error),
  );
};

function boxes() {
  const [height, width] = item.edit_size;
  const found = item.hint && !item.by_user ? [...item.boxes, item.hint] : item.boxes;
  return found.map(([x1, y1, x2, y2]) => [x1 * width, y1 * height, x2 * width, y2 * height]);
}

// The mask that holds: what a person said it is, else the label's own.
const mask = () => item.masks.now || item.masks.label;

function showMasks() {
  viewer.layer("mask", mask());
  byId("show-prior").disabled = !item.has_prior_mask;
  for (const name of ["prior", "teacher"]) {
    viewer.layer(name, item.masks[name] || null);
    if (viewer.shown[name]) fetchMask(name);
  }
}

function describe() {
  byId("expression").textContent = item.expression;
  const share = area(mask()) / (item.edit_size[0] * item.edit_size[1]);
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

// Decisions of this tab, the last one last, as label and number of the action; they outlive a reload.
const done = () => JSON.parse(sessionStorage.getItem(`l2l-review-done:${run.id}`) || "[]");
const setDone = (made) => sessionStorage.setItem(`l2l-review-done:${run.id}`, JSON.stringify(made.slice(-200)));

async function act(action) {
  if (!item) throw new Refused("No label is open.");
  if (action === "undo") return undo();
  if (!viewer.picture && action !== "reject") {
    throw new Refused("There is no photo to look at: you can only reject the label, or undo.");
  }
  if (action !== "redraw") return decided({ action });
  startDrawing(mask());
  say("Draw the mask: brush, eraser, polygon, or a box for the model. Enter saves it, Esc cancels.");
}

async function saveDrawing() {
  if (drawing.begun) throw new Refused(drawing.begun);
  const { counts } = drawing;
  if (counts.length < 2) throw new Refused("The mask is empty. Draw it, or cancel and press N.");
  await decided({ action: "redraw", counts });
}

async function decided(decision) {
  const answer = await saved(decision);
  setDone([...done(), { id: item.sent_id, number: answer.saved }]);
  stopDrawing();
  const moved = answer.iou === null ? "" : ` (IoU with the label: ${answer.iou.toFixed(2)})`;
  const words = `Saved: “${item.expression}” is ${answer.state}${moved}.`;
  say(words, "good");
  const next = await queue.step(1);
  try {
    await open(next ? next.sent_id : item.sent_id, next ? words : `${words} That was the last one here.`);
  } finally {
    tellProblems(answer.problems);
  }
}

// Open a label whose photo need not be shown: one that cannot be read can still be undone.
async function openUnseen(id, words) {
  try {
    await open(id, words);
  } catch (error) {
    if (item?.sent_id !== id) throw error;
  }
}

// Take back the last decision of this tab, where it still holds; without one, what holds on the open label.
async function undo() {
  const made = done();
  const last = made.pop();
  if (last && last.id !== item.sent_id) await openUnseen(last.id);
  if (last && last.number !== item.standing) {
    setDone(made);
    describe();
    throw new Refused(`Nothing was undone: ${item.history.at(-1)}, after your decision.`);
  }
  if (!item.standing) throw new Refused("There is nothing to undo on this label.");
  const answer = await saved({ action: "undo" });
  setDone(made);
  try {
    await open(item.sent_id, `Undone: “${item.expression}” is ${answer.state} again.`);
  } finally {
    tellProblems(answer.problems);
  }
}

// Say what is wrong with the journal, once; the server names what came last last.
function tellProblems(found) {
  const fresh = found.filter((problem) => !run.problems.includes(problem));
  run.problems.push(...fresh);
  if (fresh.length) fail(new Refused(fresh.join(" · ")));
}

// Save a decision about the open label; returns the server's answer, and throws where it is refused.
async function saved(decision) {
  say("Saving …");
  try {
    const waits = () => say(STILL, "wrong still");
    const answer = await save(run.id, item.sent_id, { ...decision, upon: item.number }, waits);
    progress(answer.counts);
    queue.change(item.sent_id, answer);
    return answer;
  } catch (error) {
    if (error.status === 409) await renew().catch(fail);
    throw error;
  }
}

// Somebody else decided meanwhile: show it, and keep what is being drawn.
async function renew() {
  Object.assign(item, await get(`api/labels/${item.sent_id}`));
  progress(item.counts);
  queue.change(item.sent_id, item);
  describe();
  if (!drawing.isOn) showMasks();
}

async function propose([x, y, width, height], signal) {
  const scale = item.size[1] / item.edit_size[1];
  say("The model looks at the box. The first time it has to be loaded …");
  try {
    const box = [x, y, width, height].map((side) => side * scale);
    const { mask: found } = await post(`api/labels/${item.sent_id}/propose`, { box }, signal);
    if (signal.aborted) return null;
    say(area(found) ? "The model proposes this mask. Correct it, or press Enter to save it." : "The model finds nothing in it.");
    return area(found) ? found : null;
  } catch (error) {
    if (!signal.aborted) fail(error);
    return null;
  }
}

// What the language model marked, or what the finished run's model predicts, is fetched when it is first shown.
async function fetchMask(name) {
  const { signal } = looking;
  const asked = item;
  if (!asked || name in asked.masks || (name === "prior" && !asked.has_prior_mask)) return;
  asked.masks[name] = null; // it is on its way
  const says = byId("says");
  const said = (words) => name === "teacher" && (says.textContent = says.textContent.replace(LOOKS, words).trim());
  if (name === "teacher") say(`${says.textContent} ${LOOKS}`.trim(), says.className);
  try {
    const found = (await get(`api/labels/${asked.sent_id}/${name}`, {}, signal)).mask;
    if (signal.aborted) return;
    asked.masks[name] = found;
    viewer.layer(name, found);
    said(area(found) ? "What the model predicts now is shown." : "The model finds nothing now.");
  } catch (error) {
    if (signal.aborted) return;
    delete asked.masks[name];
    toggle(name, false);
    said("");
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
  for (const id of ["filters", "queue", "actions", "others", "rename"]) byId(id).inert = drawing.isOn;
  for (const tool of ["brush", "eraser", "polygon", "propose"]) {
    byId(tool).setAttribute("aria-pressed", String(drawing.tool === tool));
  }
  byId("size").value = drawing.share;
}

function startDrawing(begin) {
  toggle("mask", true);
  drawing.start(begin);
  byId("view").focus();
}

function stopDrawing() {
  drawing.stop();
  showTools();
}

function cancel() {
  if (isWorking) return;
  stopDrawing();
  showMasks();
  say("Cancelled; the label stays as it was.");
}

function go(way, isFar) {
  return inTurn(async () => {
    if (isFar) return queue.turn(way > 0);
    const next = await queue.step(way);
    if (next) await open(next.sent_id);
    else if (!queue.rows.length) say("The list is empty.");
    else say(way > 0 ? "This is the last label of the list." : "This is the first label of the list.");
  });
}

// Show a decision that was kept and is refused where it belongs, with its drawing; the browser drops it only then.
async function bringBack({ one, error }, words, num) {
  const { sentId, decision } = one.kept;
  await openUnseen(sentId, words);
  const [height, width] = item.edit_size;
  if (decision.counts) startDrawing({ height, width, counts: decision.counts });
  forget(one);
  fail(error);
  if (num > 1) fail(new Refused(`${num - 1} more could not be saved; reload the page after this one.`));
}

async function start() {
  run = await introduced();
  byId("run").textContent = run.run;
  byId("reviewer").textContent = `as ${run.reviewer}`;
  byId("rename").hidden = !run.asks_name;
  document.title = `${run.run}: L2L review`;
  const named = Number(new URLSearchParams(location.hash.slice(1)).get("label"));
  queue.states(run.states);
  const waits = () => say(STILL, "wrong still");
  const { words, refused, problem, earlier } = await sendUnsaved(run.id, waits, ({ sentId, decision }, answer) => {
    if (decision.action !== "undo") setDone([...done(), { id: sentId, number: answer.saved }]);
  });
  const first = await queue.load();
  try {
    if (refused.length) await bringBack(refused[0], words, refused.length);
    else if (named || first) await open(named || first.sent_id, words);
  } finally {
    if (problem) fail(problem);
    if (earlier) fail(new Refused(earlier));
    if (run.problems.length) fail(new Refused(run.problems.join(" · ")));
    get("api/kinds").then((found) => queue.kinds(found), fail);
  }
}

listen({ viewer, drawing, isWorking: () => isWorking, decide, keep, cancel, go, toggle });
for (const button of document.querySelectorAll("#actions button")) {
  button.addEventListener("click", () => decide(button.dataset.action));
}
for (const name of Object.keys(viewer.shown)) {
  byId(`show-${name}`).addEventListener("change", (event) => {
    toggle(name, event.target.checked);
    byId("view").focus();
  });
}
for (const tool of ["brush", "eraser", "polygon", "propose"]) {
  byId(tool).addEventListener("click", () => drawing.use(tool));
}
// What was clicked keeps no key: Space and Enter would do it once more, and are the tool's.
document.addEventListener("click", (event) => {
  if (event.target.closest("#work button, #actions button")) byId("view").focus();
});
byId("size").addEventListener("input", (event) => drawing.resize(Number(event.target.value)));
byId("size").addEventListener("pointerup", () => byId("view").focus());
byId("clear").addEventListener("click", () => drawing.clear());
byId("back").addEventListener("click", () => drawing.back());
byId("cancel").addEventListener("click", cancel);
byId("keep").addEventListener("click", keep);
byId("smaller").addEventListener("click", () => viewer.scale(1 / 1.4));
byId("larger").addEventListener("click", () => viewer.scale(1.4));
byId("fit").addEventListener("click", () => viewer.fit());
byId("rename").addEventListener("click", () => inTurn(() => rename(run.reviewer)));
byId("show-help").addEventListener("click", () => byId("help").showModal());
byId("close-help").addEventListener("click", () => byId("help").close());
inTurn(start);
