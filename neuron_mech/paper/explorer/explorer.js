// The page: what is chosen, what follows from it, and what the reader does.
const $ = (id) => document.getElementById(id), percent = (v) => (100 * v).toFixed(0) + " %";
const MISSING = -128, SHOWN = 48, COLUMNS = 50;
const state = { site: 0, at: 0, order: "number", time: 0, sample: null, kept: null };
let head, data, sheet = null, sorted = [];

// The header, and by name a function of a neuron's row that gives its part of an array.
async function unpack() {
  const text = atob($("data").textContent.trim()), bytes = Uint8Array.from(text, (ch) => ch.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const kinds = { int8: Int8Array, uint8: Uint8Array, float32: Float32Array };
  data = {};
  for (const [name, { at, shape, type }] of Object.entries(head.arrays)) {
    const width = shape.slice(1).reduce((a, b) => a * b, 1);
    const whole = new kinds[type](buffer, 4 + length + at, shape[0] * width);
    data[name] = (row) => whole.subarray(row * width, (row + 1) * width);
    data[name].shape = shape;
  }
  let first = 0;
  for (const site of head.sites) { site.first = first; first += site.neurons.length; }
}

const site = () => head.sites[state.site], row = () => site().first + state.at, number = () => site().neurons[state.at];
const one = (name, r) => data[name] ? data[name](r)[0] : NaN;
const lastAuc = (r) => data.auc ? data.auc(r)[data.auc.shape[1] - 1] : NaN;

// The first moment from which the separation stays within 0.03 of where it ends; null where it never separates.
function settled(auc) {
  const end = auc[auc.length - 1];
  if (Number.isNaN(end) || end < .55) return null;
  let at = auc.length - 1;
  while (at > 0 && Math.abs(auc[at - 1] - end) <= .03) at--;
  return at;
}

function orders() {
  const known = { number: ["number", (r, i) => i, (r) => "" ] };
  const measure = (name, text, of, show) => { known[name] = [text, of, show]; };
  const constancy = (r) => percent(one("neuron_constancy", r)) + " constant";
  if (data.neuron_constancy) {
    known.number[2] = constancy;
    measure("constant", "most constant first", (r) => -one("neuron_constancy", r), constancy);
    measure("wavering", "least constant first", (r) => one("neuron_constancy", r), constancy);
    const low = (r) => percent(one("neuron_low_share", r)) + " low";
    measure("balanced", "most balanced first", (r) => Math.abs(one("neuron_low_share", r) - .5), low);
    measure("lopsided", "most lopsided first", (r) => -Math.abs(one("neuron_low_share", r) - .5), low);
  }
  if (data.auc) measure("apart", "most separated first", (r) => -lastAuc(r), (r) => "AUC " + lastAuc(r).toFixed(2));
  if (data.low_share) {
    for (let k = 0; k < data.low_share.shape[1]; k++) {
      measure("low" + k, `class ${k} most wholly down`, (r) => -data.low_share(r)[k], (r) => percent(data.low_share(r)[k]) + " low");
      measure("high" + k, `class ${k} most wholly up`, (r) => data.low_share(r)[k], (r) => percent(1 - data.low_share(r)[k]) + " high");
    }
  }
  return known;
}

function list() {
  const [, of, show] = orders()[state.order], { first, neurons } = site();
  const key = neurons.map((_, i) => { const v = of(first + i, i); return Number.isNaN(v) ? Infinity : v; });
  sorted = neurons.map((_, i) => i).sort((a, b) => key[a] - key[b] || a - b);
  $("list").replaceChildren(...sorted.map((i) => {
    const item = document.createElement("li");
    item.role = "option";
    item.id = "n" + i;
    item.innerHTML = "<span></span><span></span>";
    item.firstChild.textContent = neurons[i];
    item.lastChild.textContent = show(first + i);
    item.onclick = () => choose(state.site, i);
    return item;
  }));
}

function thumbnails(where, members) {
  const tile = sheet ? Math.max(24, Math.min(64, sheet.tile * Math.max(1, Math.round(40 / sheet.tile)))) : 30;
  $(where).replaceChildren(...members.slice(0, SHOWN).map((s) => {
    const button = document.createElement("button"), picture = document.createElement("i");
    button.type = "button";
    button.dataset.sample = s;
    button.classList.toggle("kept", s === state.kept);
    button.title = `image ${head.samples[s]}, class ${head.labels[s]}: average sign ${(data.signs(row())[s] / 100).toFixed(2)}`;
    button.setAttribute("aria-label", button.title);
    if (sheet) {
      Object.assign(picture.style, { width: tile + "px", height: tile * sheet.ratio + "px",
        backgroundSize: `${COLUMNS * tile}px auto`,
        backgroundPosition: `-${s % COLUMNS * tile}px -${Math.floor(s / COLUMNS) * tile * sheet.ratio}px` });
    } else Object.assign(picture.style, { width: tile + "px", height: "2px" });
    button.append(picture, String(head.labels[s]));
    button.onmouseenter = button.onfocus = () => look(s);
    button.onmouseleave = button.onblur = () => look(state.kept);
    button.onclick = () => { state.kept = state.kept === s ? null : s; look(s); mark(); };
    return button;
  }));
}

const mark = () => document.querySelectorAll(".sheet button").forEach((b) => b.classList.toggle("kept", Number(b.dataset.sample) === state.kept));

// One image in all neurons.
function look(s) {
  state.sample = s;
  $("sample-title").textContent = s === null ? "One image in all neurons" : `Image ${head.samples[s]}, class ${head.labels[s]}, in all neurons`;
  head.sites.forEach((of, k) => {
    const strip = $("strips").children[k], values = of.neurons.map((_, i) => s === null ? MISSING : data.signs(of.first + i)[s]);
    const seen = values.filter((v) => v !== MISSING), down = seen.filter((v) => v > 0).length;
    strip.firstChild.textContent = of.label + (seen.length ? `: pushed down by ${down} of ${seen.length} neurons` : s === null ? "" : ": not recorded");
    strip.lastChild.setAttribute("aria-label", strip.firstChild.textContent);
    stripChart(strip.lastChild, values, k === state.site ? state.at : -1);
  });
}

function learning() {
  $("learning-part").hidden = !data.auc;
  if (!data.auc) return;
  const auc = Array.from(data.auc(row())), { first, neurons } = site(), band = [[], []];
  head.epochs.forEach((_, m) => {
    const all = neurons.map((_, i) => data.auc(first + i)[m]).filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
    band[0].push(all[Math.floor(.25 * (all.length - 1))]);
    band[1].push(all[Math.floor(.75 * (all.length - 1))]);
  });
  learningChart($("auc"), head.epochs, auc, band, state.time);
  const epoch = head.epochs[state.time], now = auc[state.time];
  $("auc").setAttribute("aria-label", `AUC over training: ${auc[0].toFixed(2)} at the start, ${auc[auc.length - 1].toFixed(2)} at the end`);
  $("when").textContent = `at epoch ${epoch < 10 ? epoch.toFixed(1) : Math.round(epoch)} (AUC ${now.toFixed(2)})`;
  $("time").setAttribute("aria-valuetext", $("when").textContent);
  $("values-figure").hidden = !data.values;
  if (!data.values) return;
  const [, moments, , n] = data.values.shape, all = data.values(row()), part = (k) => Array.from(all.subarray((2 * state.time + k) * n, (2 * state.time + k + 1) * n), (v) => v / 255);
  valueChart($("values"), Array.from(data.edges(row())), part(0), part(1));
  $("values").setAttribute("aria-label", `values of low and high samples ${$("when").textContent}, moment ${state.time + 1} of ${moments}`);
}

function sentence(signs) {
  const seen = signs.filter((v) => v !== MISSING), down = seen.filter((v) => v > 0).length;
  const said = [`Of ${seen.length.toLocaleString("en")} images shown here it pushes ${down.toLocaleString("en")} down.`];
  if (data.neuron_constancy) said.push(`${percent(one("neuron_constancy", row()))} of its signs are constant.`);
  if (data.auc) {
    const auc = Array.from(data.auc(row())), at = settled(auc), end = auc[auc.length - 1];
    said.push(at === null ? `Its two categories hardly come apart (AUC ${end.toFixed(2)} at the end).`
      : `It settled by epoch ${head.epochs[at].toFixed(1)}: from then on the AUC stays within 0.03 of its end, ${end.toFixed(2)}.`);
  }
  return said.join(" ");
}

function codes() {
  const windows = site().windows, r = row(), rank = one("best_rank", r), bit = one("bit", r), whole = one("whole", r);
  $("codes-part").hidden = !windows && Number.isNaN(rank);
  $("windows-figure").hidden = !windows;
  if (windows) {
    windowChart($("windows"), windows);
    $("windows").setAttribute("aria-label", "test accuracy through windows of " + site().label);
  }
  $("codes-said").textContent = Number.isNaN(rank) ? "" : `This neuron's best threshold has ${rank.toFixed(0)} % of the images below it. ` +
    `Which side of it an image lies on says ${bit.toFixed(2)} bits about its label; its whole value says ${whole.toFixed(2)}.`;
}

function draw() {
  const signs = Array.from(data.signs(row())), order = signs.map((_, s) => s).filter((s) => signs[s] !== MISSING);
  $("title").textContent = `Neuron ${number()} of ${site().label}`;
  $("said").textContent = sentence(signs);
  $("neuron").value = number();
  const counts = data.neuron_histogram ? Array.from(data.neuron_histogram(row())) : Array.from({ length: 20 }, (_, b) => order.filter((s) => Math.min(19, Math.floor((signs[s] + 100) / 10)) === b).length);
  signChart($("signs"), counts);
  $("signs").setAttribute("aria-label", "histogram of average signs: " + $("said").textContent);
  $("classes-figure").hidden = !data.low_share;
  if (data.low_share) {
    classChart($("classes"), Array.from(data.low_share(row())));
    $("classes").setAttribute("aria-label", "share pushed down by class: " + Array.from(data.low_share(row()), (v, k) => `${k} ${percent(v)}`).join(", "));
  }
  const low = order.filter((s) => signs[s] > 0).sort((a, b) => signs[b] - signs[a] || a - b);
  const high = order.filter((s) => signs[s] < 0).sort((a, b) => signs[a] - signs[b] || a - b);
  thumbnails("low", low);
  thumbnails("high", high);
  $("low-title").textContent = `Pushed down (low): ${low.length}` + (low.length > SHOWN ? `, the ${SHOWN} most constant` : "");
  $("high-title").textContent = `Pushed up (high): ${high.length}` + (high.length > SHOWN ? `, the ${SHOWN} most constant` : "");
  document.querySelectorAll("#sites button").forEach((b, k) => b.setAttribute("aria-pressed", String(k === state.site)));
  document.querySelectorAll("#list li").forEach((li) => li.setAttribute("aria-selected", String(li.id === "n" + state.at)));
  $("list").setAttribute("aria-activedescendant", "n" + state.at);
  const chosen = $("n" + state.at), box = $("list");
  if (chosen.offsetTop < box.scrollTop || chosen.offsetTop > box.scrollTop + box.clientHeight - 30) box.scrollTop = chosen.offsetTop - box.clientHeight / 2;
  learning();
  codes();
  look(state.kept);
}

function choose(k, i) {
  const changed = k !== state.site;
  state.site = k;
  state.at = Math.max(0, Math.min(i, site().neurons.length - 1));
  if (changed) list();
  history.replaceState(null, "", `#${site().name}:${number()}`);
  draw();
}

const step = (by) => choose(state.site, sorted[Math.max(0, Math.min(sorted.length - 1, sorted.indexOf(state.at) + by))]);

// Where the address names a neuron, such as #dense2:17.
function linked() {
  const [, name, index] = decodeURIComponent(location.hash).match(/^#(.*):(\d+)$/) || [], k = head.sites.findIndex((of) => of.name === name);
  const at = k < 0 ? -1 : head.sites[k].neurons.indexOf(Number(index));
  return at < 0 ? null : [k, at];
}

function listen() {
  $("sites").replaceChildren(...head.sites.map((of, k) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = of.label;
    button.onclick = () => choose(k, head.sites[k].neurons.length > state.at ? state.at : 0);
    return button;
  }));
  $("strips").replaceChildren(...head.sites.map((of, k) => {
    const strip = document.createElement("div"), canvas = document.createElement("canvas");
    strip.className = "strip";
    canvas.role = "img";
    canvas.onclick = (event) => {
      const { columns, cell } = canvas.grid, i = Math.floor(event.offsetY / cell) * columns + Math.floor(event.offsetX / cell);
      if (i < of.neurons.length) choose(k, i);
    };
    strip.append(document.createElement("span"), canvas);
    return strip;
  }));
  $("order").replaceChildren(...Object.entries(orders()).map(([name, [text]]) => new Option(text, name)));
  $("order").onchange = () => { state.order = $("order").value; list(); choose(state.site, sorted[0]); };
  $("neuron").onchange = () => {
    const at = site().neurons.indexOf(Number($("neuron").value));
    if (at >= 0) choose(state.site, at); else $("neuron").value = number();
  };
  if (data.auc) {
    $("time").max = head.epochs.length - 1;
    $("time").value = state.time = head.epochs.length - 1;
    $("time").oninput = () => { state.time = Number($("time").value); learning(); };
  }
  document.addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT"].includes(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[event.key];
    const page = ["ArrowUp", "ArrowDown", "PageUp", "PageDown"].includes(event.key) && event.target !== $("list");
    if (by && !page) { event.preventDefault(); step(by); }
  });
  window.addEventListener("hashchange", () => { const to = linked(); if (to) choose(...to); });
  let width = innerWidth;
  window.addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

async function begin() {
  await unpack();
  if (head.sheet) {
    const picture = new Image();
    picture.src = head.sheet.url;
    await picture.decode();
    const tile = picture.naturalWidth / COLUMNS, rows = Math.ceil(head.samples.length / COLUMNS);
    sheet = { tile, ratio: picture.naturalHeight / rows / tile };
    const style = document.createElement("style");  // said once, not at every image
    style.textContent = `.sheet i { background-image: url(${head.sheet.url}); }`;
    document.head.append(style);
  }
  $("wait").hidden = true;
  $("main").hidden = false;
  listen();
  const to = linked() || [head.sites.length - 1, 0];
  state.site = to[0];
  state.at = to[1];
  list();
  choose(...to);
}
begin().catch((error) => { $("wait").textContent = "This page could not be unpacked: " + error; throw error; });
