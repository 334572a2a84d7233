// The models that pages let one move, as plain functions of numbers. tests/house/test_models.py holds
// their numbers equal to funcnet's.
"use strict";

const linspace = (low, high, count) =>
  Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

// A small generator of normal numbers, the same everywhere: mulberry32, then Box and Muller's.
function normal(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

const matrix = (rows, columns, entry) =>
  Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => entry(i, j)));
const reshape = (flat, rows, columns) => matrix(rows, columns, (i, j) => flat[i * columns + j]);
const times = (a, b) =>
  matrix(a.length, b[0].length, (i, j) => a[i].reduce((sum, value, k) => sum + value * b[k][j], 0));
const transposed = (a) => matrix(a[0].length, a.length, (i, j) => a[j][i]);
const columnSums = (a) => a[0].map((_, j) => a.reduce((sum, row) => sum + row[j], 0));
const zeros = (count) => new Array(count).fill(0);

// One step of an optimizer on a list of numbers. `state` holds what it remembers, and is changed.
function update(rule, state, w, g, rate, options = {}) {
  const { momentum = 0.9, decay = rule === "rmsprop" ? 0.9 : 0.999, epsInSqrt = true } = options;
  const eps = 1e-8;
  state.m = state.m || zeros(w.length);
  state.v = state.v || zeros(w.length);
  state.t = (state.t || 0) + 1;
  return w.map((value, i) => {
    if (rule === "sgd") return value - rate * g[i];
    if (rule === "momentum" || rule === "nesterov") {
      state.m[i] = momentum * state.m[i] - rate * g[i];
      return value + (rule === "momentum" ? state.m[i] : momentum * state.m[i] - rate * g[i]);
    }
    state.v[i] = decay * state.v[i] + (1 - decay) * g[i] * g[i];
    if (rule === "rmsprop") {
      const root = epsInSqrt ? Math.sqrt(state.v[i] + eps) : Math.sqrt(state.v[i]) + eps;
      return value - (rate * g[i]) / root;
    }
    state.m[i] = 0.9 * state.m[i] + 0.1 * g[i];
    const first = state.m[i] / (1 - Math.pow(0.9, state.t));
    const second = state.v[i] / (1 - Math.pow(decay, state.t));
    return value - (rate * first) / (Math.sqrt(second) + eps);
  });
}

// Course 004's toy net: the loss before each of `steps` steps, and before the one after.
function toy(rule, rate, { steps = 100, reg = 1e-3, half = true, epsInSqrt = true } = {}) {
  const x = reshape(linspace(-0.2, 0.5, 20), 5, 4);
  const labels = [0, 1, 2, 2, 1];
  let p = {
    w1: linspace(-0.2, 0.6, 40),
    b1: linspace(-0.3, 0.7, 10),
    w2: linspace(-0.4, 0.1, 30),
    b2: linspace(-0.5, 0.9, 3),
  };
  const states = { w1: {}, b1: {}, w2: {}, b2: {} };
  const strength = half ? reg : 2 * reg;
  const losses = [];
  for (let step = 0; step <= steps; step += 1) {
    const w1 = reshape(p.w1, 4, 10);
    const w2 = reshape(p.w2, 10, 3);
    const h = times(x, w1).map((row) => row.map((value, j) => Math.max(value + p.b1[j], 0)));
    const scores = times(h, w2).map((row) => row.map((value, j) => value + p.b2[j]));
    let loss = 0;
    const ds = scores.map((row, i) => {
      const most = Math.max(...row);
      const sum = row.reduce((total, value) => total + Math.exp(value - most), 0);
      loss += (Math.log(sum) + most - row[labels[i]]) / 5;
      return row.map((v, j) => (Math.exp(v - most) / sum - (j === labels[i] ? 1 : 0)) / 5);
    });
    for (const w of [...p.w1, ...p.w2]) loss += 0.5 * strength * w * w;
    losses.push(loss);
    const dh = times(ds, transposed(w2)).map((row, i) => row.map((v, j) => (h[i][j] > 0 ? v : 0)));
    const g = {
      w1: times(transposed(x), dh).flat().map((v, i) => v + strength * p.w1[i]),
      b1: columnSums(dh),
      w2: times(transposed(h), ds).flat().map((v, i) => v + strength * p.w2[i]),
      b2: columnSums(ds),
    };
    const next = {};
    for (const name of Object.keys(p)) {
      next[name] = update(rule, states[name], p[name], g[name], rate, { decay: 0.99, epsInSqrt });
    }
    p = next;
  }
  return losses;
}

