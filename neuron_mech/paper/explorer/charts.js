"use strict";
// Drawing: every function takes a canvas and plain numbers, and draws in the page's own colours.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

// A canvas ready to be drawn on in CSS pixels, with the plot's frame: {c, left, right, top, bottom, x, y}.
function plot(canvas, height, [x0, x1], [y0, y1], labels) {
  const width = canvas.clientWidth || 320, ratio = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio);
  c.font = "12px system-ui, sans-serif";
  const frame = { c, left: 44, right: width - 10, top: 8, bottom: height - 34 };
  frame.x = (v) => frame.left + (v - x0) / (x1 - x0 || 1) * (frame.right - frame.left);
  frame.y = (v) => frame.bottom - (v - y0) / (y1 - y0 || 1) * (frame.bottom - frame.top);
  c.strokeStyle = colour("line");
  c.fillStyle = colour("soft");
  c.lineWidth = 1;
  c.beginPath();
  c.moveTo(frame.left, frame.top);
  c.lineTo(frame.left, frame.bottom);
  c.lineTo(frame.right, frame.bottom);
  c.stroke();
  c.textAlign = "center";
  for (const [v, text] of labels.x) c.fillText(text, Math.min(frame.x(v), frame.right - 8), frame.bottom + 14);
  c.fillText(labels.title, (frame.left + frame.right) / 2, height - 4);
  c.textAlign = "right";
  for (const [v, text] of labels.y) c.fillText(text, frame.left - 5, frame.y(v) + 4);
  return frame;
}

function dotted(f, x, y0, y1) {
  f.c.save();
  f.c.setLineDash([2, 3]);
  f.c.strokeStyle = colour("soft");
  f.c.beginPath();
  f.c.moveTo(f.x(x), f.y(y0));
  f.c.lineTo(f.x(x), f.y(y1));
  f.c.stroke();
  f.c.restore();
}

function bars(f, edges, heights, fill, alpha) {
  f.c.save();
  f.c.globalAlpha = alpha;
  f.c.fillStyle = fill;
  heights.forEach((h, i) => {
    const left = f.x(edges[i]), right = f.x(edges[i + 1]);
    f.c.fillRect(left + .5, f.y(h), Math.max(right - left - 1, .5), f.bottom - f.y(h));
  });
  f.c.restore();
}

function line(f, xs, ys, stroke, width, dash) {
  f.c.save();
  f.c.setLineDash(dash || []);
  f.c.strokeStyle = stroke;
  f.c.lineWidth = width;
  f.c.beginPath();
  let on = false;
  xs.forEach((x, i) => {
    if (ys[i] === null || Number.isNaN(ys[i])) { on = false; return; }
    if (on) f.c.lineTo(f.x(x), f.y(ys[i])); else f.c.moveTo(f.x(x), f.y(ys[i]));
    on = true;
  });
  f.c.stroke();
  f.c.restore();
}

function signChart(canvas, counts) {
  const most = Math.max(...counts, 1), n = counts.length, edges = counts.map((_, i) => -1 + 2 * i / n).concat(1);
  const short = (v) => v >= 1e6 ? (v / 1e6).toFixed(1) + "M" : v >= 1e4 ? Math.round(v / 1e3) + "k" : String(Math.round(v));
  const f = plot(canvas, 170, [-1.03, 1.03], [0, most * 1.08], {
    x: [[-1, "−1"], [-.5, "−0.5"], [0, "0"], [.5, "0.5"], [1, "1"]], y: [[0, "0"], [most, short(most)]],
    title: "average sign" });
  const half = n / 2;
  bars(f, edges.slice(0, half + 1), counts.slice(0, half), colour("high-fill"), 1);
  bars(f, edges.slice(half), counts.slice(half), colour("low-fill"), 1);
  for (const edge of [-.9, .9]) dotted(f, edge, 0, most);
}

function classChart(canvas, shares) {
  const n = shares.length, edges = Array.from({ length: n + 1 }, (_, i) => i);
  const every = Math.ceil(n / 12);
  const f = plot(canvas, 170, [0, n], [0, 1], {
    x: edges.slice(0, n).filter((i) => i % every === 0).map((i) => [i + .5, String(i)]),
    y: [[0, "0 %"], [.5, "50 %"], [1, "100 %"]], title: "class" });
  bars(f, edges, shares.map((s) => Number.isNaN(s) ? 0 : 1), colour("high-fill"), .25);
  bars(f, edges, shares.map((s) => Number.isNaN(s) ? 0 : s), colour("low-fill"), 1);
}

