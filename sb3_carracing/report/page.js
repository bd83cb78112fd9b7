"use strict";
// Draws the report from the JSON in #data. No library, no network.
const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777", "#0891b2", "#65a30d", "#475569"];
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const ROAD_WIDTH = 13.3, CAR = [2.2, 4.4], FRAMES_PER_SECOND = 50;
const report = document.getElementById("report");

// --- elements and numbers -----------------------------------------------------------------------------------------------
function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle", "rect"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}
function section(title, ...children) {
  const node = element("section", {}, element("h2", {}, title), ...children);
  report.append(node);
  return node;
}
function chip(run) { return element("span", {class: "chip", style: `background:${COLORS[run % COLORS.length]}`}); }
function number(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)} k`;
  if (size && size < 0.01) return value.toExponential(1).replace(".0e", "e");
  return size < 0.1 ? `${+value.toFixed(3)}` : `${+value.toFixed(digits)}`;
}
const percent = share => `${Math.round(100 * share)} %`;
function table(columns, rows, name = "") {
  const numeric = columns.map((_, i) => rows.some(row => typeof row[i] === "number"));
  const cell = (tag, value, i) => element(tag, numeric[i] ? {class: "number"} : {},
    value instanceof Node ? value : typeof value === "number" ? number(value) : value ?? "–");
  return element("div", {class: `scroll card ${name}`}, element("table", {},
    element("thead", {}, element("tr", {}, ...columns.map((column, i) => cell("th", column, i)))),
    element("tbody", {}, ...rows.map(row => element("tr", row.differs ? {class: "differs"} : {}, ...row.map((v, i) => cell("td", v, i)))))));
}
function color(unit) {
  const place = Math.min(Math.max(unit, 0), 1) * (RAMP.length - 1), i = Math.min(Math.floor(place), RAMP.length - 2);
  return `rgb(${RAMP[i].map((low, k) => Math.round(low + (place - i) * (RAMP[i + 1][k] - low)))})`;
}
function ticks(low, high, n = 4) {
  const rough = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(factor => factor * power >= rough) * power;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) found.push(value);
  return found;
}

function powers(low, high) { // ticks of a logarithmic axis: powers of ten, with twos and fives if they are few
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) found.push(...(high - low < 2 ? [1, 2, 5] : [1]).map(factor => factor * 10 ** power));
  return found.filter(value => Math.log10(value) >= low && Math.log10(value) <= high);
}

// --- summary ------------------------------------------------------------------------------------------------------------
function summary() {
  const names = data.runs.map(run => run.name);
  document.title = `Report: ${names.join(", ")}`;
  report.append(element("h1", {}, names.length === 1 ? names[0] : `${names.length} runs compared`),
    element("p", {class: "soft"}, `Written by sb3-carracing ${data.version} on ${data.date}. This file loads nothing from the network.`));
  data.runs.forEach((run, i) => {
    const last = key => run.curves[key] ? run.curves[key].y.at(-1) : undefined;
    const best = run.curves.evaluation ? Math.max(...run.curves.evaluation.y) : undefined;
    const longest = run.curves.kl ?? run.curves.score ?? run.curves.evaluation;
    const newest = run.evaluations[0];
    const facts = [
      ["score", newest ? `${number(newest.mean)} ± ${number(newest.std)}` : "–"],
      ["tracks", newest?.n_episodes], ["laps finished", newest ? percent(newest.laps_finished) : undefined],
      ["best validation", best], ["last training score", last("score")],
      [longest ? longest.x_name : "steps", longest ? longest.x.at(-1) : run.steps], ["seed", run.seed],
    ].filter(([, value]) => value !== undefined && value !== null);
    report.append(element("div", {class: "card", style: "margin-top:12px"},
      element("h3", {}, chip(i), `${run.name}: ${run.algorithm} on ${run.environment}`),
      element("div", {class: "facts"}, ...facts.map(([label, value]) => element("div", {},
        element("b", {}, typeof value === "number" ? (label === "seed" ? `${value}` : number(value)) : value), element("span", {class: "soft"}, label)))),
      element("p", {class: "soft"}, run.folder)));
  });
  const signs = data.runs.flatMap((run, i) => run.signs.map(sign => [i, run, sign]));
  const logged = data.runs.some(run => Object.keys(run.curves).length);
  const title = key => data.panels.find(panel => panel[0] === key)[1];
  section("Warning signs", signs.length
    ? element("div", {class: "card signs"}, ...signs.map(([i, run, sign]) => element("p", {}, chip(i), element("b", {}, `${title(sign.panel)}: `),
      `${sign.text} From ${number(sign.x[0])} ${run.curves[sign.panel].x_name} on.`)))
    : element("div", {class: "card good"}, logged
      ? "None found in entropy, concentration, KL, clip fraction, explained variance, gradient norm and validation."
      : "There are no logs to look at: the run folder holds no progress.csv, evaluations.csv or monitor.csv."));
}

// --- curves -------------------------------------------------------------------------------------------------------------
function curves() {
  const panels = data.panels.filter(([key]) => data.runs.some(run => run.curves[key]));
  if (panels.length) section("Curves", element("p", {class: "soft"}, "Lines are means of bins, bands the range in them. Red marks are warning signs."),
    element("div", {class: "grid"}, ...panels.map(panel => chart(...panel))));
}
function chart(key, title, logarithmic) {
  const [width, height, left, bottom, top] = [360, 210, 46, 30, 8];
  const shown = data.runs.map((run, i) => [run.curves[key], i, run.signs.find(sign => sign.panel === key)]).filter(([curve]) => curve);
  const scale = value => logarithmic ? Math.log10(Math.max(value, 1e-9)) : value;
  const all = shown.flatMap(([curve]) => [...curve.low, ...curve.high]).filter(value => value !== null && (!logarithmic || value > 0)).map(scale);
  const xs = shown.flatMap(([curve]) => curve.x);
  let [y0, y1] = [all.reduce((a, b) => Math.min(a, b), Infinity), all.reduce((a, b) => Math.max(a, b), -Infinity)];
  if (!(y1 > y0)) [y0, y1] = [y0 - 0.5, y0 + 0.5];
  const x0 = Math.min(0, ...xs), x1 = Math.max(...xs) > x0 ? Math.max(...xs) : x0 + 1;
  const X = x => left + (width - left - 8) * (x - x0) / (x1 - x0);
  const Y = y => height - bottom - (height - bottom - top) * (Math.min(Math.max(scale(y), y0), y1) - y0) / (y1 - y0);
  const plot = element("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title});
  const grid = logarithmic ? powers(y0, y1) : ticks(y0, y1);
  for (const y of grid) plot.append(element("line", {x1: left, x2: width - 8, y1: Y(y), y2: Y(y), stroke: "#e8ecf1"}),
    element("text", {x: left - 5, y: Y(y) + 4, "text-anchor": "end"}, number(y, 2)));
  for (const x of ticks(x0, x1)) plot.append(element("text", {x: X(x), y: height - bottom + 14, "text-anchor": "middle"}, number(x)));
  const units = [...new Set(shown.map(([curve]) => curve.x_name))].join(" or ");
  plot.append(element("text", {x: (left + width) / 2, y: height - 3, "text-anchor": "middle"}, units));
  for (const [curve, i, sign] of shown) {
    const stroke = COLORS[i % COLORS.length], there = curve.x.map((_, k) => k).filter(k => curve.y[k] !== null);
    const line = values => there.map(k => `${X(curve.x[k]).toFixed(1)},${Y(values[k]).toFixed(1)}`);
    plot.append(element("path", {d: `M${line(curve.high).join("L")}L${line(curve.low).reverse().join("L")}Z`, fill: stroke, opacity: 0.15}));
    for (const x of sign ? sign.x : []) plot.append(element("line", {x1: X(x), x2: X(x), y1: top, y2: height - bottom, stroke: "#c62828", opacity: 0.35}));
    plot.append(element("path", {d: `M${line(curve.y).join("L")}`, fill: "none", stroke, "stroke-width": 1.7}));
    if (there.length < 20) for (const k of there) plot.append(element("circle", {cx: X(curve.x[k]), cy: Y(curve.y[k]), r: 2.5, fill: stroke}));
  }
  const readout = element("figcaption", {}, " ");
  plot.addEventListener("pointermove", event => {
    const box = plot.getBoundingClientRect(), x = x0 + ((event.clientX - box.left) / box.width * width - left) / (width - left - 8) * (x1 - x0);
    readout.textContent = shown.map(([curve, i]) => {
      const k = curve.x.reduce((best, value, j) => Math.abs(value - x) < Math.abs(curve.x[best] - x) ? j : best, 0);
      return `${shown.length > 1 ? `${data.runs[i].name}: ` : ""}${number(curve.y[k], 3)} at ${number(curve.x[k])}`;
    }).join("; ");
  });
  const bad = shown.some(([, , sign]) => sign);
  return element("figure", {class: `card ${bad ? "signs" : ""}`, style: "margin:0"}, element("h3", {}, title), plot, readout);
}

// --- evaluation ---------------------------------------------------------------------------------------------------------
function evaluation() {
  const rows = data.runs.flatMap((run, i) => run.evaluations.map(found => [element("span", {}, chip(i), run.name), found.agent.split("/").at(-1), found.actions,
    found.evaluated_in, found.n_episodes, found.mean, found.std, `${number(found.ci_low)} .. ${number(found.ci_high)}`, found.median, found.min, found.max,
    percent(found.laps_finished), percent(found.at_least_900), found.file]));
  if (!rows.length) return void section("Evaluation", element("div", {class: "card"}, "No evaluation of the run's agents is stored: run evaluate."));
  section("Evaluation", table(["run", "agent", "actions", "environment", "tracks", "mean", "std", "95 % interval", "median", "min", "max", "laps", "≥ 900", "file"], rows), strips());
}
function strips() {
  const shown = data.runs.map((run, i) => [run.evaluations[0], i]).filter(([found]) => found);
  const scores = shown.flatMap(([found]) => found.scores.map(([, score]) => score));
  const low = Math.min(...scores, 890) - 5, high = Math.max(...scores, 910) + 5, width = report.clientWidth - 26, rowHeight = 44;
  const X = score => 10 + (width - 20) * (score - low) / (high - low), height = shown.length * rowHeight + 24;
  const plot = element("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "score of every track"});
  for (const tick of ticks(low, high, width / 80)) plot.append(element("line", {x1: X(tick), x2: X(tick), y1: 0, y2: height - 18, stroke: "#e8ecf1"}),
    element("text", {x: X(tick), y: height - 4, "text-anchor": "middle"}, number(tick)));
  shown.forEach(([found, i], row) => {
    const y = row * rowHeight + rowHeight / 2;
    found.scores.forEach(([, score], k) => plot.append(element("circle", {cx: X(score), cy: y + (k * 7 % 13 - 6) * 2, r: 3, fill: COLORS[i % COLORS.length], opacity: 0.55})));
    plot.append(element("line", {x1: X(found.mean), x2: X(found.mean), y1: y - 17, y2: y + 17, stroke: "#1c2430", "stroke-width": 2}));
  });
  return element("figure", {class: "card", style: "margin:12px 0 0"}, plot, element("figcaption", {}, "Score of every track; the black line is the mean."));
}
function compared() {
  if (data.runs.length < 2) return;
  const differences = [...new Set(data.runs.flatMap(run => run.config.map(([key]) => key)))].filter(key =>
    new Set(data.runs.map(run => run.config.find(row => row[0] === key)?.[1] ?? null)).size > 1);
  const means = data.runs.filter(run => run.evaluations.length).map(run => run.evaluations[0].mean);
  const mean = means.reduce((sum, value) => sum + value, 0) / means.length;
  const deviation = Math.sqrt(means.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(means.length - 1, 1));
  const parts = [element("p", {class: "card"}, differences.every(key => key === "seed") ? "The runs differ in nothing but their seeds. " : "The runs differ in more than their seeds, see below. ",
    means.length > 1 ? `Mean score over ${means.length} runs: ${number(mean)}; standard deviation between runs: ${number(deviation)}.` : "")];
  const pairs = data.pairs.filter(pair => pair).map(pair => [`${pair.second} - ${pair.first}`, pair.n, pair.mean, `${number(pair.low)} .. ${number(pair.high)}`,
    pair.low > 0 || pair.high < 0 ? "yes" : "no"]);
  if (pairs.length) parts.push(table(["on the same tracks", "tracks", "difference", "95 % interval", "excludes 0"], pairs));
  if (differences.length) parts.push(table(["setting", ...data.runs.map(run => run.name)],
    differences.map(key => [key, ...data.runs.map(run => run.config.find(row => row[0] === key)?.[1] ?? "–")]), "config"));
  section("Runs compared", ...parts);
}

// --- drives -------------------------------------------------------------------------------------------------------------
function decoded(text, low, high) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0)), view = new DataView(bytes.buffer), n = low.length;
  return Array.from({length: bytes.length / 2 / n}, (_, row) => low.map((least, k) => {
    const whole = view.getUint16(2 * (row * n + k), true);
    return whole === 65535 ? NaN : least + (high[k] - least) * whole / 65534;
  }));
}
function driveOf(drives, track) {
  const [near, far] = drives.road_range, names = drives.columns, rows = decoded(track.rows, drives.low, drives.high);
  const column = name => { const k = names.indexOf(name); return rows.map(row => row[k]); };
  const [n, m] = drives.parameters, first = names.length, family = drives.density;
  const plain = (value, k) => family === "beta" || (family === "gaussian" && k === 1) ? Math.exp(value) : value;
  return {track, drives, road: decoded(track.road, [near, near], [far, far]), column, n: rows.length, frames: column("frame"),
    parameters: (row, action) => Array.from({length: m}, (_, k) => plain(rows[row][first + action * m + k], k)), rows: n};
}
function prepared(canvas, aspect) {
  const width = canvas.clientWidth || 118, ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(width * aspect * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return [context, width, width * aspect];
}
function path(context, points) {
  context.beginPath();
  points.forEach(([x, y], i) => i ? context.lineTo(x, y) : context.moveTo(x, y));
}
function drawTrack(context, width, height, drive, place, zoom, topSpeed, upTo = drive.n - 1) {
  const at = ([x, y]) => [width / 2 + (x - place[0]) * zoom, height / 2 - (y - place[1]) * zoom];
  context.fillStyle = "#dcead6";
  context.fillRect(0, 0, width, height);
  context.lineJoin = context.lineCap = "round";
  path(context, drive.road.map(at));
  context.closePath();
  context.strokeStyle = "#8f979f";
  context.lineWidth = Math.max(ROAD_WIDTH * zoom, 2);
  context.stroke();
  const [x, y, speed, grass] = ["x", "y", "speed", "wheels_on_grass"].map(drive.column);
  context.lineWidth = Math.max(1.6, Math.min(4, zoom));
  for (let i = 0; i < upTo; i++) {
    path(context, [at([x[i], y[i]]), at([x[i + 1], y[i + 1]])]);
    context.strokeStyle = color(speed[i] / topSpeed);
    context.stroke();
    if (grass[i] >= 3.5) { context.fillStyle = "#c62828"; const [px, py] = at([x[i], y[i]]); context.fillRect(px - 1, py - 1, 2.5, 2.5); }
  }
  return at;
}
function extent(drive) {
  const xs = drive.road.map(point => point[0]), ys = drive.road.map(point => point[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  return {place: [(x0 + x1) / 2, (y0 + y1) / 2], size: Math.max(x1 - x0, y1 - y0) + 2 * ROAD_WIDTH};
}
function tracks() {
  data.runs.forEach((run, i) => {
    if (!run.drives) return;
    const drives = run.drives, sorted = [...drives.tracks].sort((a, b) => a.score - b.score);
    const top = drives.high[drives.columns.indexOf("speed")], viewer = element("div");
    let shown = null;
    const map = track => {
      const canvas = element("canvas"), found = track.score < 700 || !track.lap;
      const button = element("button", {class: "map card", type: "button", title: `replay track ${track.seed}`, "data-seed": track.seed, onclick: () => {
        if (shown) shown.classList.remove("shown");
        (shown = button).classList.add("shown");
        replay(viewer, driveOf(drives, track), top);
        viewer.scrollIntoView({block: "nearest"});
      }}, canvas, element("b", {class: found ? "lost" : ""}, track.score.toFixed(1)), element("br"), `${track.seed}`, element("br"),
        `${track.frames} frames${track.lap ? "" : ", no lap"}`);
      new IntersectionObserver((entries, observer) => {
        if (!entries.some(entry => entry.isIntersecting)) return;
        observer.disconnect();
        const drive = driveOf(drives, track), {place, size} = extent(drive), [context, width, height] = prepared(canvas, 1);
        drawTrack(context, width, height, drive, place, width / size, top);
      }).observe(canvas);
      return button;
    };
    const legend = element("div", {class: "bar soft"}, "speed 0", element("div", {class: "legend",
      style: `background:linear-gradient(to right,${[0, 0.25, 0.5, 0.75, 1].map(color)})`}), `${number(top, 0)} units/s; red dots: all wheels on grass`);
    const worst = element("div", {class: "maps"}, ...sorted.slice(0, 10).map(map)), others = sorted.slice(10);
    section(`Tracks${data.runs.length > 1 ? `: ${run.name}` : ""}`, element("p", {class: "soft"}, chip(i),
      `${sorted.length} tracks of ${drives.file}, ${drives.actions} actions. The worst come first; choose one to replay it.`), legend, worst,
      others.length ? element("details", {}, element("summary", {}, `${others.length} more tracks`), element("div", {class: "maps", style: "margin-top:10px"}, ...others.map(map))) : null,
      viewer);
    shown = worst.firstChild;
    shown.classList.add("shown");
    replay(viewer, driveOf(drives, sorted[0]), top);
  });
}
function densityAt(family, parameters, value, [low, high]) {
  if (family === "gaussian") return Math.exp(-0.5 * ((value - parameters[0]) / parameters[1]) ** 2);
  const unit = Math.min(Math.max((value - low) / (high - low), 1e-6), 1 - 1e-6), [a, b] = parameters.map(shape => shape - 1);
  const mode = a + b > 1e-9 ? Math.min(Math.max(a / (a + b), 1e-6), 1 - 1e-6) : 0.5;
  return Math.exp(a * Math.log(unit / mode) + b * Math.log((1 - unit) / (1 - mode)));
}
function replay(viewer, drive, top) {
  const {drives, track} = drive, col = Object.fromEntries(drives.columns.map(name => [name, drive.column(name)]));
  const discrete = drives.density === "categorical", last = drive.frames[drive.n - 1];
  const map = element("canvas"), time = element("canvas"), side = element("canvas"), readout = element("div", {class: "readout"});
  const slider = element("input", {type: "range", min: 0, max: last, step: 1, value: 0, "aria-label": "frame", oninput: () => draw(+slider.value)});
  const play = element("button", {type: "button", onclick: () => { playing = playing ? null : performance.now(); from = +slider.value >= last ? 0 : +slider.value; tick(); }}, "play");
  const view = element("select", {"aria-label": "view", onchange: () => draw(+slider.value)}, element("option", {}, "follow the car"), element("option", {}, "whole track"));
  viewer.replaceChildren(element("div", {class: "card replay-card", style: "margin-top:12px"},
    element("h3", {}, `Replay of track ${track.seed}: ${track.score.toFixed(1)} in ${track.frames} frames${track.lap ? "" : ", lap not finished"}`),
    element("div", {class: "replay"}, element("div", {}, map, element("div", {class: "bar"}, play, slider, view)), element("div", {}, readout, side)), element("div", {style: "margin-top:12px"}, time)));
  let playing = null, from = 0;
  const {place, size} = extent(drive);
  function tick() {
    play.textContent = playing ? "pause" : "play";
    if (!playing || !viewer.contains(map)) return;
    const frame = Math.min(from + (performance.now() - playing) / 1000 * FRAMES_PER_SECOND, last);
    slider.value = frame;
    draw(frame);
    if (frame >= last) playing = null;
    requestAnimationFrame(tick);
  }
  function rowAt(frame) { let row = 0; while (row < drive.n - 2 && drive.frames[row + 1] <= frame) row++; return row; }
  function draw(frame) {
    const row = rowAt(frame), share = Math.min((frame - drive.frames[row]) / Math.max(drive.frames[row + 1] - drive.frames[row], 1), 1);
    const between = name => col[name][row] + share * (col[name][row + 1] - col[name][row]);
    const [context, width, height] = prepared(map, 0.68), follows = view.selectedIndex === 0;
    const at = drawTrack(context, width, height, drive, follows ? [between("x"), between("y")] : place, follows ? 4 : height / size, top, row + 1);
    const [x, y] = at([between("x"), between("y")]), zoom = follows ? 4 : 2.5;
    context.save();
    context.translate(x, y);
    context.rotate(-between("angle"));
    context.fillStyle = "#d32f2f";
    context.fillRect(-CAR[0] / 2 * zoom, -CAR[1] / 2 * zoom, CAR[0] * zoom, CAR[1] * zoom);
    context.fillStyle = "#fff";
    context.fillRect(-CAR[0] / 2 * zoom, -CAR[1] / 2 * zoom, CAR[0] * zoom, zoom);
    context.restore();
    readout.replaceChildren(...[["frame", frame.toFixed(0)], ["score", between("score").toFixed(1)], ["speed", between("speed").toFixed(0)],
      ["value", Number.isNaN(col.value[row]) ? "–" : number(col.value[row], 2)]].map(([label, value]) => element("div", {}, element("b", {}, value), element("span", {class: "soft"}, label))));
    drawSide(row);
    drawTime(frame);
  }
  function drawSide(row) {
    const bars = [["steering", -1], ["gas", 0], ["brake", 0]], shown = drives.density ? (discrete ? 1 : drive.rows) : 0;
    const line = 24, block = 62, [context, width] = prepared(side, 0), height = 8 + bars.length * line + shown * block + (discrete ? 50 : 0);
    prepared(side, height / width);
    context.font = "12px system-ui, sans-serif";
    bars.forEach(([name, low], k) => {
      const y = 8 + k * line, start = 70, room = width - start, zero = start + room * (low ? 0.5 : 0), value = col[name][row];
      context.fillStyle = "#5d6878";
      context.fillText(name, 0, y + 12);
      context.fillStyle = "#e8ecf1";
      context.fillRect(start, y, room, 14);
      context.fillStyle = name === "brake" ? "#c62828" : name === "gas" ? "#2e7d32" : "#2563eb";
      context.fillRect(zero, y, value * room * (low ? 0.5 : 1), 14);
    });
    for (let action = 0; action < shown; action++) {
      const y = 14 + bars.length * line + action * block, tall = block - 24;
      context.fillStyle = "#5d6878";
      if (discrete) {
        drives.names.forEach((name, k) => {
          const [share] = drive.parameters(row, k), yk = y + k * 20;
          context.fillStyle = col.a0[row] === k ? "#2563eb" : "#a9bdf0";
          context.fillRect(70, yk, (width - 70) * (share || 0), 13);
          context.fillStyle = "#5d6878";
          context.fillText(name, 0, yk + 11);
        });
        continue;
      }
      const [low, high] = drives.bounds[action], parameters = drive.parameters(row, action), chosen = col[`a${action}`][row];
      context.fillText(`${drives.names[action]}: ${Number.isNaN(chosen) ? "–" : chosen.toFixed(2)}`, 0, y + 10);
      const points = Array.from({length: 161}, (_, k) => [k / 160 * width, y + 14 + tall * (1 - densityAt(drives.density, parameters, low + k / 160 * (high - low), [low, high]))]);
      path(context, [[0, y + 14 + tall], ...points.filter(([, py]) => !Number.isNaN(py)), [width, y + 14 + tall]]);
      context.fillStyle = "#cfdcfb";
      context.fill();
      context.strokeStyle = "#2563eb";
      context.stroke();
      const xc = (chosen - low) / (high - low) * width;
      path(context, [[xc, y + 14], [xc, y + 14 + tall]]);
      context.strokeStyle = "#c62828";
      context.lineWidth = 2;
      context.stroke();
      context.lineWidth = 1;
    }
  }
  let strip = null;
  function drawTime(frame) {
    const [, width] = prepared(time, 0), n = discrete || !drives.density ? 0 : drive.rows, height = 2 * 56 + n * 62 + 6;
    const [context] = prepared(time, height / width), X = value => value / last * width;
    if (!strip || strip.width !== time.width) {
      const labels = [["speed", 0], ["value", 56]];
      context.font = "12px system-ui, sans-serif";
      for (const [name, y] of labels) {
        const values = col[name].filter(value => !Number.isNaN(value)), low = Math.min(...values, 0), high = Math.max(...values, low + 1e-9);
        path(context, col[name].map((value, k) => [X(drive.frames[k]), y + 50 - 34 * (value - low) / (high - low)]).filter(point => !Number.isNaN(point[1])));
        context.strokeStyle = name === "speed" ? "#059669" : "#7c3aed";
        context.stroke();
        if (values.length) { context.fillStyle = "#5d6878"; context.fillText(`${name}, ${number(low)} to ${number(high)}`, 2, y + 12); }
      }
      for (let action = 0; action < n; action++) {
        const y = 2 * 56 + action * 62, [low, high] = drives.bounds[action], bins = 40;
        context.fillStyle = "#5d6878";
        context.fillText(`density of ${drives.names[action]}, ${low} (bottom) to ${high}, and the action`, 2, y + 11);
        for (let row = 0; row < drive.n - 1; row++) for (let bin = 0; bin < bins; bin++) {
          const value = low + (bin + 0.5) / bins * (high - low), level = densityAt(drives.density, drive.parameters(row, action), value, [low, high]);
          context.fillStyle = `rgba(37,99,235,${(0.85 * level).toFixed(2)})`;
          if (level > 0.02) context.fillRect(X(drive.frames[row]), y + 56 - (bin + 1), X(drive.frames[row + 1]) - X(drive.frames[row]) + 0.5, 1.1);
        }
        path(context, col[`a${action}`].slice(0, -1).map((value, k) => [X(drive.frames[k]), y + 56 - 40 * (value - low) / (high - low)]));
        context.strokeStyle = "#c62828";
        context.stroke();
      }
      strip = element("canvas");
      [strip.width, strip.height] = [time.width, time.height];
      strip.getContext("2d").drawImage(time, 0, 0);
    } else context.drawImage(strip, 0, 0, width, height);
    path(context, [[X(frame), 0], [X(frame), height]]);
    context.strokeStyle = "#1c2430";
    context.stroke();
  }
  draw(0);
}

// --- settings -----------------------------------------------------------------------------------------------------------
function settings() {
  data.runs.forEach(run => {
    const rows = run.config.map(([key, value, preset, differs]) => Object.assign([key, value ?? "–", preset ?? "–"], {differs}));
    const different = rows.filter(row => row.differs);
    section(`Settings${data.runs.length > 1 ? `: ${run.name}` : ""}`,
      element("p", {}, different.length ? `Different from the packaged preset of ${run.environment}:` : "All hyperparameters are the preset's, or there is no preset."),
      different.length ? table(["setting", "run", "preset"], different, "config") : null,
      element("details", {}, element("summary", {}, `all ${rows.length} settings`), table(["setting", "run", "preset"], rows, "config")));
  });
  const rows = data.runs.flatMap(run => run.evaluations.slice(0, 1).map(found => [run.name, Object.values(found.machine ?? {}).join(", "),
    Object.entries(found.versions ?? {}).map(([name, version]) => `${name} ${version}`).join("\n"), found.date]));
  section("Machine and versions", rows.length ? table(["run", "evaluated on", "versions", "date"], rows) : element("div", {class: "card"}, "They are stored with an evaluation, and there is none."));
}

summary();
curves();
evaluation();
compared();
tracks();
settings();
let resized = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === resized) return;
  resized = window.innerWidth;
  document.querySelectorAll(".replay-card input[type=range]").forEach(slider => slider.dispatchEvent(new Event("input")));
});
