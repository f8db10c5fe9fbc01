// SPDX-License-Identifier: Apache-2.0
// The page: loads what is known, follows the stream, draws. Names are users' words: they go into the
// page as text alone (textContent, fillText), and nothing here makes markup of a text.
"use strict";

const COLOURS = 8;
const KEEP_SAMPLES = 600;
const KEEP_SPANS_S = 3600;
const ROWS = 12;
const SILENT_MS = 10000;

// ---- pure: numbers and texts

function size(bytes) {
  if (bytes === null || bytes === undefined) return "-";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes, at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${value >= 100 || value === Math.round(value) ? value.toFixed(0) : value.toFixed(1)} ${units[at]}`;
}

function percent(ratio) {
  return ratio === null || ratio === undefined ? "-" : `${(100 * ratio).toFixed(1)} %`;
}

function seconds(value) {
  if (value < 1000) return `${value.toFixed(1)} s`;
  return value < 60000 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(0)} h`;
}

// What is whole of a stream's text: [events, rest]. An event: {event, data}, and retry where it is told.
function events(text) {
  const parts = text.split("\n\n");
  const rest = parts.pop();
  const found = [];
  for (const part of parts) {
    const event = { event: "message", data: "" };
    for (const line of part.split("\n")) {
      const colon = line.indexOf(":");
      if (colon < 1) continue;
      const name = line.slice(0, colon), value = line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") event.data += value;
      else if (name === "event") event.event = value;
      else if (name === "retry" && /^[0-9]+$/.test(value)) event.retry = Number(value);
    }
    found.push(event);
  }
  return [found, rest];
}

// ---- pure: what is known, and what is to be drawn of it

function nothing() {
  return { epoch: "", state: null, last: 0, samples: [], spans: new Map(), names: new Map(), slots: new Map() };
}

function copyOf(known) {
  return {
    ...known, samples: [...known.samples], spans: new Map(known.spans), names: new Map(known.names), slots: new Map(known.slots),
  };
}

function addSample(known, sample) {
  if (sample.n <= known.last) return;
  known.last = sample.n;
  known.samples.push(sample);
  if (known.samples.length > KEEP_SAMPLES) known.samples.splice(0, known.samples.length - KEEP_SAMPLES);
  addSpans(known, sample.spans || [], sample.at_s);
}

function addSpans(known, spans, now) {
  for (const span of spans) known.spans.set(`${span[0]}/${span[1]}/${span[2]}`, span);
  for (const [key, span] of known.spans) if (span[3] < now - KEEP_SPANS_S) known.spans.delete(key);
}

// Colours stay with their tenant; who has ended and is out of the picture leaves his to another.
function giveColours(known) {
  const shown = new Set(known.state ? known.state.tenants.map((tenant) => tenant.series) : []);
  for (const sample of known.samples) for (const point of sample.points) shown.add(point[0]);
  for (const span of known.spans.values()) shown.add(span[0]);
  for (const series of known.slots.keys()) if (!shown.has(series)) known.slots.delete(series);
  for (const series of known.names.keys()) if (!shown.has(series)) known.names.delete(series);
  const taken = new Set(known.slots.values());
  const living = known.state ? known.state.tenants.map((tenant) => tenant.series) : [];
  for (const series of [...living, ...[...shown].sort((a, b) => b - a)]) {
    if (known.slots.has(series)) continue;
    for (let slot = 0; slot < COLOURS; slot += 1) {
      if (!taken.has(slot)) { known.slots.set(series, slot); taken.add(slot); break; }
    }
  }
}

