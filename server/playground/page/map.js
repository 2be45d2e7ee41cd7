// Nine short answers to one prompt over a grid of two objectives, written together; a click goes on from one of them.

import { state } from "./store.js";
import { requestOf, sentence, signed } from "./steering.js";
import { html, useEffect, useReducer, useRef, useState } from "./vendor/preact.js";
import { blankText, plainText, Writer } from "./writer.js";

const STEPS = 3;
const TOKENS = 40;

/** Evenly spaced weights from the lowest to the highest that are allowed. */
export const gridOf = ([low, high], steps = STEPS) =>
  Array.from({ length: steps }, (_, index) => Math.round((low + ((high - low) * index) / (steps - 1)) * 100) / 100);

/** `onChoose` gets the weights, prompt, request and text of the cell that was clicked. */
export function Map({ onChoose, onClose }) {
  const { server, settings } = state;
  const dialog = useRef(null);
  const running = useRef([]);
  const [, redraw] = useReducer((count) => count + 1, 0);
  const [across, setAcross] = useState(server.objectives[0].id);
  const [down, setDown] = useState(server.objectives[1].id);
  const [cells, setCells] = useState([]);
  useEffect(() => {
    dialog.current.showModal();
    return () => running.current.forEach((writer) => writer.stop());
  }, []);
  const boundsOf = (name) => server.objectives.find((each) => each.id === name).bounds.map((bound) => Math.max(-1, Math.min(1, bound)));
  const begin = (event) => {
    event.preventDefault();
    running.current.forEach((writer) => writer.stop());
    const prompt = event.target.elements.prompt.value.trim();
    const seed = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
    const made = [...gridOf(boundsOf(down))].reverse().flatMap((vertical) => gridOf(boundsOf(across)).map((horizontal) => {
      const weights = { ...settings.objective_weights, [across]: horizontal, [down]: vertical };
      const own = { ...settings, objective_weights: weights, max_tokens: TOKENS, seed, schedule: null };
      const request = requestOf(server, [{ role: "user", content: prompt }], own);
      return { weights, prompt, request, text: blankText() };
    }));
    setCells(made);
    running.current = made.map((cell) => new Writer({ ...cell.request, return_token_ids: true }, cell.text, redraw));
    running.current.forEach((writer) => writer.run());
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
