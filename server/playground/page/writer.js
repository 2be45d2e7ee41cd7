// One text while it is written: asks for it, follows the stream, carries changes. No page in here.
//
// A text is `{status, tokens, settings, kl, values, finish, error, seconds, speed}`. A token is what one event brought,
// which is one token as a rule: `{text, ids, at, traces}`, `at` being how many tokens came before.

import { ApiError, change, stream } from "./api.js";

/** A new text, about to be written. */
export const blankText = () => ({
  status: "waiting", tokens: [], settings: [], kl: null, values: {}, finish: null, error: null, seconds: 0,
  speed: null,
});

/** A text that was written elsewhere: nothing is known but its words. */
export const quotedText = (content) => ({ ...blankText(), status: "done", tokens: [{ text: content, ids: [], at: 0 }] });

export const plainText = (text) => text.tokens.map((token) => token.text).join("");

export class Writer {
  /** `onUpdate` is called whenever the text has changed. */
  constructor(body, text, onUpdate) {
    this.body = body;
    this.text = text;
    this.onUpdate = onUpdate;
    this.token = randomToken();
    this.id = null;
    this.abort = new AbortController();
    this.wanted = null;
    this.isChanging = false;
    this.untraced = 0;
    this.note({ from_token: 0, ...body });
  }

  /** Write to the end. Never throws: what goes wrong stands in the text. */
  async run() {
    const started = performance.now();
    let first = null;
    try {
      for await (const event of stream(this.body, this.abort.signal, this.token)) {
        this.take(event);
        const now = performance.now();
        if (this.count > 0) first ??= now;
        this.text.seconds = (now - started) / 1000;
        if (this.count > 1 && now > first) this.text.speed = (1000 * (this.count - 1)) / (now - first);
        this.onUpdate();
      }
      this.text.status = "done";
    } catch (error) {
      this.end(error);
    }
    this.onUpdate();
  }

  /** How many tokens have come. */
  get count() {
    const last = this.text.tokens.at(-1);
    return last ? last.at + Math.max(1, last.ids.length) : 0;
  }

  end(error) {
    if (error.name === "AbortError") {
      this.text.status = "stopped";
      return;
    }
    this.text.status = "failed";
    this.text.error = { message: error.message, hint: error instanceof ApiError ? error.hint : "Try again." };
  }

  take(event) {
    this.id ??= event.id;
    if (event.choices?.[0]) this.takeChoice(event.choices[0]);
    this.send();
  }

  takeChoice(choice) {
    if (this.text.status === "waiting") this.text.status = "writing";
    const mavis = choice.mavis ?? {};
    const piece = choice.delta?.content ?? choice.text ?? "";
    const traces = mavis.tokens ?? [];
    const ids = choice.token_ids ?? [];
    if (piece || ids.length) this.text.tokens.push({ text: piece, ids, at: this.count });
    this.place(traces);
    for (const setting of mavis.steering ?? []) this.note(setting);
    if (mavis.objective_weights) {
      this.text.kl = mavis.kl;
      this.text.values = mavis.values;
    }
    if (choice.finish_reason) this.text.finish = choice.finish_reason;
  }

  /** Traces come in the order of tokens, at times later than their text. */
  place(traces) {
    for (const trace of traces) {
      const token = this.text.tokens[this.untraced];
      if (!token) return;
      (token.traces ??= []).push(trace);
      if (token.traces.length >= Math.max(1, token.ids.length)) this.untraced += 1;
    }
  }

  note({ from_token, objective_weights = {}, beta = null, kl_budget = null }) {
    this.text.settings = this.text.settings.filter((setting) => setting.from_token < from_token);
    this.text.settings.push({ from_token, objective_weights, beta, kl_budget });
  }

  /** Ask for other weights, strength or budget from the next token on. Of several wishes in a moment the last counts. */
  steer(fields) {
    this.wanted = { ...this.wanted, ...fields };
    this.send();
  }

  async send() {
    if (this.isChanging || this.id === null || this.wanted === null) return;
    const fields = this.wanted;
    this.wanted = null;
    this.isChanging = true;
    try {
      await change(this.id, this.token, fields);
    } catch (error) {
      // It ended meanwhile: there is nothing left to steer.
      if (error.status !== 404 && error.status !== 409) this.text.note = error.message;
    }
    this.isChanging = false;
    this.send();
  }

  stop() {
    this.abort.abort();
  }
}

/** Write the texts of several writers by one request for completions, a choice each; `ask` makes it. Never throws. */
export async function writeTogether(ask, writers, signal) {
  try {
    for await (const event of stream(await ask(), signal, randomToken(), "/v1/completions")) {
      for (const choice of event.choices ?? []) {
        const writer = writers[choice.index];
        writer.takeChoice(choice);
        if (choice.finish_reason) writer.text.status = "done";
        writer.onUpdate();
      }
    }
  } catch (error) {
    for (const writer of writers.filter((each) => each.text.status !== "done")) {
      writer.end(error);
      writer.onUpdate();
    }
  }
}

function randomToken() {
  const bytes = crypto.getRandomValues(new Uint8Array(24));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
