// What was measured: which weights of two objectives buy what, as points; choosing a point sets the sliders.

import { getJson } from "./api.js";
import { state } from "./store.js";
import { sentence, signed } from "./steering.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

const MARGIN = 0.3; // standard deviations around the outermost intervals

/** The span that holds all intervals of an objective, and 0. */
export function spanOf(rows, name) {
  const ends = rows.flatMap((row) => [row.objectives[name].shift.low, row.objectives[name].shift.high]);
  return [Math.min(0, ...ends) - MARGIN, Math.max(0, ...ends) + MARGIN];
}

const share = (value, [low, high]) => (100 * (value - low)) / (high - low);

/** `onChoose` gets the weights of the point that was chosen. */
export function Front({ onChoose, onClose }) {
  const dialog = useRef(null);
  const names = state.server.objectives.map((each) => each.id);
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState(null);
  const [across, setAcross] = useState(names[0]);
  const [up, setUp] = useState(names[1]);
  useEffect(() => {
    dialog.current.showModal();
    getJson("/v1/evaluations").then((body) => setFound(body.data), setProblem);
  }, []);
  const report = found?.find((each) => each.rows.every((row) => row.objectives[across] && row.objectives[up]));
  const rows = report?.rows.filter((row) => Object.keys(row.setting.weights).every((name) => name === across || name === up));
  const pick = (value, set, other, label) => html`<label>${label} <select value=${value} onChange=${(event) => set(event.target.value)}>
    ${names.map((name) => html`<option value=${name} disabled=${name === other}>${name}</option>`)}</select></label>`;
  return html`<dialog class="wide" ref=${dialog} aria-labelledby="front-title" onClose=${onClose}>
    <h2 id="front-title">What the sliders were measured to do</h2>
    <div class="row">${pick(across, setAcross, up, "left to right")} ${pick(up, setUp, across, "upwards")}</div>
    ${problem && html`<div class="problem" role="alert"><b>${problem.message}</b>${problem.hint}</div>`}
    ${found && !report && html`<p>Nothing was measured of these two. <code>mavis evaluate --out DIR/evaluation.json</code> does it.</p>`}
    ${report && html`<p>Each point is one setting of these two sliders on ${report.prompts} prompts that nothing was trained on, ${report.samples} texts
      each; shifts of the measured rewards from the base's, in its standard deviations, with 95 % intervals. Choose one to set the sliders.</p>
      <${Points} rows=${rows} across=${across} up=${up} onChoose=${(row) => { dialog.current.close(); onChoose(row.setting.weights); }} />`}
    <form method="dialog"><button>Close</button></form>
  </dialog>`;
}

function Points({ rows, across, up, onChoose }) {
  const [horizontal, vertical] = [spanOf(rows, across), spanOf(rows, up)];
  const at = (row) => {
    const [x, y] = [row.objectives[across].shift, row.objectives[up].shift];
    return { x, y, left: share(x.value, horizontal), bottom: share(y.value, vertical) };
  };
  const bar = (style) => html`<i aria-hidden="true" style=${style}></i>`;
  return html`<div class="front" role="group" aria-label=${`Measured settings over ${across} and ${up}`}>
    ${bar({ left: `${share(0, horizontal)}%`, bottom: 0, width: "1px", height: "100%" })}
    ${bar({ bottom: `${share(0, vertical)}%`, left: 0, height: "1px", width: "100%" })}
    <small class="across">${across} →</small><small class="up">${up} ↑</small>
    ${rows.map((row) => {
      const { x, y, left, bottom } = at(row);
      const said = `${sentence(row.setting.weights)}: ${across} ${signed(x.value)}, ${up} ${signed(y.value)}, ${row.kl_nats.value.toFixed(1)} nats`;
      return html`
        ${bar({ left: `${share(x.low, horizontal)}%`, width: `${share(x.high, horizontal) - share(x.low, horizontal)}%`, bottom: `${bottom}%`, height: "1px" })}
        ${bar({ bottom: `${share(y.low, vertical)}%`, height: `${share(y.high, vertical) - share(y.low, vertical)}%`, left: `${left}%`, width: "1px" })}
        <button type="button" title=${said} aria-label=${said} style=${{ left: `${left}%`, bottom: `${bottom}%` }} onClick=${() => onChoose(row)}></button>`;
    })}
  </div>`;
}
