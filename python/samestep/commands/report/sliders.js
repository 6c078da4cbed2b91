// Heavy ball and Nesterov's look-ahead on L(w) = (w1^2 + BETA w2^2)/2, stepped as the two sliders say.
"use strict";
(() => {
  const BETA = 10, START = [-3, 0.8], STEPS = 80;
  const SPAN = [3.4, 1.5]; // what the first picture shows on both sides of the minimum
  const FLOOR = 1e-8; // the smallest gap that the second picture shows
  const HEIGHT = 260, MARGIN = 38; // pixels; the width is the element's, so that letters keep their size
  const CURVATURES = [1, BETA];
  // Heavy ball is the wider line below, Nesterov the dashed one on it: with a = 0 both are the same.
  const METHODS = {
    momentum: { edge: (a) => (2 * (1 + a)) / BETA, ahead: 0, width: 3.2, dash: "none" },
    nag: { edge: (a) => (2 + 2 * a) / ((1 + 2 * a) * BETA), ahead: 1, width: 1.8, dash: "6 3" },
  };
  const element = (id) => document.getElementById(id);
  const make = (parent, tag, attributes, text) => {
    const child = document.createElementNS(parent.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
    if (text !== undefined) child.textContent = text;
    return parent.appendChild(child);
  };

  // v = a v - lr g(x + ahead a v);  x = x + v
  const run = (lr, a, ahead) => {
    const path = [START.slice()], v = [0, 0];
    for (let t = 0; t < STEPS; t++) {
      const x = path[t];
      path.push(x.map((_, i) => x[i] + (v[i] = a * v[i] - lr * CURVATURES[i] * (x[i] + ahead * a * v[i]))));
    }
    return path;
  };
  const loss = (x) => (x[0] * x[0] + BETA * x[1] * x[1]) / 2;

  // The largest |z| with z^2 - b z + c = 0: by what a step multiplies the error in the long run.
  const root = (b, c) => {
    const d = b * b - 4 * c;
    return d < 0 ? Math.sqrt(c) : (Math.abs(b) + Math.sqrt(d)) / 2;
  };
  const rate = (lr, a, ahead) => Math.max(...CURVATURES.map((h) => {
    const s = lr * h;
    return ahead ? root((1 + a) * (1 - s), a * (1 - s)) : root(1 + a - s, a);
  }));
  const verdict = (lr, edge, factor) => {
    if (Math.abs(lr - edge) < 1e-9) return "at its edge: neither converges nor diverges, the loss stays above L*";
    if (lr > edge) return "diverges";
    return `converges: a step multiplies the error by ${factor.toFixed(3)} in the long run`;
  };

  const clamp = (x) => Math.max(-1e4, Math.min(1e4, x)); // far outside, but a number that SVG can draw
  const clear = (svg) => {
    const width = svg.clientWidth || 420;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    return width;
  };
  const line = (parent, name, points) => make(parent, "polyline", {
    points: points.join(" "), fill: "none", stroke: `var(--${name})`, "stroke-width": METHODS[name].width,
    "stroke-dasharray": METHODS[name].dash, "stroke-linejoin": "round",
  });

  const drawValley = (svg, paths) => {
    const width = clear(svg);
    const position = (x) => [
      width / 2 + (x[0] / SPAN[0]) * (width / 2),
      HEIGHT / 2 - (x[1] / SPAN[1]) * (HEIGHT / 2),
    ].map((p) => clamp(p).toFixed(1));
    for (let level = 0.05; level < 60; level *= 2.6) {
      make(svg, "ellipse", {
        cx: width / 2, cy: HEIGHT / 2, fill: "none", stroke: "var(--faint)", "stroke-opacity": 0.55,
        rx: (Math.sqrt(2 * level) / SPAN[0]) * (width / 2),
        ry: (Math.sqrt((2 * level) / BETA) / SPAN[1]) * (HEIGHT / 2),
      });
    }
    for (const [name, path] of Object.entries(paths)) {
      line(svg, name, path.map((x) => position(x).join(",")));
      for (const x of path.slice(0, 30)) {
        const [cx, cy] = position(x);
        make(svg, "circle", { cx, cy, r: METHODS[name].width, fill: `var(--${name})` });
      }
    }
    make(svg, "circle", { cx: width / 2, cy: HEIGHT / 2, r: 3.5, fill: "var(--ink)" });
    make(svg, "text", { x: width / 2 + 8, y: HEIGHT / 2 - 8 }, "w*");
  };

  const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 2: "²", 4: "⁴", 6: "⁶", 8: "⁸" };
  const drawGap = (svg, paths) => {
    const width = clear(svg);
    const top = 2, bottom = Math.log10(FLOOR); // powers of ten
    const x = (t) => MARGIN + (t / STEPS) * (width - MARGIN - 8);
    const y = (power) => 10 + ((top - power) / (top - bottom)) * (HEIGHT - 40);
    for (let power = top; power >= bottom; power -= 2) {
      make(svg, "line", { x1: MARGIN, x2: width - 8, y1: y(power), y2: y(power), stroke: "var(--line)" });
      const label = power === 0 ? "1" : "10" + [...String(power)].map((digit) => SUPERSCRIPTS[digit]).join("");
      make(svg, "text", { x: MARGIN - 6, y: y(power) + 4, "text-anchor": "end" }, label);
    }
    for (let t = 0; t < STEPS; t += 20) make(svg, "text", { x: x(t), y: HEIGHT - 8, "text-anchor": "middle" }, t);
    make(svg, "text", { x: width - 8, y: HEIGHT - 8, "text-anchor": "end" }, `${STEPS} steps`);
    for (const [name, path] of Object.entries(paths)) {
      const powers = path.map((w) => Math.log10(Math.max(loss(w) / loss(START), 1e-300)));
      const shown = powers.map((power, t) => [t, power]).filter(([, power]) => power >= bottom && power <= top);
      line(svg, name, shown.map(([t, power]) => `${x(t).toFixed(1)},${y(power).toFixed(1)}`));
    }
  };

  const draw = () => {
    const lr = Number(element("step-size").value), a = Number(element("momentum").value);
    element("step-size-told").value = `${lr.toFixed(3)} = ${(lr * BETA).toFixed(2)}/β`;
    element("momentum-told").value = a.toFixed(2);
    const paths = Object.fromEntries(Object.entries(METHODS).map(([name, m]) => [name, run(lr, a, m.ahead)]));
    drawValley(element("valley"), paths);
    drawGap(element("gap"), paths);
    for (const [name, m] of Object.entries(METHODS)) {
      const edge = m.edge(a);
      element(`${name}-told-rate`).textContent = `edge at ${(edge * BETA).toFixed(2)}/β, `
        + verdict(lr, edge, rate(lr, a, m.ahead));
    }
  };
  for (const id of ["step-size", "momentum"]) element(id).addEventListener("input", draw);
  window.addEventListener("resize", draw);
  draw();
})();