// A valley that is steep one way and flat the other, f = (x² + curvature · y²) / 2, from (1.5, 1).
function valley(rule, rate, { steps = 60, curvature = 20 } = {}) {
  let w = [1.5, 1];
  const state = {};
  const path = [w];
  for (let step = 0; step < steps; step += 1) {
    w = update(rule, state, w, [w[0], curvature * w[1]], rate);
    path.push(w);
  }
  return path;
}

// A deep net of equal layers: how long the gradient of each layer's weights is. 20 rows of 20
// numbers, weights scale · N(0, 1), no biases; the objective is the sum of the output times one
// fixed normal matrix.
function deep(depth, scale, { activation = "relu", norm = false, units = 20 } = {}) {
  const draw = normal(7);
  const drawn = (factor) => matrix(units, units, () => factor * draw());
  const x = drawn(1);
  const cotangent = drawn(1);
  const weights = Array.from({ length: depth }, () => drawn(scale));
  const kept = [];
  const stds = [];
  let h = x;
  for (const w of weights) {
    let z = times(h, w);
    const inverse = zeros(units).fill(1);
    if (norm) {
      const mean = columnSums(z).map((sum) => sum / units);
      z = z.map((row) => row.map((v, j) => v - mean[j]));
      const square = columnSums(z.map((row) => row.map((v) => v * v)));
      for (let j = 0; j < units; j += 1) inverse[j] = 1 / Math.sqrt(square[j] / units + 1e-5);
      z = z.map((row) => row.map((v, j) => v * inverse[j]));
    }
    const y = z.map((row) => row.map((v) => (activation === "relu" ? Math.max(v, 0) : Math.tanh(v))));
    kept.push({ h, z, y, inverse });
    const all = y.flat();
    const mean = all.reduce((sum, v) => sum + v, 0) / all.length;
    stds.push(Math.sqrt(all.reduce((sum, v) => sum + (v - mean) ** 2, 0) / all.length));
    h = y;
  }
  const lengths = [];
  let d = cotangent;
  for (let layer = depth - 1; layer >= 0; layer -= 1) {
    const { h: input, z, y, inverse } = kept[layer];
    d = d.map((row, i) =>
      row.map((v, j) => v * (activation === "relu" ? (z[i][j] > 0 ? 1 : 0) : 1 - y[i][j] ** 2))
    );
    if (norm) {
      const mean = columnSums(d).map((sum) => sum / units);
      const along = columnSums(d.map((row, i) => row.map((v, j) => v * z[i][j]))).map((s) => s / units);
      d = d.map((row, i) => row.map((v, j) => inverse[j] * (v - mean[j] - z[i][j] * along[j])));
    }
    const dw = times(transposed(input), d);
    lengths.unshift(Math.sqrt(dw.flat().reduce((sum, v) => sum + v * v, 0)));
    d = times(d, transposed(weights[layer]));
  }
  return { lengths, stds, x, cotangent, weights };
}

// leaky ReLU with a backward pass that is off by a relative error: what the course's differences
// say of it (relative error against a bar of 1e-6), and a comparison in units of rounding error.
function wrongRule(error, { slope = 0.01, x = [-2, -0.5, 0.25, 1, 3], allowed = 14 } = {}) {
  const f = (v) => (v >= 0 ? v : slope * v);
  const h = 1e-5;
  const exact = x.map((v) => (v >= 0 ? 1 : slope));
  const given = exact.map((v) => v * (1 + error));
  const differences = x.map((v) => (f(v + h) - f(v - h)) / (2 * h));
  const relative = given.map(
    (v, i) => Math.abs(v - differences[i]) / Math.max(1e-8, Math.abs(v) + Math.abs(differences[i]))
  );
  const eps = given.map((v, i) => Math.abs(v - exact[i]) / (Number.EPSILON * Math.abs(exact[i])));
  return {
    exact,
    given,
    differences,
    courseError: Math.max(...relative),
    courseSees: Math.max(...relative) > 1e-6,
    eps: Math.max(...eps),
    checkerSees: Math.max(...eps) > allowed,
  };
}

if (typeof module !== "undefined") module.exports = { toy, valley, deep, wrongRule, normal, update };
