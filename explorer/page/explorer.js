// The page: what is looked at, and who is told when that changes.

import { Newest, draw, holding, read, tell, upload } from "./api.js";
import { Chart } from "./chart.js";
import { Imagination } from "./imagine.js";
import { compose, keep } from "./sheet.js";
import { Sliders, signed } from "./sliders.js";
import { figure, show } from "./tiles.js";

const COLUMNS = 7; // of the strip
const LATENCIES = 50; // of which the median is told
const PAUSE = 80; // milliseconds between two frames that are played

const byId = (id) => document.getElementById(id);
const capital = (text) => text[0].toUpperCase() + text.slice(1);

class Explorer {
  constructor(subject) {
    this.subject = subject;
    this.drawn = subject.models.filter(({ draws }) => draws === null).map(({ name }) => name);
    this.view = subject.main;
    this.reach = subject.reaches.at(-1);
    this.clip = null;
    this.row = 0;
    this.newest = new Newest((busy) => (document.body.dataset.drawing = busy));
    this.latencies = [];
    this.playing = null;
    const size = this.model(this.view).labels.length;
    this.sliders = new Sliders(
      byId("sliders"), size, () => this.#draw(), () => this.#chosen(),
    );
    this.chart = new Chart(byId("lines"), byId("top"), byId("bottom"));
    this.chart.pointed = (share) => {
      if (this.clip) this.go(Math.round(share * (this.clip.rows - 1)));
    };
    this.imagination = new Imagination(subject, () => this.words(), (error) => this.fail(error));
    this.#makeHead();
    this.#makeTiles();
    this.#makeChoices();
    this.#makeSource();
    this.#makeTime();
    this.sliders.setReach(this.reach);
    this.sliders.sort(this.model(this.view).labels, null);
    this.sliders.choose(this.sliders.order[0]);
  }

  model(name) {
    return this.subject.models.find((model) => model.name === name);
  }

  // The latents of every model that draws: the frame's own, each moved by the same offsets.
  get latents() {
    const { offsets } = this.sliders;
    const of = (name) => this.clip.latents[name][this.row].map((value, i) => value + offsets[i]);
    return Object.fromEntries(this.drawn.map((name) => [name, of(name)]));
  }

  words() {
    return { id: this.clip.id, row: this.row, latents: this.latents };
  }

  fail(error) {
    byId("error").textContent = `${capital(error.message)}.`;
    byId("error").hidden = false;
  }

  say(text) {
    byId("said").textContent = text;
  }

  async attempt(job) {
    byId("error").hidden = true;
    document.body.setAttribute("aria-busy", "true");
    try {
      await job();
    } catch (error) {
      this.fail(error);
    } finally {
      document.body.setAttribute("aria-busy", "false");
    }
  }

  // What the page is made of

  #makeHead() {
    byId("title").textContent = this.subject.title;
    byId("folder").textContent = `…/${this.subject.folder.split("/").slice(-3).join("/")}`;
    byId("folder").title = this.subject.folder;
    document.title = `${this.subject.title} – latent explorer`;
    const blind = this.subject.models.find(({ draws }) => draws !== null);
    byId("blind").hidden = blind === undefined;
    if (blind) byId("blind").textContent = `${capital(blind.draws)}.`;
    if (!this.drawn.length) this.sliders.disable(blind.draws);
    byId("reset").disabled = byId("download").disabled = !this.drawn.length;
    byId("reset").addEventListener("click", () => this.sliders.reset());
    byId("download").addEventListener("click", () => this.#download());
  }

  #makeTiles() {
    const { side } = this.subject;
    const truth = figure("Frame", "The frame as it is", side);
    this.tiles = [truth];
    for (const name of this.drawn) {
      this.tiles.push(figure(capital(name), `What the ${name} draws of its latent`, side, name));
    }
    byId("tiles").append(...this.tiles.map(({ made }) => made));
    this.seven = [];
    for (let i = 0; i < COLUMNS; i++) {
      const { made, caption, picture } = figure("", "", side);
      const button = document.createElement("button");
      button.type = "button";
      button.disabled = true;
      button.append(made);
      button.addEventListener("click", () => this.#take(i));
      byId("seven").append(button);
      this.seven.push({ button, caption, picture });
    }
  }

