"use strict";
const numbers = JSON.parse(document.getElementById("numbers").textContent);
const form = document.getElementById("filters");
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");
let printing = false;

const scaled = (value) => numbers.scale * value;
const group = (point) => numbers.groups[point.group];
const text = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = (said) => said.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// --- what is chosen --------------------------------------------------------------------------------

function chosen() {
  const adversary = form.elements.adversary?.value ?? "";
  const unit = form.elements.unit?.value ?? "";
  const mechanisms = new Set(new FormData(form).getAll("mechanism"));
  const view = numbers.views.find((v) => v.adversary === adversary && v.unit === unit);
  const keep = (points) => points.filter((point) => mechanisms.has(group(point).mechanism));
  return {
    adversary, unit, mechanisms,
    said: view?.said ?? "",
    points: keep(view?.points ?? []),
    baselines: keep((view ?? numbers.views[0]).baselines),
  };
}

// Units without a frontier against the chosen adversary can't be chosen.
function offerUnits() {
  const unit = form.elements.unit;
  if (!unit) return;
  const there = new Set(numbers.views.filter((v) => v.adversary === form.elements.adversary.value).map((v) => v.unit));
  for (const option of unit.options) option.disabled = !there.has(option.value);
  if (unit.selectedOptions[0]?.disabled) unit.value = [...there][0];
}

function hideTheRest(choice) {
  const differs = (element, key) => key in element.dataset && element.dataset[key] !== choice[key];
  for (const element of document.querySelectorAll("[data-adversary]"))
    element.hidden = differs(element, "adversary") || differs(element, "unit");
  for (const element of document.querySelectorAll("[data-mechanism]"))
    element.hidden = !choice.mechanisms.has(element.dataset.mechanism) || differs(element, "adversary") || differs(element, "unit");
  const shown = new Set([...choice.points, ...choice.baselines].map((point) => group(point).mechanism));
  const missing = [...choice.mechanisms].filter((mechanism) => !shown.has(mechanism));
  document.getElementById("filtered").textContent =
    `${choice.points.length} points with noise and ${choice.baselines.length} without are shown.` +
    (missing.length ? ` No epsilon against this adversary with this protection: ${missing.join(", ")}.` : "");
}

// --- charts ----------------------------------------------------------------------------------------

function layout(x, y, more = {}) {
  const line = text("--line");
  const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, fixedrange: narrow.matches };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text("--ink"), family: "system-ui, sans-serif", size: narrow.matches ? 12 : 14 },
    margin: { l: 50, r: 20, t: 10, b: 50 },
    legend: { orientation: "h", y: -0.22, yanchor: "top" },
    hoverlabel: { align: "left", bgcolor: text("--paper"), bordercolor: text("--quiet"), font: { color: text("--ink") } },
    xaxis: { ...axis, title: { text: x }, ...more.xaxis },
    yaxis: { ...axis, title: { text: y }, ...more.yaxis },
    shapes: more.shapes ?? [],
  };
}

// On a dark page the darker colours are lifted, so that lines keep a contrast of three to one.
const LIFTED = { "#0072B2": "#3FA0DB", "#666666": "#A8A8A8", "#009E73": "#1FBF93", "#D55E00": "#F07A24" };
const shade = (colour) => (dark.matches && !printing ? LIFTED[colour] ?? colour : colour);

function bySeries(points) {
  const lines = new Map();
  for (const point of points) {
    const name = group(point).series;
    if (!lines.has(name)) lines.set(name, []);
    lines.get(name).push(point);
  }
  return lines;
}

function decades(values) {
  const ticks = [];
  for (let decade = -6; decade < 7; decade++) for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** decade);
  const [low, high] = [Math.min(...values) / 1.3, Math.max(...values) * 1.3];
  const shown = ticks.filter((tick) => tick >= low && tick <= high);
  return { type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: shown, ticktext: shown.map((t) => `${+t.toPrecision(3)}`) };
}