// Columns of a stacked chart: for each sample its time and [series or null, value], null: all others.
function stacks(known, gpu, field, begin, end) {
  const columns = [];
  for (const sample of known.samples) {
    if (sample.at_s < begin || sample.at_s - sample.span_s > end) continue;
    const parts = [];
    let rest = 0, unknown = false;
    for (const point of sample.points) {
      if (point[1] !== gpu) continue;
      if (point[field] === null) unknown = true;
      else if (known.slots.has(point[0])) parts.push([point[0], point[field]]);
      else rest += point[field];
    }
    parts.sort((a, b) => a[0] - b[0]);
    if (rest > 0) parts.push([null, rest]);
    const used = sample.used_bytes[gpu];
    columns.push({ begin: sample.at_s - sample.span_s, end: sample.at_s, parts, unknown, used: used === undefined ? null : used });
  }
  return columns;
}

// Rows of the timeline: who had most of the GPU in the window, each with its spans.
function lanes(known, gpu, begin, end) {
  const rows = new Map();
  for (const span of known.spans.values()) {
    if (span[1] !== gpu || span[3] < begin || span[2] > end) continue;
    if (!rows.has(span[0])) rows.set(span[0], { series: span[0], used: 0, spans: [] });
    const row = rows.get(span[0]);
    row.used += span[4];
    row.spans.push(span);
  }
  const found = [...rows.values()].sort((a, b) => b.used - a.used);
  return { rows: found.slice(0, ROWS).sort((a, b) => a.series - b.series), more: Math.max(0, found.length - ROWS) };
}

// From when on something is known.
function since(known) {
  const first = known.samples.length ? known.samples[0].at_s - known.samples[0].span_s : Infinity;
  return [...known.spans.values()].reduce((least, span) => Math.min(least, span[2]), first);
}

// What marks ([begin, end, words]) say of a moment: all of them, or the newest; "" is nothing.
function wordsAt(marks, at, from, several) {
  if (at < from || from === Infinity) return "no sample yet";
  const there = marks.filter((mark) => mark[0] < at && at <= mark[1]).map((mark) => mark[2]);
  return several ? there.join("; ") : there.pop() || "";
}

const COLUMNS = [
  ["name", "Tenant", "text", (t) => t.name],
  ["user", "User", "text", (t) => t.user],
  ["gpu", "GPU", "", (t) => t.uses.map((u) => (u.gpu === null ? "?" : u.gpu)).join(",")],
  ["class", "Class", "text", (t) => t.class],
  ["gets", "Gets", "", (t) => mean(t.uses.map((u) => u.used_ratio))],
  ["asked", "Asked", "", (t) => t.share_ratio],
  ["cap", "Cap", "", (t) => t.limit_ratio],
  ["memory", "Memory", "", (t) => sum(t.uses.map((u) => u.mem_bytes))],
  ["limit", "Limit each", "", (t) => t.mem_limit_bytes],
  ["wait", "Waited", "", (t) => sum(t.uses.map((u) => u.wait_s))],
  ["refused", "Refused", "", (t) => sum(t.uses.map((u) => u.denials))],
  ["processes", "Processes", "", (t) => t.processes.length],
  ["note", "State", "text", note],
];
const SHOWN = { gets: percent, asked: percent, cap: percent, memory: size, limit: size, wait: seconds };

function sum(values) { return values.reduce((all, one) => all + one, 0); }

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? sum(known) / known.length : null;
}

function note(tenant) {
  const words = [];
  if (tenant.suspended) words.push("suspended");
  for (const use of tenant.uses) {
    if (use.residency !== "resident" && !tenant.suspended) words.push(`memory ${use.residency}`);
    if (use.mem_over_limit_bytes) words.push(`${size(use.mem_over_limit_bytes)} over its limit`);
  }
  if (tenant.lease) words.push("lease");
  if (!tenant.processes.length) words.push("no GPU use yet");
  return words.join(", ");
}

function sorted(tenants, by, down) {
  const value = COLUMNS.find((column) => column[0] === by)[3];
  return [...tenants].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return a.series - b.series;
    if (x === null || y === null) return x === null ? 1 : -1; // what is not known comes last
    const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return down ? -order : order;
  });
}

