// <div class="model" data-model="NAME"></div> becomes controls and a picture of one of models.js.
"use strict";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"];
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, text = "") {
  const made = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
const SVG_NAMES = new Set(["svg", "path", "text", "line", "circle", "g"]);

const short = (v) =>
  v === 0 ? "0" : Math.abs(v) >= 0.01 && Math.abs(v) < 1000 ? String(+v.toPrecision(3)) : v.toExponential(0);

// Lines over their index or over x, with axes; log scales by option.
function draw(series, { room = 640, logy = false, xlabel = "", ylabel = "", xs = null, marks = false } = {}) {
  const [width, height, left, bottom] = [Math.max(280, Math.min(640, room)), 300, 64, 42];
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const scale = (v) => (logy ? Math.log10(Math.max(v, 1e-300)) : v);
  const all = series.flatMap((s) => s.values.map(scale)).filter(Number.isFinite);
  const xOf = (s, i) => (xs ? xs(s, i) : i);
  const across = series.flatMap((s) => s.values.map((_, i) => xOf(s, i))).filter(Number.isFinite);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const [first, last] = [Math.min(...across), Math.max(...across)];
  const px = (x) => left + ((x - first) / (last - first || 1)) * (width - left - 12);
  const py = (y) => height - bottom - ((y - low) / (high - low)) * (height - bottom - 14);
  for (let tick = 0; tick <= 4; tick += 1) {
    const y = low + ((high - low) * tick) / 4;
    svg.append(element("line", { x1: left, x2: width - 12, y1: py(y), y2: py(y), class: "grid" }));
    const label = short(logy ? 10 ** y : y);
    svg.append(element("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, label));
    const x = first + ((last - first) * tick) / 4;
    svg.append(element("text", { x: px(x), y: height - bottom + 18, "text-anchor": "middle" }, short(x)));
  }
  svg.append(element("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, xlabel));
  const turned = `translate(12 ${(height - bottom) / 2}) rotate(-90)`;
  svg.append(element("text", { transform: turned, "text-anchor": "middle" }, ylabel));
  series.forEach((s, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const points = s.values
      .map((v, i) => [px(xOf(s, i)), py(scale(v))])
      .filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    const path = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    svg.append(element("path", { d: path, stroke: colour, fill: "none", "stroke-width": 2 }));
    if (marks || points.length < 12) {
      for (const [cx, cy] of points) svg.append(element("circle", { cx, cy, r: 3, fill: colour }));
    }
  });
  const legend = element("div", { class: "legend" });
  series.forEach((s, index) => {
    const item = element("span", { style: `color:${COLOURS[index % COLOURS.length]}` }, `— ${s.name}`);
    if (series.length > 1) legend.append(item);
  });
  return [svg, legend];
}

const MODELS = {
  toy: {
    controls: {
      rule: ["rule", ["sgd", "momentum", "nesterov", "rmsprop"]],
      rate: ["learning rate, 10^", -3, 0.5, 0.1, -1],
      half: ["penalty with its half", true],
      epsInSqrt: ["RMSProp's eps inside the root", true],
    },
    run({ rule, rate, half, epsInSqrt }) {
      const values = toy(rule, 10 ** rate, { half, epsInSqrt });
      const said = `rate ${short(10 ** rate)}: loss before the last of 100 steps ${values[99].toFixed(6)}`;
      return [[{ name: rule, values }], { xlabel: "step", ylabel: "loss" }, said];
    },
  },
  valley: {
    controls: {
      rate: ["learning rate, 10^", -3, 0, 0.05, -1.3],
      curvature: ["steepness across", 1, 60, 1, 20],
    },
    run({ rate, curvature }) {
      const rules = ["sgd", "momentum", "nesterov", "rmsprop", "adam"];
      const series = rules.map((name) => {
        const path = valley(name, 10 ** rate, { curvature });
        return { name, values: path.map(([x, y]) => Math.min(1e6, (x * x + curvature * y * y) / 2)) };
      });
      const best = series.reduce((a, b) => (a.values[60] <= b.values[60] ? a : b));
      const said = `rate ${short(10 ** rate)}: lowest after 60 steps is ${best.name}, ${best.values[60].toExponential(2)}`;
      return [series, { logy: true, xlabel: "step", ylabel: "height" }, said];
    },
  },
  deep: {
    controls: {
      depth: ["layers", 2, 12, 1, 5],
      scale: ["weight scale, 10^", -3, 0.5, 0.05, -1],
      activation: ["activation", ["relu", "tanh"]],
    },
    run({ depth, scale, activation }) {
      const scales = Array.from({ length: 36 }, (_, i) => -3 + i / 10);
      const first = (layers, s) => deep(layers, 10 ** s, { activation }).lengths[0];
      const depths = [...new Set([2, 5, 12, depth])];
      const series = depths.map((layers) => ({
        name: `${layers} layers`,
        values: scales.map((s) => first(layers, s)),
      }));
      const said = `${depth} layers at scale ${short(10 ** scale)}: the first layer's gradient is ${first(depth, scale).toExponential(2)} long, at half the scale ${first(depth, scale - Math.log10(2)).toExponential(2)}`;
      const shown = { logy: true, xlabel: "weight scale, power of ten", ylabel: "first gradient" };
      return [series, { ...shown, xs: (_, i) => scales[i] }, said];
    },
  },
  norm: {
    controls: {
      depth: ["layers", 2, 12, 1, 5],
      norm: ["weight scale, 10^", -3, 0.5, 0.05, -2],
    },
    run({ depth, norm }) {
      const scales = Array.from({ length: 36 }, (_, i) => -3 + i / 10);
      const first = (s, on) => deep(depth, 10 ** s, { norm: on }).lengths[0];
      const series = [false, true].map((on) => ({
        name: on ? "batch norm" : "without",
        values: scales.map((s) => first(s, on)),
      }));
      const at = [false, true].map((on) => first(norm, on).toExponential(2));
      const said = `scale ${short(10 ** norm)}: the first layer's gradient is ${at[0]} long without, ${at[1]} with batch norm`;
      const shown = { logy: true, xlabel: "weight scale, power of ten", ylabel: "first gradient" };
      return [series, { ...shown, xs: (_, i) => scales[i] }, said];
    },
  },
  wrong: {
    controls: { error: ["relative error of the backward pass, 10^", -16, 0, 0.5, -4] },
    run({ error }) {
      const all = Array.from({ length: 33 }, (_, i) => -16 + i / 2);
      const at = wrongRule(10 ** error);
      const series = [
        { name: "what differences measure (bar 1e-6)", values: all.map((e) => wrongRule(10 ** e).courseError) },
        { name: "the error in eps (14 allowed)", values: all.map((e) => Math.max(1e-1, wrongRule(10 ** e).eps)) },
      ];
      const words = (sees) => (sees ? "see it" : "see nothing");
      const said = `error ${short(10 ** error)}: differences ${words(at.courseSees)}, units of rounding ${words(at.checkerSees)} (${short(at.eps)} eps)`;
      return [series, { logy: true, xlabel: "planted error, power of ten", ylabel: "measured", xs: (_, i) => all[i] }, said];
    },
  },
};

function control(name, [label, ...rest], changed) {
  const wrap = element("label", {}, `${label} `);
  let input;
  if (typeof rest[0] === "boolean") {
    input = element("input", { type: "checkbox" });
    input.checked = rest[0];
  } else if (Array.isArray(rest[0])) {
    input = element("select");
    for (const choice of rest[0]) input.append(element("option", { value: choice }, choice));
  } else {
    const [min, max, step, value] = rest;
    input = element("input", { type: "range", min, max, step, value });
  }
  input.name = name;
  input.addEventListener("input", changed);
  wrap.append(input);
  return wrap;
}

function build(place) {
  const model = MODELS[place.dataset.model];
  const picture = element("div");
  const said = element("p", { class: "said", "aria-live": "polite" });
  const bar = element("div", { class: "controls" });
  const changed = () => {
    const values = {};
    for (const input of bar.querySelectorAll("input, select")) {
      values[input.name] =
        input.type === "checkbox" ? input.checked : input.type === "range" ? +input.value : input.value;
    }
    const [series, options, words] = model.run(values);
    picture.replaceChildren(...draw(series, { room: place.clientWidth - 28, ...options }));
    said.textContent = words;
  };
  for (const [name, spec] of Object.entries(model.controls)) bar.append(control(name, spec, changed));
  place.replaceChildren(bar, said, picture);
  changed();
}

document.querySelectorAll(".model").forEach(build);
