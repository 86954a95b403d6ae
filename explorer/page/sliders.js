// The latents: a slider each, sorted by KL, named by what it tells of.

const number = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
export const signed = (value) => (value > 0 ? "+" : "") + number(value);

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

export class Sliders {
  // changed(): offsets have; chosen(index): another slider is looked at.
  constructor(list, size, changed, chosen) {
    this.list = list;
    this.offsets = new Array(size).fill(0);
    this.base = new Array(size).fill(0);
    this.chosen = null;
    this.changed = changed;
    this.onChosen = chosen;
    this.rows = this.offsets.map((_, index) => this.#row(index));
  }

  #row(index) {
    const row = element("li", "latent");
    const name = element("label", "name", `z${index}`);
    const factor = element("span", "factor");
    const kl = element("span", "kl");
    const slider = element("input", "slider");
    const value = element("output", "value");
    const back = element("button", "back", "↺");
    slider.type = "range";
    slider.step = "0.01";
    slider.value = "0";
    slider.id = name.htmlFor = `z${index}`;
    value.htmlFor = slider.id;
    back.type = "button";
    back.title = `Reset z${index}`;
    back.setAttribute("aria-label", back.title);
    slider.addEventListener("input", () => this.#moved(index));
    slider.addEventListener("focus", () => this.choose(index));
    slider.addEventListener("keydown", (event) => {
      if (event.key !== "Delete" && event.key !== "Backspace") return;
      event.preventDefault();
      this.set(index, 0);
    });
    back.addEventListener("click", () => {
      this.set(index, 0);
      slider.focus();
    });
    row.addEventListener("pointerdown", () => this.choose(index));
    row.append(name, factor, kl, slider, value, back);
    return { row, name, factor, kl, slider, value, back };
  }

  #moved(index) {
    const offset = Number(this.rows[index].slider.value);
    this.offsets[index] = Math.abs(offset) < 0.005 ? 0 : offset;
    this.#show(index);
    this.choose(index);
    this.changed();
  }

  #show(index) {
    const { row, slider, value, back } = this.rows[index];
    const offset = this.offsets[index];
    const sum = this.base[index] + offset;
    slider.value = offset;
    const at = 50 + (50 * offset) / Number(slider.max || 1);
    slider.style.setProperty("--from", `${Math.min(50, at)}%`);
    slider.style.setProperty("--to", `${Math.max(50, at)}%`);
    value.textContent = number(sum);
    slider.setAttribute("aria-valuetext", `moved by ${signed(offset)}, value ${number(sum)}`);
    row.classList.toggle("moved", offset !== 0);
    back.disabled = offset === 0;
  }

  set(index, offset) {
    this.offsets[index] = offset;
    this.#show(index);
    this.changed();
  }

  reset(quiet = false) {
    this.offsets.fill(0);
    this.rows.forEach((_, index) => this.#show(index));
    if (!quiet) this.changed();
  }

  setBase(base) {
    this.base = base;
    this.rows.forEach((_, index) => this.#show(index));
  }

  setReach(reach) {
    this.rows.forEach(({ slider }, index) => {
      slider.min = -reach;
      slider.max = reach;
      this.offsets[index] = Math.max(-reach, Math.min(reach, this.offsets[index]));
      this.#show(index);
    });
  }

  disable(reason) {
    for (const { slider } of this.rows) slider.disabled = Boolean(reason);
  }

  // labels: {kl, factor, r2} of each latent; kl: of what is looked at, where none was measured.
  sort(labels, kl) {
    const sizes = labels.map((label, index) => label.kl ?? (kl ? kl[index] : null));
    const most = Math.max(...sizes.map((size) => size ?? 0), 1e-9);
    const named = labels.some((label) => label.factor !== null);
    this.list.parentElement.classList.toggle("unnamed", !named);
    const order = sizes.map((_, index) => index);
    order.sort((a, b) => (sizes[b] ?? 0) - (sizes[a] ?? 0) || a - b);
    for (const index of order) {
      const { row, factor, kl: bar, slider } = this.rows[index];
      const { factor: told, r2 } = labels[index];
      const size = sizes[index];
      factor.textContent = "";
      if (told !== null) {
        factor.append(element("b", "", told), element("i", "", `R² ${r2.toFixed(2)}`));
        factor.title = `${told}, R² ${r2.toFixed(2)}`;
      } else {
        factor.title = "";
      }
      bar.textContent = size === null ? "–" : size.toFixed(2);
      bar.style.setProperty("--share", `${(100 * (size ?? 0)) / most}%`);
      const words = [`Latent z${index}`];
      if (told !== null) words.push(`tells of ${told}, R² ${r2.toFixed(2)}`);
      if (size !== null) words.push(`KL ${size.toFixed(2)} nats`);
      slider.setAttribute("aria-label", words.join(", "));
      this.list.append(row);
    }
    this.order = order;
  }

  nameOf(index, labels) {
    const told = labels[index].factor;
    return told === null ? `z${index}` : `z${index}, ${told}`;
  }

  choose(index) {
    if (index === this.chosen) return;
    if (this.chosen !== null) this.rows[this.chosen].row.classList.remove("chosen");
    this.rows[index].row.classList.add("chosen");
    this.chosen = index;
    this.onChosen(index);
  }
}