function learningChart(canvas, epochs, auc, band, now) {
  const all = [...auc, ...band[0], ...band[1]].filter((v) => !Number.isNaN(v));
  const low = Math.min(.45, ...all), last = epochs[epochs.length - 1] || 1;
  const f = plot(canvas, 190, [0, last], [low, 1], {
    x: [[0, "0"], [last / 2, String(Math.round(last / 2))], [last, String(Math.round(last))]],
    y: [[.5, "0.5"], [.75, "0.75"], [1, "1"]], title: "epoch" });
  f.c.fillStyle = colour("line");
  f.c.beginPath();
  epochs.forEach((e, i) => f.c.lineTo(f.x(e), f.y(band[0][i])));
  for (let i = epochs.length - 1; i >= 0; i--) f.c.lineTo(f.x(epochs[i]), f.y(band[1][i]));
  f.c.fill();
  line(f, epochs, auc, colour("ink"), 2);
  dotted(f, epochs[now], low, 1);
  f.c.fillStyle = colour("link");
  f.c.beginPath();
  f.c.arc(f.x(epochs[now]), f.y(auc[now]), 4.5, 0, 7);
  f.c.fill();
}

function valueChart(canvas, range, low, high) {
  const n = low.length, edges = Array.from({ length: n + 1 }, (_, i) => range[0] + (range[1] - range[0]) * i / n);
  const marks = [edges[0], 0, edges[n]].filter((v, i) => i !== 1 || (range[0] < 0 && range[1] > 0));
  const f = plot(canvas, 190, range, [0, 1.05], {
    x: marks.map((v) => [v, v === 0 ? "0" : v.toPrecision(2)]), y: [], title: "pre-activation" });
  bars(f, edges, high, colour("high-fill"), .6);
  bars(f, edges, low, colour("low-fill"), .6);
  if (range[0] < 0 && range[1] > 0) dotted(f, 0, 0, 1);
}

function windowChart(canvas, windows) {
  const f = plot(canvas, 190, [0, 100], [0, 1], {
    x: [[0, "0"], [50, "50"], [100, "100"]], y: [[0, "0 %"], [.5, "50 %"], [1, "100 %"]],
    title: "rank of the window's middle" });
  const looks = { trained: [colour("ink"), 2.5, []], untrained: [colour("soft"), 1.5, []], projection: [colour("soft"), 1.5, [5, 4]] };
  let row = 0;
  for (const [source, accuracy] of Object.entries(windows.accuracy)) {
    const [stroke, width, dash] = looks[source] || looks.untrained;
    line(f, windows.centers, accuracy, stroke, width, dash);
    const y = f.bottom - 46 + 15 * row++;
    line({ c: f.c, x: (v) => v, y: (v) => v }, [f.left + 10, f.left + 34], [y - 4, y - 4], stroke, width, dash);
    f.c.fillStyle = colour("soft");
    f.c.textAlign = "left";
    f.c.fillText({ trained: "trained", untrained: "untrained", projection: "random projection" }[source] || source, f.left + 40, y);
  }
  line(f, [0, 100], [windows.chance, windows.chance], colour("soft"), 1, [1, 3]);
}

// One cell a neuron: blue where its average sign is negative, orange where it is positive, paler where it wavers.
function stripChart(canvas, values, chosen) {
  const width = canvas.parentElement.clientWidth - 2, columns = Math.max(16, Math.min(values.length, Math.floor(width / 9)));
  const rows = Math.ceil(values.length / columns), cell = Math.floor(width / columns);
  const c = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
  canvas.style.width = cell * columns + "px";
  canvas.style.height = cell * rows + "px";
  canvas.width = cell * columns * ratio;
  canvas.height = cell * rows * ratio;
  c.scale(ratio, ratio);
  values.forEach((v, i) => {
    const x = i % columns * cell, y = Math.floor(i / columns) * cell;
    c.fillStyle = v === -128 ? colour("line") : colour(v > 0 ? "low-fill" : "high-fill");
    c.globalAlpha = v === -128 ? 1 : Math.max(.08, Math.abs(v) / 100);
    c.fillRect(x, y, cell - 1, cell - 1);
    if (i === chosen) {
      c.globalAlpha = 1;
      c.strokeStyle = colour("ink");
      c.lineWidth = 2;
      c.strokeRect(x + 1, y + 1, cell - 3, cell - 3);
    }
  });
  canvas.grid = { columns, cell };
}
