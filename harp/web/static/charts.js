// SPDX-License-Identifier: Apache-2.0
// The charts, and the words for the place in them that a reader points at. Names are users' words: they go
// onto the page as text alone (textContent, fillText).
"use strict";

const clock = (at) => new Date(1000 * at).toLocaleTimeString();
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// What draws on canvases: of `view` (page.js) what is known; `again` draws all of the page anew.
function charts(view, again) {
  const nameOf = (series) => (series === null ? "others" : view.known.names.get(series) || `(${series})`);

  function colourOf(series) {
    const slot = view.known.slots.get(series);
    return colour(slot === undefined ? "--rest" : `--c${slot}`);
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
      again();
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

  return { stacked, timeline, steer };
}
