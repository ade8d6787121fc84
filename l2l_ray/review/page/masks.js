// Masks as run lengths, background first, down the columns, and as canvases whose alpha is the mask.

const HALF = 128; // strokes have smooth edges; a pixel belongs to the mask from here on

export function blank(height, width) {
  const canvas = document.createElement("canvas");
  canvas.height = height;
  canvas.width = width;
  return canvas;
}

// Draw a mask in one color over a canvas of its size; only the columns that it touches are made.
export function paint(canvas, mask, [red, green, blue]) {
  const { height, counts } = mask;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const area = counts.reduce((sum, run, i) => sum + (i % 2 ? run : 0), 0);
  if (!area) return;
  const first = Math.floor(counts[0] / height);
  let end = 0;
  let last = 0;
  counts.forEach((run, i) => {
    end += run;
    if (i % 2 && run) last = Math.floor((end - 1) / height);
  });
  const width = last - first + 1;
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const color = (255 << 24) | (blue << 16) | (green << 8) | red;
  let at = -first * height;
  counts.forEach((run, i) => {
    if (i % 2) {
      for (let p = at; p < at + run; p++) words[(p % height) * width + Math.floor(p / height)] = color;
    }
    at += run;
  });
  const part = blank(height, width);
  part.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(part, first, 0);
}

export function counts(canvas) {
  const { width, height } = canvas;
  const data = canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height).data;
  const runs = [];
  let inside = false;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x * 4 + 3; y < height; y++, at += width * 4) {
      if (data[at] >= HALF !== inside) {
        runs.push(length);
        length = 0;
        inside = !inside;
      }
      length++;
    }
  }
  runs.push(length);
  return runs;
}

export const area = (mask) => mask.counts.reduce((sum, run, i) => sum + (i % 2 ? run : 0), 0);
