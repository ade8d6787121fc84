"use strict";
// The page of the server: a picture and texts go to /v1/masks, each mask comes back over the picture.

const byId = (id) => document.getElementById(id);
const TINT = [255, 45, 149];
const OPACITY = 0.5;
let picture = null;

function say(text, isWrong = false) {
  byId("says").textContent = text;
  byId("says").classList.toggle("wrong", isWrong);
}

function take(files) {
  if (files.length === 0) return;
  picture = files[0];
  byId("found").replaceChildren();
  byId("drop").firstChild.textContent = `${picture.name} · drop another one here, or `;
  say("");
}

async function drawn(image, answer) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const bytes = Uint8Array.from(atob(answer.mask_png), (c) => c.charCodeAt(0));
  const mask = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  const inside = context.getImageData(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    if (inside.data[i] < 128) continue;
    for (let c = 0; c < 3; c++) pixels.data[i + c] += OPACITY * (TINT[c] - pixels.data[i + c]);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function words(answer) {
  const alone = answer.prior_failure ? " (without the language model's help)" : "";
  const note = answer.note ? ` (${answer.note})` : "";
  if (answer.box_xyxy_px === null) return `${answer.expression}: nothing found${alone}${note}`;
  return `${answer.expression}: confidence ${answer.confidence.toFixed(2)}${alone}${note}`;
}

// Show the answer about a picture, unless another one has taken its place meanwhile.
async function show(asked, answer) {
  const image = await createImageBitmap(asked).catch(() => null);
  if (picture !== asked) return;
  if (image === null) {
    say("The masks are there, but this browser cannot show pictures of this format.", true);
    return;
  }
  for (const mask of answer.masks) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = words(mask);
    figure.append(caption, await drawn(image, mask));
    if (picture !== asked) return;
    byId("found").append(figure);
  }
  say(`${answer.seconds.total.toFixed(2)} s · ${answer.checkpoint}`);
}

async function ask(event) {
  event.preventDefault();
  const texts = byId("words").value.split("\n").map((text) => text.trim()).filter(Boolean);
  if (!picture) return say("Choose a picture first.", true);
  if (texts.length === 0) return say("Say what to look for, for example: the left cup.", true);
  const token = byId("token").value.trim();
  if (!token) return say("Enter the token that the server printed when it started.", true);
  const asked = picture;
  const form = new FormData();
  form.append("image", asked);
  for (const text of texts) form.append("expression", text);
  byId("find").disabled = true;
  byId("found").replaceChildren();
  say("Looking …");
  try {
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch("v1/masks", { method: "POST", headers, body: form });
    const body = await response.json();
    if (response.ok) sessionStorage.setItem("token", token);
    if (picture !== asked) return;
    if (response.ok) await show(asked, body);
    else say(body.error, true);
  } catch {
    say("The server does not answer, or closed the connection. Is it still running? Is the picture very large?", true);
  } finally {
    byId("find").disabled = false;
  }
}

byId("ask").addEventListener("submit", ask);
byId("picture").addEventListener("change", (event) => take(event.target.files));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
// `#token=...` never reaches the server; it is taken out of the address, which would stay in the history.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) history.replaceState(null, "", location.pathname);
byId("token").value = given || sessionStorage.getItem("token") || "";