  #makeChoices() {
    const choice = (set, name, values, text, current, chosen) => {
      for (const value of values) {
        const label = document.createElement("label");
        const input = document.createElement("input");
        Object.assign(input, { type: "radio", name, value, checked: value === current });
        input.addEventListener("change", () => chosen(value));
        label.append(input, text(value));
        set.append(label);
      }
    };
    const names = this.subject.models.map(({ name }) => name);
    choice(byId("view"), "view", names, capital, this.view, (name) => {
      this.view = name;
      this.#sort();
      this.#moved();
    });
    byId("view").hidden = names.length < 2;
    const { reaches } = this.subject;
    choice(byId("reach"), "reach", reaches, (reach) => `±${reach}`, this.reach, (reach) => {
      this.reach = reach;
      this.sliders.setReach(reach);
      this.#draw();
    });
    byId("key").append(...names.map((name) => {
      const made = document.createElement("span");
      made.className = `of-${name}`;
      made.textContent = name;
      return made;
    }));
    byId("key").hidden = names.length < 2;
  }

  #makeSource() {
    const { episodes, looks, missing, actions } = this.subject;
    const select = byId("episodes");
    const groups = new Map();
    for (const name of episodes) {
      const [group, ...rest] = name.split("/");
      if (!groups.has(group)) {
        const made = document.createElement("optgroup");
        made.label = { train_eps: "training", eval_eps: "evaluation" }[group] ?? group;
        groups.set(group, made);
        select.append(made);
      }
      groups.get(group).append(new Option(rest.join("/").replace(/\.npz$/, ""), name));
    }
    select.disabled = !episodes.length;
    if (!episodes.length) this.#name("", "none beside this");
    select.addEventListener("change", () => this.open(select.value));
    byId("upload").addEventListener("change", () => this.#upload());
    byId("look").append(...looks.map((name) => new Option(name.replaceAll("_", " "), name)));
    byId("look").disabled = byId("begin").disabled = missing.live !== null;
    if (missing.live) {
      byId("live-reason").textContent = `No live environment: ${missing.live}.`;
      byId("live-reason").hidden = false;
    }
    const [policy, , chosen] = byId("player").options;
    policy.disabled = missing.policy !== null;
    chosen.disabled = actions === null;
    byId("player").value = missing.policy === null ? "policy" : "random";
    byId("player").addEventListener("change", () => this.imagination.moved());
    byId("begin").addEventListener("click", () => this.#begin());
    byId("step").addEventListener("click", () => this.#play(1));
    byId("steps").addEventListener("click", () => this.#play(10));
  }

  #makeTime() {
    byId("row").addEventListener("input", () => this.go(Number(byId("row").value)));
    byId("run").addEventListener("click", () => this.#run(this.playing === null));
  }

  // Where frames come from

  // Shows what no list of episodes has.
  #name(id, title) {
    const other = byId("other");
    other.value = id;
    other.text = title;
    byId("episodes").value = id;
  }

  open(name) {
    return this.attempt(async () => {
      try {
        this.#opened(await read("clip", { id: name }));
      } catch (error) {
        byId("episodes").value = this.clip?.id ?? ""; // what is shown still
        throw error;
      }
    });
  }

  #opened(clip) {
    this.#run(false);
    this.clip = clip;
    this.row = 0;
    this.sliders.reset(true);
    this.imagination.open(clip);
    if (this.subject.episodes.includes(clip.id)) byId("episodes").value = clip.id;
    else this.#name(clip.id, clip.title);
    this.#grown();
    this.say(`${clip.title}, ${clip.rows} frames`);
  }

  #grown() {
    byId("row").max = this.clip.rows - 1;
    byId("row").disabled = byId("run").disabled = this.clip.rows < 2;
    byId("playing").hidden = !this.clip.playing;
    this.imagination.moved();
    this.#sort();
    this.#moved();
  }

  #upload() {
    const [file] = byId("upload").files;
    byId("upload").value = "";
    if (!file) return;
    this.attempt(async () => {
      const { upload: largest } = this.subject.limits;
      if (file.size > largest) {
        throw new Error(`${file.name} is larger than ${largest / 2 ** 20} MiB: give less`);
      }
      this.#opened(await upload(file));
    });
  }

  #begin() {
    this.say("the environment is being made");
    holding([byId("begin")], () => this.attempt(async () => {
      this.#opened(await tell("begin", { look: byId("look").value }));
    }));
  }

  #play(steps) {
    const chosen = byId("player").value;
    const action = chosen === "chosen" ? this.imagination.chosen : chosen;
    holding([byId("step"), byId("steps")], () => this.attempt(async () => {
      const { clip } = this;
      const more = await tell("play", { id: clip.id, action, steps });
      for (const [name, rows] of Object.entries(more.latents)) {
        clip.latents[name] = clip.latents[name].slice(0, more.since).concat(rows);
      }
      Object.assign(clip, { rows: more.rows, playing: more.playing, kl: more.kl });
      if (clip !== this.clip) return;
      this.row = clip.rows - 1;
      this.#grown();
      this.say(clip.playing ? `frame ${this.row}` : `the episode ended at frame ${this.row}`);
    }));
  }

  // What is looked at

  #sort() {
    this.sliders.sort(this.model(this.view).labels, this.clip && this.clip.kl[this.view]);
  }

  go(row) {
    if (row === this.row) return;
    this.row = row;
    this.imagination.moved();
    this.#moved();
  }

  #moved() {
    if (!this.clip) return;
    const { rows } = this.clip;
    byId("row").value = this.row;
    byId("row-text").textContent = `${this.row} / ${rows - 1}`;
    byId("row").setAttribute("aria-valuetext", `frame ${this.row} of ${rows - 1}`);
    this.sliders.setBase(this.clip.latents[this.view][this.row]);
    this.#chosen(true);
    this.#draw();
  }

  // Another latent is looked at, or another frame of it.
  #chosen(quiet = false) {
    if (!this.clip || this.sliders.chosen === null) return;
    const index = this.sliders.chosen;
    const name = this.sliders.nameOf(index, this.model(this.view).labels);
    byId("strip-name").textContent = this.drawn.includes(this.view) ? `${name}, ${this.view}` : "";
    byId("time-name").textContent = name;
    if (quiet && this.charted === `${this.clip.id} ${this.clip.rows} ${this.view} ${index}`) {
      this.chart.mark(this.row);
    } else {
      this.chart.draw(this.clip.latents, this.view, index, this.row);
      this.charted = `${this.clip.id} ${this.clip.rows} ${this.view} ${index}`;
    }
    if (!quiet) this.newest.wish(null, () => this.#strip());
  }

  #draw() {
    if (!this.clip) return;
    this.newest.wish(
      () => this.#pictures(),
      this.drawn.includes(this.view) ? () => this.#strip() : null,
    );
  }

  async #pictures() {
    const begun = performance.now();
    try {
      const sheet = await draw("pictures", this.words());
      this.tiles.forEach(({ picture }, column) => show(picture, sheet, column));
      this.#timed(performance.now() - begun);
    } catch (error) {
      this.fail(error);
    }
  }

  async #strip() {
    const index = this.sliders.chosen;
    const { id, row, latents } = this.words();
    if (!(this.view in latents)) return;
    const latent = [...latents[this.view]];
    const base = this.clip.latents[this.view][this.row][index];
    latent[index] = base;
    try {
      const words = { id, row, model: this.view, latent, index, reach: this.reach };
      const sheet = await draw("strip", words);
      const step = (2 * this.reach) / (COLUMNS - 1);
      const offset = this.sliders.offsets[index];
      this.seven.forEach(({ button, caption, picture }, column) => {
        const moved = -this.reach + column * step;
        show(picture, sheet, column);
        caption.textContent = moved ? signed(moved).replace(/\.00$/, "") : "mean";
        picture.setAttribute("aria-label", `z${index} moved by ${signed(moved)}`);
        button.disabled = false;
        button.setAttribute("aria-pressed", Math.abs(offset - moved) < 0.01);
      });
    } catch (error) {
      this.fail(error);
    }
  }

  #take(column) {
    const moved = -this.reach + (column * 2 * this.reach) / (COLUMNS - 1);
    this.sliders.set(this.sliders.chosen, Math.abs(moved) < 1e-9 ? 0 : moved);
  }

  #timed(milliseconds) {
    this.latencies.push(milliseconds);
    if (this.latencies.length > LATENCIES) this.latencies.shift();
    const sorted = [...this.latencies].sort((a, b) => a - b);
    byId("latency").textContent = `${Math.round(sorted[sorted.length >> 1])} ms`;
  }

  #run(on) {
    clearInterval(this.playing);
    this.playing = null;
    byId("run").setAttribute("aria-pressed", on);
    byId("run").textContent = on ? "❚❚" : "▶";
    if (!on) return;
    if (this.row === this.clip.rows - 1) this.go(0);
    this.playing = setInterval(() => {
      if (this.newest.busy) return;
      if (this.row === this.clip.rows - 1) this.#run(false);
      else this.go(this.row + 1);
    }, PAUSE);
  }

  #download() {
    if (!this.clip) return;
    const named = ({ caption, picture }) => ({ name: caption.textContent, canvas: picture });
    const index = this.sliders.chosen;
    const rows = [{ title: `Frame ${this.row}`, tiles: this.tiles.map(named) }];
    rows.push({ title: `z${index} of the ${this.view}, moved`, tiles: this.seven.map(named) });
    const film = [...document.querySelectorAll("#film canvas")];
    const { found } = this.imagination;
    if (found) {
      const count = film.length / (found.truth ? 2 : 1);
      const steps = [...document.querySelectorAll("#film .step")].map((step) => step.textContent);
      const of = (row) => film.slice(row * count, (row + 1) * count);
      const tiles = (row) => of(row).map((canvas, i) => ({ name: steps[i], canvas }));
      rows.push({ title: `Imagined by the ${found.model}, from frame ${found.row}`, tiles: tiles(0) });
      if (found.truth) rows.push({ title: "What happened", tiles: tiles(1) });
    }
    const moved = this.sliders.offsets
      .map((offset, i) => (offset ? `z${i} ${signed(offset)}` : ""))
      .filter(Boolean);
    const notes = [`${this.clip.title} · moved: ${moved.join(", ") || "nothing"}`];
    const name = `latents_${this.clip.title.replace(/\W+/g, "_")}_${this.row}.png`;
    keep(compose(this.subject.title, rows, notes), name);
  }
}

async function begin() {
  let explorer;
  try {
    explorer = new Explorer(await read("subject"));
  } catch (error) {
    byId("error").textContent = error.message;
    byId("error").hidden = false;
    return;
  }
  const [first] = explorer.subject.episodes;
  if (first) await explorer.open(first);
  document.body.dataset.ready = "true";
}

begin();
