// SPDX-License-Identifier: Apache-2.0
// The page: loads what is known (known.js), follows the stream, draws (charts.js). Names are users' words: they
// go into the page as text alone (textContent), and nothing here makes markup of a text.
"use strict";

const SILENT_MS = 10000;

function start() {
  const $ = (id) => document.getElementById(id);
  const view = {
    live: nothing(), // what the stream tells
    known: nothing(), // what is shown: the same, or a copy while paused
    paused: false, token: "", sort: "gets", down: true, chosen: null, cursors: new Map(),
  };
  let frame = 0;
  const { stacked, timeline, steer } = charts(view, draw);

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
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

start();
