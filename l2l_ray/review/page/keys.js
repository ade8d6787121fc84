// Which key does what. A key that belongs to what has the focus, such as an arrow in a slider, is left to it.

import { WAYS } from "./draw.js";

const byId = (id) => document.getElementById(id);
const ACTIONS = { a: "accept", d: "redraw", r: "reject", w: "wrong_object", n: "no_object", u: "undo" };
const LAYERS = { 1: "mask", 2: "box", 3: "prior", 4: "teacher" };
const MOVE = 60; // screen pixels

// `page` has the viewer, the drawing, and what the page can do.
export function listen(page) {
  document.addEventListener("keydown", (event) => pressed(event, page));
}

function pressed(event, page) {
  const { key, target } = event;
  const isTyped = event.altKey && (key === "[" || key === "]"); // with Option or AltGr, on many keyboards
  if (document.querySelector("dialog[open]") || event.metaKey || ((event.ctrlKey || event.altKey) && !isTyped)) return;
  if (target.closest("input:not([type=checkbox]):not([type=range]), select")) {
    if (key !== "Escape") return;
    event.preventDefault(); // the browser would empty a search field, and the list would not know
    byId("view").focus();
    return;
  }
  const isPress = key === " " || key === "Enter";
  const isOthers = target.closest(isPress ? "button, [type=checkbox]" : "[type=range]") && (isPress || WAYS[key]);
  if (!isOthers && handled(event, page)) event.preventDefault();
}

function handled(event, page) {
  const { key, repeat } = event;
  const { viewer, drawing } = page;
  const name = key.toLowerCase();
  if (key === "?") return byId("help").showModal(), true;
  if (LAYERS[key]) return repeat || page.toggle(LAYERS[key]), true;
  if (key === "+" || key === "=") return viewer.scale(1.4), true;
  if (key === "-") return viewer.scale(1 / 1.4), true;
  if (key === "0") return viewer.fit(), true;
  if (drawing.isOn) {
    if (page.isWorking()) return true; // it is being saved as it is
    if (key === "Escape") return page.cancel(), true;
    if (drawing.key(event)) return true;
    return key === "Enter" ? (repeat || page.keep(), true) : false;
  }
  const way = WAYS[key];
  if (way && event.shiftKey) return viewer.move(-way[0] * MOVE, -way[1] * MOVE), true;
  if (ACTIONS[name]) return repeat || page.decide(ACTIONS[name]), true;
  const isFar = key === "PageDown" || key === "PageUp";
  const step = name === "j" || key === "PageDown" ? 1 : name === "k" || key === "PageUp" ? -1 : way ? way[0] + way[1] : 0;
  if (step) return (repeat && page.isWorking()) || page.go(step, isFar), true; // a held key piles nothing up
  if (key === "/") return byId("text").focus(), true;
  return false;
}
