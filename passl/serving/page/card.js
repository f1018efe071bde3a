// An image and what the server answers of it.

import { Failure, compute } from "./client.js";
import { percent, text, whole } from "./language.js";

const AT_ONCE = 4; // images that are on their way at the same time
const TRIES = 5; // of a request that a busy server refuses
const WITH_DETAIL = [400, 404, 413, 422, 500]; // statuses whose message says more than they do
const SMALL = 64; // pixels below which an image is shown as squares

// --- Work, a few at a time --------------------------------------------------------------------
const waiting = [];
let running = 0;

async function next() {
  if (running === AT_ONCE || !waiting.length) return;
  running += 1;
  try {
    await waiting.shift()();
  } finally {
    running -= 1;
    next();
  }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

function make(tag, className, content = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}

const asUrl = (base64) => `data:image/png;base64,${base64}`;

// What went wrong, in words.
export function reason(failure) {
  return text(`failed.${failure.status}`) ?? text("failedOther", { status: failure.status });
}

export class Card {
  // page: { model, limits, showsAttention, showsMasks } as they are now
  // told: called after each answer or failure; removed: after the card is
  constructor(image, name, page, told, removed) {
    Object.assign(this, { image, name, page, told });
    this.turn = 0; // of the questions: an answer to an older one is dropped
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.element.querySelector(selector);
    this.url = URL.createObjectURL(image);
    const photo = this.part(".photo");
    photo.addEventListener("load", () => {
      const isSmall = Math.max(photo.naturalWidth, photo.naturalHeight) < SMALL;
      photo.classList.toggle("small", isSmall);
    });
    photo.addEventListener("error", () => {
      photo.hidden = true;
      this.isUnseen = true;
      this.show();
    });
    photo.src = this.url;
    this.part(".remove").addEventListener("click", () => removed(this));
    this.part(".again").addEventListener("click", () => this.predict());
    this.predict();
  }

  close() {
    this.turn += 1;
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }

  // --- Questions --------------------------------------------------------------------------------
  predict() {
    this.turn += 1;
    this.answer = this.failure = this.attention = null;
    this.show();
    const { turn } = this;
    waiting.push(() => this.ask(turn));
    next();
  }

  async ask(turn) {
    if (turn !== this.turn) return;
    try {
      if (this.image.size > this.page.limits.max_bytes) throw new Failure(413);
      const { content, total, server } = await this.patiently(turn, "predict");
      if (turn !== this.turn) return;
      this.answer = { ...content.predictions[0], total, server };
    } catch (error) {
      if (turn !== this.turn) return;
      this.failure = this.asFailure(error);
    }
    this.show();
    this.told(this);
    await this.attend();
  }

  attendLater() {
    waiting.push(() => this.attend());
    next();
  }

  // Ask for the attention map if it is to be shown and is not there.
  async attend() {
    const { turn } = this;
    if (!this.page.showsAttention || !this.page.model.has_attention) return;
    if (!this.answer || this.attention) return;
    this.attention = {};
    try {
      const { content } = await this.patiently(turn, "attention");
      if (turn === this.turn) this.attention = content.attention[0];
    } catch (error) {
      if (turn === this.turn) this.attention = { failure: this.asFailure(error) };
    }
    if (turn === this.turn) this.show();
  }

  // The answer; a busy server is asked again.
  async patiently(turn, verb) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await compute(this.page.model.name, verb, this.image);
      } catch (error) {
        if (error.status !== 503 || attempt === TRIES || turn !== this.turn) throw error;
        const seconds = Math.max(error.retryAfter ?? 1, 1) * attempt;
        this.busy = seconds;
        this.show();
        await pause(seconds);
        this.busy = null;
        if (turn !== this.turn) throw error;
        this.show();
      }
    }
  }

  asFailure(error) {
    if (error instanceof Failure) return error;
    throw error; // a mistake in this page: the browser's console shows it
  }

  // --- Showing ----------------------------------------------------------------------------------
  show() {
    const { answer, failure, name } = this;
    this.part(".name").textContent = name;
    const remove = this.part(".remove"), again = this.part(".again");
    remove.textContent = text("remove");
    remove.setAttribute("aria-label", text("removeNamed", { name }));
    again.textContent = text("again");
    again.setAttribute("aria-label", text("againNamed", { name }));
    again.hidden = !failure;
    this.part(".photo").alt = name;
    this.part(".answer").replaceChildren(...this.lines());
    this.element.classList.toggle("failed", Boolean(failure));
    this.showMask(answer);
    this.showAttention();
  }

  lines() {
    const { answer, failure } = this;
    const unseen = this.isUnseen && !failure ? [make("p", "note", text("noPreview"))] : [];
    if (failure) {
      const lines = [make("p", "wrong", reason(failure))];
      if (failure.message && WITH_DETAIL.includes(failure.status)) {
        lines.push(make("p", "note", failure.message));
        lines[1].lang = "en"; // the server's words
      }
      return lines;
    }
    if (!answer) {
      const line = this.busy ? text("busyRetry", { seconds: this.busy }) : text("waiting");
      return [make("p", "note", line), ...unseen];
    }
    const [total, server] = [whole(answer.total), answer.server === null ? null : whole(answer.server)];
    const latency = make("p", "note latency", text(server === null ? "latency" : "latencyBoth", { total, server }));
    return [...this.bars(answer), ...unseen, latency];
  }

  bars(answer) {
    const isMask = Boolean(answer.shares);
    const rows = answer.shares ?? answer.best;
    if (!rows.length) return [make("p", "", text("noLabels"))];
    const list = make("ol", "bars");
    for (const row of rows) {
      const value = isMask ? row.share : row.probability;
      const item = make("li", ""), bar = make("span", "bar"), filled = make("span", "filled");
      bar.setAttribute("aria-hidden", "true");
      filled.style.width = `${100 * value}%`;
      bar.append(filled);
      const label = make("span", "class", row.name);
      if (isMask) {
        const color = make("span", "color");
        color.style.backgroundColor = row.color;
        color.setAttribute("aria-hidden", "true");
        label.prepend(color);
      }
      item.append(label, " ", make("span", "value", percent(value)), bar);
      list.append(item);
    }
    return isMask ? [make("p", "note", text("shares")), list] : [list];
  }

  showMask(answer) {
    const mask = this.part(".mask"), photo = this.part(".photo");
    mask.hidden = !answer?.mask || !this.page.showsMasks;
    // A mask is of the image as the server turns it.
    photo.classList.toggle("unturned", Boolean(answer?.mask) && !this.page.model.exif_turn);
    if (mask.hidden) return;
    mask.src = asUrl(answer.mask);
    const shares = answer.shares.map((row) => `${row.name} ${percent(row.share)}`).join(", ");
    mask.alt = text("maskAlt", { shares });
  }

  showAttention() {
    const figure = this.part(".attention"), { attention, name } = this;
    const [image, caption] = figure.children;
    const isKnown = attention?.overlay || attention?.failure;
    figure.hidden = !isKnown || !this.page.showsAttention;
    if (figure.hidden) return;
    image.hidden = Boolean(attention.failure);
    if (attention.failure) {
      caption.textContent = text("attentionFailed", { reason: reason(attention.failure) });
      return;
    }
    image.src = asUrl(attention.overlay);
    image.alt = text("attentionAlt", { name });
    const query = text(`queries.${attention.query}`) ?? attention.query;
    caption.textContent = text("attentionOf", { block: attention.block, query });
  }

  // The answer in one line.
  get summary() {
    const { answer, failure } = this;
    if (failure) return reason(failure);
    const [first] = answer.shares ?? answer.best;
    return first ? `${first.name}, ${percent(first.share ?? first.probability)}` : text("noLabels");
  }
}
