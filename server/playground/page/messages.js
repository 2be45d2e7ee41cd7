// The conversation's messages: what people wrote, and the columns of what was written back.

import { Chart } from "./chart.js";
import { place } from "./conversation.js";
import { state } from "./store.js";
import { sentence } from "./steering.js";
import { Cost, Formatted, Ribbon, Tokens } from "./text.js";
import { html, useState } from "./vendor/preact.js";

/** Which of several branches is shown, and the way to the others. */
function Branches({ conversation, node, onTurn, disabled }) {
  const { index, count } = place(conversation, node);
  if (count < 2) return null;
  return html`<span class="row" role="group" aria-label="Branches">
    <button type="button" class="quiet" disabled=${disabled} aria-label="Branch before" onClick=${() => onTurn(-1)}>‹</button>
    <small>${index + 1} of ${count}</small>
    <button type="button" class="quiet" disabled=${disabled} aria-label="Branch after" onClick=${() => onTurn(1)}>›</button>
  </span>`;
}

export function UserMessage({ conversation, node, actions, disabled }) {
  const [draft, setDraft] = useState(null);
  if (draft !== null) {
    const send = (event) => { event.preventDefault(); setDraft(null); actions.edit(node, draft); };
    return html`<li class="message user"><form onSubmit=${send}>
      <label class="visually-hidden" for=${`edit-${node.id}`}>Edit the message</label>
      <textarea id=${`edit-${node.id}`} rows="3" value=${draft} onInput=${(event) => setDraft(event.target.value)}></textarea>
      <div class="tools"><button type="button" class="quiet" onClick=${() => setDraft(null)}>Cancel</button>
        <button type="submit" class="primary" disabled=${disabled || !draft.trim()}>Send as a new branch</button></div>
    </form></li>`;
  }
  return html`<li class="message user">
    <div class="bubble">${node.content}</div>
    <div class="tools"><${Branches} conversation=${conversation} node=${node} disabled=${disabled} onTurn=${(step) => actions.turn(node, step)} />
      <button type="button" class="quiet" disabled=${disabled} onClick=${() => setDraft(node.content)}>Edit</button></div>
  </li>`;
}

export function AssistantMessage({ conversation, node, actions, disabled }) {
  const isWriting = node.texts.some((text) => text.status === "waiting" || text.status === "writing");
  return html`<li class="message assistant" aria-busy=${isWriting}>
    <div class="columns">${node.texts.map((text, index) => html`
      <${Column} key=${index} text=${text} title=${node.titles[index]} base=${node.titles.length > 1 ? node.texts[node.baseColumn] : null}
        onShare=${node.requests[index] && (() => actions.share(node, index))} onRetry=${() => actions.regenerate(node)} />`)}</div>
    <div class="tools">
      <${Branches} conversation=${conversation} node=${node} disabled=${disabled} onTurn=${(step) => actions.turn(node, step)} />
      ${isWriting
        ? html`<button type="button" onClick=${() => actions.stop(node)}>Stop</button>`
        : html`<button type="button" class="quiet" disabled=${disabled} onClick=${() => actions.regenerate(node)}>Write again</button>`}
    </div>
  </li>`;
}

function Column({ text, title, base, onShare, onRetry }) {
  const [view, setView] = useState("formatted");
  const [until, setUntil] = useState(null);
  const [charted, setCharted] = useState(false);
  const { objectives } = state.server;
  const bounds = Object.fromEntries(objectives.map((each) => [each.id, each.bounds]));
  const end = text.tokens.length ? text.tokens.at(-1).at + 1 : 0;
  const shown = until ?? Infinity;
  const isOver = text.status !== "waiting" && text.status !== "writing";
  const View = view === "formatted" ? Formatted : Tokens;
  const course = text.settings.length > 1 ? courseOf(text) : title;
  return html`<section class="column" aria-label=${course}>
    <h3>${course}</h3>
    ${text.status === "waiting" && html`<p class="waiting cursor">Reading</p>`}
    ${end > 0 && html`<div class=${text.status === "writing" ? "cursor" : ""}><${View} text=${text} until=${shown} label=${title} /></div>`}
    <${Ribbon} text=${text} bounds=${bounds} />
    <${Cost} text=${text} base=${base === text ? null : base} />
    ${charted && html`<${Chart} text=${text} names=${objectives.map((each) => each.id)} />`}
    ${until !== null && html`<div class="scrubber"><label for=${`until-${title}`}>token</label>
      <input id=${`until-${title}`} type="range" min="1" max=${end} value=${until} aria-valuetext=${`${until} of ${end}: ${sentence(heldAt(text, until))}`}
        onInput=${(event) => setUntil(event.target.valueAsNumber)} /><output>${until} of ${end}: ${sentence(heldAt(text, until))}</output></div>`}
    ${text.note && html`<p class="problem">${text.note}</p>`}
    ${text.error && html`<div class="problem" role="alert"><b>${text.error.message}</b>${text.error.hint} <button type="button" onClick=${onRetry}>Try again</button></div>`}
    ${text.status === "stopped" && html`<p class="cost">Stopped.</p>`}
    ${end > 0 && html`<div class="tools">
      <button type="button" class="quiet" aria-pressed=${view === "tokens"} onClick=${() => setView(view === "tokens" ? "formatted" : "tokens")}>Tokens</button>
      <button type="button" class="quiet" aria-pressed=${charted} onClick=${() => setCharted(!charted)}>Chart</button>
      ${isOver && html`<button type="button" class="quiet" aria-pressed=${until !== null} onClick=${() => setUntil(until === null ? end : null)}>Replay</button>
        ${onShare && html`<button type="button" class="quiet" onClick=${onShare}>Share</button>`}`}
    </div>`}
  </section>`;
}

/** The weights that held one after the other; of many the first, and how often they were changed. */
function courseOf(text) {
  const said = text.settings.map((setting) => sentence(setting.objective_weights)).filter((each, index, all) => each !== all[index - 1]);
  return said.length <= 3 ? said.join(", then ") : `${said[0]}, then moved ${said.length - 1} times, to ${said.at(-1)}`;
}

const heldAt = (text, until) => text.settings.findLast((setting) => setting.from_token < until)?.objective_weights ?? {};
