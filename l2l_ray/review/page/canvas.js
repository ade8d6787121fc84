// The photo with what lies on it, zoomed and moved. Lengths are pixels of the masks ("edit size") unless they say screen.

import { blank, paint } from "./masks.js";

export const COLORS = { mask: [255, 45, 149], prior: [30, 120, 255], teacher: [240, 170, 0] };
const OPACITY = 0.42;
const MOST_ZOOM = 40; // screen pixels per pixel
const EDGE = 1.6; // screen pixels

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.layers = { mask: null, prior: null, teacher: null };
    this.shown = { mask: true, box: true, prior: false, teacher: false };
    this.boxes = [];
    this.draft = null; // what is being drawn: { points, closed, cursor, radius }
    this.picture = null;
    this.size = [1, 1]; // height, width
    this.isFit = true;
    this.asked = false;
    new ResizeObserver(() => this.resized()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    this.resized();
  }

  // Show nothing, until the next photo is there.
  close() {
    this.picture = null;
    this.boxes = [];
    this.layers = { mask: null, prior: null, teacher: null };
    this.isFit = true;
    this.render();
  }

  // Show a photo, or the same one sharper.
  open(picture, size, boxes) {
    this.picture = picture;
    this.size = size;
    this.boxes = boxes;
    if (this.isFit) this.fit();
    this.render();
  }

  layer(name, mask) {
    this.layers[name] = null;
    if (mask) {
      this.layers[name] = blank(mask.height, mask.width);
      paint(this.layers[name], mask, COLORS[name]);
    }
    this.render();
  }

  resized() {
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * this.ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * this.ratio));
    if (this.isFit) this.fit();
    this.render();
  }

  fit() {
    const [height, width] = this.size;
    this.zoom = Math.min(this.canvas.width / width, this.canvas.height / height) * 0.97;
    this.left = (this.canvas.width - width * this.zoom) / 2;
    this.top = (this.canvas.height - height * this.zoom) / 2;
    this.isFit = true;
    this.render();
  }

  // Zoom, and keep a point of the screen where it is; the middle if none is given.
  scale(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const zoom = Math.min(MOST_ZOOM * this.ratio, Math.max(0.01, this.zoom * factor));
    this.left = x - ((x - this.left) * zoom) / this.zoom;
    this.top = y - ((y - this.top) * zoom) / this.zoom;
    this.zoom = zoom;
    this.isFit = false;
    this.render();
  }

  move(dx, dy) {
    this.left += dx * this.ratio;
    this.top += dy * this.ratio;
    this.isFit = false;
    this.render();
  }

  // Bring a point into view, as a cross that is moved by keys needs it.
  follow([x, y]) {
    const margin = 30 * this.ratio;
    const at = [x * this.zoom + this.left, y * this.zoom + this.top];
    const inner = [this.canvas.width - margin, this.canvas.height - margin];
    const dx = Math.max(0, margin - at[0]) - Math.max(0, at[0] - inner[0]);
    const dy = Math.max(0, margin - at[1]) - Math.max(0, at[1] - inner[1]);
    if (dx || dy) this.move(dx / this.ratio, dy / this.ratio);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.ratio - this.left) / this.zoom;
    const y = ((event.clientY - box.top) * this.ratio - this.top) / this.zoom;
    return [Math.min(this.size[1], Math.max(0, x)), Math.min(this.size[0], Math.max(0, y))];
  }

  // Whether the photo is shown larger than the picture of it that is here.
  get isCoarse() {
    return this.picture !== null && this.picture.width < this.size[1] && this.zoom * this.size[1] > this.picture.width * 1.2;
  }

  wheeled(event) {
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) * this.ratio;
    const y = (event.clientY - box.top) * this.ratio;
    this.scale(Math.exp(-event.deltaY * 0.0015), x, y);
  }

  render() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const [height, width] = this.size;
    if (this.picture === null) return;
    context.imageSmoothingEnabled = this.zoom < 4;
    this.place(context);
    context.drawImage(this.picture, 0, 0, width, height);
    for (const name of ["prior", "teacher", "mask"]) {
      if (this.layers[name] && this.shown[name]) this.tint(context, name);
    }
    this.place(context);
    if (this.shown.box) {
      for (const [x1, y1, x2, y2] of this.boxes) {
        this.line(context, [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], true, COLORS.prior);
      }
    }
    if (this.draft) this.drawDraft(context);
    this.sharpen?.();
  }

  place(context) {
    context.setTransform(this.zoom, 0, 0, this.zoom, this.left, this.top);
  }

  // A mask as a tint with an edge; the edge is the mask moved by a little in each direction, less the mask.
  tint(context, name) {
    const there = blank(this.canvas.height, this.canvas.width);
    const inner = there.getContext("2d");
    inner.imageSmoothingEnabled = false;
    this.place(inner);
    inner.drawImage(this.layers[name], 0, 0, this.size[1], this.size[0]);
    const edge = blank(this.canvas.height, this.canvas.width);
    const outer = edge.getContext("2d");
    const far = EDGE * this.ratio;
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1], [0.7, 0.7], [-0.7, 0.7], [0.7, -0.7], [-0.7, -0.7]]) {
      outer.drawImage(there, dx * far, dy * far);
    }
    outer.globalCompositeOperation = "destination-out";
    outer.drawImage(there, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = OPACITY;
    context.drawImage(there, 0, 0);
    context.globalAlpha = 1;
    context.drawImage(edge, 0, 0);
  }

  line(context, points, isClosed, [red, green, blue], isDashed = true) {
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (isClosed) context.closePath();
    const wide = this.ratio / this.zoom;
    context.setLineDash([]);
    context.lineWidth = 3.5 * wide;
    context.strokeStyle = "rgb(255 255 255 / .8)";
    context.stroke();
    if (isDashed) context.setLineDash([6 * wide, 4 * wide]);
    context.lineWidth = 2 * wide;
    context.strokeStyle = `rgb(${red} ${green} ${blue})`;
    context.stroke();
    context.setLineDash([]);
  }

  drawDraft(context) {
    const { points, isClosed, cursor, radius } = this.draft;
    const wide = this.ratio / this.zoom;
    if (points.length) this.line(context, [...points, cursor], isClosed, COLORS.mask, false);
    for (const [x, y] of points) {
      context.fillStyle = "white";
      context.fillRect(x - 3 * wide, y - 3 * wide, 6 * wide, 6 * wide);
    }
    const [x, y] = cursor;
    const arm = 9 * wide;
    for (const [color, width] of [["white", 3], ["black", 1]]) {
      context.strokeStyle = color;
      context.lineWidth = width * wide;
      context.beginPath();
      context.moveTo(x - arm, y);
      context.lineTo(x + arm, y);
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
      context.stroke();
      if (radius) {
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }
}