function drawFrontier(choice) {
  const traces = [];
  const epsilons = choice.points.map((point) => point.epsilon);
  const span = epsilons.length ? [Math.min(...epsilons) / 1.3, Math.max(...epsilons) * 1.3] : [0.5, 2];
  for (const point of choice.baselines) {
    const { label, style } = group(point);
    const middle = Math.sqrt(span[0] * span[1]);
    traces.push({
      x: [span[0], middle, span[1]], y: Array(3).fill(scaled(point.mean)), customdata: Array(3).fill(point.group), name: label,
      mode: "lines", line: { color: shade(style.colour), dash: point.dash, width: 2 },
      hovertemplate: `<b>${escaped(label)}</b><br>${escaped(point.said)}<br>no noise<extra></extra>`,
    });
  }
  for (const [name, points] of bySeries(choice.points)) {
    const style = group(points[0]).style;
    const colour = shade(style.colour);
    traces.push({
      x: points.flatMap((p) => group(p).runs.map(() => p.epsilon)),
      y: points.flatMap((p) => group(p).runs.map((run) => scaled(run.value))),
      customdata: points.flatMap((p) => group(p).runs.map((run) => run.anchor)),
      text: points.flatMap((p) => group(p).runs.map((run) => `${escaped(group(p).label)}, seed ${run.seed}`)),
      mode: "markers", showlegend: false, marker: { size: 5, color: colour, opacity: 0.55 },
      hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>",
    });
    traces.push({
      x: points.map((p) => p.epsilon), y: points.map((p) => scaled(p.mean)), customdata: points.map((p) => p.group),
      error_y: { type: "data", array: points.map((p) => scaled(p.half ?? 0)), thickness: 1.3, width: 5 },
      text: points.map((p) => `<b>${escaped(group(p).label)}</b><br>${escaped(p.said)}<br>epsilon ${p.epsilon.toPrecision(4)}<br>${p.terms.map(escaped).join("<br>")}`),
      mode: "lines+markers", name, line: { color: colour, dash: style.dash, width: 2 },
      marker: { size: 11, color: colour, symbol: style.symbol }, hovertemplate: "%{text}<extra></extra>",
    });
  }
  const xaxis = { ...(epsilons.length ? decades(epsilons) : { showticklabels: false, type: "log" }), range: span.map(Math.log10) };
  const said = narrow.matches ? `epsilon (${choice.adversary})` : choice.said;
  plot("frontier-chart", traces, layout(escaped(said), escaped(numbers.axis), { xaxis }),
    `Chart of ${numbers.axis} against epsilon, with ${choice.points.length} points; the table below has the same numbers.`);
}

// Ends of lines that are too close for two labels keep the upper one.
function thinned(traces, logarithmic) {
  const height = (trace) => (logarithmic ? Math.log(trace.y.at(-1)) : trace.y.at(-1));
  const all = traces.flatMap((trace) => trace.y).filter((value) => !logarithmic || value > 0);
  const apart = 0.045 * (logarithmic ? Math.log(Math.max(...all) / Math.min(...all)) : Math.max(...all) - Math.min(...all));
  let last = Infinity;
  for (const trace of [...traces].sort((one, other) => height(other) - height(one))) {
    if (trace.text.at(-1) === "") continue;
    if (last - height(trace) < apart) trace.text = [];
    else last = height(trace);
  }
  return traces;
}

function curveTraces(points, curveOf, factor) {
  const traces = [];
  for (const [name, line] of bySeries(points)) {
    line.forEach((point, place) => {
      const curve = curveOf(point);
      if (!curve?.rounds.length) return;
      const { label, style } = group(point);
      const none = point.epsilon === null;
      const end = none ? "" : ` ${+point.epsilon.toPrecision(3)}`;
      traces.push({
        x: curve.rounds, y: curve.mean.map((value) => factor * value), customdata: curve.rounds.map(() => point.group),
        text: curve.rounds.map((_, index) => (index === curve.rounds.length - 1 ? end : "")),
        mode: "lines+text", textposition: "middle right", cliponaxis: false,
        name: none ? label : name, legendgroup: none ? label : name, showlegend: none || place === 0,
        line: { color: shade(style.colour), dash: none ? point.dash : style.dash, width: 2 },
        hovertemplate: `<b>${escaped(label)}</b><br>round %{x}: %{y:.4g}<extra></extra>`,
      });
    });
  }
  return traces;
}

function drawCurves(choice) {
  const scores = curveTraces([...choice.baselines, ...choice.points], (point) => group(point).curve, numbers.scale);
  plot("metric-chart", thinned(scores, false), layout("round", escaped(numbers.axis)), `Chart of ${numbers.axis} over rounds.`);
  if (!document.getElementById("epsilon-chart")) return;
  const spent = curveTraces(choice.points, (point) => group(point).spent[choice.adversary], 1);
  const values = spent.flatMap((trace) => trace.y).filter((value) => value > 0);
  const yaxis = values.length ? decades(values) : {};
  plot("epsilon-chart", thinned(spent, true), layout("round", escaped(`epsilon against ${choice.adversary}`), { yaxis }),
    `Chart of the epsilon spent over rounds against ${choice.adversary}; what each ends with is under Every epsilon.`);
}

function plot(id, traces, how, said) {
  const chart = document.getElementById(id);
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", said);
  Plotly.react(chart, traces, how, { displayModeBar: false, responsive: true });
  if (!chart.dataset.listens) {
    chart.dataset.listens = "true";
    chart.on("plotly_click", (event) => goTo(event.points[0].customdata));
  }
}

function goTo(anchor) {
  if (location.hash === `#${anchor}`) history.replaceState(null, "", " "); // so that going there again is a change
  location.hash = anchor;
  document.getElementById(anchor).focus({ preventScroll: true });
}

// --- beginning -------------------------------------------------------------------------------------

function draw() {
  offerUnits();
  const choice = chosen();
  hideTheRest(choice);
  drawFrontier(choice);
  drawCurves(choice);
}

for (const view of numbers.views)
  view.baselines.forEach((point, place) => { point.dash = ["dash", "dot", "dashdot"][place % 3]; });
form.hidden = false;
form.addEventListener("change", draw);
form.addEventListener("submit", (event) => event.preventDefault());
dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
addEventListener("beforeprint", () => { printing = true; draw(); for (const chart of document.querySelectorAll(".chart")) Plotly.relayout(chart, { width: 680 }); });
addEventListener("afterprint", () => { printing = false; draw(); });
draw();
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
