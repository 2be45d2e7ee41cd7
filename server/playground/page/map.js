// Nine short answers to one prompt over a grid of two objectives, by one request; a click goes on from one of them.

import { promptTokens } from "./api.js";
import { state } from "./store.js";
import { requestOf, sentence, signed } from "./steering.js";
import { html, useEffect, useReducer, useRef, useState } from "./vendor/preact.js";
import { blankText, plainText, Writer, writeTogether } from "./writer.js";

const STEPS = 3;
const TOKENS = 40;

/** Evenly spaced weights from the lowest to the highest that are allowed. */
export const gridOf = ([low, high], steps = STEPS) =>
  Array.from({ length: steps }, (_, index) => Math.round((low + ((high - low) * index) / (steps - 1)) * 100) / 100);

/** One request for all cells: each is a choice with the same prompt and seed, and its own weights from its first token. */
async function together(server, cells) {
  const { messages, objective_weights, ...shared } = cells[0].request;
  const tokens = await promptTokens(server.model, messages);
  const schedule = cells.map(({ weights }, choice) => ({ from_token: 0, choice, objective_weights: weights }));
  return { ...shared, prompt: cells.map(() => tokens), schedule, return_token_ids: true };
}

/** `onChoose` gets the weights, prompt, request and text of the cell that was clicked. */
export function Map({ onChoose, onClose }) {
  const { server, settings } = state;
  const dialog = useRef(null);
  const running = useRef(new AbortController());
  const [, redraw] = useReducer((count) => count + 1, 0);
  const [across, setAcross] = useState(server.objectives[0].id);
  const [down, setDown] = useState(server.objectives[1].id);
  const [cells, setCells] = useState([]);
  useEffect(() => {
    dialog.current.showModal();
    return () => running.current.abort();
  }, []);
  const boundsOf = (name) => server.objectives.find((each) => each.id === name).bounds.map((bound) => Math.max(-1, Math.min(1, bound)));
  const begin = (event) => {
    event.preventDefault();
    running.current.abort();
    running.current = new AbortController();
    const prompt = event.target.elements.prompt.value.trim();
    const seed = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
    const made = [...gridOf(boundsOf(down))].reverse().flatMap((vertical) => gridOf(boundsOf(across)).map((horizontal) => {
      const weights = { ...settings.objective_weights, [across]: horizontal, [down]: vertical };
      const own = { ...settings, objective_weights: weights, max_tokens: TOKENS, seed, schedule: null };
      const request = requestOf(server, [{ role: "user", content: prompt }], own);
      return { weights, prompt, request, text: blankText() };
    }));
    setCells(made);
    const writers = made.map((cell) => new Writer(cell.request, cell.text, redraw));
    writeTogether(() => together(server, made), writers, running.current.signal);
  };
  const objective = (value, set, other, label) => html`<label>${label} <select value=${value} onChange=${(event) => set(event.target.value)}>
    ${server.objectives.map((each) => html`<option value=${each.id} disabled=${each.id === other}>${each.id}</option>`)}</select></label>`;
  return html`<dialog class="wide" ref=${dialog} aria-labelledby="map-title" onClose=${onClose}>
    <h2 id="map-title">Map of two sliders</h2>
    <form onSubmit=${begin} class="row">
      <label class="grow">Prompt <input name="prompt" type="text" required value="Tell me about your day." /></label>
      ${objective(across, setAcross, down, "left to right")} ${objective(down, setDown, across, "upwards")}
      <button type="submit" class="primary">Write nine answers</button>
    </form>
    <div class="map" style=${{ gridTemplateColumns: `repeat(${STEPS}, minmax(0, 1fr))` }}>
      ${cells.map((cell, index) => html`<button key=${index} type="button" class="cell" aria-label=${`Go on from: ${sentence(cell.weights)}`}
        disabled=${cell.text.status === "waiting" || cell.text.status === "writing"} onClick=${() => { dialog.current.close(); onChoose(cell); }}>
        <small>${across} ${signed(cell.weights[across])}, ${down} ${signed(cell.weights[down])}</small>
        <span>${plainText(cell.text) || "…"}</span>
        ${cell.text.error && html`<b>${cell.text.error.message}</b>`}
      </button>`)}
    </div>
    <form method="dialog"><button>Close</button></form>
  </dialog>`;
}