// Try for ever, one try at a time. A try tells the ms until the next ones: null: as before; 0: the next
// alone, at once; undefined: there is none.
function keeper(trial, pause) {
  const kept = { running: false };
  kept.run = async () => {
    if (kept.running) return;
    kept.running = true;
    let retry = 2000, hurried = false;
    try {
      for (;;) {
        const told = await trial();
        if (told === undefined) return;
        if (told) retry = told;
        hurried = told === 0 && !hurried;
        await pause(hurried ? 0 : retry);
      }
    } finally {
      kept.running = false;
    }
  };
  return kept;
}

// ---- the page

function start() {
  const $ = (id) => document.getElementById(id);
  const view = {
    live: nothing(), // what the stream tells
    known: nothing(), // what is shown: the same, or a copy while paused
    paused: false, token: "", sort: "gets", down: true, chosen: null, cursors: new Map(),
  };
  let frame = 0;

  const clock = (at) => new Date(1000 * at).toLocaleTimeString();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const nameOf = (series) => (series === null ? "others" : view.known.names.get(series) || `(${series})`);
  const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function colourOf(series) {
    const slot = view.known.slots.get(series);
    return colour(slot === undefined ? "--rest" : `--c${slot}`);
  }

  // -- the stream

  const head = () => (view.token ? { Authorization: `Bearer ${view.token}` } : {});

  async function get(path, signal) {
    const answer = await fetch(path, { headers: head(), cache: "no-store", signal });
    if (answer.status === 401) throw new Error("401");
    if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
    return answer;
  }

  async function load(signal) {
    const [state, told] = await Promise.all(
      ["api/v1/state", "api/v1/samples"].map(async (path) => (await get(path, signal)).json()));
    if (state.epoch !== told.epoch) throw new Error("harpd began anew");
    const known = nothing();
    known.epoch = told.epoch;
    for (const [series, one] of Object.entries(told.series)) known.names.set(Number(series), one.name);
    for (const sample of told.samples) addSample(known, sample);
    addSpans(known, told.spans, known.samples.length ? known.samples[known.samples.length - 1].at_s : 0);
    if (view.live.epoch === told.epoch) known.slots = view.live.slots;
    view.live = known;
    if (!view.paused) view.known = known;
    takeState(state);
  }

  function takeState(state) {
    view.live.state = state;
    for (const tenant of state.tenants) if (tenant.series !== null) view.live.names.set(tenant.series, tenant.name);
  }

  async function follow(control) {
    let retry = null, rest = "", alive = 0;
    const answer = await get(`api/v1/events?since=${view.live.last}`, control.signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const heard = () => { clearTimeout(alive); alive = setTimeout(() => control.abort(), SILENT_MS); };
    try {
      for (;;) {
        heard();
        const { done, value } = await reader.read();
        if (done) return retry;
        const [found, left] = events(rest + value);
        rest = left;
        for (const event of found) {
          if (event.retry) retry = event.retry;
          if (event.event === "state") {
            const state = JSON.parse(event.data);
            if (state.epoch !== view.live.epoch) return 0;
            takeState(state);
          } else if (event.event === "sample") addSample(view.live, JSON.parse(event.data));
        }
        put($("link"), view.paused ? "paused" : "live");
        later();
      }
    } finally {
      clearTimeout(alive);
      control.abort();
    }
  }

  const tries = keeper(async () => {
    const control = new AbortController();
    try {
      await load(control.signal);
      $("door").hidden = true;
      $("main").hidden = false;
      later();
      const told = await follow(control);
      put($("link"), "the connection ended; trying again");
      return told;
    } catch (error) {
      if (error.message === "401") return ask();
      put($("link"), `no connection (${error.name === "AbortError" ? "silent" : error.message}); trying again`);
      return null;
    } finally {
      control.abort();
    }
  }, (ms) => new Promise((done) => setTimeout(done, ms)));

  function ask() {
    put($("refused"), view.token ? "That is not its token." : "");
    put($("link"), "a token is needed");
    $("main").hidden = true;
    $("door").hidden = false;
    $("token").focus();
  }

  // -- what is drawn

  function later() {
    if (!view.paused && !frame) frame = requestAnimationFrame(() => { frame = 0; draw(); });
  }

  function draw() {
    const { known } = view, { state } = known;
    if (!state) return;
    giveColours(known);
    const software = state.devices.some((device) => device.kind === "software");
    document.title = `HARP ${state.node}`;
    put($("node"), state.node);
    $("software").hidden = !software;
    put($("about"), `harpd ${state.version} on ${state.node}; read-only; one sample each ${state.period_s} s`);
    const alarms = state.arbiter_up ? [] : ["harp-arbiter does not answer: what is shown is its last answer"];
    $("alarm").hidden = !alarms.length;
    put($("alarm"), alarms.join("; "));
    drawDevices(state);
    drawTenants(state);
    drawLists(state);
  }

  function drawDevices(state) {
    const box = $("devices");
    const here = new Set(state.devices.map((device) => device.uuid));
    for (const card of [...box.children]) if (!here.has(card.dataset.uuid)) card.remove();
    for (const device of state.devices) {
      let card = [...box.children].find((one) => one.dataset.uuid === device.uuid);
      if (!card) {
        card = $("device").content.firstElementChild.cloneNode(true);
        card.dataset.uuid = device.uuid;
        for (const canvas of card.querySelectorAll("canvas")) steer(canvas);
        box.append(card);
      }
      put(card.querySelector("h2"), `GPU ${device.gpu}: ${device.name}${device.kind === "software" ? " (software)" : ""}`);
      put(card.querySelector(".facts"),
        `${size(device.used_bytes)} of ${size(device.memory_bytes)} in use, ${size(device.promised_bytes)} and ` +
        `${percent(device.promised_ratio)} of its time promised; driver ${device.driver_version}`);
      drawCharts(card, device);
    }
  }

  function drawCharts(card, device) {
    const { known } = view;
    const end = known.samples.length ? known.samples[known.samples.length - 1].at_s : 0;
    const begin = end - Number($("window").value);
    const time = stacks(known, device.gpu, 2, begin, end);
    const memory = stacks(known, device.gpu, 3, begin, end);
    stacked(card.querySelector(".time canvas"), time, begin, end, 1, percent, `GPU ${device.gpu}, time`);
    stacked(card.querySelector(".memory canvas"), memory, begin, end, device.memory_bytes, size, `GPU ${device.gpu}, memory`, "in use by anybody");
    timeline(card.querySelector(".held canvas"), lanes(known, device.gpu, begin, end), begin, end, `GPU ${device.gpu}, who held it`);
  }

  // Sized to its place and the screen's dots; returns what draws, and the box inside.
  function prepare(canvas, height) {
    const dots = window.devicePixelRatio || 1, width = canvas.clientWidth;
    if (height) canvas.style.height = `${height}px`;
    const tall = height || canvas.clientHeight;
    if (canvas.width !== Math.round(width * dots)) canvas.width = Math.round(width * dots);
    if (canvas.height !== Math.round(tall * dots)) canvas.height = Math.round(tall * dots);
    const pen = canvas.getContext("2d");
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, width, tall);
    pen.font = "11px system-ui, sans-serif";
    const snap = (at) => Math.round(at * dots) / dots; // neighbours meet at a dot, or a seam would show
    return { pen, snap, box: { x: 58, y: 6, w: Math.max(1, width - 64), h: tall - 24 } };
  }

  function axes(pen, box, begin, end) {
    pen.fillStyle = colour("--soft");
    pen.textBaseline = "top";
    for (const [part, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
      pen.textAlign = align;
      pen.fillText(clock(begin + part * (end - begin)), box.x + part * box.w, box.y + box.h + 4);
    }
  }

  function stacked(canvas, columns, begin, end, top, format, what, line) {
    const { pen, snap, box } = prepare(canvas, 0);
    const x = (at) => snap(box.x + (box.w * (Math.min(Math.max(at, begin), end) - begin)) / (end - begin));
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      const y = box.y + box.h * (1 - part);
      pen.strokeStyle = colour("--line");
      pen.beginPath(); pen.moveTo(box.x, y + 0.5); pen.lineTo(box.x + box.w, y + 0.5); pen.stroke();
      pen.fillStyle = colour("--soft");
      pen.fillText(format(part * top), box.x - 5, y);
    }
    const paint = new Map();
    for (const column of columns) {
      const left = x(column.begin), right = Math.max(x(column.end), left + 1);
      let below = 0;
      for (const [series, value] of column.parts) {
        if (!paint.has(series)) paint.set(series, colourOf(series));
        const low = Math.min(1, below / top), high = Math.min(1, (below + value) / top);
        pen.globalAlpha = view.chosen === null || view.chosen === series ? 1 : 0.25;
        pen.fillStyle = paint.get(series);
        pen.fillRect(left, box.y + box.h * (1 - high), right - left, box.h * (high - low));
        below += value;
      }
    }
    pen.globalAlpha = 1;
    if (line) {
      pen.strokeStyle = colour("--ink");
      pen.beginPath();
      columns.filter((column) => column.used !== null).forEach((column, at) => {
        const y = box.y + box.h * (1 - Math.min(1, column.used / top));
        if (!at) pen.moveTo(x(column.begin), y);
        pen.lineTo(x(column.end), y);
      });
      pen.stroke();
    }
    axes(pen, box, begin, end);
    const tell = (column) => {
      const parts = column.parts.filter((part) => part[1] > 0).map(([series, value]) => `${nameOf(series)} ${format(value)}`);
      if (line && column.used !== null) parts.push(`${line} ${format(column.used)}`);
      return `${clock(column.end)}: ${parts.join(", ") || (column.unknown ? "not measured yet" : "nobody")}`;
    };
    cursor(canvas, pen, box, begin, end, what, columns.map((column) => [column.begin, column.end, tell(column)]));
  }

  function timeline(canvas, found, begin, end, what) {
    const step = 20, rows = found.rows;
    const { pen, box } = prepare(canvas, 30 + step * Math.max(1, rows.length));
    const gap = Math.min(150, box.w / 3);
    box.x += gap - 52;
    box.w = Math.max(1, box.w - gap + 52);
    const x = (at) => box.x + (box.w * (Math.min(Math.max(at, begin), end) - begin)) / (end - begin);
    pen.textBaseline = "middle";
    rows.forEach((row, at) => {
      const y = box.y + at * step;
      pen.fillStyle = colour("--soft");
      pen.textAlign = "right";
      pen.fillText(short(nameOf(row.series), 22), box.x - 6, y + step / 2);
      pen.fillStyle = colourOf(row.series);
      for (const span of row.spans) {
        const ratio = Math.min(1, span[4] / Math.max(1e-9, span[3] - span[2]));
        pen.globalAlpha = (0.2 + 0.8 * ratio) * (view.chosen === null || view.chosen === row.series ? 1 : 0.3);
        const left = x(span[2]);
        pen.fillRect(left, y + 3, Math.max(1, x(span[3]) - left), step - 6);
      }
      pen.globalAlpha = 1;
    });
    axes(pen, box, begin, end);
    const marks = new Map();
    for (const row of rows) {
      for (const span of row.spans) {
        const text = `${nameOf(row.series)} ${clock(span[2])} to ${clock(span[3])}, ${percent(span[4] / Math.max(1e-9, span[3] - span[2]))}`;
        marks.set(`${span[2]}/${row.series}`, [span[2], span[3], text]);
      }
    }
    const ordered = [...marks.values()].sort((a, b) => a[0] - b[0]);
    cursor(canvas, pen, box, begin, end, found.more ? `${what}; ${found.more} more` : what, ordered, true);
  }

  const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // The place that the reader points at, by pointer or arrow keys, and what is there in words.
  function cursor(canvas, pen, box, begin, end, what, marks, several) {
    const at = view.cursors.get(canvas);
    canvas.view = { box, begin, end, marks };
    const said = wordsAt(marks, at === undefined ? end : at, since(view.known), several)
      || `${clock(at === undefined ? end : at)}: nobody`;
    if (at !== undefined) {
      const px = box.x + (box.w * (at - begin)) / (end - begin);
      if (px >= box.x && px <= box.x + box.w) {
        pen.strokeStyle = colour("--ink");
        pen.beginPath(); pen.moveTo(px, box.y); pen.lineTo(px, box.y + box.h); pen.stroke();
      }
    }
    const out = canvas.parentElement.querySelector("output");
    put(out, said);
    canvas.setAttribute("aria-label", `${what}. ${said}`);
    canvas.dataset.drawn = String(marks.length);
  }

  function steer(canvas) {
    const out = canvas.parentElement.querySelector("output");
    const set = (at) => {
      // What changes each second is read out to nobody; what is asked for by a key is.
      out.setAttribute("aria-live", at === undefined ? "off" : "polite");
      if (at === undefined) view.cursors.delete(canvas);
      else view.cursors.set(canvas, at);
      draw();
    };
    canvas.addEventListener("pointermove", (event) => {
      const { box, begin, end } = canvas.view || {};
      if (box) set(begin + ((end - begin) * (event.offsetX - box.x)) / box.w);
    });
    canvas.addEventListener("pointerleave", () => set(undefined));
    canvas.addEventListener("blur", () => set(undefined));
    canvas.addEventListener("keydown", (event) => {
      const { begin, end } = canvas.view || {};
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
      if (begin === undefined) return;
      const now = view.cursors.get(canvas);
      if (event.key === "Escape") set(undefined);
      else if (event.key === "Home") set(begin);
      else if (event.key === "End") set(end);
      else if (event.key in moves) {
        const next = (now === undefined ? end : now) + (moves[event.key] * (end - begin)) / 100;
        set(Math.min(end, Math.max(begin, next)));
      } else return;
      event.preventDefault();
    });
  }

  // -- tables

  function drawColumns() {
    for (const [id, title, kind] of COLUMNS) {
      const cell = make("th", kind);
      cell.scope = "col";
      cell.dataset.column = id;
      const button = make("button", "", title);
      button.type = "button";
      button.addEventListener("click", () => {
        view.down = view.sort === id ? !view.down : kind !== "text";
        view.sort = id;
        draw();
      });
      cell.append(button);
      $("columns").append(cell);
    }
  }

  function drawTenants(state) {
    for (const cell of $("columns").children) {
      cell.setAttribute("aria-sort", cell.dataset.column !== view.sort ? "none" : view.down ? "descending" : "ascending");
    }
    const rows = new Map([...$("rows").children].map((row) => [row.dataset.series, row]));
    const order = [];
    for (const tenant of sorted(state.tenants, view.sort, view.down)) {
      const key = String(tenant.series);
      const row = rows.get(key) || newRow(tenant.series);
      rows.delete(key);
      const slot = view.known.slots.get(tenant.series);
      row.className = view.chosen === tenant.series ? "chosen" : "";
      row.querySelector(".swatch").className = slot === undefined ? "swatch" : `swatch s${slot}`;
      const button = row.querySelector("button");
      button.setAttribute("aria-pressed", String(view.chosen === tenant.series));
      COLUMNS.forEach(([id, , , value], at) => {
        const told = value(tenant);
        const text = id in SHOWN ? SHOWN[id](told) : String(told);
        put(at ? row.children[at] : button, text);
      });
      row.children[0].title = tenant.name;
      order.push(row);
    }
    for (const row of rows.values()) row.remove();
    if (rows.has(String(view.chosen))) view.chosen = null;
    // A row is moved only where it has to be: who has the focus keeps it.
    order.forEach((row, at) => { if ($("rows").children[at] !== row) $("rows").insertBefore(row, $("rows").children[at] || null); });
    $("nobody").hidden = state.tenants.length > 0;
  }

  function newRow(series) {
    const row = make("tr");
    row.dataset.series = String(series);
    COLUMNS.forEach(([, , kind], at) => {
      const cell = make(at ? "td" : "th", kind);
      if (!at) {
        cell.scope = "row";
        const button = make("button");
        button.type = "button";
        button.addEventListener("click", () => { view.chosen = view.chosen === series ? null : series; draw(); });
        cell.append(make("span", "swatch"), button);
      }
      row.append(cell);
    });
    return row;
  }

  function list(box, texts) {
    while (box.children.length > texts.length) box.lastElementChild.remove();
    while (box.children.length < texts.length) box.append(make("li"));
    texts.forEach((text, at) => put(box.children[at], text));
  }

  function drawLists(state) {
    const leases = state.tenants.filter((tenant) => tenant.lease);
    $("sessions").hidden = !leases.length;
    list($("leases"), leases.map((tenant) =>
      `${tenant.name}: ${tenant.processes.length} workers, since ${clock(tenant.created_s)}, ` +
      `${percent(mean(tenant.uses.map((use) => use.used_ratio)))} of its GPU's time`));
    $("evaders").hidden = !state.uncovered.length;
    list($("uncovered"), state.uncovered.map((one) =>
      `process ${one.pid} (${one.program}) of ${one.user}, ${one.tenant ? `tenant ${one.tenant}` : "outside HARP"}: ` +
      `${size(one.mem_bytes)} on GPU ${one.gpu === null ? "?" : one.gpu}, ${one.action}`));
    const { estimates } = state;
    put($("mode"), `mode: ${estimates.mode}`);
    const rows = estimates.targets.length ? estimates.targets : [{ target: "nothing yet", judged: 0 }];
    while ($("targets").children.length > rows.length) $("targets").lastElementChild.remove();
    rows.forEach((one, at) => {
      const row = $("targets").children[at] || $("targets").appendChild(make("tr"));
      const texts = [one.target, String(one.judged), percent(one.coverage_ratio), percent(one.confidence_ratio), percent(one.saved_ratio)];
      texts.forEach((text, place) => put(row.children[place] || row.appendChild(make(place ? "td" : "th")), text));
    });
    list($("pools"), estimates.pools.map((pool) =>
      `GPU ${pool.gpu}: ${percent(pool.buffer_ratio)} kept free for the unforeseen` +
      (pool.reserved_bytes === null ? "" : `, ${size(pool.reserved_bytes)} typically needed`)));
  }

  drawColumns();
  $("window").addEventListener("change", draw);
  $("pause").addEventListener("click", () => {
    view.paused = !view.paused;
    view.known = view.paused ? copyOf(view.live) : view.live;
    $("pause").setAttribute("aria-pressed", String(view.paused));
    put($("pause"), view.paused ? "Go on" : "Pause");
    put($("link"), view.paused ? "paused" : "live");
    later();
  });
  $("door").addEventListener("submit", (event) => {
    event.preventDefault();
    if (tries.running) return; // Enter twice: the field is empty already
    view.token = $("token").value.trim();
    $("token").value = "";
    tries.run();
  });
  window.addEventListener("resize", later);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  tries.run();
}

if (typeof document !== "undefined") start();
else module.exports = { size, percent, seconds, events, nothing, copyOf, addSample, addSpans, giveColours, stacks, lanes, since, wordsAt, sorted, note, keeper };
