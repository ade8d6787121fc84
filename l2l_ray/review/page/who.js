// Who decides: on a server for several people each says a name, once; it is written beside what they decide.

import { get, setName } from "./api.js";

const byId = (id) => document.getElementById(id);
const NAME_NEEDED = 428;

// Ask for a name; returns whether one was given.
function asked(why) {
  const dialog = byId("who");
  byId("who-says").textContent = why;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "given"), { once: true });
  });
}

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  setName(byId("name").value);
  byId("who").close("given");
});

// Return the server's run, once it knows who asks.
export async function introduced() {
  for (;;) {
    try {
      return await get("api/run");
    } catch (error) {
      if (error.status !== NAME_NEEDED) throw error;
      await asked(error.message);
    }
  }
}

// Let another name count from now on: the page begins anew.
export async function rename(now) {
  byId("name").value = now;
  if (await asked("What you decide from now on is written under this name.")) location.reload();
}
