// A latent over an episode's frames, among all others.

const SVG = "http://www.w3.org/2000/svg";

function line(values, low, high, kind) {
  const made = document.createElementNS(SVG, "polyline");
  const scale = 100 / (high - low);
  const points = values.map((value, t) => `${t},${((high - value) * scale).toFixed(2)}`);
  if (points.length === 1) points.push(`1,${points[0].split(",")[1]}`);
  made.setAttribute("points", points.join(" "));
  made.setAttribute("class", kind);
  return made;
}

export class Chart {
  constructor(svg, top, bottom) {
    this.svg = svg;
    this.top = top;
    this.bottom = bottom;
    this.now = document.createElementNS(SVG, "line");
    this.now.setAttribute("class", "now");
    this.now.setAttribute("y1", 0);
    this.now.setAttribute("y2", 100);
    svg.addEventListener("pointerdown", (event) => this.#point(event));
    svg.addEventListener("pointermove", (event) => event.buttons && this.#point(event));
    this.pointed = () => {};
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    this.pointed(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)));
  }

  // latents: {model: [T][Z]}; all of view's are drawn faintly, the chosen one of each model in colour.
  draw(latents, view, index, row) {
    const every = latents[view];
    const length = every.length;
    const shown = Object.values(latents).flatMap((rows) => rows.map((values) => values[index]));
    let low = shown.reduce((a, b) => Math.min(a, b), Infinity);
    let high = shown.reduce((a, b) => Math.max(a, b), -Infinity);
    const margin = Math.max(0.25, 0.08 * (high - low));
    low -= margin;
    high += margin;
    this.svg.setAttribute("viewBox", `0 0 ${Math.max(1, length - 1)} 100`);
    this.svg.replaceChildren();
    for (let i = 0; i < every[0].length; i++) {
      if (i !== index) this.svg.append(line(every.map((v) => v[i]), low, high, "other"));
    }
    const names = Object.keys(latents).filter((name) => name !== view);
    for (const name of [...names, view]) {
      this.svg.append(line(latents[name].map((v) => v[index]), low, high, `of-${name}`));
    }
    this.svg.append(this.now);
    this.top.textContent = high.toFixed(1).replace("-", "−");
    this.bottom.textContent = low.toFixed(1).replace("-", "−");
    this.mark(row);
    const told = `${length} frames, from ${(low + margin).toFixed(2)} to ${(high - margin).toFixed(2)}`;
    this.svg.setAttribute("aria-label", `Latent z${index} over ${told}`);
  }

  mark(row) {
    this.now.setAttribute("x1", row);
    this.now.setAttribute("x2", row);
  }
}
