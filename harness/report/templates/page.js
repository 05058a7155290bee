// The interactive parts of the report: filters, other references, sorting, the records behind a row, and charts.
// The script reads only the data in the page, and inserts names as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE = 100; // rows that one click adds
  const POINTS = 2000; // the most points in a chart
  const BOUNDS = ["", "_low", "_high"];

  function make(kind, text, parent, attributes = {}) {
    const element = document.createElement(kind);
    if (text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (parent) parent.append(element);
    return element;
  }
  const cut = (text, most = 120) => (text.length > most ? `${text.slice(0, most)}…` : text);

  // ---------------------------------------------------------------------------------------------------- data

  const networks = data.networks.map((network) => ({
    ...network,
    rows: network.rows.map((values, place) => {
      const row = { network, place };
      data.fields.forEach((field, column) => (row[field] = values[column]));
      row.options = network.options[place];
      row.text = `${network.title} ${row.label}`.toLowerCase();
      return row;
    }),
  }));

  const state = { network: 0, search: "", hidden: new Map(), reference: null, sort: null, down: false, limit: PAGE };

  const add = (a, b) => (a === null || b === null ? null : Math.hypot(a, b));

  // A row relative to another reference. Its figures are null where the two rows share no reference in one run.
  function rebased(row, base) {
    const result = { ...row };
    if (row === base) {
      result.ratio = row.ratio === null ? null : 1;
      result.difference = row.difference === null ? null : 0;
      for (const name of ["ratio", "difference"]) for (const end of ["_low", "_high"]) result[name + end] = result[name];
      return result;
    }
    for (const end of BOUNDS) result["ratio" + end] = result["difference" + end] = null;
    result.refused = row.reference !== base.reference || row.run === null || row.run !== base.run;
    if (result.refused) return result;
    const known = (name) => row[name] !== null && base[name] !== null;
    const both = (name) => known(name) && known(name + "_low") && known(name + "_high");
    if (known("ratio")) {
      const log = Math.log(row.ratio) - Math.log(base.ratio);
      result.ratio = Math.exp(log);
      if (both("ratio")) {
        const half = add(...[row, base].map((entry) => Math.log(entry.ratio_high / entry.ratio_low) / 2));
        result.ratio_low = Math.exp(log - half);
        result.ratio_high = Math.exp(log + half);
      }
    }
    if (known("difference")) {
      result.difference = row.difference - base.difference;
      if (both("difference")) {
        const half = add(...[row, base].map((entry) => (entry.difference_high - entry.difference_low) / 2));
        result.difference_low = result.difference - half;
        result.difference_high = result.difference + half;
      }
    }
    return result;
  }

  function chosen() {
    const networksShown = state.network === null ? networks : [networks[state.network]];
    const base = state.reference === null ? null : networks[state.network].rows[state.reference];
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    let rows = [];
    for (const network of networksShown)
      for (const row of network.rows) {
        if (!words.every((word) => row.text.includes(word))) continue;
        if (row.options.some((option, axis) => state.hidden.get(network.axes[axis])?.has(option))) continue;
        rows.push(base ? rebased(row, base) : row);
      }
    if (state.sort !== null) {
      const way = state.down ? -1 : 1;
      const key = state.sort;
      rows.sort((a, b) => {
        if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
        return way * (typeof a[key] === "number" ? a[key] - b[key] : String(a[key]).localeCompare(String(b[key])));
      });
    }
    return rows;
  }

  // --------------------------------------------------------------------------------------------------- table

  const number = (value, digits, sign = false) =>
    value === null
      ? "-"
      : (sign && value >= 0 ? "+" : "") +
        value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  function estimate(row, name, digits, sign = false) {
    const text = number(row[name], digits, sign);
    if (row[name] === null || row[`${name}_low`] === null || row[`${name}_high`] === null) return text;
    return `${text} [${number(row[`${name}_low`], digits, sign)}, ${number(row[`${name}_high`], digits, sign)}]`;
  }
  const percent = (value) => (value === null ? "-" : `${number(100 * value, 1)} %`);

  function columns() {
    const all = state.network === null;
    const network = networks[all ? 0 : state.network];
    const quality = (row) => row.network.quality?.digits ?? 4;
    const reference = state.reference === null ? "reference" : "chosen reference";
    const known = (key) => (all ? networks : [network]).some((entry) => entry.rows.some((row) => row[key] !== null));
    const candidates = [
      ["label", "variant", false, null],
      ["quality", all ? "quality" : network.quality?.title ?? "quality", true, (row) => estimate(row, "quality", quality(row))],
      ["difference", `quality - ${reference}`, true, (row) => estimate(row, "difference", quality(row), true)],
      ["ratio", `latency / ${reference}`, true, (row) => estimate(row, "ratio", 3)],
      ["verdict", "verdict", false, (row) => (state.reference === null ? row.verdict || "-" : "-")],
      ["size", all ? "size" : network.size?.title ?? "size", true, (row) => number(row.size, row.network.size?.digits ?? 1)],
      ["size_share", "size / reference", true, (row) => percent(row.size_share)],
      ["parameter_share", "parameters left", true, (row) => percent(row.parameter_share)],
      ["nonzero_share", "nonzero left", true, (row) => percent(row.nonzero_share)],
      ["file", all ? "deployed file" : network.file?.title, true, (row) => number(row.file, row.network.file?.digits ?? 1)],
      ["latency", "latency, us", true, (row) => number(row.latency, 1)],
      ["seeds", "seeds", true, (row) => String(row.seeds)],
    ];
    return candidates.filter(([key]) => !["nonzero_share", "file"].includes(key) || known(key));
  }

  function trace(row) {
    const resolve = (entry) =>
      Object.fromEntries(
        Object.entries(entry).map(([name, value]) => (name.endsWith("@") ? [name.slice(0, -1), data.shared[value]] : [name, value])),
      );
    return JSON.stringify(row.network.traces[row.place].map(resolve), null, 1);
  }

  function tableRow(row, shown) {
    const line = make("tr", null, null, row.label === row.reference ? { class: "reference" } : {});
    const head = make("th", null, line, { scope: "row" });
    const name = state.network === null ? `${row.network.title}: ${row.label}` : row.label;
    const button = make("button", cut(name), head, { type: "button", class: "opens", "aria-expanded": "false" });
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "false";
      button.setAttribute("aria-expanded", open);
      if (!open) return line.nextSibling.remove();
      const below = make("td", null, make("tr", null, null), { colspan: shown.length });
      make("div", trace(row), below, { class: "trace", tabindex: "0", role: "region", "aria-label": "records" });
      line.after(below.parentNode);
    });
    for (const [, , numeric, show] of shown.slice(1)) make("td", cut(show(row)), line, numeric ? { class: "number" } : {});
    return line;
  }

  function drawTable(rows) {
    const [head, body] = [byId("table").tHead, byId("table").tBodies[0]];
    const shown = columns();
    const focused = document.activeElement?.dataset?.column;
    head.replaceChildren();
    const line = make("tr", null, head);
    for (const [key, title, numeric] of shown) {
      const cell = make("th", null, line, { scope: "col", ...(numeric ? { class: "number" } : {}) });
      if (state.sort === key) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      const button = make("button", title, cell, { type: "button", "data-column": key });
      button.addEventListener("click", () => {
        state.down = state.sort === key && !state.down;
        state.sort = key;
        refresh();
      });
      if (focused === key) button.focus();
    }
    body.replaceChildren(...rows.slice(0, state.limit).map((row) => tableRow(row, shown)));
    byId("shown").textContent = `${Math.min(state.limit, rows.length)} of ${rows.length} variants`;
    byId("further").hidden = rows.length <= state.limit;
  }

  // -------------------------------------------------------------------------------------------------- charts

  const views = []; // of the network that is shown
  const theme = {
    background: "transparent",
    font: "system-ui, sans-serif",
    axis: { labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor",
      gridColor: "currentColor", gridOpacity: 0.12, titleFontWeight: 600, titlePadding: 8 },
    legend: { labelColor: "currentColor", titleColor: "currentColor" },
    rule: { color: "currentColor" },
    view: { stroke: null },
  };

  // Frames come before drawings: a chart takes the width that its frame has when it is drawn.
  function frames(charts, parent, source = "") {
    return charts.map((chart) => {
      const figure = make("figure", null, parent);
      make("h3", cut(chart.title), figure);
      const frame = make("div", null, figure, { class: "chart" });
      make("figcaption", `${chart.caption} ${source}`, figure);
      return [chart, frame];
    });
  }

  async function draw(chart, values, frame) {
    const width = frame.clientWidth;
    const narrow = width < 480;
    const turned = (name, value) => (name === "labelAngle" && width < 560 ? -35 : value);
    const spec = { ...JSON.parse(JSON.stringify(chart.spec), turned), width: "container", data: { name: "rows", values } };
    const config = { ...theme, legend: { ...theme.legend, columns: narrow ? 1 : 2, labelLimit: narrow ? 240 : 190 } };
    const actions = { export: true, source: false, compiled: false, editor: false };
    // Log errors only: Vega warns whenever a filter leaves a layer empty.
    const options = { mode: "vega-lite", renderer: "svg", actions, config, tooltip: { maxDepth: 1 }, logLevel: 1 };
    return vegaEmbed(frame, spec, options);
  }

  // The fields of rows, for Vega. Of too many rows, those on the fronts come first.
  const plain = (row) => Object.fromEntries(data.fields.map((field) => [field, row[field]]));
  const FRONTS = ["on the front", "perhaps on the front", "off the front"];
  function points(rows) {
    if (rows.length <= POINTS) return rows.map(plain);
    const rank = (row) => Math.min(...[row.front_latency, row.front_size].map((name) => (FRONTS.indexOf(name) + 4) % 4));
    const ranked = rows.map((row) => [rank(row), row]).sort((a, b) => a[0] - b[0]);
    return ranked.slice(0, POINTS).map((entry) => plain(entry[1]));
  }

  // Networks are drawn one after another, because finalizing a chart that is still being drawn is an error. Of several
  // choices made meanwhile, only the last is drawn.
  let [wanted, drawing] = [0, Promise.resolve()];
  function drawCharts() {
    const turn = ++wanted;
    drawing = drawing.then(async () => {
      if (turn !== wanted) return;
      await Promise.all(views.map((view) => view.runAsync()));
      views.splice(0).forEach((view) => view.finalize());
      const place = byId("live");
      place.replaceChildren();
      const network = state.network === null ? null : networks[state.network];
      byId("charts-network").textContent = network ? cut(network.heading, 400) : "Choose one network to see its charts.";
      for (const [chart, frame] of frames(network?.charts ?? [], place, "The table of results has the figures.")) {
        if (turn !== wanted) return;
        views.push((await draw(chart, points(chosen()), frame)).view);
      }
      if (network && turn === wanted) updateCharts(chosen()); // filters may have changed meanwhile
    });
  }
  function updateCharts(rows) {
    const values = points(rows);
    for (const view of views) view.data("rows", values).runAsync();
  }

  // ------------------------------------------------------------------------------------------------ controls

  function fill(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", cut(text, 80), null, { value })));
  }

  function drawFilters() {
    const place = byId("filters");
    place.replaceChildren();
    const shown = state.network === null ? networks : [networks[state.network]];
    const axes = new Map();
    for (const network of shown)
      network.axes.forEach((axis, column) => {
        const options = axes.get(axis) ?? new Set();
        network.options.forEach((entry) => options.add(entry[column]));
        axes.set(axis, options);
      });
    for (const [axis, options] of axes) {
      if (options.size < 2 || options.size > 40) continue; // for long lists there is the search
      const set = make("fieldset", null, place);
      make("legend", cut(axis, 40), set);
      for (const option of options) {
        const label = make("label", null, set);
        const box = make("input", null, label, { type: "checkbox" });
        box.checked = !state.hidden.get(axis)?.has(option);
        label.append(` ${cut(option, 60)}`);
        box.addEventListener("change", () => {
          if (!state.hidden.has(axis)) state.hidden.set(axis, new Set());
          state.hidden.get(axis)[box.checked ? "delete" : "add"](option);
          state.limit = PAGE;
          refresh();
        });
      }
    }
  }

  function drawReferences() {
    const select = byId("reference");
    const rows = state.network === null ? [] : networks[state.network].rows;
    const able = rows.filter((row) => row.run !== null && row.ratio !== null);
    fill(select, [["", "as measured"], ...able.slice(0, 500).map((row) => [row.place, row.label])]);
    select.disabled = able.length < 2;
  }

  function refresh(network = false) {
    const rows = chosen();
    drawTable(rows);
    byId("rebased").hidden = state.reference === null;
    const refused = rows.filter((row) => row.refused).length;
    byId("status").textContent =
      `${rows.length} of ${(state.network === null ? networks : [networks[state.network]]).reduce((sum, entry) => sum + entry.rows.length, 0)} variants are shown.` +
      (rows.length > POINTS && state.network !== null ? ` Charts show ${POINTS} of them, those on a front first.` : "") +
      (refused ? ` ${refused} have no common reference with the chosen one in one run, so they have no ratio to it.` : "");
    if (network) drawCharts();
    else updateCharts(rows);
  }

  function chooseNetwork(value) {
    state.network = value === "" ? null : Number(value);
    Object.assign(state, { reference: null, sort: null, down: false, limit: PAGE });
    state.hidden.clear();
    drawReferences();
    drawFilters();
    refresh(true);
  }

  byId("network").addEventListener("change", (event) => chooseNetwork(event.target.value));
  byId("reference").addEventListener("change", (event) => {
    state.reference = event.target.value === "" ? null : Number(event.target.value);
    refresh();
  });
  byId("search").addEventListener("input", (event) => {
    state.search = event.target.value;
    state.limit = PAGE;
    refresh();
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").addEventListener("reset", () => {
    state.search = "";
    setTimeout(() => {
      byId("network").value = networks.length ? "0" : "";
      chooseNetwork(byId("network").value);
    });
  });
  byId("further").addEventListener("click", () => {
    state.limit += PAGE;
    drawTable(chosen());
  });

  // --------------------------------------------------------------------------------------------------- theme

  const THEMES = { "": "system", light: "light", dark: "dark" };
  function setTheme(name) {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    byId("theme").textContent = `Theme: ${THEMES[name]}`;
  }
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length]);
  });

  // Print folded sections too. Afterwards, fold them again and let the charts return to the window's width.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open]):not(.chart details)")];
    folded.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => {
    folded.forEach((details) => (details.open = false));
    dispatchEvent(new Event("resize"));
  });

  byId("theme").hidden = false;
  byId("explore").hidden = false;
  byId("live-results").hidden = false;
  byId("static-results").remove();
  fill(byId("network"), [...networks.map((network, place) => [place, network.title]), ["", "all networks"]]);
  setTheme("");
  chooseNetwork(networks.length ? "0" : "");
  const fixed = frames(data.trainings, byId("trainings"));
  data.sections.forEach((charts, place) => {
    fixed.push(...frames(charts, byId(`section${place + 1}-charts`), "The tables below have the figures."));
  });
  for (const [chart, frame] of fixed) draw(chart, chart.values, frame);
})();
