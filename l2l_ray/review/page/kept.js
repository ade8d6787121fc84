// How a decision is saved: until the server has said that it has it on disk, it is kept in the browser.

import { OTHER_RUN, post } from "./api.js";

const TRY_AGAIN_MS = 1000;
const KEPT = "l2l-review-unsaved:";
const KEPT_SAID = "; your decision is kept in this browser";
const SENT_LATER = " and sent when the page is opened on this run again.";

// `crypto.randomUUID` is there over https and on loopback alone.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Send a decision until the server has it on disk, or refuses it; the key makes it harmless to send it twice.
// `run` is the server's name for this reviewer's work on this run.
export async function save(run, sentId, decision, onWait) {
  const kept = { run, sentId, decision: { ...decision, key: newKey() } };
  const name = KEPT + kept.decision.key;
  try {
    localStorage.setItem(name, JSON.stringify(kept));
  } catch {
    // The browser keeps nothing: the decision is then only in this tab until it is saved.
  }
  try {
    const answer = await sent(name, kept, onWait);
    for (const one of unsaved(run)[0]) {
      if (one.kept.sentId === sentId && one.kept.decision.upon <= decision.upon) forget(one); // decided anew
    }
    return answer;
  } catch (error) {
    if (error.isFinal) localStorage.removeItem(name); // the page still shows it
    throw error;
  }
}

async function sent(name, kept, onWait) {
  for (;;) {
    try {
      const answer = await post(`api/labels/${kept.sentId}/actions`, { ...kept.decision, run: kept.run });
      localStorage.removeItem(name);
      return answer;
    } catch (error) {
      if (!error.isSilence) {
        if (!error.isFinal && localStorage.getItem(name)) {
          error.message += KEPT_SAID + (error.status === OTHER_RUN ? "." : SENT_LATER);
        }
        throw error;
      }
      onWait();
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    }
  }
}

// Decisions that an earlier page could not save, as [those of this reviewer on this run, those on another run that was
// in its folder before and of which nothing was said yet]; the server's name for a run begins with that of its folder.
function unsaved(run) {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(KEPT));
  const found = names.map((name) => ({ name, kept: JSON.parse(localStorage.getItem(name)) }));
  const folder = (id) => String(id).split("-")[0];
  const here = found.filter((one) => folder(one.kept.run) === folder(run));
  return [here.filter((one) => one.kept.run === run), here.filter((one) => one.kept.run !== run && !one.kept.isTold)];
}

export const forget = (one) => localStorage.removeItem(one.name);

// Send what an earlier page could not save; returns what to say of it, what is refused, each with the reason, why one
// stays kept, and what to say of decisions on an earlier run. `onSaved` takes each that is saved, as kept and answered.
export async function sendUnsaved(run, onWait, onSaved) {
  let words = "";
  const refused = [];
  let problem = null;
  const [own, others] = unsaved(run);
  for (const one of own) {
    try {
      onSaved(one.kept, await sent(one.name, one.kept, onWait));
      words = "A decision that was not saved before is saved now.";
    } catch (error) {
      if (error.isFinal) refused.push({ one, error });
      else problem = error;
    }
  }
  for (const { name, kept } of others) localStorage.setItem(name, JSON.stringify({ ...kept, isTold: true }));
  return { words, refused, problem, earlier: others.length ? ofEarlier(others.length) : "" };
}

const ofEarlier = (num) =>
  `${num} decision${num > 1 ? "s" : ""} kept for an earlier run of this folder ${num > 1 ? "are" : "is"} not sent, ` +
  "unless that run is brought back.";
