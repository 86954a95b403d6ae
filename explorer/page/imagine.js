// Open-loop imagination: the actions it is given, and the film that comes of it.

import { bitmapOf, holding, tell } from "./api.js";
import { canvas, figure, show } from "./tiles.js";
import { signed } from "./sliders.js";

const COLUMNS = 8; // of the film
const PAUSE = 90; // milliseconds between two frames

const byId = (id) => document.getElementById(id);

export class Imagination {
  // words(): what is looked at, {id, row, model → latent}; failed(error) shows an error.
  constructor(subject, words, failed) {
    this.subject = subject;
    this.words = words;
    this.failed = failed;
    this.clip = null;
    this.sheet = null;
    this.found = null;
    this.model = byId("imagine-model");
    this.action = byId("imagine-action");
    this.wish = this.action.value; // what was chosen, also where it cannot be had
    this.timer = null;
    for (const { name, draws } of subject.models) {
      const option = new Option(name, name);
      option.disabled = draws !== null;
      this.model.append(option);
    }
    this.model.value = subject.main;
    byId("horizon").max = subject.limits.horizon;
    this.#makeActions();
    this.model.addEventListener("change", () => this.#allow());
    this.action.addEventListener("change", () => {
      this.wish = this.action.value;
      this.#allow();
    });
    byId("go").addEventListener("click", () => {
      this.#run(false);
      holding([byId("go")], () => this.#imagine()).then(() => this.#allow()); // if it still may
    });
    byId("imagined-row").addEventListener("input", () => this.#show());
    byId("imagined-run").addEventListener("click", () => this.#run(this.timer === null));
    this.#allow();
  }

  #makeActions() {
    const { actions } = this.subject;
    if (actions === null) return;
    const set = byId("action");
    this.chosen = new Array(actions.size).fill(0);
    if (actions.discrete) {
      const select = document.createElement("select");
      select.setAttribute("aria-label", "Chosen action");
      for (let i = 0; i < actions.size; i++) select.append(new Option(`action ${i}`, i));
      select.addEventListener("change", () => this.#choose(Number(select.value)));
      set.append(select);
      this.#choose(0);
      return;
    }
    for (let i = 0; i < actions.size; i++) {
      const label = document.createElement("label");
      const slider = document.createElement("input");
      const text = document.createElement("output");
      Object.assign(slider, { type: "range", min: -1, max: 1, step: 0.05, value: 0 });
      slider.className = "slider";
      slider.setAttribute("aria-label", `Action ${i}`);
      const shown = () => {
        this.chosen[i] = Number(slider.value);
        text.textContent = signed(this.chosen[i]);
        const at = 50 + 50 * this.chosen[i];
        slider.style.setProperty("--from", `${Math.min(50, at)}%`);
        slider.style.setProperty("--to", `${Math.max(50, at)}%`);
      };
      slider.addEventListener("input", shown);
      shown();
      label.append(`a${i}`, slider, text);
      set.append(label);
    }
  }

  #choose(index) {
    this.chosen.fill(0);
    this.chosen[index] = 1;
  }

  // What can be chosen here, and why the rest cannot.
  #allow() {
    const { models, missing } = this.subject;
    const model = models.find(({ name }) => name === this.model.value);
    let reason = model.draws;
    if (reason === null && !model.actions) {
      reason = missing.policy || "The teacher learned without actions: it imagines what is likely.";
      if (missing.policy) reason = `Without actions: ${missing.policy}.`;
    }
    const recorded = this.clip !== null && this.clip.actions && this.words().row < this.clip.rows - 1;
    const options = this.action.options;
    options[1].disabled = !recorded;
    this.action.value = this.wish === "recorded" && !recorded ? "policy" : this.wish;
    this.action.disabled = !model.actions;
    byId("action").hidden = this.subject.actions === null || !this.#choosing(model);
    byId("go").disabled = model.draws !== null || this.clip === null;
    byId("imagine-reason").textContent = reason ?? "";
    byId("imagine-reason").hidden = reason === null;
  }

  #choosing(model) {
    const playing = !byId("playing").hidden && byId("player").value === "chosen";
    return playing || (model.actions && this.action.value === "chosen");
  }

  // Another sequence is looked at, of which nothing has been imagined.
  open(clip) {
    this.#run(false);
    this.found = null;
    byId("imagined").hidden = true;
    this.clip = clip;
    this.#allow();
  }

  moved() {
    this.#allow();
  }

  async #imagine() {
    const { clip } = this;
    const { id, row, latents } = this.words();
    const model = this.model.value;
    const action = this.action.value === "chosen" ? this.chosen : this.action.value;
    const horizon = Math.round(Number(byId("horizon").value));
    try {
      const words = { id, row, model, latent: latents[model], action, horizon };
      const found = await tell("imagine", words);
      const sheet = await bitmapOf(found.png);
      if (clip !== this.clip) return;
      this.sheet = sheet;
      this.found = { ...found, model, row };
      this.#lay();
    } catch (error) {
      if (clip === this.clip) this.failed(error);
    }
  }

  #lay() {
    const { frames, truth, model } = this.found;
    const { side } = this.subject;
    const count = Math.min(COLUMNS, frames);
    const film = byId("film");
    const rows = truth ? ["imagined", "true"] : ["imagined"];
    film.replaceChildren();
    this.players = rows.map((name, row) =>
      figure(name, `${name}, the step that is chosen`, side, row ? "" : model),
    );
    byId("players").replaceChildren(...this.players.map(({ made }) => made));
    rows.forEach((name, row) => {
      const label = document.createElement("span");
      label.className = "row";
      label.textContent = name;
      film.append(label);
      for (let i = 0; i < count; i++) {
        const step = count > 1 ? Math.round((i * (frames - 1)) / (count - 1)) : 0;
        const picture = canvas(`${name}, step ${step}`, side);
        if (!row || step < truth) show(picture, this.sheet, step, row);
        else picture.className = "none";
        film.append(picture);
      }
    });
    film.append(document.createElement("span"));
    for (let i = 0; i < count; i++) {
      const step = count > 1 ? Math.round((i * (frames - 1)) / (count - 1)) : 0;
      const text = document.createElement("span");
      text.className = "step";
      text.textContent = step ? `+${step}` : "now";
      film.append(text);
    }
    film.style.setProperty("--columns", count);
    const slider = byId("imagined-row");
    slider.max = frames - 1;
    slider.value = 0;
    byId("imagined").hidden = false;
    this.#show();
    this.#run(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  #show() {
    const step = Number(byId("imagined-row").value);
    const { truth, reward, frames } = this.found;
    this.players.forEach(({ picture }, row) => {
      const there = !row || step < truth;
      picture.classList.toggle("none", !there);
      if (there) show(picture, this.sheet, step, row);
    });
    let text = `+${step} of ${frames - 1}`;
    if (reward !== null) {
      const sum = reward.slice(0, step).reduce((a, b) => a + b, 0);
      text += ` · predicted reward so far ${sum.toFixed(2).replace("-", "−")}`;
    }
    byId("imagined-text").textContent = text;
    byId("imagined-row").setAttribute("aria-valuetext", text);
  }

  #run(on) {
    clearInterval(this.timer);
    this.timer = null;
    const button = byId("imagined-run");
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "❚❚" : "▶";
    if (!on) return;
    const slider = byId("imagined-row");
    this.timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      if (next > Number(slider.max)) return this.#run(false);
      slider.value = next;
      this.#show();
    }, PAUSE);
  }
}
