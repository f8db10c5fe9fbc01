// SPDX-License-Identifier: Apache-2.0
// What the page knows, and what is to be drawn of it: all that needs no document.
"use strict";

const COLOURS = 8;
const KEEP_SAMPLES = 600;
const KEEP_SPANS_S = 3600;
const ROWS = 12;

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

if (typeof document === "undefined") module.exports = { size, percent, seconds, events, nothing, copyOf, addSample, addSpans, giveColours, stacks, lanes, since, wordsAt, sorted, note, keeper };
