// Redrawing a mask with brush, eraser, polygon or a box for the model; by pointer or by keys alone.
//
// What was drawn is a list of steps over the mask it began with, so a step back draws the others again.

import { COLORS } from "./canvas.js";
import { blank, counts, paint } from "./masks.js";

const COLOR = `rgb(${COLORS.mask.join(" ")})`;
const FAR = 8; // times the small step, with Shift
export const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Drawing {
  // `propose` takes a box [x, y, width, height] and a signal, and gives a mask or null; `changed` is called when tools or steps change.
  constructor(viewer, { propose, changed }) {
    this.viewer = viewer;
    this.propose = propose;
    this.changed = changed;
    this.isOn = false;
    this.tool = "brush";
    this.share = 20; // size of the brush, 1 to 100
    const { canvas } = viewer;
    canvas.addEventListener("pointerdown", (event) => this.pressed(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerup", (event) => this.released(event));
    canvas.addEventListener("pointercancel", (event) => this.released(event));
    canvas.addEventListener("dblclick", () => this.isOn && this.fill(true));
  }

  start(mask) {
    this.isOn = true;
    this.base = mask;
    this.steps = [];
    this.forget();
    const [height, width] = this.viewer.size;
    this.cursor = [width / 2, height / 2];
    this.redo();
  }

  stop() {
    this.isOn = false;
    this.forget();
    this.viewer.draft = null;
    this.viewer.canvas.classList.remove("drawing");
    this.viewer.render();
  }

  // The mask as it is now, as run lengths.
  get counts() {
    return counts(this.viewer.layers.mask);
  }

  // What is begun and not in the mask yet, in words; "" = nothing.
  get begun() {
    if (this.asking) return "The model has not answered yet. Wait for it, or take the box back with Z.";
    if (!this.points.length) return "";
    if (this.tool === "propose") return "The box has one corner. Set the other one, or take it back with Z.";
    return this.points.length > 2
      ? "The polygon is not filled. Enter fills it, Shift+Enter cuts it out, Z takes a corner back."
      : "The polygon has too few corners. Set more, or take them back with Z.";
  }

  // Drop what is begun: corners, a stroke, a question to the model.
  forget() {
    this.points = [];
    this.stroke = null;
    this.takeBack();
  }

  takeBack() {
    this.asking?.abort();
    this.asking = null;
  }

  get radius() {
    return Math.max(1, (Math.max(...this.viewer.size) * this.share ** 2) / 20000);
  }

  use(tool) {
    if (tool !== this.tool) this.forget();
    this.tool = tool;
    this.show();
  }

  resize(share) {
    this.share = Math.min(100, Math.max(1, share));
    this.show();
  }

  clear() {
    this.forget();
    this.add({ kind: "clear" });
  }

  back() {
    if (this.asking) this.takeBack();
    else if (this.points.length) this.points.pop();
    else this.steps.pop();
    this.stroke = null;
    this.redo();
  }

  add(step) {
    this.steps.push(step);
    this.apply(step);
    this.show();
  }

  redo() {
    const [height, width] = this.viewer.size;
    this.viewer.layers.mask = blank(height, width);
    if (this.base) paint(this.viewer.layers.mask, this.base, COLORS.mask);
    this.steps.forEach((step) => this.apply(step));
    this.show();
  }

  apply(step) {
    const canvas = this.viewer.layers.mask;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (step.kind === "clear" || step.kind === "mask") context.clearRect(0, 0, canvas.width, canvas.height);
    if (step.kind === "mask") paint(canvas, step.mask, COLORS.mask);
    if (step.kind === "clear" || step.kind === "mask") return;
    context.globalCompositeOperation = step.adds ? "source-over" : "destination-out";
    context.fillStyle = context.strokeStyle = COLOR;
    context.beginPath();
    step.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (step.kind === "polygon") {
      context.fill();
    } else {
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = 2 * step.radius;
      if (step.points.length === 1) context.lineTo(step.points[0][0], step.points[0][1] + 0.01);
      context.stroke();
    }
    context.globalCompositeOperation = "source-over";
  }

  // Take the corners as an area of the object, or cut it out.
  fill(adds) {
    const { points } = this;
    if (this.tool !== "polygon" || points.length < 3) return false;
    this.points = [];
    this.add({ kind: "polygon", adds, points });
    return true;
  }

  corner() {
    this.takeBack();
    this.points.push(this.cursor);
    if (this.tool === "propose" && this.points.length === 2) {
      const [[x1, y1], [x2, y2]] = this.points;
      this.points = [];
      const box = [Math.min(x1, x2), Math.min(y1, y2), Math.abs(x2 - x1), Math.abs(y2 - y1)];
      if (box[2] >= 1 && box[3] >= 1) this.ask(box);
    }
    this.show();
  }

  // Ask the model for the mask in a box. Whatever is drawn meanwhile takes the question back.
  async ask(box) {
    const asking = new AbortController();
    this.asking = asking;
    const mask = await this.propose(box, asking.signal);
    if (asking.signal.aborted) return;
    this.asking = null;
    if (mask) this.add({ kind: "mask", mask });
  }

  // Draw a straight piece of the running stroke, without drawing the rest of it again.
  extend(point) {
    const last = this.stroke.points[this.stroke.points.length - 1];
    this.stroke.points.push(point);
    this.apply({ ...this.stroke, points: [last, point] });
  }

  begin() {
    this.stroke = { kind: "stroke", adds: this.tool === "brush", radius: this.radius, points: [this.cursor] };
    this.steps.push(this.stroke);
    this.apply(this.stroke);
  }

  pressed(event) {
    const { viewer } = this;
    viewer.canvas.setPointerCapture(event.pointerId);
    const isMove = !this.isOn || event.button !== 0;
    this.held = { isMove, x: event.clientX, y: event.clientY };
    if (isMove) return;
    this.cursor = viewer.point(event);
    if (this.tool === "brush" || this.tool === "eraser") this.begin();
    else if (this.tool === "propose") this.points = [this.cursor];
    this.show();
  }

  moved(event) {
    const { viewer, held } = this;
    if (held?.isMove) {
      viewer.move(event.clientX - held.x, event.clientY - held.y);
      Object.assign(held, { x: event.clientX, y: event.clientY });
    }
    if (!this.isOn) return;
    this.cursor = viewer.point(event);
    if (held && !held.isMove && this.stroke) this.extend(this.cursor);
    this.show();
  }

  released(event) {
    const { held } = this;
    this.held = null;
    if (!this.isOn || !held || held.isMove) return;
    this.cursor = this.viewer.point(event);
    this.stroke = null;
    if (event.type === "pointerup" && (this.tool === "polygon" || this.tool === "propose")) this.corner();
    this.show();
  }

  // Take a key; returns whether it was one of the drawing's.
  key(event) {
    const step = Math.max(1, 4 / this.viewer.zoom) * (event.shiftKey ? FAR : 1);
    const way = WAYS[event.key];
    if (way) {
      const [height, width] = this.viewer.size;
      const [x, y] = this.cursor;
      this.cursor = [
        Math.min(width, Math.max(0, x + way[0] * step)),
        Math.min(height, Math.max(0, y + way[1] * step)),
      ];
      if (this.stroke) this.extend(this.cursor);
      this.viewer.follow(this.cursor);
      this.show();
      return true;
    }
    if (event.key === " ") {
      if (event.repeat) return true;
      if (this.tool === "polygon" || this.tool === "propose") this.corner();
      else if (this.stroke) this.stroke = null;
      else this.begin();
      this.show();
      return true;
    }
    if (event.key === "Enter") return this.fill(!event.shiftKey);
    const tools = { b: "brush", e: "eraser", p: "polygon", m: "propose" };
    const name = event.key.toLowerCase();
    if (tools[name]) this.use(tools[name]);
    else if (name === "z") this.back();
    else if (name === "c") this.clear();
    else if (name === "[") this.resize(this.share - 4);
    else if (name === "]") this.resize(this.share + 4);
    else return false;
    return true;
  }

  show() {
    if (!this.isOn) return;
    const paints = this.tool === "brush" || this.tool === "eraser";
    const { tool, points, cursor } = this;
    const corners = tool === "propose" && points.length === 1 ? boxOf(points[0], cursor) : points;
    const isClosed = tool === "propose";
    this.viewer.draft = { points: corners, isClosed, cursor, radius: paints ? this.radius : 0 };
    this.viewer.canvas.classList.add("drawing");
    this.viewer.render();
    this.changed();
  }
}

// The corners of a box on the way to the cursor; the last one is the cursor itself.
const boxOf = ([x, y], [right, bottom]) => [[x, bottom], [x, y], [right, y]];
