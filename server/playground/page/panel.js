// The sliders and what stands beside them. They set the next text, and change the one that is being written.

import { changed, keep, state } from "./store.js";
import { applied, signed } from "./steering.js";
import { html } from "./vendor/preact.js";

const FIRST = 3;

/** `onSteer` gets what a running text is to be told. */
export function Panel({ onSteer, isWriting }) {
  const { server, settings } = state;
  const set = (fields, steered = {}) => {
    Object.assign(settings, fields);
    if (Object.keys(steered).length) onSteer(steered);
    keep();
    changed();
  };
  const weigh = (name, weight) => {
    settings.objective_weights = { ...settings.objective_weights, [name]: weight };
    set({ profile: null, schedule: null }, { objective_weights: { [name]: weight } });
  };
  const slider = (objective) => html`<${Weight} key=${objective.id} objective=${objective}
    weight=${settings.objective_weights[objective.id] ?? objective.default} onWeigh=${(weight) => weigh(objective.id, weight)} />`;
  const [first, more] = [server.objectives.slice(0, FIRST), server.objectives.slice(FIRST)];
  return html`
    <section class="panel" aria-label="Sliders">
      ${isWriting && html`<p class="live" role="status">Live: what you move changes what comes next.</p>`}
      ${first.map(slider)}
      ${more.length > 0 && html`<details><summary>${more.length} more</summary>${more.map(slider)}</details>`}
      <button type="button" class="quiet" onClick=${() => choose({}, onSteer)}>Reset sliders</button>
      <${Strength} set=${set} />
      <${Comparison} set=${set} />
      <details class="advanced"><summary>Sampling</summary><${Sampling} set=${set} /></details>
    </section>`;
}

/** Set the sliders to a profile's fields, or to weights alone; what these do not name goes back to its default. */
export function choose(profile, onSteer) {
  state.settings = { ...applied(state.server, state.settings, profile), profile: profile.id ?? null };
  const { objective_weights, beta, kl_budget } = state.settings;
  onSteer({ objective_weights, beta, kl_budget });
  keep();
  changed();
}

function Weight({ objective, weight, onWeigh }) {
  const [low, high] = objective.bounds;
  const id = `weight-${objective.id}`;
  const floor = objective.floor === null ? "" : ` The operator holds it at ${signed(objective.floor)} or more.`;
  return html`
    <div class="slider">
      <label for=${id}>${objective.id}</label><output for=${id}>${signed(weight)}</output>
      <input id=${id} type="range" min=${low} max=${high} step="0.05" value=${weight} aria-describedby=${`${id}-says`}
        aria-valuetext=${`${objective.id} ${signed(weight)}`} onInput=${(event) => onWeigh(event.target.valueAsNumber)}
        onDblClick=${() => onWeigh(objective.default)} />
      <p id=${`${id}-says`}>${objective.description}${floor}</p>
    </div>`;
}

function Strength({ set }) {
  const { beta, kl_budget } = state.settings;
  const budget = kl_budget === null ? 0 : kl_budget;
  return html`
    <div class="slider">
      <label for="beta">strength</label><output for="beta">${(beta ?? 1).toFixed(2)}×</output>
      <input id="beta" type="range" min="0" max="3" step="0.05" value=${beta ?? 1} aria-valuetext=${`strength ${(beta ?? 1).toFixed(2)}`}
        onInput=${(event) => set({ beta: event.target.valueAsNumber }, { beta: event.target.valueAsNumber })} />
      <p>Multiplies all sliders.</p>
    </div>
    <div class="slider">
      <label for="budget">most it may cost</label><output for="budget">${budget ? `${budget.toFixed(2)} nats a token` : "no limit"}</output>
      <input id="budget" type="range" min="0" max="1" step="0.02" value=${budget}
        aria-valuetext=${budget ? `${budget.toFixed(2)} nats a token` : "no limit"}
        onInput=${(event) => { const chosen = event.target.valueAsNumber || null; set({ kl_budget: chosen }, { kl_budget: chosen }); }} />
      <p>How far each token may be from what the base would write.</p>
    </div>`;
}

function Comparison({ set }) {
  const { server, settings } = state;
  return html`
    <div class="field">
      <label for="compare">second column</label>
      <select id="compare" value=${settings.compare} onChange=${(event) => set({ compare: event.target.value })}>
        <option value="none">none</option>
        <option value="base">the base, same seed</option>
        <option value="opposite">the opposite, same seed</option>
        ${server.profiles.map((each) => html`<option value=${`profile:${each.id}`}>${each.title ?? each.id}</option>`)}
      </select>
    </div>`;
}

function Sampling({ set }) {
  const { server, settings } = state;
  const scorings = server.objectives[0]?.scorings ?? [];
  return html`
    <div class="slider">
      <label for="temperature">temperature</label><output for="temperature">${settings.temperature.toFixed(2)}</output>
      <input id="temperature" type="range" min="0" max="2" step="0.05" value=${settings.temperature}
        aria-valuetext=${`temperature ${settings.temperature.toFixed(2)}`}
        onInput=${(event) => set({ temperature: event.target.valueAsNumber })} />
    </div>
    <div class="field">
      <label for="length">tokens, at most</label>
      <input id="length" type="number" min="1" max=${server.maxTokens} value=${settings.max_tokens}
        onChange=${(event) => set({ max_tokens: Math.max(1, Math.min(server.maxTokens, event.target.valueAsNumber || 1)) })} />
    </div>
    <div class="field">
      <label for="seed">seed</label>
      <input id="seed" type="number" min="0" step="1" placeholder="another each time" value=${settings.seed ?? ""}
        onChange=${(event) => set({ seed: Number.isFinite(event.target.valueAsNumber) ? Math.trunc(event.target.valueAsNumber) : null })} />
    </div>
    ${scorings.length > 1 && html`<div class="field">
      <label for="scoring">scoring</label>
      <select id="scoring" value=${settings.scoring ?? ""} onChange=${(event) => set({ scoring: event.target.value || null })}>
        <option value="">the server's</option>${scorings.map((each) => html`<option value=${each}>${each}</option>`)}
      </select>
    </div>`}`;
}
