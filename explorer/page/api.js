// What the server is asked, and in which order.

async function answered(response) {
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error || `the server answered ${response.status}`);
}

async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Error("the server does not answer: is python -m explorer still running?");
  }
  return answered(response);
}

export async function read(name, query = {}) {
  return (await ask(`/api/${name}?${new URLSearchParams(query)}`)).json();
}

function post(name, words) {
  const headers = { "content-type": "application/json" };
  return ask(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(words) });
}

export async function tell(name, words) {
  return (await post(name, words)).json();
}

export async function draw(name, words) {
  return createImageBitmap(await (await post(name, words)).blob());
}

export async function upload(file) {
  return (await ask("/api/upload", { method: "POST", body: file })).json();
}

export function bitmapOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

// While a job is under way its buttons are disabled. Some browsers take the focus from such a one:
// it gets it back, unless it is elsewhere by then.
export async function holding(buttons, job) {
  const { activeElement: focused } = document;
  for (const button of buttons) button.disabled = true;
  try {
    await job();
  } finally {
    for (const button of buttons) button.disabled = false;
    if (document.activeElement === document.body) focused?.focus();
  }
}

// One request in flight; of what is wished meanwhile only the newest is asked for. What is to come
// when nothing is wished any more is asked for last.
export class Newest {
  #wish = null;
  #after = null;
  #busy = false;

  // told(busy): whether anything is asked for has changed.
  constructor(told) {
    this.told = told;
  }

  get busy() {
    return this.#busy;
  }

  wish(job, after = null) {
    this.#wish = job ?? this.#wish;
    this.#after = after ?? this.#after;
    if (!this.#busy) this.#work();
  }

  async #work() {
    this.told((this.#busy = true));
    try {
      while (this.#wish || this.#after) {
        const job = this.#wish || this.#after;
        if (this.#wish) this.#wish = null;
        else this.#after = null;
        await job();
      }
    } finally {
      this.told((this.#busy = false));
    }
  }
}
